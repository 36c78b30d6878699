"""History between two whole servers: what one serves is what the other's readers see."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from sqlalchemy import select

from homeserver.db.schema.rooms import event_json
from homeserver.db.statements import statement
from homeserver.db.tx import Tx
from tests.api.rooms import V3
from tests.support.databases import SQLITE, DatabaseCase, on_each_database
from tests.support.federation import NetServer, TestNet

_TEXTS = statement(select(event_json.c.json))


@on_each_database
class Between(DatabaseCase):
    """Alice of one server, bob of another."""

    def setUp(self) -> None:
        self.net = TestNet(self)
        self.here, self.there = (
            self.net.server(name, database=self.address()) for name in ("here.example", "there.example")
        )
        self.alice, self.bob = self.here.register("alice"), self.there.register("bob")

    def address(self) -> str:
        return "sqlite::memory:" if self.dialect == SQLITE else self.new_database()

    def create(self, visibility: str = "shared", **body: Any) -> str:
        content = {"history_visibility": visibility}
        state = [{"type": "m.room.history_visibility", "state_key": "", "content": content}]
        made = {"preset": "public_chat", "initial_state": state, **body}
        room_id: str = self.here.ok("POST", f"{V3}/createRoom", made, self.alice)["room_id"]
        return room_id

    def say(self, server: NetServer, token: str, room_id: str, text: str) -> str:
        path = f"{V3}/rooms/{quote(room_id)}/send/m.room.message/{quote(text)}"
        event_id: str = server.ok("PUT", path, {"msgtype": "m.text", "body": text}, token)["event_id"]
        return event_id

    def join(self, room_id: str) -> None:
        path = f"{V3}/join/{quote(room_id)}?server_name=here.example"
        self.assertEqual(200, self.there.call("POST", path, {}, self.bob)[0])

    def pages(self, server: NetServer, token: str, room_id: str, limit: int = 100) -> list[Any]:
        found: list[Any] = []
        query: dict[str, str | int] = {"dir": "b", "limit": limit}
        for _ in range(50):
            answer = server.ok("GET", f"{V3}/rooms/{quote(room_id)}/messages", None, token, query)
            found += answer["chunk"]
            if "end" not in answer:
                return found
            query["from"] = answer["end"]
        raise AssertionError("it does not end")

    def test_five_hundred_events_in_every_kind_of_room(self) -> None:
        for version, count in (("1", 40), ("6", 40), ("9", 40), ("10", 40), ("11", 500), ("12", 40)):
            room_id = self.create(room_version=version)
            for number in range(count):
                self.say(self.here, self.alice, room_id, str(number))
            self.join(room_id)
            self.net.settle()
            wanted = [one["event_id"] for one in self.pages(self.here, self.alice, room_id)]
            self.assertGreater(len(wanted), count)
            found = self.pages(self.there, self.bob, room_id)
            self.assertEqual(wanted, [one["event_id"] for one in found], version)
            bodies = [one["content"]["body"] for one in found if one["type"] == "m.room.message"]
            self.assertEqual([str(number) for number in range(count)][::-1], bodies)

    def test_nothing_is_told_of_what_was_not_for_them(self) -> None:
        room_id = self.create("joined")
        self.say(self.here, self.alice, room_id, "secret")
        self.join(room_id)
        self.say(self.here, self.alice, room_id, "open")
        self.net.settle()
        found = self.pages(self.there, self.bob, room_id)
        self.assertEqual(
            ["open"], [one["content"].get("body") for one in found if one["type"] == "m.room.message"]
        )
        for sent in self.net.sent("/backfill/"):
            self.assertEqual("there.example", sent.origin)
        stored = self.there.wait(self.there.database.read(_texts))
        self.assertEqual([], [text for text in stored if "secret" in text])

    def test_redacted_meanwhile(self) -> None:
        room_id = self.create()
        slip = self.say(self.here, self.alice, room_id, "a slip")
        path = f"{V3}/rooms/{quote(room_id)}/redact/{quote(slip)}/1"
        self.here.ok("PUT", path, {}, self.alice)
        self.join(room_id)
        self.net.settle()
        found = {one["event_id"]: one for one in self.pages(self.there, self.bob, room_id)}
        self.assertEqual({}, found[slip]["content"])
        stored = self.there.wait(self.there.database.read(_texts))
        self.assertEqual([], [text for text in stored if "a slip" in text])

    def test_jumping_to_a_date(self) -> None:
        room_id = self.create()
        said: list[tuple[str, int]] = []
        for number in range(150):
            self.net.advance(60)
            said.append((self.say(self.here, self.alice, room_id, str(number)), self.net.now_ms))
        self.join(room_id)
        event_id, ts_ms = said[30]
        path = f"/_matrix/client/v1/rooms/{quote(room_id)}/timestamp_to_event"
        found = self.there.ok("GET", path, None, self.bob, {"ts": ts_ms - 1_000, "dir": "f"})
        self.assertEqual(event_id, found["event_id"])
        context = self.there.ok(
            "GET", f"{V3}/rooms/{quote(room_id)}/context/{quote(event_id)}", None, self.bob, {"limit": 4}
        )
        self.assertEqual([said[29][0], said[28][0]], [one["event_id"] for one in context["events_before"]])
        self.assertEqual([said[31][0], said[32][0]], [one["event_id"] for one in context["events_after"]])

    def test_what_was_fetched_can_be_served(self) -> None:
        third = self.net.server("third.example", database=self.address())
        carol = third.register("carol")
        room_id = self.create()
        for number in range(120):
            self.say(self.here, self.alice, room_id, str(number))
        self.join(room_id)
        self.net.settle()
        wanted = self.pages(self.there, self.bob, room_id)
        path = f"{V3}/join/{quote(room_id)}?server_name=there.example"
        self.assertEqual(200, third.call("POST", path, {}, carol)[0])
        self.net.settle()
        self.net.down("here.example")
        found = self.pages(third, carol, room_id)
        self.assertEqual([one["event_id"] for one in wanted], [one["event_id"] for one in found][1:])

    def test_a_long_absence(self) -> None:
        room_id = self.create()
        self.say(self.here, self.alice, room_id, "before")
        self.join(room_id)
        self.say(self.here, self.alice, room_id, "joined")
        self.net.settle()
        self.net.down("there.example")
        for number in range(600):
            self.say(self.here, self.alice, room_id, str(number))
        self.net.settle()
        self.net.up("there.example")
        self.net.advance(7200)
        self.say(self.here, self.alice, room_id, "after")
        self.net.settle()
        self.net.advance(7200)
        wanted = [one["event_id"] for one in self.pages(self.here, self.alice, room_id)]
        found = [one["event_id"] for one in self.pages(self.there, self.bob, room_id)]
        self.assertEqual(set(wanted), set(found))
        self.assertEqual(len(wanted), len(found))


def _texts(tx: Tx) -> list[str]:
    return tx.column(_TEXTS)
