"""The rows of relationships follow the events: a story from random draws against what the events themselves say."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from homeserver.db.schema.relations import relations
from homeserver.db.statements import statement
from homeserver.db.tx import Tx
from homeserver.store.relations import (
    Kind,
    is_replacement,
    load_candidates,
    load_children,
    load_counts,
    load_descendants,
    load_in_threads,
)
from tests.api.talk import TalkCase
from tests.support.databases import on_each_database

_ROWS = statement(
    select(relations.c.target_id, relations.c.rel_type, relations.c.child_nid, relations.c.sound)
)
_KINDS = ("m.replace", "m.reference", "m.thread", "m.annotation", "org.example.kind")
_STEP = st.tuples(
    st.sampled_from(("relate", "relate", "relate", "redact", "say")),
    st.integers(0, 40),
    st.sampled_from(_KINDS),
    st.booleans(),
)


def _all_rows(tx: Tx) -> list[Any]:
    return tx.all(_ROWS)


@on_each_database
class Rows(TalkCase):
    """See the module."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.make_room(visibility="shared", joined=("bob",))
        self.room_nid = self.wait(self.app.app.core.interner.find_room(self.room_id))

    def read(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return self.app.wait(self.app.database.read(function, *args, **kwargs))

    def relate(self, name: str, rel_type: str, target_id: str, **more: Any) -> str:
        content = {"m.relates_to": {"rel_type": rel_type, "event_id": target_id}, **more}
        return self.place(name, self.room_id, content)

    def redact(self, event_id: str) -> None:
        self._texts += 1
        path = self.path(self.room_id, "redact", event_id, f"r{self._texts}")
        self.app.ok("PUT", path, {}, self.tokens["alice"])

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(st.lists(_STEP, min_size=1, max_size=25))
    def test_rows_say_what_events_that_are_not_redacted_say(
        self, steps: list[tuple[str, int, str, bool]]
    ) -> None:
        sent = [self.say("alice", self.room_id, "root")]
        alive: dict[str, tuple[str, str, int]] = {}
        before = {row[2] for row in self.read(_all_rows)}
        for what, which, kind, with_content in steps:
            target_id = sent[which % len(sent)]
            if what == "say":
                sent.append(self.say("bob", self.room_id, "text"))
            elif what == "redact":
                self.redact(target_id)
                alive.pop(target_id, None)
            else:
                more: dict[str, Any] = {"m.new_content": {}} if with_content else {}
                event_id = self.relate("bob", kind, target_id, **more)
                alive[event_id] = (target_id, kind, int(kind == "m.replace" and with_content))
                sent.append(event_id)
        rows = [row for row in self.read(_all_rows) if row[2] not in before]
        self.assertEqual(sorted(alive.values()), sorted((row[0], row[1], row[3]) for row in rows))
        parent_id = sent[0]
        for kind in _KINDS:
            wanted = [one for one in alive.values() if one[:2] == (parent_id, kind)]
            found = self.read(
                load_children, self.room_nid, parent_id, Kind(kind), 0, 10**9, 100, backwards=False
            )
            self.assertEqual(len(wanted), len(found))

    def test_counts_by_kind_and_sender(self) -> None:
        root = self.say("alice", self.room_id, "root")
        for name in ("alice", "bob", "bob"):
            self.relate(name, "m.thread", root)
        self.relate("bob", "m.annotation", root)
        nid = self.nid(root)
        counts = self.read(load_counts, [nid], 10**9)
        self.assertEqual(
            [("m.thread", 1), ("m.thread", 2)], sorted((one.rel_type, one.children) for one in counts)
        )
        newest = max(one.newest for one in counts)
        self.assertEqual([newest], [one.row.pos for one in self.read(load_in_threads, [nid], [newest])])
        # Nothing is known of what came after a moment.
        earlier = self.read(load_counts, [nid], newest - 1)
        self.assertLess(sum(one.children for one in earlier), 3)
        self.assertEqual([], self.read(load_counts, [nid], 0))

    def nid(self, event_id: str) -> int:
        """The number of an event: that of a child of its own, whose parent it is."""
        child = self.relate("alice", "org.example.probe", event_id)
        self.assertTrue(child)
        changes = self.app.app.core.changes.since(0)
        assert changes is not None
        found: list[int] = [
            one.ref for one in changes if one.payload is not None and self.is_event(one.payload, event_id)
        ]
        return found[0]

    def is_event(self, payload: Any, event_id: str) -> bool:
        event = getattr(payload, "event", None)
        return event is not None and event.event_id == event_id

    def test_candidates_are_bounded(self) -> None:
        root = self.say("alice", self.room_id, "root")
        edits = [self.relate("alice", "m.replace", root, **{"m.new_content": {}}) for _ in range(4)]
        references = [self.relate("bob", "m.reference", root) for _ in range(5)]
        self.relate("bob", "m.replace", root, **{"m.new_content": {}})
        found = self.read(load_candidates, [self.nid(root)], 10**9, 2, 3)
        told = {
            kind: [one.event_id for one in found if one.rel_type == kind]
            for kind in ("m.replace", "m.reference")
        }
        self.assertEqual(references[-3:], told["m.reference"])
        self.assertEqual(2, len(told["m.replace"]))
        self.assertLessEqual(set(told["m.replace"]), set(edits))

    def test_descendants_are_bounded_in_depth_and_number(self) -> None:
        root = self.say("alice", self.room_id, "root")
        chain = [root]
        for _ in range(5):
            chain.append(self.relate("bob", "m.reference", chain[-1]))
        for depth in range(5):
            found = self.read(load_descendants, self.room_nid, root, Kind(), 10**9, depth, 100)
            self.assertEqual(depth, len(found))
        self.assertEqual(2, len(self.read(load_descendants, self.room_nid, root, Kind(), 10**9, 5, 2)))

    def test_only_an_event_that_relates_costs_a_statement(self) -> None:
        root = self.say("alice", self.room_id, "root")
        with self.statements() as asked:
            self.say("alice", self.room_id, "plain")
        self.assertEqual([], [sql for sql in asked if "relations" in sql])
        with self.statements() as asked:
            self.relate("bob", "m.reference", root)
        self.assertEqual(2, len([sql for sql in asked if "relations" in sql]), asked)

    def test_what_may_replace(self) -> None:
        new: dict[str, Any] = {"m.new_content": {}}
        self.assertTrue(is_replacement("m.room.message", None, new))
        self.assertTrue(is_replacement("m.room.encrypted", None, {}))
        self.assertFalse(is_replacement("m.room.message", "", new))
        self.assertFalse(is_replacement("m.room.message", None, {"m.new_content": "text"}))
        self.assertFalse(is_replacement("m.room.message", None, {}))
