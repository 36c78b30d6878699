"""Whether servers have the same of the rooms that they share, when all is quiet; and where they need not, why.

Asked are the databases, so that nothing hides behind what a client is shown.

- A server that a room's access control list denies is not listened to there, nor answered.
  spec: server-server-api#server-access-control-lists-acls
- What comes late from somebody who has left, or was sent away, is soft-failed where it came late: there it is not shown.
  spec: server-server-api#soft-failure
- What stuck before a server came stands aside there, until somebody names it as a parent or reads back to it.
  see docs/decisions/0024
- Whose joins a resolution took away, since the room's rules were changed in another branch meanwhile, is not in the room for
  those who know of that, and nobody tells such a server. It goes on by itself.
  spec: server-server-api#room-state-resolution
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

from federation.ids import domain_of
from homeserver.db.engine import open_engine
from tests.support.kept_rooms import Room, load


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


def find_disagreements(have: Mapping[str, Mapping[str, Room]], room_id: str) -> list[str]:
    """How the servers that are in a room differ over it."""
    found = []
    for first, second in combinations(find_inside(have, room_id), 2):
        if are_together(have, room_id, first, second):
            one, two = have[first][room_id], have[second][room_id]
            found += [f"{room_id}: {first} and {second} differ: {problem}" for problem in _compare(one, two)]
    return found


def are_together(have: Mapping[str, Mapping[str, Room]], room_id: str, first: str, second: str) -> bool:
    """Whether two servers that are in a room must have the same of it: nobody there denies or rules out one of them."""
    denied = {server for name in find_inside(have, room_id) for server in have[name][room_id].denied}
    one, two = have[first][room_id], have[second][room_id]
    return not ({first, second} & denied or _is_ruled_out(first, one, two) or _is_ruled_out(second, two, one))


def _is_ruled_out(server: str, own: Room, other: Room) -> bool:
    """Whether another server knows by which events a server takes itself for being in a room, and none of them counts."""
    joins = [own.state["m.room.member", user_id] for user_id in own.joined if domain_of(user_id) == server]
    in_force = set(other.state.values())
    known = other.senders.keys() | other.rejected.keys()
    return all(event_id in known and event_id not in in_force for event_id in joins)


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
