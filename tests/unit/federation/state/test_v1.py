"""State resolution 1. # spec: rooms/v1#state-resolution"""

import hashlib

from twisted.trial.unittest import SynchronousTestCase

from federation.event import Event
from federation.state.resolve import resolve
from tests.unit.federation.auth.room import ALICE, BOB, CHARLIE, EVE, Room, usual_room
from tests.unit.federation.state.graphs import MemoryGraph, State


class V1Tests(SynchronousTestCase):
    def setUp(self) -> None:
        self.room = usual_room("1")
        self.base: State = {key: event.event_id for key, event in self.room.state.items()}

    def with_events(self, *events: Event) -> State:
        return {**self.base, **{event.key(): event.event_id for event in events}}

    def resolve(self, *states: State) -> State:
        resolved = resolve(self.room.rules, states, MemoryGraph(self.room.events))
        self.assertEqual(resolve(self.room.rules, states[::-1], MemoryGraph(self.room.events)), resolved)
        return resolved

    def test_a_missing_key_is_no_conflict(self) -> None:
        topic = self.room.event("m.room.topic", EVE, {}, "")
        self.assertEqual(self.resolve(self.base, self.with_events(topic))[topic.key()], topic.event_id)

    def test_the_deepest_allowed_event_wins(self) -> None:
        first = self.room.event("m.room.topic", ALICE, {}, "")
        second = self.room.event("m.room.topic", BOB, {}, "")
        forbidden = self.room.event("m.room.topic", CHARLIE, {}, "")
        self.assertLess(first.depth, second.depth)
        resolved = self.resolve(*(self.with_events(event) for event in (first, second, forbidden)))
        self.assertEqual(resolved[second.key()], second.event_id)

    def test_nothing_allowed_nothing_set(self) -> None:
        first = self.room.event("m.room.topic", CHARLIE, {}, "")
        second = self.room.event("m.room.topic", EVE, {}, "")
        self.assertNotIn(first.key(), self.resolve(self.with_events(first), self.with_events(second)))

    def same_depth(self, room: Room, *ids: str, **fields: str) -> list[Event]:
        events = []
        for event_id in ids:
            room.count = 50
            events.append(room.event("m.room.topic", BOB, {}, "", event_id=event_id))
        return events

    def test_ties_go_to_the_lowest_sha1(self) -> None:
        ids = [f"$tie{number}:b.test" for number in range(6)]
        events = self.same_depth(self.room, *ids)
        resolved = self.resolve(*(self.with_events(event) for event in events))
        expected = min(ids, key=lambda event_id: hashlib.sha1(event_id.encode()).hexdigest())
        self.assertEqual(resolved[("m.room.topic", "")], expected)

    def test_power_levels_first_then_the_rest_by_them(self) -> None:
        demotion = self.room.event("m.room.power_levels", ALICE, {"users": {ALICE: 100}}, "")
        again = self.room.event("m.room.power_levels", BOB, {"users": {ALICE: 100, BOB: 50, EVE: 50}}, "")
        alices = self.room.event("m.room.topic", ALICE, {}, "")
        bobs = self.room.event("m.room.topic", BOB, {}, "")
        resolved = self.resolve(self.with_events(demotion, alices), self.with_events(again, bobs))
        self.assertEqual(resolved[demotion.key()], demotion.event_id)
        self.assertEqual(resolved[alices.key()], alices.event_id)

    def test_the_first_of_a_kind_counts_unchecked_and_a_refusal_ends_the_run(self) -> None:
        unchecked = self.room.event("m.room.join_rules", EVE, {"join_rule": "invite"}, "")
        refused = self.room.event("m.room.join_rules", CHARLIE, {"join_rule": "public"}, "")
        late = self.room.event("m.room.join_rules", ALICE, {"join_rule": "private"}, "")
        resolved = self.resolve(*(self.with_events(event) for event in (unchecked, refused, late)))
        self.assertEqual(resolved[late.key()], unchecked.event_id)

    def test_join_rules_before_members(self) -> None:
        old = self.room.event("m.room.join_rules", ALICE, {"join_rule": "public"}, "")
        closed = self.room.event("m.room.join_rules", ALICE, {"join_rule": "invite"}, "")
        left = self.room.member(EVE, "leave", sender=ALICE)
        joined = self.room.member(EVE, "join")
        resolved = self.resolve(self.with_events(old, left), self.with_events(closed, joined))
        self.assertEqual(resolved[closed.key()], closed.event_id)
        self.assertEqual(resolved[joined.key()], left.event_id)

    def test_unknown_events_are_left_out(self) -> None:
        key = ("m.room.topic", "")
        resolved = self.resolve({**self.base, key: "$nowhere"}, {**self.base, key: "$neither"})
        self.assertNotIn(key, resolved)
