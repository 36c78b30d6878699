"""The machine's clock is set while the server runs."""

from __future__ import annotations

from homeserver.runtime.clock import LOOK_AGAIN_S
from tests.api.test_delayed_events import DelayedCase
from tests.support.clocks import set_clock
from tests.support.databases import on_each_database

HOUR_S = 3_600


@on_each_database
class Delayed(DelayedCase):
    """They are due by wall time."""

    def test_forward(self) -> None:
        self.scheduled(10 * HOUR_S * 1000)
        self.pass_time(60)
        self.assertEqual([], self.said())
        set_clock(self, 10 * HOUR_S)
        self.pass_time(LOOK_AGAIN_S)
        self.assertEqual(["later"], self.said())

    def test_back(self) -> None:
        self.scheduled(5_000)
        set_clock(self, -HOUR_S)
        for _ in range(HOUR_S // 60):
            self.pass_time(60)
        self.assertEqual([], self.said())
        self.pass_time(5)
        self.assertEqual(["later"], self.said())

    def test_back_while_clients_have_time_to_renew(self) -> None:
        self.scheduled(1_000, "1")
        self.scheduled(2 * HOUR_S * 1000, "2")
        self.wait(self.app.app.stop())
        self.app.time.advance(HOUR_S + 60)
        self.app.restart()
        self.app.app.begin()
        set_clock(self, -HOUR_S)
        self.pass_time(self.limits.grace_s - 1)
        self.assertEqual([], self.said())
        self.pass_time(1)
        self.assertEqual(["1"], self.said())
        self.scheduled(5_000, "new")
        self.pass_time(5)
        self.assertEqual(["1", "new"], sorted(self.said()))
