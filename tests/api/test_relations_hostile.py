"""Relationships that are none, whatever a content says. spec: client-server-api#forming-relationships-between-events"""

from __future__ import annotations

from random import Random
from typing import Any

from tests.api.talk import V3
from tests.api.test_relations import V1, RelatingCase, related
from tests.support.databases import on_each_database

# The last is a relationship to something that nobody knows.
IDS = ("", "$", "\0", "$a\0b", "nonsense", "$" + "x" * 255, "$" + "\N{PARTY POPPER}" * 100, "$unknown")
KINDS = ("m.thread", "m.reference", "m.replace", "m.annotation", "", "a\0b", "x" * 256)
THREADS = '{"room":{"timeline":{"unread_thread_notifications":true}}}'


@on_each_database
class OddRelations(RelatingCase):
    """One message must not keep a room's members from syncing, or from reading it to its end."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.make_room(joined=("bob",))

    def counts(self) -> Any:
        """What bob has not read: of the main timeline, and of threads."""
        answer = self.app.ok("GET", f"{V3}/sync", None, self.tokens["bob"], {"filter": THREADS})
        room = answer["rooms"]["join"][self.room_id]
        return room["unread_notifications"]["notification_count"], room.get("unread_thread_notifications", {})

    def reaction(self) -> dict[str, Any]:
        """The content of a reaction to a new message."""
        content = related("m.annotation", self.say("alice", self.room_id, "hi"))
        content["m.relates_to"]["key"] = "+"
        return content

    def test_whatever_it_says(self) -> None:
        self.counts()
        sent: list[str] = []
        for kind in KINDS:
            for target_id in IDS[:-1]:
                status, json = self.send("alice", self.room_id, related(kind, target_id, key="a\0b"))
                self.assertEqual(200, status, (kind, target_id))
                sent.append(json["event_id"])
        # An edit notifies nobody, whatever it is of.
        unread = sum(kind != "m.replace" for kind in KINDS) * len(IDS[:-1])
        for _ in range(2):
            self.assertEqual((unread, {}), self.counts())
            self.ok("bob", f"{V3}/notifications")
            self.page("bob", self.room_id)
            self.assertEqual([], self.ok("bob", f"{V1}/rooms/{self.room_id}/threads")["chunk"])
            self.app.restart()
        path = self.path(self.room_id, "receipt", "m.read", "")
        for event_id in sent:
            self.app.ok("POST", path + event_id, {"thread_id": "main"}, self.tokens["bob"])
            self.assertEqual([], self.child_ids("bob", self.room_id, event_id, recurse="true"))
        self.assertEqual((0, {}), self.counts())

    def test_of_what_nobody_knows(self) -> None:
        """Its thread can be read all the same."""
        event_id = self.relate("alice", self.room_id, "m.thread", IDS[-1])
        self.assertEqual({IDS[-1]: {"notification_count": 1, "highlight_count": 0}}, self.counts()[1])
        path = self.path(self.room_id, "receipt", "m.read", event_id)
        self.app.ok("POST", path, {"thread_id": IDS[-1]}, self.tokens["bob"])
        self.assertEqual((0, {}), self.counts())

    def test_of_a_type_that_no_event_has(self) -> None:
        """What is refused leaves nothing behind that the next transaction would have to store."""
        interner = self.app.app.core.interner
        reaction = self.reaction()
        # Text that does not become small where an index compresses it.
        name = "".join(map(chr, Random(1).choices(range(0x100, 0x800), k=2_000)))
        status, json = self.send("alice", self.room_id, reaction, name)
        self.assertEqual((413, "M_TOO_LARGE"), (status, json["errcode"]))
        # Those whom the room refuses bind nothing either.
        self.add("carol")
        self.assertEqual(403, self.send("carol", self.room_id, reaction, "m.of.nobody")[0])
        self.assertEqual([None, None], [interner.known_type(one) for one in (name, "m.of.nobody")])
        self.say("bob", self.room_id, "still here")

    def test_twice_of_a_type_that_is_not_in_memory(self) -> None:
        """A restart forgets the type's number, and the reaction is told to be the same all the same."""
        reaction = self.reaction()
        self.assertEqual(200, self.send("alice", self.room_id, reaction, "org.example.nod")[0])
        self.app.restart()
        status, json = self.send("alice", self.room_id, reaction, "org.example.nod")
        self.assertEqual((400, "M_DUPLICATE_ANNOTATION"), (status, json["errcode"]))
