"""Bounds: what large rooms and hostile graphs may cost, counted in questions and events rather than seconds."""

from collections.abc import Collection

from twisted.trial.unittest import SynchronousTestCase

from federation.event import Event
from federation.state.authdiff import auth_difference, conflicted_subgraph
from federation.state.graph import GraphView
from federation.state.resolve import resolve
from tests.unit.federation.auth.room import ALICE, BOB, Room, usual_room
from tests.unit.federation.state.graphs import MemoryGraph, RankedMemoryGraph, State


class BareGraph:
    """A graph without events: only what the walks need. Ranks are the numbers themselves."""

    def __init__(self, edges: dict[int, list[int]]) -> None:
        self.edges = edges
        self.visited: set[int] = set()

    def events(self, refs: object) -> dict[int, Event]:
        return {}

    def parents(self, refs: Collection[int]) -> dict[int, list[int]]:
        self.visited.update(refs)
        return {ref: self.edges[ref] for ref in refs if ref in self.edges}


class RankedBareGraph(BareGraph):
    def ranks(self, refs: Collection[int]) -> dict[int, int]:
        return {ref: ref for ref in refs}


class LargeRoomTests(SynchronousTestCase):
    def large_room(self, version: str, members: int) -> tuple[Room, State]:
        room = usual_room(version)
        for number in range(members):
            room.put_member(f"@user{number}:many.test", "join")
        for level in range(30):
            users = {ALICE: 100, BOB: 50, f"@user{level}:many.test": 1}
            room.put_power(users=users)
        return room, {key: event.event_id for key, event in room.state.items()}

    def test_few_conflicts_touch_few_events(self) -> None:
        for version in ("2", "11", "12"):
            room, state = self.large_room(version, 2000)
            graph = RankedMemoryGraph(room.events)
            renamed = room.member(BOB, "join", displayname="Bob")
            eve = room.member("@eve:e.test", "join")
            topic = room.event("m.room.topic", ALICE, {}, "")
            graph = RankedMemoryGraph(room.events)
            one = {**state, renamed.key(): renamed.event_id, eve.key(): eve.event_id}
            other = {**state, topic.key(): topic.event_id}
            resolved = resolve(room.rules, [one, other], graph)
            self.assertEqual(resolved, {**one, topic.key(): topic.event_id})
            self.assertLess(len(graph.read), 20, version)
            # Bob's old join rests on power levels that lie below thirty newer ones, each found from the last.
            self.assertLess(len(graph.asked), 60, version)
            self.assertLess(graph.questions, 80, version)

    def test_an_event_on_old_power_levels_does_not_open_the_whole_room(self) -> None:
        for version in ("11", "12"):
            room, state = self.large_room(version, 2000)
            powers = [event for event in room.events.values() if event.type == "m.room.power_levels"]
            auth = [ref for ref in (state[("m.room.member", ALICE)],) if ref]
            if not room.rules.create_not_in_auth_events:
                auth.append("$create")
            topic = room.event("m.room.topic", ALICE, {}, "", auth=[*auth, powers[-3].event_id])
            graph = RankedMemoryGraph(room.events)
            resolved = resolve(room.rules, [{**state, topic.key(): topic.event_id}, state], graph)
            self.assertEqual(resolved[topic.key()], topic.event_id)
            self.assertLess(len(graph.read), 10, version)
            self.assertLess(graph.questions, 12, version)

    def test_members_are_asked_where_nothing_else_decides(self) -> None:
        # Only Bob's unconflicted membership cites the ban of his that the other side's event cites too.
        room, state = self.large_room("11", 50)
        room.state = {key: room.events[ref] for key, ref in state.items()}
        kicked = room.put_member("@user1:many.test", "leave", sender=ALICE)
        back = room.put_member("@user1:many.test", "join")
        stale = room.event(
            "m.room.topic",
            ALICE,
            {},
            "",
            auth=[
                "$create",
                state[("m.room.power_levels", "")],
                state[("m.room.member", ALICE)],
                kicked.event_id,
            ],
        )
        base = {key: event.event_id for key, event in room.state.items()}
        self.assertEqual(base[back.key()], back.event_id)
        for graph in (MemoryGraph(room.events), RankedMemoryGraph(room.events)):
            view: GraphView[str] = GraphView(graph)
            difference = auth_difference(view, [{stale.event_id}, set()], base)
            self.assertEqual(difference, {stale.event_id})
            del base[back.key()]
            view = GraphView(graph)
            difference = auth_difference(view, [{stale.event_id}, set()], base)
            self.assertIn(kicked.event_id, difference)
            base[back.key()] = back.event_id


class HostileGraphTests(SynchronousTestCase):
    def test_deep_chains(self) -> None:
        depth = 100_000
        edges = {number: [number - 1] for number in range(2, depth + 1)}
        graph = BareGraph({**edges, depth + 1: [depth], depth + 2: [1]})
        view: GraphView[int] = GraphView(graph)
        difference = auth_difference(view, [{depth + 1}, {depth + 2}], {})
        self.assertEqual(difference, set(range(2, depth + 3)))
        self.assertEqual(len(conflicted_subgraph(view, {depth + 1, 2})), depth)

    def test_ranks_stop_the_walk(self) -> None:
        depth = 100_000
        edges = {number: [number - 1] for number in range(2, depth + 1)}
        graph = RankedBareGraph({**edges, depth + 1: [depth], depth + 2: [depth - 3]})
        view: GraphView[int] = GraphView(graph)
        difference = auth_difference(view, [{depth + 1}, {depth + 2}], {})
        self.assertEqual(difference, {depth + 2, depth + 1, depth, depth - 1, depth - 2})
        self.assertLess(len(graph.visited), 10)
        self.assertEqual(conflicted_subgraph(view, {depth + 1, depth - 5}), set(range(depth - 5, depth + 2)))
        self.assertLess(len(graph.visited), 20)

    def test_circles_end(self) -> None:
        edges = {1: [2], 2: [3], 3: [1, 3], 4: [1, 4], 5: [2]}
        for graph in (BareGraph(edges), RankedBareGraph(edges)):
            view: GraphView[int] = GraphView(graph)
            # The ranks lie here, which may cost exactness, but not the end of the walk.
            self.assertLessEqual({4, 5}, auth_difference(view, [{4}, {5}], {}))
            self.assertEqual(conflicted_subgraph(view, {4, 5, 2}) - {1, 2, 3}, {4, 5})

    def test_circles_end_in_a_resolution(self) -> None:
        for version in ("1", "2"):
            room = usual_room(version)
            base = {key: event.event_id for key, event in room.state.items()}
            users = {"users": {ALICE: 100}}
            first = room.event(
                "m.room.power_levels", ALICE, users, "", event_id="$a:a.test", auth=["$b:a.test"]
            )
            second = room.event(
                "m.room.power_levels", ALICE, users, "", event_id="$b:a.test", auth=["$a:a.test"]
            )
            topic = room.event("m.room.topic", ALICE, {}, "", auth=["$a:a.test"])
            states = [
                {**base, first.key(): first.event_id, topic.key(): topic.event_id},
                {**base, second.key(): second.event_id},
            ]
            for graph in (MemoryGraph(room.events), RankedMemoryGraph(room.events)):
                resolved = resolve(room.rules, states, graph)
                self.assertEqual(resolved[("m.room.create", "")], "$create")

    def test_unknown_events_are_left_out(self) -> None:
        for version in ("2", "12"):
            room = usual_room(version)
            base = {key: str(event.event_id) for key, event in room.state.items()}
            topic = room.event("m.room.topic", ALICE, {}, "", auth=["$gone", base[("m.room.member", ALICE)]])
            states = [{**base, ("x", ""): "$nowhere"}, {**base, topic.key(): topic.event_id}]
            resolved = resolve(room.rules, states, RankedMemoryGraph(room.events))
            self.assertNotIn(("x", ""), resolved)
            self.assertEqual(resolved[("m.room.create", "")], "$create")

    def test_degenerate_input(self) -> None:
        room = usual_room("12")
        base = {key: str(event.event_id) for key, event in room.state.items()}
        graph = MemoryGraph(room.events)
        self.assertEqual(resolve(room.rules, [], graph), {})
        self.assertEqual(resolve(room.rules, [{}, {}], graph), {})
        only = resolve(room.rules, [base], graph)
        self.assertEqual(only, base)
        self.assertIsNot(only, base)
        self.assertEqual(resolve(room.rules, [base, dict(base)], graph), base)
        self.assertEqual(graph.questions, 0)
        self.assertEqual(resolve(room.rules, [base, {}], graph), base)
