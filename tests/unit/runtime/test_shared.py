"""Work done once for all who want it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock as TaskClock
from twisted.trial.unittest import SynchronousTestCase

from homeserver.runtime.clock import TwistedClock
from homeserver.runtime.shared import Busy, Shared


class Sharing(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = TaskClock()
        self.work: list[Deferred[str]] = []

    def shared(self, **options: Any) -> Shared[str, str]:
        return Shared(TwistedClock(self.time), size=len, **options)

    def begin(self) -> Awaitable[str]:
        self.work.append(Deferred())
        return self.work[-1]

    def test_once_for_all_who_wait(self) -> None:
        shared = self.shared()
        one, other, third = (shared.get("key", self.begin) for _ in range(3))
        self.assertEqual(1, len(self.work))
        other.cancel()
        self.failureResultOf(other, CancelledError)
        self.work[0].callback("done")
        self.assertEqual(["done", "done"], [self.successResultOf(one), self.successResultOf(third)])
        # Nothing is kept where nothing was said of that.
        shared.get("key", self.begin)
        self.assertEqual(2, len(self.work))

    def test_nobody_waits_any_more(self) -> None:
        shared = self.shared(keep_s=10, budget=100)
        waiting = shared.get("key", self.begin)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.work[0].callback("done")
        self.assertEqual("done", self.successResultOf(shared.get("key", self.begin)))

    def test_whether_anybody_waits(self) -> None:
        shared = self.shared()
        self.assertFalse(shared.is_wanted("key"))
        one, other = shared.get("key", self.begin), shared.get("key", self.begin)
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.assertTrue(shared.is_wanted("key"))
        other.cancel()
        self.failureResultOf(other, CancelledError)
        self.assertFalse(shared.is_wanted("key"))

    def test_kept_for_a_while(self) -> None:
        shared = self.shared(keep_s=10, budget=100)
        shared.get("key", self.begin)
        self.work[0].callback("done")
        self.time.advance(9.9)
        self.assertEqual("done", self.successResultOf(shared.get("key", self.begin)))
        self.time.advance(0.2)
        self.assertNoResult(shared.get("key", self.begin))
        self.work[1].callback("anew")
        shared.forget("key")
        self.assertNoResult(shared.get("key", self.begin))

    def test_the_oldest_goes(self) -> None:
        shared = self.shared(keep_s=10, budget=10)
        for key, value in (("a", "aaaa"), ("b", "bbbb"), ("c", "cccc"), ("d", "d" * 11)):
            shared.get(key, self.begin)
            self.work[-1].callback(value)
        self.assertNoResult(shared.get("a", self.begin))
        self.assertEqual("bbbb", self.successResultOf(shared.get("b", self.begin)))
        self.assertEqual("cccc", self.successResultOf(shared.get("c", self.begin)))
        self.assertNoResult(shared.get("d", self.begin))

    def test_failures_are_for_those_who_wait(self) -> None:
        shared = self.shared(keep_s=10, budget=100)
        waiting = [shared.get("key", self.begin) for _ in range(2)]
        self.work[0].errback(ValueError("no"))
        for one in waiting:
            self.failureResultOf(one, ValueError)
        self.assertNoResult(shared.get("key", self.begin))
        self.assertEqual(2, len(self.work))

    def test_not_more_than_so_much_at_once(self) -> None:
        shared = self.shared(most_running=2)
        shared.get("a", self.begin)
        shared.get("b", self.begin)
        self.assertRaises(Busy, shared.get, "c", self.begin)
        shared.get("a", self.begin)
        self.work[0].callback("done")
        self.assertNoResult(shared.get("c", self.begin))

    def test_the_end(self) -> None:
        shared = self.shared()
        waiting = [shared.get("a", self.begin), shared.get("b", self.begin)]
        shared.stop()
        for one in waiting:
            self.failureResultOf(one, CancelledError)
