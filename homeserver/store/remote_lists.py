"""Device lists of users of other servers, as far as this server keeps them.

A list is used while it is not stale and while its server has had reason to tell us of every change since ``pos``: that
is decided by who shares rooms (``homeserver/e2ee/remote.py``).

# spec: server-server-api#device-management
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, select, update

from homeserver.db.schema.e2ee import remote_devices, remote_lists
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.cross_signing import (
    SigningKey,
    load_signing_keys,
    put_foreign_keys,
    replace_foreign_keys,
)
from homeserver.store.device_lists import (
    MAX_LIST_LENGTH,
    has_changed,
    note_list_change,
    note_signing_change,
)

# LIMIT(a server that says that one user has more devices is not believed)
MAX_DEVICES = 1_000

_L = remote_lists.c
_D = remote_devices.c
_LISTS = statement(
    select(_L.user_nid, _L.stream_id, _L.stale, _L.pos).where(any_of(_L.user_nid, "user_nids"))
)
_PUT_LIST = rows(
    remote_lists,
    "user_nid",
    "stream_id",
    "stale",
    "pos",
    keys=("user_nid",),
    update=("stream_id", "stale", "pos"),
)
_MARK = statement(update(remote_lists).where(_L.user_nid == bindparam("of_user")).values(stale=1))
_MOVE = statement(
    update(remote_lists).where(_L.user_nid == bindparam("of_user")).values(stream_id=bindparam("new_id"))
)
_DEVICES = statement(
    select(_D.user_nid, _D.device_id, _D.json, _D.display_name)
    .where(any_of(_D.user_nid, "user_nids"))
    .order_by(_D.user_nid, _D.device_id)
)
_OTHERS = statement(
    select(func.count(), func.coalesce(func.sum(func.length(_D.json)), 0)).where(
        and_(_D.user_nid == bindparam("user_nid"), _D.device_id != bindparam("device_id"))
    )
)
_PUT_DEVICE = rows(
    remote_devices,
    "user_nid",
    "device_id",
    "json",
    "display_name",
    keys=("user_nid", "device_id"),
    update=("json", "display_name"),
)
_DROP_DEVICE = statement(
    delete(remote_devices).where(
        and_(_D.user_nid == bindparam("of_user"), _D.device_id == bindparam("the_device"))
    )
)
_DROP_DEVICES = statement(delete(remote_devices).where(_D.user_nid == bindparam("of_user")))


class RemoteList(NamedTuple):
    """What is known of a list; ``pos`` is our position when it was asked for."""

    user_nid: int
    stream_id: int
    stale: bool
    pos: int


class RemoteDevice(NamedTuple):
    """A device of another server's user, with the JSON text of its keys."""

    user_nid: int
    device_id: str
    json: str
    display_name: str | None


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole list, as its server gave it."""

    user_nid: int
    stream_id: int  # 0: the answer did not say
    asked_pos: int
    devices: Sequence[RemoteDevice]
    keys: Sequence[SigningKey]


@dataclass(frozen=True, slots=True)
class Update:
    """One change that another server tells; ``device`` None: the device is gone, or has no keys."""

    user_nid: int
    device_id: str
    stream_id: int
    prev_ids: Sequence[int]
    device: RemoteDevice | None


def believed(devices: Sequence[RemoteDevice]) -> Sequence[RemoteDevice]:
    """As many of a list's devices as one user may have, and as large ones."""
    length = 0
    for number, device in enumerate(devices[:MAX_DEVICES]):
        length += len(device.json)
        if length > MAX_LIST_LENGTH:
            return devices[:number]
    return devices[:MAX_DEVICES]


def load_remote_lists(tx: Tx, user_nids: Collection[int]) -> dict[int, RemoteList]:
    """What is known of the lists of users."""
    found = tx.all(_LISTS, user_nids=list(user_nids))
    return {row[0]: RemoteList(row[0], row[1], bool(row[2]), row[3]) for row in found}


def load_remote_devices(tx: Tx, user_nids: Collection[int]) -> list[RemoteDevice]:
    """The devices of users."""
    return [RemoteDevice(*row) for row in tx.all(_DEVICES, user_nids=list(user_nids))]


def store_list(tx: WriteTx, fetched: Fetched) -> bool:
    """Keep a list that was fetched; whether it may be used from now on.

    Whoever heard meanwhile, or earlier in this transaction, that something has changed is right, and the answer may be older
    than that. Clients hear of it where the keys are others than those that they were told before.
    """
    user_nid = fetched.user_nid
    stale = has_changed(tx, user_nid, since=fetched.asked_pos)
    was_kept = user_nid in load_remote_lists(tx, [user_nid])
    before = _look(tx, user_nid) if was_kept else None
    tx.run(_DROP_DEVICES, of_user=user_nid)
    tx.insert(_PUT_DEVICE, [tuple(one) for one in believed(fetched.devices)])
    replace_foreign_keys(tx, user_nid, fetched.keys)
    tx.insert(_PUT_LIST, [(user_nid, fetched.stream_id, int(stale), fetched.asked_pos)])
    if before is not None and before != _look(tx, user_nid):
        note_list_change(tx, user_nid, [""], keep=1)
    return not stale


def _look(tx: Tx, user_nid: int) -> tuple[object, object]:
    keys = load_signing_keys(tx, [user_nid]).get(user_nid, {})
    return load_remote_devices(tx, [user_nid]), keys


def apply_update(tx: WriteTx, change: Update) -> bool:
    """Apply one change of a list. False: something was missed, and the list must be fetched."""
    user_nid = change.user_nid
    known = load_remote_lists(tx, [user_nid]).get(user_nid)
    if known is None:
        # Nobody asked yet, or what was asked is not kept. Clients may know more than we keep.
        note_list_change(tx, user_nid, [""], keep=1)
        return True
    # COMPAT(Conduit and its descendants: what follows nothing asks us to fetch the list, whatever its number)
    if change.prev_ids and not known.stale and known.stream_id and change.stream_id <= known.stream_id:
        return True  # said before
    follows = bool(change.prev_ids) and all(prev <= known.stream_id for prev in change.prev_ids)
    if known.stale or not known.stream_id or not follows or not _has_room(tx, change):
        tx.run(_MARK, of_user=user_nid)
        note_list_change(tx, user_nid, [""], keep=1)
        return False
    if change.device is None:
        tx.run(_DROP_DEVICE, of_user=user_nid, the_device=change.device_id)
    else:
        tx.insert(_PUT_DEVICE, [tuple(change.device)])
    tx.run(_MOVE, of_user=user_nid, new_id=change.stream_id)
    note_list_change(tx, user_nid, [""], keep=1)
    return True


def _has_room(tx: Tx, change: Update) -> bool:
    if change.device is None:
        return True
    others = tx.one(_OTHERS, user_nid=change.user_nid, device_id=change.device_id)
    count, length = others or (0, 0)
    return bool(count < MAX_DEVICES and length + len(change.device.json) <= MAX_LIST_LENGTH)


def apply_signing_keys(tx: WriteTx, user_nid: int, keys: Sequence[SigningKey]) -> None:
    """Another server says that its user has other cross-signing keys."""
    if user_nid in load_remote_lists(tx, [user_nid]):
        known = load_signing_keys(tx, [user_nid]).get(user_nid, {})
        if all(known.get(one.usage) == one for one in keys):
            return
        put_foreign_keys(tx, keys)
    note_signing_change(tx, user_nid, keep=1)
