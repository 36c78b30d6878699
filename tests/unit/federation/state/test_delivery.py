"""The state after a graph of events does not depend on how the events came: one by one, in batches, or all at once.

Each way computes the state before an event as the resolution of the states after its prev_events, but knows
different other events at that time.
"""

import random
from collections.abc import Collection, Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from federation.auth.select import auth_keys_for
from federation.checks import check_state_before, lookup_of
from federation.state.resolve import resolve
from federation.verdict import Accept
from tests.unit.federation.auth.room import ALICE, BOB, CHARLIE, Room
from tests.unit.federation.state.graphs import MemoryGraph, RankedMemoryGraph, State

TYPES = ("m.room.topic", "m.room.power_levels", "m.room.join_rules", "m.room.member", "m.room.message")


class Server:
    """Takes events in any order that respects prev_events and computes the state after each."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.after: dict[str, State] = {}
        self.known: list[str] = []

    def receive(self, event_ids: Iterable[str]) -> None:
        batch = list(event_ids)
        self.known.extend(batch)
        events = {
            event_id: self.room.events[event_id] for event_id in self.room.events if event_id in self.known
        }
        graph = RankedMemoryGraph(events) if len(batch) > 1 else MemoryGraph(events)
        for event_id in batch:
            event = self.room.events[event_id]
            states = [self.after[parent] for parent in event.prev_event_ids]
            before = resolve(self.room.rules, states, graph) if len(states) != 1 else states[0]
            lookup = lookup_of({key: self.room.events[ref] for key, ref in before.items()})
            allowed = isinstance(check_state_before(event, lookup), Accept)
            self.after[event_id] = (
                {**before, event.key(): event_id} if allowed and event.is_state() else before
            )


def make_room(version: str, seed: int) -> tuple[Room, list[str]]:
    """A room whose events were sent by three servers that often had not heard of each other."""
    draw = random.Random(seed)
    room = Room(version)
    author = Server(room)
    order: list[str] = ["$create"]

    def send(
        event_type: str, sender: str, content: dict[str, object], state_key: str | None, prev: list[str]
    ) -> str:
        states = [author.after[parent] for parent in prev]
        before = resolve(room.rules, states, MemoryGraph(room.events))
        keys = auth_keys_for(room.rules, event_type, sender, state_key, content)
        auth = [before[key] for key in keys if key in before]
        event = room.event(event_type, sender, content, state_key, prev=prev, auth=auth)
        author.receive([event.event_id])
        order.append(event.event_id)
        return event.event_id

    author.receive(["$create"])
    last = send("m.room.member", ALICE, {"membership": "join"}, ALICE, ["$create"])
    users = {BOB: 50} if version == "12" else {ALICE: 100, BOB: 50}
    last = send("m.room.power_levels", ALICE, {"users": users}, "", [last])
    last = send("m.room.join_rules", ALICE, {"join_rule": "public"}, "", [last])
    for user_id in (BOB, CHARLIE):
        last = send("m.room.member", user_id, {"membership": "join"}, user_id, [last])
    tips = {user_id: [last] for user_id in (ALICE, BOB, CHARLIE)}
    for _ in range(18):
        sender = draw.choice((ALICE, BOB, CHARLIE))
        event_type = draw.choice(TYPES)
        state_key: str | None = ""
        content: dict[str, object] = {"text": draw.randrange(9)}
        if event_type == "m.room.power_levels":
            content = {"users": {**users, CHARLIE: draw.choice((0, 50))}}
        elif event_type == "m.room.join_rules":
            content = {"join_rule": draw.choice(("public", "invite"))}
        elif event_type == "m.room.member":
            state_key = draw.choice((BOB, CHARLIE))
            content = {"membership": draw.choice(("join", "leave", "ban", "invite"))}
        elif event_type == "m.room.message":
            state_key = None
        tips[sender] = [send(event_type, sender, content, state_key, tips[sender])]
        if draw.random() < 0.4:
            heard = draw.choice((ALICE, BOB, CHARLIE))
            tips[sender] = sorted({*tips[sender], *tips[heard]})
    send("m.room.message", ALICE, {}, None, sorted({tip for prev in tips.values() for tip in prev}))
    return room, order


def shuffled(room: Room, order: Collection[str], draw: random.Random) -> list[str]:
    """Another order that also has every event after its prev_events."""
    done: list[str] = []
    waiting = list(order)
    while waiting:
        ready = [ref for ref in waiting if set(room.events[ref].prev_event_ids) <= set(done)]
        chosen = draw.choice(ready)
        done.append(chosen)
        waiting.remove(chosen)
    return done


class DeliveryTests(SynchronousTestCase):
    @settings(max_examples=40, deadline=None)
    @given(st.sampled_from(("1", "2", "11", "12")), st.integers(0, 2**32))
    def test_one_by_one_batches_and_all_at_once_agree(self, version: str, seed: int) -> None:
        room, order = make_room(version, seed)
        draw = random.Random(seed + 1)
        single, batched, whole = Server(room), Server(room), Server(room)
        for event_id in shuffled(room, order, draw):
            single.receive([event_id])
        other = shuffled(room, order, draw)
        while other:
            size = draw.randrange(1, 8)
            batched.receive(other[:size])
            other = other[size:]
        whole.receive(order)
        self.assertEqual(len(whole.after), len(order))
        self.assertEqual(single.after, whole.after)
        self.assertEqual(batched.after, whole.after)
