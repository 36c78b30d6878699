"""Rooms that this server has left: whoever sets their own membership there asks a server that is in the room.

spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from homeserver.rooms.federated.partial import PartialRooms
from tests.federation.people import V3, A, B, C, NetCase
from tests.federation.test_partial import PartialCase
from tests.support.databases import on_each_database
from tests.support.http import Answer

BOB, DAVE = f"@bob:{B}", f"@dave:{C}"
DELAY = "org.matrix.msc4140.delay"
DELAYED = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"


class LeftCase(NetCase):
    """bob, the last of b in alice's room, has left it while anybody could join."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.create(self.a, self.alice, preset="public_chat", room_version="11")
        self.path = f"/rooms/{quote(self.room_id)}"
        self.own = f"{self.path}/state/m.room.member/{quote(BOB)}"
        self.assertEqual(200, self.join(self.b, self.bob, self.room_id, A).status)
        self.net.settle()

    def leave(self) -> None:
        self.ok(self.b, self.bob, "POST", f"{self.path}/leave", {})
        self.net.settle()

    def set_state(self, event_type: str, **content: Any) -> None:
        """alice changes the room; b does not hear of it."""
        self.ok(self.a, self.alice, "PUT", f"{self.path}/state/{event_type}/", content)
        self.net.settle()

    def put(self, membership: str, **content: Any) -> Answer:
        """bob sets his own membership as state."""
        answer = self.call(self.b, self.bob, "PUT", self.own, {"membership": membership, **content})
        self.net.settle()
        return answer

    def member(self) -> Any:
        """What the room says of bob."""
        return self.ok(self.a, self.alice, "GET", self.own)

    def assert_out(self) -> None:
        """Neither side believes that bob is in the room."""
        self.assertNotIn(self.member()["membership"], ("join", "knock"))
        self.assertEqual([], self.ok(self.b, self.bob, "GET", "/joined_rooms")["joined_rooms"])
        self.assertNotIn("knock", self.sync(self.b, self.bob).get("rooms", {}))

    def assert_in(self) -> None:
        self.assertEqual("join", self.member()["membership"])
        self.assert_same_state(self.room_id, (self.a, self.alice), (self.b, self.bob))


@on_each_database
class SetAsState(LeftCase):
    def test_a_join_of_a_room_that_is_closed_now(self) -> None:
        self.leave()
        self.set_state("m.room.join_rules", join_rule="invite")
        self.refused(self.put("join"), 403, "M_FORBIDDEN")
        self.assert_out()
        # So an invite is one, and lets him in.
        self.ok(self.a, self.alice, "POST", f"{self.path}/invite", {"user_id": BOB})
        self.assertIn(self.room_id, self.sync(self.b, self.bob)["rooms"]["invite"])
        self.assertEqual(200, self.put("join").status)
        self.assert_in()

    def test_a_join_of_a_room_that_does_not_want_the_server(self) -> None:
        self.leave()
        self.set_state("m.room.server_acl", allow=["*"], deny=[B])
        self.refused(self.put("join"), 403, "M_FORBIDDEN")
        self.assert_out()

    def test_a_join_of_who_is_banned(self) -> None:
        self.leave()
        self.ok(self.a, self.alice, "POST", f"{self.path}/ban", {"user_id": BOB})
        self.refused(self.put("join"), 403, "M_FORBIDDEN")
        self.assert_out()

    def test_a_join_that_the_room_takes(self) -> None:
        self.leave()
        self.set_state("m.room.name", name="What bob missed")
        answer = self.put("join", displayname="Robert", reason="why not")
        self.assertEqual(200, answer.status)
        self.assert_in()
        self.assertEqual({"membership": "join", "displayname": "Robert", "reason": "why not"}, self.member())
        state = self.state(self.a, self.alice, self.room_id)
        self.assertEqual(state["m.room.member", BOB], answer.json["event_id"])
        # The same again says nothing new.
        again = self.put("join", displayname="Robert", reason="why not")
        self.assertEqual(answer.json, again.json)

    def test_what_no_event_can_say(self) -> None:
        self.leave()
        for membership in ("join", "knock"):
            self.refused(self.put(membership, x=1.5), 400, "M_BAD_JSON")
            self.refused(self.put(membership, x="x" * 65536), 413, "M_TOO_LARGE")
        self.assert_out()

    def test_a_join_that_nobody_here_may_grant(self) -> None:
        club = self.create(self.a, self.alice, preset="public_chat")
        allow = [{"type": "m.room_membership", "room_id": club}]
        levels = f"{self.path}/state/m.room.power_levels"
        found = self.ok(self.a, self.alice, "GET", levels)
        self.ok(self.a, self.alice, "PUT", levels, {**found, "invite": 50})
        self.set_state("m.room.join_rules", join_rule="restricted", allow=allow)
        erin = self.b.register("erin")
        own = self.own.replace("bob", "erin")
        self.refused(self.call(self.b, erin, "PUT", own, {"membership": "join"}), 403, "M_FORBIDDEN")
        self.assertEqual(200, self.join(self.b, erin, club, A).status)
        self.ok(self.b, erin, "PUT", own, {"membership": "join"})
        self.net.settle()
        self.assert_same_state(self.room_id, (self.a, self.alice), (self.b, self.bob), (self.b, erin))

    def test_a_knock(self) -> None:
        self.leave()
        self.refused(self.put("knock"), 403, "M_FORBIDDEN")
        self.assert_out()
        self.set_state("m.room.join_rules", join_rule="knock")
        answer = self.put("knock", reason="please")
        self.assertEqual(200, answer.status)
        self.assertEqual({"membership": "knock", "reason": "please"}, self.member())
        state = self.state(self.a, self.alice, self.room_id)
        self.assertEqual(state["m.room.member", BOB], answer.json["event_id"])
        self.assertIn(self.room_id, self.sync(self.b, self.bob)["rooms"]["knock"])

    def test_while_the_leave_is_on_its_way_to_the_disk(self) -> None:
        """A join is made here on top of it: then nobody else can tell of it."""
        leaving = self.b.start("POST", f"{V3}{self.path}/leave", {}, self.bob)
        joining = self.b.start("PUT", V3 + self.own, {"membership": "join"}, self.bob)
        self.assertEqual([200, 200], [self.net.wait(leaving).status, self.net.wait(joining).status])
        self.net.settle()
        self.assertEqual(1, len(self.net.sent("send_join")))
        self.assert_in()


@on_each_database
class Later(LeftCase):
    """Delayed events go the same way."""

    def schedule(self, membership: str) -> str:
        body, query = {"membership": membership}, {DELAY: "10000"}
        delay_id: str = self.ok(self.b, self.bob, "PUT", self.own, body, query)["delay_id"]
        return delay_id

    def ended(self, delay_id: str) -> Any:
        """What became of it, when it is time."""
        self.net.advance(15)
        answer = self.net.wait(self.b.start("GET", f"{DELAYED}/{delay_id}", None, self.bob))
        self.assertEqual(200, answer.status)
        return answer.json

    def test_what_the_room_does_not_take(self) -> None:
        for membership in ("join", "knock"):
            delay_id = self.schedule(membership)
            self.leave()
            self.set_state("m.room.join_rules", join_rule="invite")
            self.assertEqual("M_FORBIDDEN", self.ended(delay_id)["finalised"]["error"]["errcode"])
            self.assert_out()
            self.set_state("m.room.join_rules", join_rule="public")
            self.assertEqual(200, self.join(self.b, self.bob, self.room_id, A).status)

    def test_what_nobody_answers_is_tried_again(self) -> None:
        delay_id = self.schedule("join")
        self.leave()
        self.net.tamper(lambda _, request: OSError("away") if "/make_join/" in request.uri else None)
        self.assertNotIn("finalised", self.ended(delay_id))
        self.net.untamper()
        self.net.advance(600)
        event_id = self.ended(delay_id)["finalised"]["event_id"]
        self.assertEqual(event_id, self.state(self.a, self.alice, self.room_id)["m.room.member", BOB])
        self.assert_in()

    def test_what_the_room_takes(self) -> None:
        for membership, rule in (("knock", "knock"), ("join", "public")):
            delay_id = self.schedule(membership)
            self.leave()
            self.set_state("m.room.join_rules", join_rule=rule)
            event_id = self.ended(delay_id)["finalised"]["event_id"]
            self.assertEqual(event_id, self.state(self.a, self.alice, self.room_id)["m.room.member", BOB])
            self.assertEqual(membership, self.member()["membership"])
            self.set_state("m.room.join_rules", join_rule="public")
            self.assertEqual(200, self.join(self.b, self.bob, self.room_id, A).status)
        self.assert_in()


@on_each_database
class LeftMeanwhile(PartialCase):
    def test_by_the_last_one_while_another_waits_for_its_members(self) -> None:
        """When dave's join goes on, nobody of c is in the room: then it is for the others to say."""
        dave = self.c.register("dave")
        finish, gates = PartialRooms._finish, list[Deferred[None]]()

        async def wait_and_finish(*args: Any) -> bool:
            gates.append(Deferred())
            await gates[-1]
            return await finish(*args)

        self.patch(PartialRooms, "_finish", wait_and_finish)
        for method, path in (("POST", "/join"), ("PUT", f"/state/m.room.member/{quote(DAVE)}")):
            room_id = self.make(room_version="11")
            uri = f"{V3}/rooms/{quote(room_id)}"
            joining = self.c.start(method, uri + path, {"membership": "join"}, dave)
            self.held = False
            self.net.advance(10)
            self.assertFalse(joining.called)
            self.ok(self.c, self.carol, "POST", f"/rooms/{quote(room_id)}/leave", {})
            rule = {"join_rule": "invite"}
            self.ok(self.a, self.alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.join_rules/", rule)
            self.net.settle()
            gates.pop().callback(None)
            self.refused(self.net.wait(joining), 403, "M_FORBIDDEN")
            self.assertEqual([], self.ok(self.c, dave, "GET", "/joined_rooms")["joined_rooms"])
