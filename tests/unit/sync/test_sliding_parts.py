"""The small parts of sliding sync: ranges, and what a connection weighs."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import msgspec
from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from homeserver.store.sliding import ConnectionKey
from homeserver.sync.sliding.connections import Connection, Told
from homeserver.sync.sliding.request import parse_request
from homeserver.sync.sliding.required import Required, weigh

_ranges = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 9)).map(lambda one: (one[0], sum(one))), max_size=12
)


class RangeTests(SynchronousTestCase):
    def parse(self, ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        body = msgspec.json.encode({"lists": {"a": {"ranges": ranges}}})
        found = parse_request(body, "@a:x", stable=False).lists["a"].ranges
        assert found is not None
        return found

    def test_what_overlaps_is_one(self) -> None:
        self.assertEqual(((1, 999_999),), self.parse([(1, 999_999)] * 100))
        self.assertEqual(((0, 9), (20, 29)), self.parse([(20, 29), (5, 9), (0, 4)]))

    @given(_ranges)
    def test_the_same_places_in_order_and_apart(self, ranges: list[tuple[int, int]]) -> None:
        merged = self.parse(ranges)
        places = [place for first, last in merged for place in range(first, last + 1)]
        self.assertEqual(
            sorted({place for first, last in ranges for place in range(first, last + 1)}), places
        )
        self.assertTrue(all(first > end + 1 for (_, end), (first, _) in pairwise(merged)))


class ConnectionTests(SynchronousTestCase):
    def test_wishes_are_counted_once_for_all_rooms(self) -> None:
        wishes = [frozenset({Required(frozenset({(f"{number}" * 200, "")}))}) for number in range(3)]
        connection = Connection(ConnectionKey(1, 2, ""), "epoch")
        connection.put(1, {})
        self.assertEqual(0, connection.size)
        rooms = {nid: Told(wishes=wishes[0]) for nid in range(100)}
        connection.put(2, rooms)
        alike = connection.size
        connection.put(3, rooms | {7: Told(wishes=wishes[1]), 8: Told(wishes=wishes[2])})
        self.assertEqual(2 * alike + weigh(wishes[1]) + weigh(wishes[2]), connection.size)
        self.assertGreater(weigh(wishes[1]), 200)
        connection.drop([1, 3])
        self.assertEqual((alike, {2}), (connection.size, set(connection.states)))
