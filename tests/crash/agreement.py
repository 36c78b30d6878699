"""Whether servers have the same of the rooms that they share, when all is quiet; and where they need not, why.

Asked are the databases, so that nothing hides behind what a client is shown.

- A server that a room's access control list denies is not listened to there, nor answered.
  spec: server-server-api#server-access-control-lists-acls
- What comes late from somebody who has left, or was sent away, is soft-failed where it came late: there it is not shown.
  spec: server-server-api#soft-failure
- What nobody of a server's may see, since it was said before they came, other servers give it redacted.
  see docs/how/backfill.md
- What stuck before a server came stands aside there, until somebody names it as a parent or reads back to it.
  see docs/decisions/0024
- Whose joins a resolution took away, since the room's rules were changed in another branch meanwhile, is not in the room for
  those who know of that, and nobody tells such a server. It goes on by itself.
  spec: server-server-api#room-state-resolution
- Who was sent away while they had missed something of the room can have no place for that: what it stands on they would have
  to ask for, and nobody in the room answers who is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

from federation.ids import domain_of
from homeserver.db.engine import open_engine
from tests.support.kept_rooms import Room, load

# State that decides on other state.
_DECIDING = ("m.room.power_levels", "m.room.join_rules")


def load_rooms(database: str) -> dict[str, Room]:
    """Every room of a server, which may be running."""
    session = open_engine(database).reader()
    try:
        return session.run(load)
    finally:
        session.close()


def find_inside(have: Mapping[str, Mapping[str, Room]], room_id: str) -> list[str]:
    """The servers that take themselves for being in a room."""
    return [
        name
        for name, rooms in have.items()
        if room_id in rooms and any(domain_of(user_id) == name for user_id in rooms[room_id].joined)
    ]


def are_apart(have: Mapping[str, Mapping[str, Room]], room_id: str, one: str, other: str) -> bool:
    """Whether nobody tells one of two servers, each of which may take itself for being in a room, what the other has."""
    first, second = have[one].get(room_id, Room()), have[other].get(room_id, Room())
    return (
        one in second.denied
        or other in first.denied
        or _is_ruled_out(one, first, second)
        or _is_ruled_out(other, second, first)
        or _is_stuck(one, first, second)
        or _is_stuck(other, second, first)
    )


def find_disagreements(have: Mapping[str, Mapping[str, Room]], room_id: str) -> list[str]:
    """How the servers that are in a room differ over it."""
    found = []
    for one, other in combinations(find_inside(have, room_id), 2):
        if not are_apart(have, room_id, one, other):
            problems = _compare(have[one][room_id], have[other][room_id])
            found += [f"{room_id}: {one} and {other} differ: {problem}" for problem in problems]
    return found


def _is_ruled_out(server: str, own: Room, other: Room) -> bool:
    """Whether another server knows by which events a server takes itself for being in a room, and none of them counts.

    That takes something that the server was not told of: what decides over others, and is not about its own users, for that
    it would have been told. And it knows of nothing that stands there in the place of its own: whoever joins builds on that.
    """
    joins = {
        ("m.room.member", user_id): own.state["m.room.member", user_id]
        for user_id in own.joined
        if domain_of(user_id) == server
    }
    for key, join_id in joins.items():
        there = other.state.get(key)
        if join_id == there or join_id not in other.senders:
            return False
        if there is not None and there in own.senders and not own.rests_on(join_id, there):
            return False
    untold = [
        event_id
        for (kind, key), event_id in other.state.items()
        if event_id not in own.senders
        and (kind in _DECIDING or (kind == "m.room.member" and other.senders.get(event_id) != key))
        and not (kind == "m.room.member" and domain_of(key) == server)
    ]
    return bool(joins and untold)


def _is_stuck(server: str, own: Room, other: Room) -> bool:
    """Whether a server was told how its users were sent away, and cannot get what that stands on from those who did it."""
    return bool(own.staged & other.senders.keys()) and all(
        domain_of(user_id) != server for user_id in other.joined
    )


def _is_withheld(event_id: str, here: Room, there: Room) -> bool:
    """Whether one server was given an event without what it says, since nobody there was in the room at the time."""
    return event_id in there.empty - here.empty and there.hidden


def _compare(one: Room, two: Room) -> Iterator[str]:
    keys = sorted(key for key in {*one.state, *two.state} if one.state.get(key) != two.state.get(key))
    if keys:
        yield f"state {[(key, one.state.get(key), two.state.get(key)) for key in keys]}"
    if one.joined != two.joined:
        yield f"members {sorted(one.joined ^ two.joined)}"
    if not set(one.ends) & set(two.ends):
        yield f"ends {one.ends} and {two.ends}"
    for here, there, number in ((one, two, "first"), (two, one, "second")):
        alone = sorted((here.senders.keys() & here.shown) - there.senders.keys() - there.aside)
        if alone:
            yield f"events of the {number} alone {[(each, there.rejected.get(each)) for each in alone]}"
        whole = sorted(
            target
            for target, by in here.redacted.items()
            if target in there.senders
            and target not in there.redacted
            and by in there.shown
            and not _is_withheld(by, here, there)
        )
        if whole:
            yield f"redacted by the {number} alone {[(each, here.redacted[each]) for each in whole]}"
    unrelated = sorted(
        child
        for child in one.related.keys() | two.related.keys()
        if child in one.shown & two.shown
        and one.related.get(child) != two.related.get(child)
        and not _is_withheld(child, one, two)
        and not _is_withheld(child, two, one)
    )
    if unrelated:
        yield f"relations {[(each, one.related.get(each), two.related.get(each)) for each in unrelated]}"
