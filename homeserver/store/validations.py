"""Attempts to prove that a mail address is one's own. spec: client-server-api#post_matrixclientv3registeremailrequesttoken"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, select, update

from homeserver.db.schema.threepids import validations
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx, WriteTx

_V = validations.c
MAX_WRONG_TOKENS = 20
# LIMIT(each has had a letter written, and letters are rate-limited: this is far more than a person begins)
MAX_PER_ADDRESS = 50


class Purpose(IntEnum):
    """What the proof is good for; stored."""

    REGISTER = 1
    ADD = 2
    PASSWORD = 3


class Validation(NamedTuple):
    """One attempt."""

    sid: str
    purpose: int
    address: str
    client_secret: str
    send_attempt: int
    token_hash: bytes
    wrong_tokens: int
    next_link: str | None
    validated_ts_ms: int | None
    expires_ts_ms: int


class TooManyValidationsError(Exception):
    """The address has been tried too often."""


class ProofUsedUpError(Exception):
    """Another request was faster."""


_COLUMNS = tuple(validations.c)
_BY_SID = statement(select(*_COLUMNS).where(_V.sid == bindparam("sid")))
_BY_CLIENT = statement(
    select(*_COLUMNS).where(
        and_(
            _V.address == bindparam("address"),
            _V.client_secret == bindparam("client_secret"),
            _V.purpose == bindparam("purpose"),
        )
    )
)
_COUNT = statement(select(func.count()).select_from(validations).where(_V.address == bindparam("address")))
_INSERT = rows(validations, *Validation._fields)
_RENEW = statement(
    update(validations)
    .where(_V.sid == bindparam("the_sid"))
    .values(
        send_attempt=bindparam("attempt"),
        token_hash=bindparam("new_hash"),
        next_link=bindparam("link"),
        expires_ts_ms=bindparam("expires_at"),
    )
)
_WRONG = statement(
    update(validations)
    .where(_V.sid == bindparam("the_sid"))
    .values(wrong_tokens=_V.wrong_tokens + 1)
    .returning(_V.wrong_tokens)
)
_VALIDATE = statement(
    update(validations)
    .where(_V.sid == bindparam("the_sid"))
    .values(validated_ts_ms=bindparam("now_ms"), expires_ts_ms=bindparam("expires_at"))
)
_DROP = statement(delete(validations).where(_V.sid == bindparam("sid")).returning(_V.sid))
_over = (
    select(_V.sid)
    .where(_V.expires_ts_ms <= bindparam("now_ms"))
    .order_by(_V.expires_ts_ms)
    .limit(bindparam("most"))
)
_SWEEP = statement(delete(validations).where(_V.sid.in_(_over)).returning(_V.sid))


def is_letter_due(tx: Tx, wanted: Validation, now_ms: int) -> bool:
    """Whether ``begin`` would want a letter to be sent."""
    known = _find_same(tx, wanted)
    return known is None or known.expires_ts_ms <= now_ms or _is_next(wanted, known)


def _find_same(tx: Tx, wanted: Validation) -> Validation | None:
    key = {"address": wanted.address, "client_secret": wanted.client_secret, "purpose": wanted.purpose}
    row = tx.one(_BY_CLIENT, **key)
    return None if row is None else Validation(*row)


def _is_next(wanted: Validation, known: Validation) -> bool:
    return wanted.send_attempt > known.send_attempt and known.validated_ts_ms is None


def begin(tx: WriteTx, wanted: Validation, now_ms: int) -> tuple[str, bool]:
    """The attempt's id, and whether a letter is to be sent: not for a ``send_attempt`` that was seen already.

    Raises TooManyValidationsError.
    """
    tx.run(_SWEEP, now_ms=now_ms, most=1000)
    known = _find_same(tx, wanted)
    if known is None:
        if tx.value(_COUNT, address=wanted.address) >= MAX_PER_ADDRESS:
            raise TooManyValidationsError
        tx.insert(_INSERT, [tuple(wanted)])
        return wanted.sid, True
    if not _is_next(wanted, known):
        return known.sid, False
    tx.run(
        _RENEW,
        the_sid=known.sid,
        attempt=wanted.send_attempt,
        new_hash=wanted.token_hash,
        link=wanted.next_link,
        expires_at=wanted.expires_ts_ms,
    )
    return known.sid, True


def find(tx: Tx, sid: str, client_secret: str, now_ms: int) -> Validation | None:
    """An attempt that is not over, for who knows its secret."""
    row = tx.one(_BY_SID, sid=sid)
    found = None if row is None else Validation(*row)
    if found is None or found.client_secret != client_secret or found.expires_ts_ms <= now_ms:
        return None
    return found


def submit(
    tx: WriteTx, sid: str, client_secret: str, token_hash: bytes, now_ms: int, expires_ts_ms: int
) -> Validation | None:
    """The attempt whose letter had this token: it is validated with that. None for any other token."""
    found = find(tx, sid, client_secret, now_ms)
    if found is None or found.wrong_tokens >= MAX_WRONG_TOKENS:
        return None
    if bytes(found.token_hash) != token_hash:
        tx.value(_WRONG, the_sid=sid)
        return None
    if found.validated_ts_ms is None:
        tx.run(_VALIDATE, the_sid=sid, now_ms=now_ms, expires_at=expires_ts_ms)
    return found


def use_up(tx: WriteTx, sid: str) -> bool:
    """A proof is good for one thing; whether it was still there."""
    return tx.value(_DROP, sid=sid) is not None


def sweep(tx: WriteTx, now_ms: int, most: int) -> int:
    """Forget attempts that are over; how many."""
    return len(tx.all(_SWEEP, now_ms=now_ms, most=most))
