"""The machine's clock is set while the server runs."""

from __future__ import annotations

from homeserver.runtime.clock import LOOK_AGAIN_S
from tests.api.pushing import PushCase
from tests.api.test_appservice_transactions import BridgeCase
from tests.api.test_delayed_events import DelayedCase
from tests.api.test_mails import MailCase
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


@on_each_database
class Bridges(BridgeCase):
    """One that does not answer is tried again within five minutes."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.portal()
        self.forget()
        self.http.answer = self.http.silence
        self.say(self.room_id, "one")

    def test_forward(self) -> None:
        for _ in range(20):
            self.settle(60)
        self.forget()
        while not self.http.asked:
            self.settle(10)
        # The next time is minutes away.
        set_clock(self, 300)
        self.http.answer = lambda _: (200, {})
        self.forget()
        self.settle(LOOK_AGAIN_S)
        self.assertEqual(["one"], self.told())

    def test_back(self) -> None:
        set_clock(self, -HOUR_S)
        self.http.answer = lambda _: (200, {})
        self.forget()
        self.say(self.room_id, "two")
        self.settle(LOOK_AGAIN_S)
        self.assertEqual(["one", "two"], self.told())


@on_each_database
class Gateways(PushCase):
    """One that does not answer is tried again within an hour."""

    def setUp(self) -> None:
        super().setUp()
        self.set_pusher()
        self.gateways.say = lambda *_: (502, b"")
        self.first = self.send()
        for _ in range(20):
            self.wait_for(10 * 60)
        self.gateways.say = lambda *_: (200, b"{}")
        self.gateways.take()

    def test_forward(self) -> None:
        set_clock(self, HOUR_S)
        self.wait_for(LOOK_AGAIN_S)
        self.assertEqual([self.first], self.told())

    def test_back(self) -> None:
        set_clock(self, -2 * HOUR_S)
        second = self.send()
        self.wait_for(LOOK_AGAIN_S)
        self.assertEqual([self.first, second], self.told())


@on_each_database
class Mails(MailCase):
    """They come ten minutes after what they tell of, or within a day of the last one."""

    def test_forward(self) -> None:
        self.send()
        self.wait_for(60)
        self.assertEqual([], self.mailer.sent)
        set_clock(self, 600)
        self.wait_for(LOOK_AGAIN_S)
        self.assertEqual(1, len(self.mailer.sent))

    def test_back(self) -> None:
        self.send()
        set_clock(self, -24 * HOUR_S)
        self.wait_for(60)
        self.assertEqual(1, len(self.mailer.sent))
