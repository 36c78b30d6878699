"""What the room actors hand to the committer: events, each with the place that it takes in its room.

An ``Event`` knows nothing of where it is stored; these values do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from federation.event import Event, EventRef
from federation.versions import RoomRules
from homeserver.db.tx import WriteTx
from homeserver.store.state import Snapshot


class Membership(IntEnum):
    """What a user is to a room. Numbers are stored."""

    LEAVE = 0
    JOIN = 1
    INVITE = 2
    BAN = 3
    KNOCK = 4

    @property
    def word(self) -> str:
        """As the specification spells it."""
        return _WORDS[self]


_WORDS = {one: one.name.lower() for one in Membership}
MEMBERSHIPS: dict[str, Membership] = {word: one for one, word in _WORDS.items()}


@dataclass(frozen=True, slots=True)
class RoomHead:
    """The latest of a room: what the next event is built on. Immutable: each event makes the next head."""

    room_nid: int
    room_id: str
    rules: RoomRules
    version: int  # counts the events placed on it; 0: nothing is stored yet
    extremities: tuple[tuple[int, EventRef], ...]  # (event nid, reference), oldest first
    snapshot: Snapshot
    depth: int


@dataclass(frozen=True, slots=True)
class ClientTransaction:
    """Under which transaction id a device sent an event."""

    device_nid: int
    txn_key: str  # endpoint, event type and transaction id: the scope of the specification
    txn_id: str


@dataclass(slots=True)
class Placement:
    """One event and its place. ``pos`` is set by the commit; everything else is fixed before it."""

    event: Event
    json: bytes  # stored form
    nid: int
    room_nid: int
    type_nid: int
    state_key_nid: int | None
    sender_nid: int
    state_before: Snapshot
    state_after: Snapshot
    prev_nid: int = 0  # the state event that this one replaces
    auth_nids: tuple[int, ...] = ()
    auth_rank: int | None = None  # of a state event
    member_nid: int = 0  # of a membership event: whose
    redacts_target: str | None = None  # applied redaction
    transaction: ClientTransaction | None = None
    pos: int = 0


@dataclass(slots=True)
class Bundle:
    """Placements of one room that are stored all or not at all, and the head after them.

    ``extra`` units run in the same transaction, after the events (an alias of a new room, its place in the
    directory). They claim positions like any unit of work.
    """

    room_nid: int
    expected_version: int
    head: RoomHead
    placements: list[Placement]
    extra: list[Callable[[WriteTx], Any]] = field(default_factory=list)
    known_edges: bool = True
