"""Whether a device is still there: what it leaves behind it must not come after its end."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, select

from homeserver.db.schema.accounts import devices
from homeserver.db.statements import statement
from homeserver.db.tx import Ask, Tx

_IS_ALIVE = statement(
    select(devices.c.device_id).where(
        and_(devices.c.nid == bindparam("device_nid"), devices.c.user_nid == bindparam("user_nid"))
    )
)


class NoDeviceError(Exception):
    """The device has been logged out meanwhile."""


def check_alive(tx: Tx, user_nid: int, device_nid: int) -> str:
    """The device's id. Raises NoDeviceError."""
    found = tx.ask(ask_alive(user_nid, device_nid))
    if not found:
        raise NoDeviceError
    device_id: str = found[0][0]
    return device_id


def ask_alive(user_nid: int, device_nid: int) -> Ask:
    """What :func:`check_alive` asks."""
    return Ask(_IS_ALIVE, {"device_nid": device_nid, "user_nid": user_nid})
