"""What lies at hand is bounded, and what is in use stays."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from homeserver.media.at_hand import AtHand


class Books(unittest.TestCase):
    def test_the_least_used_goes_first(self) -> None:
        books = AtHand(30)
        for name in "abc":
            books.note((name, False), 10)
        books.touch(("a", False))
        self.assertEqual([], books.take_surplus())
        books.note(("d", False), 10)
        self.assertEqual([("b", False)], books.take_surplus())
        books.grow(("a", True), 5)
        books.grow(("a", True), 6)
        self.assertEqual([("c", False), ("a", False)], books.take_surplus())
        self.assertEqual(21, books.bytes)

    def test_what_is_used_stays(self) -> None:
        books = AtHand(5)
        books.note(("a", False), 10)
        with books.using(("a", False)), books.using(("a", False)):
            self.assertEqual([], books.take_surplus())
        self.assertEqual([("a", False)], books.take_surplus())
        self.assertEqual(0, books.bytes)

    def test_what_was_there_before_is_older(self) -> None:
        books = AtHand(20)
        books.note(("new", False), 10)
        books.found([(("old", False), 10), (("new", False), 99), (("older", True), 5)])
        self.assertEqual(25, books.bytes)
        self.assertEqual([("old", False)], books.take_surplus())

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("ngft"), st.integers(0, 5), st.integers(0, 40))))
    def test_the_sum_is_right(self, steps: list[tuple[str, int, int]]) -> None:
        books, model = AtHand(60), dict[str, int]()
        for step, number, size in steps:
            name = str(number)
            if step == "n":
                books.note((name, False), size)
                model[name] = size
            elif step == "g":
                books.grow((name, False), size)
                model[name] = model.get(name, 0) + size
            elif step == "f":
                books.forget((name, False))
                model.pop(name, None)
            for gone, _ in books.take_surplus():
                del model[gone]
            self.assertEqual(sum(model.values()), books.bytes)
            self.assertLessEqual(books.bytes, 60)
            self.assertEqual(
                [name in model for name in "012345"], [(name, False) in books for name in "012345"]
            )
