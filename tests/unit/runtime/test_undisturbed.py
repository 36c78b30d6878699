"""Reads that a change overtook are not kept."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from homeserver.stream.undisturbed import Readings


class ReadingsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.readings: Readings[str] = Readings()

    def read(self, key: str) -> tuple[Deferred[str], Deferred[tuple[str, bool]]]:
        source: Deferred[str] = Deferred()
        return source, Deferred.fromCoroutine(self.readings.read(key, source))

    def test_nothing_came(self) -> None:
        source, reading = self.read("a")
        self.readings.overtake("b")
        source.callback("found")
        self.assertEqual(("found", True), self.successResultOf(reading))

    def test_a_change_came(self) -> None:
        source, reading = self.read("a")
        self.readings.overtake("a")
        source.callback("found")
        self.assertEqual(("found", False), self.successResultOf(reading))

    def test_two_of_which_the_later_began_after_the_change(self) -> None:
        old, first = self.read("a")
        self.readings.overtake("a")
        new, second = self.read("a")
        new.callback("new")
        old.callback("old")
        self.assertEqual(("old", False), self.successResultOf(first))
        self.assertEqual(("new", True), self.successResultOf(second))

    def test_two_of_which_the_earlier_comes_back_first(self) -> None:
        old, first = self.read("a")
        self.readings.overtake("a")
        new, second = self.read("a")
        old.callback("old")
        self.assertEqual(("old", False), self.successResultOf(first))
        new.callback("new")
        self.assertEqual(("new", True), self.successResultOf(second))

    def test_a_failure_leaves_nothing(self) -> None:
        source, failed = self.read("a")
        source.errback(ValueError("no"))
        self.failureResultOf(failed, ValueError)
        self.readings.overtake("a")
        source, reading = self.read("a")
        source.callback("found")
        self.assertEqual(("found", True), self.successResultOf(reading))
