"""Administrators look through reports, and at what was reported: docs/admin-api.md."""

from __future__ import annotations

from typing import Any

from tests.api.administration import AdminCase
from tests.api.talk import V3, user
from tests.support.databases import on_each_database

REPORTS = "/v1/event_reports"


@on_each_database
class EventReports(AdminCase):
    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.make_room(joined=("bob",))
        self.set_state("alice", self.room_id, "m.room.name", {"name": "Rude room"})

    def report(self, name: str, event_id: str, reason: str, room_id: str | None = None) -> None:
        path = self.path(room_id or self.room_id, "report", event_id)
        self.assertEqual(200, self.app.call("POST", path, {"reason": reason}, self.tokens[name])[0])
        self.app.advance(1)

    def reasons(self, **query: Any) -> list[str]:
        return [one["reason"] for one in self.does("GET", REPORTS, None, query)["event_reports"]]

    def test_none(self) -> None:
        self.assertEqual({"event_reports": [], "total": 0}, self.does("GET", REPORTS))

    def test_what_is_said_of_each(self) -> None:
        event_id = self.say("alice", self.room_id, "rude")
        now_ms = int(self.app.time.rightNow * 1000)
        self.report("bob", event_id, "it is rude")
        # Reports of rooms and users are no reports of events.
        self.app.ok("POST", f"{V3}/rooms/{self.room_id}/report", {"reason": "room"}, self.tokens["bob"])
        self.app.ok("POST", f"{V3}/users/{user('alice')}/report", {"reason": "user"}, self.tokens["bob"])
        found = self.does("GET", REPORTS)
        self.assertEqual(1, found["total"])
        (one,) = found["event_reports"]
        report_id = one.pop("id")
        expected = {
            "received_ts": now_ms,
            "room_id": self.room_id,
            "name": "Rude room",
            "canonical_alias": None,
            "event_id": event_id,
            "user_id": user("bob"),
            "reason": "it is rude",
            "score": None,
            "sender": user("alice"),
        }
        self.assertEqual(expected, one)
        whole = self.does("GET", f"{REPORTS}/{report_id}")
        event = whole.pop("event_json")
        self.assertEqual({**expected, "id": report_id}, whole)
        self.assertEqual("rude", event["content"]["body"])
        self.assertEqual(self.room_id, event["room_id"])
        self.assertIn("signatures", event)
        self.assertEqual({"age_ts": event["origin_server_ts"]}, event["unsigned"])

    def test_pages_in_both_directions(self) -> None:
        event_id = self.say("alice", self.room_id, "rude")
        for number in range(5):
            self.report("bob", event_id, str(number))
        self.assertEqual(["4", "3", "2", "1", "0"], self.reasons())
        self.assertEqual(["0", "1", "2", "3", "4"], self.reasons(dir="f"))
        first = self.does("GET", REPORTS, None, {"dir": "f", "limit": 2})
        self.assertEqual((2, 5), (first["next_token"], first["total"]))
        self.assertEqual(["2", "3"], self.reasons(dir="f", limit=2, **{"from": first["next_token"]}))
        last = self.does("GET", REPORTS, None, {"dir": "f", "limit": 2, "from": 4})
        self.assertNotIn("next_token", last)
        self.assertEqual(["4"], [one["reason"] for one in last["event_reports"]])
        beyond = self.does("GET", REPORTS, None, {"from": 9})
        self.assertEqual({"event_reports": [], "total": 5}, beyond)
        for wrong in ({"dir": "up"}, {"from": -1}, {"limit": "many"}, {"limit": -1}, {"from": "1e3"}):
            self.refuses(400, "M_INVALID_PARAM", "GET", REPORTS, None, wrong)

    def test_filters(self) -> None:
        other_id = self.make_room(joined=("bob",))
        mine, theirs = self.say("alice", self.room_id, "a"), self.say("bob", self.room_id, "b")
        elsewhere = self.say("alice", other_id, "c")
        self.report("bob", mine, "bob of alice")
        self.report("alice", theirs, "alice of bob")
        self.report("bob", elsewhere, "bob elsewhere", other_id)
        self.assertEqual(["alice of bob"], self.reasons(user_id=user("alice")))
        self.assertEqual(["bob elsewhere"], self.reasons(room_id=other_id))
        self.assertEqual(["alice of bob"], self.reasons(event_sender_user_id=user("bob")))
        both = {"user_id": user("bob"), "room_id": self.room_id}
        found = self.does("GET", REPORTS, None, both)
        self.assertEqual(
            (1, ["bob of alice"]), (found["total"], [one["reason"] for one in found["event_reports"]])
        )
        self.assertEqual([], self.reasons(user_id=user("nobody")))

    def test_deleting(self) -> None:
        event_id = self.say("alice", self.room_id, "rude")
        self.report("bob", event_id, "one")
        self.report("bob", event_id, "two")
        newest = self.does("GET", REPORTS)["event_reports"][0]["id"]
        self.assertEqual({}, self.does("DELETE", f"{REPORTS}/{newest}"))
        self.assertEqual(["one"], self.reasons())
        self.refuses(404, "M_NOT_FOUND", "DELETE", f"{REPORTS}/{newest}")
        self.refuses(404, "M_NOT_FOUND", "GET", f"{REPORTS}/{newest}")
        self.refuses(400, "M_INVALID_PARAM", "GET", f"{REPORTS}/abc")
        # Another kind of report cannot be reached from here.
        self.app.ok("POST", f"{V3}/rooms/{self.room_id}/report", {"reason": "room"}, self.tokens["bob"])
        self.refuses(404, "M_NOT_FOUND", "DELETE", f"{REPORTS}/{newest + 1}")

    def test_a_redacted_event_is_shown_redacted(self) -> None:
        event_id = self.say("alice", self.room_id, "rude")
        self.report("bob", event_id, "one")
        self.app.ok("PUT", self.path(self.room_id, "redact", event_id, "x"), {}, self.tokens["alice"])
        report_id = self.does("GET", REPORTS)["event_reports"][0]["id"]
        self.assertEqual({}, self.does("GET", f"{REPORTS}/{report_id}")["event_json"]["content"])

    def test_nobody_else(self) -> None:
        event_id = self.say("alice", self.room_id, "rude")
        self.report("bob", event_id, "one")
        report_id = self.does("GET", REPORTS)["event_reports"][0]["id"]
        for method, path in (
            ("GET", REPORTS),
            ("GET", f"{REPORTS}/{report_id}"),
            ("DELETE", f"{REPORTS}/{report_id}"),
            ("GET", f"/v1/fetch_event/{event_id}"),
            ("GET", f"/v1/rooms/{self.room_id}/context/{event_id}"),
        ):
            self.assert_refused(self.ask(method, path, who="alice"), 403, "M_FORBIDDEN")
            answer = self.app.call(method, f"/_synapse/admin{path}")
            self.assert_refused(answer, 401, "M_MISSING_TOKEN")
        self.assertEqual(["one"], self.reasons())


@on_each_database
class RoomsAsAdministratorsReadThem(AdminCase):
    """They are in none of these rooms, and nobody but its members may see anything of them."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.make_room(visibility="joined", join_rule="invite")
        self.texts = [self.say("alice", self.room_id, text) for text in ("one", "two", "three")]

    def test_an_event_and_what_is_around_it(self) -> None:
        path = f"/v1/rooms/{self.room_id}/context/{self.texts[1]}"
        found = self.does("GET", path, None, {"limit": 2})
        self.assertEqual("two", found["event"]["content"]["body"])
        self.assertEqual(["one"], self.bodies(found["events_before"]))
        self.assertEqual(["three"], self.bodies(found["events_after"]))
        self.refuses(404, "M_NOT_FOUND", "GET", f"/v1/rooms/{self.room_id}/context/$none")
        self.refuses(404, "M_NOT_FOUND", "GET", f"/v1/rooms/!none:x.org/context/{self.texts[1]}")
        # As a member they may see no more than other members.
        self.assert_refused(
            self.get("root", self.path(self.room_id, "context", self.texts[1])), 403, "M_FORBIDDEN"
        )

    def test_pages(self) -> None:
        path = f"/v1/rooms/{self.room_id}/messages"
        newest = self.does("GET", path, None, {"dir": "b", "limit": 2})
        self.assertEqual(["three", "two"], self.bodies(newest["chunk"]))
        more = self.does("GET", path, None, {"dir": "b", "limit": 1, "from": newest["end"]})
        self.assertEqual(["one"], self.bodies(more["chunk"]))
        self.assertEqual("m.room.create", self.does("GET", path, None, {"limit": 1})["chunk"][0]["type"])
        self.refuses(400, "M_INVALID_PARAM", "GET", path, None, {"from": "nonsense"})

    def test_the_state(self) -> None:
        path = f"/v1/rooms/{self.room_id}/state"
        types = {event["type"] for event in self.does("GET", path)["state"]}
        self.assertLessEqual({"m.room.create", "m.room.member", "m.room.power_levels"}, types)
        (member,) = self.does("GET", path, None, {"type": "m.room.member"})["state"]
        self.assertEqual(user("alice"), member["state_key"])
        self.assertEqual([], self.does("GET", path, None, {"type": "m.none"})["state"])
        self.refuses(404, "M_NOT_FOUND", "GET", "/v1/rooms/!none:x.org/state")

    def test_a_moment(self) -> None:
        path = f"/v1/rooms/{self.room_id}/timestamp_to_event"
        found = self.does("GET", path, None, {"ts": 2**52, "dir": "b"})
        self.assertEqual(self.texts[2], found["event_id"])
        self.refuses(404, "M_NOT_FOUND", "GET", path, None, {"ts": 2**52})
        self.refuses(400, "M_MISSING_PARAM", "GET", path)

    def test_one_event(self) -> None:
        event = self.does("GET", f"/v1/fetch_event/{self.texts[0]}")["event"]
        self.assertEqual(("one", self.texts[0]), (event["content"]["body"], event["event_id"]))
        self.refuses(404, "M_NOT_FOUND", "GET", "/v1/fetch_event/$none")
