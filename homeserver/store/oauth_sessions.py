"""Logins by OAuth, browsers where somebody is signed in, and grants that wait: rows that end with devices and accounts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import BindParameter, and_, bindparam, delete, select

from homeserver.db.schema.accounts import devices
from homeserver.db.schema.oauth import browser_sessions, oauth_codes, oauth_device_codes, oauth_sessions
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx

_S = oauth_sessions.c
_B = browser_sessions.c
_USER: BindParameter[int] = bindparam("user_nid")
_PUT = rows(
    oauth_sessions,
    "device_nid",
    "user_nid",
    "client_id",
    "scope",
    "family_hash",
    keys=("device_nid",),
    update=("client_id", "scope", "family_hash"),
)
_DROP = statement(delete(oauth_sessions).where(any_of(_S.device_nid, "nids")))
_COLUMNS = (_S.device_nid, _S.user_nid, _S.client_id, _S.scope, devices.c.device_id)
_FROM = oauth_sessions.join(devices, devices.c.nid == _S.device_nid)
_OF_DEVICE = statement(select(*_COLUMNS).select_from(_FROM).where(_S.device_nid == bindparam("device_nid")))
_OF_FAMILY = statement(select(*_COLUMNS).select_from(_FROM).where(_S.family_hash == bindparam("hash")))
_CLIENTS = statement(select(devices.c.device_id, _S.client_id).select_from(_FROM).where(_S.user_nid == _USER))
_DROP_CODES = statement(delete(oauth_codes).where(oauth_codes.c.user_nid == _USER))
_DROP_DEVICE_CODES = statement(delete(oauth_device_codes).where(oauth_device_codes.c.user_nid == _USER))

_INSERT_BROWSER = rows(browser_sessions, "hash", "user_nid", "begun_ts_ms", "expires_ts_ms")
_BROWSER = statement(
    select(_B.user_nid, _B.begun_ts_ms).where(
        and_(_B.hash == bindparam("hash"), _B.expires_ts_ms > bindparam("now_ms"))
    )
)
_SWEEP_BROWSERS = statement(delete(browser_sessions).where(_B.expires_ts_ms <= bindparam("now_ms")))
_DROP_BROWSER = statement(delete(browser_sessions).where(_B.hash == bindparam("hash")))
_DROP_BROWSERS = statement(delete(browser_sessions).where(_B.user_nid == _USER))


class OAuthSession(NamedTuple):
    """A device that logged in by OAuth."""

    device_nid: int
    user_nid: int
    client_id: str
    scope: str
    device_id: str


class Browser(NamedTuple):
    """Who is signed in with a browser, and since when."""

    user_nid: int
    begun_ts_ms: int


def put_oauth_session(
    tx: Tx, device_nid: int, user_nid: int, client_id: str, scope: str, family_hash: bytes
) -> None:
    """A device has logged in by OAuth."""
    tx.insert(_PUT, [(device_nid, user_nid, client_id, scope, family_hash)])


def drop_oauth_sessions(tx: Tx, device_nids: Sequence[int]) -> None:
    """Devices have logged in by the legacy API, or are gone."""
    tx.run(_DROP, nids=list(device_nids))


def find_oauth_session(tx: Tx, device_nid: int) -> OAuthSession | None:
    """By which app a device logged in; None: by the legacy API."""
    row = tx.one(_OF_DEVICE, device_nid=device_nid)
    return None if row is None else OAuthSession(*row)


def find_family(tx: Tx, family_hash: bytes) -> OAuthSession | None:
    """The login whose refresh tokens begin like this."""
    row = tx.one(_OF_FAMILY, hash=family_hash)
    return None if row is None else OAuthSession(*row)


def load_clients_of(tx: Tx, user_nid: int) -> dict[str, str]:
    """The ids of the apps by which a user's devices logged in, by the devices' ids."""
    return dict(tx.all(_CLIENTS, user_nid=user_nid))


def drop_user_grants(tx: Tx, user_nid: int) -> None:
    """What was allowed and is not used yet, and every browser: with the end of all logins."""
    tx.run(_DROP_CODES, user_nid=user_nid)
    tx.run(_DROP_DEVICE_CODES, user_nid=user_nid)
    tx.run(_DROP_BROWSERS, user_nid=user_nid)


# --- browsers ----------------------------------------------------------------------------------------


def store_browser(tx: WriteTx, token_hash: bytes, user_nid: int, now_ms: int, expires_ts_ms: int) -> None:
    """Somebody has signed in; what is over is forgotten."""
    tx.run(_SWEEP_BROWSERS, now_ms=now_ms)
    tx.insert(_INSERT_BROWSER, [(token_hash, user_nid, now_ms, expires_ts_ms)])


def find_browser(tx: Tx, token_hash: bytes, now_ms: int) -> Browser | None:
    """Who is signed in there."""
    row = tx.one(_BROWSER, hash=token_hash, now_ms=now_ms)
    return None if row is None else Browser(*row)


def drop_browser(tx: WriteTx, token_hash: bytes) -> None:
    """Signed out."""
    tx.run(_DROP_BROWSER, hash=token_hash)
