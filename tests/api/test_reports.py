"""Reporting rooms, events and users. spec: client-server-api#reporting-content"""

from __future__ import annotations

from typing import Any

from homeserver.moderation.reports import LIFETIME_S, REASON_MOST
from homeserver.store import reports as store
from homeserver.store.reports import REPORTS_MOST, StoredReport, drop_report, load_reports
from tests.api.talk import TalkCase, user
from tests.support.databases import on_each_database

V3 = "/_matrix/client/v3"
FAR = 2**60


@on_each_database
class ReportTests(TalkCase):
    """See the module."""

    def report(self, name: str, path: str, body: Any = None) -> tuple[int, Any]:
        content = {"reason": "it is rude"} if body is None else body
        return self.app.call("POST", f"{V3}{path}", content, self.tokens[name])

    def room_path(self, room_id: str, *parts: str) -> str:
        return self.path(room_id, "report", *parts).removeprefix(V3)

    def kept(self, most: int = 100, before: int = FAR) -> list[StoredReport]:
        return self.app.wait(self.app.database.read(load_reports, before, most))

    def test_an_event(self) -> None:
        room_id = self.make_room(joined=("bob",))
        event_id = self.say("alice", room_id, "rude")
        self.assertEqual((200, {}), self.report("bob", self.room_path(room_id, event_id)))
        (found,) = self.kept()
        now_ms = int(self.app.time.rightNow * 1000)
        self.assertEqual(found[1:], (user("bob"), now_ms, room_id, event_id, None, "it is rude"))
        # No reason need be given, and what was called a score is passed over.
        for body in ({}, b"", {"score": -100}, {"reason": None}):
            self.assertEqual((200, {}), self.report("bob", self.room_path(room_id, event_id), body))
        self.assertEqual(["", "", "", "", "it is rude"], [one.reason for one in self.kept()])
        self.assertEqual(200, self.report("bob", self.room_path(room_id, event_id), {"reason": "ä😀"})[0])
        self.assertEqual("ä😀", self.kept(1)[0].reason)

    def test_an_event_that_one_may_not_see(self) -> None:
        room_id, other_id = self.make_room(visibility="joined"), self.make_room(joined=("bob",))
        event_id = self.say("alice", room_id, "rude")
        # In no such room, in it too late, not there, in another one: all the same.
        self.refused_as_unknown(room_id, event_id)
        self.join("bob", room_id)
        self.refused_as_unknown(room_id, event_id)
        self.refused_as_unknown(room_id, "$none")
        self.refused_as_unknown(other_id, event_id)
        self.refused_as_unknown("!none:test.example", event_id)
        seen = self.say("alice", room_id, "more")
        self.leave("bob", room_id)
        self.refused_as_unknown(room_id, seen)
        self.assertEqual([], self.kept())

    def refused_as_unknown(self, room_id: str, event_id: str) -> None:
        answer = self.report("bob", self.room_path(room_id, event_id))
        self.assert_refused(answer, 404, "M_NOT_FOUND")
        self.assertEqual("The event was not found or you are not joined to the room.", answer[1]["error"])

    def test_a_room(self) -> None:
        # Whoever has heard of it may: from an invite, or from the directory.
        room_id = self.make_room()
        self.assertEqual((200, {}), self.report("bob", self.room_path(room_id), {"reason": ""}))
        (found,) = self.kept()
        self.assertEqual(
            (room_id, None, None, ""), (found.room_id, found.event_id, found.user_id, found.reason)
        )
        self.assert_refused(self.report("bob", self.room_path("!none:x.org")), 404, "M_NOT_FOUND")

    def test_a_user(self) -> None:
        self.assertEqual((200, {}), self.report("bob", f"/users/{user('alice')}/report"))
        (found,) = self.kept()
        self.assertEqual((None, None, user("alice")), (found.room_id, found.event_id, found.user_id))
        for unknown in (user("nobody"), "@nobody:elsewhere.org", "@Hist/orical name:elsewhere.org"):
            path = f"/users/{unknown.replace('/', '%2F').replace(' ', '%20')}/report"
            self.assert_refused(self.report("bob", path), 404, "M_NOT_FOUND")
        self.assert_refused(self.report("bob", "/users/nobody/report"), 400, "M_INVALID_PARAM")

    def test_a_user_of_another_server(self) -> None:
        self.wait(self.app.app.core.interner.user("@far:elsewhere.org"))
        self.assertEqual((200, {}), self.report("bob", "/users/@far:elsewhere.org/report"))

    def test_bodies(self) -> None:
        room_id = self.make_room(joined=("bob",))
        event_id = self.say("alice", room_id, "rude")
        paths = (self.room_path(room_id), f"/users/{user('alice')}/report", self.room_path(room_id, event_id))
        for number, path in enumerate(paths):
            bad: list[Any] = [{"reason": 1}, {"reason": ["x"]}, [], {"reason": "a\0b"}]
            if number < 2:
                bad += [{}, {"reason": None}]
            for body in bad:
                self.assert_refused(self.report("bob", path, body), 400, "M_BAD_JSON")
            self.assert_refused(self.report("bob", path, b'{"reason":'), 400, "M_NOT_JSON")
            self.assert_refused(self.report("bob", path, b'{"reason":"\\ud800"}'), 400, "M_NOT_JSON")
            too_long = {"reason": "x" * (REASON_MOST + 1)}
            self.assert_refused(self.report("bob", path, too_long), 400, "M_INVALID_PARAM")
            self.assert_refused(self.report("bob", path, {"reason": "x" * 300_000}), 413, "M_TOO_LARGE")
            self.assertEqual(401, self.app.call("POST", f"{V3}{path}", {"reason": ""})[0])
        self.assertEqual([], self.kept())

    def test_bounded(self) -> None:
        path = f"/users/{user('alice')}/report"
        self.patch_most(3)
        for _ in range(3):
            self.assertEqual(200, self.report("bob", path)[0])
        answer = self.report("bob", path)
        self.assert_refused(answer, 429, "M_LIMIT_EXCEEDED")
        self.assertEqual(200, self.report("alice", path)[0])
        # Those in charge made room, or time did.
        self.app.wait(self.app.app.core.committer.work(drop_report, self.kept()[1].pos))
        self.assertEqual(200, self.report("bob", path)[0])
        self.assertEqual(429, self.report("bob", path)[0])
        self.app.advance(LIFETIME_S + 1)
        self.assertEqual(200, self.report("bob", path)[0])
        self.assertEqual(1, len(self.kept()))
        self.assertGreater(REPORTS_MOST, 0)

    def patch_most(self, most: int) -> None:
        self.patch(store, "REPORTS_MOST", most)

    def test_pages(self) -> None:
        path = f"/users/{user('alice')}/report"
        for number in range(5):
            self.assertEqual(200, self.report("bob", path, {"reason": str(number)})[0])
        first = self.kept(2)
        self.assertEqual(["4", "3"], [one.reason for one in first])
        self.app.restart()
        rest = self.kept(10, first[-1].pos)
        self.assertEqual(["2", "1", "0"], [one.reason for one in rest])
