"""What sliding sync tells beside rooms: messages to devices, keys, account data, receipts, who is typing."""

from __future__ import annotations

from typing import Any

from homeserver.sync.sliding.dealing import MEMBERS_MOST
from tests.api.keys import KeysCase
from tests.api.rooms import ALICE, V3
from tests.support.app import SERVER_NAME
from tests.support.databases import on_each_database

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
BOB = f"@bob:{SERVER_NAME}"
ON = {"enabled": True}


@on_each_database
class Extensions(KeysCase):
    def setUp(self) -> None:
        super().setUp()
        self.phone, self.keys = self.device("alice", "PHONE")
        self.sent = 0

    def ask(self, extensions: dict[str, Any], pos: str | None = None, conn_id: str = "", **more: Any) -> Any:
        query = {} if pos is None else {"pos": pos}
        body = {"conn_id": conn_id, "extensions": extensions, **more}
        return self.app.ok("POST", SLIDING, body, self.phone, query)

    def all_rooms(self) -> dict[str, Any]:
        return {"all": {"ranges": [[0, 9]], "timeline_limit": 3, "required_state": []}}

    def send(self, *contents: Any) -> None:
        for content in contents:
            self.sent += 1
            self.send_to(self.bob, {ALICE: {"PHONE": content}}, f"t{self.sent}")

    def room_with(self, *tokens: str) -> str:
        room_id: str = self.ok(self.bob, "/createRoom", {"preset": "public_chat"})["room_id"]
        for token in tokens:
            self.ok(token, f"/join/{room_id}", {})
        return room_id

    def say(self, room_id: str) -> str:
        self.sent += 1
        path = f"{V3}/rooms/{room_id}/send/m.room.message/m{self.sent}"
        body = {"msgtype": "m.text", "body": str(self.sent)}
        found: str = self.app.ok("PUT", path, body, self.bob)["event_id"]
        return found

    # --- to-device -----------------------------------------------------------------------------------

    def told(self, answer: Any) -> list[Any]:
        return [one["content"]["n"] for one in answer["extensions"]["to_device"]["events"]]

    def test_messages_are_told_until_the_device_has_them(self) -> None:
        self.send({"n": 1}, {"n": 2})
        first = self.ask({"to_device": ON})
        self.assertEqual([1, 2], self.told(first))
        # The position does not say that they arrived: their own token does.
        again = self.ask({"to_device": ON}, first["pos"])
        self.assertEqual([1, 2], self.told(again))
        since = again["extensions"]["to_device"]["next_batch"]
        self.send({"n": 3})
        third = self.ask({"to_device": {**ON, "since": since}}, again["pos"])
        self.assertEqual([3], self.told(third))
        self.app.restart()
        self.assertEqual([3], self.told(self.ask({"to_device": ON}, conn_id="other")))

    def test_so_many_at_once(self) -> None:
        self.send(*({"n": number} for number in range(5)))
        found: list[Any] = []
        since: str | None = None
        pos: str | None = None
        for _ in range(3):
            asked = {**ON, "limit": 2} if since is None else {**ON, "limit": 2, "since": since}
            answer = self.ask({"to_device": asked}, pos)
            pos, since = answer["pos"], answer["extensions"]["to_device"]["next_batch"]
            self.assertLessEqual(len(self.told(answer)), 2)
            found += self.told(answer)
        self.assertEqual([0, 1, 2, 3, 4], found)

    def test_a_message_wakes_the_connection_that_asks_for_it(self) -> None:
        encryption, rooms = self.ask({"to_device": ON}, conn_id="a"), self.ask({}, conn_id="b")
        since = encryption["extensions"]["to_device"]["next_batch"]
        bodies = ({"conn_id": "a", "extensions": {"to_device": {**ON, "since": since}}}, {"conn_id": "b"})
        waiting, deaf = (
            self.app.start("POST", SLIDING, body, self.phone, {"pos": answer["pos"], "timeout": "9000"})
            for body, answer in zip(bodies, (encryption, rooms), strict=True)
        )
        self.send({"n": 1})
        self.assertEqual([1], self.told(self.app.wait(waiting).json))
        self.assertFalse(deaf.called)
        self.app.advance(10)

    def test_who_syncs_for_encryption_alone_is_answered_when_they_have_sent_something(self) -> None:
        """The Rust SDK keeps a copy of the key that it was encrypted with after it is answered."""
        room_id = self.room_with(self.alice)
        asked = {"to_device": ON, "e2ee": ON}

        def wait(pos: str, **more: Any) -> Any:
            body = {"conn_id": "a", "extensions": asked, **more}
            return self.app.start("POST", SLIDING, body, self.phone, {"pos": pos, "timeout": "9000"})

        def send(token: str) -> None:
            self.sent += 1
            path = f"{V3}/rooms/{room_id}/send/m.room.encrypted/e{self.sent}"
            self.app.ok("PUT", path, {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"}, token)

        waiting = wait(self.ask(asked, conn_id="a")["pos"])
        send(self.bob)
        self.say(room_id)
        self.assertFalse(waiting.called)
        send(self.alice)
        answer = self.app.wait(waiting).json
        self.assertEqual([], self.told(answer))
        waiting = wait(answer["pos"])
        self.assertFalse(waiting.called, "once")
        self.app.advance(10)
        # Whoever sees rooms hears of it there, or has not asked.
        pos = self.ask(asked, conn_id="a", lists=self.all_rooms())["pos"]
        send(self.alice)
        answer = self.app.wait(wait(pos, lists=self.all_rooms())).json
        self.assertEqual([room_id], list(answer["rooms"]))

    def test_who_has_dealt_with_something_encrypted_is_answered_for_encryption_too(self) -> None:
        """The Rust SDK sends the next step of a verification in a room when it asks this connection again."""
        room_id = self.room_with(self.alice)
        rooms, asked = self.all_rooms(), {"to_device": ON, "e2ee": ON}

        def wait(pos: str) -> Any:
            body = {"conn_id": "a", "extensions": asked}
            return self.app.start("POST", SLIDING, body, self.phone, {"pos": pos, "timeout": "30000"})

        def step(kind: str) -> None:
            self.sent += 1
            self.app.ok("PUT", f"{V3}/rooms/{room_id}/send/{kind}/v{self.sent}", {"x": 1}, self.bob)

        seen = self.ask({}, conn_id="b", lists=rooms)["pos"]
        waiting = wait(self.ask(asked, conn_id="a")["pos"])
        for kind in ("m.room.encrypted", "m.key.verification.key"):
            step(kind)
            told = self.ask({}, seen, conn_id="b", lists=rooms)
            self.assertEqual([room_id], list(told["rooms"]))
            self.assertFalse(waiting.called, "it may not have come to it yet")
            seen = self.ask({}, told["pos"], conn_id="b", lists=rooms)["pos"]
            waiting = wait(self.app.wait(waiting).json["pos"])
            seen = self.ask({}, seen, conn_id="b", lists=rooms)["pos"]
            self.assertFalse(waiting.called, "once")
        # Another connection of the same device may not be the one that mattered.
        other = self.ask({}, self.ask({}, conn_id="c", lists=rooms)["pos"], conn_id="c", lists=rooms)["pos"]
        step("m.room.encrypted")
        for _ in range(2):
            other = self.ask({}, other, conn_id="c", lists=rooms)["pos"]
        pos = self.app.wait(waiting).json["pos"]
        for _ in range(2):
            seen = self.ask({}, seen, conn_id="b", lists=rooms)["pos"]
        waiting = wait(self.app.wait(wait(pos)).json["pos"])  # although it did not wait meanwhile
        self.say(room_id)
        for _ in range(2):
            seen = self.ask({}, seen, conn_id="b", lists=rooms)["pos"]
        self.assertFalse(waiting.called, "nothing follows from that")
        for number in range(MEMBERS_MOST):
            self.ok(self.app.register(f"guest{number}"), f"/join/{room_id}", {})
        pos = self.app.wait(waiting).json["pos"]  # it is told whose keys to ask for
        waiting = wait(self.ask(asked, pos, conn_id="a")["pos"])
        step("m.room.encrypted")
        for _ in range(2):
            seen = self.ask({}, seen, conn_id="b", lists=rooms)["pos"]
        self.assertFalse(waiting.called, "nobody verifies others among so many")
        self.app.advance(31)

    # --- keys ----------------------------------------------------------------------------------------

    def test_keys(self) -> None:
        room_id = self.room_with(self.alice)
        answer = self.ask({"e2ee": ON})
        e2ee = answer["extensions"]["e2ee"]
        self.assertNotIn("device_lists", e2ee)
        self.assertEqual([], e2ee["device_unused_fallback_key_types"])
        self.ok(self.phone, "/keys/upload", {"one_time_keys": self.keys.one_time_keys("a")})
        answer = self.ask({"e2ee": ON}, answer["pos"])
        self.assertEqual({"signed_curve25519": 1}, answer["extensions"]["e2ee"]["device_one_time_keys_count"])
        self.device("bob", "DESK")
        answer = self.ask({"e2ee": ON}, answer["pos"])
        self.assertEqual({"changed": [BOB], "left": []}, answer["extensions"]["e2ee"]["device_lists"])
        answer = self.ask({"e2ee": ON}, answer["pos"])
        self.assertNotIn("device_lists", answer["extensions"]["e2ee"])
        self.ok(self.alice, f"/rooms/{room_id}/leave", {})
        answer = self.ask({"e2ee": ON}, answer["pos"])
        self.assertEqual([BOB], answer["extensions"]["e2ee"]["device_lists"]["left"])

    # --- account data, receipts, typing --------------------------------------------------------------

    def put(self, event_type: str, content: Any, room_id: str = "") -> None:
        where = f"/rooms/{room_id}" if room_id else ""
        path = f"{V3}/user/{ALICE}{where}/account_data/{event_type}"
        self.app.ok("PUT", path, content, self.alice)

    def test_account_data(self) -> None:
        seen, hidden = self.room_with(self.alice), self.room_with(self.alice)
        self.put("org.example.a", {"n": 1})
        self.put("org.example.b", {"n": 2}, seen)
        self.put("org.example.b", {"n": 3}, hidden)
        only: dict[str, Any] = {"room_subscriptions": {seen: {"timeline_limit": 1}}}
        answer = self.ask({"account_data": ON}, **only)
        found = answer["extensions"]["account_data"]
        self.assertLessEqual({"m.push_rules", "org.example.a"}, {one["type"] for one in found["global"]})
        self.assertEqual({seen: [{"type": "org.example.b", "content": {"n": 2}}]}, found["rooms"])
        answer = self.ask({"account_data": ON}, answer["pos"], **only)
        self.assertNotIn("account_data", answer["extensions"])
        self.put("org.example.b", {"n": 4}, seen)
        self.put("org.example.b", {"n": 5}, hidden)
        answer = self.ask({"account_data": ON}, answer["pos"], **only)
        found = answer["extensions"]["account_data"]
        self.assertEqual({"rooms": {seen: [{"type": "org.example.b", "content": {"n": 4}}]}}, found)
        # While nobody asked; then for a list, and not for what is subscribed to.
        self.put("org.example.a", {"n": 6})
        answer = self.ask({}, answer["pos"], **only)
        scope = {"account_data": {**ON, "lists": ["all"], "rooms": []}}
        answer = self.ask(scope, answer["pos"], lists=self.all_rooms())
        found = answer["extensions"]["account_data"]
        self.assertEqual([{"type": "org.example.a", "content": {"n": 6}}], found["global"])
        self.assertEqual({hidden: [{"type": "org.example.b", "content": {"n": 5}}]}, found["rooms"])

    def test_receipts(self) -> None:
        room_id = self.room_with(self.alice)
        old = self.say(room_id)
        self.ok(self.bob, f"/rooms/{room_id}/receipt/m.read/{old}", {})
        self.ok(self.alice, f"/rooms/{room_id}/receipt/m.read.private/{old}", {})
        last = [self.say(room_id) for _ in range(5)][-1]
        asked = {"receipts": ON}
        answer = self.ask(asked, lists=self.all_rooms())
        # One's own, wherever; of others those at what is shown.
        self.assertEqual({old: {"m.read.private"}}, self.receipts(answer, room_id, ALICE))
        self.assertEqual({}, self.receipts(answer, room_id, BOB))
        self.ok(self.bob, f"/rooms/{room_id}/receipt/m.read/{last}", {})
        answer = self.ask(asked, answer["pos"], lists=self.all_rooms())
        self.assertEqual({last: {"m.read"}}, self.receipts(answer, room_id, BOB))
        self.assertNotIn(room_id, answer["rooms"])
        self.ok(self.bob, f"/rooms/{room_id}/receipt/m.read.private/{self.say(room_id)}", {})
        answer = self.ask(asked, answer["pos"], lists=self.all_rooms())
        self.assertEqual({}, self.receipts(answer, room_id, BOB))

    def test_receipts_of_a_room_that_was_left(self) -> None:
        left, other = self.room_with(self.alice), self.room_with(self.alice)
        asked, narrow = {"receipts": ON}, {"all": {**self.all_rooms()["all"], "ranges": []}}
        answer = self.ask(asked, lists=self.all_rooms())
        for room_id in (left, other):
            self.ok(self.bob, f"/rooms/{room_id}/receipt/m.read/{self.say(room_id)}", {})
        answer = self.ask(asked, answer["pos"], lists=narrow)
        self.ok(self.alice, f"/rooms/{left}/leave", {})
        last = self.say(left)
        self.ok(self.bob, f"/rooms/{left}/receipt/m.read/{last}", {})
        answer = self.ask(asked, answer["pos"], lists=self.all_rooms())
        self.assertEqual("leave", answer["rooms"][left]["membership"])
        self.assertEqual([other], list(answer["extensions"]["receipts"]["rooms"]))
        # Nor where they ask for it by name.
        by_name: dict[str, Any] = {"room_subscriptions": {left: {"timeline_limit": 1, "required_state": []}}}
        answer = self.ask(asked, answer["pos"], **by_name)
        self.ok(self.bob, f"/rooms/{left}/receipt/m.read/{self.say(left)}", {})
        answer = self.ask(asked, answer["pos"], **by_name)
        self.assertNotIn("receipts", answer["extensions"])

    def receipts(self, answer: Any, room_id: str, user_id: str) -> dict[str, set[str]]:
        event = answer["extensions"].get("receipts", {}).get("rooms", {}).get(room_id, {"content": {}})
        found: dict[str, set[str]] = {}
        for event_id, kinds in event["content"].items():
            for kind, users in kinds.items():
                if user_id in users:
                    found.setdefault(event_id, set()).add(kind)
        return found

    def test_typing(self) -> None:
        room_id, other = self.room_with(self.alice), self.room_with()
        asked = {"typing": ON}
        answer = self.ask(asked, lists=self.all_rooms())
        self.assertNotIn("typing", answer["extensions"])
        body = {"conn_id": "", "extensions": asked, "lists": self.all_rooms()}
        waiting = self.app.start("POST", SLIDING, body, self.phone, {"pos": answer["pos"], "timeout": "9000"})
        for where in (other, room_id):
            self.app.ok(
                "PUT", f"{V3}/rooms/{where}/typing/{BOB}", {"typing": True, "timeout": 20_000}, self.bob
            )
        answer = self.app.wait(waiting).json
        event = {"type": "m.typing", "content": {"user_ids": [BOB]}}
        self.assertEqual({"rooms": {room_id: event}}, answer["extensions"]["typing"])
        fresh = self.ask(asked, conn_id="fresh", lists=self.all_rooms())
        self.assertEqual({"rooms": {room_id: event}}, fresh["extensions"]["typing"])
        self.app.advance(21)
        answer = self.ask(asked, answer["pos"], lists=self.all_rooms())
        typing = answer["extensions"].get("typing", {}).get("rooms", {}).get(room_id)
        self.assertIn(typing, (None, {"type": "m.typing", "content": {"user_ids": []}}))

    def test_who_stops_typing_out_of_sight(self) -> None:
        """A client would say for ever that they type; also where the server started again meanwhile."""
        for restart in (False, True):
            room_id = self.room_with(self.alice)
            asked, nothing = {"typing": ON}, {"all": {**self.all_rooms()["all"], "ranges": []}}
            pos = self.ask(asked, lists=self.all_rooms())["pos"]
            path = f"{V3}/rooms/{room_id}/typing/{BOB}"
            self.app.ok("PUT", path, {"typing": True, "timeout": 20_000}, self.bob)
            answer = self.ask(asked, pos, lists=self.all_rooms())
            self.assertEqual([BOB], self.typing(answer, room_id))
            body = {"conn_id": "", "extensions": asked, "lists": nothing}
            query = {"pos": answer["pos"], "timeout": "9000"}
            waiting = self.app.start("POST", SLIDING, body, self.phone, query)
            self.app.ok("PUT", path, {"typing": False}, self.bob)
            self.app.advance(1)
            self.assertFalse(waiting.called)  # what is not seen does not end a poll
            self.app.advance(10)
            answer = self.app.wait(waiting).json
            self.assertNotIn("typing", answer["extensions"])
            if restart:
                self.app.restart()
            lost, back = (self.ask(asked, answer["pos"], lists=self.all_rooms()) for _ in range(2))
            for one in (lost, back):
                self.assertEqual(([], {}), (self.typing(one, room_id), one["rooms"]))
            quiet = self.ask(asked, back["pos"], lists=self.all_rooms())
            self.assertNotIn("typing", quiet["extensions"])

    def test_who_typed_before_the_server_started_again(self) -> None:
        self.app.app.begin()
        room_id = self.room_with(self.alice)
        self.room_with(self.alice)
        asked = {"typing": ON}
        self.app.ok("PUT", f"{V3}/rooms/{room_id}/typing/{BOB}", {"typing": True}, self.bob)
        answer = self.ask(asked, lists=self.all_rooms())
        self.assertEqual([BOB], self.typing(answer, room_id))
        self.app.restart()
        answer = self.ask(asked, answer["pos"], lists=self.all_rooms())
        self.assertEqual([], self.typing(answer, room_id))
        self.assertEqual([room_id], list(answer["extensions"]["typing"]["rooms"]))
        self.assertNotIn("typing", self.ask(asked, answer["pos"], lists=self.all_rooms())["extensions"])

    def typing(self, answer: Any, room_id: str) -> Any:
        return answer["extensions"]["typing"]["rooms"][room_id]["content"]["user_ids"]

    def test_whoever_asks_is_there(self) -> None:
        self.room_with(self.alice)
        for presence, state in (("offline", "offline"), ("online", "online")):
            self.app.ok("POST", SLIDING, {}, self.phone, {"set_presence": presence})
            found = self.app.ok("GET", f"{V3}/presence/{ALICE}/status", None, self.bob)
            self.assertEqual(state, found["presence"])
