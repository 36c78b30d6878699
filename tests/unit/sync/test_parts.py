"""The small parts of sync: lazy memory, ignore lists, windows, pieces of the answer, turns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import msgspec
from hypothesis import given
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from federation.ids import EventId
from homeserver.moderation.types import InvitePermission, parse_ignored
from homeserver.store.account_data import AccountDataChanged
from homeserver.store.changes import Change, Kind
from homeserver.store.client_events import ClientEvent
from homeserver.store.device_lists import ListChanged
from homeserver.store.one_time_keys import KeysLeft
from homeserver.store.outgoing import Relay
from homeserver.store.outside import Told
from homeserver.store.placement import Membership, Placement, StateMove, StateMoved
from homeserver.store.receipts import PRIVATE, READ, ReceiptChange
from homeserver.store.reports import Report
from homeserver.store.state import empty_snapshot
from homeserver.store.thread_subscriptions import SubscriptionChanged
from homeserver.store.unsigned import sent_as, transaction_id
from homeserver.stream.log import ChangeLog
from homeserver.stream.threads import ThreadIndex
from homeserver.sync.ignored import IgnoreLists
from homeserver.sync.lazy import LazyMemory
from homeserver.sync.serialise import receipt_events
from homeserver.sync.wait import Turns
from homeserver.sync.window import MAX_CHANGES, Window, Windows

DEVICE = (1, 2)


class LazyMemoryTests(SynchronousTestCase):
    def test_only_what_the_client_has_counts(self) -> None:
        memory = LazyMemory()
        memory.note(DEVICE, 7, {"@a:x": 70}, 10)
        self.assertTrue(memory.knows(DEVICE, 7, "@a:x", 70, 10))
        self.assertFalse(memory.knows(DEVICE, 7, "@a:x", 70, 9))
        self.assertFalse(memory.knows(DEVICE, 7, "@a:x", 71, 10))
        self.assertFalse(memory.knows(DEVICE, 8, "@a:x", 70, 10))
        self.assertFalse(memory.knows((1, 3), 7, "@a:x", 70, 10))

    def test_telling_again_does_not_make_it_unknown(self) -> None:
        memory = LazyMemory()
        memory.note(DEVICE, 7, {"@a:x": 70}, 10)
        memory.note(DEVICE, 7, {"@a:x": 70}, 20)
        self.assertTrue(memory.knows(DEVICE, 7, "@a:x", 70, 10))

    def test_it_is_bounded(self) -> None:
        memory = LazyMemory(max_entries=100)
        for device in range(50):
            memory.note((1, device), 7, {f"@u{number}:x": number for number in range(10)}, 1)
        self.assertLessEqual(len(memory), 100)
        self.assertTrue(memory.knows((1, 49), 7, "@u1:x", 1, 1))
        self.assertFalse(memory.knows((1, 0), 7, "@u1:x", 1, 1))

    def test_forgetting_keeps_count(self) -> None:
        memory = LazyMemory()
        memory.note(DEVICE, 7, {"@a:x": 1, "@b:x": 2}, 1)
        memory.note(DEVICE, 8, {"@a:x": 3}, 1)
        memory.forget_room(DEVICE, 7)
        self.assertEqual(len(memory), 1)
        memory.forget(DEVICE)
        memory.forget(DEVICE)
        self.assertEqual(len(memory), 0)


class FakeDatabase:
    """Answers reads when told to."""

    def __init__(self) -> None:
        self.reads: list[Deferred[Any]] = []

    def read(self, unit: Any, *args: Any) -> Deferred[Any]:
        self.reads.append(Deferred())
        return self.reads[-1]


class IgnoreTests(SynchronousTestCase):
    def change(self, *users: str) -> Change:
        text = msgspec.json.encode({"ignored_users": {user: {} for user in users}}).decode()
        return Change(5, Kind.ACCOUNT_DATA, -1, 0, AccountDataChanged(1, 0, "m.ignored_user_list", text))

    def test_what_clients_write(self) -> None:
        self.assertEqual(parse_ignored(None), frozenset())
        for text in ("[]", "{}", '{"ignored_users": []}', '{"ignored_users": null}', "3"):
            self.assertEqual(parse_ignored(text), frozenset())
        self.assertEqual(parse_ignored('{"ignored_users": {"@a:x": 1}}'), {"@a:x"})

    def test_a_change_is_heard(self) -> None:
        database = FakeDatabase()
        lists = IgnoreLists(database)  # type: ignore[arg-type]
        for users in (("@a:x",), ()):
            lists.apply([self.change(*users)])
            self.assertIsNone(lists.known(1))
            loading = Deferred.fromCoroutine(lists.load(1))
            database.reads.pop().callback(self.permission(*users))
            self.assertEqual(self.successResultOf(loading), frozenset(users))
            self.assertEqual(lists.known(1), frozenset(users))
        lists.apply([Change(6, Kind.ACCOUNT_DATA, -1, 0, AccountDataChanged(1, 0, "m.other", "{}"))])
        self.assertIsNotNone(lists.known(1))
        lists.apply([Change(7, Kind.ACCOUNT_DATA, -1, 0, None)])
        self.assertIsNone(lists.known(1))

    def permission(self, *users: str) -> InvitePermission:
        return InvitePermission(frozenset(users))

    def test_a_change_while_it_is_read(self) -> None:
        database = FakeDatabase()
        lists = IgnoreLists(database)  # type: ignore[arg-type]
        loading = Deferred.fromCoroutine(lists.load(1))
        lists.apply([self.change("@a:x")])
        database.reads[0].callback(self.permission())  # what it was before
        database.reads[1].callback(self.permission("@a:x"))
        self.assertEqual(self.successResultOf(loading), {"@a:x"})
        self.assertEqual(lists.known(1), {"@a:x"})

    def test_a_change_while_two_read_it(self) -> None:
        """Nobody keeps what was read before the change, whoever else has begun or ended since."""
        for another_reads in (False, True):
            database = FakeDatabase()
            lists = IgnoreLists(database)  # type: ignore[arg-type]
            first, second = (Deferred.fromCoroutine(lists.load(1)) for _ in range(2))
            database.reads[0].callback(self.permission())
            self.assertEqual(self.successResultOf(first), frozenset())
            lists.apply([self.change("@a:x")])
            third = Deferred.fromCoroutine(lists.load(1)) if another_reads else None
            database.reads[1].callback(self.permission())  # what it was before
            for read in database.reads[2:]:
                read.callback(self.permission("@a:x"))
            self.assertEqual(self.successResultOf(second), {"@a:x"})
            if third is not None:
                self.assertEqual(self.successResultOf(third), {"@a:x"})
            self.assertEqual(lists.known(1), {"@a:x"})


class ThreadTests(SynchronousTestCase):
    def test_a_change_while_two_read_it(self) -> None:
        for another_reads in (False, True):
            database = FakeDatabase()
            index = ThreadIndex(database)  # type: ignore[arg-type]
            first, second = (Deferred.fromCoroutine(index.load(1)) for _ in range(2))
            database.reads[0].callback({})
            self.assertEqual(self.successResultOf(first), frozenset())
            index.apply([Change(5, Kind.THREAD_SUBSCRIPTION, -1, 7, None)])
            third = Deferred.fromCoroutine(index.load(1)) if another_reads else None
            database.reads[1].callback({})  # what it was before
            for read in database.reads[2:]:
                read.callback({1: {(7, "$a")}})
            self.assertEqual(self.successResultOf(second), {(7, "$a")})
            if third is not None:
                self.assertEqual(self.successResultOf(third), {(7, "$a")})
            self.assertEqual(index.known(1), {(7, "$a")})

    def test_a_change_after_one_has_read_it_and_before_another_has(self) -> None:
        index = ThreadIndex(database := FakeDatabase())  # type: ignore[arg-type]
        first, second = (Deferred.fromCoroutine(index.load(1)) for _ in range(2))
        database.reads[0].callback({})
        self.successResultOf(first)
        index.apply(
            [Change(5, Kind.THREAD_SUBSCRIPTION, -1, 7, SubscriptionChanged(1, 7, "$a", True, False))]
        )
        database.reads[1].callback({})  # what it was before
        self.assertEqual(self.successResultOf(second), {(7, "$a")})


class WindowTests(SynchronousTestCase):
    def find(self, log: ChangeLog, since: int, *rooms: int, user_nid: int = 1) -> Window:
        found = Windows(log).find(since, user_nid, rooms)
        assert found is not None
        return found

    def test_grouped_once(self) -> None:
        log = ChangeLog(0)
        windows = Windows(log)
        receipt = ReceiptChange(7, "@a:x", 1, READ, "", "$e", 5)
        log.publish([Change(1, Kind.RECEIPT, 7, 1, receipt), Change(2, Kind.ACCOUNT, -1, 0, None)])
        window = windows.find(0, 1, (7,))
        assert window is not None
        topic = window.topics[7]
        for user_nid in (1, 2):
            self.assertIs(window, windows.find(0, user_nid, (6, 7, 8)))
        self.assertIs(topic, window.topics[7])
        self.assertEqual([receipt], topic.receipts)
        self.assertTrue(topic.complete)
        log.publish([Change(3, Kind.RECEIPT, 7, 1, None)])
        later = windows.find(0, 1, (7,))
        assert later is not None
        self.assertFalse(later.topics[7].complete)

    def test_events_of_another_process_are_left_to_the_tables(self) -> None:
        nowhere = empty_snapshot(7)
        event: Any = None
        placed = Placement(event, b"{}", 70, 7, 11, None, 1, nowhere, nowhere)
        log = ChangeLog(0)
        log.publish([Change(1, Kind.EVENT, 7, 70, placed)])
        topic = self.find(log, 0, 7).topics[7]
        self.assertEqual((topic.complete, topic.placements), (False, []))

    def test_the_log_does_not_reach_back(self) -> None:
        windows = Windows(ChangeLog(10))
        self.assertIsNone(windows.find(9, 1, (7,)))
        self.assertIsNotNone(windows.find(10, 1, (7,)))

    def test_what_happened_elsewhere_is_not_looked_at(self) -> None:
        log = ChangeLog(0)
        log.publish([Change(pos, Kind.RECEIPT, pos % 50 + 1, 1, None) for pos in range(1, 5_000)])
        log.publish([Change(5_000, Kind.ACCOUNT_DATA, -1, 0, None)])
        self.assertEqual({-1, 7, 8}, set(self.find(log, 4_000, 7, 8, 90).topics))
        # Nor is it where there are more rooms than things that happened: then these are gone through.
        self.assertEqual({-1, 49, 50}, set(self.find(log, 4_997, *range(40, 51)).topics))

    def test_too_much_happened_in_a_room(self) -> None:
        log = ChangeLog(0)
        receipt = ReceiptChange(7, "@a:x", 1, READ, "", "$e", 5)
        many = [Change(pos, Kind.RECEIPT, 7, 1, receipt) for pos in range(1, MAX_CHANGES + 2)]
        log.publish([*many, Change(many[-1].pos + 1, Kind.RECEIPT, 8, 1, receipt)])
        topics = self.find(log, 0, 7, 8).topics
        self.assertEqual((False, True), (topics[7].complete, topics[8].complete))
        self.assertEqual(0, len(topics[7].receipts))
        self.assertTrue(self.find(log, 1, 7).topics[7].complete)

    def test_what_another_server_told_is_a_rooms_as_well(self) -> None:
        log = ChangeLog(0)
        receipt = ReceiptChange(8, "@a:x", 1, READ, "", "$e", 5)
        log.publish(
            [Change(1, Kind.OUTSIDE, -1, 7), Change(2, Kind.OUTSIDE, -1, 8), Change(3, Kind.OUTSIDE, -2, 9)]
        )
        log.publish([Change(4, Kind.RECEIPT, 8, 1, receipt)])
        topics = self.find(log, 0).topics
        self.assertEqual({-1, 7, 8}, set(topics))
        self.assertEqual(([], [receipt]), (topics[7].receipts, topics[8].receipts))

    def test_many_rooms_that_are_evenly_busy(self) -> None:
        log = ChangeLog(0, keep=200)
        for pos in range(1, 10_001):
            log.publish([Change(pos, Kind.RECEIPT, pos % 100 + 1, 1)])
        self.assertLessEqual(sum(map(len, log._topics.values())), 2 * 200)

    def test_large_ones_are_forgotten_before(self) -> None:
        log = ChangeLog(0, budget=1_000_000)
        small = ReceiptChange(7, "@a:x", 1, READ, "", "$e", 5)
        for pos in range(1, 201):
            large = AccountDataChanged(1, 0, "org.example", str(pos) * 50_000)
            log.publish(
                [
                    Change(2 * pos, Kind.ACCOUNT_DATA, -1, 0, large),
                    Change(2 * pos + 1, Kind.RECEIPT, 7, 1, small),
                ]
            )
        kept = [change for changes in log._topics.values() for change in changes]
        self.assertLess(sum(change.weight for change in kept), 1_000_000)
        self.assertIsNone(Windows(log).find(log.floor - 1, 1, (7,)))
        topics = self.find(log, log.floor, 7).topics
        self.assertTrue(topics[-1].account_data)
        self.assertEqual(len(log.since(log.floor) or ()), log.position - log.floor)
        # Small ones have as much room as before.
        for pos in range(402, 5_402):
            log.publish([Change(pos, Kind.RECEIPT, 7, 1, small)])
        self.assertLess(log.floor, 402)

    def test_a_commit_that_is_too_large_as_a_whole(self) -> None:
        log = ChangeLog(0, budget=1_000)
        large = AccountDataChanged(1, 0, "org.example", "x" * 2_000)
        log.publish([Change(1, Kind.RECEIPT, 7, 1), Change(2, Kind.ACCOUNT_DATA, -1, 0, large)])
        self.assertEqual((2, 2, []), (log.position, log.floor, log.since(2)))
        log.publish([Change(3, Kind.RECEIPT, 7, 1)])
        self.assertEqual([3], [change.pos for change in log.since(2) or ()])

    def test_what_others_make_large_has_its_weight(self) -> None:
        nowhere = empty_snapshot(7)
        event: Any = None
        text = "x" * 50_000
        move = StateMove(1, 2, 3)
        payloads: list[Any] = [
            Placement(event, text.encode(), 70, 7, 11, None, 1, nowhere, nowhere),
            # Few bytes that are many objects.
            Placement(event, b"[" + b"{}," * 1_000 + b"]", 70, 7, 11, None, 1, nowhere, nowhere),
            Placement(event, b"{}", 70, 7, 11, None, 1, nowhere, nowhere, moves=(move,) * 1_000),
            StateMoved((move,) * 1_000),
            AccountDataChanged(1, 0, "org.example", text),
            ListChanged(1, "DEVICE", [7] * 2_000),
            KeysLeft(1, {str(number): 1 for number in range(1_000)}),
            Relay(EventId("$e"), 7, "@a:x", text.encode()),
            Told(7, 1, Membership.INVITE, "x", "11", "$e", "{}", text),
            Report(1, 5, text),
        ]
        for payload in payloads:
            self.assertGreater(Change(1, Kind.EVENT, 7, 1, payload).weight, 49_999, payload)
        self.assertEqual(0, Change(1, Kind.RECEIPT, 7, 1).weight)

    @given(
        st.lists(
            st.lists(st.tuples(st.integers(1, 3), st.integers(-3, 6)), min_size=1, max_size=9), max_size=40
        ),
        st.integers(1, 60),
        st.integers(0, 200),
        st.sets(st.integers(1, 6)),
    )
    def test_the_changes_of_a_topic_are_those_of_the_log(
        self, commits: list[list[tuple[int, int]]], keep: int, since: int, rooms: set[int]
    ) -> None:
        log, pos = ChangeLog(0, keep), 0
        for commit in commits:
            changes = []
            for step, topic in commit:
                pos += step
                changes.append(Change(pos, Kind.RECEIPT, topic, 1))
            log.publish(changes)
        kept = sum(map(len, log._topics.values()))
        self.assertLessEqual(kept, 2 * keep)
        everything = log.since(since)
        if everything is None:
            self.assertIsNone(Windows(log).find(since, 1, rooms))
            return
        for topic in range(-3, 7):
            self.assertEqual(
                [one for one in everything if one.topic == topic], list(log.of_topic(topic, since))
            )
        window = self.find(log, since, *rooms)
        happened = {one.topic for one in everything}
        self.assertEqual(happened & {-1, *rooms}, set(window.topics) & {-1, *rooms})
        self.assertLessEqual(set(window.topics), happened)


class ReceiptTests(SynchronousTestCase):
    def receipt(self, who: int, kind: int = READ, thread: str = "") -> ReceiptChange:
        return ReceiptChange(7, f"@u{who}:x", who, kind, thread, "$e", 5)

    def decoded(self, found: list[bytes]) -> list[Any]:
        return [msgspec.json.decode(one)["content"] for one in found]

    def test_private_ones_are_their_owners(self) -> None:
        changes = [self.receipt(1, PRIVATE), self.receipt(2)]
        self.assertEqual(self.decoded(receipt_events(changes)), [{"$e": {"m.read": {"@u2:x": {"ts": 5}}}}])
        mine = self.decoded(receipt_events(changes, 1))
        self.assertEqual(mine[0]["$e"]["m.read.private"], {"@u1:x": {"ts": 5}})

    def test_two_threads_at_one_event(self) -> None:
        found = self.decoded(
            receipt_events([self.receipt(1), self.receipt(1, READ, "main"), self.receipt(2)])
        )
        self.assertEqual(found[0], {"$e": {"m.read": {"@u1:x": {"ts": 5}, "@u2:x": {"ts": 5}}}})
        self.assertEqual(found[1], {"$e": {"m.read": {"@u1:x": {"ts": 5, "thread_id": "main"}}}})

    def test_one_that_was_moved_on_is_told_once(self) -> None:
        moved = [self.receipt(2), replace(self.receipt(1), event_id="$before"), self.receipt(1)]
        found = self.decoded(receipt_events(moved))
        self.assertEqual(found, [{"$e": {"m.read": {"@u2:x": {"ts": 5}, "@u1:x": {"ts": 5}}}}])

    def test_nobody(self) -> None:
        self.assertEqual(receipt_events([self.receipt(1)], 0, {"@u1:x"}), [])


class TransactionIdTests(SynchronousTestCase):
    def event(self, type_: str, head: bytes = b"{") -> ClientEvent:
        return ClientEvent(1, "$e", type_, "@a:x", None, 0, head, b"{}", False, None)

    def test_slashes_everywhere(self) -> None:
        self.assertEqual(transaction_id("send/a/b/c/d", self.event("a/b")), "c/d")
        redaction = self.event("m.room.redaction", b'{"redacts":"$x/y"')
        self.assertEqual(transaction_id("redact/$x/y/z", redaction), "z")
        self.assertIsNone(transaction_id("send/other/1", self.event("a")))
        self.assertEqual(b"", sent_as("send/other/1", self.event("a")))
        self.assertEqual(b'"transaction_id":"c/d"', sent_as("send/a/b/c/d", self.event("a/b")))
        self.assertEqual(b'"org.matrix.msc4140.delay_id":"x"', sent_as("delay/a/b/x", self.event("a/b")))


class Later:
    """Runs what was scheduled when told to, one turn at a time."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def callLater(self, delay: float, function: Any, /, *args: Any) -> None:
        self.calls.append(function)

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class TurnsTests(SynchronousTestCase):
    def test_some_at_a_time(self) -> None:
        later = Later()
        turns = Turns(later)
        waiting = [turns.next() for _ in range(50)]
        self.assertFalse(waiting[0].called)
        later.turn()
        self.assertEqual(sum(one.called for one in waiting), 32)
        waiting[40].addErrback(lambda _: None)
        waiting[40].cancel()
        later.turn()
        self.assertTrue(all(one.called for one in waiting))
        self.assertEqual(later.calls, [])
