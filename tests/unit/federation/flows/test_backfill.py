"""Earlier history: which state is asked for, what hangs together, in which order it comes, and that the flow ends.

# spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from federation.flows.backfill import backfill
from federation.flows.needs import (
    NeedBackfill,
    NeedEvents,
    NeedKnown,
    NeedState,
    NeedStateIds,
    RoomNeed,
    StateIds,
)
from federation.flows.receive import Filled
from federation.ids import EventId
from tests.support.peer import FakePeer, random_id
from tests.unit.federation.flows.test_receive import World


class Past(World):
    """As ``World``, whose peer is asked for history."""

    def fetch(self, missing: Sequence[str], count: int = 100) -> Filled:
        flow = backfill([EventId(one) for one in missing], count)
        reply: Any = None
        for _ in range(1_000):
            try:
                need = flow.send(reply)
            except StopIteration as done:
                filled: Filled = done.value
                self.check(filled, ())
                return filled
            self.needs.append(need)
            reply = self.lies.get(type(need), self.answer)(need)
        raise AssertionError("the flow does not end")

    def answer(self, need: RoomNeed) -> Any:
        if isinstance(need, NeedBackfill):
            found = self.room.backfill_answer(need.event_ids, need.count)["pdus"]
            return [self.room.parse(one) for one in found]
        return super().answer(need)


class BackfillTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.peer = FakePeer()
        self.room = self.peer.create("11")

    def ids(self, filled: Filled) -> list[str]:
        return [step.event.event_id for step in filled.steps]

    def joined(self, messages: int) -> tuple[Past, str]:
        """A room that was joined after some messages: its state is stored, nothing is placed."""
        for number in range(messages):
            self.room.say(str(number))
        return Past(self.room, (), self.room.state.values()), self.room.head[0]

    def test_to_the_beginning(self) -> None:
        world, newest = self.joined(10)
        filled = world.fetch([newest])
        self.assertEqual(list(self.room.events), self.ids(filled))
        self.assertEqual({None}, {step.told for step in filled.steps})
        self.assertEqual([NeedBackfill, NeedKnown], list(dict.fromkeys(map(type, world.needs))))

    def test_one_state_for_the_oldest_of_a_page(self) -> None:
        world, newest = self.joined(50)
        filled = world.fetch([newest], 20)
        self.assertEqual(list(self.room.events)[-20:], self.ids(filled))
        oldest = filled.steps[0].event.event_id
        self.assertEqual([oldest], [need.event_id for need in world.asked(NeedStateIds)])
        self.assertEqual(set(self.room.state_before(oldest)), set(filled.steps[0].told or ()))
        self.assertEqual({None}, {step.told for step in filled.steps[1:]})
        self.assertEqual((), filled.outliers, "all of that state is here")

    def test_what_of_the_state_is_missing_is_fetched(self) -> None:
        world, newest = self.joined(50)
        names = [self.room.add("m.room.name", {"name": "old"}, state_key="").event_id]
        for number in range(30):
            self.room.say(f"more {number}")
        newest = self.room.add("m.room.name", {"name": "new"}, state_key="").event_id
        filled = world.fetch([newest], 20)
        self.assertEqual(names, [event.event_id for event in filled.outliers])
        self.assertEqual([tuple(names)], [need.event_ids for need in world.asked(NeedEvents)])

    def test_who_lacks_the_state_before_an_event_may_have_it_before_the_next(self) -> None:
        world, newest = self.joined(50)
        page = list(self.room.events)[-20:]

        def lie(need: Any) -> Any:
            return None if need.event_id == page[0] else World.answer(world, need)

        world.lies[NeedStateIds] = lie
        filled = world.fetch([newest], 20)
        self.assertEqual(page[1:], self.ids(filled))

    def test_no_state_no_history(self) -> None:
        for lie in (None, StateIds((), ()), StateIds((EventId(random_id("x")),) * 3, ())):
            world, newest = self.joined(50)
            world.lies[NeedStateIds] = lambda _, lie=lie: lie  # type: ignore[misc]
            world.lies[NeedState] = lambda _: ()
            filled = world.fetch([newest], 20)
            if lie is not None and lie.state:
                # A state of which nothing can be had is none.
                self.assertEqual([], self.ids(filled))
            self.assertLessEqual(len(world.asked(NeedStateIds)), 15)

    def test_what_hangs_together_with_nothing_is_left_out(self) -> None:
        world, newest = self.joined(5)
        loose = [self.room.make("m.room.message", {"n": n}, prev=[random_id(str(n))]) for n in range(50)]
        honest = Past.answer
        world.lies[NeedBackfill] = lambda need: [*loose, *honest(world, need), *loose]
        self.assertEqual(list(self.room.events), self.ids(world.fetch([newest])))
        world.lies[NeedBackfill] = lambda _: loose
        self.assertEqual([], self.ids(world.fetch([newest])))

    def test_a_hundred_ends_cost_a_few_states(self) -> None:
        world, newest = self.joined(5)
        ends = [random_id(f"end {n}") for n in range(100)]
        many = [self.room.make("m.room.message", {"n": n}, prev=[end]) for n, end in enumerate(ends)]
        top = self.room.make("m.room.message", {}, prev=[one.event_id for one in many], depth=99)
        world.lies[NeedBackfill] = lambda _: [top, *many]
        world.lies[NeedStateIds] = lambda _: None
        filled = world.fetch([top.event_id])
        self.assertEqual([], self.ids(filled))
        self.assertLessEqual(len(world.asked(NeedStateIds)), 15)
        self.assertNotEqual(newest, top.event_id)

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_any_graph_comes_with_parents_before_children(self, data: st.DataObject) -> None:
        self.setUp()
        room = self.room
        for number in range(data.draw(st.integers(1, 15))):
            known = list(room.events)
            parents = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
            depth = data.draw(st.integers(0, 20))
            if data.draw(st.booleans()):
                room.add("m.room.topic", {"topic": str(number)}, state_key="", prev=parents, depth=depth)
            else:
                room.say(str(number), prev=parents, depth=depth)
        world = Past(room, (), room.state.values())
        filled = world.fetch(room.head, data.draw(st.integers(1, 30)))
        places = {event_id: place for place, event_id in enumerate(self.ids(filled))}
        self.assertTrue(places)
        for step in filled.steps:
            for parent in step.event.prev_event_ids:
                self.assertLess(places.get(parent, -1), places[step.event.event_id])
