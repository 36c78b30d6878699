"""The order of events in rooms, and how their current state moved: reads in bulk, bounded, in both directions.

A position is where the server put an event (``stream``, ``past``). A reader's snapshot
of the database may be ahead of the position that the caller has in mind, hence ``upto`` everywhere: state at an
earlier position is the current state with the newer rows of ``state_log`` undone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import CTE, ColumnElement, and_, bindparam, cast, func, or_, select

from homeserver.db.schema.base import BIG
from homeserver.db.schema.rooms import (
    auth_edges,
    current_state,
    events,
    rooms,
    state_keys,
    state_log,
    timeline,
)
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import Statement, any_of, any_pair, pairs_text, statement
from homeserver.db.tx import Ask, Tx
from homeserver.store.ids import stored_name, true_name


class Place(NamedTuple):
    """An event's place in a room."""

    room_nid: int
    pos: int
    event_nid: int
    mark: int = 0  # store.placement.Mark


class Move(NamedTuple):
    """A change of a room's current state: one key, at one position."""

    room_nid: int
    pos: int
    key_nid: int
    event_nid: int  # 0: the key went away
    prev_nid: int  # 0: the key was not there


_UPTO: ColumnElement[int] = bindparam("upto")
_FIRST: ColumnElement[int] = bindparam("first")
_PLACE = (timeline.c.room_nid, timeline.c.pos, timeline.c.event_nid, timeline.c.mark)
_MOVE = (
    state_log.c.room_nid,
    state_log.c.pos,
    state_log.c.state_key_nid,
    state_log.c.event_nid,
    state_log.c.prev_nid,
)


def _floors(room_nid: ColumnElement[int], upto: ColumnElement[int], *wanted: ColumnElement[bool]) -> CTE:
    """Per room where its newest events begin: at number ``most`` + 1 from the newest, or at the very first.

    Materialised, or the databases look the place up again for every event of the room.
    """
    newest = timeline.alias("newest")
    nth = (
        select(newest.c.pos)
        .where(and_(newest.c.room_nid == room_nid, newest.c.pos >= _FIRST, newest.c.pos <= upto))
        .order_by(newest.c.pos.desc())
        .limit(1)
        .offset(bindparam("most"))
        .scalar_subquery()
    )
    floor = func.coalesce(nth, _FIRST).label("floor")
    found = select(room_nid.label("nid"), floor, upto.label("top")).where(and_(*wanted))
    return found.cte("floors").prefix_with("MATERIALIZED")


def _places_above(floors: CTE) -> Statement:
    return statement(
        select(*_PLACE)
        .select_from(floors.join(timeline, timeline.c.room_nid == floors.c.nid))
        .where(and_(timeline.c.pos >= floors.c.floor, timeline.c.pos <= floors.c.top))
        .order_by(timeline.c.room_nid, timeline.c.pos)
    )


def _moves_above(floors: CTE) -> Statement:
    return statement(
        select(*_MOVE)
        .select_from(floors.join(state_log, state_log.c.room_nid == floors.c.nid))
        .where(state_log.c.pos >= floors.c.floor)
        .order_by(state_log.c.room_nid, state_log.c.pos)
    )


# The driving table is a list of rooms, or the moves by which one user left rooms: only what came before is theirs. Their
# newest membership is no such bound: it may be a ban, or an invite that they declined, of long after they left.
_OF_ROOMS = _floors(rooms.c.nid, cast(_UPTO, BIG), any_of(rooms.c.nid, "room_nids"))
_ends = state_log.alias("ends")
_OF_LEFT = _floors(
    _ends.c.room_nid,
    _ends.c.pos,
    any_pair(_ends.c.room_nid, _ends.c.pos, "ends"),
    _ends.c.state_key_nid == bindparam("key_nid"),
)
_NEWEST = _places_above(_OF_ROOMS)
_NEWEST_MOVES = _moves_above(_OF_ROOMS)
_NEWEST_OF_LEFT = _places_above(_OF_LEFT)
_NEWEST_MOVES_OF_LEFT = _moves_above(_OF_LEFT)
_ONE_ROOM = timeline.c.room_nid == bindparam("room_nid")
_BACKWARDS = statement(
    select(*_PLACE)
    .where(and_(_ONE_ROOM, timeline.c.pos <= bindparam("high"), timeline.c.pos > bindparam("low")))
    .order_by(timeline.c.pos.desc())
    .limit(bindparam("most"))
)
_FORWARDS = statement(
    select(*_PLACE)
    .where(and_(_ONE_ROOM, timeline.c.pos <= bindparam("high"), timeline.c.pos > bindparam("low")))
    .order_by(timeline.c.pos)
    .limit(bindparam("most"))
)
_MOVES_SINCE = statement(
    select(*_MOVE)
    .where(and_(any_of(state_log.c.room_nid, "room_nids"), state_log.c.pos > bindparam("since")))
    .order_by(state_log.c.room_nid, state_log.c.pos)
)
_MOVES_OF_KEY = statement(
    select(*_MOVE)
    .where(
        and_(
            any_of(state_log.c.room_nid, "room_nids"),
            state_log.c.pos > bindparam("since"),
            state_log.c.pos <= _UPTO,
            state_log.c.state_key_nid == bindparam("key_nid"),
        )
    )
    .order_by(state_log.c.room_nid, state_log.c.pos)
)
_CURRENT = (current_state.c.room_nid, current_state.c.state_key_nid, current_state.c.event_nid)
_WITH_KEYS = current_state.join(state_keys, state_keys.c.nid == current_state.c.state_key_nid)
_MEMBER_TYPE = WELL_KNOWN_TYPES["m.room.member"]
_STATE = statement(select(*_CURRENT).where(any_of(current_state.c.room_nid, "room_nids")))
_STATE_AT_KEYS = statement(
    select(*_CURRENT).where(
        and_(any_of(current_state.c.room_nid, "room_nids"), any_of(current_state.c.state_key_nid, "key_nids"))
    )
)
_STATE_WITHOUT_MEMBERS = statement(
    select(*_CURRENT)
    .select_from(_WITH_KEYS)
    .where(
        and_(
            any_of(current_state.c.room_nid, "room_nids"),
            or_(state_keys.c.type_nid != _MEMBER_TYPE, any_of(state_keys.c.state_key, "user_ids")),
        )
    )
)
_MEMBERS_NAMED = statement(
    select(*_CURRENT, state_keys.c.state_key)
    .select_from(_WITH_KEYS)
    .where(
        and_(
            state_keys.c.type_nid == _MEMBER_TYPE,
            any_of(state_keys.c.state_key, "user_ids"),
            any_of(current_state.c.room_nid, "room_nids"),
        )
    )
)
_parents = events.alias("parents")
_CITED = statement(
    select(auth_edges.c.child_nid, _parents.c.nid)
    .select_from(
        auth_edges.join(events, events.c.nid == auth_edges.c.child_nid).join(
            _parents, _parents.c.nid == auth_edges.c.parent_nid
        )
    )
    .where(
        and_(any_of(auth_edges.c.child_nid, "event_nids"), _parents.c.state_key_nid == events.c.state_key_nid)
    )
)


# --- the timeline ------------------------------------------------------------------------------------------------


def load_newest(
    tx: Tx, room_nids: Collection[int], since: int, upto: int, most: int
) -> dict[int, list[Place]]:
    """Of each room the newest events in ``(since, upto]``, oldest first: ``most``, and one more where there is one."""
    found = tx.ask(ask_newest(room_nids, since, upto, most))
    return _by_room([Place(*row) for row in found])


def ask_newest(room_nids: Collection[int], since: int, upto: int, most: int) -> Ask:
    """What :func:`load_newest` asks."""
    return Ask(_NEWEST, {"room_nids": list(room_nids), "first": since + 1, "upto": upto, "most": most})


def load_newest_of_left(
    tx: Tx, key_nid: int, ends: Mapping[int, int], since: int, most: int
) -> dict[int, list[Place]]:
    """As :func:`load_newest`, of each room up to where its user left it: ``ends`` has a move of their key by room."""
    found = tx.all(_NEWEST_OF_LEFT, **_of_left(key_nid, ends, since, most))
    return _by_room([Place(*row) for row in found])


def _of_left(key_nid: int, ends: Mapping[int, int], since: int, most: int) -> dict[str, Any]:
    return {"ends": pairs_text(list(ends.items())), "key_nid": key_nid, "first": since + 1, "most": most}


def load_page(
    tx: Tx, room_nid: int, low: int, high: int, most: int, *, backwards: bool = False
) -> list[Place]:
    """At most ``most`` events of a room in ``(low, high]``: the oldest first, or with ``backwards`` the newest."""
    found = tx.all(_BACKWARDS if backwards else _FORWARDS, room_nid=room_nid, low=low, high=high, most=most)
    return [Place(*row) for row in found]


# --- the state's moves -------------------------------------------------------------------------------------------


def load_moves(tx: Tx, room_nids: Collection[int], since: int) -> dict[int, list[Move]]:
    """How the state of rooms moved after a position, oldest first; up to the very newest."""
    return _by_room([Move(*row) for row in tx.all(_MOVES_SINCE, room_nids=list(room_nids), since=since)])


def load_moves_of_newest(
    tx: Tx, room_nids: Collection[int], since: int, upto: int, most: int
) -> dict[int, list[Move]]:
    """The moves from the first event on that :func:`load_newest` gives, up to the very newest."""
    found = tx.ask(ask_moves_of_newest(room_nids, since, upto, most))
    return _by_room([Move(*row) for row in found])


def ask_moves_of_newest(room_nids: Collection[int], since: int, upto: int, most: int) -> Ask:
    """What :func:`load_moves_of_newest` asks."""
    return Ask(_NEWEST_MOVES, {"room_nids": list(room_nids), "first": since + 1, "upto": upto, "most": most})


def load_moves_of_left(
    tx: Tx, key_nid: int, ends: Mapping[int, int], since: int, most: int
) -> dict[int, list[Move]]:
    """The moves from the first event on that :func:`load_newest_of_left` gives, up to the very newest."""
    found = tx.all(_NEWEST_MOVES_OF_LEFT, **_of_left(key_nid, ends, since, most))
    return _by_room([Move(*row) for row in found])


def load_moves_of_key(
    tx: Tx, room_nids: Collection[int], key_nid: int, since: int, upto: int
) -> dict[int, list[Move]]:
    """How one key moved in ``(since, upto]`` in several rooms, oldest first."""
    found = tx.all(_MOVES_OF_KEY, room_nids=list(room_nids), key_nid=key_nid, since=since, upto=upto)
    return _by_room([Move(*row) for row in found])


def _by_room(found: Sequence[Any]) -> dict[int, list[Any]]:
    result: dict[int, list[Any]] = {}
    for row in found:
        result.setdefault(row[0], []).append(row)
    return result


# --- state -------------------------------------------------------------------------------------------------------


def load_state(tx: Tx, room_nids: Collection[int]) -> dict[int, dict[int, int]]:
    """The current state of rooms: room -> state key nid -> event nid."""
    return _states(tx, _STATE, room_nids=list(room_nids))


def load_state_without_members(
    tx: Tx, room_nids: Collection[int], user_ids: Collection[str]
) -> dict[int, dict[int, int]]:
    """As :func:`load_state`, of memberships only those of some users."""
    names = [stored_name(one) for one in user_ids]
    return _states(tx, _STATE_WITHOUT_MEMBERS, room_nids=list(room_nids), user_ids=names)


def load_state_at(tx: Tx, room_nids: Collection[int], key_nids: Collection[int]) -> dict[int, dict[int, int]]:
    """As :func:`load_state`, of some keys."""
    ask = ask_state_at(room_nids, key_nids)
    return _states(tx, ask.statement, **ask.params)


def ask_state_at(room_nids: Collection[int], key_nids: Collection[int]) -> Ask:
    """What :func:`load_state_at` asks."""
    return Ask(_STATE_AT_KEYS, {"room_nids": list(room_nids), "key_nids": list(key_nids)})


def load_member_keys(
    tx: Tx, room_nids: Collection[int], user_ids: Collection[str]
) -> dict[int, dict[str, tuple[int, int]]]:
    """The current membership events of some users: room -> user id -> (state key nid, event nid)."""
    found: dict[int, dict[str, tuple[int, int]]] = {}
    names = [stored_name(one) for one in user_ids]
    for room_nid, key_nid, event_nid, name in tx.all(
        _MEMBERS_NAMED, room_nids=list(room_nids), user_ids=names
    ):
        found.setdefault(room_nid, {})[true_name(name)] = (key_nid, event_nid)
    return found


def load_cited(tx: Tx, event_nids: Collection[int]) -> dict[int, int]:
    """Of state events that cite one at their own state key among their auth events, its nid: event nid -> event nid.

    Of who comes into a room of another server the log of states does not know what they accepted: their join does.
    """
    return dict(tx.all(_CITED, event_nids=list(event_nids)))


def _states(tx: Tx, query: Statement, **params: Any) -> dict[int, dict[int, int]]:
    found: dict[int, dict[int, int]] = {}
    for room_nid, key_nid, event_nid in tx.all(query, **params):
        found.setdefault(room_nid, {})[key_nid] = event_nid
    return found


def undo(state: Mapping[int, int], moves: Sequence[Move], upto: int) -> dict[int, int]:
    """The state at a position, given a later one and every move (oldest first) since that position.

    A key that the state did not have is there with event nid 0 if a move touched it.
    """
    earlier = dict(state)
    for move in reversed(moves):
        if move.pos <= upto:
            break
        earlier[move.key_nid] = move.prev_nid
    return earlier
