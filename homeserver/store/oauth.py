"""Grants: what somebody lets an app do becomes a login, once.

1. A code and a device code are exchanged once, within their time, by the app that they were made for.
2. Who comes with a code a second time, or with a refresh token that was replaced, may have stolen it: the login ends.

# spec: client-server-api#grant-types
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from sqlalchemy import BindParameter, and_, bindparam, delete, select, update

from homeserver.db.schema.accounts import accounts
from homeserver.db.schema.oauth import oauth_codes, oauth_device_codes
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.devices import Login, drop_devices, log_in
from homeserver.store.oauth_clients import note_client_used
from homeserver.store.oauth_sessions import OAuthSession, find_family, find_oauth_session, put_oauth_session
from homeserver.store.tokens import (
    NewTokens,
    RefreshRefusedError,
    Used,
    drop_access_token,
    find_refresh_device,
    load_holder,
    rotate_tokens,
)

_C = oauth_codes.c
_D = oauth_device_codes.c
_HASH: BindParameter[bytes] = bindparam("hash")
_INSERT = rows(
    oauth_codes,
    "hash",
    "client_id",
    "user_nid",
    "redirect_uri",
    "scope",
    "challenge",
    "nonce",
    "expires_ts_ms",
    "device_nid",
)
_SWEEP = statement(delete(oauth_codes).where(_C.expires_ts_ms <= bindparam("now_ms")))
_CODE = statement(
    select(
        _C.client_id,
        _C.user_nid,
        _C.redirect_uri,
        _C.scope,
        _C.challenge,
        _C.nonce,
        _C.expires_ts_ms,
        _C.device_nid,
    ).where(_C.hash == _HASH)
)
_USE = statement(
    update(oauth_codes).where(_C.hash == bindparam("the_hash")).values(device_nid=bindparam("the_device"))
)
_INSERT_DEVICE = rows(
    oauth_device_codes, "hash", "user_code", "client_id", "scope", "expires_ts_ms", "verdict", "user_nid"
)
_SWEEP_DEVICES = statement(delete(oauth_device_codes).where(_D.expires_ts_ms <= bindparam("now_ms")))
_DEVICE_COLUMNS = (_D.client_id, _D.scope, _D.expires_ts_ms, _D.verdict, _D.user_nid)
_DEVICE = statement(select(*_DEVICE_COLUMNS).where(_D.hash == _HASH))
_DEVICE_BY_CODE = statement(select(*_DEVICE_COLUMNS).where(_D.user_code == bindparam("user_code")))
_DECIDE = statement(
    update(oauth_device_codes)
    .where(
        and_(
            _D.user_code == bindparam("the_user_code"),
            _D.verdict == 0,
            _D.expires_ts_ms > bindparam("now_ms"),
        )
    )
    .values(verdict=bindparam("the_verdict"), user_nid=bindparam("the_user"))
    .returning(_D.verdict)
)
_DROP_DEVICE = statement(delete(oauth_device_codes).where(_D.hash == _HASH))
_IS_OPEN = statement(
    select(accounts.c.locked).where(
        and_(accounts.c.user_nid == bindparam("user_nid"), accounts.c.deactivated == 0)
    )
)


class Verdict(IntEnum):
    """What was said to a device that asks to be let in. Numbers are stored."""

    NONE = 0
    ALLOWED = 1
    REFUSED = 2


class CodeRow(NamedTuple):
    """What a code stands for."""

    client_id: str
    user_nid: int
    redirect_uri: str
    scope: str
    challenge: str
    nonce: str | None
    expires_ts_ms: int
    device_nid: int


class DeviceCodeRow(NamedTuple):
    """What a device code stands for."""

    client_id: str
    scope: str
    expires_ts_ms: int
    verdict: int
    user_nid: int


@dataclass(frozen=True, slots=True)
class Exchanged:
    """A login that was made."""

    user_nid: int
    device_nid: int
    client_id: str
    nonce: str | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """A login that is to be made of a grant: its device, and hashes of its tokens."""

    device_id: str
    device_nid: int  # if it is new
    display_name: str | None
    tokens: NewTokens
    family_hash: bytes
    now_ms: int


def store_code(tx: WriteTx, code_hash: bytes, row: CodeRow, now_ms: int) -> None:
    """Somebody has let an app in; codes that are over are forgotten."""
    tx.run(_SWEEP, now_ms=now_ms)
    tx.insert(_INSERT, [(code_hash, *row)])


def find_code(tx: Tx, code_hash: bytes) -> CodeRow | None:
    """What a code stands for, over or not."""
    row = tx.one(_CODE, hash=code_hash)
    return None if row is None else CodeRow(*row)


def exchange_code(tx: WriteTx, code_hash: bytes, client_id: str, opening: Opening) -> Exchanged | None:
    """Make a login of a code, whose verifier and address were checked; None where it is not, or no longer, good.

    Raises TooManyDevicesError and DeviceIdTakenError.
    """
    code = find_code(tx, code_hash)
    if code is None or code.client_id != client_id or code.expires_ts_ms <= opening.now_ms:
        return None
    if code.device_nid:
        # spec: RFC 6749 section 4.1.2 (used twice, it was stolen)
        session = find_oauth_session(tx, code.device_nid)
        if session is not None:
            drop_devices(tx, session.user_nid, [session.device_id])
        return None
    device_nid = _open(tx, code.user_nid, client_id, code.scope, opening)
    if device_nid is None:
        return None
    tx.run(_USE, the_hash=code_hash, the_device=device_nid)
    return Exchanged(code.user_nid, device_nid, client_id, code.nonce)


def _open(tx: WriteTx, user_nid: int, client_id: str, scope: str, opening: Opening) -> int | None:
    if tx.value(_IS_OPEN, user_nid=user_nid) != 0:
        return None  # locked, or ended
    login = Login(user_nid, opening.device_id, opening.device_nid, opening.display_name, opening.now_ms)
    device_nid = log_in(tx, login, opening.tokens)
    put_oauth_session(tx, device_nid, user_nid, client_id, scope, opening.family_hash)
    note_client_used(tx, client_id, opening.now_ms)
    return device_nid


# --- devices without a browser -----------------------------------------------------------------------


def store_device_code(tx: WriteTx, code_hash: bytes, user_code: str, row: DeviceCodeRow, now_ms: int) -> None:
    """A device asks to be let in; what is over is forgotten. IntegrityViolation where the user code is in use."""
    tx.run(_SWEEP_DEVICES, now_ms=now_ms)
    tx.insert(_INSERT_DEVICE, [(code_hash, user_code, *row)])


def find_device_code(tx: Tx, code_hash: bytes) -> DeviceCodeRow | None:
    """By the code that the device has."""
    row = tx.one(_DEVICE, hash=code_hash)
    return None if row is None else DeviceCodeRow(*row)


def find_user_code(tx: Tx, user_code: str) -> DeviceCodeRow | None:
    """By the code that somebody reads from it."""
    row = tx.one(_DEVICE_BY_CODE, user_code=user_code)
    return None if row is None else DeviceCodeRow(*row)


def decide(tx: WriteTx, user_code: str, user_nid: int, verdict: Verdict, now_ms: int) -> bool:
    """Let a device in, or not; whether there was something to decide."""
    found = tx.value(
        _DECIDE, the_user_code=user_code, the_user=user_nid, the_verdict=int(verdict), now_ms=now_ms
    )
    return found is not None


def exchange_device_code(tx: WriteTx, code_hash: bytes, client_id: str, opening: Opening) -> Exchanged | None:
    """Make a login of a device code that somebody has allowed; None where it is not, or no longer, good.

    Raises TooManyDevicesError and DeviceIdTakenError.
    """
    code = find_device_code(tx, code_hash)
    if code is None or code.client_id != client_id or code.expires_ts_ms <= opening.now_ms:
        return None
    if code.verdict != Verdict.ALLOWED:
        return None
    device_nid = _open(tx, code.user_nid, client_id, code.scope, opening)
    tx.run(_DROP_DEVICE, hash=code_hash)
    return None if device_nid is None else Exchanged(code.user_nid, device_nid, client_id)


def drop_device_code(tx: WriteTx, code_hash: bytes) -> None:
    """The device was told that it is refused."""
    tx.run(_DROP_DEVICE, hash=code_hash)


# --- tokens ------------------------------------------------------------------------------------------


def refresh(
    tx: WriteTx,
    refresh_hash: bytes,
    family_hash: bytes,
    client_id: str,
    seed: bytes,
    tokens: NewTokens,
    now_ms: int,
) -> tuple[OAuthSession, Used] | None:
    """Use a refresh token; None where it is not good. One that was replaced long ago ends its login."""
    session = find_family(tx, family_hash)
    if session is None or session.client_id != client_id:
        return None
    try:
        # While the account is locked the tokens open nothing. But an app to which they were refused would forget its keys.
        # spec: client-server-api#account-locking, client-server-api#refresh-token-grant
        used = rotate_tokens(tx, refresh_hash, seed, tokens, now_ms, even_locked=True)
    except RefreshRefusedError as refused:
        if not refused.expired:
            drop_devices(tx, session.user_nid, [session.device_id])
        return None
    return session, used


def refresh_legacy(tx: WriteTx, refresh_hash: bytes, seed: bytes, tokens: NewTokens, now_ms: int) -> Used:
    """Use a refresh token of the legacy API. Raises RefreshRefusedError, also for those of OAuth, or AccountLockedError.

    A token that was given here for one of OAuth would be in no family, and bound to no app.
    """
    used = rotate_tokens(tx, refresh_hash, seed, tokens, now_ms)
    if find_oauth_session(tx, used.device_nid) is not None:
        raise RefreshRefusedError(expired=False)  # which undoes it
    return used


def revoke(tx: WriteTx, token_hash: bytes) -> None:
    """End the login that a token, of either kind, belongs to; unknown ones are passed over.

    By whichever API it began: an app may let somebody back in by a password, and still ends that login here.
    """
    found = load_holder(tx, token_hash)
    if found is None:
        refreshed = find_refresh_device(tx, token_hash)
        if refreshed is not None:
            drop_devices(tx, refreshed[0], [refreshed[1]])
        return
    holder, _ = found
    if holder.device_id is not None:
        drop_devices(tx, holder.user_nid, [holder.device_id])
    else:
        drop_access_token(tx, token_hash, holder.user_nid)
