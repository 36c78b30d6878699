"""Missing ancestors: what the flow asks for, what it makes of the answers, and that it always ends.

# spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from federation.event import MAX_AUTH_EVENTS, MAX_PREV_EVENTS, Event
from federation.flows.needs import (
    Known,
    NeedAuthChain,
    NeedEvents,
    NeedKnown,
    NeedMissing,
    NeedState,
    NeedStateIds,
    RoomNeed,
    StateIds,
)
from federation.flows.order import auth_parents, in_order, reached
from federation.flows.receive import DEFAULT_BUDGET, Budget, Filled, Start, receive
from federation.ids import EventId
from tests.support.peer import FakePeer, random_id
from tests.support.peer_rooms import PeerRoom

Answer = Callable[[RoomNeed], Any]


class World:
    """What is stored here, and a peer that is asked for the rest."""

    def __init__(self, room: PeerRoom, placed: Collection[str], stored: Collection[str] = ()) -> None:
        self.room = room
        self.placed = set(placed)
        self.stored = {*placed, *stored}
        self.needs: list[RoomNeed] = []
        self.lies: dict[type, Answer] = {}
        self.gone: set[str] = set()  # events that the peer does not give away one by one

    def drive(self, wanted: Sequence[Event], budget: Budget = DEFAULT_BUDGET, **fields: Any) -> Filled:
        extremities = tuple(EventId(one) for one in sorted(self.placed))[-1:]
        flow = receive(Start(tuple(wanted), extremities, 0, **fields), budget)
        reply: Any = None
        for _ in range(1_000):
            try:
                need = flow.send(reply)
            except StopIteration as done:
                self.check(done.value, wanted)
                result: Filled = done.value
                return result
            self.needs.append(need)
            reply = self.lies.get(type(need), self.answer)(need)
        raise AssertionError("the flow does not end")

    def asked(self, kind: type) -> list[Any]:
        return [need for need in self.needs if type(need) is kind]

    def _events(self, event_ids: Collection[str]) -> list[Event]:
        known = self.room.events
        return [known[EventId(one)] for one in event_ids if one in known and one not in self.gone]

    def answer(self, need: RoomNeed) -> Any:
        room = self.room
        match need:
            case NeedKnown():
                return Known(
                    frozenset(EventId(one) for one in need.event_ids if one in self.stored),
                    frozenset(EventId(one) for one in need.event_ids if one in self.placed),
                )
            case NeedMissing():
                body = {"earliest_events": need.earliest, "latest_events": need.latest, "limit": need.count}
                found = room.missing_answer(body)["events"]
                return [event for event in map(room.parse, found) if event.event_id not in self.gone]
            case NeedEvents():
                return self._events(need.event_ids)
            case NeedStateIds():
                state = room.state_before(need.event_id)
                return StateIds(tuple(state), tuple(room.auth_chain(state)))
            case NeedState():
                state = room.state_before(need.event_id)
                return self._events([*state, *room.auth_chain(state)])
            case NeedAuthChain():
                return self._events(room.auth_chain([need.event_id]))

    def check(self, filled: Filled, wanted: Sequence[Event]) -> None:
        """Whatever the answers were: each thing that is to be placed can be."""
        stored, placed = set(self.stored), set(self.placed)
        for event in filled.outliers:
            assert event.is_state()
            assert stored.issuperset(event.auth_event_ids), "an outlier before its auth events"
            stored.add(event.event_id)
        for step in filled.steps:
            event = step.event
            assert stored.issuperset(event.auth_event_ids), "a step before its auth events"
            if step.told is None:
                assert placed.issuperset(event.prev_event_ids), "a step before its parents"
            else:
                assert stored.issuperset(step.told)
            stored.add(event.event_id)
            placed.add(event.event_id)
        for event in wanted:
            assert event.event_id in placed or event.event_id in filled.missing


class ReceiveTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.peer = FakePeer()
        self.room = self.peer.create("11")
        self.known = list(self.room.events)

    def world(self, **fields: Any) -> World:
        return World(self.room, self.known, **fields)

    def ids(self, filled: Filled) -> list[str]:
        return [step.event.event_id for step in filled.steps]

    def test_nothing_is_missing(self) -> None:
        first, second = self.room.say("one"), self.room.say("two")
        world = self.world()
        filled = world.drive([second, first])
        self.assertEqual([first.event_id, second.event_id], self.ids(filled))
        self.assertEqual({NeedKnown}, {type(need) for need in world.needs})
        self.assertEqual(((), {}), (filled.outliers, filled.missing))

    def test_what_is_placed_already_is_neither_step_nor_missing(self) -> None:
        event = self.room.say("one")
        world = World(self.room, [*self.known, event.event_id])
        self.assertEqual(Filled((), (), {}), world.drive([event]))
        self.assertEqual(1, len(world.needs))

    def test_a_gap_of_many_events(self) -> None:
        said = [self.room.say(str(number)) for number in range(75)]
        world = self.world()
        filled = world.drive(said[-1:])
        self.assertEqual([event.event_id for event in said], self.ids(filled))
        self.assertEqual({None}, {step.told for step in filled.steps})
        # Twenty at a time: 74 of them are missing.
        self.assertEqual(4, len(world.asked(NeedMissing)))
        self.assertEqual([], world.asked(NeedEvents) + world.asked(NeedStateIds))

    def test_a_gap_with_a_fork(self) -> None:
        fork = list(self.room.head)
        left = [self.room.say(f"l{number}", prev=fork if not number else None) for number in range(1)]
        right = self.room.add("m.room.topic", {"topic": "t"}, state_key="", prev=fork)
        both = self.room.say("both")
        filled = self.world().drive([both])
        self.assertEqual({left[0].event_id, right.event_id}, set(self.ids(filled)[:2]))
        self.assertEqual(both.event_id, self.ids(filled)[2])

    def test_a_gap_that_is_too_long_leaves_one(self) -> None:
        self.room.add("m.room.topic", {"topic": "unseen"}, state_key="")
        said = [self.room.say(str(number)) for number in range(60)]
        world = self.world()
        budget = Budget(ancestors=20, rounds=5)
        filled = world.drive(said[-1:], budget)
        # The oldest one has its state told: the topic is fetched for it.
        oldest = filled.steps[0]
        self.assertEqual(said[-21].event_id, oldest.event.event_id)
        assert oldest.told is not None
        self.assertEqual(self.room.state_before(oldest.event.event_id), sorted(oldest.told))
        self.assertEqual(["m.room.topic"], [event.type for event in filled.outliers])
        self.assertEqual({None}, {step.told for step in filled.steps[1:]})
        self.assertEqual([event.event_id for event in said[-21:]], self.ids(filled))

    def test_a_parent_that_cannot_be_had_at_all(self) -> None:
        hidden = self.room.say("hidden")
        event = self.room.say("shown")
        world = self.world()
        world.gone.add(hidden.event_id)
        filled = world.drive([event])
        # The state before the event itself is what is left to ask for.
        self.assertEqual([event.event_id], [need.event_id for need in world.asked(NeedStateIds)])
        self.assertEqual([event.event_id], self.ids(filled))
        self.assertEqual(self.room.state_before(event.event_id), sorted(filled.steps[0].told or ()))

    def test_a_parent_that_names_too_many(self) -> None:
        """Only of history is it taken: here it stays missing, whichever way it comes."""
        head = list(self.room.head)
        create = self._auth(head)[0]
        cases: tuple[tuple[dict[str, Any], bool], ...] = (
            ({"prev": head * MAX_PREV_EVENTS}, True),
            ({"prev": head * (MAX_PREV_EVENTS + 1)}, False),
            ({"prev": head, "auth": [create] * MAX_AUTH_EVENTS}, True),
            ({"prev": head, "auth": [create] * (MAX_AUTH_EVENTS + 1)}, False),
        )
        for fields, is_taken in cases:
            parent = self.room.say("parent", **fields)
            event = self.room.say("shown", prev=[parent.event_id])
            world = self.world()
            filled = world.drive([event])
            placed = [parent.event_id, event.event_id] if is_taken else [event.event_id]
            self.assertEqual(placed, self.ids(filled), fields)
            self.assertEqual(not is_taken, bool(filled.steps[0].told), fields)
            self.assertEqual(0 if is_taken else 1, len(world.asked(NeedEvents)), fields)

    def test_nobody_answers(self) -> None:
        self.room.say("unseen")
        event = self.room.say("shown")
        after = self.room.say("after")
        world = self.world()
        world.lies = {
            NeedMissing: lambda _: (),
            NeedEvents: lambda _: (),
            NeedState: lambda _: (),
            NeedStateIds: lambda _: None,
            NeedAuthChain: lambda _: (),
        }
        filled = world.drive([event, after])
        self.assertEqual(((), ()), (filled.outliers, filled.steps))
        self.assertEqual({event.event_id, after.event_id}, set(filled.missing))

    def test_missing_auth_events(self) -> None:
        bob = self.peer.user("bob")
        fork = list(self.room.head)
        joined = self.room.join(bob)
        # It cites a membership that is not among its ancestors.
        event = self.room.say("hello", sender=bob, prev=fork, auth=[*self._auth(fork), joined.event_id])
        world = self.world()
        filled = world.drive([event])
        self.assertEqual([joined.event_id], [one.event_id for one in filled.outliers])
        self.assertEqual([event.event_id], self.ids(filled))
        self.assertEqual(1, len(world.asked(NeedAuthChain)))
        # Without an answer it stays missing, and the reason says so.
        world = self.world()
        world.lies = {NeedAuthChain: lambda _: (), NeedEvents: lambda _: ()}
        filled = world.drive([event])
        self.assertEqual({event.event_id: "what authorises it cannot be had"}, filled.missing)

    def _auth(self, fork: Sequence[str]) -> list[str]:
        state = self.room.state_after(fork)
        return [state[key] for key in (("m.room.create", ""), ("m.room.power_levels", ""))]

    def test_a_large_state_is_asked_for_as_a_whole(self) -> None:
        for number in range(30):
            self.room.join(self.peer.user(f"u{number}"))
        said = [self.room.say(str(number)) for number in range(30)]
        world = self.world()
        filled = world.drive(said[-1:], Budget(ancestors=5, bulk=10))
        self.assertEqual(1, len(world.asked(NeedState)))
        self.assertEqual(30, len(filled.outliers))
        self.assertEqual([], [need for need in world.asked(NeedEvents) if len(need.event_ids) > 1])

    def test_a_state_that_lacks_events_is_of_no_use_at_first(self) -> None:
        topic = self.room.add("m.room.topic", {"topic": "t"}, state_key="")
        said = [self.room.say(str(number)) for number in range(30)]
        world = self.world()
        world.gone.add(topic.event_id)
        filled = world.drive(said[-1:], Budget(ancestors=5))
        self.assertEqual({said[-1].event_id}, set(filled.missing))
        filled = world.drive(said[-1:], Budget(ancestors=5), lenient=True)
        self.assertEqual({}, filled.missing)
        self.assertNotIn(topic.event_id, filled.steps[0].told or ())

    def test_a_state_that_is_absurd(self) -> None:
        said = [self.room.say(str(number)) for number in range(9)]
        nowhere = tuple(random_id(str(number)) for number in range(500))
        for lie in (
            StateIds((), ()),
            StateIds(nowhere, ()),
            StateIds((EventId(said[-1].event_id),) * 3, nowhere),
            StateIds(tuple(event.event_id for event in said), ()),
        ):
            world = self.world()
            world.lies = {NeedMissing: lambda _: (), NeedStateIds: partial(_always, lie)}
            filled = world.drive(said[-1:], Budget(state=400))
            self.assertEqual({said[-1].event_id}, set(filled.missing), lie)

    def test_answers_that_were_not_asked_for(self) -> None:
        said = [self.room.say(str(number)) for number in range(3)]
        other = FakePeer("other.example").create("11")
        strangers = [other.say(str(number)) for number in range(30)]
        world = self.world()
        for kind in (NeedMissing, NeedEvents, NeedState, NeedAuthChain):
            world.lies[kind] = lambda _: strangers
        filled = world.drive(said[-1:])
        self.assertEqual((), filled.outliers)
        self.assertLessEqual(len(filled.steps), 1)

    def test_circles(self) -> None:
        """Room versions 1 and 2 name events freely: two that are each other's parents, and one that is its own."""
        room = FakePeer().create("1")
        known = list(room.events)
        one = room.make("m.room.message", {}, prev=["$b:peer.example"], event_id="$a:peer.example")
        two = room.make("m.room.message", {}, prev=["$a:peer.example"], event_id="$b:peer.example")
        own = room.make("m.room.message", {}, prev=["$c:peer.example"], event_id="$c:peer.example")
        after = room.make("m.room.message", {}, prev=["$a:peer.example"], event_id="$d:peer.example")
        for event in (one, two, own, after):
            room.events[event.event_id] = event
        world = World(room, known)
        world.lies[NeedStateIds] = lambda _: None
        filled = world.drive([after, own])
        self.assertEqual(((), ()), (filled.outliers, filled.steps))
        self.assertEqual({after.event_id, own.event_id}, set(filled.missing))
        circle = {event.event_id: event for event in (one, two, own)}
        self.assertEqual([], in_order(circle, lambda event: event.prev_event_ids, lambda *_: True))

    def test_a_chain_of_a_hundred_thousand_needs_no_stack(self) -> None:
        events: dict[EventId, Event] = {}
        template = self.room.say("x")
        parent = EventId("$0")
        for number in range(1, 100_001):
            event_id = EventId(f"${number}")
            events[event_id] = _with_auth(template, event_id, parent)
            parent = event_id
        ordered = in_order(events, auth_parents, lambda _, one: one == "$0")
        self.assertEqual(list(events), [event.event_id for event in ordered])
        self.assertEqual(100_000, len(reached([parent], events, auth_parents, 1_000_000)))
        self.assertEqual(10, len(reached([parent], events, auth_parents, 10)))

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_whatever_is_answered_it_ends_and_can_be_placed(self, data: st.DataObject) -> None:
        peer = FakePeer()
        room = peer.create("11")
        known = list(room.events)
        for number in range(data.draw(st.integers(3, 12))):
            prev = data.draw(
                st.lists(st.sampled_from(list(room.events)), min_size=1, max_size=3, unique=True)
            )
            if data.draw(st.booleans()):
                room.say(str(number), prev=prev)
            else:
                room.join(peer.user(f"u{number}"), prev=prev)
        every = list(room.events.values())
        events = st.lists(st.sampled_from(every), max_size=8)
        ids = st.lists(st.sampled_from([*room.events, random_id("x")]), max_size=8).map(tuple)
        world = World(room, data.draw(st.sets(st.sampled_from(known), min_size=1)), known)
        truth = world.answer
        drawn = {
            NeedMissing: events,
            NeedEvents: events,
            NeedState: events,
            NeedAuthChain: events,
            NeedStateIds: st.none() | st.builds(StateIds, ids, ids),
        }
        for kind, strategy in drawn.items():
            world.lies[kind] = partial(_drawn, data, strategy, truth)
        wanted = data.draw(st.lists(st.sampled_from(every[4:]), min_size=1, max_size=4, unique=True))
        world.drive(wanted, Budget(ancestors=10, rounds=4, bulk=2), lenient=data.draw(st.booleans()))


def _always(answer: Any, _: RoomNeed) -> Any:
    return answer


def _drawn(data: st.DataObject, strategy: st.SearchStrategy[Any], truth: Answer, need: RoomNeed) -> Any:
    return truth(need) if data.draw(st.booleans()) else data.draw(strategy)


def _with_auth(event: Event, event_id: EventId, parent: EventId) -> Event:
    return Event(
        event_id,
        event.room_id,
        event.type,
        event.sender,
        event.state_key,
        event.content,
        event.origin_server_ts,
        1,
        (),
        (parent,),
        None,
        event.json,
        event.rules,
    )
