"""Whether a device is still there: what it leaves behind it must not come after its end."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, select

from homeserver.db.schema.accounts import devices
from homeserver.db.statements import statement
from homeserver.db.tx import Tx

_IS_ALIVE = statement(
    select(devices.c.device_id).where(
        and_(devices.c.nid == bindparam("device_nid"), devices.c.user_nid == bindparam("user_nid"))
    )
)


class NoDeviceError(Exception):
    """The device has been logged out meanwhile."""


def check_alive(tx: Tx, user_nid: int, device_nid: int) -> str:
    """The device's id. Raises NoDeviceError."""
    device_id: str | None = tx.value(_IS_ALIVE, device_nid=device_nid, user_nid=user_nid)
    if device_id is None:
        raise NoDeviceError
    return device_id
