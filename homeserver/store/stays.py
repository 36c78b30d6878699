"""Which servers are in which rooms: the domains of who is joined, now and at earlier positions.

A snapshot of the database may be ahead of the log, so what is read here carries the position that it is of, and how
memberships moved shortly before it: whoever asks for an earlier moment undoes those moves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import and_, bindparam, or_, select

from homeserver.db.schema.rooms import event_json, members, state_keys, state_log, user_ids
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.changes import load_position
from homeserver.store.placement import Membership

_MEMBER_TYPE = WELL_KNOWN_TYPES["m.room.member"]
_JOIN = int(Membership.JOIN)
# A server's users are looked for first where it is asked about more rooms than this, and has no more users.
FEW_ROOMS = 1
FEW_USERS = 5_000

_JOINED = statement(
    select(members.c.room_nid, members.c.user_nid, user_ids.c.user_id)
    .select_from(members.join(user_ids, user_ids.c.nid == members.c.user_nid))
    .where(and_(any_of(members.c.room_nid, "room_nids"), members.c.membership == _JOIN))
)
_OF_MEMBERS = state_log.join(state_keys, state_keys.c.nid == state_log.c.state_key_nid)
_MOVE = (
    state_log.c.room_nid,
    state_log.c.pos,
    state_keys.c.state_key,
    state_log.c.event_nid,
    state_log.c.prev_nid,
)
# Of the position itself only what took somebody away: the joins of a room that is new here may be thousands.
_MOVES = statement(
    select(*_MOVE)
    .select_from(_OF_MEMBERS)
    .where(
        and_(
            any_of(state_log.c.room_nid, "room_nids"),
            or_(
                state_log.c.pos > bindparam("since"),
                and_(state_log.c.pos == bindparam("since"), state_log.c.prev_nid != 0),
            ),
            state_keys.c.type_nid == _MEMBER_TYPE,
        )
    )
    .order_by(state_log.c.room_nid, state_log.c.pos)
)
_USERS_OF_SERVER = statement(
    select(members.c.room_nid, user_ids.c.user_id, members.c.membership)
    .select_from(members.join(user_ids, user_ids.c.nid == members.c.user_nid))
    .where(
        and_(
            any_of(members.c.room_nid, "room_nids"), user_ids.c.user_id.like(bindparam("pattern"), escape="!")
        )
    )
)
_NAMED = statement(
    select(user_ids.c.nid, user_ids.c.user_id)
    .where(user_ids.c.user_id.like(bindparam("pattern"), escape="!"))
    .limit(bindparam("most"))
)
_ROOMS_OF_USERS = statement(
    select(members.c.room_nid).where(
        and_(any_of(members.c.user_nid, "user_nids"), members.c.membership == _JOIN)
    )
)
_MOVES_OF_SERVER = statement(
    select(*_MOVE)
    .select_from(_OF_MEMBERS)
    .where(
        and_(
            any_of(state_log.c.room_nid, "room_nids"),
            state_log.c.pos > bindparam("since"),
            state_keys.c.type_nid == _MEMBER_TYPE,
            state_keys.c.state_key.like(bindparam("pattern"), escape="!"),
        )
    )
    .order_by(state_log.c.room_nid, state_log.c.pos)
)
_TEXTS = statement(select(event_json.c.nid, event_json.c.json).where(any_of(event_json.c.nid, "nids")))


class Turn(NamedTuple):
    """A server came into a room or went: its first user joined, its last one left."""

    pos: int
    server: str
    came: bool


@dataclass(slots=True)
class Occupancy:
    """Who is joined to a room at ``at``, and how servers came and went there from ``since`` on, oldest first."""

    at: int
    since: int
    joined: dict[int, str] = field(default_factory=dict)  # user nid -> server
    turns: list[Turn] = field(default_factory=list)


class Stay(NamedTuple):
    """One server in one room: whether it is in it at first, and the positions at which that changes."""

    at_first: bool
    changes: tuple[int, ...]
    # Where somebody of it who was invited or knocked, but not in the room, was removed: it hears of that from outside.
    removals: tuple[int, ...] = ()
    # From where up to where it is in the room by the word of others, whatever our own state says (store/hearsay.py).
    hearsay: tuple[tuple[int, int], ...] = ()

    @property
    def at_last(self) -> bool:
        """Whether it is in the room after all of them, as far as our own state says."""
        return self.at_first ^ bool(len(self.changes) % 2)

    def around(self, pos: int) -> bool:
        """Whether it is in the room before or after the event at a position."""
        if any(since <= pos <= upto for since, upto in self.hearsay):
            return True
        inside = self.at_first
        for change in self.changes:
            if change > pos:
                break
            if change == pos:
                return True  # it comes or goes with this event
            inside = not inside
        return inside

    def hears(self, pos: int) -> bool:
        """Whether it is to be told of the event at a position."""
        return self.around(pos) or pos in self.removals

    def came(self, pos: int) -> bool:
        """Whether it comes into the room with the event at a position."""
        if pos not in self.changes:
            return False
        was_in = self.at_first ^ bool(self.changes.index(pos) % 2)
        return not was_in


def server_of(user_id: str) -> str:
    """The domain of a user id."""
    return user_id.partition(":")[2]


def load_occupancy(tx: Tx, room_nids: Collection[int], since: int | None) -> dict[int, Occupancy]:
    """Who is joined to rooms, with the turns from ``since`` on (None: none are needed)."""
    at = load_position(tx)
    first = at + 1 if since is None else since
    found = {room_nid: Occupancy(at, first) for room_nid in room_nids}
    for room_nid, user_nid, user_id in tx.all(_JOINED, room_nids=list(room_nids)):
        found[room_nid].joined[user_nid] = server_of(user_id)
    if first <= at:
        moves = tx.all(_MOVES, room_nids=list(room_nids), since=first)
        memberships = _load_memberships(tx, moves)
        for room_nid, of_room in _by_room(moves).items():
            occupancy = found[room_nid]
            occupancy.turns = _turns(list(occupancy.joined.values()), of_room, memberships)[1]
    return found


def load_stays(tx: Tx, server: str, room_nids: Collection[int], since: int) -> dict[int, Stay]:
    """In which of these rooms a server has been at any time after ``since``, and when; or has had somebody removed."""
    pattern = "%:" + server.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    moves = tx.all(_MOVES_OF_SERVER, room_nids=list(room_nids), since=since, pattern=pattern)
    moves = [move for move in moves if server_of(move[2]) == server]
    memberships, by_room = _load_memberships(tx, moves), _by_room(moves)
    joined: dict[int, list[str]] = {room_nid: [] for room_nid in by_room}
    for room_nid in _joined_rooms(tx, server, room_nids, pattern):
        joined.setdefault(room_nid, []).append(server)
    stays: dict[int, Stay] = {}
    for room_nid, here in joined.items():
        at_first, turns = _turns(here, by_room.get(room_nid, ()), memberships)
        removals = _removals(by_room.get(room_nid, ()), memberships)
        if at_first or turns or removals:
            stays[room_nid] = Stay(bool(at_first), tuple([turn.pos for turn in turns]), removals)
    return stays


def _joined_rooms(tx: Tx, server: str, room_nids: Collection[int], pattern: str) -> list[int]:
    """Which of these rooms users of a server are in, each as often as there are."""
    if len(room_nids) > FEW_ROOMS:
        # The members of all these rooms may be a thousand times as many as the users that there are.
        users = tx.all(_NAMED, pattern=pattern, most=FEW_USERS + 1)
        if len(users) <= FEW_USERS:
            nids = [nid for nid, user_id in users if server_of(user_id) == server]
            wanted = frozenset(room_nids)
            rooms = tx.column(_ROOMS_OF_USERS, user_nids=nids) if nids else ()
            return [room_nid for room_nid in rooms if room_nid in wanted]
    return [
        room_nid
        for room_nid, user_id, membership in tx.all(
            _USERS_OF_SERVER, room_nids=list(room_nids), pattern=pattern
        )
        if membership == _JOIN and server_of(user_id) == server
    ]


def _by_room(moves: Sequence[Any]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for move in moves:
        found.setdefault(move[0], []).append(move)
    return found


def _turns(
    here: Sequence[str], moves: Sequence[Any], memberships: dict[int, str]
) -> tuple[dict[str, int], list[Turn]]:
    """Undo moves from the newest on: (servers at first, the turns since then, oldest first)."""
    counts: dict[str, int] = {}
    for server in here:
        counts[server] = counts.get(server, 0) + 1
    turns: list[Turn] = []
    for _, pos, user_id, event_nid, prev_nid in reversed(moves):
        after, before = memberships.get(event_nid) == "join", memberships.get(prev_nid) == "join"
        if after == before:
            continue
        server = server_of(user_id)
        count = counts.pop(server, 0)
        if before:
            if not count:
                turns.append(Turn(pos, server, came=False))
            counts[server] = count + 1
        elif count > 1:
            counts[server] = count - 1
        else:
            turns.append(Turn(pos, server, came=True))
    turns.reverse()
    return counts, turns


def _removals(moves: Sequence[Any], memberships: dict[int, str]) -> tuple[int, ...]:
    return tuple(
        pos
        for _, pos, _, event_nid, prev_nid in moves
        if memberships.get(event_nid) in ("leave", "ban") and memberships.get(prev_nid) in ("invite", "knock")
    )


class _Content(msgspec.Struct):
    membership: str = ""


class _Text(msgspec.Struct):
    content: _Content


_decode = msgspec.json.Decoder(_Text).decode


def _load_memberships(tx: Tx, moves: Sequence[Any]) -> dict[int, str]:
    """What membership events say, by nid."""
    nids = {nid for move in moves for nid in (move[3], move[4]) if nid}
    if not nids:
        return {}
    return {nid: _decode(json).content.membership for nid, json in tx.all(_TEXTS, nids=sorted(nids))}
