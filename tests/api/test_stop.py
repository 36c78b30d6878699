"""A stop of the whole application, and what it says that it waits for."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import TestCase

from tests.support.app import TestApp


class Stop(TestCase):
    def setUp(self) -> None:
        self.app = TestApp(self)

    def test_a_task_that_has_a_last_word(self) -> None:
        gate: Deferred[None] = Deferred()

        async def stay() -> None:
            try:
                await Deferred()
            except CancelledError:
                await gate

        self.app.app.services.tasks.spawn("a last word", stay())
        stopping = Deferred.fromCoroutine(self.app.app.stop())
        self.app.advance(0)
        self.assertEqual("tasks: a last word", self.app.app.ending)
        gate.callback(None)
        self.app.wait(stopping)
        self.assertEqual("the database", self.app.app.ending)
