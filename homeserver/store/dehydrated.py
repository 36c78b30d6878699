"""Dehydrated devices (MSC3814): at most one a user, which takes messages while nobody is logged in.

It is a device among the user's others, with keys and an inbox but without a token. What it was sent stays where it is
when it is read: whoever reads may not come to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import bindparam, select

from homeserver.db.schema.accounts import devices
from homeserver.db.schema.e2ee import dehydrated_devices
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.device_keys import put_device_keys
from homeserver.store.device_life import check_alive
from homeserver.store.devices import Login, add_device, drop_devices, find_device
from homeserver.store.one_time_keys import NewKey, put_one_time_keys
from homeserver.store.to_device import Page, load_page

_D = dehydrated_devices.c
_ONE = statement(
    select(devices.c.device_id, _D.device_nid, _D.device_data)
    .select_from(dehydrated_devices.join(devices, devices.c.nid == _D.device_nid))
    .where(_D.user_nid == bindparam("user_nid"))
)
_PUT = rows(dehydrated_devices, "user_nid", "device_nid", "device_data")


class Dehydrated(NamedTuple):
    """A dehydrated device; ``device_data`` is JSON text."""

    device_id: str
    device_nid: int
    device_data: str


@dataclass(frozen=True, slots=True)
class NewDehydrated:
    """A dehydrated device as a client's device (``by_nid``) uploads it, with its keys."""

    by_nid: int
    device: Login
    device_data: str
    keys: str
    one_time: Sequence[NewKey]
    fallbacks: Sequence[NewKey]


class DeviceInUseError(Exception):
    """One of the user's other devices has this id."""


def load_dehydrated(tx: Tx, user_nid: int) -> Dehydrated | None:
    """A user's dehydrated device."""
    row = tx.one(_ONE, user_nid=user_nid)
    return None if row is None else Dehydrated(*row)


def put_dehydrated(tx: WriteTx, new: NewDehydrated) -> None:
    """Keep a dehydrated device in place of the one that there was.

    Raises NoDeviceError, DeviceInUseError and what ``add_device``, ``put_device_keys`` and ``put_one_time_keys`` raise.
    """
    device = new.device
    check_alive(tx, device.user_nid, new.by_nid)
    drop_dehydrated(tx, device.user_nid)
    if find_device(tx, device.user_nid, device.device_id) is not None:
        raise DeviceInUseError
    add_device(tx, device)
    tx.insert(_PUT, [(device.user_nid, device.device_nid, new.device_data)])
    put_device_keys(tx, device.user_nid, device.device_nid, new.keys)
    put_one_time_keys(tx, device.user_nid, device.device_nid, new.one_time, new.fallbacks)


def drop_dehydrated(tx: WriteTx, user_nid: int) -> str | None:
    """Delete a user's dehydrated device; its id, None where there is none."""
    known = load_dehydrated(tx, user_nid)
    if known is None:
        return None
    drop_devices(tx, user_nid, [known.device_id])
    return known.device_id


def load_dehydrated_messages(
    tx: Tx, user_nid: int, device_id: str, since: int, upto: int, most: int
) -> Page | None:
    """The oldest messages in ``(since, upto]``; None where the device is not the user's dehydrated one."""
    known = load_dehydrated(tx, user_nid)
    if known is None or known.device_id != device_id:
        return None
    return load_page(tx, known.device_nid, since, upto, most)
