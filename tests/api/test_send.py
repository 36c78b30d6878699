"""PUT /send and PUT /state: what goes in, once, and what is refused."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.api.talk import V3, TalkCase, user


class Send(TalkCase):
    """Messages."""

    def test_send_and_read(self) -> None:
        room_id = self.make_room()
        content = {"msgtype": "m.text", "body": "hi 👋", "im.chaos.extra": {"deep": [1, None, True]}}
        status, json = self.send("alice", room_id, content)
        self.assertEqual(200, status)
        event = self.ok("alice", self.path(room_id, "event", json["event_id"]))
        self.assertEqual(content, event["content"])
        self.assertEqual(
            (room_id, user("alice"), "m.room.message"), (event["room_id"], event["sender"], event["type"])
        )
        self.assertNotIn("state_key", event)

    def test_encrypted_and_unknown_types_are_untouched(self) -> None:
        room_id = self.make_room()
        for event_type in ("m.room.encrypted", "org.example.anything/with slash", "ü"):
            status, json = self.send("alice", room_id, {"ciphertext": "…", "n": -5}, event_type)
            self.assertEqual(200, status, json)
            event = self.ok("alice", self.path(room_id, "event", json["event_id"]))
            self.assertEqual((event_type, {"ciphertext": "…", "n": -5}), (event["type"], event["content"]))

    def test_retry_finds_the_first_answer(self) -> None:
        room_id = self.make_room()
        first = self.send("alice", room_id, {"msgtype": "m.text", "body": "a"}, txn_id="same/id")
        self.assertEqual(
            first, self.send("alice", room_id, {"msgtype": "m.text", "body": "b"}, txn_id="same/id")
        )
        other_type = self.send("alice", room_id, {"body": "c"}, "m.other", txn_id="same/id")
        self.assertNotEqual(first, other_type)
        other_room = self.send(
            "alice", self.make_room(), {"msgtype": "m.text", "body": "d"}, txn_id="same/id"
        )
        self.assertNotEqual(first, other_room)
        self.app.restart()
        self.assertEqual(
            first, self.send("alice", room_id, {"msgtype": "m.text", "body": "e"}, txn_id="same/id")
        )
        self.assertEqual(["a"], self.bodies(self.page("alice", room_id, limit=2)["chunk"][1:]))

    def test_another_device_has_transactions_of_its_own(self) -> None:
        room_id = self.make_room(joined=("bob",))
        first = self.send("alice", room_id, {"msgtype": "m.text", "body": "a"}, txn_id="t")
        self.assertNotEqual(first, self.send("bob", room_id, {"msgtype": "m.text", "body": "b"}, txn_id="t"))

    def test_failed_request_may_be_tried_again(self) -> None:
        room_id = self.make_room()
        self.assert_refused(
            self.send("bob", room_id, {"msgtype": "m.text", "body": "a"}, txn_id="t"), 403, "M_FORBIDDEN"
        )
        self.join("bob", room_id)
        self.assertEqual(200, self.send("bob", room_id, {"msgtype": "m.text", "body": "a"}, txn_id="t")[0])

    def test_transaction_ids_are_bounded(self) -> None:
        """They are kept in an index, whose rows are."""
        room_id = self.make_room()
        content = {"msgtype": "m.text", "body": "a"}
        longest = "\N{SPARKLES}" * 85  # three bytes each
        status, json = self.send("alice", room_id, content, txn_id=longest)
        self.assertEqual(200, status, json)
        self.assert_refused(
            self.send("alice", room_id, content, txn_id=longest + "x"), 400, "M_INVALID_PARAM"
        )
        path = self.path(room_id, "redact", json["event_id"])
        for txn_id, wanted in ((longest + "x", 400), (longest, 200)):
            answer = self.app.call("PUT", f"{path}/{quote(txn_id)}", {}, self.tokens["alice"])
            self.assertEqual(wanted, answer[0], answer)

    def test_retry_at_the_same_time(self) -> None:
        room_id = self.make_room()
        path = self.path(room_id, "send", "m.room.message", "t")
        calls = [
            self.app.start("PUT", path, {"msgtype": "m.text", "body": str(n)}, self.tokens["alice"])
            for n in range(3)
        ]
        answers = [self.app.wait(call).json for call in calls]
        self.assertEqual([answers[0]] * 3, answers)

    def test_strangers_are_refused(self) -> None:
        room_id = self.make_room()
        self.assert_refused(self.send("bob", room_id, {"msgtype": "m.text", "body": "x"}), 403, "M_FORBIDDEN")
        self.assert_refused(
            self.send("bob", "!nowhere:test.example", {"msgtype": "m.text", "body": "x"}), 403, "M_FORBIDDEN"
        )
        self.assert_refused(self.put_state("bob", room_id, "m.room.topic", {}), 403, "M_FORBIDDEN")
        unknown = self.put_state("bob", "!nowhere:test.example", "m.room.topic", {})
        self.assert_refused(unknown, 403, "M_FORBIDDEN")

    def test_messages_say_something(self) -> None:
        room_id = self.make_room()
        for content in (
            {},
            {"body": "of no sort"},
            {"msgtype": "m.text"},
            {"msgtype": "m.text", "body": None},
            {"msgtype": "m.text", "body": 5},
            {"msgtype": None, "body": "of no sort"},
        ):
            self.assert_refused(self.send("alice", room_id, content), 400, "M_BAD_JSON")
        self.assertEqual(200, self.send("alice", room_id, {"msgtype": "m.new", "body": ""})[0])
        for event_type in ("m.room.encrypted", "m.sticker", "org.example.message"):
            self.assertEqual(200, self.send("alice", room_id, {}, event_type)[0])

    def test_power_is_needed(self) -> None:
        room_id = self.make_room(levels={"events": {"m.special": 50}}, joined=("bob",))
        self.assert_refused(self.send("bob", room_id, {}, "m.special"), 403, "M_FORBIDDEN")
        self.assertEqual(200, self.send("bob", room_id, {}, "m.usual")[0])

    def test_hostile_bodies(self) -> None:
        room_id = self.make_room()
        path = self.path(room_id, "send", "m.room.message", "t")
        token = self.tokens["alice"]
        for body, status, errcode in (
            (b"", 400, "M_NOT_JSON"),
            (b"{", 400, "M_NOT_JSON"),
            (b"[]", 400, "M_BAD_JSON"),
            (b'{"a":1.5}', 400, "M_BAD_JSON"),
            (b'{"a":9007199254740992}', 400, "M_BAD_JSON"),
            (b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", 400, "M_BAD_JSON"),
            (b'{"msgtype":"m.text","body":"' + b"x" * 65_600 + b'"}', 413, "M_TOO_LARGE"),
            (b'{"msgtype":"m.text","body":"' + b"x" * 600_000 + b'"}', 413, "M_TOO_LARGE"),
        ):
            answer = self.app.call("PUT", path, body, token)
            self.assert_refused(answer, status, errcode)
        long_type = self.send("alice", room_id, {}, "m." + "x" * 300)
        self.assert_refused(long_type, 413, "M_TOO_LARGE")

    def test_the_largest_event_fits(self) -> None:
        room_id = self.make_room()
        self.assertEqual(200, self.send("alice", room_id, {"msgtype": "m.text", "body": "x" * 64_000})[0])

    def test_structural_events_are_no_messages(self) -> None:
        room_id = self.make_room()
        for event_type in ("m.room.create", "m.room.member"):
            answer = self.send("alice", room_id, {"membership": "join"}, event_type)
            self.assert_refused(answer, 403, "M_FORBIDDEN")

    def test_query_counts(self) -> None:
        """A warm room and device: the transaction that stores the event, and not one read."""
        room_id = self.make_room()
        self.say("alice", room_id, "warm")
        with self.statements() as asked:
            self.send("alice", room_id, {"msgtype": "m.text", "body": "x"})
        before_commit = [sql for sql in asked if sql.startswith("SELECT") and "room_heads" not in sql]
        self.assertEqual([], before_commit)


class PutState(TalkCase):
    """State events."""

    def test_both_forms_of_the_path(self) -> None:
        room_id = self.make_room()
        for path in (
            self.path(room_id, "state", "m.room.topic"),
            self.path(room_id, "state", "m.room.topic", ""),
        ):
            json = self.app.ok("PUT", path, {"topic": path}, self.tokens["alice"])
            self.assertTrue(json["event_id"].startswith("$"))
            self.assertEqual({"topic": path}, self.ok("alice", path))

    def test_the_same_again_is_nothing_new(self) -> None:
        room_id = self.make_room(joined=("bob",))
        levels = {"users": {user("alice"): 100}, "state_default": 0}
        self.set_state("alice", room_id, "m.room.power_levels", levels)

        def put(name: str, content: dict[str, Any]) -> str:
            event_id: str = self.put_state(name, room_id, "m.x", content)[1]["event_id"]
            return event_id

        first = put("alice", {"a": 1, "b": [True]})
        self.assertEqual(first, put("alice", {"b": [True], "a": 1}))
        # What Python takes for equal is another value in JSON; and whose it is counts, too.
        others = [put("alice", {"a": True, "b": [True]}), put("bob", {"a": True, "b": [True]})]
        self.assertEqual(3, len({first, *others}))
        self.leave("bob", room_id)
        self.assert_refused(
            self.put_state("bob", room_id, "m.x", {"a": True, "b": [True]}), 403, "M_FORBIDDEN"
        )

    def test_creators_have_no_power_levels(self) -> None:
        body = {"room_version": "12"}
        room_id = self.app.ok("POST", f"{V3}/createRoom", body, self.tokens["alice"])["room_id"]
        levels = {"users": {user("alice"): 100}}
        self.assert_refused(
            self.put_state("alice", room_id, "m.room.power_levels", levels), 400, "M_BAD_JSON"
        )

    def test_state_key(self) -> None:
        room_id = self.make_room()
        self.set_state("alice", room_id, "org.example", {"a": 1}, "key/with slash")
        path = self.path(room_id, "state", "org.example", "key/with slash")
        self.assertEqual({"a": 1}, self.ok("alice", path))
        self.assert_refused(
            self.put_state("alice", room_id, "org.example", {}, "x" * 256), 413, "M_TOO_LARGE"
        )
        self.assert_refused(
            self.put_state("alice", room_id, "org.example", {}, user("bob")), 403, "M_FORBIDDEN"
        )

    def test_no_post(self) -> None:
        room_id = self.make_room()
        path = self.path(room_id, "state", "m.room.topic", "")
        self.assert_refused(self.app.call("POST", path, {}, self.tokens["alice"]), 405, "M_UNRECOGNIZED")

    def test_power_levels_by_version(self) -> None:
        no_integers: tuple[Any, ...] = ("50", "junk", None, {})
        for version in ("1", "9", "10", "11"):
            room_id = self.make_room(version)
            for ban in no_integers:
                levels: dict[str, Any] = {"users": {user("alice"): 100}, "ban": ban}
                answer = self.put_state("alice", room_id, "m.room.power_levels", levels)
                self.assert_refused(answer, 400, "M_BAD_JSON")
                answer = self.send("alice", room_id, levels, "m.room.power_levels")
                self.assert_refused(answer, 400, "M_BAD_JSON")
        room_id = self.make_room()
        malformed: tuple[dict[str, Any], ...] = (
            {"users": []},
            {"events": {"m.x": True}},
            {"notifications": {"room": None}},
            {"users": {user("alice"): 100, "bob": 50}},
        )
        for wrong in malformed:
            answer = self.put_state("alice", room_id, "m.room.power_levels", wrong)
            self.assert_refused(answer, 400, "M_BAD_JSON")

    def test_levels_of_old_rooms_may_stay_what_they_are(self) -> None:
        """Those that are no integers, in the place where they are."""
        users = {user("alice"): "100"}
        odd: dict[str, Any] = {
            "users": users,
            "ban": "50",
            "kick": None,
            "redact": 1,
            "events": {"m.x": "30"},
        }
        odd["notifications"] = []
        room_id = self.make_room("9", levels=odd)
        kept = {**odd, "invite": 20}
        self.set_state("alice", room_id, "m.room.power_levels", kept)
        changes: tuple[dict[str, Any], ...] = (
            {"ban": "51"},
            {"kick": "50"},
            {"state_default": "50"},
            {"redact": True},
            {"events": {"m.y": "30"}},
            {"events": []},
            {"notifications": {"room": "30"}},
            {"users": {**users, user("bob"): "30"}},
            {"users": {**users, "bob": 30}},
        )
        for wrong in changes:
            answer = self.put_state("alice", room_id, "m.room.power_levels", {**kept, **wrong})
            self.assert_refused(answer, 400, "M_BAD_JSON")
        self.set_state("alice", room_id, "m.room.power_levels", {**kept, "ban": 50, "notifications": {}})
        answer = self.put_state("alice", room_id, "m.room.power_levels", kept)
        self.assert_refused(answer, 400, "M_BAD_JSON")

    def test_member_events(self) -> None:
        room_id = self.make_room(join_rule="invite")
        member = "m.room.member"
        join = {"membership": "join"}
        self.assert_refused(self.put_state("bob", room_id, member, join, user("bob")), 403, "M_FORBIDDEN")
        self.set_state("alice", room_id, member, {"membership": "invite"}, user("bob"))
        self.join("bob", room_id)
        nobody = self.put_state("alice", room_id, member, {"membership": "invite"}, "nobody")
        self.assert_refused(nobody, 400, "M_INVALID_PARAM")
        odd = self.put_state("bob", room_id, member, {"membership": "odd"}, user("bob"))
        self.assertIn(odd[0], (400, 403))

    def test_create_event_stays(self) -> None:
        room_id = self.make_room()
        answer = self.put_state("alice", room_id, "m.room.create", {"room_version": "11"})
        self.assert_refused(answer, 403, "M_FORBIDDEN")

    def test_bad_room_id(self) -> None:
        answer = self.app.call("PUT", f"{V3}/rooms/room/state/m.room.topic", {}, self.tokens["alice"])
        self.assert_refused(answer, 400, "M_INVALID_PARAM")

    def test_canonical_alias(self) -> None:
        room_id, other = self.make_room(), self.make_room()
        for alias, where in (("#here:test.example", room_id), ("#there:test.example", other)):
            path = f"{V3}/directory/room/{quote(alias, safe='')}"
            self.app.ok("PUT", path, {"room_id": where}, self.tokens["alice"])
        kind = "m.room.canonical_alias"
        self.set_state("alice", room_id, kind, {"alias": "#here:test.example"})
        wrong = self.put_state("alice", room_id, kind, {"alias": "#there:test.example"})
        self.assert_refused(wrong, 400, "M_BAD_ALIAS")
        malformed = self.put_state("alice", room_id, kind, {"alt_aliases": ["here"]})
        self.assert_refused(malformed, 400, "M_INVALID_PARAM")

    def test_nobody_vouches_for_oneself(self) -> None:
        """A join as a state event cannot name who lets the user in: only the server may."""
        room_id = self.make_room(join_rule="restricted")
        content = {"membership": "join", "join_authorised_via_users_server": user("alice")}
        answer = self.put_state("bob", room_id, "m.room.member", content, user("bob"))
        self.assert_refused(answer, 403, "M_FORBIDDEN")
