"""What devices of our users have for one other server: messages, and changes of their keys.

Nothing of it is kept in memory: a debt is a span of positions, of which the EDUs are read when it is the destination's
turn. It is settled when the other server has acknowledged them, and outlasts the process as ``devices_after``.

# spec: server-server-api#send-to-device-messaging
# spec: server-server-api#device-management
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from federation.queue import OutgoingEdu, Transaction
from homeserver.db.tx import Tx

# (tx, server, the rooms that it is in, those of them that are new to it, after, upto, how many) -> (position, EDU)
LoadDevices = Callable[[Tx, str, Collection[int], Collection[int], int, int, int], list[tuple[int, bytes]]]

EDUS_AT_ONCE = 100
# LIMIT(memory: in how many rooms lists have changed; of more than these all are looked at)
ROOMS_MOST = 1_000


class Debt:
    """See the module. ``rooms`` None: it is not known in which rooms something changed."""

    __slots__ = ("_asked", "_asked_fresh", "_loaded", "_unsettled", "_upto", "after", "due", "fresh", "rooms")

    def __init__(self, after: int) -> None:
        self.after = after  # everything up to here was delivered
        self.due = after  # the newest position with something
        self.rooms: set[int] | None = set()
        self.fresh: set[int] = set()
        self._asked: set[int] | None = set()
        self._asked_fresh: set[int] = set()
        self._upto = self._loaded = after
        self._unsettled = 0  # EDUs that were handed to the queue and are not acknowledged

    @property
    def is_owed(self) -> bool:
        """Whether there may be something, in the queue or still to be read."""
        return self.due > self.after

    @property
    def wants_reading(self) -> bool:
        """Whether the next EDUs should be read now."""
        return self.is_owed and not self._unsettled

    def add(self, pos: int, room_nid: int = 0, *, fresh: bool = False, settled: int = 0) -> None:
        """Something happened at a position; ``fresh``: the server is new to the room.

        ``settled``: where nothing was owed, nothing up to here is.
        """
        if not self.is_owed and not self._unsettled:
            self.after = max(self.after, settled)
        self.due = max(self.due, pos)
        if room_nid and self.rooms is not None:
            self.rooms.add(room_nid)
            if fresh:
                self.fresh.add(room_nid)
            if len(self.rooms) > ROOMS_MOST:
                self.forget_rooms()

    def forget_rooms(self) -> None:
        """All rooms are to be looked at."""
        self.rooms = None
        self.fresh = set()

    def ask(self) -> tuple[set[int] | None, set[int], int, int]:
        """Which rooms (and which new ones) to read for, after which position and up to which."""
        self._asked, self._asked_fresh, self._upto = self.rooms, self.fresh, self.due
        self.rooms, self.fresh = set(), set()
        return self._asked, self._asked_fresh, self.after, self._upto

    def unask(self) -> None:
        """It could not be read, or not all of it: the rooms are still to be looked at."""
        if self._asked is None or self.rooms is None:
            self.forget_rooms()
        else:
            self.rooms |= self._asked
            self.fresh |= self._asked_fresh
        self._asked, self._asked_fresh = set(), set()

    def read(self, found: list[tuple[int, bytes]]) -> list[OutgoingEdu]:
        """What was read, for the queue."""
        whole = len(found) < EDUS_AT_ONCE or found[-1][0] >= self._upto
        self._loaded = self._upto if whole else found[-1][0]
        if not whole:
            self.unask()
        self._unsettled = len(found)
        if not found:
            self.after = self._loaded
        return [OutgoingEdu(body, durable_pos=pos) for pos, body in found]

    def settle(self, transaction: Transaction) -> bool:
        """A transaction has left the queue; True where all that was read is acknowledged."""
        count = sum(edu.durable_pos is not None for edu in transaction.edus)
        if not count:
            return False
        self._unsettled = max(self._unsettled - count, 0)
        if self._unsettled:
            return False
        self.after = self._loaded
        return True
