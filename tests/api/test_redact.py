"""Redactions, by their own endpoint and as ordinary events, in every kind of room version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred

from tests.api.talk import V3, TalkCase, user


class Redact(TalkCase):
    """See the module."""

    def redact(
        self, name: str, room_id: str, event_id: str, body: Any = None, txn: str = ""
    ) -> tuple[int, Any]:
        self._texts += 1
        path = self.path(room_id, "redact", event_id, txn or f"redact{self._texts}")
        return self.app.call("PUT", path, {} if body is None else body, self.tokens[name])

    @contextmanager
    def administrator(self, name: str) -> Iterator[None]:
        """Somebody administers the server meanwhile."""
        accounts = self.app.app.services.accounts
        for is_admin in (True, False):
            self.app.wait(Deferred.fromCoroutine(accounts.set_admin(user(name), is_admin)))
            if is_admin:
                yield

    def event(self, room_id: str, event_id: str, name: str = "alice") -> Any:
        return self.ok(name, self.path(room_id, "event", event_id))

    def test_redacted_event(self) -> None:
        for version in ("1", "6", "10", "11"):
            room_id = self.make_room(version)
            event_id = self.say("alice", room_id, "secret")
            status, json = self.redact("alice", room_id, event_id, {"reason": "oops", "other": "ignored"})
            self.assertEqual(200, status, json)
            event = self.event(room_id, event_id)
            self.assertEqual({}, event["content"])
            because = event["unsigned"]["redacted_because"]
            self.assertEqual((json["event_id"], "m.room.redaction"), (because["event_id"], because["type"]))
            self.assertEqual(("oops", event_id), (because["content"]["reason"], because["redacts"]))
            redaction = self.event(room_id, json["event_id"])
            self.assertEqual(event_id, redaction["redacts"])
            self.assertEqual(version == "11", redaction["content"].get("redacts") == event_id)
            self.assertNotIn("other", redaction["content"])

    def test_as_an_ordinary_event(self) -> None:
        for version in ("9", "11"):
            room_id = self.make_room(version)
            event_id = self.say("alice", room_id, "secret")
            content = {"redacts": event_id, "reason": "oops"}
            status, json = self.send("alice", room_id, content, "m.room.redaction", txn_id=f"t{version}")
            self.assertEqual(200, status, json)
            self.assertEqual({}, self.event(room_id, event_id)["content"])
            redaction = self.event(room_id, json["event_id"])
            self.assertEqual((event_id, "oops"), (redaction["redacts"], redaction["content"]["reason"]))
            self.assertEqual(version == "11", "redacts" in redaction["content"])
            self.assertEqual(f"t{version}", redaction["unsigned"]["transaction_id"])

    def test_transaction_id(self) -> None:
        # Event ids of version 3 may hold slashes, and so may transaction ids.
        for version in ("1", "3", "11"):
            room_id = self.make_room(version)
            for number in range(5):
                event_id = self.say("alice", room_id, str(number))
                status, json = self.redact("alice", room_id, event_id, txn=f"a/b{number}")
                self.assertEqual(200, status)
                redaction = self.event(room_id, json["event_id"])
                self.assertEqual(f"a/b{number}", redaction["unsigned"]["transaction_id"])

    def test_malformed_ordinary_event(self) -> None:
        room_id = self.make_room()
        for content, errcode in (
            ({}, "M_BAD_JSON"),
            ({"redacts": 1}, "M_BAD_JSON"),
            ({"redacts": "x"}, "M_INVALID_PARAM"),
        ):
            self.assert_refused(self.send("alice", room_id, content, "m.room.redaction"), 400, errcode)

    def test_no_state_redacts(self) -> None:
        """Every other server, and every client, would take it for a redaction that nobody here has looked at."""
        for version in ("10", "11"):
            room_id = self.make_room(version)
            event_id = self.say("alice", room_id, "a")
            answer = self.app.call(
                "PUT",
                self.path(room_id, "state", "m.room.redaction"),
                {"redacts": event_id},
                self.tokens["alice"],
            )
            self.assert_refused(answer, 403, "M_FORBIDDEN")

    def test_administrators(self) -> None:
        # spec: client-server-api#put_matrixclientv3roomsroomidredacteventidtxnid (events of users of their server)
        for version in ("1", "11"):
            room_id = self.make_room(version, joined=("bob",))
            alices = [self.say("alice", room_id, text) for text in "ab"]
            self.assert_refused(self.redact("bob", room_id, alices[0]), 403, "M_FORBIDDEN")
            with self.administrator("bob"):
                self.assertEqual(200, self.redact("bob", room_id, alices[0])[0])
                as_event = self.send("bob", room_id, {"redacts": alices[1]}, "m.room.redaction")
                self.assertEqual(200, as_event[0])
            for event_id in alices:
                self.assertEqual({}, self.event(room_id, event_id)["content"])

    def test_own_and_others(self) -> None:
        room_id = self.make_room(joined=("bob",))
        alices, bobs = self.say("alice", room_id, "a"), self.say("bob", room_id, "b")
        self.assert_refused(self.redact("bob", room_id, alices), 403, "M_FORBIDDEN")
        as_event = self.send("bob", room_id, {"redacts": alices}, "m.room.redaction")
        self.assert_refused(as_event, 403, "M_FORBIDDEN")
        self.assertEqual(200, self.redact("bob", room_id, bobs)[0])
        self.assertEqual(200, self.redact("alice", room_id, self.say("bob", room_id, "c"))[0])
        self.assertEqual("a", self.event(room_id, alices)["content"]["body"])

    def test_power_to_send_redactions(self) -> None:
        room_id = self.make_room(levels={"events": {"m.room.redaction": 50}}, joined=("bob",))
        self.assert_refused(self.redact("bob", room_id, self.say("bob", room_id, "b")), 403, "M_FORBIDDEN")

    def test_strangers_learn_nothing(self) -> None:
        room_id = self.make_room()
        event_id = self.say("alice", room_id, "a")
        self.assert_refused(self.redact("bob", room_id, event_id), 403, "M_FORBIDDEN")
        self.assert_refused(self.redact("bob", room_id, "$none"), 403, "M_FORBIDDEN")

    def test_unknown_event(self) -> None:
        room_id, other = self.make_room(), self.make_room()
        self.assert_refused(self.redact("alice", room_id, "$none"), 404, "M_NOT_FOUND")
        elsewhere = self.say("alice", other, "x")
        self.assert_refused(self.redact("alice", room_id, elsewhere), 404, "M_NOT_FOUND")
        self.assert_refused(self.redact("alice", room_id, "none"), 400, "M_INVALID_PARAM")

    def test_create_event_stays(self) -> None:
        room_id = self.make_room()
        create = self.ok("alice", self.path(room_id, "state", "m.room.create"), format="event")
        self.assert_refused(self.redact("alice", room_id, create["event_id"]), 403, "M_FORBIDDEN")

    def test_server_acls_stay(self) -> None:
        """An empty one denies every server; their own can always be replaced."""
        room_id = self.make_room()
        path = self.path(room_id, "state", "m.room.server_acl")
        acl = self.app.ok("PUT", path, {"allow": ["*"]}, self.tokens["alice"])["event_id"]
        self.assert_refused(self.redact("alice", room_id, acl), 403, "M_FORBIDDEN")
        as_event = self.send("alice", room_id, {"redacts": acl}, "m.room.redaction")
        self.assert_refused(as_event, 403, "M_FORBIDDEN")
        self.assertEqual({"allow": ["*"]}, self.ok("alice", path))

    def test_once_and_twice(self) -> None:
        room_id = self.make_room()
        event_id = self.say("alice", room_id, "a")
        first = self.redact("alice", room_id, event_id, {"reason": "one"}, "t")
        self.assertEqual(first, self.redact("alice", room_id, event_id, {"reason": "two"}, "t"))
        self.assertEqual(200, self.redact("alice", room_id, event_id, {"reason": "three"})[0])
        because = self.event(room_id, event_id)["unsigned"]["redacted_because"]
        self.assertEqual("one", because["content"]["reason"])

    def test_redacted_state_stays_in_force(self) -> None:
        room_id = self.make_room(joined=("bob",))
        name = self.set_state("alice", room_id, "m.room.name", {"name": "old"})
        self.assertEqual(200, self.redact("alice", room_id, name)[0])
        self.assertEqual({}, self.ok("bob", self.path(room_id, "state", "m.room.name")))
        join = self.ok("bob", self.path(room_id, "state", "m.room.member", user("bob")), format="event")
        self.assertEqual(200, self.redact("bob", room_id, join["event_id"])[0])
        self.assertEqual(200, self.send("bob", room_id, {"msgtype": "m.text", "body": "still here"})[0])

    def test_what_was_redacted_can_be_set_again(self) -> None:
        room_id = self.make_room(joined=("bob",))
        for event_type, content, name, key in (
            ("m.room.name", {"name": "same"}, "alice", ""),
            ("m.room.member", {"membership": "join", "displayname": "Bo"}, "bob", user("bob")),
        ):
            path = self.path(room_id, "state", event_type, key)
            first = self.set_state(name, room_id, event_type, content, key)
            self.assertEqual(200, self.redact(name, room_id, first)[0])
            self.assertNotEqual(content, self.ok("alice", path))
            self.assertNotEqual(first, self.set_state(name, room_id, event_type, content, key))
            self.assertEqual(content, self.ok("alice", path))

    def test_a_new_name_does_not_bring_back_what_was_redacted(self) -> None:
        self.app.app.begin()
        room_id = self.make_room(joined=("bob",))
        join = self.join("bob", room_id, displayname="Bo", **{"org.example.note": "offensive"})
        self.assertEqual(200, self.redact("alice", room_id, join)[0])
        path = f"{V3}/profile/{user('bob')}/displayname"
        self.app.ok("PUT", path, {"displayname": "Bobby"}, self.tokens["bob"])
        self.app.advance(0)
        member = self.ok("alice", self.path(room_id, "state", "m.room.member", user("bob")))
        self.assertEqual({"membership": "join", "displayname": "Bobby"}, member)

    def test_bodies(self) -> None:
        room_id = self.make_room()
        event_id = self.say("alice", room_id, "a")
        self.assert_refused(self.redact("alice", room_id, event_id, {"reason": 1}), 400, "M_BAD_JSON")
        self.assertEqual(200, self.redact("alice", room_id, event_id, b"")[0])
