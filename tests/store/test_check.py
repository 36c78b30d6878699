"""The checker finds what it is there to find: each kind of damage, done on purpose, and named in plain words."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.sql import ClauseElement

from homeserver.db.schema import metadata
from homeserver.db.statements import statement
from homeserver.db.tx import Tx
from homeserver.store.check import CHECKED, check_db
from tests.support.app import TestApp
from tests.support.databases import DatabaseCase, on_each_database

_T = metadata.tables
_some_state = (
    select(_T["current_state"].c.event_nid)
    .order_by(_T["current_state"].c.event_nid)
    .limit(1)
    .scalar_subquery()
)
_some_device = select(func.min(_T["devices"].c.nid)).scalar_subquery()
_newest = select(_T["timeline"].c.event_nid).order_by(_T["timeline"].c.pos.desc()).limit(1).scalar_subquery()
_newest_pos = select(_T["timeline"].c.pos).order_by(_T["timeline"].c.pos.desc()).limit(1).scalar_subquery()


def _table(name: str) -> Any:
    return _T[name]


_join = {"room_nid": 1, "server": "other.example", "servers": "[]"}


Damages = dict[str, tuple[ClauseElement, str]]


def _damages() -> Damages:
    """What is done, and a part of what the checker should say of it."""
    return {
        **_damages_of_events(),
        **_damages_of_state(),
        **_damages_of_accounts(),
        **_damages_of_peers(),
    }


def _damages_of_events() -> Damages:
    events, timeline, changes = _table("events"), _table("timeline"), _table("changes")
    newest = events.c.nid == _newest
    return {
        "an event loses its text": (
            delete(_table("event_json")).where(_table("event_json").c.nid == _newest),
            "in no row of event_json",
        ),
        "a text changes": (
            update(_table("event_json"))
            .where(_table("event_json").c.nid == _newest)
            .values(json=func.replace(_table("event_json").c.json, "hello", "hullo")),
            "hash",
        ),
        "an event says another depth": (update(events).where(newest).values(depth=77), "do not say the same"),
        "an event changes its id": (update(events).where(newest).values(event_id="$other"), "not its hash"),
        "an event changes its room": (update(events).where(newest).values(room_nid=1), "of another room"),
        "an event leaves the timeline": (delete(timeline).where(timeline.c.event_nid == _newest), "no place"),
        "edges go away": (delete(_table("edges")), "its edges are not its prev_events"),
        "authorisation edges go away": (delete(_table("auth_edges")), "are not its auth_events"),
        "a change goes away": (delete(changes).where(changes.c.pos == 3), "has holes"),
        "the newest change goes away": (delete(changes).where(changes.c.pos == _newest_pos), "has no change"),
        "the stream goes back": (update(_table("stream")).values(pos=1), "ahead of the position"),
        "the lease goes back": (update(_table("nid_leases")).values(next=1001), "nobody leased"),
    }


def _damages_of_state() -> Damages:
    members, heads, snapshots = _table("members"), _table("room_heads"), _table("snapshots")
    current, log = _table("current_state"), _table("state_log")
    return {
        "a snapshot becomes nonsense": (update(snapshots).values(data=b"\x07nonsense"), "not a snapshot"),
        "snapshots tell wrong sizes": (
            update(snapshots).values(size=snapshots.c.size + 1),
            "its size is not",
        ),
        "a head is at an old snapshot": (
            update(heads).values(
                snapshot_nid=select(snapshots.c.nid).order_by(snapshots.c.nid).limit(1).scalar_subquery()
            ),
            "not that of its head",
        ),
        "a head is too deep": (update(heads).values(depth=99), "its depth is not"),
        "a head has another extremity": (update(heads).values(extremities="[1]"), "no event of this room"),
        "a head's version goes back": (update(heads).values(version=1), "below the number of its events"),
        "current state loses a key": (
            delete(current).where(current.c.event_nid == _some_state),
            "not that of its head",
        ),
        "the log of moves loses one": (delete(log).where(log.c.prev_nid == 0), "log of moves"),
        "somebody's row says they are banned": (update(members).values(membership=3), "their row says"),
        "a member's row goes away": (delete(members), "has a membership event and no row"),
        "a forgotten room that one is in": (update(members).values(forgotten=1), "has not left"),
    }


def _damages_of_peers() -> Damages:
    key = {"server_name": "other.example", "key_id": "ed25519:a", "public_key": b"", "valid_until_ts_ms": 1}
    return {
        "a key that nobody has told": (
            insert(_table("server_keys")).values(**key, expired=0),
            "is in no row of server_key_answers",
        ),
        "a join of nothing is not complete": (
            insert(_table("partial_joins")).values(**_join, join_nid=1, attempts=0),
            "partial_joins.join_nid is in no row",
        ),
        "a join of another room is not complete": (
            insert(_table("earlier_joins")).values(**_join, join_nid=_newest, attempts=1),
            "earlier_joins names no event of the room",
        ),
        "a stay that is over awaits members": (
            insert(_table("earlier_joins")).values(**_join, join_nid=1, attempts=0),
            "a stay that is over",
        ),
        "a join will have been complete": (
            insert(_table("hearsay")).values(room_nid=1, join_nid=_newest, servers="[]", upto=10**9),
            "still to come",
        ),
    }


def _damages_of_accounts() -> Damages:
    return {
        "an account's name goes away": (delete(_table("user_ids")), "is in no row of user_ids"),
        "a token without a device": (delete(_table("devices")), "is in no row of devices"),
        "a deactivated account with tokens": (
            update(_table("accounts")).values(deactivated=1),
            "deactivated",
        ),
        "a type changes its number": (
            update(_table("event_types")).where(_table("event_types").c.nid == 14).values(nid=900),
            "another number than the program's",
        ),
        "a follower has lost changes": (
            insert(_table("followers")).values(name="late", pos=-5),
            "had not read",
        ),
        "one-time keys go away": (
            insert(_table("one_time_counts")).values(
                device_nid=_some_device, algorithm="a", given=1, uploaded=2
            ),
            "are to be given out are not there",
        ),
        "a one-time key that was never uploaded": (
            insert(_table("one_time_keys")).values(
                device_nid=_some_device, algorithm="a", number=0, key_id="k", place=1, key="{}"
            ),
            "nobody counts",
        ),
        "an alias of no room": (
            insert(_table("aliases")).values(alias="#a:test.example", room_nid=1, creator_nid=1),
            "aliases.room_nid is in no row",
        ),
        "a relation of nothing": (
            insert(_table("relations")).values(
                target_id="$a",
                room_nid=1,
                rel_type="m.thread",
                pos=1,
                child_nid=1,
                type_nid=1,
                sender_nid=1,
                ts_ms=1,
                sound=1,
            ),
            "relations.child_nid is in no row",
        ),
        "an event that waits in no room": (
            insert(_table("staging")).values(
                room_nid=1,
                event_id="$a",
                origin="a.example",
                json="{}",
                received_ts_ms=1,
                attempts=0,
                retry_ts_ms=1,
            ),
            "staging.room_nid is in no row",
        ),
        "a receipt for nothing": (
            insert(_table("receipts")).values(
                room_nid=1, user_nid=1, kind=0, thread="", event_nid=1, ts_ms=1, pos=1
            ),
            "receipts.event_nid is in no row",
        ),
    }


@on_each_database
class Damage(DatabaseCase):
    """One server with a little history; each damage is undone before the next."""

    def setUp(self) -> None:
        self.server = TestApp(self, self.new_database())
        alice, bob = self.server.register("alice"), self.server.register("bob")
        room_id = self.server.ok("POST", "/_matrix/client/v3/createRoom", {"preset": "public_chat"}, alice)[
            "room_id"
        ]
        rooms = f"/_matrix/client/v3/rooms/{room_id}"
        self.server.ok("POST", f"{rooms}/join", {}, bob)
        for number in range(12):
            self.server.ok("PUT", f"{rooms}/state/m.room.topic/", {"topic": str(number)}, alice)
        message = {"msgtype": "m.text", "body": "hello"}
        self.server.ok("PUT", f"{rooms}/send/m.room.message/1", message, bob)

    def look(self) -> list[str]:
        return self.server.wait(self.server.database.read(check_db))

    def test_a_sound_database(self) -> None:
        self.assertEqual(self.look(), [])
        self.assertGreater(CHECKED, 90)

    def test_every_damage_is_found(self) -> None:
        for name, (damage, said) in _damages().items():
            problems = self._try(damage)
            self.assertTrue(
                any(said in problem for problem in problems), f"{name}: nothing says {said!r} in {problems}"
            )
        self.assertEqual(self.look(), [], "everything was undone")

    def _try(self, damage: ClauseElement) -> list[str]:
        """What the checker says of the damage, in a transaction that is rolled back."""
        found: list[str] = []

        def unit(tx: Tx) -> None:
            tx.run(statement(damage))
            found.extend(check_db(tx))
            raise _UndoError

        self.failureResultOf(self.server.database.write(unit), _UndoError)
        return found

    def test_sampling_still_looks_at_every_room(self) -> None:
        def few(tx: Tx) -> list[str]:
            return check_db(tx, hashed_most=3)

        self.assertEqual(self.server.wait(self.server.database.read(few)), [])


class _UndoError(Exception):
    """Roll back."""
