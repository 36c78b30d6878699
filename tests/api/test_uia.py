"""Interactive authentication with several stages. spec: client-server-api#user-interactive-authentication-api"""

from __future__ import annotations

from typing import Any

from twisted.internet import task
from twisted.trial import unittest

from homeserver.accounts.uia import (
    InteractiveAuth,
    InteractiveAuthNeededError,
    Offer,
    StageRefusedError,
    UnknownSessionError,
)
from homeserver.http.errors import MatrixError
from homeserver.http.request import Headers, Request
from homeserver.http.route import Match, Route
from homeserver.runtime.clock import TwistedClock
from homeserver.runtime.entropy import SeededEntropy
from tests.support.accounts import now


async def _unused(request: Request) -> None:
    raise AssertionError("not called")


ROUTE = Route(method="POST", template="/", handler=_unused, spec="none")


async def _stage(auth: dict[str, Any]) -> str:
    if auth.get("wrong"):
        raise StageRefusedError("M_FORBIDDEN", "Wrong")
    return f"result of {auth['type']}"


class Stages(unittest.TestCase):
    def setUp(self) -> None:
        self.time = task.Clock()
        self.interactive = InteractiveAuth(TwistedClock(self.time), SeededEntropy(3), 900)
        flows = [["a", "b"], ["a", "c", "d"]]
        self.offer = Offer(flows, dict.fromkeys("abcd", _stage), {"c": {"key": "value"}})

    def attempt(
        self, auth: dict[str, Any] | None, body: dict[str, Any] | None = None, path: bytes = b"/x"
    ) -> Any:
        """The results, or the body of the refusal."""
        whole = dict(body or {}) if auth is None else {**(body or {}), "auth": auth}
        request = Request(
            "POST", path, Headers(), match=Match(ROUTE), serve=frozenset(), client_ip="192.0.2.1"
        )
        try:
            return now(self.interactive.confirm(request, whole, self.offer))
        except InteractiveAuthNeededError as needed:
            return needed.to_json()

    def test_a_flow_from_end_to_end(self) -> None:
        asked = self.attempt(None)
        self.assertEqual({"c": {"key": "value"}}, asked["params"])
        self.assertEqual([{"stages": ["a", "b"]}, {"stages": ["a", "c", "d"]}], asked["flows"])
        self.assertNotIn("completed", asked)
        session = asked["session"]
        first = self.attempt({"type": "a", "session": session})
        self.assertEqual((["a"], session), (first["completed"], first["session"]))
        self.assertNotIn("errcode", first)
        second = self.attempt({"type": "c", "session": session})
        self.assertEqual(["a", "c"], second["completed"])
        repeated = self.attempt({"type": "a", "session": session})
        self.assertEqual(["a", "c"], repeated["completed"])
        polled = self.attempt({"session": session})
        self.assertEqual(["a", "c"], polled["completed"])
        done = self.attempt({"type": "d", "session": session})
        self.assertEqual({stage: f"result of {stage}" for stage in "acd"}, done)
        self.assertEqual(0, self.interactive.size)

    def test_out_of_order(self) -> None:
        session = self.attempt(None)["session"]
        for stage in ("b", "d", "z", "m.login.dummy"):
            refused = self.attempt({"type": stage, "session": session})
            self.assertEqual("M_UNRECOGNIZED", refused["errcode"], stage)
            self.assertNotIn("completed", refused)
        self.attempt({"type": "a", "session": session})
        self.attempt({"type": "b", "session": self.attempt(None)["session"]})
        self.assertEqual("M_UNRECOGNIZED", self.attempt({"type": "d", "session": session})["errcode"])

    def test_a_refused_stage_may_be_tried_again(self) -> None:
        session = self.attempt(None)["session"]
        refused = self.attempt({"type": "a", "session": session, "wrong": True})
        self.assertEqual(
            ("M_FORBIDDEN", "Wrong", session), (refused["errcode"], refused["error"], refused["session"])
        )
        self.assertEqual(["a"], self.attempt({"type": "a", "session": session})["completed"])

    def test_the_body_is_bound_with_the_first_stage(self) -> None:
        session = self.attempt(None, {})["session"]
        self.attempt({"type": "a", "session": session}, {"target": 1, "other": [1, 2]})
        for body in ({"target": 2, "other": [1, 2]}, {}, {"target": 1}):
            with self.assertRaises(MatrixError) as caught:
                self.attempt({"type": "b", "session": session}, body)
            self.assertEqual(403, caught.exception.status)
        done = self.attempt({"type": "b", "session": session}, {"other": [1, 2], "target": 1})
        self.assertEqual({"a", "b"}, set(done))

    def test_a_session_belongs_to_a_path(self) -> None:
        session = self.attempt(None, path=b"/x")["session"]
        with self.assertRaises(MatrixError) as caught:
            self.attempt({"type": "a", "session": session}, path=b"/y")
        self.assertEqual((403, "M_FORBIDDEN"), (caught.exception.status, caught.exception.errcode))

    def test_the_end_of_a_session(self) -> None:
        session = self.attempt(None)["session"]
        self.attempt({"type": "a", "session": session})
        self.time.advance(900)
        over = self.attempt({"type": "b", "session": session})
        self.assertEqual("M_UNKNOWN", over["errcode"])
        self.assertNotEqual(session, over["session"])
        self.assertNotIn("completed", over)

    def test_a_stage_that_a_page_completes(self) -> None:
        session = self.attempt(None, {"to": "do"})["session"]
        pending = self.interactive.look(session)
        assert pending is not None
        self.assertEqual(("POST", "/x", {"a"}), (pending.method, pending.path, pending.next_stages))
        for kind in ("b", "unknown"):
            self.assertRaises(
                UnknownSessionError, now, self.interactive.complete(session, kind, {"type": kind})
            )
        with self.assertRaises(StageRefusedError):
            now(self.interactive.complete(session, "a", {"type": "a", "wrong": True}))
        now(self.interactive.complete(session, "a", {"type": "a"}))
        # The request that comes next is the one that is being confirmed, and no other after that.
        self.assertEqual(["a"], self.attempt({"session": session}, {"to": "do"})["completed"])
        now(self.interactive.complete(session, "b", {"type": "b"}))
        with self.assertRaises(MatrixError) as raised:
            self.attempt({"session": session}, {"to": "do more"})
        self.assertEqual((403, "M_FORBIDDEN"), (raised.exception.status, raised.exception.errcode))
        done = self.attempt({"session": session}, {"to": "do"})
        self.assertEqual({"a": "result of a", "b": "result of b"}, done)
        self.assertRaises(UnknownSessionError, now, self.interactive.complete(session, "b", {"type": "b"}))

    def test_a_page_comes_too_late(self) -> None:
        session = self.attempt(None)["session"]
        self.time.advance(901)
        self.assertIsNone(self.interactive.look(session))
        self.assertRaises(UnknownSessionError, now, self.interactive.complete(session, "a", {"type": "a"}))
