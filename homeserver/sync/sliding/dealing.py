"""When a connection for encryption alone is answered although there is nothing to tell.

The Rust SDK has one connection for rooms and one for encryption. What it has to send for the sake of encryption it sends
when it asks the second one again, and not before; nothing else makes it ask.

1. When its user has sent something encrypted: it copies the new key into its backup.
2. When it has dealt with something encrypted, or a step of a verification, that it was told of a room: it may owe the
   next step, and two people would wait half a minute for each. It has dealt with an answer once it asks again on the
   connection that gave it; where it has several, each may be the one that mattered. In small rooms only, as those are in
   which people verify each other: more would be answered for each message.

proposal: MSC4186 (extensions)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from homeserver.store.placement import Membership, Placement
from homeserver.store.sliding import ConnectionKey
from homeserver.stream.index import MembershipIndex, Standing
from homeserver.stream.notifier import Notifier
from homeserver.sync.window import Windows

# LIMIT(answers for each message: of so many members here, and no more)
MEMBERS_MOST = 4
# LIMIT(memory: some 500 bytes a device; one that is forgotten waits longer, once)
DEVICES_KEPT = 100_000
CONNECTIONS_MOST = 10
_ENCRYPTED, _STEP = "m.room.encrypted", "m.key.verification."


@dataclass(slots=True, eq=False)
class Wait:
    """One request of a connection for encryption alone."""

    user_nid: int
    since: int  # what the client had when it asked
    owing: bool  # it may have something to send


@dataclass(slots=True)
class _Device:
    """One that has a connection for encryption alone."""

    dealt: dict[str, int] = field(default_factory=dict)  # up to where, by connection for rooms
    waits: dict[Wait, None] = field(default_factory=dict)
    owing: bool = False  # it came to owe something while nothing of it was waiting


class Dealing:
    """How far the devices that ask this process have dealt with their rooms."""

    def __init__(self, index: MembershipIndex, windows: Windows, notifier: Notifier) -> None:
        self._index = index
        self._windows = windows
        self._notifier = notifier
        self._devices: OrderedDict[tuple[int, int], _Device] = OrderedDict()

    def has_dealt(self, key: ConnectionKey, pos: int) -> None:
        """A device asks for rooms, and had this position."""
        device = self._devices.get((key.user_nid, key.device_nid))
        if device is None:
            return
        before = device.dealt.get(key.conn_id, pos)
        if len(device.dealt) >= CONNECTIONS_MOST:
            device.dealt.clear()
        device.dealt[key.conn_id] = pos
        if before >= pos or not self._was_told_a_step(key.user_nid, before, pos):
            return
        device.owing = not device.waits
        for wait in device.waits:
            wait.owing = True
        self._notifier.wake_device(key.user_nid, key.device_nid)

    def begin(self, key: ConnectionKey) -> _Device:
        """A device has a connection for encryption alone."""
        device = self._devices.setdefault((key.user_nid, key.device_nid), _Device())
        self._devices.move_to_end((key.user_nid, key.device_nid))
        if len(self._devices) > DEVICES_KEPT:
            self._devices.popitem(last=False)
        return device

    @contextmanager
    def waiting(self, key: ConnectionKey, since: int) -> Iterator[Wait]:
        """While a request of a connection for encryption alone is here."""
        device = self.begin(key)
        wait = Wait(key.user_nid, since, device.owing)
        device.owing = False
        device.waits[wait] = None
        try:
            yield wait
        finally:
            del device.waits[wait]

    def is_due(self, wait: Wait) -> bool:
        """Whether it is to be answered in any case: see the module."""
        return wait.owing or any(
            placed.sender_nid == wait.user_nid and placed.event.type == _ENCRYPTED
            for placed, *_ in self._since(wait.user_nid, wait.since)
        )

    def _was_told_a_step(self, user_nid: int, since: int, upto: int) -> bool:
        return any(
            placed.pos <= upto
            and placed.sender_nid != user_nid
            and (placed.event.type == _ENCRYPTED or placed.event.type.startswith(_STEP))
            and standing.membership == Membership.JOIN
            and len(self._index.local_members(room_nid)) <= MEMBERS_MOST
            for placed, room_nid, standing in self._since(user_nid, since)
        )

    def _since(self, user_nid: int, since: int) -> Iterator[tuple[Placement, int, Standing]]:
        """What happened in a user's rooms, as far as the log reaches back."""
        rooms = self._index.rooms_of(user_nid)
        window = self._windows.find(since, user_nid, rooms)
        if window is not None:
            topics = window.topics
            few, many = (rooms, topics) if len(rooms) < len(topics) else (topics, rooms)
            for nid in few:
                if nid in many:
                    for placed in topics[nid].placements:
                        yield placed, nid, rooms[nid]
