"""Redactions from elsewhere: one that has no effect is not told to clients, which would redact what it names.

# spec: rooms/v3#handling-redactions
"""

from __future__ import annotations

from typing import Any

from federation.event import Event
from homeserver.store.foreign import load_foreign
from tests.api.receiving import ReceiveCase
from tests.api.rooms import V3
from tests.support.app import SERVER_NAME, TestApp
from tests.support.appservices import AS_TOKEN, FakeAppservices, registration
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.peer import FakePeer, FakePeers

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"


@on_each_database
class RedactionsFromElsewhere(ReceiveCase):
    """mallory is in alice's room, and may not redact what others say."""

    def setUp(self) -> None:
        super().setUp()
        self.enter()
        path = f"{V3}/rooms/{self.room_id}/send/m.room.message/t"
        self.said: str = self.app.ok("PUT", path, {"msgtype": "m.text", "body": "alice's"}, self.alice)[
            "event_id"
        ]
        self.settle()
        self.room = self.peer.follow(self.app, self.room_id)
        self.since = self.sync()["next_batch"]

    def sync(self, **query: Any) -> Any:
        return self.app.ok("GET", f"{V3}/sync", None, self.alice, query)

    def redact(self, target: str) -> Event:
        redaction = self.room.add("m.room.redaction", {"redacts": target})
        self.assert_taken(self.peer.push(self.app, redaction), redaction)
        return redaction

    def told(self) -> list[set[str]]:
        """The ids that each way of asking tells of: what is new, everything, the history, and a window onto the room."""
        new = self.sync(since=self.since).get("rooms", {}).get("join", {})
        first = self.sync()["rooms"]["join"]
        body = {"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 50, "required_state": []}}}
        sliding = self.app.ok("POST", SLIDING, body, self.alice)["rooms"][self.room_id]["timeline"]
        timelines = [
            rooms.get(self.room_id, {"timeline": {"events": []}})["timeline"]["events"]
            for rooms in (new, first)
        ]
        return [{event["event_id"] for event in found} for found in (*timelines, sliding)] + [
            set(self.timeline())
        ]

    def content(self, event_id: str) -> Any:
        path = f"{V3}/rooms/{self.room_id}/event/{event_id}"
        return self.app.ok("GET", path, None, self.alice)["content"]

    def assert_untold(self, redaction: Event) -> None:
        for told in self.told():
            self.assertNotIn(redaction.event_id, told)
        # And what is said on top of it is told.
        after = self.room.say("on top")
        self.assert_taken(self.peer.push(self.app, after), after)
        for told in self.told():
            self.assertIn(after.event_id, told)
            self.assertNotIn(redaction.event_id, told)

    def test_by_who_may_not(self) -> None:
        self.assert_untold(self.redact(self.said))
        self.assertEqual({"msgtype": "m.text", "body": "alice's"}, self.content(self.said))

    def test_by_who_may(self) -> None:
        own = self.room.say("mallory's")
        self.assert_taken(self.peer.push(self.app, own), own)
        redaction = self.redact(own.event_id)
        for told in self.told():
            self.assertIn(redaction.event_id, told)
        self.assertEqual({}, self.content(own.event_id))

    def test_of_an_event_of_another_room(self) -> None:
        other = self.create()
        room = self.peer.follow(self.app, other)
        self.enter(room)
        own = room.say("elsewhere")
        self.assert_taken(self.peer.push(self.app, own), own)
        self.assert_untold(self.redact(own.event_id))

    def test_of_what_comes_later(self) -> None:
        """What it names comes redacted, so that nothing is missed without it."""
        late = self.room.make("m.room.message", {"body": "late"})  # beside it
        redaction = self.redact(late.event_id)
        self.assert_untold(redaction)
        self.assert_taken(self.peer.push(self.app, late), late)
        self.settle()
        self.assertEqual({}, self.content(late.event_id))
        for told in self.told():
            self.assertIn(late.event_id, told)
            self.assertNotIn(redaction.event_id, told)

    def test_above_a_hole(self) -> None:
        hidden = self.room.make("m.room.message", {"body": "nobody has it"})
        redaction = self.room.make(
            "m.room.redaction", {"redacts": self.said}, prev=[hidden.event_id], depth=hidden.depth + 1
        )
        self.peer.push(self.app, redaction)
        self.settle(60)
        for told in self.told():
            self.assertNotIn(redaction.event_id, told)
        self.assertEqual({"msgtype": "m.text", "body": "alice's"}, self.content(self.said))

    def test_other_processes_know_it(self) -> None:
        log = self.app.app.core.changes
        before = log.position
        self.redact(self.said)
        own = self.room.say("mallory's")
        self.assert_taken(self.peer.push(self.app, own), own)
        self.redact(own.event_id)
        changes = self.app.database.read(load_foreign, before, log.position)
        found = [change.payload.idle for change in self.app.wait(changes) if change.kind == 1]
        self.assertEqual([True, False, False], found)


@on_each_database
class RedactionsForBridges(DatabaseCase):
    """A bridge would take down on the other network what it is told is redacted."""

    def test_what_has_no_effect_is_not_told(self) -> None:
        peer, http = FakePeer(), FakeAppservices()
        app = TestApp(
            self,
            self.new_database(),
            registrations=[registration()],
            appservice_http=http,
            transport=FakePeers(peer),
        )
        app.app.begin()
        alice = app.register("alice")
        room_id = app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat", "room_version": "11"}, alice)[
            "room_id"
        ]
        ghost = {"type": "m.login.application_service", "username": "_bridge_bob", "inhibit_login": True}
        app.ok("POST", f"{V3}/register", ghost, AS_TOKEN)
        app.ok("POST", f"{V3}/join/{room_id}", {}, AS_TOKEN, {"user_id": f"@_bridge_bob:{SERVER_NAME}"})
        room = peer.follow(app, room_id)
        peer.push(app, room.join())
        path = f"{V3}/rooms/{room_id}/send/m.room.message/t"
        said = app.ok("PUT", path, {"msgtype": "m.text", "body": "alice's"}, alice)["event_id"]
        room = peer.follow(app, room_id)
        idle = room.add("m.room.redaction", {"redacts": said})
        own = room.say("mallory's")
        valid = room.add("m.room.redaction", {"redacts": own.event_id})
        self.assertEqual(200, peer.push(app, idle, own, valid)[0])
        for _ in range(60):
            app.advance(0)
        told = [event["event_id"] for event in http.events()]
        self.assertEqual([said, own.event_id, valid.event_id], told[-3:])
        self.assertNotIn(idle.event_id, told)
