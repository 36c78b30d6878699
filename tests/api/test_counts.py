"""Unread counts. spec: client-server-api#receiving-notifications, #marking-notifications-as-read"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.push import counts as module
from homeserver.push import entries, recent
from homeserver.push.readers import Readers
from homeserver.store.parsed import EventCache
from tests.support.app import TestApp
from tests.support.databases import DatabaseCase, on_each_database

V3 = "/_matrix/client/v3"


class CountsCase(DatabaseCase):
    def setUp(self) -> None:
        self.app = TestApp(self, database=self.new_database())
        self.alice, self.bob, self.carol = (self.app.register(name) for name in ("alice", "bob", "carol"))
        created = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)
        self.room_id: str = created["room_id"]
        for token in (self.bob, self.carol):
            self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, token)
        self.number = 0

    def send(
        self, token: str, body: str = "hello", type_: str = "m.room.message", content: Any = None
    ) -> str:
        self.number += 1
        path = f"{V3}/rooms/{self.room_id}/send/{type_}/{self.number}"
        full = {"msgtype": "m.text", "body": body, **(content or {})}
        event_id: str = self.app.ok("PUT", path, full, token)["event_id"]
        return event_id

    def in_thread(self, token: str, root: str, body: str = "in thread") -> str:
        return self.send(token, body, content={"m.relates_to": {"rel_type": "m.thread", "event_id": root}})

    def read(self, token: str, event_id: str, kind: str = "m.read", thread: str | None = None) -> None:
        body = {} if thread is None else {"thread_id": thread}
        self.app.ok("POST", f"{V3}/rooms/{self.room_id}/receipt/{kind}/{event_id}", body, token)

    def counts(self, token: str, threads: bool = False) -> Any:
        filter_ = '{"room":{"timeline":{"unread_thread_notifications":true}}}' if threads else "{}"
        answer = self.app.ok("GET", f"{V3}/sync", None, token, {"filter": filter_})
        room = answer["rooms"]["join"][self.room_id]
        found = room["unread_notifications"]
        pair = (found["notification_count"], found["highlight_count"])
        if not threads:
            return pair
        per = room.get("unread_thread_notifications", {})
        return pair, {root: (one["notification_count"], one["highlight_count"]) for root, one in per.items()}


@on_each_database
class Counting(CountsCase):
    def test_messages_and_receipts(self) -> None:
        self.assertEqual((0, 0), self.counts(self.bob))
        first, second = self.send(self.alice), self.send(self.alice, "two")
        self.assertEqual((2, 0), self.counts(self.bob))
        self.assertEqual((0, 0), self.counts(self.alice))
        self.read(self.bob, first)
        self.assertEqual((1, 0), self.counts(self.bob))
        self.read(self.bob, second, "m.read.private")
        self.assertEqual((0, 0), self.counts(self.bob))
        # The one further on counts, whichever came last.
        self.read(self.bob, first)
        self.assertEqual((0, 0), self.counts(self.bob))
        self.assertEqual((2, 0), self.counts(self.carol))

    def test_told_with_the_message_and_with_the_receipt(self) -> None:
        since = self.app.ok("GET", f"{V3}/sync", None, self.bob)["next_batch"]
        event_id = self.send(self.alice)
        answer = self.app.ok("GET", f"{V3}/sync", None, self.bob, {"since": since})
        room = answer["rooms"]["join"][self.room_id]
        self.assertEqual([event_id], [one["event_id"] for one in room["timeline"]["events"]])
        self.assertEqual({"notification_count": 1, "highlight_count": 0}, room["unread_notifications"])
        self.read(self.bob, event_id, "m.read.private")
        answer = self.app.ok("GET", f"{V3}/sync", None, self.bob, {"since": answer["next_batch"]})
        room = answer["rooms"]["join"][self.room_id]
        self.assertEqual({"notification_count": 0, "highlight_count": 0}, room["unread_notifications"])

    def test_sending_marks_as_read(self) -> None:
        self.send(self.alice)
        self.assertEqual((1, 0), self.counts(self.bob))
        self.send(self.bob)
        self.assertEqual((0, 0), self.counts(self.bob))
        self.assertEqual((2, 0), self.counts(self.carol))

    def test_state_of_ones_own_marks_nothing(self) -> None:
        self.send(self.alice)
        self.app.ok("PUT", f"{V3}/profile/@bob:test.example/displayname", {"displayname": "Bob"}, self.bob)
        self.app.advance(1)
        self.assertEqual((1, 0), self.counts(self.bob))

    def test_what_does_not_notify(self) -> None:
        target = self.send(self.alice, content={"msgtype": "m.notice"})
        self.send(self.alice, "edit", content={"m.relates_to": {"rel_type": "m.replace", "event_id": target}})
        relates_to = {"rel_type": "m.annotation", "event_id": target, "key": "x"}
        self.send(self.alice, "", "m.reaction", content={"m.relates_to": relates_to})
        self.send(self.alice, "", "org.example.unknown")
        self.assertEqual((0, 0), self.counts(self.bob))
        self.send(self.alice, "", "m.room.encrypted")
        self.assertEqual((1, 0), self.counts(self.bob))

    def test_mentions(self) -> None:
        self.counts(self.bob)
        self.send(self.alice, content={"m.mentions": {"user_ids": ["@bob:test.example"]}})
        self.assertEqual((1, 1), self.counts(self.bob))
        self.assertEqual((1, 0), self.counts(self.carol))
        self.send(self.alice, content={"m.mentions": {"room": True}})
        self.assertEqual((2, 2), self.counts(self.bob))
        # Bob may not notify everybody.
        self.send(self.bob, content={"m.mentions": {"room": True}})
        self.assertEqual((3, 1), self.counts(self.carol))
        levels = self.app.ok("GET", f"{V3}/rooms/{self.room_id}/state/m.room.power_levels/", None, self.alice)
        levels["notifications"] = {"room": 0}
        self.app.ok("PUT", f"{V3}/rooms/{self.room_id}/state/m.room.power_levels/", levels, self.alice)
        self.send(self.bob, content={"m.mentions": {"room": True}})
        self.assertEqual((4, 2), self.counts(self.carol))

    def test_threads(self) -> None:
        root = self.send(self.alice)
        reply, other = self.in_thread(self.alice, root), self.in_thread(self.carol, root)
        self.assertEqual((3, 0), self.counts(self.bob))
        self.assertEqual(((1, 0), {root: (2, 0)}), self.counts(self.bob, threads=True))
        self.read(self.bob, root, thread="main")
        self.assertEqual(((0, 0), {root: (2, 0)}), self.counts(self.bob, threads=True))
        self.read(self.bob, reply, thread=root)
        self.assertEqual(((0, 0), {root: (1, 0)}), self.counts(self.bob, threads=True))
        self.in_thread(self.bob, root)
        self.assertEqual(((0, 0), {}), self.counts(self.bob, threads=True))
        last = self.in_thread(self.alice, root)
        self.assertEqual(((0, 0), {root: (1, 0)}), self.counts(self.bob, threads=True))
        self.read(self.bob, last)
        self.assertEqual(((0, 0), {}), self.counts(self.bob, threads=True))
        self.assertNotEqual(other, last)

    def test_restart(self) -> None:
        root = self.send(self.alice)
        read = self.send(self.alice, "read upto here")
        self.read(self.bob, read, thread="main")
        self.in_thread(self.alice, root)
        gone = self.send(self.alice, "redacted")
        self.send(self.alice, content={"m.mentions": {"user_ids": ["@bob:test.example"]}})
        self.app.ok("PUT", f"{V3}/rooms/{self.room_id}/redact/{gone}/r", {}, self.alice)
        expected = ((1, 1), {root: (1, 0)})
        self.assertEqual(expected, self.counts(self.bob, threads=True))
        self.app.restart()
        self.assertEqual(expected, self.counts(self.bob, threads=True))
        self.assertEqual((4, 0), self.counts(self.carol))

    def test_redaction_after_counting(self) -> None:
        gone = self.send(self.alice)
        self.send(self.alice)
        self.assertEqual((2, 0), self.counts(self.bob))
        self.app.restart()
        self.assertEqual((2, 0), self.counts(self.bob))
        self.app.ok("PUT", f"{V3}/rooms/{self.room_id}/redact/{gone}/r", {}, self.alice)
        self.assertEqual((1, 0), self.counts(self.bob))
        gone = self.send(self.alice)
        self.assertEqual((2, 0), self.counts(self.bob))
        self.app.ok("PUT", f"{V3}/rooms/{self.room_id}/redact/{gone}/s", {}, self.alice)
        self.assertEqual((1, 0), self.counts(self.bob))

    def test_redaction_before_counting(self) -> None:
        self.assertEqual((0, 0), self.counts(self.bob))
        gone = self.send(self.alice)
        self.app.ok("PUT", f"{V3}/rooms/{self.room_id}/redact/{gone}/r", {}, self.alice)
        self.send(self.alice)
        self.assertEqual((1, 0), self.counts(self.bob))

    def test_leaving_and_coming_back(self) -> None:
        self.send(self.alice)
        self.assertEqual((1, 0), self.counts(self.bob))
        self.app.ok("POST", f"{V3}/rooms/{self.room_id}/leave", {}, self.bob)
        self.send(self.alice)
        self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, self.bob)
        self.assertEqual((0, 0), self.counts(self.bob))
        self.send(self.alice)
        self.assertEqual((1, 0), self.counts(self.bob))

    def test_ignored_users(self) -> None:
        self.send(self.alice)
        self.assertEqual((1, 0), self.counts(self.bob))
        path = f"{V3}/user/@bob:test.example/account_data/m.ignored_user_list"
        self.app.ok("PUT", path, {"ignored_users": {"@alice:test.example": {}}}, self.bob)
        self.send(self.alice)
        self.send(self.carol)
        self.assertEqual((2, 0), self.counts(self.bob))

    def test_changed_rules(self) -> None:
        self.send(self.alice)
        self.assertEqual((1, 0), self.counts(self.bob))
        self.app.ok("PUT", f"{V3}/pushrules/global/room/{self.room_id}", {"actions": []}, self.bob)
        self.send(self.alice)
        self.assertEqual((1, 0), self.counts(self.bob))
        body = {"pattern": "cake", "actions": ["notify", {"set_tweak": "highlight"}]}
        self.app.ok("PUT", f"{V3}/pushrules/global/content/cake", body, self.bob)
        self.send(self.alice, "There is Cake.")
        self.assertEqual((2, 1), self.counts(self.bob))

    def test_member_count_and_display_name(self) -> None:
        two = {"conditions": [{"kind": "room_member_count", "is": "2"}], "actions": ["notify"]}
        for name in (".m.rule.message",):
            self.app.ok(
                "PUT", f"{V3}/pushrules/global/underride/{name}/enabled", {"enabled": False}, self.bob
            )
        named = {"conditions": [{"kind": "contains_display_name"}], "actions": ["notify"]}
        self.app.ok("PUT", f"{V3}/pushrules/global/override/two", two, self.bob)
        self.app.ok("PUT", f"{V3}/pushrules/global/override/named", named, self.bob)
        self.send(self.alice)
        self.assertEqual((0, 0), self.counts(self.bob))
        self.send(self.alice, "Hello bob!")
        self.assertEqual((1, 0), self.counts(self.bob))
        self.app.ok("PUT", f"{V3}/profile/@bob:test.example/displayname", {"displayname": "Robert"}, self.bob)
        self.app.advance(1)
        self.send(self.alice, "bob")
        self.send(self.alice, "robert.")
        self.assertEqual((2, 0), self.counts(self.bob))
        self.app.ok("POST", f"{V3}/rooms/{self.room_id}/leave", {}, self.carol)
        self.send(self.alice)
        # The rule has no other condition, so that Carol's leaving counts as well.
        self.assertEqual((4, 0), self.counts(self.bob))
        self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, self.carol)
        self.send(self.alice)
        self.assertEqual((4, 0), self.counts(self.bob))

    def test_counts_stop_at_the_limit(self) -> None:
        for counting in (module, entries, recent):
            self.patch(counting, "MOST", 3)
        self.patch(recent, "_SLACK", 1)
        self.counts(self.bob)
        sent = [self.send(self.alice) for _ in range(6)]
        self.assertEqual((3, 0), self.counts(self.bob))
        self.app.restart()
        self.assertEqual((3, 0), self.counts(self.bob))
        self.send(self.alice)
        self.assertEqual((3, 0), self.counts(self.bob))
        self.read(self.bob, sent[-1])
        self.assertEqual((1, 0), self.counts(self.bob))

    def test_sending_reads_nothing_per_member(self) -> None:
        """Counting from memory: no statement for a member who asks again."""
        for token in (self.bob, self.carol):
            self.counts(token)
        self.send(self.alice)
        unread = module.Unread.unread
        service = self.app.app.services.syncing.classic._unread
        user_nid = self.app.app.core.interner.known_user("@bob:test.example")
        room_nid = self.app.app.core.interner.known_room(self.room_id)
        assert isinstance(service, module.Unread) and user_nid is not None and room_nid is not None
        found = unread(service, user_nid, room_nid, self.app.app.core.changes.position)
        self.assertEqual(entries.Counts(1, 0, {}), found)


def waited(found: Any) -> Deferred[Any]:
    """What has to be waited for."""
    return Deferred.fromCoroutine(found)


class RandomCase(CountsCase):
    """Things that happen in a room, and two ways to count."""

    def at_once(self, user_nid: int, room_nid: int) -> Any:
        core = self.app.app.core
        fresh = module.Unread(
            core.around.database, Readers(core.around.database), core.changes, core.index, core.events
        )
        return self.ask(fresh, user_nid, room_nid)

    def ask(self, service: module.Unread, user_nid: int, room_nid: int) -> Any:
        found = service.unread(user_nid, room_nid, self.app.app.core.changes.position)
        if isinstance(found, entries.Counts):
            return found
        return self.app.wait(waited(found))

    def step(self, choice: Random, sent: list[str], roots: list[str]) -> None:
        token = choice.choice((self.alice, self.bob, self.carol))
        kind = choice.randrange(10)
        if kind < 4:
            mentions = {"m.mentions": {"user_ids": ["@bob:test.example"], "room": choice.random() < 0.5}}
            sent.append(self.send(token, content=mentions if choice.random() < 0.4 else None))
            # No thread begins at what relates to something itself.
            roots.append(sent[-1])
        elif kind < 6 and roots:
            sent.append(self.in_thread(token, choice.choice(roots[-4:])))
        elif kind == 6 and sent:
            relates_to = {"rel_type": "m.reference", "event_id": choice.choice(sent[-10:])}
            sent.append(self.send(token, content={"m.relates_to": relates_to}))
        elif kind == 7 and sent:
            self.number += 1
            target = choice.choice(sent[-5:])
            path = f"{V3}/rooms/{self.room_id}/redact/{target}/{self.number}"
            self.app.call("PUT", path, {}, self.alice)
        elif sent:
            thread = choice.choice([None, "main", *roots[-3:]])
            marker = choice.choice(("m.read", "m.read.private"))
            path = f"{V3}/rooms/{self.room_id}/receipt/{marker}/{choice.choice(sent[-6:])}"
            self.app.call("POST", path, {} if thread is None else {"thread_id": thread}, token)


@on_each_database
class Law(RandomCase):
    """What is counted little by little is what is counted at once from the tables."""

    def test_it_holds(self) -> None:
        interner = self.app.app.core.interner
        room_nid = interner.known_room(self.room_id)
        service = self.app.app.services.syncing.classic._unread
        assert isinstance(service, module.Unread) and room_nid is not None
        users = [interner.known_user(f"@{name}:test.example") for name in ("alice", "bob", "carol")]
        for seed in range(4):
            choice = Random(seed)
            sent: list[str] = []
            roots: list[str] = []
            for number in range(80):
                self.step(choice, sent, roots)
                if choice.random() < 0.4:
                    for user_nid in users:
                        assert user_nid is not None
                        expected = self.at_once(user_nid, room_nid)
                        self.assertEqual(expected, self.ask(service, user_nid, room_nid), (seed, number))


class CountingDatabase:
    """Knows how many units were read."""

    def __init__(self, app: TestApp) -> None:
        self._app = app
        self.reads = 0

    def read(self, function: Any, *args: Any) -> Deferred[Any]:
        self.reads += 1
        return self._app.database.read(function, *args)


@on_each_database
class ManyRooms(RandomCase):
    """What is made of many rooms at once is what each of them says when it is asked alone."""

    def setUp(self) -> None:
        super().setUp()
        self.rooms = [self.room_id]
        for _ in range(3):
            created = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)
            self.rooms.append(created["room_id"])
            for token in (self.bob, self.carol):
                self.app.ok("POST", f"{V3}/join/{self.rooms[-1]}", {}, token)
        self.nids = [self.nid(room_id) for room_id in self.rooms]

    def each_room(self) -> Iterator[str]:
        for self.room_id in self.rooms:  # noqa: B020
            yield self.room_id

    def nid(self, room_id: str) -> int:
        room_nid = self.app.app.core.interner.known_room(room_id)
        assert room_nid is not None
        return room_nid

    def user(self, name: str) -> int:
        user_nid = self.app.app.core.interner.known_user(f"@{name}:test.example")
        assert user_nid is not None
        return user_nid

    def fresh(self, events: EventCache | None = None) -> tuple[module.Unread, CountingDatabase]:
        core, database = self.app.app.core, CountingDatabase(self.app)
        service = module.Unread(
            database,  # type: ignore[arg-type]
            Readers(database),  # type: ignore[arg-type]
            core.changes,
            core.index,
            core.events if events is None else events,
        )
        return service, database

    def prepare(self, service: module.Unread, user_nid: int) -> None:
        preparing = service.prepare(user_nid, self.nids)
        if preparing is not None:
            self.app.wait(waited(preparing))

    def at_once_all(self, user_nid: int, events: EventCache | None = None) -> list[Any]:
        service, database = self.fresh(events)
        self.prepare(service, user_nid)
        position = self.app.app.core.changes.position
        found = [service.unread(user_nid, nid, position) for nid in self.nids]
        self.assertEqual(1, database.reads)
        return found

    def move(self, choice: Random) -> None:
        """Somebody is called something else, or leaves and comes back."""
        name, token = choice.choice((("bob", self.bob), ("carol", self.carol)))
        if choice.random() < 0.6:
            body = {"displayname": f"{name}{choice.randrange(100)}"}
            self.app.ok("PUT", f"{V3}/profile/@{name}:test.example/displayname", body, token)
            self.app.advance(1)
        else:
            self.app.ok("POST", f"{V3}/rooms/{self.room_id}/leave", {}, token)
            self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, token)

    def test_it_holds(self) -> None:
        service = self.app.app.services.syncing.classic._unread
        assert isinstance(service, module.Unread)
        users = [self.user(name) for name in ("alice", "bob", "carol")]
        for seed in range(2):
            choice = Random(seed)
            known: dict[str, tuple[list[str], list[str]]] = {room_id: ([], []) for room_id in self.rooms}
            for number in range(100):
                self.room_id = choice.choice(self.rooms)
                if choice.random() < 0.08:
                    self.move(choice)
                else:
                    self.step(choice, *known[self.room_id])
                if choice.random() < 0.3:
                    for user_nid in users:
                        expected = [self.at_once(user_nid, nid) for nid in self.nids]
                        self.assertEqual(expected, self.at_once_all(user_nid), (seed, number))
                        running = [self.ask(service, user_nid, nid) for nid in self.nids]
                        self.assertEqual(expected, running, (seed, number))

    def test_what_is_known_is_not_read_again(self) -> None:
        bob = self.user("bob")
        service, database = self.fresh()
        self.prepare(service, bob)
        self.assertIsNone(service.prepare(bob, self.nids))
        for _ in self.each_room():
            self.send(self.alice)
        self.assertIsNone(service.prepare(bob, self.nids))
        position = self.app.app.core.changes.position
        self.assertEqual([entries.Counts(1)] * 4, [service.unread(bob, nid, position) for nid in self.nids])
        self.assertEqual(1, database.reads)

    def test_what_was_read_is_not_parsed(self) -> None:
        bob, carol = self.user("bob"), self.user("carol")
        for _ in self.each_room():
            sent = [self.send(self.alice) for _number in range(12)]
            self.send(self.bob)
            self.read(self.carol, sent[-1])
            self.send(self.alice)
        for user_nid, most in ((bob, 2), (carol, 2)):
            events = EventCache()
            counts = self.at_once_all(user_nid, events)
            self.assertEqual([1 if user_nid == bob else 2] * 4, [one.notification_count for one in counts])
            self.assertLessEqual(len(events), most * len(self.rooms))

    def test_threads_before_ones_own_message(self) -> None:
        for _ in self.each_room():
            root = self.send(self.alice)
            self.in_thread(self.alice, root)
            relates_to = {"rel_type": "m.reference", "event_id": self.in_thread(self.alice, root)}
            self.send(self.alice, content={"m.relates_to": relates_to})
            self.send(self.bob)
        found = self.at_once_all(self.user("bob"))
        self.assertEqual([(0, [3])] * 4, [(one.notification_count, _threads(one)) for one in found])

    def test_two_devices_at_once(self) -> None:
        for _ in self.each_room():
            self.send(self.alice)
        slow = SlowDatabase(self.app)
        core, bob = self.app.app.core, self.user("bob")
        service = module.Unread(slow, Readers(slow), core.changes, core.index, core.events)  # type: ignore[arg-type]
        first = waited(service.prepare(bob, self.nids))
        # The other finds somebody at it, and waits room by room.
        self.assertIsNone(service.prepare(bob, self.nids))
        waiting = [waited(service.unread(bob, nid, core.changes.position)) for nid in self.nids]
        for _ in range(3):
            self.app.advance(1)
        self.successResultOf(first)
        self.assertEqual([entries.Counts(1)] * 4, [self.successResultOf(one) for one in waiting])
        self.assertEqual(1, slow.reads)

    def test_a_redaction_meanwhile(self) -> None:
        gone = [self.send(self.alice) for _ in self.each_room()]
        slow = SlowDatabase(self.app)
        core, bob = self.app.app.core, self.user("bob")
        service = module.Unread(slow, Readers(slow), core.changes, core.index, core.events)  # type: ignore[arg-type]
        first = waited(service.prepare(bob, self.nids))
        self.app.ok("PUT", f"{V3}/rooms/{self.room_id}/redact/{gone[-1]}/meanwhile", {}, self.alice)
        self.app.advance(1)
        self.successResultOf(first)
        last = service.unread(bob, self.nids[-1], core.changes.position)
        waiting = waited(last)
        self.app.advance(1)
        self.assertEqual(entries.Counts(0), self.successResultOf(waiting))


def _threads(counts: Any) -> list[int]:
    return [one.notification_count for one in counts.threads.values()]


class SlowDatabase:
    """Reads what is there when it is asked, and answers a second later."""

    def __init__(self, app: TestApp) -> None:
        self._app = app
        self.reads = 0

    def read(self, function: Any, *args: Any) -> Deferred[Any]:
        self.reads += 1
        answer = self._app.wait(self._app.database.read(function, *args))
        later: Deferred[Any] = Deferred()
        self._app.time.callLater(1, later.callback, answer)
        return later


class Meanwhile(CountsCase):
    """What happens while the database is asked is counted once."""

    def new_database(self, *args: Any, **kwargs: Any) -> str:
        return "sqlite::memory:"

    def setUp(self) -> None:
        super().setUp()
        core = self.app.app.core
        self.slow = SlowDatabase(self.app)
        self.service = module.Unread(
            self.slow,  # type: ignore[arg-type]
            Readers(self.slow),  # type: ignore[arg-type]
            core.changes,
            core.index,
            core.events,
        )

    def ask(self, name: str) -> Any:
        core = self.app.app.core
        user_nid, room_nid = (
            core.interner.known_user(f"@{name}:test.example"),
            core.interner.known_room(self.room_id),
        )
        assert user_nid is not None and room_nid is not None
        found = self.service.unread(user_nid, room_nid, core.changes.position)
        return found if isinstance(found, entries.Counts) else waited(found)

    def settle(self, *waiting: Any) -> list[Any]:
        for _ in range(10):
            self.app.advance(1)
        return [self.successResultOf(one).notification_count for one in waiting]

    def test_messages_and_receipts(self) -> None:
        read = self.send(self.alice)
        self.send(self.alice)
        waiting = [self.ask("bob"), self.ask("bob"), self.ask("carol")]
        for _ in range(4):
            self.app.advance(0.2)
            self.send(self.alice)
            self.read(self.bob, read)
        self.assertEqual([5, 5, 6], self.settle(*waiting))
        self.assertEqual([5, 6], [self.ask(name).notification_count for name in ("bob", "carol")])
        last = self.send(self.alice)
        self.read(self.bob, last)
        self.assertEqual([0, 7], [self.ask(name).notification_count for name in ("bob", "carol")])

    def test_facts_are_read_once_for_all(self) -> None:
        self.settle(self.ask("bob"), self.ask("carol"))
        self.send(self.alice, content={"m.mentions": {"room": True}})
        before = self.slow.reads
        self.assertEqual([1, 1], self.settle(self.ask("bob"), self.ask("carol")))
        self.assertEqual(before + 1, self.slow.reads)

    def test_who_goes_away_leaves_no_trace(self) -> None:
        self.send(self.alice)
        first, second = self.ask("bob"), self.ask("bob")
        self.app.advance(0.5)
        first.addErrback(lambda failure: None)
        first.cancel()
        self.assertEqual([1], self.settle(second))
