"""How far an application service is said to be."""

from __future__ import annotations

from twisted.trial import unittest

from homeserver.appservices.outbox import TAKEN_UNTIL_LARGER, Outbox
from homeserver.appservices.registry import Appservice
from homeserver.store.appservices import Pending
from tests.support.app import SERVER_NAME
from tests.support.appservices import registration


class HowFar(unittest.TestCase):
    def setUp(self) -> None:
        self.box = Outbox(Appservice(registration(encryption=True), SERVER_NAME))
        self.box.pending = Pending("bridge", "one", 10, b"", ())
        self.box.passed = 11

    def test_everything_that_was_looked_at(self) -> None:
        self.box.succeeded()
        self.assertEqual(11, self.box.progress().caught_up_to)

    def test_no_further_than_changes_of_keys_that_are_still_to_be_told(self) -> None:
        for waiting in (self.box.devices, self.box.changed, self.box.left):
            waiting.add(7)
            self.box.pending = Pending("bridge", "one", 10, b"", ())
            self.box.succeeded()
            self.assertEqual(10, self.box.progress().caught_up_to)
            self.box.take_keys(10)
            # The transaction that tells of them does not arrive.
            self.box.pending = Pending("bridge", "two", 11, b"", ())
            self.box.failed(0, lambda low, _: low)
            self.assertEqual(10, self.box.progress().caught_up_to)
            self.box.take_keys(10)
        self.box.pending = Pending("bridge", "two", 11, b"", ())
        self.box.succeeded()
        self.assertEqual(11, self.box.progress().caught_up_to)


class HowLarge(unittest.TestCase):
    def test_larger_ones_are_tried_after_many_that_were_taken(self) -> None:
        box = Outbox(Appservice(registration(), SERVER_NAME))

        def begin() -> None:
            box.pending, box.is_kept = Pending("bridge", "one", 10, b"x" * 1000, ()), True

        begin()
        self.assertTrue(box.refused())
        for _ in range(TAKEN_UNTIL_LARGER):
            self.assertEqual(500, box.bytes_most)
            begin()
            box.succeeded()
        self.assertEqual(1000, box.bytes_most)
        begin()
        self.assertTrue(box.refused())
        self.assertEqual(500, box.bytes_most)
