"""Identity keys of devices of this server.

What is stored is canonical JSON without ``unsigned``, at most ``MAX_KEYS_BYTES``. Signatures that came later are
merged in when it is read (``store/cross_signing.py``).

# spec: client-server-api#device-keys
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, select

from homeserver.db.schema.accounts import devices
from homeserver.db.schema.e2ee import dehydrated_devices, device_keys, device_transactions, to_device
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.cross_signing import drop_signatures_of_devices, drop_signatures_on, say_the_same
from homeserver.store.device_life import check_alive
from homeserver.store.device_lists import MAX_LIST_LENGTH, note_list_change
from homeserver.store.one_time_keys import drop_one_time_keys

_K = device_keys.c
_ONE = statement(select(_K.json).where(_K.device_nid == bindparam("device_nid")))
_PUT = rows(device_keys, "device_nid", "user_nid", "json", keys=("device_nid",), update=("json",))
_OTHERS = statement(
    select(func.coalesce(func.sum(func.length(_K.json)), 0)).where(
        and_(_K.user_nid == bindparam("user_nid"), _K.device_nid != bindparam("device_nid"))
    )
)
_OF_USERS = statement(
    select(_K.user_nid, _K.device_nid, devices.c.device_id, devices.c.display_name, _K.json)
    .select_from(device_keys.join(devices, devices.c.nid == _K.device_nid))
    .where(any_of(_K.user_nid, "user_nids"))
    .order_by(_K.device_nid)
)
_HAVE = statement(select(_K.device_nid).where(any_of(_K.device_nid, "nids")))
_DROP = statement(delete(device_keys).where(any_of(_K.device_nid, "nids")))
_DROP_INBOX = statement(delete(to_device).where(any_of(to_device.c.device_nid, "nids")))
_DROP_TRANSACTIONS = statement(
    delete(device_transactions).where(any_of(device_transactions.c.device_nid, "nids"))
)
_DROP_DEHYDRATED = statement(
    delete(dehydrated_devices).where(any_of(dehydrated_devices.c.device_nid, "nids"))
)


class ListTooLongError(Exception):
    """The keys of all of the user's devices would be too much for whoever asks for them."""


class DeviceKeys(NamedTuple):
    """A device with identity keys (their JSON text)."""

    user_nid: int
    device_nid: int
    device_id: str
    display_name: str | None
    json: str


def load_own_keys(tx: Tx, device_nid: int) -> str | None:
    """What a device uploaded."""
    keys: str | None = tx.value(_ONE, device_nid=device_nid)
    return keys


def load_device_keys(tx: Tx, user_nids: Collection[int]) -> list[DeviceKeys]:
    """Every device with keys of some users."""
    return [DeviceKeys(*row) for row in tx.all(_OF_USERS, user_nids=list(user_nids))]


def put_device_keys(tx: WriteTx, user_nid: int, device_nid: int, keys: str) -> bool:
    """Store a device's identity keys; whether they are new. Raises NoDeviceError and ListTooLongError."""
    device_id = check_alive(tx, user_nid, device_nid)
    old = load_own_keys(tx, device_nid)
    if old == keys:
        return False
    others = tx.value(_OTHERS, user_nid=user_nid, device_nid=device_nid)
    if others + len(keys) > MAX_LIST_LENGTH:
        raise ListTooLongError
    if old is not None and not say_the_same(old, keys):
        # They spoke of other keys.
        drop_signatures_on(tx, user_nid, [device_id])
    tx.insert(_PUT, [(device_nid, user_nid, keys)])
    note_list_change(tx, user_nid, [device_id])
    return True


def note_renamed(tx: WriteTx, user_nid: int, device_nid: int, device_id: str) -> None:
    """A device has another name, which others see beside its keys."""
    if load_own_keys(tx, device_nid) is not None:
        note_list_change(tx, user_nid, [device_id])


def drop_devices_keys(tx: WriteTx, user_nid: int, gone: Mapping[int, str]) -> None:
    """Devices (nid -> id) are gone: their keys, what waits for them, and what was signed about or by them."""
    nids = list(gone)
    had = tx.column(_HAVE, nids=nids)
    tx.run(_DROP, nids=nids)
    tx.run(_DROP_INBOX, nids=nids)
    tx.run(_DROP_TRANSACTIONS, nids=nids)
    tx.run(_DROP_DEHYDRATED, nids=nids)
    drop_one_time_keys(tx, nids)
    drop_signatures_of_devices(tx, user_nid, list(gone.values()))
    if had:
        note_list_change(tx, user_nid, [gone[nid] for nid in sorted(had)])


def note_awake(tx: WriteTx, device_nid: int) -> None:
    """Somebody logs in as this device: it is none that waits to be brought to life."""
    tx.run(_DROP_DEHYDRATED, nids=[device_nid])
