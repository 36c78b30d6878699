"""Endpoints that are there, and have nothing for whoever asks: each with its own 404."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.support.app import TestApp

CLIENT = "/_matrix/client"
DELAYED = f"{CLIENT}/unstable/org.matrix.msc4140/delayed_events/unknown"


class NothingThere(TestCase):
    def test_no_service_and_no_letter(self) -> None:
        app = TestApp(self)
        alice = app.register("alice")
        for method, path, body, errcode in (
            ("GET", f"{CLIENT}/v3/thirdparty/location?alias=%23a:b.example", None, "M_NOT_FOUND"),
            ("GET", f"{CLIENT}/v3/thirdparty/location/irc", None, "M_NOT_FOUND"),
            ("GET", f"{CLIENT}/v3/thirdparty/user?userid=%40a:b.example", None, "M_NOT_FOUND"),
            ("GET", f"{CLIENT}/v3/thirdparty/user/irc", None, "M_NOT_FOUND"),
            ("GET", f"{CLIENT}/v3/thirdparty/protocol/irc", None, "M_NOT_FOUND"),
            ("POST", DELAYED, {"action": "send"}, "M_NOT_FOUND"),
            ("POST", DELAYED, {"action": "cancel"}, "M_NOT_FOUND"),
        ):
            status, json = app.call(method, path, body, alice)
            self.assertEqual((404, errcode), (status, json["errcode"]), f"{method} {path}")

    def test_pages(self) -> None:
        app = TestApp(self)
        for method in ("GET", "POST"):
            for page in ("unsubscribe", "validate_email"):
                answer = app.answer(method, f"/_chaos/{page}?token=x&sid=x&client_secret=x")
                self.assertEqual(404, answer.status, page)
