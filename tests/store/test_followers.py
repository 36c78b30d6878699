"""Followers and chores over the real pipeline: nothing is skipped, nothing unread is trimmed, restarts go on."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from twisted.internet.defer import Deferred

from homeserver.db.schema.rooms import client_transactions
from homeserver.db.schema.stream import changes as changes_table
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Change, Kind, load_cursors, trim_changes
from homeserver.stream.chores import TRANSACTIONS_KEPT_S, Chore, Chores, standard_chores
from homeserver.stream.followers import LONGEST_WAIT_S, STORE_AFTER_S, Follower, Followers
from tests.support.app import TestApp
from tests.support.databases import DatabaseCase, on_each_database

_COUNT = statement(select(func.count()).select_from(changes_table))
_TRANSACTIONS = statement(select(client_transactions.c.txn_key).order_by(client_transactions.c.txn_key))
_INSERT_TRANSACTIONS = rows(client_transactions, "device_nid", "room_nid", "txn_key", "event_nid", "ts_ms")


def _claim(tx: WriteTx, user_nid: int) -> None:
    tx.claim(Kind.PROFILE, -user_nid)


class _Reader:
    """Notes what it is handed; fails as often as it is told."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.calls = 0
        self.fail = 0
        self.gate: Deferred[None] | None = None

    async def handle(self, changes: Sequence[Change]) -> None:
        self.calls += 1
        if self.gate is not None:
            await self.gate
        if self.fail:
            self.fail -= 1
            raise RuntimeError("not now")
        self.seen += [change.topic for change in changes]


@on_each_database
class Following(DatabaseCase):
    """A server on which changes happen, and a follower of them."""

    def setUp(self) -> None:
        self.server = TestApp(self, self.new_database())
        self.reader = _Reader()
        self.followers = self.make()

    def make(self) -> Followers:
        core = self.server.app.core
        return Followers(
            core.around.database,
            core.committer,
            core.changes,
            core.around.clock,
            core.around.entropy,
            core.around.log,
        )

    def start(self, *, from_start: bool = False) -> None:
        one = Follower("reader", self.reader.handle, from_start)
        self.server.wait(Deferred.fromCoroutine(self.followers.start([one])))

    def change(self, *user_nids: int) -> None:
        for user_nid in user_nids:
            self.server.wait(self.server.app.core.committer.work(_claim, user_nid))

    def stop(self) -> None:
        self.server.wait(Deferred.fromCoroutine(self.followers.stop()))

    def cursor(self) -> int | None:
        return self.server.wait(self.server.database.read(load_cursors)).get("reader")

    def test_a_stop_waits_for_who_is_busy(self) -> None:
        self.start()
        self.reader.gate = Deferred()
        self.change(1)
        stopping = Deferred.fromCoroutine(self.followers.stop())
        self.server.advance(0)
        self.assertFalse(stopping.called)
        self.assertEqual(["reader"], self.followers.busy())
        self.reader.gate.callback(None)
        self.server.wait(stopping)
        self.assertEqual([], self.followers.busy())

    def test_everything_in_order_from_now_on(self) -> None:
        self.change(1)
        self.start()
        self.change(2, 3)
        self.assertEqual(self.reader.seen, [-2, -3])
        self.assertTrue(self.followers.settled)
        self.stop()
        self.assertEqual(self.cursor(), 3)

    def test_those_of_its_kinds(self) -> None:
        def several(tx: WriteTx) -> None:
            for user_nid, kind in enumerate(
                (Kind.PROFILE, Kind.DEVICES, Kind.PROFILE, Kind.PUSHER, Kind.PUSHER), 1
            ):
                tx.claim(kind, -user_nid)

        passed: list[int] = []
        one = Follower("reader", self.reader.handle, kinds=frozenset({Kind.PROFILE}), passed=passed.append)
        self.server.wait(Deferred.fromCoroutine(self.followers.start([one])))
        self.server.wait(self.server.app.core.committer.work(several))
        self.server.advance(0)
        self.assertEqual((self.reader.seen, passed), ([-1, -3], [5]))
        self.server.wait(self.server.app.core.committer.work(lambda tx: tx.claim(Kind.PUSHER, -6)))
        self.server.advance(0)
        self.assertEqual((self.reader.seen, self.reader.calls, passed), ([-1, -3], 1, [5, 6]))
        self.assertEqual(0, self.followers.lag("reader"))
        self.stop()
        self.assertEqual(self.cursor(), 6)

    def test_who_waits_for_the_commit_is_told_first(self) -> None:
        self.start()
        told: list[int] = []
        done = self.server.app.core.committer.work(_claim, 1)
        done.addCallback(lambda _: told.append(self.reader.calls))
        self.server.wait(done)
        self.server.advance(0)
        self.assertEqual((told, self.reader.seen), ([0], [-1]))
        self.stop()

    def test_the_end_waits_for_what_has_just_happened(self) -> None:
        self.start()
        done = self.server.app.core.committer.work(_claim, 1)
        done.addCallback(lambda _: Deferred.fromCoroutine(self.followers.stop()))
        self.server.wait(done)
        self.assertEqual((self.reader.seen, self.cursor()), ([-1], 1))

    def test_from_the_start(self) -> None:
        self.change(1, 2)
        self.start(from_start=True)
        self.assertEqual(self.reader.seen, [-1, -2])
        self.stop()

    def test_a_restart_goes_on_where_it_was(self) -> None:
        self.start()
        self.change(1, 2)
        self.stop()
        self.change(3)
        self.server.restart()
        self.followers = self.make()
        self.start()
        self.assertEqual(self.reader.seen, [-1, -2, -3])
        self.stop()

    def test_a_crash_repeats_and_never_skips(self) -> None:
        self.start()
        self.change(1)
        self.server.advance(STORE_AFTER_S)
        self.assertEqual(self.cursor(), 1)
        self.change(2)
        # No stop: what was not stored is lost.
        self.server.restart()
        self.followers = self.make()
        self.start()
        self.assertEqual(self.reader.seen, [-1, -2, -2])
        self.stop()

    def test_a_failure_is_tried_again_later_and_later(self) -> None:
        self.start()
        self.reader.fail = 3
        self.change(1)
        self.assertEqual((self.reader.calls, self.followers.lag("reader")), (1, 1))
        self.server.advance(0.4)
        self.change(2)
        self.assertEqual(self.reader.calls, 1, "neither time nor news shorten the wait")
        self.server.advance(0.6)
        self.assertEqual(self.reader.calls, 2)
        self.server.advance(2.0)
        self.assertEqual(self.reader.calls, 3)
        self.server.advance(LONGEST_WAIT_S)
        self.assertEqual(self.reader.seen, [-1, -2])
        self.assertEqual(self.server.log.events("error"), ["follower failed, will go on"] * 3)
        self.server.log.entries.clear()
        self.stop()

    def test_one_call_at_a_time_and_a_stop_waits_for_it(self) -> None:
        self.start()
        self.reader.gate = Deferred()
        self.change(1, 2)
        self.assertEqual(self.reader.calls, 1)
        stopping = Deferred.fromCoroutine(self.followers.stop())
        self.assertFalse(stopping.called)
        self.reader.gate.callback(None)
        self.server.wait(stopping)
        self.assertEqual((self.reader.seen, self.cursor()), ([-1], 1))

    def test_what_is_unread_is_not_trimmed(self) -> None:
        self.start()
        self.reader.fail = 1
        self.change(1, 2, 3)
        self.server.wait(self.server.app.core.committer.work(trim_changes, 0))
        self.assertEqual(self.server.wait(self.server.database.read(lambda tx: tx.value(_COUNT))), 3)
        self.server.advance(1.0)
        self.server.advance(STORE_AFTER_S)
        self.server.wait(self.server.app.core.committer.work(trim_changes, 1))
        self.assertEqual(self.server.wait(self.server.database.read(lambda tx: tx.value(_COUNT))), 1)
        self.server.log.entries.clear()
        self.stop()


class HouseKeeping(DatabaseCase):
    """Chores."""

    def test_old_transaction_ids_are_forgotten(self) -> None:
        server = TestApp(self)
        core = server.app.core
        now_ms, day_ms = core.around.clock.now_ms(), int(TRANSACTIONS_KEPT_S * 1000)

        def insert(tx: Tx) -> None:
            ages = {"new": 0, "yesterday's": day_ms // 2, "old": 2 * day_ms, "older": 3 * day_ms}
            tx.insert(_INSERT_TRANSACTIONS, [(1, 1, key, 1, now_ms - age) for key, age in ages.items()])

        def clean(tx: Tx) -> list[str]:
            return tx.column(_TRANSACTIONS)

        server.wait(core.committer.work(insert))
        chores = Chores(core.around.clock, core.around.log)
        chores.start(standard_chores(core.committer, core.around.clock))
        server.advance(600.0)
        self.assertEqual(server.wait(server.database.read(clean)), ["new", "yesterday's"])
        server.advance(day_ms / 1000)
        for _ in range(2):
            server.advance(600.0)
        self.assertEqual(server.wait(server.database.read(clean)), [])
        server.wait(Deferred.fromCoroutine(chores.stop()))

    def test_a_chore_that_fails_does_not_end_the_others(self) -> None:
        server = TestApp(self)
        done: list[str] = []

        async def fail() -> None:
            done.append("failed")
            raise RuntimeError("broken")

        async def work() -> None:
            done.append("worked")

        chores = Chores(server.app.core.around.clock, server.log)
        chores.start([Chore("first", 10, fail), Chore("second", 10, work)])
        server.advance(9.9)
        self.assertEqual(done, [])
        server.advance(0.2)
        server.advance(10.0)
        self.assertEqual(done, ["failed", "worked"] * 2)
        server.wait(Deferred.fromCoroutine(chores.stop()))
        server.advance(20.0)
        self.assertEqual(len(done), 4)
        server.log.entries.clear()
