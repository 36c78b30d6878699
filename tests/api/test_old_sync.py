"""Following rooms as before /sync, and looking into rooms without joining them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from homeserver.config.schema import Registration
from homeserver.rooms.reads import old_sync, reading
from tests.support.app import TestApp, test_config
from tests.support.databases import DatabaseCase, on_each_database

V3 = "/_matrix/client/v3"
READABLE = {
    "type": "m.room.history_visibility",
    "state_key": "",
    "content": {"history_visibility": "world_readable"},
}


class Case(DatabaseCase):
    def setUp(self) -> None:
        registration = Registration(mode="open", guests=True)
        config = test_config(data_dir=Path(self.mktemp()), registration=registration)
        self.app = TestApp(self, self.new_database(), config)
        self.alice, self.bob = self.app.register("alice"), self.app.register("bob")
        self.sent = 0

    def create(self, **fields: Any) -> str:
        room_id: str = self.app.ok(
            "POST", f"{V3}/createRoom", {"preset": "public_chat", **fields}, self.alice
        )["room_id"]
        return room_id

    def send(self, room_id: str, body: str) -> str:
        self.sent += 1
        path = f"{V3}/rooms/{room_id}/send/m.room.message/{self.sent}"
        event_id: str = self.app.ok("PUT", path, {"body": body, "msgtype": "m.text"}, self.alice)["event_id"]
        return event_id

    def bodies(self, answer: Any) -> list[str]:
        return [one["content"]["body"] for one in answer["chunk"] if one["type"] == "m.room.message"]

    def says(self, expected: tuple[int, str], found: tuple[int, Any]) -> None:
        self.assertEqual(expected, (found[0], found[1].get("errcode")))


@on_each_database
class Events(Case):
    def test_what_happened_in_all_rooms(self) -> None:
        one, two, private = self.create(), self.create(), self.create(preset="private_chat")
        for room_id in (one, two):
            self.app.ok("POST", f"{V3}/join/{room_id}", {}, self.bob)
        start = self.app.ok("GET", f"{V3}/events", token=self.bob)
        self.assertEqual(start["chunk"], [])
        for number in range(60):
            self.send((one, two, private)[number % 3], str(number))
        told: list[str] = []
        at = start["end"]
        while True:
            answer = self.app.ok("GET", f"{V3}/events", token=self.bob, query={"from": at})
            self.assertEqual(answer["start"], at)
            self.assertLessEqual(len(answer["chunk"]), 50)
            if not answer["chunk"]:
                break
            told += self.bodies(answer)
            at = answer["end"]
        self.assertEqual(told, [str(number) for number in range(60) if number % 3 < 2])

    def test_more_than_fits_in_one_answer(self) -> None:
        room_id = self.create()
        start = self.app.ok("GET", f"{V3}/events", token=self.alice)["end"]
        for number in range(120):
            self.send(room_id, str(number))
        told: list[str] = []
        while len(told) < 120:
            answer = self.app.ok("GET", f"{V3}/events", token=self.alice, query={"from": start})
            self.assertTrue(answer["chunk"])
            told, start = told + self.bodies(answer), answer["end"]
        self.assertEqual(told, [str(number) for number in range(120)])

    def test_much_that_is_nothing_for_them(self) -> None:
        """What comes after it is told at once: nothing more need happen for it."""
        self.patch(reading, "SCANNED_MOST", 4)
        self.patch(reading, "_BATCH", 4)
        self.patch(old_sync, "EVENTS_MOST", 3)
        room_id = self.create()
        self.app.ok("POST", f"{V3}/join/{room_id}", {}, self.bob)
        ignored: Any = {"ignored_users": {"@bob:test.example": {}}}
        path = f"{V3}/user/@alice:test.example/account_data/m.ignored_user_list"
        self.app.ok("PUT", path, ignored, self.alice)
        start = self.app.ok("GET", f"{V3}/events", token=self.alice)["end"]
        for number in range(12):
            path = f"{V3}/rooms/{room_id}/send/m.room.message/{number}"
            self.app.ok("PUT", path, {"body": "noise", "msgtype": "m.text"}, self.bob)
        query = {"from": start, "timeout": "30000"}
        waits = self.app.start("GET", f"{V3}/events", token=self.alice, query=query)
        self.app.advance(1)
        self.assertFalse(waits.called, "there is nothing for them")
        self.send(room_id, "told")
        for answer in (waits, self.app.start("GET", f"{V3}/events", token=self.alice, query=query)):
            self.app.advance(1)
            self.assertTrue(answer.called)
            self.assertEqual(["told"], self.bodies(self.app.wait(answer).json))

    def test_waiting(self) -> None:
        room_id = self.create(initial_state=[READABLE])
        start = self.app.ok("GET", f"{V3}/events", token=self.alice)["end"]
        mine = self.app.start(
            "GET", f"{V3}/events", token=self.alice, query={"from": start, "timeout": "30000"}
        )
        peeking = self.app.start(
            "GET",
            f"{V3}/events",
            token=self.bob,
            query={"from": start, "timeout": "30000", "room_id": room_id},
        )
        elsewhere = self.app.start(
            "GET", f"{V3}/events", token=self.bob, query={"from": start, "timeout": "30000"}
        )
        self.app.advance(1)
        self.assertFalse(mine.called or peeking.called)
        self.send(room_id, "now")
        for waiting in (mine, peeking):
            self.assertEqual(self.bodies(self.app.wait(waiting).json), ["now"])
        self.assertFalse(elsewhere.called)
        self.app.advance(30)
        self.assertEqual(self.app.wait(elsewhere).json["chunk"], [])

    def test_a_stop_ends_the_wait(self) -> None:
        waiting = self.app.start("GET", f"{V3}/events", token=self.alice, query={"timeout": "30000"})
        self.app.advance(0)
        self.app.app.release_waiters()
        self.assertEqual(self.app.wait(waiting).json["chunk"], [])

    def test_peeking(self) -> None:
        readable, closed = self.create(initial_state=[READABLE]), self.create()
        guest = self.app.ok("POST", f"{V3}/register", {}, query={"kind": "guest"})["access_token"]
        start = self.app.ok("GET", f"{V3}/events", token=guest, query={"room_id": readable})["end"]
        self.send(readable, "hello")
        answer = self.app.ok("GET", f"{V3}/events", token=guest, query={"room_id": readable, "from": start})
        self.assertEqual(self.bodies(answer), ["hello"])
        for room_id in (closed, "!unknown:test.example"):
            found = self.app.call("GET", f"{V3}/events", token=guest, query={"room_id": room_id})
            self.says((403, "M_FORBIDDEN"), found)

    def test_hostile(self) -> None:
        for query in (
            {"from": "x"},
            {"from": "t" + "9" * 40},
            {"timeout": "-1"},
            {"timeout": "x"},
            {"room_id": "x"},
        ):
            self.says(
                (400, "M_INVALID_PARAM"), self.app.call("GET", f"{V3}/events", token=self.alice, query=query)
            )
        for start in ("t999999999999999999", "t-5", "t0"):
            self.app.ok("GET", f"{V3}/events", token=self.alice, query={"from": start})

    def test_one_event(self) -> None:
        room_id = self.create(preset="private_chat")
        event_id = self.send(room_id, "a")
        self.assertEqual(
            self.app.ok("GET", f"{V3}/events/{event_id}", token=self.alice)["event_id"], event_id
        )
        self.says((404, "M_NOT_FOUND"), self.app.call("GET", f"{V3}/events/{event_id}", token=self.bob))
        self.says((404, "M_NOT_FOUND"), self.app.call("GET", f"{V3}/events/$unknown", token=self.alice))


@on_each_database
class InitialSync(Case):
    def test_all_rooms(self) -> None:
        joined, left, invited = self.create(), self.create(), self.create()
        for room_id in (joined, left):
            self.app.ok("POST", f"{V3}/join/{room_id}", {}, self.bob)
        self.app.ok("POST", f"{V3}/rooms/{left}/leave", {}, self.bob)
        self.app.ok("POST", f"{V3}/rooms/{invited}/invite", {"user_id": "@bob:test.example"}, self.alice)
        self.app.ok("PUT", f"{V3}/user/@bob:test.example/account_data/m.x", {"a": 1}, self.bob)
        self.send(joined, "hi")
        answer = self.app.ok("GET", f"{V3}/initialSync", token=self.bob, query={"limit": "2"})
        rooms = {room["room_id"]: room for room in answer["rooms"]}
        self.assertEqual(
            {room: one["membership"] for room, one in rooms.items()}, {joined: "join", invited: "invite"}
        )
        self.assertEqual(len(rooms[joined]["messages"]["chunk"]), 2)
        self.assertEqual(rooms[invited]["invite"]["state_key"], "@bob:test.example")
        self.assertIn({"type": "m.x", "content": {"a": 1}}, answer["account_data"])
        self.assertIsInstance(answer["presence"], list)
        self.send(joined, "next")
        news = self.app.ok("GET", f"{V3}/events", token=self.bob, query={"from": answer["end"]})
        self.assertEqual(self.bodies(news), ["next"])
        archived = self.app.ok("GET", f"{V3}/initialSync", token=self.bob, query={"archived": "true"})
        self.assertIn(left, [room["room_id"] for room in archived["rooms"]])

    def test_refusals(self) -> None:
        self.says((401, "M_MISSING_TOKEN"), self.app.call("GET", f"{V3}/initialSync"))
        for query in ({"limit": "x"}, {"archived": "maybe"}):
            self.says(
                (400, "M_INVALID_PARAM"),
                self.app.call("GET", f"{V3}/initialSync", token=self.alice, query=query),
            )


@on_each_database
class Unsupported(Case):
    """What this server has not, it says as the specification asks."""

    def test_no_oauth_no_single_sign_on_no_policy_server(self) -> None:
        for path in (
            "/_matrix/client/v1/auth_metadata",
            f"{V3}/login/sso/redirect?redirectUrl=https://a.b",
            f"{V3}/login/sso/redirect/idp?redirectUrl=https://a.b",
            "/.well-known/matrix/policy_server",
        ):
            self.says((404, "M_UNRECOGNIZED"), self.app.call("GET", path))
        flows = self.app.ok("GET", f"{V3}/login")["flows"]
        self.assertNotIn("m.login.sso", [flow["type"] for flow in flows])
