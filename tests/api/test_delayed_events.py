"""Events that are sent later. spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4140"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred, ensureDeferred

from homeserver.config.schema import DelayedEvents
from homeserver.db.errors import DatabaseUnavailable
from homeserver.store import delayed as store
from homeserver.store.users import set_standing
from homeserver.stream.chores import standard_chores
from tests.api.talk import TalkCase, user
from tests.support.app import TestApp, test_config
from tests.support.databases import SQLITE, on_each_database

PREFIX = "/_matrix/client/unstable/org.matrix.msc4140"
DELAY = "org.matrix.msc4140.delay"
MEMBER = "org.matrix.msc3401.call.member"
DAY_MS = 86_400_000
DELAY_ID = "org.matrix.msc4140.delay_id"


def _delay_ids(events: Sequence[Any]) -> dict[str, str]:
    return {
        event["content"]["body"]: event["unsigned"][DELAY_ID]
        for event in events
        if DELAY_ID in event["unsigned"]
    }


class DelayedCase(TalkCase):
    """Alice schedules events."""

    limits = DelayedEvents()

    def setUp(self) -> None:
        config = test_config(data_dir=Path(self.mktemp()), delayed_events=self.limits)
        database = "sqlite::memory:" if self.dialect == SQLITE else self.new_database()
        self.app = TestApp(self, database, config)
        self.tokens: dict[str, str] = {}
        self._rooms = 0
        self._texts = 0
        for name in ("alice", "bob"):
            self.add(name)
        self.room_id = self.make_room(joined=("bob",))

    def later(
        self,
        delay_ms: Any = 10_000,
        body: str = "later",
        txn: str | None = None,
        name: str = "alice",
        room_id: str | None = None,
        **query: str,
    ) -> tuple[int, Any]:
        """Schedule a message as Element Call does."""
        self._texts += 1
        path = self.path(room_id or self.room_id, "send", "m.room.message", txn or f"t{self._texts}")
        return self.app.call(
            "PUT",
            path,
            {"msgtype": "m.text", "body": body},
            self.tokens[name],
            {DELAY: str(delay_ms), **query},
        )

    def scheduled(self, *args: Any, **more: Any) -> str:
        status, json = self.later(*args, **more)
        self.assertEqual((200, ["delay_id"]), (status, list(json)), json)
        delay_id: str = json["delay_id"]
        return delay_id

    def act(self, action: str, delay_id: str, token: str | None = None) -> tuple[int, Any]:
        return self.app.call(
            "POST", f"{PREFIX}/delayed_events/{quote(delay_id, safe='')}/{action}", {}, token
        )

    def look(self, delay_id: str, name: str = "alice") -> Any:
        status, json = self.get(name, f"{PREFIX}/delayed_events/{delay_id}")
        self.assertEqual(200, status, json)
        return json

    def said(self) -> list[str]:
        """What was said in the room, oldest first."""
        return self.bodies(self.page("bob", self.room_id, dir="f", limit=100)["chunk"])

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and all end that began."""
        self.app.advance(seconds)
        for _ in range(20):
            self.app.advance(0)


@on_each_database
class Scheduling(DelayedCase):
    """What becomes of them."""

    def test_sent_when_it_is_time(self) -> None:
        delay_id = self.scheduled(10_000)
        waiting = self.look(delay_id)
        since = int(self.app.time.rightNow * 1000)
        self.assertEqual((10_000, since), (waiting["delay_ms"], waiting["delayed_since_ts"]))
        self.assertEqual((10_000, since), (waiting["delay"], waiting["running_since"]))
        self.assertEqual(
            (self.room_id, "m.room.message", {"msgtype": "m.text", "body": "later"}),
            (waiting["room_id"], waiting["type"], waiting["content"]),
        )
        self.assertFalse({"finalised", "finalised_ts", "event_id", "error", "state_key"} & waiting.keys())
        self.pass_time(9.9)
        self.assertEqual([], self.said())
        self.pass_time(0.2)
        self.assertEqual(["later"], self.said())
        ended = self.look(delay_id)
        end = ended["finalised"]
        self.assertEqual(end, {name: ended[name] for name in end})
        event = self.ok("bob", self.path(self.room_id, "event", end["event_id"]))
        self.assertEqual((user("alice"), "later"), (event["sender"], event["content"]["body"]))
        self.assertEqual(int(self.app.time.rightNow * 1000), event["origin_server_ts"])
        self.assertEqual(["event_id", "finalised_ts"], sorted(end))
        self.pass_time(100)
        self.assertEqual(["later"], self.said())

    def test_transaction_ids_are_bounded(self) -> None:
        """They are kept in an index, whose rows are."""
        longest = "\N{SPARKLES}" * 85  # three bytes each
        self.scheduled(txn=longest)
        path = f"{PREFIX}/rooms/{quote(self.room_id)}/delayed_event/m.room.message/{quote(longest + 'x')}"
        body = {"delay_ms": 1_000, "content": {"msgtype": "m.text", "body": "later"}}
        for answer in (
            self.later(txn=longest + "x"),
            self.app.call("PUT", path, body, self.tokens["alice"]),
        ):
            self.assert_refused(answer, 400, "M_INVALID_PARAM")

    def test_its_sender_knows_it_again(self) -> None:
        """By the id that it had, on all of their devices; and nobody else does."""
        member = self.scheduled(1_000, "a message")
        path = self.path(self.room_id, "state", "org.example.state", "")
        state = self.app.ok("PUT", path, {"body": "a state"}, self.tokens["alice"], {DELAY: "2000"})[
            "delay_id"
        ]
        phone = self.app.ok(
            "POST",
            "/_matrix/client/v3/login",
            {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": "alice"},
                "password": "correct horse",
            },
        )["access_token"]
        tokens = (self.tokens["alice"], phone, self.tokens["bob"])
        since = {token: self.look_at(token)[0] for token in tokens}
        history = self.path(self.room_id, "messages")
        # Read before: what is sent from then on must be known as well.
        for token in tokens:
            self.app.ok("GET", history, None, token, {"dir": "b"})
        self.pass_time(1.5)
        self.pass_time(1.5)
        self.say("alice", self.room_id, "at once")
        expected = {"a message": member, "a state": state}
        for restarted in (False, True):
            if restarted:
                self.app.restart()
            for token, ids in zip(tokens, (expected, expected, {}), strict=True):
                self.assertEqual(ids, self.look_at(token, since[token])[1])
                self.assertEqual(ids, self.look_at(token)[1])
                page = self.app.ok("GET", history, None, token, {"dir": "b", "limit": "3"})["chunk"]
                self.assertEqual(ids, _delay_ids(page))
                one = self.app.ok("GET", self.path(self.room_id, "event", page[1]["event_id"]), None, token)
                self.assertEqual(ids.get("a state"), one["unsigned"].get(DELAY_ID))

    def look_at(self, token: str, since: str | None = None) -> tuple[str, dict[str, str]]:
        """The position, and by what the reader knows the events of the room."""
        answer = self.app.ok("GET", "/_matrix/client/v3/sync", None, token, {"since": since} if since else {})
        return answer["next_batch"], _delay_ids(answer["rooms"]["join"][self.room_id]["timeline"]["events"])

    def test_in_the_order_of_their_times(self) -> None:
        for seconds in (5, 1, 9, 3, 7):
            self.scheduled(seconds * 1000, str(seconds))
        listed = self.ok("alice", f"{PREFIX}/delayed_events")["delayed_events"]
        self.assertEqual(["1", "3", "5", "7", "9"], [one["content"]["body"] for one in listed])
        for _ in range(10):
            self.pass_time(1)
        self.assertEqual(["1", "3", "5", "7", "9"], self.said())
        self.assertEqual([], self.ok("alice", f"{PREFIX}/delayed_events")["delayed_events"])

    def test_many_at_once(self) -> None:
        for number in range(60):
            self.scheduled(1000 + number % 3, str(number))
        self.pass_time(2)
        self.assertEqual({str(number) for number in range(60)}, set(self.said()))
        self.assertEqual(60, len(self.said()))

    def test_state(self) -> None:
        room_id = self.make_room(levels={"events": {MEMBER: 0}}, joined=("bob",))
        path = self.path(room_id, "state", MEMBER, "_bob_DEVICE")
        joined, gone = {"application": "m.call"}, {"leave_reason": "lost"}
        answer = self.app.ok("PUT", path, gone, self.tokens["bob"], {DELAY: "8000"})
        # As Element Call does it: the end is scheduled first, and what comes after does not take it back.
        self.app.ok("PUT", path, joined, self.tokens["bob"])
        for _ in range(4):
            self.pass_time(5)
            self.assertEqual((200, {}), self.act("restart", answer["delay_id"], self.tokens["bob"]))
        self.assertEqual(joined, self.ok("alice", path))
        waiting = self.look(answer["delay_id"], "bob")
        self.assertEqual("_bob_DEVICE", waiting["state_key"])
        self.pass_time(8)
        self.assertEqual(gone, self.ok("alice", path))

    def test_membership(self) -> None:
        path = self.path(self.room_id, "state", "m.room.member", user("bob"))
        answer = self.app.ok("PUT", path, {"membership": "leave"}, self.tokens["bob"], {DELAY: "1000"})
        self.pass_time(1)
        self.assertEqual("leave", self.ok("alice", path)["membership"])
        self.assertIn("event_id", self.look(answer["delay_id"], "bob")["finalised"])

    def test_redaction(self) -> None:
        event_id = self.say("alice", self.room_id, "burn after reading")
        path = self.path(self.room_id, "send", "m.room.redaction", "t")
        self.app.ok("PUT", path, {"redacts": event_id}, self.tokens["alice"], {DELAY: "60000"})
        self.pass_time(61)
        self.assertEqual({}, self.ok("bob", self.path(self.room_id, "event", event_id))["content"])

    def test_the_endpoint_of_its_own(self) -> None:
        path = f"{PREFIX}/rooms/{quote(self.room_id)}/delayed_event"
        for number, name in enumerate(("delay_ms", "delay")):
            content = {"msgtype": "m.text", "body": name}
            body = {name: 5000, "content": content}
            first = self.app.ok("PUT", f"{path}/m.room.message/t{number}", body, self.tokens["alice"])
            again = self.app.ok("PUT", f"{path}/m.room.message/t{number}", body, self.tokens["alice"])
            self.assertEqual(first, again)
        state = {"delay_ms": 5000, "state_key": "", "content": {"name": "new"}}
        self.app.ok("PUT", f"{path}/m.room.name/t", state, self.tokens["alice"])
        self.pass_time(5)
        self.assertEqual(["delay", "delay_ms"], sorted(self.said()))
        self.assertEqual({"name": "new"}, self.ok("bob", self.path(self.room_id, "state", "m.room.name")))

    def test_a_retry_schedules_nothing_more(self) -> None:
        first = self.scheduled(5000, "a", "same")
        self.assertEqual(first, self.scheduled(9000, "b", "same"))
        self.app.restart()
        self.assertEqual(first, self.scheduled(9000, "b", "same"))
        self.assertNotEqual(first, self.scheduled(5000, "c", "same", room_id=self.make_room()))
        self.assertNotEqual(first, self.scheduled(5000, "d", "same", name="bob"))
        self.pass_time(10)
        self.assertEqual(["a", "d"], sorted(self.said()))
        self.assertEqual(first, self.scheduled(9000, "b", "same"))

    # --- managing ------------------------------------------------------------------------------------

    def test_restart(self) -> None:
        delay_id = self.scheduled(8000)
        for _ in range(5):
            self.pass_time(5)
            self.assertEqual((200, {}), self.act("restart", delay_id))
        self.assertEqual([], self.said())
        self.assertEqual(int(self.app.time.rightNow * 1000), self.look(delay_id)["delayed_since_ts"])
        self.pass_time(8)
        self.assertEqual(["later"], self.said())

    def test_cancel(self) -> None:
        delay_id = self.scheduled()
        for _ in range(2):
            self.assertEqual((200, {}), self.act("cancel", delay_id))
        self.assertEqual(["finalised_ts"], list(self.look(delay_id)["finalised"]))
        self.pass_time(100)
        self.assertEqual([], self.said())
        for action in ("send", "restart"):
            self.assert_refused(self.act(action, delay_id), 404, "M_NOT_FOUND")

    def test_send(self) -> None:
        delay_id = self.scheduled()
        for _ in range(2):
            self.assertEqual((200, {}), self.act("send", delay_id))
        self.assertEqual(["later"], self.said())
        for action in ("cancel", "restart"):
            self.assert_refused(self.act(action, delay_id), 404, "M_NOT_FOUND")
        self.pass_time(100)
        self.assertEqual(["later"], self.said())

    def test_back_in_a_call_that_one_was_dropped_from(self) -> None:
        """A client that was away finds its leaving sent: M_NOT_FOUND, and only that, makes it join again."""
        delay_id = self.scheduled(8000)
        self.pass_time(8)
        self.assertEqual(["later"], self.said())
        for action in ("restart", "cancel"):
            self.assert_refused(self.act(action, delay_id), 404, "M_NOT_FOUND")
        self.assertIn("event_id", self.look(delay_id)["finalised"])
        self.assertEqual((200, {}), self.act("send", delay_id))

    def test_everything_at_the_same_time(self) -> None:
        delay_id = self.scheduled(1000)
        self.app.time.advance(0.999)
        paths = [f"{PREFIX}/delayed_events/{delay_id}/{one}" for one in ("send", "cancel", "restart", "send")]
        calls = [self.app.start("POST", path, {}) for path in paths]
        self.app.time.advance(0.001)
        statuses = [self.app.wait(call).status for call in calls]
        self.assertEqual([200, 404, 404, 200], statuses)
        self.pass_time(10)
        self.assertEqual(["later"], self.said())

    def test_no_token_is_needed_and_a_wrong_one_refused(self) -> None:
        delay_id = self.scheduled()
        self.assertEqual((200, {}), self.act("restart", delay_id, self.tokens["bob"]))
        self.assertEqual(401, self.act("restart", delay_id, "wrong")[0])
        self.assertEqual((200, {}), self.act("cancel", delay_id))

    def test_the_action_in_the_body(self) -> None:
        delay_id = self.scheduled()
        path = f"{PREFIX}/delayed_events/{delay_id}"
        self.assertEqual((200, {}), self.app.call("POST", path, {"action": "restart"}))
        self.assertEqual((200, {}), self.app.call("POST", path, {"action": "send"}, self.tokens["alice"]))
        self.assertEqual(["later"], self.said())
        for body in ({"action": "explode"}, {}, {"action": 1}):
            self.assert_refused(self.app.call("POST", path, body), 400, "M_BAD_JSON")

    def test_unknown(self) -> None:
        for delay_id in ("none", "x" * 1000, "ä/b"):
            for action in ("send", "cancel", "restart"):
                self.assert_refused(self.act(action, delay_id), 404, "M_NOT_FOUND")
        path = f"{PREFIX}/delayed_events/none"
        self.assert_refused(self.get("alice", path), 404, "M_NOT_FOUND")
        self.assert_refused(self.act("explode", self.scheduled()), 404, "M_UNRECOGNIZED")

    def test_ones_own_alone(self) -> None:
        delay_id = self.scheduled()
        path = f"{PREFIX}/delayed_events/{delay_id}"
        self.assert_refused(self.get("bob", path), 404, "M_NOT_FOUND")
        self.assertEqual(401, self.app.call("GET", path)[0])
        self.assertEqual([], self.ok("bob", f"{PREFIX}/delayed_events")["delayed_events"])

    # --- what cannot be ------------------------------------------------------------------------------

    def test_whether_one_may_is_decided_at_the_end(self) -> None:
        delay_id = self.scheduled(1000, name="bob")
        other_id = self.scheduled(DAY_MS, name="bob")
        self.leave("bob", self.room_id)
        self.pass_time(1)
        # By hand it is only tried: what stood in the way may be gone when it is time.
        self.assert_refused(self.act("send", other_id), 403, "M_FORBIDDEN")
        self.assertNotIn("finalised", self.look(other_id, "bob"))
        self.pass_time(DAY_MS / 1000)
        for one in (delay_id, other_id):
            end = self.look(one, "bob")["finalised"]
            self.assertEqual("M_FORBIDDEN", end["error"]["errcode"])
            self.assertNotIn("event_id", end)
            self.assertEqual((200, {}), self.act("cancel", one))
            self.assert_refused(self.act("send", one), 404, "M_NOT_FOUND")
        self.assertEqual([], self.bodies(self.page("alice", self.room_id)["chunk"]))

    def test_sent_by_hand_at_the_second_attempt(self) -> None:
        delay_id = self.scheduled(name="bob")
        self.leave("bob", self.room_id)
        self.assert_refused(self.act("send", delay_id), 403, "M_FORBIDDEN")
        self.join("bob", self.room_id)
        self.assertEqual((200, {}), self.act("send", delay_id))
        self.assertEqual(["later"], self.said())

    def test_refused_at_once(self) -> None:
        room_id = self.make_room()
        self.assert_refused(self.later(name="bob", room_id=room_id), 403, "M_FORBIDDEN")
        self.assert_refused(self.later(room_id="!none:test.example"), 403, "M_FORBIDDEN")
        for delay_ms in ("x", "-1", "1.5", "", "9" * 30):
            self.assert_refused(self.later(delay_ms), 400, "M_INVALID_PARAM")
        status, json = self.later(DAY_MS + 1)
        self.assertEqual((400, "M_UNKNOWN"), (status, json["errcode"]))
        self.assertEqual("M_MAX_DELAY_EXCEEDED", json["org.matrix.msc4140.errcode"])
        self.assertEqual(DAY_MS, json["org.matrix.msc4140.max_delay"])
        path = self.path(self.room_id, "send", "m.room.message", "t")
        query = {DELAY: "1000"}
        bad: Sequence[tuple[Any, int, str]] = (
            (b"{", 400, "M_NOT_JSON"),
            (b"[]", 400, "M_BAD_JSON"),
            ({"body": "of no sort"}, 400, "M_BAD_JSON"),
            ({"msgtype": "m.text", "body": "x" * 70_000}, 413, "M_TOO_LARGE"),
        )
        for body, status, errcode in bad:
            answer = self.app.call("PUT", path, body, self.tokens["alice"], query)
            self.assert_refused(answer, status, errcode)
        long_path = self.path(self.room_id, "state", "m.x", "k" * 256)
        self.assert_refused(
            self.app.call("PUT", long_path, {}, self.tokens["alice"], query), 413, "M_TOO_LARGE"
        )
        own = f"{PREFIX}/rooms/{quote(self.room_id)}/delayed_event/m.x/t"
        for body, errcode in (
            ({"content": {}}, "M_MISSING_PARAM"),
            ({"delay_ms": 1}, "M_BAD_JSON"),
            ({"delay_ms": "1", "content": {}}, "M_BAD_JSON"),
            ({"delay_ms": -1, "content": {}}, "M_INVALID_PARAM"),
            ({"delay_ms": 0, "content": {}}, "M_INVALID_PARAM"),
            ({"delay_ms": 1, "content": []}, "M_BAD_JSON"),
            ({"delay_ms": 1, "content": {}, "state_key": "a\0b"}, "M_INVALID_PARAM"),
        ):
            self.assert_refused(self.app.call("PUT", own, body, self.tokens["alice"]), 400, errcode)
        body = {"delay_ms": DAY_MS + 1, "content": {}}
        self.assert_refused(self.app.call("PUT", own, body, self.tokens["alice"]), 403, "M_FORBIDDEN")
        self.assertEqual([], self.ok("alice", f"{PREFIX}/delayed_events")["delayed_events"])
        self.assertEqual(401, self.app.call("PUT", path, {}, None, query)[0])

    def test_what_only_the_room_refuses(self) -> None:
        # Numbers that no room of this version takes; a NUL, which is escaped wherever it is kept.
        path = self.path(self.room_id, "send", "m.x", "large")
        refused = self.app.ok("PUT", path, {"n": 2**60}, self.tokens["alice"], {DELAY: "10"})["delay_id"]
        delay_id = self.scheduled(10, "a\0b")
        self.pass_time(1)
        self.assertEqual(["a\0b"], self.said())
        self.assertEqual("M_BAD_JSON", self.look(refused)["finalised"]["error"]["errcode"])
        self.assertIn("event_id", self.look(delay_id)["finalised"])

    def test_a_deactivated_account_says_nothing_more(self) -> None:
        delay_id = self.scheduled(5000, name="bob")
        auth = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "bob"},
            "password": "correct horse",
        }
        self.app.ok("POST", "/_matrix/client/v3/account/deactivate", {"auth": auth}, self.tokens["bob"])
        # Nor is it kept.
        self.assertIsNone(self.app.wait(self.app.database.read(store.find_delayed, delay_id)))
        self.assert_refused(self.act("cancel", delay_id), 404, "M_NOT_FOUND")
        self.pass_time(6)
        self.assertEqual([], self.bodies(self.page("alice", self.room_id)["chunk"]))

    def test_a_suspended_account_may_take_back(self) -> None:
        delay_ids = [self.scheduled(5000, name="bob") for _ in range(2)]
        core, token = self.app.app.core, self.tokens["bob"]
        user_nid = self.app.wait(Deferred.fromCoroutine(core.interner.user(user("bob"))))
        self.app.wait(core.committer.work(set_standing, user_nid, suspended=True, locked=None))
        self.assert_refused(self.act("send", delay_ids[0], token), 403, "M_USER_SUSPENDED")
        self.assertEqual((200, {}), self.act("restart", delay_ids[0], token))
        self.assertEqual((200, {}), self.act("cancel", delay_ids[1], token))

    def test_a_locked_account_says_nothing_more(self) -> None:
        delay_ids = [self.scheduled(5000, name="bob"), self.scheduled(60_000, name="bob")]
        core = self.app.app.core
        user_nid = self.app.wait(Deferred.fromCoroutine(core.interner.user(user("bob"))))
        self.app.wait(core.committer.work(set_standing, user_nid, suspended=None, locked=True))
        self.pass_time(6)
        self.assert_refused(self.act("send", delay_ids[1]), 401, "M_USER_LOCKED")
        self.assertEqual([], self.bodies(self.page("alice", self.room_id)["chunk"]))

    def test_advertised(self) -> None:
        features = self.app.ok("GET", "/_matrix/client/versions")["unstable_features"]
        self.assertTrue(features["org.matrix.msc4140"])
        can = self.ok("alice", "/_matrix/client/v3/capabilities")["capabilities"]
        self.assertEqual(
            {"max_delay_ms": DAY_MS, "max_scheduled": 100}, can["org.matrix.msc4140.delayed_events"]
        )


@on_each_database
class Surviving(DelayedCase):
    """Exactly once, whatever happens."""

    def test_what_is_due_while_nobody_is_there(self) -> None:
        ids = [self.scheduled(seconds * 1000, str(seconds)) for seconds in (1, 2, 60)]
        self.wait(self.app.app.stop())
        self.app.time.advance(30)
        self.app.restart()
        self.app.app.begin()
        self.pass_time(self.limits.grace_s)
        self.assertEqual(["1", "2"], self.said())
        self.assertNotIn("finalised", self.look(ids[2]))
        self.pass_time(21)
        self.assertEqual(["1", "2", "60"], self.said())

    def test_clients_may_renew_what_was_due_while_nobody_was_there(self) -> None:
        """Who is in a call renews the event that ends it every few seconds, and could not while the server was away."""
        renewed, sent, _ = (self.scheduled(8_000, body) for body in ("renewed", "sent", "not renewed"))
        self.wait(self.app.app.stop())
        self.app.time.advance(30)
        self.app.restart()
        self.app.app.begin()
        self.pass_time(self.limits.grace_s - 1)
        self.assertEqual([], self.said())
        self.assertEqual((200, {}), self.act("restart", renewed))
        self.assertEqual((200, {}), self.act("send", sent))
        self.assertEqual(["sent"], self.said())
        self.scheduled(500, "new")
        self.pass_time(1)
        self.assertEqual(["new", "not renewed", "sent"], sorted(self.said()))
        self.pass_time(7)
        self.assertEqual(["new", "not renewed", "renewed", "sent"], sorted(self.said()))

    def test_a_failed_commit_leaves_neither_the_event_nor_its_end(self) -> None:
        delay_id = self.scheduled(1000)

        def fail(sql: str) -> None:
            if sql.startswith("UPDATE delayed_events"):
                raise DatabaseUnavailable("the disk is full")

        self.app.engine.hook = fail
        self.pass_time(1)
        self.pass_time(5)
        self.app.engine.hook = None
        self.assertEqual([], self.said())
        self.assertNotIn("finalised", self.look(delay_id))
        self.pass_time(6)
        self.assertEqual(["later"], self.said())

    def test_a_commit_of_which_nobody_knows_whether_it_was(self) -> None:
        delay_id = self.scheduled(1000)
        self.pass_time(1)
        self.assertEqual(["later"], self.said())
        # Another look at the same row finds that it has ended.
        found = self.app.wait(self.app.database.read(store.find_delayed, delay_id))
        assert found is not None
        delayed = self.app.app.services.unattended.delayed
        self.wait(delayed._send(found._replace(ended_ts_ms=None, due_ts_ms=0)))
        self.assertEqual(["later"], self.said())

    def test_two_processes_on_one_database(self) -> None:
        self.scheduled(1000)
        first, http = self.app.app, self.app.http
        first.begin()
        second = self.app._build()
        second.begin()
        self.pass_time(1)
        self.pass_time(6)
        self.wait(second.stop())
        self.app.app, self.app.http = first, http
        self.assertEqual(["later"], self.said())


@on_each_database
class Bounds(DelayedCase):
    """So many for each user, so long."""

    limits = DelayedEvents(max_delay_s=60, max_scheduled=3)

    def test_so_many(self) -> None:
        ids = [self.scheduled(seconds * 1000) for seconds in (30, 10, 20)]
        status, json = self.later()
        self.assertEqual((429, "M_LIMIT_EXCEEDED"), (status, json["errcode"]))
        self.assertEqual(10_000, json["retry_after_ms"])
        self.assertEqual(200, self.later(name="bob")[0])
        self.assertEqual((200, {}), self.act("cancel", ids[0]))
        self.assertEqual(200, self.later()[0])
        self.assertEqual(429, self.later()[0])
        self.pass_time(11)
        self.assertEqual(200, self.later()[0])

    def test_so_long(self) -> None:
        self.assertEqual(400, self.later(60_001)[0])
        self.assertEqual(200, self.later(60_000)[0])

    def test_what_has_ended_is_forgotten(self) -> None:
        self.patch(store, "ENDED_MOST", 2)
        ids = []
        for _ in range(5):
            ids.append(self.scheduled())
            self.assertEqual((200, {}), self.act("cancel", ids[-1]))
            self.app.advance(1)
        self.scheduled()
        known = [self.get("alice", f"{PREFIX}/delayed_events/{one}")[0] for one in ids]
        self.assertEqual([404, 404, 404, 200, 200], known)
        core = self.app.app.core
        for _ in range(2):
            self.app.advance(4 * 86_400)
            for chore in standard_chores(core.committer, core.around.clock):
                self.app.wait(ensureDeferred(chore.run()))  # type: ignore[arg-type]
        known = [self.get("alice", f"{PREFIX}/delayed_events/{one}")[0] for one in ids]
        self.assertEqual([404] * 5, known)


class SwitchedOff(DelayedCase):
    """An administrator who wants none of it."""

    limits = DelayedEvents(max_delay_s=0)

    def test_refused(self) -> None:
        self.assert_refused(self.later(1000), 403, "M_FORBIDDEN")
        features = self.app.ok("GET", "/_matrix/client/versions")["unstable_features"]
        self.assertFalse(features["org.matrix.msc4140"])
        can = self.ok("alice", "/_matrix/client/v3/capabilities")["capabilities"]
        self.assertNotIn("org.matrix.msc4140.delayed_events", can)


class Ending(DelayedCase):
    """A server that stops while things happen."""

    def test_nothing_begins_after_the_end(self) -> None:
        self.scheduled(5000)
        unattended, tasks = self.app.app.services.unattended, self.app.app.services.tasks
        unattended.delayed.stop()
        self.app.wait(tasks.stop())
        # What was under way is still stored and told: a plan, an event that is now due, and memberships that move.
        self.scheduled(1000, "another")
        self.app.advance(10)
        self.leave("bob", self.room_id)
        self.assertEqual([], self.bodies(self.page("alice", self.room_id)["chunk"]))
        self.app.restart()
        self.app.app.begin()
        self.pass_time(self.limits.grace_s)
        self.assertEqual({"later", "another"}, set(self.bodies(self.page("alice", self.room_id)["chunk"])))
