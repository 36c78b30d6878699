"""Whom one ignores is not heard, wherever one looks. spec: client-server-api#ignoring-users"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from homeserver.e2ee import sections
from tests.api.talk import TalkCase, user
from tests.support.databases import on_each_database

SYNC = "/_matrix/client/v3/sync"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"


@on_each_database
class Ignoring(TalkCase):
    """Bob ignores alice, and not carol."""

    def setUp(self) -> None:
        super().setUp()
        self.add("carol")
        self.room_id = self.make_room(joined=("bob", "carol"))

    def ignore(self, *names: str) -> None:
        path = f"/_matrix/client/v3/user/{user('bob')}/account_data/m.ignored_user_list"
        content: Any = {"ignored_users": {user(name): {} for name in names}}
        self.app.ok("PUT", path, content, self.tokens["bob"])

    def talk(self) -> dict[str, str]:
        """Turn by turn; the ids by what was said."""
        found = {}
        for number in range(3):
            for name in ("alice", "carol"):
                text = f"{name} {number}"
                found[text] = self.say(name, self.room_id, text)
        return found

    def carols(self) -> list[str]:
        return [f"carol {number}" for number in range(3)]

    def test_pages(self) -> None:
        self.talk()
        self.ignore("alice")
        self.set_state("alice", self.room_id, "m.room.name", {"name": "still shown"})
        chunk = self.page("bob", self.room_id, dir="f", limit=100)["chunk"]
        self.assertEqual(self.carols(), self.bodies(chunk))
        self.assertIn("m.room.name", [event["type"] for event in chunk])
        # Short pages hold as much as they may.
        page = self.page("bob", self.room_id, limit=2, filter='{"types":["m.room.message"]}')
        self.assertEqual(["carol 2", "carol 1"], self.bodies(page["chunk"]))
        page = self.page("bob", self.room_id, limit=2, **{"from": page["end"]})
        self.assertEqual("carol 0", self.bodies(page["chunk"])[0])
        self.assertEqual(6, len(self.bodies(self.page("carol", self.room_id, limit=100)["chunk"])))
        self.ignore()
        self.assertEqual(6, len(self.bodies(self.page("bob", self.room_id, limit=100)["chunk"])))

    def test_context(self) -> None:
        ids = self.talk()
        self.ignore("alice")
        context = self.ok("bob", self.path(self.room_id, "context", ids["carol 1"]), limit=20)
        self.assertEqual(["carol 0"], self.bodies(context["events_before"]))
        self.assertEqual(["carol 2"], self.bodies(context["events_after"]))

    def test_relations(self) -> None:
        target_id = self.say("carol", self.room_id, "root")
        for name in ("alice", "carol"):
            relates_to = {"rel_type": "m.thread", "event_id": target_id}
            status, json = self.send(
                name, self.room_id, {"msgtype": "m.text", "body": name, "m.relates_to": relates_to}
            )
            self.assertEqual(200, status, json)
        self.ignore("alice")
        path = f"/_matrix/client/v1/rooms/{self.room_id}/relations/{target_id}"
        for query in ({}, {"recurse": "true"}, {"dir": "f"}):
            self.assertEqual(["carol"], self.bodies(self.ok("bob", path, **query)["chunk"]))
        self.assertEqual(2, len(self.ok("carol", path)["chunk"]))

    def test_sync(self) -> None:
        self.ignore("alice")
        since = self.ok("bob", SYNC)["next_batch"]
        self.talk()
        for query in ({"since": since}, {}):
            room: Any = self.ok("bob", SYNC, **query)["rooms"]["join"][self.room_id]
            self.assertEqual(self.carols(), self.bodies(room["timeline"]["events"]))
            self.assertEqual(3, room["unread_notifications"]["notification_count"])

    def test_somebody_who_is_heard_again_while_a_sync_is_prepared(self) -> None:
        """The position that the client is given lies behind what they said: it is not told of it again."""
        self.ignore("alice")
        wish = {"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 5, "required_state": []}}}
        body = {**wish, "extensions": {"e2ee": {"enabled": True}}}
        since = self.ok("bob", SYNC)["next_batch"]
        pos = self.app.ok("POST", SLIDING, body, self.tokens["bob"])["pos"]
        asks: tuple[tuple[str, str, Any, dict[str, str | int]], ...] = (
            ("GET", SYNC, None, {"since": since}),
            ("POST", SLIDING, body, {"pos": pos}),
        )
        for number, (method, path, asked, query) in enumerate(asks):
            self.ignore("alice")
            self.app.restart()  # which forgets the device
            held = self.hold_device()
            waiting = self.app.start(method, path, asked, self.tokens["bob"], query)
            self.app.advance(0)
            self.assertFalse(waiting.called)
            self.ignore()
            self.say("alice", self.room_id, f"heard {number}")
            held.callback(None)
            rooms = self.app.wait(waiting).json["rooms"]
            room = rooms.get("join", rooms)[self.room_id]
            events = room["timeline"] if method == "POST" else room["timeline"]["events"]
            self.assertIn(f"heard {number}", self.bodies(events))

    def hold_device(self) -> Deferred[None]:
        """Have what is read of a device wait."""
        held: Deferred[None] = Deferred()
        read = self.app.database.read

        def wait(unit: Any, *args: Any) -> Any:
            is_held = unit is sections._load_device and not held.called
            return held.addCallback(lambda _: read(unit, *args)) if is_held else read(unit, *args)

        self.patch(self.app.database, "read", wait)
        return held
