"""Claims are gathered until the transaction that takes them begins, and no transaction takes more than some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial import unittest

from homeserver.e2ee.claims import AT_ONCE, Answer, ClaimDesk
from homeserver.store.key_claims import Wanted
from homeserver.store.work import GatheringWorker


class _Transactions:
    """Begin and end when the test says."""

    def __init__(self) -> None:
        self.asked: list[tuple[Callable[[], list[Wanted]], Deferred[Any]]] = []

    def work_on(self, gather: Callable[[], list[Wanted]], _: object) -> Deferred[Any]:
        result: Deferred[Any] = Deferred()
        self.asked.append((gather, result))
        return result

    def begin(self) -> tuple[list[int], Deferred[Any]]:
        """The users whose keys are claimed in the next transaction."""
        gather, result = self.asked.pop(0)
        return [one.user_nid for one in gather()], result


class Desk(unittest.TestCase):
    def setUp(self) -> None:
        self.transactions = _Transactions()
        self.desk = ClaimDesk(cast(GatheringWorker, self.transactions))

    def take(self, *user_nids: int) -> Deferred[Answer]:
        return Deferred.fromCoroutine(self.desk.take([Wanted(nid, "DEVICE", "curve") for nid in user_nids]))

    def test_whoever_comes_before_it_begins_is_in_it(self) -> None:
        one, two = self.take(1, 2), self.take(3)
        numbers, working = self.transactions.begin()
        self.assertEqual([1, 2, 3], numbers)
        three = self.take(4)
        later, also_working = self.transactions.begin()
        self.assertEqual([4], later)
        working.callback(["a", "b", "c"])
        self.assertEqual(["a", "b"], self.successResultOf(one))
        self.assertEqual(["c"], self.successResultOf(two))
        self.assertNoResult(three)
        also_working.callback([None])
        self.assertEqual([None], self.successResultOf(three))
        self.assertEqual([], self.transactions.asked)

    def test_what_is_too_much_comes_after_it(self) -> None:
        many, one = self.take(*range(AT_ONCE)), self.take(1_000)
        numbers, working = self.transactions.begin()
        self.assertEqual(list(range(AT_ONCE)), numbers)
        two = self.take(1_001)
        self.assertEqual([], self.transactions.asked)
        working.callback([None] * AT_ONCE)
        self.assertEqual([None] * AT_ONCE, self.successResultOf(many))
        numbers, working = self.transactions.begin()
        self.assertEqual([1_000, 1_001], numbers)
        working.callback(["a", "b"])
        self.assertEqual((["a"], ["b"]), (self.successResultOf(one), self.successResultOf(two)))

    def test_a_failure_is_everybody_s(self) -> None:
        one, two = self.take(1), self.take(2)
        _, working = self.transactions.begin()
        working.errback(Failure(OSError("gone")))
        self.failureResultOf(one, OSError)
        self.failureResultOf(two, OSError)
        three = self.take(3)
        self.assertEqual([3], self.transactions.begin()[0])
        self.assertNoResult(three)

    def test_one_that_fails_before_it_begins(self) -> None:
        many, one = self.take(*range(AT_ONCE)), self.take(1_000)
        _, working = self.transactions.asked.pop(0)
        working.errback(Failure(OSError("gone")))
        self.failureResultOf(many, OSError)
        self.assertEqual([1_000], self.transactions.begin()[0])
        self.assertNoResult(one)
