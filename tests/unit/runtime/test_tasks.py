"""Supervised tasks and bounded queues."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock as VirtualTime
from twisted.trial.unittest import SynchronousTestCase

from homeserver.runtime.clock import TwistedClock, sleep
from homeserver.runtime.log import MemoryLog
from homeserver.runtime.tasks import BoundedQueue, Overflow, QueueClosedError, TaskGroup, all_of


class TaskGroupTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = VirtualTime()
        self.clock = TwistedClock(self.time)
        self.log = MemoryLog()
        self.group = TaskGroup(self.clock, self.log)

    def test_a_task_runs_and_leaves_the_group(self) -> None:
        done: list[str] = []

        async def work() -> None:
            await sleep(self.clock, 1)
            done.append("x")

        ended = self.group.spawn("worker", work())
        self.assertEqual(self.group.names(), ["worker"])
        self.assertNoResult(ended)
        self.time.advance(1)
        self.assertIsNone(self.successResultOf(ended))
        self.assertEqual((done, len(self.group), self.log.entries), (["x"], 0, []))

    def test_a_failure_is_logged_with_the_name_and_harms_nobody(self) -> None:
        async def work() -> None:
            raise ValueError("broken")

        ended = self.group.spawn("worker", work())
        self.assertIsNone(self.successResultOf(ended))
        self.assertEqual(self.log.events("error"), ["task failed"])
        self.assertEqual(self.log.entries[0][2]["task"], "worker")

    def test_stop_cancels_and_waits_for_those_that_tidy_up(self) -> None:
        order: list[str] = []
        tidied: Deferred[None] = Deferred()

        async def quick() -> None:
            try:
                await sleep(self.clock, 100)
            finally:
                order.append("quick")

        async def slow() -> None:
            try:
                await sleep(self.clock, 100)
            except CancelledError:
                await tidied
                order.append("slow")

        self.group.spawn("quick", quick())
        self.group.spawn("slow", slow())
        stopped = self.group.stop()
        self.assertNoResult(stopped)
        self.assertEqual(order, ["quick"])
        tidied.callback(None)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual((order, len(self.group), self.log.entries), (["quick", "slow"], 0, []))
        self.assertEqual(self.time.getDelayedCalls(), [])

    def test_stop_of_an_empty_group_and_start_after_it(self) -> None:
        self.assertIsNone(self.successResultOf(self.group.stop()))

        async def work() -> None:
            raise AssertionError("must not run")

        with self.assertRaises(RuntimeError):
            self.group.spawn("late", work())

    def test_one_task_can_be_cancelled_alone(self) -> None:
        ended = self.group.spawn("one", self._sleep_long())
        other = self.group.spawn("other", self._sleep_long())
        ended.cancel()
        self.assertIsNone(self.successResultOf(ended))
        self.assertNoResult(other)
        self.assertEqual(self.group.names(), ["other"])

    async def _sleep_long(self) -> None:
        await sleep(self.clock, 1000)

    def test_restarts_wait_longer_each_time_and_forget_after_a_healthy_run(self) -> None:
        started: list[float] = []
        lasting = deque([0.0, 0.0, 0.0, 0.0, 50.0, 0.0])

        async def work() -> None:
            started.append(self.clock.seconds())
            await sleep(self.clock, lasting.popleft())
            if lasting:
                raise ValueError

        ended = self.group.spawn_restarting("worker", work, shortest_wait_s=1, longest_wait_s=4)
        self.time.pump([0.5] * 200)
        self.assertEqual(started, [0.0, 1.5, 3.5, 7.5, 11.5, 62.5])
        self.assertIsNone(self.successResultOf(ended))
        self.assertEqual(len(self.log.events("error")), 5)

    def test_stop_ends_a_task_that_waits_for_its_restart(self) -> None:
        async def work() -> None:
            raise ValueError

        self.group.spawn_restarting("worker", work)
        self.assertIsNone(self.successResultOf(self.group.stop()))
        self.assertEqual(self.time.getDelayedCalls(), [])

    def test_what_fails_while_it_is_stopped_is_not_begun_again(self) -> None:
        started: list[float] = []

        async def work() -> None:
            started.append(self.clock.seconds())
            try:
                await sleep(self.clock, 100)
            except CancelledError:
                raise ValueError from None

        self.group.spawn_restarting("worker", work)
        self.assertIsNone(self.successResultOf(self.group.stop()))
        self.assertEqual(self.time.getDelayedCalls(), [])
        self.assertEqual((started, self.log.events("error")), ([0.0], ["task failed"]))


class AllOfTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.parts: list[Deferred[int]] = [Deferred(), Deferred()]
        self.whole = Deferred.fromCoroutine(all_of(self.parts))

    def test_results_are_in_order_when_the_last_has_come(self) -> None:
        self.parts[1].callback(2)
        self.assertNoResult(self.whole)
        self.parts[0].callback(1)
        self.assertEqual([1, 2], self.successResultOf(self.whole))

    def test_a_failure_is_raised_as_it_is_when_all_have_ended(self) -> None:
        self.parts[0].errback(ValueError("a part"))
        self.assertNoResult(self.whole)
        self.parts[1].callback(2)
        self.failureResultOf(self.whole, ValueError)

    def test_a_cancellation_stays_one(self) -> None:
        self.whole.cancel()
        self.failureResultOf(self.whole, CancelledError)


class BoundedQueueTests(SynchronousTestCase):
    def test_refuses_when_full(self) -> None:
        queue: BoundedQueue[int] = BoundedQueue(2)
        self.assertEqual([queue.put(item) for item in (1, 2, 3)], [True, True, False])
        self.assertEqual(queue.take_all(), [1, 2])
        self.assertEqual((len(queue), queue.dropped), (0, 0))

    def test_drops_the_oldest_when_told_to(self) -> None:
        queue: BoundedQueue[int] = BoundedQueue(2, Overflow.DROP_OLDEST)
        self.assertTrue(all(queue.put(item) for item in (1, 2, 3)))
        self.assertEqual((queue.take_all(), queue.dropped), ([2, 3], 1))

    def test_takers_are_served_in_order_and_a_cancelled_one_loses_nothing(self) -> None:
        queue: BoundedQueue[int] = BoundedQueue(1)
        first, second, third = queue.get(), queue.get(), queue.get()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertTrue(queue.put(1))
        self.assertTrue(queue.put(2))
        self.assertEqual((self.successResultOf(first), self.successResultOf(third)), (1, 2))

    def test_close_lets_the_rest_out_and_then_fails(self) -> None:
        queue: BoundedQueue[int] = BoundedQueue(2)
        queue.put(1)
        queue.close()
        self.assertFalse(queue.put(2))
        self.assertEqual(self.successResultOf(queue.get()), 1)
        self.failureResultOf(queue.get(), QueueClosedError)
        waiting: BoundedQueue[int] = BoundedQueue(2)
        taker = waiting.get()
        waiting.close()
        self.failureResultOf(taker, QueueClosedError)

    def test_a_queue_of_nothing_is_refused(self) -> None:
        with self.assertRaises(ValueError):
            BoundedQueue(0)

    @given(
        st.lists(st.one_of(st.integers(), st.none()), max_size=40),
        st.integers(1, 5),
        st.sampled_from(Overflow),
    )
    @settings(max_examples=100, deadline=None)
    def test_behaves_like_a_list_with_a_bound(
        self, steps: list[int | None], maximum: int, rule: Overflow
    ) -> None:
        queue: BoundedQueue[int] = BoundedQueue(maximum, rule)
        model: list[int] = []
        for step in steps:
            if step is None:
                if model:
                    self.assertEqual(self.successResultOf(queue.get()), model.pop(0))
            elif len(model) < maximum:
                self.assertTrue(queue.put(step))
                model.append(step)
            elif rule is Overflow.REFUSE:
                self.assertFalse(queue.put(step))
            else:
                self.assertTrue(queue.put(step))
                model = [*model[1:], step]
            self.assertEqual(len(queue), len(model))
        self.assertEqual(queue.take_all(), model)
