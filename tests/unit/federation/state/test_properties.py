"""Properties of state resolution on generated rooms, against the naive reference."""

from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from federation.state.resolve import resolve
from tests.unit.federation.state.generated import Grown, draws, grow
from tests.unit.federation.state.graphs import (
    AscendingMemoryGraph,
    MemoryGraph,
    NumberedGraph,
    RankedMemoryGraph,
    State,
)
from tests.unit.federation.state.naive import Naive

versions_of_2 = st.sampled_from(("2", "6", "10", "11", "12", "12"))
choices = st.lists(st.integers(min_value=0, max_value=10_000), min_size=2, max_size=5)
modest = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def choose(grown: Grown, numbers: Sequence[int]) -> list[State]:
    return [grown.snapshots[number % len(grown.snapshots)] for number in numbers]


class PropertyTests(SynchronousTestCase):
    @modest
    @given(versions_of_2, draws, choices)
    def test_agrees_with_the_text(self, version: str, numbers: list[int], chosen: list[int]) -> None:
        grown = grow(version, numbers)
        states, events, rules = choose(grown, chosen), grown.room.events, grown.room.rules
        expected = Naive(rules, events).resolve(states)
        self.assertEqual(resolve(rules, states, MemoryGraph(events)), expected)
        self.assertEqual(resolve(rules, states, RankedMemoryGraph(events)), expected)
        self.assertEqual(resolve(rules, states, AscendingMemoryGraph(events)), expected)

    @modest
    @given(versions_of_2, draws, choices, st.sets(st.integers(0, 40), max_size=6))
    def test_agrees_with_the_text_on_rejected_events(
        self, version: str, numbers: list[int], chosen: list[int], bad: set[int]
    ) -> None:
        grown = grow(version, numbers)
        states, events, rules = choose(grown, chosen), grown.room.events, grown.room.rules
        ids = list(events)
        rejected = [ids[number] for number in sorted(bad) if 5 < number < len(ids)]
        expected = Naive(rules, events, rejected).resolve(states)
        self.assertEqual(resolve(rules, states, RankedMemoryGraph(events, rejected)), expected)
        self.assertEqual(resolve(rules, states, AscendingMemoryGraph(events, rejected)), expected)

    @modest
    @given(st.sampled_from(("1", "2", "12")), draws, choices, st.randoms(use_true_random=False))
    def test_order_and_references_do_not_matter(
        self, version: str, numbers: list[int], chosen: list[int], shuffler: object
    ) -> None:
        grown = grow(version, numbers)
        states, rules = choose(grown, chosen), grown.room.rules
        graph = MemoryGraph(grown.room.events)
        expected = resolve(rules, states, graph)
        shuffled = [dict(sorted(state.items(), reverse=True)) for state in reversed(states)]
        shuffler.shuffle(shuffled)  # type: ignore[attr-defined]
        self.assertEqual(resolve(rules, [*shuffled, states[0]], graph), expected)
        numbered_graph = NumberedGraph(graph)
        numbered = [{key: numbered_graph.number[ref] for key, ref in state.items()} for state in states]
        by_number = resolve(rules, numbered, numbered_graph)
        self.assertEqual({key: numbered_graph.name[ref] for key, ref in by_number.items()}, expected)

    @modest
    @given(st.sampled_from(("1", "2", "12")), draws, choices)
    def test_what_all_states_agree_on_stays(
        self, version: str, numbers: list[int], chosen: list[int]
    ) -> None:
        grown = grow(version, numbers)
        states, rules = choose(grown, chosen), grown.room.rules
        before = [dict(state) for state in states]
        resolved = resolve(rules, states, RankedMemoryGraph(grown.room.events))
        self.assertEqual(states, before, "the input was changed")
        common = set(states[0].items()).intersection(*(state.items() for state in states))
        self.assertLessEqual(common, set(resolved.items()))
        self.assertLessEqual(set(resolved.items()) - common, set(self.candidates(grown)))
        self.assertEqual(resolve(rules, [resolved, resolved], MemoryGraph(grown.room.events)), resolved)

    def candidates(self, grown: Grown) -> list[tuple[tuple[str, str], str]]:
        return [(event.key(), event_id) for event_id, event in grown.room.events.items()]
