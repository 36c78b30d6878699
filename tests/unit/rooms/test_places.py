"""Whose large answer is taken in next."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock as TaskClock
from twisted.trial.unittest import SynchronousTestCase

from homeserver.rooms.federated.places import Places
from homeserver.runtime.clock import TwistedClock

A, B, C = "a.example", "b.example", "c.example"


class Turns(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = TaskClock()
        self.places = Places(2, TwistedClock(self.time))

    def wait(self, purpose: int, server: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self.places.wait(purpose, server))

    def test_so_many_at_once_and_one_of_each_server(self) -> None:
        self.assertTrue(self.places.take(1, A))
        self.assertFalse(self.places.take(2, A))
        self.assertTrue(self.places.take(3, B))
        self.assertFalse(self.places.take(4, C))
        self.assertTrue(self.places.take(1, A))
        self.places.release(1)
        self.places.release(1)
        self.assertTrue(self.places.take(4, C))
        self.assertFalse(self.places.take(2, A))

    def test_who_had_it_for_the_shortest_time_is_next(self) -> None:
        self.places.take(1, A)
        self.places.take(2, B)
        self.time.advance(100)
        self.places.release(1)
        self.places.take(3, C)
        often, first, second = self.wait(1, A), self.wait(4, "d.example"), self.wait(5, A)
        self.time.advance(1)
        self.places.release(3)
        self.successResultOf(first)
        self.places.release(4)
        self.successResultOf(second)
        self.assertNoResult(often)
        # There is a place, and not for another answer of the same server.
        self.places.release(2)
        self.assertNoResult(often)
        self.places.release(5)
        self.successResultOf(often)

    def test_who_waits_no_longer_gets_none(self) -> None:
        self.places.take(1, A)
        gone, other = self.wait(2, A), self.wait(3, A)
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.places.release(1)
        self.successResultOf(other)

    def test_what_is_over_counts_no_more(self) -> None:
        self.places.take(1, A)
        self.time.advance(100)
        self.places.forget(1)
        self.places.take(2, A)
        self.time.advance(1)
        self.places.release(2)
        self.places.take(3, A)
        later, again = self.wait(2, A), self.wait(1, A)
        self.places.release(3)
        self.successResultOf(again)
        self.assertNoResult(later)
