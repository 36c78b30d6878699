"""Profile fields of local users, each as JSON text. spec: client-server-api#profiles"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import BindParameter, and_, bindparam, delete, func, or_, select

from homeserver.db.schema.accounts import accounts, profiles
from homeserver.db.schema.sync import profile_changes
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind, weigh_json
from homeserver.store.open_accounts import is_open
from homeserver.store.work import short

# spec: client-server-api#put_matrixclientv3profileuseridkeyname ("the total profile MUST be under 64 KiB")
MAX_PROFILE_BYTES = 65_535
# LIMIT(fields of one user whose change is remembered, removed ones among them: whoever was away longer than that many
# changes reads the profile itself)
CHANGES_MOST = 200
# LIMIT(one read: of more changes than these, the newest)
LOADED_MOST = 5_000

_P = profiles.c
_USER: BindParameter[int] = bindparam("user_nid")
_ALL = statement(select(_P.field, _P.value).where(_P.user_nid == _USER).order_by(_P.field))
_MANY = statement(
    select(_P.user_nid, _P.field, _P.value).where(
        and_(any_of(_P.user_nid, "nids"), or_(_P.field == "displayname", _P.field == "avatar_url"))
    )
)
_PUT = rows(profiles, "user_nid", "field", "value", keys=("user_nid", "field"), update=("value",))
_DROP = statement(
    delete(profiles).where(and_(_P.user_nid == _USER, _P.field == bindparam("the_field"))).returning(_P.field)
)
# A row without a field where the profile is empty, and none where there is no account.
_OF_ACCOUNT = statement(
    select(_P.field, _P.value)
    .select_from(accounts.outerjoin(profiles, accounts.c.user_nid == _P.user_nid))
    .where(and_(accounts.c.user_nid == _USER, accounts.c.deactivated == 0))
    .order_by(_P.field)
)

_H = profile_changes.c
_PUT_CHANGE = rows(profile_changes, "user_nid", "field", "pos", keys=("user_nid", "field"), update=("pos",))
_COUNT_CHANGES = statement(select(func.count()).where(_H.user_nid == _USER))
_oldest = (
    select(_H.field).where(_H.user_nid == bindparam("the_user")).order_by(_H.pos).limit(1).scalar_subquery()
)
_DROP_OLDEST = statement(
    delete(profile_changes).where(and_(_H.user_nid == bindparam("the_user"), _H.field == _oldest))
)
_CHANGES = statement(
    select(_H.pos, _H.user_nid, _H.field)
    .where(and_(_H.pos > bindparam("since"), _H.pos <= bindparam("upto")))
    .order_by(_H.pos.desc())
    .limit(bindparam("most"))
)
_FIELDS = statement(
    select(_P.user_nid, _P.field, _P.value).where(any_of(_P.user_nid, "nids")).order_by(_P.user_nid, _P.field)
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class ProfileChanged:
    """Payload of ``Kind.PROFILE``; ``value`` is None where the field is gone (or null)."""

    user_nid: int
    field: str
    value: Any
    weight: int = 0  # see ``Change.weight``


class Changed(NamedTuple):
    """A field of a user's profile, and when it last changed."""

    pos: int
    user_nid: int
    field: str


class ProfileTooLargeError(Exception):
    """With this field the whole profile would be too large."""


def load_profile(tx: Tx, user_nid: int) -> dict[str, Any] | None:
    """Every field, or None where there is no such account (any more)."""
    found = tx.all(_OF_ACCOUNT, user_nid=user_nid)
    return {field: _decode(value) for field, value in found if field is not None} if found else None


def load_names_and_avatars(tx: Tx, user_nids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """``displayname`` and ``avatar_url`` of several users, for member events."""
    found: dict[int, dict[str, Any]] = {}
    for user_nid, field, value in tx.all(_MANY, nids=user_nids):
        found.setdefault(user_nid, {})[field] = _decode(value)
    return found


@short
def put_field(tx: WriteTx, user_nid: int, field: str, value: Any) -> None:
    """Set a field; nothing happens where it has that value already. Raises ProfileTooLargeError.

    Nor does it where the account has ended meanwhile, as if it had been set just before that.
    """
    if not is_open(tx, user_nid):
        return
    raw = _encode(value)
    text = raw.decode()
    present: dict[str, str] = dict(tx.all(_ALL, user_nid=user_nid))
    if present.get(field) == text:
        return
    present[field] = text
    # Each as `"field":value,`: the size of the compact object.
    size = 1 + sum(len(name) + 4 + len(kept.encode()) for name, kept in present.items())
    if size > MAX_PROFILE_BYTES:
        raise ProfileTooLargeError
    tx.insert(_PUT, [(user_nid, field, text)])
    _note(tx, ProfileChanged(user_nid, field, value, weigh_json(raw)))


def drop_field(tx: WriteTx, user_nid: int, field: str) -> None:
    """Remove a field; it need not be there."""
    if tx.value(_DROP, user_nid=user_nid, the_field=field) is not None:
        _note(tx, ProfileChanged(user_nid, field, None))


def _note(tx: WriteTx, changed: ProfileChanged) -> None:
    user_nid, field = changed.user_nid, changed.field

    def write(tx: Tx, pos: int) -> None:
        tx.insert(_PUT_CHANGE, [(user_nid, field, pos)])
        if tx.value(_COUNT_CHANGES, user_nid=user_nid) > CHANGES_MOST:
            tx.run(_DROP_OLDEST, the_user=user_nid)

    tx.claim(Kind.PROFILE, -user_nid, write=write, payload=changed)


def load_changes(tx: Tx, since: int, upto: int) -> list[Changed]:
    """Which fields of which users changed in ``(since, upto]``, the newest first; at most ``LOADED_MOST``."""
    return [Changed(*row) for row in tx.all(_CHANGES, since=since, upto=upto, most=LOADED_MOST)]


def load_fields(tx: Tx, user_nids: Collection[int]) -> dict[int, dict[str, str]]:
    """Every field of some users, as JSON text."""
    found: dict[int, dict[str, str]] = {}
    for user_nid, field, value in tx.all(_FIELDS, nids=list(user_nids)):
        found.setdefault(user_nid, {})[field] = value
    return found
