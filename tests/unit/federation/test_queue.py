"""The transaction queue machine. # spec: server-server-api#transactions"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.trial.unittest import SynchronousTestCase

from federation.ids import EventId, ServerName
from federation.queue import MAX_EDUS, MAX_PDUS, Destination, Outcome, OutgoingEdu, PduRef, Transaction

NAME = ServerName("other.example")


def ref(pos: int) -> PduRef:
    return PduRef(pos, EventId(f"${pos}"))


def destination(**options: Any) -> Destination:
    return Destination(NAME, **{"txn_prefix": "t", "caught_up_to": 0, **options})


def take(queue: Destination, now_ms: int = 0) -> Transaction:
    transaction = queue.next(now_ms)
    assert transaction is not None
    return transaction


class Queue(SynchronousTestCase):
    def test_nothing_to_say(self) -> None:
        queue = destination()
        self.assertIsNone(queue.next(0))
        self.assertIsNone(queue.wake_at(0))
        self.assertTrue(queue.is_idle)

    def test_one_in_flight_and_limits(self) -> None:
        queue = destination()
        for pos in range(1, 71):
            queue.enqueue(ref(pos))
        for number in range(130):
            self.assertTrue(queue.enqueue_edu(OutgoingEdu(b"%d" % number)))
        first = take(queue)
        self.assertEqual(first.pdus, tuple(ref(pos) for pos in range(1, MAX_PDUS + 1)))
        self.assertEqual([edu.body for edu in first.edus], [b"%d" % number for number in range(MAX_EDUS)])
        self.assertIsNone(queue.next(0))
        self.assertIsNone(queue.wake_at(0))
        self.assertEqual(queue.done(first.txn_id, Outcome.DELIVERED, 1), first)
        self.assertEqual(queue.caught_up_to(), 50)
        second = take(queue, 1)
        self.assertNotEqual(second.txn_id, first.txn_id)
        self.assertEqual((len(second.pdus), len(second.edus)), (20, 30))
        queue.done(second.txn_id, Outcome.DELIVERED, 2)
        self.assertEqual((queue.caught_up_to(), queue.is_idle), (70, True))

    def test_large_edus_are_spread(self) -> None:
        queue = destination()
        for _ in range(3):
            queue.enqueue_edu(OutgoingEdu(b"x" * 1_500_000))
        for _ in range(3):
            transaction = take(queue)
            self.assertEqual(len(transaction.edus), 1)
            queue.done(transaction.txn_id, Outcome.DELIVERED, 0)
        self.assertTrue(queue.is_idle)

    def test_retry_repeats_the_same_and_backs_off(self) -> None:
        queue = destination(retry_min_ms=10, retry_max_ms=50)
        queue.enqueue(ref(1))
        sent = take(queue)
        now_ms, waits = 0, []
        for _ in range(5):
            self.assertIsNone(queue.done(sent.txn_id, Outcome.RETRY_LATER, now_ms))
            wake_ms = queue.wake_at(now_ms)
            assert wake_ms is not None
            self.assertIsNone(queue.next(wake_ms - 1))
            queue.enqueue(ref(queue.failures + 1))
            waits.append(wake_ms - now_ms)
            now_ms = wake_ms
            self.assertIs(queue.next(now_ms), sent)
        self.assertEqual(waits, [10, 20, 40, 50, 50])
        self.assertEqual(queue.caught_up_to(), 0)
        queue.done(sent.txn_id, Outcome.DELIVERED, now_ms)
        self.assertEqual((queue.failures, queue.caught_up_to()), (0, 1))
        self.assertEqual(len(take(queue, now_ms).pdus), 5)

    def test_jitter_and_the_wish_of_the_remote(self) -> None:
        queue = destination(retry_min_ms=100, retry_max_ms=1000)
        queue.enqueue(ref(1))
        sent = take(queue)
        queue.done(sent.txn_id, Outcome.RETRY_LATER, 0, jitter=0.9)
        self.assertEqual(queue.wake_at(0), 100)
        take(queue, 100)
        queue.done(sent.txn_id, Outcome.RETRY_LATER, 100, jitter=0.5)
        self.assertEqual(queue.wake_at(0), 100 + 150)
        take(queue, 250)
        queue.done(sent.txn_id, Outcome.RETRY_LATER, 250, retry_after_ms=700)
        self.assertEqual(queue.wake_at(0), 250 + 700)
        queue.heard_from()
        self.assertEqual(queue.wake_at(300), 300)
        take(queue, 300)
        queue.done(sent.txn_id, Outcome.RETRY_LATER, 300, retry_after_ms=10**12)
        self.assertEqual(queue.wake_at(0), 1300)

    def test_give_up_goes_on(self) -> None:
        queue = destination()
        queue.enqueue(ref(1))
        sent = take(queue)
        queue.enqueue(ref(2))
        self.assertEqual(queue.done(sent.txn_id, Outcome.GIVE_UP, 0), sent)
        self.assertEqual(take(queue).pdus, (ref(2),))

    def test_strange_reports_change_nothing(self) -> None:
        queue = destination()
        self.assertIsNone(queue.done("t0", Outcome.DELIVERED, 0))
        queue.enqueue(ref(1))
        sent = take(queue)
        self.assertIsNone(queue.done("other", Outcome.DELIVERED, 0))
        queue.done(sent.txn_id, Outcome.RETRY_LATER, 0)
        self.assertIsNone(queue.done(sent.txn_id, Outcome.DELIVERED, 0))
        self.assertEqual(queue.caught_up_to(), 0)

    def test_edus_coalesce(self) -> None:
        queue = destination(max_pending_edus=3)
        queue.enqueue_edu(OutgoingEdu(b"1", "typing"))
        queue.enqueue_edu(OutgoingEdu(b"2"))
        queue.enqueue_edu(OutgoingEdu(b"3", "typing"))
        queue.enqueue_edu(OutgoingEdu(b"4", durable_pos=7))
        self.assertFalse(queue.enqueue_edu(OutgoingEdu(b"5")))
        self.assertTrue(queue.enqueue_edu(OutgoingEdu(b"6", "typing")))
        self.assertTrue(queue.enqueue_edu(OutgoingEdu(b"7", durable_pos=8)))
        queue.forget_ephemeral()
        self.assertEqual([edu.body for edu in take(queue).edus], [b"4", b"7"])

    def test_overflow_is_read_again_from_the_store(self) -> None:
        queue = destination(max_pending_pdus=60)
        for pos in range(1, 201):
            queue.enqueue(ref(pos))
        self.assertIsNone(queue.refill_after())
        delivered: list[PduRef] = []
        for _ in range(10):
            after = queue.refill_after()
            if after is not None:
                queue.refill(
                    [ref(pos) for pos in range(after + 1, min(after + 50, 200) + 1)], min(after + 50, 200)
                )
            transaction = queue.next(0)
            if transaction is None:
                break
            delivered.extend(transaction.pdus)
            queue.done(transaction.txn_id, Outcome.DELIVERED, 0)
        self.assertEqual(delivered, [ref(pos) for pos in range(1, 201)])
        self.assertEqual((queue.caught_up_to(), queue.is_idle), (200, True))

    def test_forgotten_events_do_not_count_as_delivered(self) -> None:
        queue = destination(max_pending_pdus=2)
        for pos in range(1, 6):
            queue.enqueue(ref(pos))
        queue.done(take(queue).txn_id, Outcome.DELIVERED, 0)
        self.assertEqual((queue.caught_up_to(), queue.refill_after(), queue.is_idle), (2, 2, False))
        # What the store gives again from before that position was delivered already.
        queue.refill([ref(pos) for pos in range(1, 6)], 5)
        self.assertEqual(take(queue).pdus, (ref(3), ref(4), ref(5)))

    def test_behind_at_start(self) -> None:
        queue = destination(caught_up_to=10)
        queue.mark_behind(30)
        self.assertEqual((queue.refill_after(), queue.wake_at(5), queue.is_idle), (10, 5, False))
        queue.enqueue(ref(31))
        queue.refill([ref(12)], 20)
        self.assertEqual(queue.refill_after(), 20)
        queue.refill([], 31)
        self.assertIsNone(queue.refill_after())
        self.assertEqual(take(queue).pdus, (ref(12),))
        queue.done("t0", Outcome.DELIVERED, 0)
        self.assertEqual(queue.caught_up_to(), 31)


class Machine(RuleBasedStateMachine):
    """Any order of calls: nothing lost, nothing twice, order kept, memory bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = destination(max_pending_pdus=55, retry_min_ms=10, retry_max_ms=100)
        self.log: list[PduRef] = []
        self.delivered: list[PduRef] = []
        self.sent: Transaction | None = None
        self.now_ms = 0

    @rule(count=st.integers(1, 40), gap=st.integers(1, 3))
    def enqueue(self, count: int, gap: int) -> None:
        for _ in range(count):
            item = ref((self.log[-1].pos if self.log else 0) + gap)
            self.log.append(item)
            self.queue.enqueue(item)

    @rule(wait_ms=st.integers(0, 60))
    def send(self, wait_ms: int) -> None:
        self.now_ms += wait_ms
        transaction = self.queue.next(self.now_ms)
        if transaction is not None:
            assert self.sent is None or self.sent is transaction
            assert len(transaction.pdus) <= MAX_PDUS
            self.sent = transaction

    @rule(ok=st.booleans())
    def finish(self, ok: bool) -> None:
        if self.sent is None:
            return
        outcome = Outcome.DELIVERED if ok else Outcome.RETRY_LATER
        if self.queue.done(self.sent.txn_id, outcome, self.now_ms) is not None:
            self.delivered.extend(self.sent.pdus)
            self.sent = None

    @rule(batch=st.integers(1, 50))
    def refill(self, batch: int) -> None:
        after = self.queue.refill_after()
        if after is not None:
            found = [item for item in self.log if item.pos > after][:batch]
            self.queue.refill(found, found[-1].pos if found else self.log[-1].pos)

    @rule()
    def shed(self) -> None:
        self.queue.shed()

    @rule(gap=st.integers(1, 3))
    def hear_of_while_away(self, gap: int) -> None:
        item = ref((self.log[-1].pos if self.log else 0) + gap)
        self.log.append(item)
        self.queue.mark_behind(item.pos)

    @invariant()
    def nothing_lost_or_reordered(self) -> None:
        assert self.delivered == self.log[: len(self.delivered)]
        undelivered = self.log[len(self.delivered) :]
        assert not undelivered or self.queue.caught_up_to() < undelivered[0].pos
        assert not self.queue.is_idle or not undelivered
        assert len(self.queue._pdus) <= 110

    def teardown(self) -> None:
        for _ in range(2 * len(self.log) + 10):
            self.refill(50)
            self.send(100)
            self.finish(True)
        assert self.delivered == self.log
        assert self.queue.is_idle


class AnyOrder(SynchronousTestCase):
    def test_machine(self) -> None:
        case = Machine.TestCase
        case.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, database=None)
        case().runTest()


class Outages(SynchronousTestCase):
    """What the shell needs around an outage."""

    def failed(self, *positions: int) -> Destination:
        """A queue of which the first transaction has failed."""
        queue = destination(retry_min_ms=1000, retry_max_ms=8000)
        for pos in positions:
            queue.enqueue(ref(pos))
        transaction = take(queue, 0)
        queue.done(transaction.txn_id, Outcome.RETRY_LATER, 0)
        return queue

    def test_shed_keeps_what_was_tried_and_reads_the_rest_again(self) -> None:
        queue = self.failed(*range(1, 61))
        queue.shed()
        self.assertEqual((queue.refill_after(), queue.caught_up_to(), queue.head_pos), (50, 0, 60))
        self.assertTrue(queue.is_retrying)
        self.assertTrue(queue.owes_pdus)
        queue.shed()
        self.assertEqual(queue.refill_after(), 50)
        again = take(queue, 1000)
        self.assertEqual([one.pos for one in again.pdus], list(range(1, 51)))
        queue.done(again.txn_id, Outcome.DELIVERED, 1000)
        self.assertEqual(queue.caught_up_to(), 50)
        queue.refill([ref(pos) for pos in range(45, 61)], 60)
        last = take(queue, 1000)
        self.assertEqual([one.pos for one in last.pdus], list(range(51, 61)))
        queue.done(last.txn_id, Outcome.DELIVERED, 1000)
        self.assertEqual((queue.caught_up_to(), queue.is_idle, queue.owes_pdus), (60, True, False))

    def test_as_an_earlier_process_left_it(self) -> None:
        queue = destination(
            caught_up_to=10, retry_min_ms=1000, retry_max_ms=8000, failures=2, retry_at_ms=5000
        )
        queue.mark_behind(20)
        self.assertIsNone(queue.next(4999))
        self.assertEqual((queue.wake_at(0), queue.failures, queue.retry_at_ms), (5000, 2, 5000))
        queue.refill([ref(15)], 20)
        transaction = take(queue, 5000)
        queue.done(transaction.txn_id, Outcome.RETRY_LATER, 5000)
        self.assertEqual((queue.retry_at_ms, queue.failures), (9000, 3))

    def test_a_sign_of_life_not_before(self) -> None:
        queue = self.failed(1)
        queue.heard_from(700)
        self.assertEqual(queue.retry_at_ms, 700)
        queue.heard_from(900)
        self.assertEqual(queue.retry_at_ms, 700, "never later than it was to be")
        queue.heard_from()
        self.assertIsNone(queue.retry_at_ms)

    def test_new_limits_hold_for_the_wait_that_has_begun(self) -> None:
        queue = self.failed(1)
        queue.limit_retries(100, 200, 0)
        self.assertEqual(queue.retry_at_ms, 200)
        transaction = take(queue, 200)
        queue.done(transaction.txn_id, Outcome.RETRY_LATER, 200)
        self.assertEqual(queue.retry_at_ms, 400)
