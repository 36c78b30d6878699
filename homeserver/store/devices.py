"""Devices: one row for each login of a user. spec: client-server-api#device-management"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import BindParameter, and_, bindparam, delete, func, select, update

from homeserver.db.schema.accounts import devices
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.cross_signing import is_signing_key
from homeserver.store.device_keys import drop_devices_keys, note_awake, note_renamed
from homeserver.store.oauth_sessions import drop_oauth_sessions, drop_user_grants
from homeserver.store.pushers import drop_device_pushers
from homeserver.store.sliding import drop_connections
from homeserver.store.tokens import (
    Holder,
    NewTokens,
    drop_device_tokens,
    drop_user_tokens,
    load_holder,
    store_tokens,
)

_D = devices.c
_USER: BindParameter[int] = bindparam("user_nid")
_COLUMNS = (_D.nid, _D.device_id, _D.display_name, _D.last_seen_ts_ms, _D.last_seen_ip, _D.user_agent)

_INSERT = rows(devices, "nid", "user_nid", "device_id", "display_name", "created_ts_ms")
_NID = statement(select(_D.nid).where(and_(_D.user_nid == _USER, _D.device_id == bindparam("device_id"))))
_ONE = statement(select(*_COLUMNS).where(and_(_D.user_nid == _USER, _D.device_id == bindparam("device_id"))))
_ALL = statement(select(*_COLUMNS).where(_D.user_nid == _USER).order_by(_D.nid))
_COUNT = statement(select(func.count()).select_from(devices).where(_D.user_nid == _USER))
_SOME = statement(
    select(_D.nid, _D.device_id).where(and_(_D.user_nid == _USER, any_of(_D.device_id, "device_ids")))
)
_ALL_NIDS = statement(select(_D.nid, _D.device_id).where(_D.user_nid == _USER))
_RENAME = statement(
    update(devices)
    .where(and_(_D.user_nid == _USER, _D.device_id == bindparam("the_device_id")))
    .values(display_name=bindparam("display_name"))
    .returning(_D.nid)
)
_DROP = statement(delete(devices).where(any_of(_D.nid, "nids")))
_SEEN = statement(
    update(devices)
    .where(_D.nid == bindparam("device_nid"))
    .values(
        last_seen_ts_ms=bindparam("seen_ts_ms"),
        last_seen_ip=bindparam("seen_ip"),
        user_agent=bindparam("seen_user_agent"),
    )
)

# LIMIT(sizes of key uploads and device lists grow with it; a person's devices do not come near)
MAX_DEVICES_PER_USER = 1000


class Device(NamedTuple):
    """A device as its user may see it, with when and from where it was last used: None where it never was."""

    nid: int
    device_id: str
    display_name: str | None
    last_seen_ts_ms: int | None
    last_seen_ip: str | None
    user_agent: str | None

    def used(self, seen: Seen | None) -> Device:
        """The same with a use that is not written down yet."""
        if seen is None or seen.ts_ms < (self.last_seen_ts_ms or 0):
            return self
        return self._replace(last_seen_ts_ms=seen.ts_ms, last_seen_ip=seen.ip, user_agent=seen.user_agent)


@dataclass(frozen=True, slots=True)
class DevicesChanged:
    """Payload of ``Kind.DEVICES`` where devices themselves came, went or were renamed (else the payload is None).

    Without ``removed``, every token that there was is as good as before.
    """

    user_nid: int
    changed: tuple[str, ...] = ()
    removed: tuple[tuple[int, str], ...] = ()
    token: tuple[bytes, Holder] | None = None  # the access token that a new device came with, by its hash


@dataclass(frozen=True, slots=True)
class Seen:
    """When and from where a device was last used."""

    device_nid: int
    ts_ms: int
    ip: str
    user_agent: str


class TooManyDevicesError(Exception):
    """The user has as many devices as a user may have."""


class DeviceIdTakenError(Exception):
    """The device would be called as one of the user's cross-signing keys."""


@dataclass(frozen=True, slots=True)
class Login:
    """A device that logs in: ``device_nid`` is its number if it is new."""

    user_nid: int
    device_id: str
    device_nid: int
    display_name: str | None
    now_ms: int


def log_in(tx: WriteTx, login: Login, tokens: NewTokens) -> int:
    """Give tokens to a device, new or known, and end those that it had. Returns the device's number.

    Raises TooManyDevicesError and DeviceIdTakenError.
    """
    # spec: client-server-api#relationship-between-access-tokens-and-devices
    known = find_device(tx, login.user_nid, login.device_id)
    if known is not None:
        note_awake(tx, known)
        drop_device_tokens(tx, [known])
        drop_oauth_sessions(tx, [known])
        store_tokens(tx, login.user_nid, known, tokens)
        tx.claim(Kind.DEVICES, -login.user_nid, known)
        return known
    add_device(tx, login, tokens)
    return login.device_nid


def find_device(tx: Tx, user_nid: int, device_id: str) -> int | None:
    """The number of a device."""
    known: int | None = tx.value(_NID, user_nid=user_nid, device_id=device_id)
    return known


def add_device(tx: WriteTx, login: Login, tokens: NewTokens | None = None) -> None:
    """A device that is new. Raises TooManyDevicesError and DeviceIdTakenError."""
    if tx.value(_COUNT, user_nid=login.user_nid) >= MAX_DEVICES_PER_USER:
        raise TooManyDevicesError
    # spec: client-server-api#cross-signing (device ids and public keys share one namespace)
    if is_signing_key(tx, login.user_nid, login.device_id):
        raise DeviceIdTakenError
    row = (login.device_nid, login.user_nid, login.device_id, login.display_name, login.now_ms)
    tx.insert(_INSERT, [row])
    token = None
    if tokens is not None:
        store_tokens(tx, login.user_nid, login.device_nid, tokens)
        found = load_holder(tx, tokens.access_hash)
        token = None if found is None else (tokens.access_hash, found[0])
    payload = DevicesChanged(login.user_nid, changed=(login.device_id,), token=token)
    tx.claim(Kind.DEVICES, -login.user_nid, login.device_nid, payload=payload)


def put_device(tx: WriteTx, device: Login, *, keep_name: bool) -> bool:
    """Make a device without tokens, or name one that is there (not with ``keep_name``); whether it is new.

    Raises TooManyDevicesError and DeviceIdTakenError.
    """
    # spec: application-service-api#device-management
    if keep_name and find_device(tx, device.user_nid, device.device_id) is not None:
        return False
    if not keep_name and rename_device(tx, device.user_nid, device.device_id, device.display_name):
        return False
    add_device(tx, device)
    return True


def load_device(tx: Tx, user_nid: int, device_id: str) -> Device | None:
    """One device."""
    row = tx.one(_ONE, user_nid=user_nid, device_id=device_id)
    return None if row is None else Device(*row)


def load_devices(tx: Tx, user_nid: int) -> list[Device]:
    """Every device of a user, oldest first."""
    return [Device(*row) for row in tx.all(_ALL, user_nid=user_nid)]


def rename_device(tx: WriteTx, user_nid: int, device_id: str, display_name: str | None) -> bool:
    """Whether there is such a device."""
    nid = tx.value(_RENAME, user_nid=user_nid, the_device_id=device_id, display_name=display_name)
    if nid is None:
        return False
    tx.claim(Kind.DEVICES, -user_nid, nid, payload=DevicesChanged(user_nid, changed=(device_id,)))
    note_renamed(tx, user_nid, nid, device_id)
    return True


def drop_devices(tx: WriteTx, user_nid: int, device_ids: Sequence[str]) -> None:
    """Delete devices and everything that they could log in with; unknown ones are passed over."""
    _drop(
        tx, user_nid, [(nid, name) for nid, name in tx.all(_SOME, user_nid=user_nid, device_ids=device_ids)]
    )


def drop_all_devices(tx: WriteTx, user_nid: int, keep_device_nid: int = 0) -> None:
    """Delete a user's devices and all else that they could log in with, but perhaps one device and its tokens."""
    found = [(nid, name) for nid, name in tx.all(_ALL_NIDS, user_nid=user_nid) if nid != keep_device_nid]
    drop_user_grants(tx, user_nid)
    drop_user_tokens(tx, user_nid, keep_device_nid)
    if found:
        _drop(tx, user_nid, found)
    else:
        tx.claim(Kind.DEVICES, -user_nid)  # tokens of no device are in memory, too: see accounts/auth.py


def _drop(tx: WriteTx, user_nid: int, found: list[tuple[int, str]]) -> None:
    if not found:
        return
    nids = [nid for nid, _ in found]
    drop_device_tokens(tx, nids)
    drop_oauth_sessions(tx, nids)
    tx.run(_DROP, nids=nids)
    tx.claim(Kind.DEVICES, -user_nid, payload=DevicesChanged(user_nid, removed=tuple(found)))
    drop_devices_keys(tx, user_nid, dict(found))
    drop_device_pushers(tx, user_nid, nids)
    drop_connections(tx, nids)


def store_last_seen(tx: WriteTx, seen: Sequence[Seen]) -> None:
    """When devices were last used; nobody follows it, so it takes no position."""
    for one in seen:
        tx.run(
            _SEEN,
            device_nid=one.device_nid,
            seen_ts_ms=one.ts_ms,
            seen_ip=one.ip,
            seen_user_agent=one.user_agent,
        )
