"""Memberships that a state resolution takes away, so that no event says that they are over.

A user joins by a rule that somebody made who, in another branch of the room, had lost the power to.
"""

from __future__ import annotations

from typing import Any

from homeserver.rooms.arrivals import Arrival, arrive
from homeserver.rooms.turn import Turn
from tests.support.databases import SQLITE, DatabaseCase, on_each_database
from tests.support.peer import FakePeer
from tests.support.sync import SyncApp, user_id

ROOM = "!room:test.example"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
STABLE = "/_matrix/client/v4/sync"
RULES = "m.room.join_rules"


@on_each_database
class Vanished(DatabaseCase):
    """Alice's room, which mallory of another server opens to bob, and to carol's knocks."""

    def setUp(self) -> None:
        self.app = SyncApp(self, "sqlite::memory:" if self.dialect == SQLITE else self.new_database())
        self.tokens = {name: self.app.register(name) for name in ("alice", "bob")}
        self.app.make_room("alice", ROOM)
        self.peer = FakePeer()
        self.mallory, self.eve = self.peer.user(), self.peer.user("eve")
        self.levels: dict[str, Any] = {
            "users": {user_id("alice"): 100, self.eve: 100, self.mallory: 50},
            "state_default": 50,
        }
        self.app.place(ROOM, "alice", "m.room.power_levels", self.levels, "")
        self.room = self.peer.follow(self.app, ROOM)
        self.arrive(self.room.join(self.mallory), self.room.join(self.eve))
        self.app.place(ROOM, "alice", RULES, {"join_rule": "invite"}, "")
        self.room = self.peer.follow(self.app, ROOM)
        self.fork = list(self.room.events)[-1]

    def arrive(self, *events: Any) -> None:
        async def job(turn: Turn) -> None:
            await arrive(turn, [Arrival(event) for event in events])

        self.app.in_room(ROOM, job)

    def open_by(self, rule: str, membership: str) -> None:
        """Bob comes in as mallory's rule allows."""
        self.arrive(self.room.add(RULES, {"join_rule": rule}, sender=self.mallory, state_key=""))
        self.app.member(ROOM, "bob", membership)

    def close(self) -> None:
        """It turns out that mallory had lost the power before."""
        users = {name: level for name, level in self.levels["users"].items() if name != self.mallory}
        content = {**self.levels, "users": users}
        self.arrive(
            self.room.add(
                "m.room.power_levels", content, sender=self.eve, state_key="", prev=[self.fork], ts=1
            )
        )
        path = f"/_matrix/client/v3/rooms/{ROOM}/state/m.room.member/{user_id('bob')}"
        self.assertEqual(404, self.app.call("GET", path, None, self.tokens["alice"])[0])

    def test_a_client_hears_that_it_is_over(self) -> None:
        for rule, membership, section in (("public", "join", "join"), ("knock", "knock", "knock")):
            for restarts in (False, True):
                with self.subTest(rule, restarts=restarts):
                    self.setUp()
                    self.open_by(rule, membership)
                    before = self.app.sync(self.tokens["bob"])
                    self.assertIn(ROOM, before["rooms"][section])
                    sliding = self.slide()
                    self.close()
                    if restarts:
                        self.app.restart()
                    told = self.app.sync(self.tokens["bob"], before["next_batch"])
                    self.assertEqual([], told["rooms"]["leave"][ROOM]["timeline"]["events"])
                    self.assertNotIn("rooms", self.app.sync(self.tokens["bob"], told["next_batch"]))
                    self.assertNotIn("rooms", self.app.sync(self.tokens["bob"]))
                    if not restarts:
                        self.assertEqual("leave", self.slide(sliding["pos"])["rooms"][ROOM]["membership"])

    def slide(self, pos: str | None = None, path: str = SLIDING) -> Any:
        lists = {"all": {"ranges": [[0, 9]], "timeline_limit": 5, "required_state": []}}
        query = {} if pos is None else {"pos": pos}
        return self.app.ok("POST", path, {"lists": lists}, self.tokens["bob"], query)

    def test_who_looks_at_the_state_alone(self) -> None:
        for path, told in ((SLIDING, [(user_id("bob"), "leave")]), (STABLE, [])):
            for rule, membership in (("public", "join"), ("knock", "knock")):
                with self.subTest(path, membership=membership):
                    self.setUp()
                    self.open_by(rule, membership)
                    before = self.slide(path=path)
                    self.assertEqual(membership, before["rooms"][ROOM]["membership"])
                    self.close()
                    room = self.slide(before["pos"], path)["rooms"][ROOM]
                    state = [
                        (one["state_key"], one["content"]["membership"]) for one in room["required_state"]
                    ]
                    self.assertEqual(("leave", told, []), (room["membership"], state, room["timeline"]))

    def test_the_others_hear_of_how_many_are_left(self) -> None:
        for restarts in (False, True):
            with self.subTest(restarts=restarts):
                self.setUp()
                self.open_by("public", "join")
                before = self.app.sync(self.tokens["alice"])
                self.assertEqual(4, before["rooms"]["join"][ROOM]["summary"]["m.joined_member_count"])
                self.close()
                if restarts:
                    self.app.restart()
                told = self.app.sync(self.tokens["alice"], before["next_batch"])["rooms"]["join"][ROOM]
                self.assertEqual(3, told["summary"]["m.joined_member_count"])

    def test_who_was_put_out_may_come_in_again(self) -> None:
        self.open_by("public", "join")
        since = self.app.sync(self.tokens["bob"])["next_batch"]
        self.close()
        since = self.app.sync(self.tokens["bob"], since)["next_batch"]
        self.app.ok("POST", f"/_matrix/client/v3/rooms/{ROOM}/forget", {}, self.tokens["bob"])
        self.app.place(ROOM, "alice", RULES, {"join_rule": "public"}, "")
        self.app.ok("POST", f"/_matrix/client/v3/join/{ROOM}", {}, self.tokens["bob"])
        self.assertIn(ROOM, self.app.sync(self.tokens["bob"], since)["rooms"]["join"])
