"""What the room actors hand to the committer: events, each with the place that it takes in its room.

An ``Event`` knows nothing of where it is stored; these values do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from typing import Any, NamedTuple

from federation.event import Event, EventRef
from federation.versions import RoomRules
from homeserver.db.tx import WriteTx
from homeserver.store.changes import Change, Kind, weigh_json
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


# Of somebody for whom a room is over.
ENDED = frozenset((Membership.LEAVE, Membership.BAN))
_WORDS = {one: one.name.lower() for one in Membership}
MEMBERSHIPS: dict[str, Membership] = {word: one for one, word in _WORDS.items()}


class Place(Enum):
    """Where an event goes."""

    TIMELINE = auto()  # the newest of its room
    HISTORY = auto()  # backfilled: where history was missing
    NOWHERE = auto()  # soft-failed or rejected: stored with its state, shown to nobody
    OUTLIER = auto()  # without known state


class Mark(IntEnum):
    """What is special about an event's place in the timeline. Numbers are stored."""

    NONE = 0
    ABOVE_HOLE = (
        1  # parents were missing when it came: what fills the hole goes below it, into free positions
    )
    HISTORY = 2  # backfilled: it is no news to anybody
    IDLE = 3  # a redaction that has no effect: clients are not told, as they would redact what it names
    IDLE_HISTORY = 4  # both


PAST = (Mark.HISTORY, Mark.IDLE_HISTORY)


MOVE_BYTES = 200


class StateMove(NamedTuple):
    """How the current state moved at one key. Where forks meet, several keys may move with one event."""

    key_nid: int
    event_nid: int  # 0: the key went away
    prev_nid: int  # 0: the key was not there
    member_nid: int = 0  # of a membership: whose
    user_id: str = ""
    membership: Membership = Membership.LEAVE


@dataclass(frozen=True, slots=True)
class StateMoved:
    """The payload of ``Kind.STATE_MOVED``: the current state moved, and no event of the timeline did it."""

    moves: tuple[StateMove, ...]

    @property
    def weight(self) -> int:
        """See ``Change.weight``."""
        return MOVE_BYTES * len(self.moves)


class Extremity(NamedTuple):
    """One of the newest events of a room."""

    nid: int
    reference: EventRef
    depth: int
    after: Snapshot  # the state after it


@dataclass(frozen=True, slots=True)
class RoomHead:
    """The latest of a room: what the next event is built on. Immutable: each event makes the next head."""

    room_nid: int
    room_id: str
    rules: RoomRules
    version: int  # counts the events placed on it; 0: nothing is stored yet
    extremities: tuple[Extremity, ...]  # oldest first
    snapshot: Snapshot  # the current state: of several extremities, what their states resolve to
    depth: int
    partial: bool = False  # members are missing from the states: the join is not complete


# How the key of a delayed event begins: what its sender knows it by is the id that it had while it waited.
DELAYED = "delay/"


@dataclass(frozen=True, slots=True)
class ClientTransaction:
    """Under which transaction id a device sent an event."""

    device_nid: int  # negative: that user, without a device
    txn_key: str  # endpoint, event type and transaction id: the scope of the specification
    ts_ms: int  # by our clock: an application service dates its events as it likes, and retries soon all the same

    def is_for(self, user_nid: int, device_nid: int) -> bool:
        """Whether this device of the sender is told of it."""
        return self.device_nid == device_nid or (
            self.device_nid == -user_nid and self.txn_key.startswith(DELAYED)
        )


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
    redacts_target: str | None = None  # applied redaction
    transaction: ClientTransaction | None = None
    pos: int = 0
    moves: tuple[StateMove, ...] = ()
    linear: bool = True  # it stands on the whole head before it, so all that moved is what it says itself
    place: Place = Place.TIMELINE
    rejected: str | None = None  # why
    is_new: bool = True  # False: it was an outlier, and has a row
    missing: tuple[str, ...] = ()  # prev_events that are not here
    redacted_by: int = 0  # nid of a redaction that came before what it redacts
    awaits_target: bool = False  # a redaction of what has not come yet
    idle: bool = False  # a redaction without effect, or without one as yet
    told: bool = False  # another server tells the room's servers of it, although it is ours
    sticky_until_ms: int = 0  # until when it reaches everybody in the room; 0: it does not stick
    above_hole: bool = False  # the room has a timeline, and what came between it and this event is missing

    @property
    def weight(self) -> int:
        """See ``Change.weight``."""
        return weigh_json(self.json) + MOVE_BYTES * len(self.moves)

    @property
    def mark(self) -> Mark:
        """For the timeline."""
        if self.place is Place.HISTORY:
            return Mark.IDLE_HISTORY if self.idle else Mark.HISTORY
        if self.idle:
            return Mark.IDLE
        return Mark.ABOVE_HOLE if self.above_hole else Mark.NONE

    @property
    def is_plain(self) -> bool:
        """Nothing but a new event on top of its room, as nearly all are."""
        return (
            self.linear
            and self.is_new
            and self.place is Place.TIMELINE
            and not (self.missing or self.redacted_by or self.awaits_target)
        )


@dataclass(slots=True)
class Bundle:
    """Placements of one room that are stored all or not at all, and the head after them.

    ``extra`` units run in the same transaction, after the events (an alias of a new room, its place in the
    directory). They claim positions like any unit of work.
    """

    room_nid: int
    expected_version: int
    head: RoomHead | None  # None: the head stays what it is
    placements: list[Placement]
    extra: list[Callable[[WriteTx], Any]] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)  # those that are new
    ends: tuple[int, ...] = ()  # extremities that are given up without a successor
    unseen: Sequence[
        str
    ] = ()  # events that were taken for new without a look: the database has the last word
    void: bool = False  # what it was built on could not be stored: it must not be either


# The kinds of change with which a room's current state may move.
MOVING = frozenset({Kind.EVENT, Kind.STATE_MOVED})


def moves_of(change: Change) -> Sequence[StateMove]:
    """How the current state of a room moved with a change."""
    if (change.kind == Kind.EVENT or change.kind == Kind.STATE_MOVED) and change.payload is not None:
        moves: Sequence[StateMove] = change.payload.moves
        return moves
    return ()
