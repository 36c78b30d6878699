"""Which members each device was told of, so that lazy loading does not repeat itself.

Memory only, and bounded: what is forgotten is sent again, which the specification allows. An entry counts from the
position of the answer that carried it, and only for a request whose token is of that answer or later: when an answer
got lost, its members are sent again.

spec: client-server-api#lazy-loading-room-members
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# LIMIT(some 200 bytes an entry)
MAX_DEVICES = 5_000
MAX_ENTRIES = 200_000
MAX_ENTRIES_PER_DEVICE = 10_000

_Device = tuple[int, int]
Sent = Mapping[str, tuple[int, int]]  # user id -> (event nid, position of the answer)
_NOTHING: Sent = MappingProxyType({})


class LazyMemory:
    """See the module."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._devices: dict[_Device, dict[int, dict[str, tuple[int, int]]]] = {}
        self._sizes: dict[_Device, int] = {}
        self._newest: dict[_Device, int] = {}  # the newest position that was noted
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def sent(self, device: _Device, room_nid: int) -> Sent:
        """What a device was told of a room's members."""
        rooms = self._devices.get(device)
        return _NOTHING if rooms is None else rooms.get(room_nid, _NOTHING)

    def knows(self, device: _Device, room_nid: int, user_id: str, event_nid: int, since: int) -> bool:
        """Whether a device whose token is at ``since`` has a membership event."""
        entry = self.sent(device, room_nid).get(user_id)
        return entry is not None and entry[0] == event_nid and entry[1] <= since

    def note(self, device: _Device, room_nid: int, members: Mapping[str, int], pos: int) -> None:
        """An answer at ``pos`` carries these membership events."""
        if not members:
            return
        rooms = self._devices.pop(device, None)
        if rooms is None:
            rooms = {}
        self._devices[device] = rooms  # the newest, now
        self._newest[device] = max(pos, self._newest.get(device, 0))
        known = rooms.setdefault(room_nid, {})
        before = len(known)
        for user_id, event_nid in members.items():
            entry = known.get(user_id)
            if entry is None or entry[0] != event_nid or entry[1] > pos:
                known[user_id] = (event_nid, pos)
        self._resize(device, len(known) - before)
        if self._sizes[device] > MAX_ENTRIES_PER_DEVICE:
            self.forget(device)
        while self._total > self._max_entries or len(self._devices) > MAX_DEVICES:
            self.forget(next(iter(self._devices)))

    def forget(self, device: _Device) -> None:
        """The device starts anew."""
        if self._devices.pop(device, None) is not None:
            self._total -= self._sizes.pop(device)
            del self._newest[device]

    def forget_room(self, device: _Device, room_nid: int) -> None:
        """The device gets a room anew."""
        rooms = self._devices.get(device)
        if rooms is not None and (known := rooms.pop(room_nid, None)) is not None:
            self._resize(device, -len(known))

    def rewind(self, device: _Device, pos: int) -> None:
        """The device has no answer after a position: what they carried it does not know."""
        if self._newest.get(device, 0) <= pos:
            return
        self._newest[device] = pos
        for known in self._devices[device].values():
            lost = [user_id for user_id, entry in known.items() if entry[1] > pos]
            for user_id in lost:
                del known[user_id]
            self._resize(device, -len(lost))

    def _resize(self, device: _Device, by: int) -> None:
        self._sizes[device] = self._sizes.get(device, 0) + by
        self._total += by
