"""Rooms grown from a list of numbers: forks, concurrent changes of power, bans, stale and wrong states.

The numbers come from hypothesis, which can shrink them; every list makes some room.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from federation.auth.rules import check_state_dependent
from federation.auth.select import StateKey, auth_keys_for
from federation.event import Event
from federation.verdict import Accept
from tests.unit.federation.auth.room import ALICE, BOB, CHARLIE, EVE, Room

USERS = (ALICE, BOB, CHARLIE, EVE)
LEVELS = (0, 10, 50, 100)

draws = st.lists(st.integers(min_value=0, max_value=10_000), min_size=20, max_size=220)


@dataclass(slots=True)
class Grown:
    room: Room
    snapshots: list[dict[StateKey, str]]


def grow(version: str, numbers: Sequence[int]) -> Grown:
    """A room with many snapshots, most of them honest states after some event of a fork."""
    source = iter(numbers)
    room = Room(version)
    room.put("m.room.member", ALICE, {"membership": "join"}, ALICE, prev=("$create",))
    room.put_power(users={ALICE: 100, BOB: 50})
    room.put("m.room.join_rules", ALICE, {"join_rule": "public"})
    room.put_member(BOB, "join")
    room.put_member(CHARLIE, "join")
    snapshots = [{key: str(event.event_id) for key, event in room.state.items()}]
    while True:
        try:
            snapshot = _step(room, snapshots, source)
        except StopIteration:
            return Grown(room, snapshots)
        if snapshot is not None:
            snapshots.append(snapshot)


def _step(
    room: Room, snapshots: list[dict[StateKey, str]], source: Iterator[int]
) -> dict[StateKey, str] | None:
    base = snapshots[-1 - next(source) % min(len(snapshots), 5)]
    if next(source) % 12 == 0:
        # A wrong answer of some server: one key as it was elsewhere.
        other = snapshots[next(source) % len(snapshots)]
        keys = sorted(key for key in {**base, **other} if key != ("m.room.create", ""))
        key = keys[next(source) % len(keys)]
        changed = {**base, **({key: other[key]} if key in other else {})}
        if key not in other:
            del changed[key]
        return changed
    sender = USERS[next(source) % 4]
    event_type, state_key, content = _change(room, sender, source)
    keys = auth_keys_for(room.rules, event_type, sender, state_key, content)
    auth = [base[key] for key in keys if key in base]
    ts = 100_000 + next(source) % 50 * 1000
    event = room.event(event_type, sender, content, state_key, auth=auth, ts=ts)

    def lookup(wanted_type: str, wanted_key: str) -> Event | None:
        event_id = base.get((wanted_type, wanted_key))
        return None if event_id is None else room.events[event_id]

    if not isinstance(check_state_dependent(event, lookup), Accept):
        del room.events[str(event.event_id)]
        return None
    return {**base, event.key(): str(event.event_id)}


def _change(room: Room, sender: str, source: Iterator[int]) -> tuple[str, str, dict[str, object]]:
    kind, target = next(source) % 8, USERS[next(source) % 4]
    if kind <= 1:
        named = [user_id for user_id in USERS if not (room.rules.privileged_creators and user_id == ALICE)]
        users = {user_id: LEVELS[next(source) % 4] for user_id in named}
        if not room.rules.privileged_creators:
            users[ALICE] = 100
        return "m.room.power_levels", "", {"users": users}
    if kind == 2:
        return "m.room.join_rules", "", {"join_rule": ("public", "invite")[next(source) % 2]}
    if kind == 3:
        return "m.room.member", sender, {"membership": "join", "displayname": str(next(source) % 9)}
    if kind == 4:
        return "m.room.member", target, {"membership": ("invite", "leave", "ban")[next(source) % 3]}
    if kind == 5:
        return "m.room.member", sender, {"membership": ("join", "leave")[next(source) % 2]}
    return ("m.room.topic", "m.room.name")[kind - 6], "", {"text": str(next(source) % 9)}
