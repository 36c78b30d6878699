"""The EDUs of a transaction: parsed, held to the rooms' access control lists, and handed to whom they concern.

A malformed or failing EDU concerns nobody else: it is left out, and the transaction goes on. Only a database that does
not answer stops it, since what must be kept (messages to devices) would be lost otherwise.

# spec: server-server-api#edus
# spec: server-server-api#server-access-control-lists-acls
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.defer import CancelledError

from federation.edus import (
    DeviceListUpdate,
    DirectToDevice,
    Edu,
    Presence,
    Receipts,
    SigningKeyUpdate,
    Typing,
    parse_edu,
)
from federation.errors import Malformed
from federation.ids import RoomId, ServerName
from homeserver.db.errors import DatabaseError
from homeserver.http.errors import MatrixError
from homeserver.rooms.federated.acls import ServerAcls
from homeserver.runtime.log import Log


class EphemeralEdus(Protocol):
    """Takes what is of the moment."""

    async def typing(self, origin: ServerName, edu: Typing) -> None: ...
    async def receipts(self, origin: ServerName, edu: Receipts) -> None: ...
    async def presence(self, origin: ServerName, edu: Presence) -> None: ...


class KeyEdus(Protocol):
    """Takes what is of devices. MUST have stored it when the Deferred fires."""

    async def direct_to_device(self, origin: ServerName, edus: Sequence[DirectToDevice]) -> None: ...
    async def device_list_update(self, origin: ServerName, edu: DeviceListUpdate) -> None: ...
    async def signing_key_update(self, origin: ServerName, edu: SigningKeyUpdate) -> None: ...


def parse_edus(edus: Sequence[Any], origin: ServerName) -> list[Edu]:
    """Those that can be read."""
    found: list[Edu] = []
    for edu in edus:
        try:
            found.append(parse_edu(edu, origin))
        except Malformed:
            continue
    return found


def must_be_kept(edu: Edu) -> bool:
    """Whether the sender may forget it once we have answered."""
    return isinstance(edu, Receipts | DirectToDevice | DeviceListUpdate | SigningKeyUpdate)


class EduDispatcher:
    """See the module. Either side may be missing: then its EDUs are nobody's."""

    def __init__(
        self, acls: ServerAcls, ephemeral: EphemeralEdus | None, keys: KeyEdus | None, log: Log
    ) -> None:
        self._acls = acls
        self._ephemeral = ephemeral
        self._keys = keys
        self._log = log

    async def dispatch(self, origin: ServerName, edus: Sequence[Edu]) -> None:
        """One after the other, in the order of the sender; all messages to devices together."""
        allowed: dict[RoomId, bool] = {}
        to_device = [edu for edu in edus if isinstance(edu, DirectToDevice)]
        if to_device and self._keys is not None:
            await self._guard(self._keys.direct_to_device(origin, to_device), "m.direct_to_device")
        for edu in edus:
            if not isinstance(edu, DirectToDevice):
                await self._guard(self._one(origin, edu, allowed), type(edu).__name__)

    async def _guard(self, doing: Any, kind: str) -> None:
        try:
            await doing
        except (DatabaseError, CancelledError):
            raise
        except (MatrixError, Malformed) as error:
            self._log.debug("EDU ignored", kind=kind, problem=str(error))
        except Exception:  # noqa: BLE001 (a fault of ours in one EDU must not make the sender repeat all the others)
            self._log.error("EDU failed", kind=kind, exc_info=True)

    async def _one(self, origin: ServerName, edu: Edu, allowed: dict[RoomId, bool]) -> None:
        ephemeral, keys = self._ephemeral, self._keys
        if isinstance(edu, DeviceListUpdate) and keys is not None:
            await keys.device_list_update(origin, edu)
        elif isinstance(edu, SigningKeyUpdate) and keys is not None:
            await keys.signing_key_update(origin, edu)
        elif ephemeral is None:
            return
        elif isinstance(edu, Typing):
            if await self._allows(edu.room_id, origin, allowed):
                await ephemeral.typing(origin, edu)
        elif isinstance(edu, Receipts):
            kept = [one for one in edu.receipts if await self._allows(one.room_id, origin, allowed)]
            if kept:
                await ephemeral.receipts(origin, Receipts(tuple(kept)))
        elif isinstance(edu, Presence):
            await ephemeral.presence(origin, edu)

    async def _allows(self, room_id: RoomId, origin: ServerName, allowed: dict[RoomId, bool]) -> bool:
        if room_id not in allowed:
            try:
                allowed[room_id] = await self._acls.allows(room_id, origin)
            except MatrixError:
                allowed[room_id] = False  # unknown here
        return allowed[room_id]
