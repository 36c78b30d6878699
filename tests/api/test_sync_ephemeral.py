"""Typing, receipts, presence and unread counts in sync, with what others implement put in by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from homeserver.store.receipts import PRIVATE, READ, ReceiptChange, find_target, put_markers
from homeserver.sync.types import Counts, Tally
from tests.support.sync import SyncApp, user_id

ROOM = "!room:test.example"


@dataclass
class FakeTyping:
    """Typing as its protocol says, by hand."""

    counter: int = 0
    users: dict[int, list[str]] = field(default_factory=dict)
    changed: dict[int, int] = field(default_factory=dict)

    def users_in(self, room_nid: int) -> Sequence[str]:
        return self.users.get(room_nid, [])

    def changed_since(self, room_nids: Any, counter: int) -> list[int]:
        return [nid for nid in room_nids if self.changed.get(nid, 0) > counter]

    def put(self, room_nid: int, *users: str) -> None:
        self.counter += 1
        self.changed[room_nid] = self.counter
        self.users[room_nid] = list(users)


@dataclass
class FakePresence:
    """Presence as its protocol says: everybody hears of everybody."""

    typing: FakeTyping
    events: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    @property
    def counter(self) -> int:
        return self.typing.counter

    def changes_for(self, user_nid: int, since_counter: int) -> list[dict[str, Any]]:
        return [event for counter, event in self.events if counter > since_counter]

    def put(self, who: str, state: str) -> None:
        self.typing.counter += 1
        event = {"type": "m.presence", "sender": user_id(who), "content": {"presence": state}}
        self.events.append((self.typing.counter, event))


@dataclass
class _Tally:
    notification_count: int
    highlight_count: int
    threads: Mapping[str, Tally] = field(default_factory=dict)


class FakeUnread:
    """Counts that a test sets; ``later`` answers with an awaitable."""

    def __init__(self) -> None:
        self.counts = _Tally(0, 0)
        self.later = False

    def unread(self, user_nid: int, room_nid: int, upto: int) -> Any:
        if not self.later:
            return self.counts
        result: Deferred[Counts] = Deferred()
        result.callback(self.counts)
        return result


class EphemeralTests(TestCase):
    def setUp(self) -> None:
        typing = FakeTyping()
        self.typing, self.presence, self.unread = typing, FakePresence(typing), FakeUnread()
        self.app = SyncApp.__new__(SyncApp)
        self.app.collaborators = {  # type: ignore[misc]
            "typing": self.typing,
            "presence": self.presence,
            "unread": self.unread,
        }
        self.app.__init__(self)  # type: ignore[misc]
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

    def ephemeral(self, found: Any) -> list[Any]:
        return list(
            found.get("rooms", {}).get("join", {}).get(ROOM, {}).get("ephemeral", {}).get("events", [])
        )

    def test_typing(self) -> None:
        self.assertEqual(self.ephemeral(self.app.sync(self.bob)), [])
        self.typing.put(self.room_nid, user_id("alice"))
        wanted = [{"type": "m.typing", "content": {"user_ids": [user_id("alice")]}}]
        found = self.app.sync(self.bob, self.since)
        self.assertEqual(self.ephemeral(found), wanted)
        self.assertEqual(found["rooms"]["join"][ROOM]["timeline"]["events"], [])
        self.assertEqual(self.ephemeral(self.app.sync(self.bob)), wanted)
        since = found["next_batch"]
        self.assertNotIn("rooms", self.app.sync(self.bob, since))
        self.typing.put(self.room_nid)
        stopped = self.app.sync(self.bob, since)
        self.assertEqual(self.ephemeral(stopped), [{"type": "m.typing", "content": {"user_ids": []}}])
        quiet = {"room": {"ephemeral": {"not_types": ["m.typing"]}}}
        self.assertNotIn("rooms", self.app.sync(self.bob, since, filter=quiet))

    def test_typing_wakes(self) -> None:
        poll = self.app.poll(self.bob, self.since)
        self.typing.put(self.room_nid, user_id("alice"))
        self.app.app.core.notifier.wake_room(self.room_nid)
        self.assertEqual(len(self.ephemeral(self.app.wait(poll).json)), 1)

    def test_a_message_to_others_does_not_end_a_poll_by_typing_elsewhere(self) -> None:
        self.app.make_room("alice", "!other:test.example")
        other = self.app.app.core.interner.known_room("!other:test.example")
        assert other is not None
        poll = self.app.poll(self.bob, self.since)
        self.typing.put(other, user_id("alice"))
        self.app.app.core.notifier.wake_users([self.app.app.core.interner.known_user(user_id("bob")) or 0])
        self.app.advance(1)
        self.assertFalse(poll.called)
        self.app.advance(60)
        self.assertNotIn("rooms", self.app.wait(poll).json)

    def test_receipts(self) -> None:
        said = self.app.say(ROOM, "alice", "hello")
        since = self.app.sync(self.bob, self.since)["next_batch"]
        self.receipt("alice", said)
        self.receipt("alice", said, thread="main")
        self.receipt("alice", said, PRIVATE)
        self.receipt("bob", said, PRIVATE)
        alice, bob = user_id("alice"), user_id("bob")
        for since_ in (since, since, None):
            found, statements = self.app.count_statements(
                lambda since_=since_: self.app.sync(self.bob, since_)
            )
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
        quiet = {"room": {"ephemeral": {"types": []}}}
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
        self.typing.put(self.room_nid, user_id("alice"))
        events = self.ephemeral(self.app.sync(self.bob, since))
        self.assertEqual(events, [{"type": "m.typing", "content": {"user_ids": []}}])

    def test_counts(self) -> None:
        self.unread.counts = _Tally(2, 1, {"$root": _Tally(3, 0), "$quiet": _Tally(0, 0)})
        self.app.say(ROOM, "alice", "hello")
        for later in (False, True):
            self.unread.later = later
            room = self.app.sync(self.bob, self.since)["rooms"]["join"][ROOM]
            self.assertEqual(room["unread_notifications"], {"notification_count": 5, "highlight_count": 1})
            self.assertNotIn("unread_thread_notifications", room)
            threads = {"room": {"timeline": {"unread_thread_notifications": True}}}
            room = self.app.sync(self.bob, self.since, filter=threads)["rooms"]["join"][ROOM]
            self.assertEqual(room["unread_notifications"], {"notification_count": 2, "highlight_count": 1})
            wanted = {"$root": {"notification_count": 3, "highlight_count": 0}}
            self.assertEqual(room["unread_thread_notifications"], wanted)

    def test_presence(self) -> None:
        self.presence.put("alice", "online")
        found = self.app.sync(self.bob, self.since)
        self.assertEqual(found["presence"]["events"], [self.presence.events[0][1]])
        self.assertNotIn("presence", self.app.sync(self.bob, found["next_batch"]))
        self.assertIn("presence", self.app.sync(self.bob))
        self.assertNotIn("presence", self.app.sync(self.bob, filter={"presence": {"types": []}}))
