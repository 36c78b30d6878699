"""Presence. spec: client-server-api#presence"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from homeserver.config.schema import Switch
from homeserver.ephemeral import devices, waking
from homeserver.ephemeral import presence as module
from homeserver.ephemeral.presence import Presence
from homeserver.ephemeral.ticker import Ticker
from homeserver.store.members import Member
from homeserver.store.placement import Membership
from homeserver.stream.index import MembershipIndex
from tests.support.app import TestApp, test_config

V3 = "/_matrix/client/v3"
BUSY = "org.matrix.msc3026.busy"


class PresenceOfMembers(TestCase):
    def setUp(self) -> None:
        self.transactions = count()
        self.app = TestApp(self)
        self.alice, self.bob, self.carol = (self.app.register(name) for name in ("alice", "bob", "carol"))
        self.room_id = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)[
            "room_id"
        ]
        self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, self.bob)

    def sync(self, token: str, since: str | None = None, **query: str) -> Any:
        if since is not None:
            query["since"] = since
        return self.app.ok("GET", f"{V3}/sync", None, token, query or None)

    def told(self, answer: Any) -> dict[str, Any]:
        found = answer.get("presence", {}).get("events", [])
        return {one["sender"].split(":")[0][1:]: one["content"] for one in found}

    def get(self, token: str, name: str) -> Any:
        status, json = self.app.call("GET", f"{V3}/presence/@{name}:test.example/status", None, token)
        return json if status == 200 else (status, json["errcode"])

    def put(self, token: str, name: str, body: Any) -> Any:
        status, json = self.app.call("PUT", f"{V3}/presence/@{name}:test.example/status", body, token)
        return status if status == 200 else (status, json["errcode"])

    def test_by_syncing(self) -> None:
        self.assertEqual({"presence": "offline"}, self.get(self.alice, "bob"))
        since = self.sync(self.alice, set_presence="offline")["next_batch"]
        self.assertEqual({"presence": "offline"}, self.get(self.bob, "alice"))
        self.sync(self.bob)
        online = {"presence": "online", "last_active_ago": 0, "currently_active": True}
        self.assertEqual(online, self.get(self.alice, "bob"))
        answer = self.sync(self.alice, since, set_presence="offline")
        self.assertEqual({"bob": online}, self.told(answer))
        again = self.sync(self.alice, answer["next_batch"], set_presence="offline")
        self.assertEqual({}, self.told(again))
        self.assertEqual({"bob": online}, self.told(self.sync(self.alice, set_presence="offline")))
        self.assertEqual({}, self.told(self.sync(self.carol, set_presence="offline")))

    def set_field(self, field: str, value: str | None) -> None:
        path = f"{V3}/profile/@alice:test.example/{field}"
        if value is None:
            self.app.ok("DELETE", path, None, self.alice)
        else:
            self.app.ok("PUT", path, {field: value}, self.alice)

    def test_a_changed_profile_is_told(self) -> None:
        # spec: client-server-api#events-on-change-of-profile-information
        self.sync(self.alice)
        since = self.sync(self.bob, set_presence="offline")["next_batch"]
        online = {"presence": "online", "currently_active": True}
        for field, value, shown in (
            ("displayname", "Al", {"displayname": "Al"}),
            ("avatar_url", "mxc://a/b", {"displayname": "Al", "avatar_url": "mxc://a/b"}),
            ("m.tz", "Europe/Paris", None),
            ("displayname", None, {"avatar_url": "mxc://a/b"}),
        ):
            self.set_field(field, value)
            answer = self.sync(self.bob, since, set_presence="offline")
            since = answer["next_batch"]
            told = self.told(answer).get("alice")
            if told is not None:
                del told["last_active_ago"]
            self.assertEqual(None if shown is None else {**online, **shown}, told)
        # A stranger hears of nothing, and who asks for the presence is told that alone.
        self.assertEqual({}, self.told(self.sync(self.carol, set_presence="offline")))
        self.assertNotIn("avatar_url", self.get(self.bob, "alice"))

    def test_a_changed_profile_of_who_is_not_there(self) -> None:
        self.sync(self.alice, set_presence="offline")
        since = self.sync(self.bob, set_presence="offline")["next_batch"]
        self.set_field("displayname", "Al")
        self.assertEqual({}, self.told(self.sync(self.bob, since, set_presence="offline")))
        self.sync(self.alice)
        told = self.told(self.sync(self.bob, since, set_presence="offline"))
        self.assertEqual("Al", told["alice"]["displayname"])

    def test_a_sync_that_says_nothing_takes_nothing_back(self) -> None:
        """`set_presence=offline`: "the client is not marked as being online", and not "is marked as offline"."""
        for token in (self.alice, self.bob):
            self.sync(token, set_presence="offline")
        for state in ("online", "unavailable", BUSY):
            self.assertEqual(200, self.put(self.alice, "alice", {"presence": state}))
            self.sync(self.alice, set_presence="offline")
            self.assertEqual(state, self.get(self.bob, "alice")["presence"])
            self.app.advance(1)
            answer = self.sync(self.bob, set_presence="offline")
            self.assertEqual(state, self.told(answer)["alice"]["presence"])
        for _ in range(3):
            self.app.advance(30)
            self.sync(self.alice, set_presence="offline")
        self.assertEqual("offline", self.get(self.bob, "alice")["presence"])

    def test_who_goes_on_syncing_as_offline_hides(self) -> None:
        for state in ("online", BUSY):
            self.sync(self.alice)
            self.assertEqual(200, self.put(self.alice, "alice", {"presence": state}))
            self.sync(self.alice)
            self.assertEqual(state, self.get(self.bob, "alice")["presence"])
            self.sync(self.alice, set_presence="offline")
            self.assertEqual("offline", self.get(self.bob, "alice")["presence"])

    def test_who_comes_is_told_who_is_there_and_they_of_who_came(self) -> None:
        """Nobody's presence changes with it: each of them has been online for a while."""
        alice = self.sync(self.alice)["next_batch"]
        carol = self.sync(self.carol)["next_batch"]
        alice = self.sync(self.alice, alice)["next_batch"]
        self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, self.carol)
        to_carol, to_alice = self.sync(self.carol, carol), self.sync(self.alice, alice)
        self.assertEqual("online", self.told(to_carol)["alice"]["presence"])
        self.assertNotIn("bob", self.told(to_carol), "he is offline")
        self.assertEqual("online", self.told(to_alice)["carol"]["presence"])
        self.assertEqual({}, self.told(self.sync(self.carol, to_carol["next_batch"])))
        # Another name is no coming.
        alice = self.sync(self.alice, to_alice["next_batch"])["next_batch"]
        path = f"{V3}/rooms/{self.room_id}/state/m.room.member/@carol:test.example"
        self.app.ok("PUT", path, {"membership": "join", "displayname": "C"}, self.carol)
        self.assertEqual({}, self.told(self.sync(self.alice, alice)))

    def test_who_came_and_is_gone_again_hears_of_nobody_and_nobody_of_them(self) -> None:
        alice, carol = self.sync(self.alice)["next_batch"], self.sync(self.carol)["next_batch"]
        alice = self.sync(self.alice, alice)["next_batch"]
        for path, body, token in (
            ("leave", {}, self.carol),
            ("kick", {"user_id": "@carol:test.example"}, self.alice),
            ("ban", {"user_id": "@carol:test.example"}, self.alice),
        ):
            self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, self.carol)
            self.app.ok("POST", f"{V3}/rooms/{self.room_id}/{path}", body, token)
            to_carol, to_alice = self.sync(self.carol, carol), self.sync(self.alice, alice)
            self.assertEqual(({}, {}), (self.told(to_carol), self.told(to_alice)), path)
            self.assertEqual((403, "M_FORBIDDEN"), self.get(self.carol, "alice"))
            alice, carol = to_alice["next_batch"], to_carol["next_batch"]

    def test_who_came_went_and_came_back_is_told(self) -> None:
        alice, carol = self.sync(self.alice)["next_batch"], self.sync(self.carol)["next_batch"]
        for path in (f"join/{self.room_id}", f"rooms/{self.room_id}/leave", f"join/{self.room_id}"):
            self.app.ok("POST", f"{V3}/{path}", {}, self.carol)
        self.assertIn("alice", self.told(self.sync(self.carol, carol)))
        self.assertIn("carol", self.told(self.sync(self.alice, alice)))

    def test_ends_when_the_syncs_end(self) -> None:
        self.sync(self.bob)
        since = self.sync(self.alice, set_presence="offline")["next_batch"]
        self.app.advance(40)
        self.sync(self.bob)
        self.app.advance(40)
        self.assertEqual("online", self.get(self.alice, "bob")["presence"])
        for _ in range(12):
            self.app.advance(10)
        answer = self.told(self.sync(self.alice, since, set_presence="offline"))
        self.assertEqual("offline", answer["bob"]["presence"])
        self.assertEqual(200_000, answer["bob"]["last_active_ago"])

    def test_idle_and_back(self) -> None:
        since = self.sync(self.bob)["next_batch"]
        for _ in range(31):
            self.app.advance(10)
            since = self.sync(self.bob, since)["next_batch"]
        found = self.get(self.alice, "bob")
        self.assertEqual(("unavailable", False), (found["presence"], found["currently_active"]))
        path = f"{V3}/rooms/{self.room_id}/send/m.room.message/1"
        self.app.ok("PUT", path, {"msgtype": "m.text", "body": "back"}, self.bob)
        self.assertEqual("online", self.get(self.alice, "bob")["presence"])
        self.sync(self.bob, since, set_presence="unavailable")
        self.assertEqual("unavailable", self.get(self.alice, "bob")["presence"])

    def test_by_saying_so(self) -> None:
        since = self.sync(self.alice, set_presence="offline")["next_batch"]
        self.assertEqual(200, self.put(self.bob, "bob", {"presence": "unavailable", "status_msg": "lunch"}))
        found = {
            "presence": "unavailable",
            "status_msg": "lunch",
            "last_active_ago": 0,
            "currently_active": False,
        }
        self.assertEqual(found, self.get(self.alice, "bob"))
        # A sync alone does not overrule what was said.
        self.sync(self.bob)
        self.assertEqual({"bob": found}, self.told(self.sync(self.alice, since, set_presence="offline")))
        self.assertEqual(200, self.put(self.bob, "bob", {"presence": "online"}))
        self.assertNotIn("status_msg", self.get(self.alice, "bob"))
        self.assertEqual(200, self.put(self.bob, "bob", {"presence": "offline"}))
        self.assertEqual("offline", self.get(self.alice, "bob")["presence"])

    def test_busy(self) -> None:
        features = self.app.ok("GET", "/_matrix/client/versions")["unstable_features"]
        self.assertIs(True, features["org.matrix.msc3026.busy_presence"])
        since = self.sync(self.bob)["next_batch"]
        self.assertEqual(200, self.put(self.bob, "bob", {"presence": BUSY, "status_msg": "on a call"}))
        for _ in range(40):  # no idle timer, and what they do does not end it
            self.app.advance(10)
            since = self.sync(self.bob, since)["next_batch"]
        self.say_something(self.bob)
        found = self.get(self.alice, "bob")
        expected = (BUSY, True, "on a call")
        self.assertEqual(expected, (found["presence"], found["currently_active"], found["status_msg"]))
        self.assertEqual(200, self.put(self.bob, "bob", {"presence": "online"}))
        self.assertEqual("online", self.get(self.alice, "bob")["presence"])
        self.sync(self.bob, since, set_presence=BUSY)
        self.assertEqual(BUSY, self.get(self.alice, "bob")["presence"])
        self.sync(self.bob, since, set_presence="online")
        self.assertEqual("online", self.get(self.alice, "bob")["presence"])

    def test_the_most_present_device_counts(self) -> None:
        phone = self.log_in()
        for states, expected in (
            (("unavailable", "online"), "online"),
            (("unavailable", "unavailable"), "unavailable"),
            (("online", "unavailable"), "online"),
            ((BUSY, "online"), BUSY),
            (("offline", "unavailable"), "unavailable"),
            (("offline", "offline"), "offline"),
            (("online", "offline"), "online"),
        ):
            for token, state in zip((self.bob, phone), states, strict=True):
                self.sync(token, set_presence=state)
            self.assertEqual(expected, self.get(self.alice, "bob")["presence"], states)

    def test_who_hides_by_sync_is_not_given_away_by_what_they_do(self) -> None:
        self.sync(self.bob, set_presence="offline")
        self.say_something(self.bob)
        self.assertEqual("offline", self.get(self.alice, "bob")["presence"])

    def test_a_private_receipt_moves_nothing_and_one_for_all_does(self) -> None:
        # spec: client-server-api#private-read-receipts
        for state in ("offline", "unavailable"):
            self.sync(self.bob, set_presence=state)
            self.say_something(self.bob)
            self.sync(self.bob, set_presence=state)
            for path, kind in (("receipt/m.read.private", None), ("read_markers", "m.read.private")):
                event_id = self.say_something(self.alice)
                self.app.advance(20)
                body = {} if kind is None else {kind: event_id, "m.fully_read": event_id}
                path = f"{path}/{event_id}" if kind is None else path
                before = self.get(self.alice, "bob")
                self.app.ok("POST", f"{V3}/rooms/{self.room_id}/{path}", body, self.bob)
                self.assertEqual(before, self.get(self.alice, "bob"), path)
                self.assertEqual(state, before["presence"])
                self.assertLess(0, before["last_active_ago"])
            event_id = self.say_something(self.alice)
            self.app.ok("POST", f"{V3}/rooms/{self.room_id}/receipt/m.read/{event_id}", {}, self.bob)
            found = self.get(self.alice, "bob")
            seen = "offline" if state == "offline" else "online"
            self.assertEqual((seen, 0), (found["presence"], found["last_active_ago"]))

    def test_offline_by_saying_so_lasts_while_they_are_here(self) -> None:
        since = self.sync(self.bob)["next_batch"]
        self.assertEqual(200, self.put(self.bob, "bob", {"presence": "offline"}))
        for _ in range(10):
            self.app.advance(30)
            since = self.sync(self.bob, since)["next_batch"]
        self.say_something(self.bob)
        found = self.get(self.alice, "bob")
        self.assertEqual(("offline", 300_000), (found["presence"], found["last_active_ago"]))
        for _ in range(30):  # the last device goes
            self.app.advance(10)
        self.sync(self.bob, since)
        self.assertEqual("online", self.get(self.alice, "bob")["presence"])

    def test_appear_offline(self) -> None:
        since = self.sync(self.alice, set_presence="offline")["next_batch"]
        self.sync(self.bob)
        self.choose(enabled=True)
        phone = self.log_in()
        self.app.advance(30)
        self.sync(phone)
        self.say_something(phone)
        self.assertEqual(200, self.put(phone, "bob", {"presence": "online", "status_msg": "here"}))
        found = self.get(self.alice, "bob")
        expected = {"presence": "offline", "last_active_ago": 30_000, "status_msg": "here"}
        self.assertEqual(expected, found)
        answer = self.sync(self.alice, since, set_presence="offline")
        self.assertEqual({"bob": expected}, self.told(answer))
        self.choose(enabled=False)
        self.assertEqual("online", self.get(self.alice, "bob")["presence"])
        answer = self.sync(self.alice, answer["next_batch"], set_presence="offline")
        self.assertEqual("online", self.told(answer)["bob"]["presence"])

    def test_appear_offline_outlives_the_process(self) -> None:
        self.choose(enabled=True)
        self.app.restart()
        self.sync(self.bob)
        self.say_something(self.bob)
        self.assertEqual({"presence": "offline"}, self.get(self.alice, "bob"))

    def test_other_account_data_hides_nobody(self) -> None:
        wrong: list[Any] = [{"enabled": "yes"}, {"enabled": 1}, {}, {"enabled": None}]
        for content in wrong:
            path = f"{V3}/user/@bob:test.example/account_data/{module.APPEAR_OFFLINE}"
            self.app.ok("PUT", path, content, self.bob)
            self.sync(self.bob)
            self.assertEqual("online", self.get(self.alice, "bob")["presence"], content)

    def log_in(self) -> str:
        """Another device of bob's."""
        identifier = {"type": "m.id.user", "user": "bob"}
        body = {"type": "m.login.password", "identifier": identifier, "password": "correct horse"}
        token: str = self.app.ok("POST", f"{V3}/login", body)["access_token"]
        return token

    def choose(self, *, enabled: bool) -> None:
        path = f"{V3}/user/@bob:test.example/account_data/{module.APPEAR_OFFLINE}"
        self.app.ok("PUT", path, {"enabled": enabled}, self.bob)

    def say_something(self, token: str) -> str:
        path = f"{V3}/rooms/{self.room_id}/send/m.room.message/{next(self.transactions)}"
        event_id: str = self.app.ok("PUT", path, {"msgtype": "m.text", "body": "hello"}, token)["event_id"]
        return event_id

    def test_who_is_not_woken_is_told_when_their_time_is_up(self) -> None:
        self.patch(module, "WAKE_MEMBERS_MOST", 0)
        since = self.sync(self.alice, set_presence="offline")["next_batch"]
        query = {"since": since, "timeout": "30000", "set_presence": "offline"}
        waiting = self.app.start("GET", f"{V3}/sync", None, self.alice, query)
        self.put(self.bob, "bob", {"presence": "online"})
        self.app.advance(20)
        self.assertNoResult(waiting)
        self.app.advance(10)
        self.assertEqual(["bob"], list(self.told(self.app.wait(waiting).json)))

    def test_wakes_those_who_wait(self) -> None:
        since = self.sync(self.alice, set_presence="offline")["next_batch"]
        query = {"since": since, "timeout": "30000", "set_presence": "offline"}
        waiting = self.app.start("GET", f"{V3}/sync", None, self.alice, query)
        self.put(self.bob, "bob", {"presence": "online"})
        self.app.advance(0.5)
        self.assertNoResult(waiting)
        self.app.advance(module.WAKE_S)
        self.assertIn("bob", self.told(self.app.wait(waiting).json))

    def test_refusals(self) -> None:
        self.assertEqual((403, "M_FORBIDDEN"), self.get(self.carol, "alice"))
        self.assertEqual((403, "M_FORBIDDEN"), self.get(self.carol, "nobody"))
        self.assertEqual({"presence": "offline"}, self.get(self.carol, "carol"))
        self.assertEqual((403, "M_FORBIDDEN"), self.put(self.alice, "bob", {"presence": "online"}))
        wrong: list[Any] = [{}, {"presence": "dancing"}, {"presence": "online", "status_msg": 1}, []]
        for body in wrong:
            self.assertEqual((400, "M_BAD_JSON"), self.put(self.alice, "alice", body), body)
        long = {"presence": "online", "status_msg": "x" * 2_000}
        self.assertEqual((400, "M_INVALID_PARAM"), self.put(self.alice, "alice", long))
        self.assertEqual(200, self.put(self.alice, "alice", {"presence": "online", "status_msg": None}))


class SwitchedOff(TestCase):
    def test_nothing_is_shown(self) -> None:
        config = test_config(presence=Switch(enabled=False), data_dir=Path(self.mktemp()))
        app = TestApp(self, config=config)
        alice = app.register("alice")
        path = f"{V3}/presence/@alice:test.example/status"
        self.assertEqual((200, {}), app.call("PUT", path, {"presence": "online"}, alice))
        status, json = app.call("GET", path, None, alice)
        self.assertEqual((404, "M_NOT_FOUND"), (status, json["errcode"]))
        self.assertNotIn("presence", app.ok("GET", f"{V3}/sync", None, alice))


class Alone(TestCase):
    """The domain class, without a server around it."""

    def make(self, members: int, rooms: int = 1) -> None:
        self.app = TestApp(self)
        found = [
            Member(1_000_000 + room, nid, Membership.JOIN, 1, 1, False)
            for room in range(rooms)
            for nid in range(1, members + 1)
        ]
        self.woken: list[list[int]] = []
        self.presence = Presence(
            self.app.app.core.around.clock,
            Ticker(),
            MembershipIndex(found, {}),
            lambda users: self.woken.append(list(users)),
        )
        self.addCleanup(self.presence.close)

    def test_many_at_once_wake_once(self) -> None:
        self.make(50)
        for nid in range(1, 51):
            self.presence.synced(nid, f"@{nid}:x", nid, "online")
        self.app.advance(module.WAKE_S)
        self.assertEqual([list(range(1, 51))], self.woken)
        for nid in range(1, 51):
            self.presence.acted(nid, f"@{nid}:x")
            self.presence.synced(nid, f"@{nid}:x", nid, "online")
        self.app.advance(module.WAKE_S)
        self.assertEqual((1, 50), (len(self.woken), self.presence.counter))

    def test_large_rooms_are_not_woken(self) -> None:
        self.make(module.WAKE_MEMBERS_MOST + 1)
        self.presence.acted(7, "@7:x")
        self.app.advance(module.WAKE_S)
        self.assertEqual([[7]], self.woken)
        self.assertEqual(["@7:x"], [one["sender"] for one in self.presence.changes_for(1, 0)])

    def test_memory_is_bounded(self) -> None:
        self.make(5)
        self.patch(module, "USERS_MOST", 3)
        for nid in (1, 2, 3):
            self.presence.put(nid, f"@{nid}:x", "offline" if nid == 2 else "online", "here")
        self.presence.put(4, "@4:x", "online", None)
        self.assertEqual(["@1:x", "@3:x", "@4:x"], [one["sender"] for one in self.presence.changes_for(5, 0)])
        self.patch(devices, "SESSIONS_MOST", 2)
        for device_nid in range(10):
            self.presence.synced(1, "@1:x", device_nid, "online")
        self.assertEqual(2, len(self.presence._users[1].sessions))

    def test_of_one_user_only_the_newest_change(self) -> None:
        self.make(2)
        for number in range(5):
            self.presence.put(1, "@1:x", "online", str(number))
        self.assertEqual(["4"], [one["content"]["status_msg"] for one in self.presence.changes_for(2, 0)])
        self.assertEqual([], self.presence.changes_for(2, 5))

    def test_memory_of_those_nobody_was_told_of_ends(self) -> None:
        self.make(2)
        self.presence.synced(1, "@1:x", 1, "offline")
        self.assertEqual(1, len(self.presence._users))
        for _ in range(30):
            self.app.advance(10)
        self.assertEqual(0, len(self.presence._users))

    def test_nobody_is_shown_before_it_is_known_whether_they_hide(self) -> None:
        self.make(2)
        asked: list[int] = []
        self.presence.ask_choice = asked.append
        self.presence.synced(1, "@1:x", 1, "online")
        self.presence.acted(1, "@1:x")
        self.assertEqual((False, [1]), (self.presence.is_present(1), asked))
        self.presence.answer_choice(1, None)  # the database is away
        self.presence.synced(1, "@1:x", 1, "online")
        self.assertEqual((False, [1, 1]), (self.presence.is_present(1), asked))
        self.presence.choose(1, hides=True)
        self.presence.answer_choice(1, False)  # of before they chose
        self.assertEqual({"presence": "offline"}, self.presence.describe(1))
        self.assertFalse(self.presence.changed(2, 0))
        self.presence.synced(2, "@2:x", 2, "online")
        self.presence.answer_choice(2, False)
        self.assertTrue(self.presence.is_present(2))
        self.assertTrue(self.presence.changed(1, 0))


class AFewAtATime(TestCase):
    def test_wakes_in_rounds(self) -> None:
        app = TestApp(self)
        self.patch(waking, "AT_ONCE", 3)
        self.patch(waking, "QUEUED_MOST", 7)
        woken: list[list[int]] = []
        away = {2, 5}
        wake = waking.Waking(
            app.app.core.around.clock, lambda nids: woken.append(list(nids)), lambda nid: nid not in away
        )
        self.addCleanup(wake.close)
        wake([9, 1, 2, 3, 4, 5, 6, 7, 8])
        self.assertEqual([[9, 1, 3]], woken)
        away.add(4)  # has got their answer meanwhile
        wake([10, 6, 11])
        app.advance(waking.ROUND_S)
        self.assertEqual([[9, 1, 3], [6, 7, 8]], woken)
        app.advance(waking.ROUND_S)
        app.advance(waking.ROUND_S)
        self.assertEqual([10, 11], woken[2])
        wake([12])
        self.assertEqual([[12]], woken[3:])
