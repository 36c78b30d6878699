"""Turns of push gateways: nobody is starved, nobody exceeds their share."""

from __future__ import annotations

from unittest import TestCase

from hypothesis import given
from hypothesis import strategies as st

from homeserver.push import lanes as module
from homeserver.push.lanes import Lanes


def take(lanes: Lanes[str]) -> list[tuple[str, str]]:
    """Everybody who may go now."""
    found: list[tuple[str, str]] = []
    while (turn := lanes.next()) is not None:
        found.append(turn)
    return found


class Turns(TestCase):
    def earn(self, lanes: Lanes[str], url: str) -> None:
        lanes.wait(url, "first")
        self.assertEqual((url, "first"), lanes.next())
        lanes.leave(url, "first", 0.1)

    def test_a_place_is_earned(self) -> None:
        lanes: Lanes[str] = Lanes()
        for number in range(30):
            lanes.wait("new", str(number))
        self.assertEqual(module.PER_OTHER_MOST, len(take(lanes)))
        lanes.leave("new", "0", 0.5)
        self.assertEqual(module.PER_GATEWAY_MOST - module.PER_OTHER_MOST + 1, len(take(lanes)))
        # And lost by being late, or by nothing at all; then one at a time.
        lanes.leave("new", "1", 5.0)
        self.assertEqual([], take(lanes))
        lanes.leave("new", "2", 0.1, answered=False)
        for number in range(3, 20):
            lanes.leave("new", str(number), 0.1, answered=False)
            self.assertEqual([], take(lanes)) if number < 19 else None
        self.assertLessEqual(lanes.busy, 4)

    def test_slow_ones_keep_nobody_waiting(self) -> None:
        lanes: Lanes[str] = Lanes()
        self.earn(lanes, "good")
        for number in range(500):
            lanes.wait(f"slow{number}", f"s{number}")
        self.assertEqual(module.OTHERS_MOST, len(take(lanes)))
        lanes.wait("good", "g")
        self.assertEqual([("good", "g")], take(lanes))
        # None of the others is starved: each that ends makes room for one that waits.
        for number in range(470):
            lanes.leave(f"slow{number}", f"s{number}", 10.0, answered=False)
            self.assertEqual(1, len(take(lanes)))

    def test_a_busy_one_takes_turns(self) -> None:
        lanes: Lanes[str] = Lanes()
        for url in ("a", "b"):
            self.earn(lanes, url)
        for number in range(100):
            lanes.wait("a", f"a{number}")
        lanes.wait("b", "b")
        self.assertIn(("b", "b"), take(lanes)[:3])

    def test_forgotten_while_it_waits(self) -> None:
        lanes: Lanes[str] = Lanes()
        lanes.wait("a", "x")
        lanes.forget("a", "x")
        lanes.forget("nobody", "x")
        self.assertEqual([], take(lanes))

    @given(
        st.lists(
            st.tuples(st.sampled_from("abcdef"), st.booleans(), st.sampled_from([0.1, 5.0, None])),
            max_size=200,
        )
    )
    def test_everybody_has_a_turn(self, steps: list[tuple[str, bool, float | None]]) -> None:
        lanes: Lanes[str] = Lanes()
        waiting: set[str] = set()
        busy: list[tuple[str, str]] = []
        for number, (url, answered, took_s) in enumerate(steps):
            lanes.wait(url, f"{url}{number}")
            waiting.add(f"{url}{number}")
            if number % 3 == 2 and busy:
                lanes.leave(*busy.pop(0), took_s, answered=answered)
            for turn in take(lanes):
                waiting.remove(turn[1])
                busy.append(turn)
            self.assertLessEqual(len(busy), module.PROMPT_MOST + module.OTHERS_MOST)
        while busy:
            lanes.leave(*busy.pop(0), 0.1, answered=False)
            for turn in take(lanes):
                waiting.remove(turn[1])
                busy.append(turn)
        self.assertEqual((set(), 0, 0), (waiting, lanes.busy, lanes.waiting))
