"""The scenarios of tests/fixtures/state: what each must resolve to, in every room version that it names."""

from itertools import permutations

from twisted.trial.unittest import SynchronousTestCase

from federation.state.resolve import resolve
from tests.unit.federation.state.graphs import (
    AscendingMemoryGraph,
    MemoryGraph,
    NumberedGraph,
    RankedMemoryGraph,
    load_scenarios,
)
from tests.unit.federation.state.naive import Naive


class ScenarioTests(SynchronousTestCase):
    def test_expected_state(self) -> None:
        scenarios = load_scenarios()
        self.assertGreaterEqual(len(scenarios), 12)
        for scenario in scenarios:
            for version in scenario.room_versions:
                room, states = scenario.build(version)
                resolved = resolve(room.rules, states, MemoryGraph(room.events))
                for key, ref in scenario.expected().items():
                    self.assertEqual(resolved.get(key), ref, (scenario.name, version, key))

    def test_unconflicted_state_survives(self) -> None:
        for scenario in load_scenarios():
            for version in scenario.room_versions:
                room, states = scenario.build(version)
                resolved = resolve(room.rules, states, MemoryGraph(room.events))
                common = set(states[0].items()).intersection(*(state.items() for state in states[1:]))
                self.assertLessEqual(common, set(resolved.items()), scenario.name)

    def test_every_way_to_ask_agrees(self) -> None:
        for scenario in load_scenarios():
            for version in scenario.room_versions:
                room, states = scenario.build(version)
                expected = Naive(room.rules, room.events).resolve(states)
                for ordered in permutations(states):
                    self.assertEqual(
                        resolve(room.rules, ordered, MemoryGraph(room.events)), expected, scenario.name
                    )
                for knowing in (RankedMemoryGraph(room.events), AscendingMemoryGraph(room.events)):
                    self.assertEqual(resolve(room.rules, states, knowing), expected, scenario.name)
                graph = NumberedGraph(MemoryGraph(room.events))
                numbered = [{key: graph.number[ref] for key, ref in state.items()} for state in states]
                by_number = resolve(room.rules, numbered, graph)
                self.assertEqual(
                    {key: graph.name[ref] for key, ref in by_number.items()}, expected, scenario.name
                )
