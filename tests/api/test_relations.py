"""What relates to events: bundles, children page by page, and the threads of a room.

spec: client-server-api#aggregations-of-child-events, #relationships-api, #threading
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.talk import V3, TalkCase, user
from tests.support.databases import on_each_database

V1 = "/_matrix/client/v1"
_STEP = st.tuples(
    st.sampled_from(("edit", "m.reference", "m.thread", "m.annotation", "say", "redact")),
    st.sampled_from(("alice", "bob")),
    st.integers(0, 30),
)


def related(rel_type: str, target_id: str, **more: Any) -> dict[str, Any]:
    """The content of an event that relates to another."""
    relation = {"rel_type": rel_type, "event_id": target_id}
    return {"msgtype": "m.text", "body": rel_type, **more, "m.relates_to": relation}


class RelatingCase(TalkCase):
    """People who relate to each other's events."""

    def relate(
        self,
        name: str,
        room_id: str,
        rel_type: str,
        target_id: str,
        event_type: str = "m.room.message",
        **more: Any,
    ) -> str:
        """Send an event that relates to another; its event id. A second passes."""
        status, json = self.send(name, room_id, related(rel_type, target_id, **more), event_type)
        self.assertEqual(200, status, json)
        self.app.advance(1)
        event_id: str = json["event_id"]
        return event_id

    def edit(
        self, name: str, room_id: str, target_id: str, text: str, event_type: str = "m.room.message"
    ) -> str:
        """Say something else instead."""
        new = {"msgtype": "m.text", "body": text}
        return self.relate(name, room_id, "m.replace", target_id, event_type, **{"m.new_content": new})

    def redact(self, name: str, room_id: str, event_id: str) -> None:
        """Take an event back."""
        self._texts += 1
        path = self.path(room_id, "redact", event_id, f"redact{self._texts}")
        self.app.ok("PUT", path, {}, self.tokens[name])

    def ignore(self, name: str, *others: str) -> None:
        """Ignore others, and nobody else."""
        path = f"{V3}/user/{quote(user(name))}/account_data/m.ignored_user_list"
        body: dict[str, Any] = {"ignored_users": {user(one): {} for one in others}}
        self.app.ok("PUT", path, body, self.tokens[name])

    # --- looking -------------------------------------------------------------------------------------

    def bundle(self, name: str, room_id: str, event_id: str) -> Any:
        """What is told of an event's children; {} where nothing is."""
        event = self.ok(name, self.path(room_id, "event", event_id))
        return event["unsigned"].get("m.relations", {})

    def children_path(self, room_id: str, *parts: str) -> str:
        """The path of /relations."""
        return "/".join(
            [f"{V1}/rooms", quote(room_id, safe=""), "relations", *(quote(one, safe="") for one in parts)]
        )

    def children(self, name: str, room_id: str, *parts: str, **query: Any) -> Any:
        """The answer of /relations."""
        return self.ok(name, self.children_path(room_id, *parts), **query)

    def child_ids(self, name: str, room_id: str, *parts: str, **query: Any) -> list[str]:
        """The ids in it."""
        return self.ids(self.children(name, room_id, *parts, **query))

    def ids(self, answer: Any) -> list[str]:
        """The ids in a chunk."""
        return [event["event_id"] for event in answer["chunk"]]

    def threads(self, name: str, room_id: str, **query: Any) -> Any:
        """The answer of /threads."""
        return self.ok(name, f"{V1}/rooms/{quote(room_id, safe='')}/threads", **query)


@on_each_database
class Bundles(RelatingCase):
    """``m.relations`` in ``unsigned``."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.make_room(joined=("bob",))
        self.root = self.say("alice", self.room_id, "original")

    def test_latest_edit(self) -> None:
        self.edit("alice", self.room_id, self.root, "first")
        latest = self.edit("alice", self.room_id, self.root, "second")
        event = self.ok("bob", self.path(self.room_id, "event", self.root))
        self.assertEqual("original", event["content"]["body"])
        edit = event["unsigned"]["m.relations"]["m.replace"]
        self.assertEqual(latest, edit["event_id"])
        self.assertEqual("second", edit["content"]["m.new_content"]["body"])
        self.assertEqual((self.room_id, user("alice")), (edit["room_id"], edit["sender"]))
        self.assertEqual("join", edit["unsigned"]["membership"])

    def test_edits_that_do_not_count(self) -> None:
        self.edit("bob", self.room_id, self.root, "by another")
        self.edit("alice", self.room_id, self.root, "of another type", "m.sticker")
        self.relate("alice", self.room_id, "m.replace", self.root)  # without new content
        self.assertEqual({}, self.bundle("alice", self.room_id, self.root))
        edit = self.edit("alice", self.room_id, self.root, "sound")
        self.edit("alice", self.room_id, edit, "of an edit")
        self.assertEqual({}, self.bundle("alice", self.room_id, edit))
        self.assertEqual(edit, self.bundle("alice", self.room_id, self.root)["m.replace"]["event_id"])
        topic = self.set_state("alice", self.room_id, "m.room.topic", {"topic": "x"})
        self.edit("alice", self.room_id, topic, "of state", "m.room.topic")
        self.assertEqual({}, self.bundle("alice", self.room_id, topic))

    def test_an_encrypted_edit_has_its_new_content_inside(self) -> None:
        _, json = self.send("alice", self.room_id, {"ciphertext": "a"}, "m.room.encrypted")
        edit = self.relate("alice", self.room_id, "m.replace", json["event_id"], "m.room.encrypted")
        self.assertEqual(edit, self.bundle("bob", self.room_id, json["event_id"])["m.replace"]["event_id"])

    def test_edits_of_the_same_moment(self) -> None:
        relation = {"rel_type": "m.replace", "event_id": self.root}
        fallback = {"msgtype": "m.text", "body": "* new", "m.relates_to": relation}
        sent = [
            self.send("alice", self.room_id, {**fallback, "m.new_content": {"n": n}})[1]["event_id"]
            for n in range(5)
        ]
        told = self.bundle("bob", self.room_id, self.root)["m.replace"]["event_id"]
        self.assertEqual(max(sent), told)

    def test_references(self) -> None:
        first = self.relate("alice", self.room_id, "m.reference", self.root)
        second = self.relate("bob", self.room_id, "m.reference", self.root)
        self.relate("bob", self.room_id, "m.annotation", self.root, "m.reaction")
        self.relate("bob", self.room_id, "org.example.other", self.root)
        expected = {"m.reference": {"chunk": [{"event_id": first}, {"event_id": second}]}}
        self.assertEqual(expected, self.bundle("bob", self.room_id, self.root))

    def test_a_thread(self) -> None:
        self.add("carol")
        self.join("carol", self.room_id)
        self.relate("bob", self.room_id, "m.thread", self.root)
        last = self.relate("bob", self.room_id, "m.thread", self.root)
        edit = self.edit("bob", self.room_id, last, "better")
        thread = self.bundle("bob", self.room_id, self.root)["m.thread"]
        self.assertEqual((2, True), (thread["count"], thread["current_user_participated"]))
        self.assertEqual(last, thread["latest_event"]["event_id"])
        inner = thread["latest_event"]["unsigned"]["m.relations"]
        self.assertEqual(edit, inner["m.replace"]["event_id"])
        for name, participated in (("alice", True), ("carol", False)):
            thread = self.bundle(name, self.room_id, self.root)["m.thread"]
            self.assertIs(participated, thread["current_user_participated"], name)
        # What is in a thread is no thread's root.
        self.place("alice", self.room_id, related("m.thread", last))
        self.assertNotIn("m.thread", self.bundle("alice", self.room_id, last))

    def test_redacted_children_do_not_count(self) -> None:
        first = self.edit("alice", self.room_id, self.root, "first")
        second = self.edit("alice", self.room_id, self.root, "second")
        reference = self.relate("bob", self.room_id, "m.reference", self.root)
        in_thread = self.relate("bob", self.room_id, "m.thread", self.root)
        self.redact("alice", self.room_id, second)
        self.assertEqual(first, self.bundle("bob", self.room_id, self.root)["m.replace"]["event_id"])
        for event_id in (first, reference, in_thread):
            self.redact("alice", self.room_id, event_id)
        self.assertEqual({}, self.bundle("bob", self.room_id, self.root))
        self.assertEqual([], self.child_ids("bob", self.room_id, self.root))

    def test_a_redacted_parent_keeps_its_children_but_no_edit(self) -> None:
        self.edit("alice", self.room_id, self.root, "again")
        self.relate("bob", self.room_id, "m.thread", self.root)
        self.redact("alice", self.room_id, self.root)
        event = self.ok("bob", self.path(self.room_id, "event", self.root))
        self.assertEqual(["m.thread"], list(event["unsigned"]["m.relations"]))
        self.assertIn("redacted_because", event["unsigned"])
        self.assertEqual(2, len(self.child_ids("bob", self.room_id, self.root)))

    def test_ignored_users(self) -> None:
        self.add("carol")
        self.join("carol", self.room_id)
        kept = self.relate("bob", self.room_id, "m.thread", self.root)
        self.relate("carol", self.room_id, "m.thread", self.root)
        self.relate("carol", self.room_id, "m.reference", self.root)
        self.ignore("alice", "carol")
        told = self.bundle("alice", self.room_id, self.root)
        self.assertEqual(["m.thread"], list(told))
        self.assertEqual((1, kept), (told["m.thread"]["count"], told["m.thread"]["latest_event"]["event_id"]))
        self.assertEqual(2, self.bundle("bob", self.room_id, self.root)["m.thread"]["count"])
        self.ignore("alice", "carol", "bob")
        self.assertEqual({}, self.bundle("alice", self.room_id, self.root))

    def test_children_of_other_rooms_do_not_count(self) -> None:
        other = self.make_room(joined=("bob",))
        self.edit("alice", other, self.root, "elsewhere")
        self.relate("bob", other, "m.thread", self.root)
        self.assertEqual({}, self.bundle("alice", self.room_id, self.root))
        self.assertEqual([], self.child_ids("alice", self.room_id, self.root))
        self.assertEqual([], self.threads("alice", other)["chunk"])

    def test_odd_relations_are_no_relations(self) -> None:
        odd: list[Any] = [
            7,
            [],
            {"rel_type": "m.thread"},
            {"event_id": self.root},
            {"rel_type": 1, "event_id": self.root},
            {"rel_type": "m.thread", "event_id": {}},
            {"rel_type": "", "event_id": self.root},
            {"rel_type": "x" * 5_000, "event_id": self.root},
            {"rel_type": "m.thread", "event_id": "$" + "x" * 5_000},
            {"rel_type": "m.\u0000thread", "event_id": self.root},
            {"m.in_reply_to": {"event_id": self.root}},
        ]
        for relation in odd:
            content = {"msgtype": "m.text", "body": "odd", "m.relates_to": relation}
            status, json = self.send("alice", self.room_id, content)
            self.assertEqual(200, status, json)
        self.assertEqual({}, self.bundle("alice", self.room_id, self.root))
        self.assertEqual([], self.child_ids("alice", self.room_id, self.root))

    def test_what_the_reader_may_not_see_is_left_out(self) -> None:
        room_id = self.make_room(visibility="joined", joined=("bob",))
        root = self.say("alice", room_id, "root")
        seen = self.edit("alice", room_id, root, "seen")
        self.leave("bob", room_id)
        unseen = self.edit("alice", room_id, root, "unseen")
        self.relate("alice", room_id, "m.thread", root)
        self.relate("alice", room_id, "m.reference", root)
        told = {"m.replace": seen}
        for _ in range(2):
            found = self.bundle("bob", room_id, root)
            self.assertEqual(told, {kind: one["event_id"] for kind, one in found.items()})
            self.assertEqual([seen], self.child_ids("bob", room_id, root))
            self.join("bob", room_id)
        self.assertEqual(unseen, self.bundle("alice", room_id, root)["m.replace"]["event_id"])

    def test_pages_and_contexts(self) -> None:
        edit = self.edit("alice", self.room_id, self.root, "again")
        page = self.page("bob", self.room_id)
        told = [event for event in page["chunk"] if "m.relations" in event["unsigned"]]
        self.assertEqual([self.root], [event["event_id"] for event in told])
        context = self.ok("bob", self.path(self.room_id, "context", self.root))
        found = context["event"]["unsigned"]["m.relations"]["m.replace"]
        self.assertEqual((edit, self.root), (found["event_id"], context["event"]["event_id"]))
        context = self.ok("bob", self.path(self.room_id, "context", edit))
        before = {event["event_id"]: event for event in context["events_before"]}
        self.assertIn("m.replace", before[self.root]["unsigned"]["m.relations"])

    def test_queries(self) -> None:
        self.set_state("alice", self.room_id, "m.room.history_visibility", {"history_visibility": "shared"})
        for number in range(5):
            self.say("alice", self.room_id, f"{number}")
        self.page("bob", self.room_id)
        with self.statements() as asked:
            self.page("bob", self.room_id)
        self.assertEqual(1, len(asked), asked)
        sent = [
            event["event_id"]
            for event in self.page("bob", self.room_id)["chunk"]
            if "body" in event["content"]
        ]
        for event_id in sent:
            self.edit("alice", self.room_id, event_id, "again")
            self.relate("bob", self.room_id, "m.thread", event_id)
            self.relate("bob", self.room_id, "m.reference", event_id)
        self.page("bob", self.room_id, limit=100)
        with self.statements() as asked:
            page = self.page("bob", self.room_id, limit=100)
        told = [event for event in page["chunk"] if "m.relations" in event["unsigned"]]
        self.assertEqual(6, len(told))
        # The page, the counts, edits and references, the newest of each thread, and what relates to those.
        self.assertEqual(5, len(asked), asked)


@on_each_database
class Children(RelatingCase):
    """``/relations``."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.make_room(joined=("bob",))
        self.root = self.say("alice", self.room_id, "root")

    def test_kinds_and_types(self) -> None:
        reaction = self.relate("bob", self.room_id, "m.annotation", self.root, "m.reaction")
        annotation = self.relate("bob", self.room_id, "m.annotation", self.root, "org.example.mark")
        edit = self.edit("alice", self.room_id, self.root, "again")
        every = [edit, annotation, reaction]
        self.assertEqual(every, self.child_ids("bob", self.room_id, self.root))
        self.assertEqual(every[::-1], self.child_ids("bob", self.room_id, self.root, dir="f"))
        self.assertEqual(every[1:], self.child_ids("bob", self.room_id, self.root, "m.annotation"))
        of_type = (self.root, "m.annotation", "m.reaction")
        self.assertEqual([reaction], self.child_ids("bob", self.room_id, *of_type))
        self.assertEqual(
            [], self.child_ids("bob", self.room_id, self.root, "m.annotation", "org.example.unheard")
        )
        event = self.children("bob", self.room_id, self.root, "m.replace")["chunk"][0]
        self.assertEqual((self.room_id, "m.room.message"), (event["room_id"], event["type"]))

    def test_children_have_bundles_too(self) -> None:
        in_thread = self.relate("bob", self.room_id, "m.thread", self.root)
        edit = self.edit("bob", self.room_id, in_thread, "again")
        event = self.children("alice", self.room_id, self.root)["chunk"][0]
        self.assertEqual(edit, event["unsigned"]["m.relations"]["m.replace"]["event_id"])

    def test_pages(self) -> None:
        sent = [self.relate("bob", self.room_id, "m.reference", self.root) for _ in range(5)]
        for direction, expected in (("b", sent[::-1]), ("f", sent)):
            found: list[str] = []
            query: dict[str, Any] = {"dir": direction, "limit": 2}
            sizes = []
            while True:
                answer = self.children("bob", self.room_id, self.root, **query)
                self.assertEqual("from" in query, "prev_batch" in answer)
                found += self.ids(answer)
                sizes.append(len(answer["chunk"]))
                if "next_batch" not in answer:
                    break
                query["from"] = answer["next_batch"]
            self.assertEqual(expected, found)
            self.assertEqual([2, 2, 1], sizes)

    def test_bounds(self) -> None:
        first = self.relate("bob", self.room_id, "m.reference", self.root)
        since = self.app.ok("GET", f"{V3}/sync", None, self.tokens["bob"])["next_batch"]
        second = self.relate("bob", self.room_id, "m.reference", self.root)
        self.assertEqual([first], self.child_ids("bob", self.room_id, self.root, **{"from": since}))
        self.assertEqual([second], self.child_ids("bob", self.room_id, self.root, to=since))
        empty = self.children("bob", self.room_id, self.root, **{"from": since, "to": since})
        self.assertEqual(([], False), (empty["chunk"], "next_batch" in empty))

    def test_recursion(self) -> None:
        chain = [self.root]
        for _ in range(5):
            chain.append(self.relate("bob", self.room_id, "m.reference", chain[-1]))
        reaction = self.relate("bob", self.room_id, "m.annotation", chain[1], "m.reaction")
        answer = self.children("alice", self.room_id, self.root, recurse="true")
        self.assertEqual([reaction, chain[3], chain[2], chain[1]], self.ids(answer))
        self.assertEqual(3, answer["recursion_depth"])
        answer = self.children("alice", self.room_id, self.root, recurse="false")
        self.assertEqual(([chain[1]], 1), (self.ids(answer), answer["recursion_depth"]))
        self.assertNotIn("recursion_depth", self.children("alice", self.room_id, self.root))
        # Filters hold for what lies between as well.
        self.assertEqual([], self.child_ids("alice", self.room_id, self.root, "m.annotation", recurse="true"))
        page = self.children("alice", self.room_id, self.root, recurse="true", limit=3)
        self.assertEqual([reaction, chain[3], chain[2]], self.ids(page))
        rest = self.children("alice", self.room_id, self.root, recurse="true", **{"from": page["next_batch"]})
        self.assertEqual([chain[1]], self.ids(rest))
        forwards = self.child_ids("alice", self.room_id, self.root, recurse="true", dir="f")
        self.assertEqual([*chain[1:4], reaction], forwards)

    def test_refusals(self) -> None:
        path = self.children_path(self.room_id, self.root)
        self.add("carol")
        self.assert_refused(self.get("carol", path), 404, "M_NOT_FOUND")
        for parts in ((), ("m.annotation",), ("m.annotation", "m.reaction")):
            unknown = self.children_path(self.room_id, "$unknown", *parts)
            self.assert_refused(self.get("bob", unknown), 404, "M_NOT_FOUND")
        self.assert_refused(
            self.get("bob", self.children_path("!unknown:test.example", self.root)), 404, "M_NOT_FOUND"
        )
        other = self.make_room()
        self.assert_refused(self.get("alice", self.children_path(other, self.root)), 404, "M_NOT_FOUND")
        for query in (
            {"dir": "x"},
            {"from": "x"},
            {"to": "x"},
            {"limit": "x"},
            {"limit": 0},
            {"recurse": "x"},
        ):
            self.assert_refused(self.get("bob", path, **query), 400, "M_INVALID_PARAM")
        self.assertEqual(200, self.get("bob", path, limit=10**9)[0])


@on_each_database
class Threads(RelatingCase):
    """``/threads``."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.make_room(joined=("bob",))

    def start(self, root_by: str, *writers: str) -> str:
        """A thread; its root."""
        root = self.say(root_by, self.room_id, "root")
        for name in writers:
            self.relate(name, self.room_id, "m.thread", root)
        return root

    def test_the_one_last_written_in_comes_first(self) -> None:
        self.say("alice", self.room_id, "no thread")
        first, second = self.start("alice", "bob"), self.start("alice", "bob")
        self.assertEqual([second, first], self.ids(self.threads("bob", self.room_id)))
        self.relate("alice", self.room_id, "m.thread", first)
        answer = self.threads("bob", self.room_id)
        self.assertEqual([first, second], self.ids(answer))
        self.assertNotIn("next_batch", answer)
        self.assertEqual(2, answer["chunk"][0]["unsigned"]["m.relations"]["m.thread"]["count"])

    def test_pages(self) -> None:
        roots = [self.start("alice", "bob", "alice") for _ in range(5)]
        found: list[str] = []
        query: dict[str, Any] = {"limit": 2}
        while True:
            answer = self.threads("bob", self.room_id, **query)
            found += self.ids(answer)
            if "next_batch" not in answer:
                break
            query["from"] = answer["next_batch"]
        self.assertEqual(roots[::-1], found)

    def test_participated(self) -> None:
        self.add("carol")
        self.join("carol", self.room_id)
        by_root, by_reply = self.start("carol", "bob"), self.start("alice", "bob", "carol")
        other = self.start("alice", "bob")
        self.assertEqual([other, by_reply, by_root], self.ids(self.threads("carol", self.room_id)))
        mine = self.threads("carol", self.room_id, include="participated")
        self.assertEqual([by_reply, by_root], self.ids(mine))

    def test_ignored_users(self) -> None:
        self.add("carol")
        self.join("carol", self.room_id)
        by_ignored, other = self.start("carol", "bob"), self.start("alice", "bob")
        nothing_left = self.start("alice", "carol")
        self.relate("carol", self.room_id, "m.thread", by_ignored)
        self.ignore("bob", "carol")
        answer = self.threads("bob", self.room_id)
        # Ordered by what the reader is told of.
        self.assertEqual([other, by_ignored], self.ids(answer))
        self.assertEqual({}, answer["chunk"][1]["content"])
        self.assertEqual(1, answer["chunk"][1]["unsigned"]["m.relations"]["m.thread"]["count"])
        self.assertIn(nothing_left, self.ids(self.threads("alice", self.room_id)))

    def test_redaction(self) -> None:
        root = self.say("alice", self.room_id, "root")
        only = self.relate("bob", self.room_id, "m.thread", root)
        self.redact("bob", self.room_id, only)
        self.assertEqual([], self.threads("bob", self.room_id)["chunk"])

    def test_no_thread_begins_within_another(self) -> None:
        root = self.start("alice", "bob")
        reply = self.child_ids("bob", self.room_id, root)[0]
        self.place("bob", self.room_id, related("m.thread", reply))
        self.relate("bob", self.room_id, "m.thread", "$unknown")
        self.assertEqual([root], self.ids(self.threads("bob", self.room_id)))

    def test_refusals(self) -> None:
        self.add("carol")
        path = f"{V1}/rooms/{quote(self.room_id, safe='')}/threads"
        self.assert_refused(self.get("carol", path), 403, "M_FORBIDDEN")
        self.assert_refused(self.get("bob", f"{V1}/rooms/!unknown:test.example/threads"), 403, "M_FORBIDDEN")
        for query in ({"include": "x"}, {"limit": 0}, {"limit": "x"}, {"from": "x"}):
            self.assert_refused(self.get("bob", path, **query), 400, "M_INVALID_PARAM")


@on_each_database
class Syncs(RelatingCase):
    """Bundles in syncs: from the tables, and from the log without a statement."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.make_room(joined=("bob",))
        self.since = self.sync("bob")["next_batch"]

    def sync(self, name: str, since: str | None = None, wanted: Any = None) -> Any:
        query = {} if since is None else {"since": since}
        if wanted is not None:
            query["filter"] = msgspec.json.encode(wanted).decode()
        return self.app.ok("GET", f"{V3}/sync", None, self.tokens[name], query)

    def told(self, answer: Any) -> dict[str, Any]:
        """The bundles in a timeline, by event."""
        events = answer["rooms"]["join"][self.room_id]["timeline"]["events"]
        return {
            one["event_id"]: one["unsigned"]["m.relations"]
            for one in events
            if "m.relations" in one["unsigned"]
        }

    def relate_all(self) -> tuple[str, str, str, str]:
        """A root, its edit, its reference and its thread's newest event."""
        root = self.say("alice", self.room_id, "root")
        edit = self.edit("alice", self.room_id, root, "again")
        reference = self.relate("bob", self.room_id, "m.reference", root)
        self.relate("alice", self.room_id, "m.thread", root)
        return root, edit, reference, self.relate("alice", self.room_id, "m.thread", root)

    def check(self, answer: Any, ids: tuple[str, str, str, str], participated: bool) -> None:
        root, edit, reference, last = ids
        told = self.told(answer)
        self.assertEqual([root], list(told))
        self.assertEqual(edit, told[root]["m.replace"]["event_id"])
        self.assertEqual({"chunk": [{"event_id": reference}]}, told[root]["m.reference"])
        thread = told[root]["m.thread"]
        self.assertEqual((2, last), (thread["count"], thread["latest_event"]["event_id"]))
        self.assertIs(participated, thread["current_user_participated"])

    def test_both_ways_tell_the_same(self) -> None:
        ids = self.relate_all()
        with self.statements() as asked:
            from_log = self.sync("bob", self.since)
        self.assertEqual([], asked)
        self.check(from_log, ids, participated=False)
        self.check(self.sync("alice", self.since), ids, participated=True)
        whole = self.sync("bob")
        self.check(whole, ids, participated=False)
        self.assertEqual(self.told(whole)[ids[0]], self.told(from_log)[ids[0]])
        self.app.restart()
        self.check(self.sync("bob", self.since), ids, participated=False)

    def test_the_edit_of_a_threads_newest_event(self) -> None:
        root = self.say("alice", self.room_id, "root")
        last = self.relate("bob", self.room_id, "m.thread", root)
        edit = self.edit("bob", self.room_id, last, "again")
        for answer in (self.sync("alice", self.since), self.sync("alice")):
            latest = self.told(answer)[root]["m.thread"]["latest_event"]
            self.assertEqual(edit, latest["unsigned"]["m.relations"]["m.replace"]["event_id"])

    def test_an_event_that_was_told_before_is_not_told_again(self) -> None:
        root = self.say("alice", self.room_id, "root")
        since = self.sync("bob", self.since)["next_batch"]
        self.edit("alice", self.room_id, root, "again")
        self.assertEqual({}, self.told(self.sync("bob", since)))

    def test_ignored_and_redacted(self) -> None:
        self.add("carol")
        self.join("carol", self.room_id)
        since = self.sync("bob", self.since)["next_batch"]
        root = self.say("alice", self.room_id, "root")
        self.relate("carol", self.room_id, "m.reference", root)
        kept = self.relate("alice", self.room_id, "m.reference", root)
        gone = self.relate("alice", self.room_id, "m.reference", root)
        self.redact("alice", self.room_id, gone)
        self.ignore("bob", "carol")
        expected = {root: {"m.reference": {"chunk": [{"event_id": kept}]}}}
        self.assertEqual(expected, self.told(self.sync("bob", since)))
        self.assertEqual(expected, self.told(self.sync("bob")))

    def test_edits_that_do_not_count(self) -> None:
        root = self.say("alice", self.room_id, "root")
        self.edit("bob", self.room_id, root, "by another")
        self.relate("alice", self.room_id, "m.replace", root)
        gone = self.say("alice", self.room_id, "to be redacted")
        self.edit("alice", self.room_id, gone, "again")
        self.redact("alice", self.room_id, gone)
        self.assertEqual({}, self.told(self.sync("bob", self.since)))
        self.assertEqual({}, self.told(self.sync("bob")))

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(st.lists(_STEP, min_size=1, max_size=20), st.booleans())
    def test_whatever_relates_the_log_and_the_tables_agree(
        self, steps: list[tuple[str, str, int]], ignoring: bool
    ) -> None:
        since = self.sync("bob")["next_batch"]
        sent = [self.say("alice", self.room_id, "root")]
        for what, name, which in steps:
            target_id = sent[which % len(sent)]
            if what == "say":
                sent.append(self.say(name, self.room_id, "text"))
            elif what == "edit":
                sent.append(self.edit(name, self.room_id, target_id, "again"))
            elif what == "redact":
                self.redact("alice", self.room_id, target_id)
            else:
                sent.append(self.place(name, self.room_id, related(what, target_id)))
        for name in ("alice", "bob"):
            self.ignore(name, *(["alice", "bob"] if ignoring else []))
            wanted = {"room": {"timeline": {"limit": 100}}}
            from_log = self.told(self.sync(name, since, wanted))
            whole = self.told(self.sync(name, None, wanted))
            self.assertEqual({one: whole[one] for one in whole if one in sent}, from_log)
