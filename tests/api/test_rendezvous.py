"""Rendezvous for sign-in by QR code. spec: proposals/4388, proposals/4108 (2024)"""

from __future__ import annotations

from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as TaskClock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from homeserver.config.schema import RateLimit, RateLimits, Switch
from homeserver.oauth.rendezvous import LIFETIME_MS, MAX_PAYLOAD_BYTES, NoRendezvousError, Rendezvouses
from homeserver.runtime.clock import TwistedClock
from homeserver.runtime.entropy import SeededEntropy
from homeserver.store.users import set_standing
from tests.support.app import START_S, TestApp, test_config
from tests.support.http import Answer
from tests.support.oauth import BASE

OLD = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous"
NEW = "/_matrix/client/unstable/io.element.msc4388/rendezvous"
TEXT = {"Content-Type": "text/plain"}
LIFETIME_S = LIFETIME_MS // 1000


class RendezvousCase(TestCase):
    def setUp(self) -> None:
        self.app = TestApp(self, config=test_config(public_url=BASE))

    def assert_refused(self, answer: Answer, status: int, errcode: str) -> None:
        self.assertEqual((status, errcode), (answer.status, answer.errcode), answer.json)


class PlainText(RendezvousCase):
    """What clients of 2024 and later speak."""

    def begin(self, payload: bytes = b"") -> tuple[str, str]:
        """The path and the ETag."""
        answer = self.app.answer("POST", OLD, payload, headers=TEXT)
        self.assertEqual(201, answer.status, answer.json)
        self.assertEqual(["url"], list(answer.json))
        url = answer.json["url"]
        self.assertTrue(url.startswith(f"{BASE}{OLD}/"), url)
        return url.removeprefix(BASE), answer.headers["etag"]

    def put(self, path: str, etag: str, payload: bytes = b"x") -> Answer:
        return self.app.answer("PUT", path, payload, headers={**TEXT, "If-Match": etag})

    def get(self, path: str, etag: str | None = None) -> Answer:
        headers = {} if etag is None else {"If-None-Match": etag}
        return self.app.answer("GET", path, headers=headers)

    def assert_told(self, answer: Answer, changed_s: float) -> None:
        """The headers that every answer has."""
        self.assertEqual("no-store", answer.headers["cache-control"])
        self.assertEqual("no-cache", answer.headers["pragma"])
        self.assertEqual("ETag", answer.headers["access-control-expose-headers"])
        self.assertRegex(answer.headers["etag"], r'^"[^"]+"$')
        dates = [parsedate_to_datetime(answer.headers[name]) for name in ("expires", "last-modified")]
        self.assertEqual([START_S + LIFETIME_S, changed_s], [one.timestamp() for one in dates])

    def test_two_devices_talk(self) -> None:
        path, first = self.begin(b"hello from A")
        found = self.get(path)
        self.assertEqual(
            (200, b"hello from A", "text/plain"), (found.status, found.body, found.headers["content-type"])
        )
        self.assertEqual(first, found.headers["etag"])
        self.assert_told(found, START_S)
        waiting = self.get(path, first)
        self.assertEqual(
            (304, b"", None), (waiting.status, waiting.body, waiting.headers.get("content-type"))
        )
        self.assertEqual(first, waiting.headers["etag"])
        self.assert_told(waiting, START_S)
        self.app.advance(10)
        written = self.put(path, first, b"hello from B")
        self.assertEqual((202, b""), (written.status, written.body))
        self.assert_told(written, START_S + 10)
        heard = self.get(path, first)
        self.assertEqual((200, b"hello from B"), (heard.status, heard.body))
        self.assertEqual(written.headers["etag"], heard.headers["etag"])
        self.assertEqual(304, self.get(path, heard.headers["etag"]).status)
        done = self.app.answer("DELETE", path)
        self.assertEqual((204, b""), (done.status, done.body))
        self.assert_refused(self.get(path), 404, "M_NOT_FOUND")

    def test_the_same_again_is_something_new(self) -> None:
        path, first = self.begin(b"x")
        second = self.put(path, first, b"x").headers["etag"]
        self.assertNotEqual(first, second)
        self.assertEqual(200, self.get(path, first).status)

    def test_nothing_is_overwritten_unread(self) -> None:
        path, first = self.begin(b"a")
        second = self.put(path, first, b"b").headers["etag"]
        refused = self.put(path, first, b"c")
        self.assert_refused(refused, 412, "M_UNKNOWN")
        self.assertEqual("M_CONCURRENT_WRITE", refused.json["org.matrix.msc4108.errcode"])
        self.assert_told(refused, START_S)
        self.assertEqual(second, refused.headers["etag"])
        # Nor is what was sent twice: this form knows no repetitions.
        self.assert_refused(self.put(path, first, b"b"), 412, "M_UNKNOWN")
        self.assertEqual(b"b", self.get(path).body)

    def test_any_bytes(self) -> None:
        path, etag = self.begin(bytes(range(256)))
        self.assertEqual(bytes(range(256)), self.get(path).body)
        self.assertEqual(202, self.put(path, etag, b"").status)
        found = self.get(path)
        self.assertEqual((200, b""), (found.status, found.body))

    def test_size(self) -> None:
        most = b"x" * MAX_PAYLOAD_BYTES
        path, etag = self.begin(most)
        for answer in (
            self.app.answer("POST", OLD, most + b"x", headers=TEXT),
            self.put(path, etag, most + b"x"),
        ):
            self.assert_refused(answer, 413, "M_TOO_LARGE")
        self.assertEqual(202, self.put(path, etag, most).status)

    def test_entity_tags(self) -> None:
        path, etag = self.begin()
        # A proxy that compresses what it passes on weakens them.
        for seen in (etag, f"W/{etag}", f'"other", {etag}', f'"other",W/{etag}'):
            self.assertEqual(304, self.get(path, seen).status, seen)
        for other in ('"other"', etag.strip('"'), "", "*", '"'):
            self.assertEqual(200, self.get(path, other).status, other)
        for wrong in (etag.strip('"'), "", "*", f"{etag}, {etag}", '"', '"ä"', f"w/{etag}"):
            self.assert_refused(self.put(path, wrong), 400, "M_INVALID_PARAM")
        self.assertEqual(202, self.put(path, f"W/{etag}").status)

    def test_headers_that_are_missing_or_wrong(self) -> None:
        path, etag = self.begin(b"first")
        for method, where, more in (("POST", OLD, {}), ("PUT", path, {"If-Match": etag})):
            self.assert_refused(self.app.answer(method, where, b"x", headers=more), 400, "M_MISSING_PARAM")
            for wrong in ("application/json", "text/html", "text/plainer", "", "text"):
                answer = self.app.answer(method, where, b"x", headers={**more, "Content-Type": wrong})
                self.assert_refused(answer, 400, "M_INVALID_PARAM")
        self.assert_refused(self.app.answer("PUT", path, b"x", headers=TEXT), 400, "M_MISSING_PARAM")
        self.assertEqual(b"first", self.get(path).body)
        # What browsers and other libraries make of it.
        for right in ("text/plain;charset=UTF-8", "Text/Plain; charset=utf-8"):
            answer = self.app.answer("POST", OLD, b"x", headers={"Content-Type": right})
            self.assertEqual(201, answer.status)

    def test_none_there(self) -> None:
        path, etag = self.begin()
        for where in (f"{OLD}/unknown", f"{path}x", f"{OLD}/%C3%A4"):
            self.assert_refused(self.get(where), 404, "M_NOT_FOUND")
            self.assert_refused(self.put(where, etag), 404, "M_NOT_FOUND")
            self.assert_refused(self.app.answer("DELETE", where), 404, "M_NOT_FOUND")
        # The other form has its own.
        self.assert_refused(self.get(path.replace(OLD, NEW)), 404, "M_NOT_FOUND")

    def test_over(self) -> None:
        path, etag = self.begin()
        self.app.advance(LIFETIME_S - 1)
        etag = self.put(path, etag).headers["etag"]
        self.assertEqual(304, self.get(path, etag).status)
        self.app.advance(1)
        self.assert_refused(self.get(path, etag), 404, "M_NOT_FOUND")
        self.assert_refused(self.put(path, etag), 404, "M_NOT_FOUND")
        self.assert_refused(self.app.answer("DELETE", path), 404, "M_NOT_FOUND")

    def test_no_page(self) -> None:
        path, _ = self.begin(b"<script>")
        headers = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        self.assert_refused(self.app.answer("GET", path, headers=headers), 403, "M_FORBIDDEN")
        found = self.app.answer("GET", path, headers={"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"})
        self.assertEqual((200, "nosniff"), (found.status, found.headers["x-content-type-options"]))


class Json(RendezvousCase):
    """What the proposal says today."""

    def begin(self, data: str = "") -> tuple[str, str]:
        """The path and the token."""
        answer = self.app.answer("POST", NEW, {"data": data})
        self.assertEqual((200, "no-store"), (answer.status, answer.headers["cache-control"]))
        self.assertEqual({"id", "sequence_token", "expires_in_ms"}, set(answer.json))
        self.assertEqual(LIFETIME_MS, answer.json["expires_in_ms"])
        for name in ("id", "sequence_token"):
            self.assertRegex(answer.json[name], r"^[A-Za-z0-9._~-]{1,255}$")
        return f"{NEW}/{answer.json['id']}", answer.json["sequence_token"]

    def put(self, path: str, token: Any, data: Any = "x") -> Answer:
        return self.app.answer("PUT", path, {"sequence_token": token, "data": data})

    def sent(self, path: str, token: str, data: str) -> str:
        answer = self.put(path, token, data)
        self.assertEqual(200, answer.status, answer.json)
        self.assertEqual(["sequence_token"], list(answer.json))
        following: str = answer.json["sequence_token"]
        return following

    def test_two_devices_talk(self) -> None:
        path, first = self.begin("hello from A")
        self.app.advance(10)
        self.assertEqual(
            {"data": "hello from A", "sequence_token": first, "expires_in_ms": LIFETIME_MS - 10_000},
            self.app.ok("GET", path),
        )
        second = self.sent(path, first, "hello from B €")
        found = self.app.answer("GET", path)
        self.assertEqual(("hello from B €", second), (found.json["data"], found.json["sequence_token"]))
        self.assertEqual("no-store", found.headers["cache-control"])
        third = self.sent(path, second, "hello from B €")
        self.assertEqual(3, len({first, second, third}))
        self.assertEqual({}, self.app.ok("DELETE", path))
        for method in ("GET", "DELETE"):
            self.assert_refused(self.app.answer(method, path), 404, "M_NOT_FOUND")
        self.assert_refused(self.put(path, third), 404, "M_NOT_FOUND")

    def test_nothing_is_overwritten_unread(self) -> None:
        path, first = self.begin("a")
        second = self.sent(path, first, "b")
        for token in (first, "", "unknown", "ä"):
            self.assert_refused(self.put(path, token, "c"), 409, "IO_ELEMENT_MSC4388_CONCURRENT_WRITE")
        self.assertEqual("b", self.app.ok("GET", path)["data"])
        # A request whose answer got lost is answered once more, and nothing changes.
        self.assertEqual(second, self.sent(path, first, "b"))
        self.assertEqual(second, self.app.ok("GET", path)["sequence_token"])
        third = self.sent(path, second, "b")
        self.assertNotEqual(second, third)

    def test_whether_it_is_there(self) -> None:
        self.assertEqual({"create_available": True}, self.app.ok("GET", NEW))
        alice = self.app.register("alice")
        self.assertEqual({"create_available": True}, self.app.ok("GET", NEW, token=alice))
        self.assert_refused(self.app.answer("GET", NEW, token="unknown"), 401, "M_UNKNOWN_TOKEN")

    def test_begun_by_who_is_suspended(self) -> None:
        # spec: client-server-api#account-suspension (Log in and create additional sessions)
        alice, core = self.app.register("alice"), self.app.app.core
        user_nid = self.app.wait(Deferred.fromCoroutine(core.interner.user("@alice:test.example")))
        self.app.wait(core.committer.work(set_standing, user_nid, suspended=True, locked=None))
        self.assertEqual({"create_available": True}, self.app.ok("GET", NEW, token=alice))
        self.assertIn("id", self.app.ok("POST", NEW, {"data": "a"}, alice))
        features = self.app.ok("GET", "/_matrix/client/versions")["unstable_features"]
        self.assertTrue(features["org.matrix.msc4108"] and features["io.element.msc4388"])

    def test_size(self) -> None:
        # Of bytes, of which a letter may have several, and JSON may need six for one.
        most = "€" * (MAX_PAYLOAD_BYTES // 3) + "x"
        self.assertEqual(MAX_PAYLOAD_BYTES, len(most.encode()))
        path, token = self.begin(most)
        self.assert_refused(self.app.answer("POST", NEW, {"data": most + "x"}), 413, "M_TOO_LARGE")
        self.assert_refused(self.put(path, token, most + "x"), 413, "M_TOO_LARGE")
        self.assertEqual(most, self.app.ok("GET", path)["data"])
        escaped = b'{"data": "' + b"\\u0001" * MAX_PAYLOAD_BYTES + b'"}'
        self.assertEqual(200, self.app.answer("POST", NEW, escaped).status)
        self.assert_refused(
            self.app.answer("POST", NEW, b'{"data": "' + b" " * 100_000 + b'"}'), 413, "M_TOO_LARGE"
        )

    def test_wrong_shapes(self) -> None:
        path, token = self.begin("first")
        for method, where in (("POST", NEW), ("PUT", path)):
            bodies: list[Any] = [
                {},
                [],
                {"data": 1},
                {"data": None},
                {"data": {}, "sequence_token": token},
                1,
            ]
            for body in bodies:
                self.assert_refused(self.app.answer(method, where, body), 400, "M_BAD_JSON")
            for raw in (b"", b"x", b'{"data": "\\ud800", "sequence_token": ""}', b'{"data": "\xff"}'):
                self.assert_refused(self.app.answer(method, where, raw), 400, "M_NOT_JSON")
        tokens: list[Any] = [1, None, []]
        for wrong in tokens:
            self.assert_refused(self.put(path, wrong), 400, "M_BAD_JSON")
        self.assertEqual("first", self.app.ok("GET", path)["data"])

    def test_none_there(self) -> None:
        _, token = self.begin()
        for where in (f"{NEW}/unknown", f"{NEW}/%C3%A4"):
            self.assert_refused(self.app.answer("GET", where), 404, "M_NOT_FOUND")
            self.assert_refused(self.put(where, token), 404, "M_NOT_FOUND")
            self.assert_refused(self.app.answer("DELETE", where), 404, "M_NOT_FOUND")

    def test_over(self) -> None:
        path, token = self.begin()
        self.app.advance(LIFETIME_S)
        self.assert_refused(self.app.answer("GET", path), 404, "M_NOT_FOUND")
        self.assert_refused(self.put(path, token), 404, "M_NOT_FOUND")

    def test_no_page(self) -> None:
        path, _ = self.begin("<script>")
        answer = self.app.answer("GET", path, headers={"Sec-Fetch-Mode": "navigate"})
        self.assert_refused(answer, 403, "M_FORBIDDEN")


class Limits(TestCase):
    def test_beginning_one_is_an_attempt_to_log_in(self) -> None:
        limits = replace(RateLimits(), login=RateLimit(0.2, 2), write=RateLimit(1, 1), read=RateLimit(1, 1))
        app = TestApp(self, config=test_config(public_url=BASE, rate_limits=limits))
        path = app.answer("POST", OLD, b"", headers=TEXT).json["url"].removeprefix(BASE)
        self.assertEqual(200, app.answer("POST", NEW, {"data": ""}).status)
        self.assertEqual(200, app.answer("GET", path).status)
        self.assertEqual(400, app.answer("PUT", path).status)
        for answer in (
            app.answer("POST", NEW, {"data": ""}),
            app.answer("POST", OLD, b"", headers=TEXT),
            app.answer("GET", path),
            app.answer("PUT", path),
            app.answer("DELETE", path),
        ):
            self.assertEqual((429, "M_LIMIT_EXCEEDED"), (answer.status, answer.errcode))

    def test_nothing_without_oauth(self) -> None:
        for config in (test_config(), test_config(public_url=BASE, oauth=Switch(enabled=False))):
            app = TestApp(self, config=config)
            for method, where in (("GET", NEW), ("POST", NEW), ("POST", OLD), ("GET", f"{OLD}/x")):
                answer = app.answer(method, where, {})
                self.assertEqual((404, "M_UNRECOGNIZED"), (answer.status, answer.errcode))
            features = app.ok("GET", "/_matrix/client/versions")["unstable_features"]
            self.assertNotIn("org.matrix.msc4108", features)
            self.assertNotIn("io.element.msc4388", features)


class Bounds(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = TaskClock()
        self.all = Rendezvouses(TwistedClock(self.time), SeededEntropy(1), max_sessions=3)

    def test_the_oldest_gives_way(self) -> None:
        begun = [self.all.begin(b"x").id for _ in range(3)]
        # One that is used is no younger for that.
        self.all.write(begun[0], self.all.look(begun[0]).version, b"y")
        begun.append(self.all.begin(b"x").id)
        self.assertEqual(3, len(self.all))
        self.assertRaises(NoRendezvousError, self.all.look, begun[0])
        self.assertEqual(begun[1:], [self.all.look(one).id for one in begun[1:]])

    def test_what_is_over_is_forgotten(self) -> None:
        self.all.begin(b"x")
        self.time.advance(LIFETIME_S - 1)
        later = self.all.begin(b"x")
        self.time.advance(1)
        self.all.begin(b"x")
        self.assertEqual(2, len(self.all))
        self.assertEqual(later, self.all.look(later.id))
