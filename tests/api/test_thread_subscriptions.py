"""Subscribing to threads, and hearing of it elsewhere. proposals: MSC4306, MSC4308"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.support.sync import SyncApp

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
CHANGES = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions"
EXTENSION = "io.element.msc4308.thread_subscriptions"


class ThreadSubscriptionTests(TestCase):
    def setUp(self) -> None:
        self.app = SyncApp(self)
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")
        self.room = self.app.make_room("alice")
        self.app.member(self.room, "bob", "join")
        self.root = self.app.say(self.room, "alice", "root")

    def path(self, root: str = "", room: str = "") -> str:
        room, root = quote(room or self.room, safe=""), quote(root or self.root, safe="")
        return f"/_matrix/client/unstable/io.element.msc4306/rooms/{room}/thread/{root}/subscription"

    def reply(self, root: str = "", body: str = "reply") -> str:
        relates_to = {"rel_type": "m.thread", "event_id": root or self.root}
        content = {"msgtype": "m.text", "body": body, "m.relates_to": relates_to}
        return self.app.place(self.room, "alice", "m.room.message", content)

    def put(self, cause: str | None = None, root: str = "") -> tuple[int, Any]:
        body = {} if cause is None else {"automatic": cause}
        return self.app.call("PUT", self.path(root), body, self.bob)

    def get(self) -> tuple[int, Any]:
        return self.app.call("GET", self.path(), None, self.bob)

    def drop(self) -> None:
        self.app.ok("DELETE", self.path(), None, self.bob)

    def code(self, answer: tuple[int, Any]) -> tuple[int, str]:
        return answer[0], answer[1]["errcode"]

    def test_by_hand(self) -> None:
        self.assertEqual(self.code(self.get()), (404, "M_NOT_FOUND"))
        self.assertEqual(self.put(), (200, {}))
        self.assertEqual(self.get(), (200, {"automatic": False}))
        self.app.restart()
        self.assertEqual(self.get(), (200, {"automatic": False}))
        self.drop()
        self.assertEqual(self.code(self.get()), (404, "M_NOT_FOUND"))
        self.drop()
        self.assertEqual(self.put(), (200, {}))

    def test_by_itself(self) -> None:
        cause = self.reply()
        self.assertEqual(self.put(cause), (200, {}))
        self.assertEqual(self.get(), (200, {"automatic": True}))
        # What the user does goes before what clients do.
        self.put()
        self.assertEqual(self.get(), (200, {"automatic": False}))
        self.put(self.reply())
        self.assertEqual(self.get(), (200, {"automatic": False}))

    def test_an_older_cause_does_not_undo_what_the_user_did(self) -> None:
        first = self.reply()
        self.put(first)
        second = self.reply()
        self.drop()
        for cause in (first, second):
            self.assertEqual(
                self.code(self.put(cause)), (409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION")
            )
            self.assertEqual(self.get()[0], 404)
        self.assertEqual(self.put(self.reply()), (200, {}))
        self.assertEqual(self.get(), (200, {"automatic": True}))

    def test_a_cause_is_in_the_thread(self) -> None:
        other = self.app.say(self.room, "alice", "other")
        for cause in (other, self.root, self.reply(other), "$nowhere"):
            self.assertEqual(self.code(self.put(cause)), (400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"))

    def test_threads_that_are_not_theirs(self) -> None:
        hidden = self.app.make_room("alice", "!hidden:test.example")
        event = self.app.say(hidden, "alice", "secret")
        for path in (self.path(event, hidden), self.path("$nowhere"), self.path(event)):
            for method, body in (("GET", None), ("PUT", {}), ("DELETE", None)):
                self.assertEqual(self.code(self.app.call(method, path, body, self.bob)), (404, "M_NOT_FOUND"))

    def test_hostile_bodies(self) -> None:
        bodies: tuple[Any, ...] = (
            {"automatic": True},
            {"automatic": 1},
            [],
            {"automatic": "no event"},
            {"automatic": ""},
        )
        for body in bodies:
            status, _ = self.app.call("PUT", self.path(), body, self.bob)
            self.assertEqual(status, 400, body)
        self.assertEqual(self.app.call("PUT", self.path(), {}, None)[0], 401)
        for query in ({"dir": "f"}, {"limit": "0"}, {"from": "x"}, {"to": "x"}, {"limit": "-1"}):
            self.assertEqual(self.app.call("GET", CHANGES, None, self.bob, query)[0], 400, query)

    def test_they_are_in_memory_for_who_evaluates_rules(self) -> None:
        index = self.app.app.core.threads
        interner = self.app.app.core.interner
        bob, room_nid = interner.known_user("@bob:test.example"), interner.known_room(self.room)
        assert bob is not None
        self.put()
        self.assertIsNone(index.known(bob))
        found = self.app.wait(Deferred.fromCoroutine(index.load(bob)))
        self.assertEqual(found, {(room_nid, self.root)})
        self.drop()
        self.assertEqual(index.known(bob), frozenset())
        self.put()
        self.assertEqual(index.known(bob), {(room_nid, self.root)})

    # --- hearing of it -------------------------------------------------------------------------------

    def sync(self, pos: str | None = None, limit: int = 100, *, enabled: bool = True) -> tuple[str, Any]:
        body = {"extensions": {EXTENSION: {"enabled": enabled, "limit": limit}}}
        query = {} if pos is None else {"pos": pos}
        answer = self.app.ok("POST", SLIDING, body, self.bob, query)
        return answer["pos"], answer["extensions"].get(EXTENSION)

    def test_other_devices_hear_of_it(self) -> None:
        self.put()
        pos, told = self.sync()
        thread = told["subscribed"][self.room][self.root]
        self.assertIs(thread["automatic"], False)
        self.assertNotIn("unsubscribed", told)
        pos, told = self.sync(pos)
        self.assertIsNone(told)
        self.drop()
        pos, told = self.sync(pos)
        self.assertGreater(told["unsubscribed"][self.room][self.root]["bump_stamp"], thread["bump_stamp"])
        # While nobody asked.
        self.put(self.reply())
        pos, told = self.sync(pos, enabled=False)
        self.assertIsNone(told)
        self.app.restart()
        pos, told = self.sync(pos)
        self.assertIs(told["subscribed"][self.room][self.root]["automatic"], True)
        self.assertIsNone(self.sync(pos)[1])

    def test_a_device_that_waits_is_woken(self) -> None:
        pos, _ = self.sync()
        body = {"extensions": {EXTENSION: {"enabled": True}}}
        waiting = self.app.start("POST", SLIDING, body, self.bob, {"pos": pos, "timeout": "30000"})
        self.put()
        answer = self.app.wait(waiting).json
        self.assertIn(self.root, answer["extensions"][EXTENSION]["subscribed"][self.room])

    def test_what_does_not_fit_is_there_page_by_page(self) -> None:
        pos, _ = self.sync()
        roots = [self.app.say(self.room, "alice", str(number)) for number in range(7)]
        for root in roots:
            self.put(root=root)
        _, told = self.sync(pos, limit=2)
        self.assertEqual(set(told["subscribed"][self.room]), set(roots[5:]))
        found: list[str] = []
        token = told["prev_batch"]
        while token is not None:
            page = self.app.ok("GET", CHANGES, None, self.bob, {"from": token, "to": pos, "limit": "2"})
            found += page["subscribed"][self.room]
            token = page.get("end")
        self.assertEqual(found, roots[4::-1])
        everything = self.app.ok("GET", CHANGES, None, self.bob, {"dir": "b"})
        self.assertEqual(set(everything["subscribed"][self.room]), set(roots))
        self.assertEqual(self.app.ok("GET", CHANGES, None, self.alice), {})

    def test_it_is_advertised(self) -> None:
        features = self.app.ok("GET", "/_matrix/client/versions")["unstable_features"]
        self.assertTrue(features["org.matrix.msc4306"] and features["org.matrix.msc4308"])
