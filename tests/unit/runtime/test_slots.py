"""Places for what is done at once."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from homeserver.runtime.slots import Full, Slots


class Places(SynchronousTestCase):
    def setUp(self) -> None:
        self.slots = Slots(3, 2, 3)
        self.inside: list[str] = []
        self.ends: dict[str, Deferred[None]] = {}

    def enter(self, label: str) -> Deferred[None]:
        async def work() -> None:
            async with self.slots.place(label[0]):
                self.inside.append(label)
                self.ends[label] = Deferred()
                await self.ends[label]

        return Deferred.fromCoroutine(work())

    def test_in_turn(self) -> None:
        for label in ("a1", "a2", "a3", "b1", "b2"):
            self.enter(label)
        # The third of a's has to wait although there was a place; b's second, because there was none.
        self.assertEqual(["a1", "a2", "b1"], self.inside)
        self.ends["b1"].callback(None)
        self.assertEqual(["a1", "a2", "b1", "b2"], self.inside)
        self.ends["a2"].callback(None)
        self.assertEqual("a3", self.inside[-1])

    def test_without_a_block(self) -> None:
        for _ in range(2):
            self.successResultOf(Deferred.fromCoroutine(self.slots.take("a")))
        waiting = self.enter("a1")
        self.slots.release("a")
        self.assertEqual(["a1"], self.inside)
        self.ends["a1"].callback(None)
        self.successResultOf(waiting)

    def test_a_failure_gives_its_place_back(self) -> None:
        first = self.enter("a1")
        self.enter("a2")
        self.enter("a3")
        self.ends["a1"].errback(ValueError("no"))
        self.failureResultOf(first, ValueError)
        self.assertEqual(["a1", "a2", "a3"], self.inside)

    def test_who_gives_up_waiting(self) -> None:
        waiting = [self.enter(label) for label in ("a1", "a2", "a3", "a4")]
        waiting[2].cancel()
        self.failureResultOf(waiting[2], CancelledError)
        self.ends["a1"].callback(None)
        self.assertEqual(["a1", "a2", "a4"], self.inside)

    def test_a_name_that_waits_too_often(self) -> None:
        self.slots = Slots(3, 2, 3, 1)
        for label in ("a1", "a2", "a3", "b1", "b2"):
            self.enter(label)
        self.failureResultOf(self.enter("a4"), Full)
        self.failureResultOf(self.enter("b3"), Full)
        self.enter("c1")
        for label in ("b1", "a1", "a2", "b2"):
            self.ends[label].callback(None)
        self.assertEqual(["a1", "a2", "b1", "b2", "a3", "c1"], self.inside)
        self.enter("a4")
        self.assertEqual("a4", self.inside[-1])

    def test_many_that_end_as_soon_as_they_have_a_place(self) -> None:
        self.slots = Slots(2, 2, 2_000)
        self.enter("a1")
        self.enter("a2")

        async def work(number: int) -> int:
            async with self.slots.place("a"):
                return number

        waiting = [Deferred.fromCoroutine(work(number)) for number in range(2_000)]
        self.ends["a1"].callback(None)
        self.assertEqual(list(range(2_000)), [self.successResultOf(one) for one in waiting])
        # No place is lost: two get in, the third has to wait.
        self.ends["a2"].callback(None)
        for label in ("b1", "b2", "b3"):
            self.enter(label)
        self.assertEqual(["a1", "a2", "b1", "b2"], self.inside)

    def test_full(self) -> None:
        for number in range(5):
            self.enter(f"a{number}")
        # Who need not wait gets in all the same.
        self.enter("b1")
        self.assertEqual(["a0", "a1", "b1"], self.inside)
        self.failureResultOf(self.enter("b2"), Full)
        self.failureResultOf(self.enter("a5"), Full)
