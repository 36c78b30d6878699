"""What a commit is built on must still be so: else nothing of it is stored, and the room is looked at anew."""

from __future__ import annotations

import gc
from collections.abc import Sequence

from sqlalchemy import bindparam, select, update

from homeserver.db.errors import Conflict
from homeserver.db.schema.rooms import room_heads
from homeserver.db.schema.stream import followers
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.changes import INSERT_CHANGES, Change, Kind, store_cursors, take_positions
from tests.api.talk import TalkCase
from tests.support.databases import on_each_database

_MOVE = statement(
    update(room_heads)
    .where(room_heads.c.room_nid == bindparam("nid"))
    .values(version=room_heads.c.version + 1)
)
_VERSIONS = statement(select(room_heads.c.room_nid, room_heads.c.version))
_NAMED = statement(select(followers.c.name).where(any_of(followers.c.name, "names")))


@on_each_database
class Moved(TalkCase):
    """Rooms of which another process has placed something."""

    def setUp(self) -> None:
        super().setUp()
        self.rooms = [self.make_room() for _ in range(3)]
        for room_id in self.rooms:
            self.say("alice", room_id, "warm")
        self.failures = 0
        self.app.app.core.committer.observe_failure = self.count_failure

    def count_failure(self) -> None:
        self.failures += 1

    def nid(self, room_id: str) -> int:
        found = self.app.app.core.interner.known_room(room_id)
        assert found is not None
        return found

    def versions(self) -> dict[int, int]:
        return dict(self.app.wait(self.app.database.read(lambda tx: tx.all(_VERSIONS))))

    def check(self, *said_in: str, moved: str | None = None) -> None:
        """A message in each of some rooms at once, of which one has moved."""
        if moved is not None:
            self.app.wait(self.app.database.write(lambda tx: tx.run(_MOVE, nid=self.nid(moved))))
        before, batches = self.versions(), self.app.app.core.committer.batches
        body = {"msgtype": "m.text", "body": "at once"}
        sent = [
            self.app.start(
                "PUT", self.path(room_id, "send", "m.room.message", "t"), body, self.tokens["alice"]
            )
            for room_id in said_in
        ]
        answers = [self.app.wait(one) for one in sent]
        self.assertEqual([200] * len(said_in), [one.status for one in answers])
        self.assertEqual(0 if moved is None else 1, self.failures)
        self.assertEqual(
            batches + (1 if moved is None else len(said_in)), self.app.app.core.committer.batches
        )
        said = {self.nid(room_id) for room_id in said_in}
        self.assertEqual({nid: version + (nid in said) for nid, version in before.items()}, self.versions())
        for room_id, answer in zip(said_in, answers, strict=True):
            events = self.ok("alice", self.path(room_id, "messages"), dir="b", limit=1)["chunk"]
            self.assertEqual([answer.json["event_id"]], [event["event_id"] for event in events])

    def test_none(self) -> None:
        self.check(*self.rooms)

    def test_the_only_one(self) -> None:
        self.check(self.rooms[1], moved=self.rooms[1])

    def test_one_of_several(self) -> None:
        self.check(*self.rooms, moved=self.rooms[1])


def _take(tx: Tx) -> int:
    """What another process does: a position, and a change at it."""
    pos = take_positions(tx, 1)
    tx.insert(INSERT_CHANGES, [(pos, int(Kind.PROFILE), -1, 0)])
    return pos


@on_each_database
class Elsewhere(TalkCase):
    """Another process takes positions."""

    def test_its_changes_come_before_ours_and_once(self) -> None:
        room_id = self.make_room()
        self.say("alice", room_id, "warm")
        core = self.app.app.core
        failures: list[None] = []
        core.committer.observe_failure = lambda: failures.append(None)
        heard: list[Change] = []
        core.changes.subscribe(heard.extend)
        before = core.changes.position
        for _ in range(2):
            self.app.wait(self.app.database.write(_take))
        first = self.say("alice", room_id, "first")
        second = self.say("alice", room_id, "second")
        self.app.wait(self.app.database.write(_take))
        core.committer.look()
        self.app.advance(1)
        kinds = [Kind.PROFILE, Kind.PROFILE, Kind.EVENT, Kind.EVENT, Kind.PROFILE]
        found = [change for change in heard if change.kind in (Kind.PROFILE, Kind.EVENT)]
        self.assertEqual(kinds, [change.kind for change in found])
        self.assertEqual(list(range(before + 1, before + 1 + len(heard))), [change.pos for change in heard])
        chunk = self.ok("alice", self.path(room_id, "messages"), dir="b", limit=2)["chunk"]
        self.assertEqual([second, first], [event["event_id"] for event in chunk])
        self.assertEqual([], failures, "nobody's work has failed")


@on_each_database
class Faulty(TalkCase):
    """A subscriber of the log that raises: a fault of ours, from which nobody else suffers."""

    def test_the_others_hear_and_what_waits_goes_on(self) -> None:
        core = self.app.app.core
        faults, heard = [ValueError("a fault")], list[Change]()

        def fail(_: Sequence[Change]) -> None:
            if faults:
                raise faults.pop()

        core.changes.subscribe(fail)
        core.changes.subscribe(heard.extend)
        written = core.committer.work(lambda tx: tx.claim(Kind.PROFILE, -1))
        idle = core.committer.drained()
        self.app.wait(written)
        self.app.advance(0)
        self.assertTrue(idle.called)
        self.assertEqual([Kind.PROFILE], [change.kind for change in heard])
        gc.collect()
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))


@on_each_database
class Required(TalkCase):
    """A unit of work that says what it must find."""

    def work(self, count: int, *, reads: bool) -> list[str]:
        def unit(tx: Tx) -> list[str]:
            store_cursors(tx, [("unit", 0), ("other", 0)])
            tx.require(count, _NAMED, names=["unit", "other", "nobody"])
            return tx.column(_NAMED, names=["unit"]) if reads else []

        return self.app.wait(self.app.database.write(unit))

    def named(self) -> list[str]:
        return self.app.wait(self.app.database.read(lambda tx: tx.column(_NAMED, names=["unit"])))

    def test_it_is_found(self) -> None:
        for _ in range(2):  # the second time the statements are prepared already
            self.assertEqual(["unit"], self.work(2, reads=True))
            self.assertEqual(["unit"], self.named())

    def test_there_are_fewer_or_more(self) -> None:
        for count in (0, 1, 3):
            for reads in (False, True):
                with self.assertRaises(Conflict):
                    self.work(count, reads=reads)
                self.assertEqual([], self.named())
        self.assertEqual([], self.work(2, reads=False))
        self.assertEqual(["unit"], self.named())
