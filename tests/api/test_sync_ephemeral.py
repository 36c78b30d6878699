"""Typing, receipts, presence and unread counts in sync."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.trial.unittest import TestCase

from homeserver.ephemeral.typing import RECENT_S
from homeserver.store.receipts import PRIVATE, READ, ReceiptChange, find_target, put_markers
from tests.support.sync import SyncApp, user_id

ROOM = "!room:test.example"


class EphemeralTests(TestCase):
    def setUp(self) -> None:
        self.app = SyncApp(self)
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")
        self.app.make_room("alice")
        self.app.member(ROOM, "bob", "join")
        self.since = self.app.sync(self.bob)["next_batch"]
        room_nid = self.app.app.core.interner.known_room(ROOM)
        assert room_nid is not None
        self.room_nid = room_nid

    def receipt(self, who: str, event_id: str, kind: int = READ, thread: str = "") -> None:
        core = self.app.app.core
        target = self.app.wait(self.app.database.read(find_target, self.room_nid, event_id, core.events))
        user_nid = core.interner.known_user(user_id(who))
        assert target is not None
        assert user_nid is not None
        change = ReceiptChange(
            self.room_nid, user_id(who), user_nid, kind, thread, event_id, 1_000, target.nid, target.pos
        )
        self.app.wait(core.committer.work(put_markers, user_nid, self.room_nid, [change], None))

    def type(self, who: str, room_nid: int = 0, *, stop: bool = False) -> None:
        typing = self.app.app.services.typing
        if stop:
            typing.stop(room_nid or self.room_nid, user_id(who))
        else:
            typing.start(room_nid or self.room_nid, user_id(who))

    def ephemeral(self, found: Any) -> list[Any]:
        return list(
            found.get("rooms", {}).get("join", {}).get(ROOM, {}).get("ephemeral", {}).get("events", [])
        )

    def test_typing(self) -> None:
        self.assertEqual(self.ephemeral(self.app.sync(self.bob)), [])
        self.type("alice")
        wanted = [{"type": "m.typing", "content": {"user_ids": [user_id("alice")]}}]
        found = self.app.sync(self.bob, self.since)
        self.assertEqual(self.ephemeral(found), wanted)
        self.assertEqual(found["rooms"]["join"][ROOM]["timeline"]["events"], [])
        self.assertEqual(self.ephemeral(self.app.sync(self.bob)), wanted)
        since = found["next_batch"]
        self.assertNotIn("rooms", self.app.sync(self.bob, since))
        self.type("alice", stop=True)
        stopped = self.app.sync(self.bob, since)
        self.assertEqual(self.ephemeral(stopped), [{"type": "m.typing", "content": {"user_ids": []}}])
        quiet = {"room": {"ephemeral": {"not_types": ["m.typing"]}}}
        self.assertNotIn("rooms", self.app.sync(self.bob, since, filter=quiet))

    def test_typing_in_a_room_that_is_new(self) -> None:
        """Who was at it before the token, in a room that was joined after it."""
        self.app.make_room("alice", "!new:test.example")
        new = self.app.app.core.interner.known_room("!new:test.example")
        assert new is not None
        self.type("alice", new)
        since = self.app.sync(self.bob)["next_batch"]
        self.app.member("!new:test.example", "bob", "join")
        rooms = self.app.sync(self.bob, since)["rooms"]["join"]
        wanted = [{"type": "m.typing", "content": {"user_ids": [user_id("alice")]}}]
        self.assertEqual(wanted, rooms["!new:test.example"]["ephemeral"]["events"])

    def test_typing_wakes(self) -> None:
        since = self.app.sync(self.bob, self.since)["next_batch"]
        poll = self.app.poll(self.bob, since)
        self.type("alice")
        self.assertEqual(len(self.ephemeral(self.app.wait(poll).json)), 1)

    def test_typing_elsewhere_does_not_end_a_poll(self) -> None:
        self.app.make_room("alice", "!other:test.example")
        other = self.app.app.core.interner.known_room("!other:test.example")
        bob = self.app.app.core.interner.known_user(user_id("bob"))
        assert other is not None
        assert bob is not None
        poll = self.app.poll(self.bob, self.app.sync(self.bob, self.since)["next_batch"])
        self.type("alice", other)
        self.app.app.core.notifier.wake_users([bob])
        self.app.advance(1)
        self.assertFalse(poll.called)
        self.app.advance(60)
        self.assertNotIn("rooms", self.app.wait(poll).json)

    def test_nobody_types_when_the_server_stops(self) -> None:
        self.type("alice")
        since = self.app.sync(self.bob, self.since)["next_batch"]
        poll = self.app.poll(self.bob, since)
        quiet = {"room": {"ephemeral": {"not_types": ["m.typing"]}}}
        deaf = self.app.poll(self.bob, since, filter=quiet)
        self.app.app.release_waiters()
        nobody = {"type": "m.typing", "content": {"user_ids": []}}
        self.assertEqual([nobody], self.ephemeral(self.app.wait(poll).json))
        # Woken for what they do not want to hear, they do not wait again.
        self.assertNotIn("rooms", self.app.wait(deaf).json)

    def test_who_typed_before_the_server_started_again(self) -> None:
        """Whoever was not waiting when it stopped hears that it is over, of those rooms alone, and once."""
        self.app.app.begin()
        self.app.make_room("alice", "!quiet:test.example")
        self.app.member("!quiet:test.example", "bob", "join")
        self.type("alice")
        since = self.app.sync(self.bob, self.since)["next_batch"]
        self.app.restart()
        self.app.restart()  # in between a command, which is no server, and knows of nobody who types
        self.app.app.begin()
        told = self.app.sync(self.bob, since)
        self.assertEqual([{"type": "m.typing", "content": {"user_ids": []}}], self.ephemeral(told))
        self.assertEqual([ROOM], list(told["rooms"]["join"]))
        self.assertNotIn("rooms", self.app.sync(self.bob, told["next_batch"]))
        self.assertEqual([], self.ephemeral(self.app.sync(self.bob)))
        self.app.advance(RECENT_S + 1)
        self.app.restart()
        self.assertNotIn("rooms", self.app.sync(self.bob, told["next_batch"]))

    def test_receipts(self) -> None:
        said = self.app.say(ROOM, "alice", "hello")
        self.app.sync(self.bob, self.since)
        since = self.app.sync(self.bob)["next_batch"]
        self.receipt("alice", said)
        self.receipt("alice", said, thread="main")
        self.receipt("alice", said, PRIVATE)
        self.receipt("bob", said, PRIVATE)
        alice, bob = user_id("alice"), user_id("bob")
        for since_ in (since, since, None):
            found, statements = self.app.count_statements(partial(self.app.sync, self.bob, since_))
            events = self.ephemeral(found)
            self.assertEqual({event["type"] for event in events}, {"m.receipt"})
            told = [
                (kind, user, receipt.get("thread_id"))
                for event in events
                for kind, users in event["content"][said].items()
                for user, receipt in users.items()
            ]
            self.assertEqual(
                sorted(told, key=str),
                sorted(
                    [("m.read", alice, None), ("m.read", alice, "main"), ("m.read.private", bob, None)],
                    key=str,
                ),
            )
            if since_ is not None:
                self.assertEqual(statements, [])
        self.app.restart()
        self.assertEqual(len(self.ephemeral(self.app.sync(self.bob, since))), 2)

    def test_ones_own_receipt_tells_the_counts(self) -> None:
        said = self.app.say(ROOM, "alice", "hello")
        since = self.app.sync(self.bob, self.since)["next_batch"]
        self.receipt("bob", said)
        quiet: dict[str, Any] = {"room": {"ephemeral": {"types": []}}}
        room = self.app.sync(self.bob, since, filter=quiet)["rooms"]["join"][ROOM]
        self.assertEqual(room["ephemeral"]["events"], [])
        self.assertEqual(room["unread_notifications"], {"notification_count": 0, "highlight_count": 0})

    def test_ignored_people_have_no_receipts(self) -> None:
        said = self.app.say(ROOM, "bob", "hello")
        since = self.app.sync(self.bob, self.since)["next_batch"]
        self.app.put_account_data(
            self.bob, "", "m.ignored_user_list", {"ignored_users": {user_id("alice"): {}}}
        )
        self.receipt("alice", said)
        self.type("alice")
        events = self.ephemeral(self.app.sync(self.bob, since))
        self.assertEqual(events, [{"type": "m.typing", "content": {"user_ids": []}}])

    def test_counts(self) -> None:
        root = self.app.say(ROOM, "alice", "hello")
        self.app.say(ROOM, "alice", "again")
        relation = {"rel_type": "m.thread", "event_id": root}
        content = {"msgtype": "m.text", "body": "in a thread", "m.relates_to": relation}
        self.app.place(ROOM, "alice", "m.room.message", content)
        # Two people in a room: every message notifies, and none is highlighted.
        threads = {"room": {"timeline": {"unread_thread_notifications": True}}}
        for since in (self.since, None):
            room = self.app.sync(self.bob, since)["rooms"]["join"][ROOM]
            self.assertEqual(room["unread_notifications"], {"notification_count": 3, "highlight_count": 0})
            self.assertNotIn("unread_thread_notifications", room)
            room = self.app.sync(self.bob, since, filter=threads)["rooms"]["join"][ROOM]
            self.assertEqual(room["unread_notifications"], {"notification_count": 2, "highlight_count": 0})
            wanted = {root: {"notification_count": 1, "highlight_count": 0}}
            self.assertEqual(room["unread_thread_notifications"], wanted)

    def test_presence(self) -> None:
        since = self.app.sync(self.bob, self.since)["next_batch"]
        path = f"/_matrix/client/v3/presence/{user_id('alice')}/status"
        self.app.ok("PUT", path, {"presence": "online", "status_msg": "here"}, self.alice)
        found = self.app.sync(self.bob, since)
        told = {event["sender"]: event["content"] for event in found["presence"]["events"]}
        self.assertEqual(told[user_id("alice")]["status_msg"], "here")
        self.assertNotIn("presence", self.app.sync(self.bob, found["next_batch"]))
        self.assertIn("presence", self.app.sync(self.bob))
        self.assertNotIn("presence", self.app.sync(self.bob, filter={"presence": {"types": []}}))

    def test_set_presence(self) -> None:
        carol = self.app.register("carol")
        self.app.member(ROOM, "carol", "join")
        path = f"/_matrix/client/v3/presence/{user_id('carol')}/status"
        self.app.sync(carol, set_presence="offline")
        self.assertEqual(self.app.ok("GET", path, None, self.alice)["presence"], "offline")
        self.app.sync(carol)
        self.assertEqual(self.app.ok("GET", path, None, self.alice)["presence"], "online")
        self.app.sync(carol, set_presence="unavailable")
        self.assertEqual(self.app.ok("GET", path, None, self.alice)["presence"], "unavailable")
