"""When batches begin and end, and in which order who waits is told: with a database that answers when the test says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.db.engine import open_engine
from homeserver.db.errors import DatabaseUnavailable
from homeserver.db.threads import Database, InlineDatabase
from homeserver.db.tx import Tx, WriteTx
from homeserver.e2ee.claims import ClaimDesk
from homeserver.rooms.committer import SHORT_WEIGHT, Committer
from homeserver.runtime.clock import TwistedClock
from homeserver.store.changes import Change, Kind
from homeserver.store.ids import LEASE_SIZE, Interner, Nids, lease_nids
from homeserver.store.key_claims import Wanted
from homeserver.store.work import short
from tests.support.accounts import now
from tests.support.databases import DatabaseCase, on_each_database


class _SlowDatabase:
    """Transactions run at once, and are heard of when ``answer`` is called."""

    answers_later = True

    def __init__(self, inner: InlineDatabase) -> None:
        self.inner = inner
        self.began = self.began_short = 0
        self._answers: deque[Callable[[], object]] = deque()

    def read(self, unit: Any, *args: Any) -> Deferred[Any]:
        found: Deferred[Any] = self.inner.read(unit, *args)
        return found

    def write(self, unit: Any, *args: Any) -> Deferred[Any]:
        self.began += 1
        result: Deferred[Any] = Deferred()
        found: Deferred[Any] = self.inner.write(unit, *args)
        self._answers.append(partial(found.chainDeferred, result))
        return result

    def write_short(self, unit: Any, *args: Any) -> Deferred[Any]:
        self.began_short += 1
        return self.write(unit, *args)

    def answer(self) -> None:
        self._answers.popleft()()


def _claim(tx: WriteTx, number: int) -> None:
    tx.claim(Kind.PROFILE, -number)


def _claim_nothing(tx: WriteTx, _: None) -> None:
    """What gathers has its own."""


def _insert(tx: Tx, names: Sequence[Any]) -> None:
    for rows, values in names:
        tx.insert(rows, values)


@short
def _claim_briefly(tx: WriteTx, number: int) -> None:
    _claim(tx, number)


@on_each_database
class Batches(DatabaseCase):
    def setUp(self) -> None:
        inner = InlineDatabase(open_engine(self.new_database()))
        self.addCleanup(inner.stop)
        self.database = _SlowDatabase(inner)
        nids = Nids()
        nids.add(now(inner.write(lease_nids, LEASE_SIZE)))
        database = cast(Database, self.database)
        self.said: list[object] = []
        self.time = task.Clock()
        clock = TwistedClock(self.time)
        self.interner = Interner(database, nids)
        self.other = Interner(database, nids)  # of another process
        self.committer = Committer(database, self.interner, nids, self.publish, clock)

    def publish(self, changes: list[Change]) -> None:
        self.said += [change.topic for change in changes]

    def claim(self, number: int) -> None:
        """Claim a position; in the end it is said which, and how much has begun by then."""

        def claimed(_: None) -> None:
            self.said.append((number, self.database.began))

        self.committer.work(_claim, number).addCallback(claimed)

    def test_what_waits_is_begun_before_anybody_is_told(self) -> None:
        self.claim(1)
        self.time.advance(0)
        self.claim(2)
        self.assertEqual((1, []), (self.database.began, self.said))
        self.database.answer()
        self.assertEqual([-1, (1, 2)], self.said)
        self.database.answer()
        self.assertEqual([-1, (1, 2), -2, (2, 2)], self.said)
        self.assertTrue(self.committer.drained().called)

    def test_nothing_is_begun_on_what_failed_before_that_is_told(self) -> None:
        def unit(_: WriteTx) -> None:
            raise DatabaseUnavailable("gone")

        failing = self.committer.work(unit)
        failing.addErrback(lambda failure: self.said.append((str(failure.value), self.database.began)))
        self.time.advance(0)
        self.claim(2)
        self.database.answer()
        self.assertEqual(([("gone", 1)], 2), (self.said, self.database.began))
        self.database.answer()
        self.assertEqual([("gone", 1), -2, (2, 2)], self.said)

    def test_who_is_told_may_go_on(self) -> None:
        def go_on(_: None) -> None:
            self.claim(2)
            self.said.append("asked")

        self.committer.work(_claim, 1).addCallback(go_on)
        self.time.advance(0)
        self.database.answer()
        self.assertEqual(([-1, "asked"], 2), (self.said, self.database.began))
        self.database.answer()
        self.assertEqual([-1, "asked", -2, (2, 2)], self.said)

    def test_a_database_that_answers_at_once_keeps_the_order(self) -> None:
        answers_at_once = cast(Database, self.database.inner)
        nids = Nids()
        nids.add(range(1, 2))
        said: list[object] = []

        def claim(number: int) -> None:
            working: Deferred[None] = committer.work(_claim, number)
            working.addCallback(lambda _: said.append(number))

        def publish(changes: list[Change]) -> None:
            said.extend(change.topic for change in changes)
            if len(said) == 1:
                claim(2)
                claim(3)
                said.append("waiting")

        committer = Committer(
            answers_at_once, Interner(answers_at_once, nids), nids, publish, TwistedClock(self.time)
        )
        claim(1)
        self.time.advance(0)
        self.assertEqual([-1, "waiting", 1, -2, -3, 2, 3], said)

    def test_what_comes_before_the_transaction_begins_is_gathered(self) -> None:
        waiting = [1, 2]

        def gather() -> list[int]:
            found = list(waiting)
            waiting.clear()
            return found

        def unit(tx: WriteTx, numbers: list[int]) -> list[int]:
            for number in numbers:
                _claim(tx, number)
            return numbers

        self.claim(7)
        self.time.advance(0)
        self.committer.work_on(gather, unit).addCallback(self.said.append)
        waiting.append(3)
        self.database.answer()
        self.assertEqual([], waiting)
        waiting.append(4)
        self.database.answer()
        self.assertEqual([-7, (7, 2), -1, -2, -3, [1, 2, 3]], self.said)

    def test_one_that_fails_among_others_is_told_in_its_turn(self) -> None:
        def unit(tx: WriteTx) -> None:
            tx.script("this is no SQL")

        self.claim(1)
        failing = self.committer.work(unit)
        failing.addErrback(lambda failure: self.said.append(type(failure).__name__))
        self.claim(3)
        self.time.advance(0)
        self.claim(4)
        for _ in range(5):
            self.database.answer()
            self.time.advance(0)
        self.assertEqual([-1, (1, 2), Failure.__name__, -3, (3, 4), -4, (4, 5)], self.said)

    def test_what_cannot_even_begin_fails_and_what_comes_after_it_is_written(self) -> None:
        failures = deque([ValueError("a fault of ours"), ValueError("and again"), ValueError("and again")])
        unsaved = self.interner.unsaved

        def fail_first() -> list[Any]:
            if failures:
                raise failures.popleft()
            return unsaved()

        self.patch(self.interner, "unsaved", fail_first)
        for number in (1, 2):
            failing = self.committer.work(_claim, number)
            failing.addErrback(lambda failure: self.said.append(failure.type))
        self.time.advance(0)
        self.claim(3)
        for _ in range(5):
            self.time.advance(0)
        self.assertEqual(([ValueError, ValueError], 1), (self.said, self.database.began))
        self.database.answer()
        self.assertEqual([-3, (3, 1)], self.said[2:])
        self.assertTrue(self.committer.drained().called)

    def test_what_is_stored_is_told_although_the_next_batch_cannot_begin(self) -> None:
        self.claim(1)
        self.time.advance(0)
        self.committer.work(_claim, 2).addErrback(lambda failure: self.said.append(failure.type))

        def unsaved() -> list[Any]:
            raise ValueError("a fault of ours")

        self.patch(self.interner, "unsaved", unsaved)
        self.database.answer()
        self.assertEqual([-1, (1, 1)], self.said)
        self.time.advance(0)
        self.assertEqual([-1, (1, 1), ValueError], self.said)

    def test_a_name_that_another_process_has_bound(self) -> None:
        theirs = now(self.other.user("@a:a"))
        self.assertNotEqual(theirs, now(self.interner.user("@a:a")))
        now(self.database.inner.write(_insert, self.other.unsaved()))
        for number in (1, 2):
            failing = self.committer.work(_claim, number)
            failing.addErrback(lambda failure: self.said.append(failure.type))
        self.time.advance(0)
        failing = self.committer.work(_claim, 3)  # it may know the number too
        failing.addErrback(lambda failure: self.said.append(failure.type))
        self.database.answer()
        for _ in range(3):
            self.time.advance(0)
        self.assertEqual([DatabaseUnavailable] * 3, self.said)
        self.assertEqual(theirs, now(self.interner.user("@a:a")))
        self.claim(4)
        self.time.advance(0)
        self.database.answer()
        self.assertEqual([-4, (4, 2)], self.said[3:])

    def test_claims_that_wait_while_another_process_has_bound_a_name(self) -> None:
        """They fail as all that waits does, and whoever comes again is answered."""
        desk = ClaimDesk(self.committer)
        now(self.other.user("@a:a"))
        now(self.interner.user("@a:a"))
        now(self.database.inner.write(_insert, self.other.unsaved()))
        self.committer.work(_claim, 1).addErrback(lambda failure: self.said.append(failure.type))
        self.time.advance(0)
        wanted = [Wanted(1, "DEVICE", "curve")]
        claims = [Deferred.fromCoroutine(desk.take(wanted)) for _ in range(2)]
        failing = self.committer.work_on(lambda: self.said.append("gathered"), _claim_nothing)
        failing.addErrback(lambda failure: self.said.append(failure.type))
        self.database.answer()
        self.time.advance(0)
        self.assertEqual([DatabaseUnavailable, "gathered", DatabaseUnavailable], self.said)
        for claim in claims:
            self.failureResultOf(claim, DatabaseUnavailable)
        again = Deferred.fromCoroutine(desk.take(wanted))
        self.time.advance(0)
        self.database.answer()
        self.assertEqual([None], self.successResultOf(again))

    def test_few_statements_are_not_handed_over(self) -> None:
        """Units that are marked, and no more of them than a reactor may run at once."""
        for number in range(SHORT_WEIGHT):
            self.committer.work(_claim_briefly, number)
        self.time.advance(0)
        self.assertEqual((1, 1), (self.database.began, self.database.began_short))
        self.database.answer()
        for number in range(SHORT_WEIGHT + 1):
            self.committer.work(_claim_briefly, number)
        self.time.advance(0)
        self.assertEqual((2, 1), (self.database.began, self.database.began_short))
        self.database.answer()
        self.committer.work(_claim_briefly, 1)
        self.committer.work(_claim, 1)
        self.time.advance(0)
        self.assertEqual((3, 1), (self.database.began, self.database.began_short))
        self.database.answer()
