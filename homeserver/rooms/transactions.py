"""Client transaction ids: the retry of a request finds the first answer.

The truth is a row in the same transaction as the event. In memory stand the newest of each device that has sent
something lately, read once per device; what is not there is decided by the row's primary key when the event is
stored (the actor then runs the job again, and it looks into the table).

# spec: client-server-api#transaction-identifiers
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred

from homeserver.db.threads import Database
from homeserver.store.events import find_transaction, load_transactions
from homeserver.store.placement import DELAYED

_DEVICES_MOST = 20_000
_PER_DEVICE_MOST = 500

_Key = tuple[int, str]  # room nid, transaction key


@dataclass(slots=True)
class _Device:
    """A device's answers, oldest first."""

    loaded: bool = False
    answers: dict[_Key, str] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)  # event id -> transaction key, of the same
    delayed: dict[str, str] = field(
        default_factory=dict
    )  # of these, delayed events (of a user, not of a device)


class TransactionCache:
    """Event ids by device, room and transaction key; and the transaction ids by event, for the sender's own sync."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._devices: dict[int, _Device] = {}
        self._running: dict[tuple[int, int, str], list[Deferred[str]]] = {}

    async def find(self, device_nid: int, room_nid: int, txn_key: str) -> str | None:
        """The event that was sent under this id, as far as memory knows."""
        device = self._devices.get(device_nid)
        if device is None or not device.loaded:
            await self._load(device_nid)
            device = self._devices[device_nid]
        return device.answers.get((room_nid, txn_key))

    def known(self, device_nid: int, room_nid: int, txn_key: str) -> str | None:
        """As :meth:`find`, without looking into the database; only for a device that ``is_loaded``."""
        return self._devices[device_nid].answers.get((room_nid, txn_key))

    def is_loaded(self, device_nid: int) -> bool:
        """Whether the device's newest answers are in memory."""
        device = self._devices.get(device_nid)
        return device is not None and device.loaded

    async def find_stored(self, device_nid: int, room_nid: int, txn_key: str) -> str | None:
        """The event that was sent under this id, as the database knows."""
        return await self._database.read(find_transaction, device_nid, room_nid, txn_key)

    def put(self, device_nid: int, room_nid: int, txn_key: str, event_id: str) -> None:
        """The event is stored."""
        device = self._devices.setdefault(device_nid, _Device())
        device.answers[(room_nid, txn_key)] = event_id
        device.sent[event_id] = txn_key
        if txn_key.startswith(DELAYED):
            device.delayed[event_id] = txn_key
        if len(device.answers) > _PER_DEVICE_MOST:
            oldest = device.answers.pop(next(iter(device.answers)))
            device.sent.pop(oldest, None)
            device.delayed.pop(oldest, None)

    # --- the sender's own events ---------------------------------------------------------------------

    def known_to(self, user_nid: int, device_nid: int) -> Mapping[str, str] | None:
        """By what a user's device knows what it has sent lately, and what was delayed for any of theirs.

        Event id -> transaction key; None where the database must be asked.
        """
        device, user = self._devices.get(device_nid), self._devices.get(-user_nid)
        if (device_nid and (device is None or not device.loaded)) or user is None or not user.loaded:
            return None
        sent = device.sent if device_nid and device is not None else {}
        return ChainMap(user.delayed, sent) if user.delayed else sent

    async def load_known_to(self, user_nid: int, device_nid: int) -> Mapping[str, str]:
        """As :meth:`known_to`, from the database."""
        for nid in (device_nid, -user_nid):
            if nid and not self.is_loaded(nid):
                await self._load(nid)
        return self.known_to(user_nid, device_nid) or {}

    # --- requests under way --------------------------------------------------------------------------

    def begin(self, device_nid: int, room_nid: int, txn_key: str) -> Deferred[str] | None:
        """Claim an id that has no answer yet. None: go on, and ``end`` it. Else wait for the first request's end.

        The Deferred fires with "" where the first request failed: then begin again.
        """
        key = (device_nid, room_nid, txn_key)
        waiting = self._running.get(key)
        if waiting is None:
            self._running[key] = []
            return None
        result: Deferred[str] = Deferred()
        waiting.append(result)
        return result

    def end(self, device_nid: int, room_nid: int, txn_key: str, event_id: str) -> None:
        """The request is done: with its event, or with "" where it failed."""
        for result in self._running.pop((device_nid, room_nid, txn_key), ()):
            result.callback(event_id)

    async def _load(self, device_nid: int) -> None:
        found = await self._database.read(load_transactions, device_nid, _PER_DEVICE_MOST)
        if len(self._devices) >= _DEVICES_MOST and device_nid not in self._devices:
            del self._devices[next(iter(self._devices))]
        device = self._devices.setdefault(device_nid, _Device())
        stored = {(room_nid, key): event_id for room_nid, key, _, event_id in reversed(found)}
        device.answers = {**stored, **device.answers}
        device.sent = {event_id: key for (_, key), event_id in device.answers.items()}
        device.delayed = {event_id: key for event_id, key in device.sent.items() if key.startswith(DELAYED)}
        device.loaded = True
