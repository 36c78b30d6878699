"""Receipts and read markers. spec: client-server-api#receipts, #fully-read-markers"""

from __future__ import annotations

from typing import Any

from tests.support.app import TestApp
from tests.support.databases import DatabaseCase, on_each_database

V3 = "/_matrix/client/v3"
ALICE, BOB = "@alice:test.example", "@bob:test.example"


class ReceiptsCase(DatabaseCase):
    def setUp(self) -> None:
        self.app = TestApp(self, database=self.new_database())
        self.alice, self.bob, self.carol = (self.app.register(name) for name in ("alice", "bob", "carol"))
        self.room_id = self.make_room()
        self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, self.bob)
        self.number = 0

    def make_room(self) -> str:
        room_id: str = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)[
            "room_id"
        ]
        return room_id

    def send(self, content: dict[str, Any] | None = None, room_id: str | None = None) -> str:
        self.number += 1
        path = f"{V3}/rooms/{room_id or self.room_id}/send/m.room.message/{self.number}"
        body = {"msgtype": "m.text", "body": "hello", **(content or {})}
        event_id: str = self.app.ok("PUT", path, body, self.alice)["event_id"]
        return event_id

    def post(self, event_id: str, kind: str = "m.read", body: Any = None, token: str | None = None) -> Any:
        path = f"{V3}/rooms/{self.room_id}/receipt/{kind}/{event_id}"
        status, json = self.app.call("POST", path, body, token or self.bob)
        return status if status == 200 else (status, json["errcode"])

    def mark(self, body: Any, token: str | None = None) -> Any:
        path = f"{V3}/rooms/{self.room_id}/read_markers"
        status, json = self.app.call("POST", path, body, token or self.bob)
        return status if status == 200 else (status, json["errcode"])

    def sync(self, token: str, since: str | None = None) -> Any:
        return self.app.ok("GET", f"{V3}/sync", None, token, {"since": since} if since else None)

    def receipts(self, answer: Any) -> dict[str, Any]:
        """Event id -> kind -> user id -> receipt."""
        events = (
            answer.get("rooms", {})
            .get("join", {})
            .get(self.room_id, {})
            .get("ephemeral", {})
            .get("events", [])
        )
        found: dict[str, Any] = {}
        for event in events:
            if event["type"] == "m.receipt":
                for event_id, kinds in event["content"].items():
                    for kind, users in kinds.items():
                        found.setdefault(event_id, {}).setdefault(kind, {}).update(users)
        return found

    def fully_read(self, token: str) -> Any:
        path = f"{V3}/user/{BOB}/rooms/{self.room_id}/account_data/m.fully_read"
        status, json = self.app.call("GET", path, None, token)
        return json.get("event_id") if status == 200 else None


@on_each_database
class Receipts(ReceiptsCase):
    def test_told_to_members(self) -> None:
        event_id = self.send()
        since = self.sync(self.alice)["next_batch"]
        self.assertEqual(200, self.post(event_id))
        now_ms = self.app.app.core.around.clock.now_ms()
        expected = {event_id: {"m.read": {BOB: {"ts": now_ms}}}}
        answer = self.sync(self.alice, since)
        self.assertEqual(expected, self.receipts(answer))
        self.assertEqual({}, self.receipts(self.sync(self.alice, answer["next_batch"])))
        self.assertEqual(expected, self.receipts(self.sync(self.bob)))
        self.app.restart()
        self.assertEqual(expected, self.receipts(self.sync(self.alice, since)))

    def test_private_ones_are_told_to_their_owner(self) -> None:
        event_id = self.send()
        since = self.sync(self.bob)["next_batch"]
        self.post(event_id, "m.read.private", {})
        self.assertIn("m.read.private", self.receipts(self.sync(self.bob, since))[event_id])
        self.assertIn("m.read.private", self.receipts(self.sync(self.bob))[event_id])
        for start in (None, since):
            self.assertEqual({}, self.receipts(self.sync(self.alice, start)))

    def test_never_back(self) -> None:
        first, second = self.send(), self.send()
        self.post(second)
        since = self.sync(self.alice)["next_batch"]
        position = self.app.app.core.changes.position
        self.assertEqual(200, self.post(first))
        self.assertEqual(200, self.post(second))
        self.assertEqual(position, self.app.app.core.changes.position)
        self.assertEqual({}, self.receipts(self.sync(self.alice, since)))
        self.assertEqual([second], list(self.receipts(self.sync(self.alice))))

    def test_threads_and_kinds_stand_apart(self) -> None:
        root, last = self.send(), self.send()
        reply = self.send({"m.relates_to": {"rel_type": "m.thread", "event_id": root}})
        self.assertEqual(200, self.post(last))
        self.assertEqual(200, self.post(root, body={"thread_id": "main"}))
        self.assertEqual(200, self.post(reply, body={"thread_id": root}))
        found = self.receipts(self.sync(self.alice))
        self.assertEqual({last, root, reply}, set(found))
        self.assertNotIn("thread_id", found[last]["m.read"][BOB])
        self.assertEqual("main", found[root]["m.read"][BOB]["thread_id"])
        self.assertEqual(root, found[reply]["m.read"][BOB]["thread_id"])

    def test_threads_must_fit(self) -> None:
        root, other = self.send(), self.send()
        reply = self.send({"m.relates_to": {"rel_type": "m.thread", "event_id": root}})
        on_reply = self.send({"m.relates_to": {"rel_type": "m.reference", "event_id": reply}})
        on_root = self.send({"m.relates_to": {"rel_type": "m.reference", "event_id": root}})
        wrong = (400, "M_INVALID_PARAM")
        for event_id, thread, expected in (
            (reply, "main", wrong),
            (on_reply, "main", wrong),
            (on_reply, root, 200),
            (on_root, "main", 200),
            (root, root, 200),
            (other, root, wrong),
            (reply, other, wrong),
            (reply, "", wrong),
            (reply, 1, wrong),
            (reply, None, wrong),
            (reply, "no event", wrong),
        ):
            self.assertEqual(expected, self.post(event_id, body={"thread_id": thread}), thread)
        self.assertEqual(wrong, self.post(root, "m.fully_read", {"thread_id": "main"}))

    def test_state_is_in_no_thread(self) -> None:
        root = self.send()
        content = {"membership": "join", "m.relates_to": {"rel_type": "m.thread", "event_id": root}}
        path = f"{V3}/rooms/{self.room_id}/state/m.room.member/@alice:test.example"
        renamed: str = self.app.ok("PUT", path, content, self.alice)["event_id"]
        on_it = self.send({"m.relates_to": {"rel_type": "m.reference", "event_id": renamed}})
        for event_id in (renamed, on_it):
            self.assertEqual((400, "M_INVALID_PARAM"), self.post(event_id, body={"thread_id": root}))
            self.assertEqual(200, self.post(event_id, body={"thread_id": "main"}))
        self.assertEqual([on_it], list(self.receipts(self.sync(self.alice))))

    def test_what_was_redacted_is_of_the_main_timeline(self) -> None:
        """Clients move it there, and it may be the last thing that they show."""
        root = self.send()
        reply = self.send({"m.relates_to": {"rel_type": "m.thread", "event_id": root}})
        on_reply = self.send({"m.relates_to": {"rel_type": "m.reference", "event_id": reply}})
        wrong = (400, "M_INVALID_PARAM")
        self.assertEqual(wrong, self.post(reply, body={"thread_id": "main"}))
        self.app.ok("PUT", f"{V3}/rooms/{self.room_id}/redact/{reply}/r", {}, self.alice)
        for event_id in (reply, on_reply):
            self.assertEqual(200, self.post(event_id, body={"thread_id": "main"}))
            self.assertEqual(
                "main", self.receipts(self.sync(self.alice))[event_id]["m.read"][BOB]["thread_id"]
            )
            # By who has not heard of the redaction yet.
            self.assertEqual(200, self.post(event_id, body={"thread_id": root}))
            self.assertEqual(wrong, self.post(event_id, body={"thread_id": self.send()}))

    def test_relations_in_a_circle_end(self) -> None:
        event_id = self.send({"m.relates_to": {"rel_type": "m.reference", "event_id": "$unknown"}})
        self.assertEqual(200, self.post(event_id, body={"thread_id": "main"}))
        root = self.send()
        chain = self.send({"m.relates_to": {"rel_type": "m.thread", "event_id": root}})
        for _ in range(3):
            chain = self.send({"m.relates_to": {"rel_type": "m.reference", "event_id": chain}})
        self.assertEqual(200, self.post(chain, body={"thread_id": root}))
        chain = self.send({"m.relates_to": {"rel_type": "m.reference", "event_id": chain}})
        self.assertEqual((400, "M_INVALID_PARAM"), self.post(chain, body={"thread_id": root}))
        odd = self.send({"m.relates_to": {"rel_type": 1, "event_id": []}})
        self.assertEqual(200, self.post(odd, body={"thread_id": "main"}))

    def test_refusals(self) -> None:
        event_id = self.send()
        self.assertEqual((403, "M_FORBIDDEN"), self.post(event_id, token=self.carol))
        self.assertEqual((400, "M_INVALID_PARAM"), self.post(event_id, "m.unread"))
        self.assertEqual((400, "M_INVALID_PARAM"), self.post("nonsense"))
        self.assertEqual((404, "M_NOT_FOUND"), self.post("$unknown"))
        elsewhere = self.send(room_id=self.make_room())
        self.assertEqual((404, "M_NOT_FOUND"), self.post(elsewhere))
        self.assertEqual((400, "M_BAD_JSON"), self.post(event_id, body=[]))
        self.room_id = "!unknown:test.example"
        self.assertEqual((403, "M_FORBIDDEN"), self.post(event_id))


@on_each_database
class ReadMarkers(ReceiptsCase):
    def test_all_at_once(self) -> None:
        first, second, third = self.send(), self.send(), self.send()
        since = self.sync(self.bob)["next_batch"]
        self.assertEqual(200, self.mark({"m.fully_read": first, "m.read": second, "m.read.private": third}))
        answer = self.sync(self.bob, since)
        found = self.receipts(answer)
        self.assertEqual(
            {second: ["m.read"], third: ["m.read.private"]}, {k: list(v) for k, v in found.items()}
        )
        events = answer["rooms"]["join"][self.room_id]["account_data"]["events"]
        self.assertEqual([{"type": "m.fully_read", "content": {"event_id": first}}], events)

    def test_fully_read_never_goes_back(self) -> None:
        first, second = self.send(), self.send()
        self.assertEqual(200, self.mark({"m.fully_read": second}))
        self.assertEqual(200, self.mark({"m.fully_read": first}))
        self.assertEqual(second, self.fully_read(self.bob))
        third = self.send()
        self.assertEqual(200, self.post(third, "m.fully_read"))
        self.assertEqual(third, self.fully_read(self.bob))
        self.assertEqual({}, self.receipts(self.sync(self.bob)))

    def test_nothing_and_null(self) -> None:
        event_id = self.send()
        self.assertEqual([200] * 4, [self.mark(body) for body in (None, {}, {"m.read": None}, {"x": 1})])
        self.assertEqual(200, self.mark({"m.fully_read": None, "m.read": event_id}))
        self.assertEqual([event_id], list(self.receipts(self.sync(self.alice))))

    def test_all_or_none(self) -> None:
        event_id = self.send()
        self.assertEqual((404, "M_NOT_FOUND"), self.mark({"m.fully_read": event_id, "m.read": "$unknown"}))
        self.assertIsNone(self.fully_read(self.bob))
        for body, errcode in (
            ({"m.read": 1}, "M_BAD_JSON"),
            ({"m.read": "x"}, "M_INVALID_PARAM"),
            ([], "M_BAD_JSON"),
        ):
            self.assertEqual((400, errcode), self.mark(body))
        self.assertEqual((403, "M_FORBIDDEN"), self.mark({"m.read": event_id}, self.carol))
        path = f"{V3}/user/{BOB}/rooms/{self.room_id}/account_data/m.fully_read"
        self.assertEqual(405, self.app.call("PUT", path, {"event_id": event_id}, self.bob)[0])
