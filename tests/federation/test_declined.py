"""Invites that are declined while the inviter's server is away. spec: server-server-api#leaving-rooms-rejecting-invites"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from sqlalchemy import func, select
from twisted.internet.defer import Deferred

from federation.event import Event
from federation.flows.handshake import NeedAccepted, Wish
from federation.ids import ServerName
from homeserver.db.schema.rooms import declined
from homeserver.db.statements import statement
from homeserver.http.transport import PeerRequest, PeerResponse
from homeserver.rooms.federated import declinations, outsiders
from homeserver.rooms.federated.declinations import (
    ATTEMPTS_MOST,
    FIRST_WAIT_MS,
)
from homeserver.rooms.federated.handshakes import Accept
from homeserver.rooms.federated.retries import AT_ONCE, EARLY_AFTER_S, LONGEST_WAIT_MS
from homeserver.rooms.federated.signed import check_signed
from homeserver.runtime.clock import LOOK_AGAIN_S
from tests.federation.people import V3, A, B, C, NetCase
from tests.support.clocks import set_clock
from tests.support.databases import on_each_database

BOB = f"@bob:{B}"
FIRST_S = FIRST_WAIT_MS / 1000
_COUNT = statement(select(func.count()).select_from(declined))


@on_each_database
class Declined(NetCase):
    """alice of a has invited bob of b, who declines while a is away."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.create(self.a, self.alice)
        self.invite()
        self.net.settle()
        self.net.down(A)
        self.decline()

    def room(self, token: str, method: str, path: str, body: Any = None) -> Any:
        server = self.a if token == self.alice else self.b
        return self.ok(server, token, method, f"/rooms/{quote(self.room_id)}/{path}", body)

    def invite(self) -> None:
        self.room(self.alice, "POST", "invite", {"user_id": BOB})

    def decline(self) -> None:
        self.room(self.bob, "POST", "leave", {"reason": "no time"})

    def open_up(self) -> None:
        """Anybody may join."""
        self.room(self.alice, "PUT", "state/m.room.join_rules", {"join_rule": "public"})

    def member(self) -> Any:
        """What alice's server says that bob is."""
        return self.room(self.alice, "GET", f"state/m.room.member/{quote(BOB)}")

    def left(self) -> int:
        """How many are to be told yet."""
        count: int = self.net.wait(self.b.database.read(lambda tx: tx.value(_COUNT)))
        return count

    def asked(self) -> int:
        """How often a was asked for it since the last time."""
        found = len(self.net.sent("make_leave"))
        self.net.requests.clear()
        return found

    def test_told_when_it_is_back(self) -> None:
        since = self.sync(self.b, self.bob)["next_batch"]
        self.net.up(A)
        self.assertEqual("invite", self.member()["membership"])
        self.net.advance(FIRST_S)
        self.assertEqual({"membership": "leave", "reason": "no time"}, self.member())
        # For bob it has long been so.
        self.assertNotIn("rooms", self.sync(self.b, self.bob, since))
        self.assertEqual(0, self.left())
        self.asked()
        self.net.advance(10 * FIRST_S)
        self.assertEqual(0, self.asked())

    def hear_from_a(self) -> None:
        """alice's server asks bob's for something, which has nothing to do with the room."""
        self.ok(self.a, self.alice, "GET", f"/profile/{quote(BOB)}")

    def test_told_at_the_first_sign_of_life(self) -> None:
        self.net.advance(10 * FIRST_S)
        self.net.up(A)
        self.assertEqual("invite", self.member()["membership"])
        self.hear_from_a()
        self.net.advance(EARLY_AFTER_S)
        self.assertEqual({"membership": "leave", "reason": "no time"}, self.member())
        self.assertEqual(0, self.left())
        self.asked()
        self.net.advance(100 * FIRST_S)
        self.assertEqual(0, self.asked())

    def test_told_at_the_first_sign_of_life_after_a_restart(self) -> None:
        self.net.advance(10 * FIRST_S)
        self.b.restart()
        self.net.up(A)
        self.hear_from_a()
        self.net.advance(EARLY_AFTER_S)
        self.assertEqual(("leave", 0), (self.member()["membership"], self.left()))

    def decline_another(self) -> None:
        """bob declines a second invite, which is stored; the database goes away before it says so."""
        self.net.up(A)
        self.net.advance(FIRST_S)
        self.assertEqual(("leave", 0), (self.member()["membership"], self.left()))
        self.room_id = self.create(self.a, self.alice)
        self.invite()
        self.net.settle()
        self.net.down(A)
        self.b.lose_answer("declined")
        path = f"/rooms/{quote(self.room_id)}/leave"
        self.assertEqual(503, self.call(self.b, self.bob, "POST", path, {"reason": "no time"}).status)
        self.b.log.entries.clear()
        self.net.up(A)

    def test_told_although_nobody_said_that_it_was_stored(self) -> None:
        self.decline_another()
        self.net.advance(FIRST_S)
        self.assertEqual({"membership": "leave", "reason": "no time"}, self.member())
        self.assertEqual(0, self.left())

    def test_told_at_a_sign_of_life_although_nobody_said_that_it_was_stored(self) -> None:
        self.decline_another()
        self.hear_from_a()
        self.net.advance(EARLY_AFTER_S)
        self.assertEqual(("leave", 0), (self.member()["membership"], self.left()))

    def test_several_are_told_at_once(self) -> None:
        self.net.up(A)
        rooms = [self.room_id]
        for _ in range(AT_ONCE + 2):
            self.room_id = self.create(self.a, self.alice)
            self.invite()
            rooms.append(self.room_id)
        self.net.settle()
        self.net.down(A)
        for self.room_id in rooms[1:]:
            self.decline()
        self.assertEqual(len(rooms), self.left())
        self.net.up(A)
        self.hear_from_a()
        self.net.advance(EARLY_AFTER_S)
        self.assertEqual(0, self.left())

    def test_signs_of_life_use_up_no_attempt(self) -> None:
        """It speaks to us, and does not answer."""
        self.patch(declinations, "ATTEMPTS_MOST", 3)
        heard = self.b.app.peering.health.heard_from
        self.asked()
        for _ in range(10):
            heard(ServerName(A))
            self.net.advance(EARLY_AFTER_S)
        self.assertEqual(1, self.asked())
        self.net.advance(FIRST_S - 10 * EARLY_AFTER_S)
        self.assertEqual(1, self.asked())
        for _ in range(3):
            heard(ServerName(A))
            self.net.advance(EARLY_AFTER_S)
        self.assertEqual((1, 1), (self.asked(), self.left()))
        self.net.advance(2 * FIRST_S)
        self.assertEqual((1, 1), (self.asked(), self.left()))
        self.net.advance(4 * FIRST_S)
        self.assertEqual((1, 0), (self.asked(), self.left()))

    def test_another_server_gives_a_sign_of_life(self) -> None:
        self.asked()
        self.b.app.peering.health.heard_from(ServerName("c.example"))
        self.net.advance(EARLY_AFTER_S)
        self.assertEqual((0, 1), (self.asked(), self.left()))

    def test_after_a_restart(self) -> None:
        self.b.restart()
        self.net.up(A)
        self.net.advance(FIRST_S)
        self.assertEqual("leave", self.member()["membership"])

    def test_the_clock_is_set_forward(self) -> None:
        """It is tried when wall time says so."""
        self.net.advance(10 * FIRST_S)
        self.asked()
        set_clock(self, 5 * FIRST_S)
        self.net.advance(LOOK_AGAIN_S)
        self.assertEqual(1, self.asked())

    def test_the_clock_is_set_back(self) -> None:
        """Nothing waits longer than it ever would."""
        self.asked()
        set_clock(self, -LONGEST_WAIT_MS / 1000)
        self.net.advance(LOOK_AGAIN_S)
        self.assertEqual(1, self.asked())
        self.net.advance(2 * FIRST_S - 1)
        self.assertEqual(0, self.asked())
        self.net.advance(1)
        self.assertEqual(1, self.asked())

    def test_a_stop_waits_for_no_answer(self) -> None:
        self.net.up(A)
        self.patch(self.net, "_call", lambda *_: Deferred())  # a takes requests, and answers none
        self.asked()
        self.net.advance(FIRST_S)
        self.assertEqual(1, self.asked())
        self.b.wait(Deferred.fromCoroutine(self.b.app.stop()))
        self.assertEqual((0, 1), (self.asked(), self.left()))

    def test_later_and_later_and_not_for_ever(self) -> None:
        waits = [min(FIRST_WAIT_MS << one, LONGEST_WAIT_MS) for one in range(ATTEMPTS_MOST)]
        self.assertTrue(6.5 < sum(waits) / 86_400_000 < 7.5)
        self.patch(declinations, "ATTEMPTS_MOST", 3)
        self.asked()
        for wait_ms in waits[:3]:
            self.net.advance(wait_ms / 1000 - 1)
            self.assertEqual(0, self.asked())
            self.net.advance(1)
            self.assertEqual(1, self.asked())
        self.assertEqual(0, self.left())
        self.net.up(A)
        self.net.advance(100 * FIRST_S)
        self.assertEqual((0, "invite"), (self.asked(), self.member()["membership"]))

    def test_invited_again(self) -> None:
        self.net.up(A)
        self.room(self.alice, "POST", "kick", {"user_id": BOB})
        self.invite()
        self.net.advance(10 * FIRST_S)
        self.assertEqual(("invite", 0), (self.member()["membership"], self.left()))
        self.assertIn(self.room_id, self.sync(self.b, self.bob)["rooms"]["invite"])

    def test_invited_again_while_it_is_told(self) -> None:
        self.net.up(A)
        room = f"/_matrix/client/v3/rooms/{quote(self.room_id)}"
        handshakes = self.b.app.services.rooms.strangers.declinations._handshakes
        attempt, statuses = handshakes.attempt, []

        async def slowly(wish: Wish, servers: Sequence[ServerName], accept: Accept) -> Any:
            async def late(need: NeedAccepted) -> Any:
                for path in ("kick", "invite"):
                    done = await self.a.start("POST", f"{room}/{path}", {"user_id": BOB}, self.alice)
                    statuses.append(done.status)
                return await accept(need)

            return await attempt(wish, servers, late)

        self.patch(handshakes, "attempt", slowly)
        self.net.advance(10 * FIRST_S)
        self.assertEqual([200, 200], statuses)
        self.assertEqual([], self.net.sent("send_leave"))
        self.assertEqual(("invite", 0), (self.member()["membership"], self.left()))

    def test_joined_after_all(self) -> None:
        self.net.up(A)
        self.assertEqual(200, self.join(self.b, self.bob, self.room_id, A).status)
        self.assertEqual(0, self.left())
        self.net.advance(10 * FIRST_S)
        self.assertEqual("join", self.member()["membership"])

    def test_joined_while_it_is_told(self) -> None:
        """The leave is on its way and cannot be called back, so the join comes after it, and not before."""
        self.net.up(A)
        self.open_up()
        call, joins = self.net._call, list[Any]()

        def slowly(origin: ServerName, request: PeerRequest) -> Any:
            if "/send_leave/" not in request.uri:
                return call(origin, request)
            path = f"/_matrix/client/v3/join/{quote(self.room_id)}"
            joins.append(self.b.start("POST", path, {}, self.bob, {"via": [A]}))
            arrived: Deferred[None] = Deferred()
            self.net.time.callLater(10.0, arrived.callback, None)
            return arrived.addCallback(lambda _: call(origin, request))

        self.patch(self.net, "_call", slowly)
        self.net.advance(FIRST_S)
        self.assertEqual([200], [self.net.wait(one).status for one in joins])
        self.net.advance(10 * FIRST_S)
        self.assertEqual("join", self.member()["membership"])
        self.assertIn(self.room_id, self.sync(self.b, self.bob)["rooms"]["join"])

    def begin_to_tell(self, after_s: float = FIRST_S) -> None:
        """a is asked for a leave, and takes its time."""
        self.net.up(A)
        self.delay("/make_leave/", 10.0)
        self.asked()
        self.net.advance(after_s)
        self.assertEqual(1, self.asked())

    def start(self, what: str, token: str = "") -> Any:
        """bob joins or knocks."""
        return self.b.start("POST", f"{V3}/{what}/{quote(self.room_id)}", {}, token or self.bob, {"via": [A]})

    def test_not_told_while_the_user_joins(self) -> None:
        self.begin_to_tell()
        self.open_up()
        self.delay("/send_join/", 1.5 * FIRST_S)
        self.assertEqual(200, self.net.wait(self.start("join"), limit_s=2 * FIRST_S).status)
        self.assertEqual(("join", 0), (self.member()["membership"], self.left()))
        self.net.advance(10 * FIRST_S)
        self.assertEqual(([], 0), (self.net.sent("send_leave"), self.asked()))
        self.assertEqual("join", self.member()["membership"])

    def test_told_when_the_user_was_not_let_in(self) -> None:
        self.patch(declinations, "ATTEMPTS_MOST", 1)
        self.begin_to_tell()
        self.delay("/make_join/", 2 * FIRST_S)
        self.assertEqual(502, self.net.wait(self.start("join"), limit_s=2 * FIRST_S).status)
        self.assertEqual((0, 1), (self.asked(), self.left()))
        self.net.advance(2 * FIRST_S)
        self.assertEqual(("leave", 0), (self.member()["membership"], self.left()))

    def test_not_told_while_the_user_knocks(self) -> None:
        self.net.up(A)
        self.net.advance(FIRST_S)
        state = [{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
        self.room_id = self.create(self.a, self.alice, initial_state=state)
        self.assertEqual(200, self.net.wait(self.start("knock")).status)
        self.net.down(A)
        self.decline()
        self.begin_to_tell(EARLY_AFTER_S)
        deliver = self.net._deliver

        def later(request: PeerRequest, *rest: Any) -> None:
            wait_s = 20.0 if "/send_knock/" in request.uri else 0.0
            self.net.time.callLater(wait_s, deliver, request, *rest)

        self.patch(self.net, "_deliver", later)
        self.assertEqual(200, self.net.wait(self.start("knock"), limit_s=21.0).status)
        self.net.advance(10 * FIRST_S)
        self.assertEqual(("knock", 0), (self.member()["membership"], self.left()))
        self.assertEqual([self.room_id], list(self.sync(self.b, self.bob)["rooms"]["knock"]))

    def test_not_told_while_another_joins(self) -> None:
        """The room that comes with the other's join has the invite, and would know of no leave beside that join."""
        self.begin_to_tell()
        self.open_up()
        self.delay("/send_join/", 30.0)
        eve = self.b.register("eve")
        self.assertEqual(200, self.net.wait(self.start("join", eve), limit_s=31.0).status)
        self.net.advance(10 * FIRST_S)
        self.assertEqual(("invite", 0), (self.member()["membership"], self.left()))
        self.assert_same_state(self.room_id, (self.a, self.alice), (self.b, eve))

    def test_a_refusal_ends_it(self) -> None:
        self.net.up(A)
        self.room(self.alice, "POST", "ban", {"user_id": BOB})
        self.asked()
        self.net.advance(10 * FIRST_S)
        self.assertEqual((1, 0, "ban"), (self.asked(), self.left(), self.member()["membership"]))

    def test_a_server_that_cannot_now(self) -> None:
        self.net.up(A)
        answer = PeerResponse(503, b'{"errcode":"M_UNKNOWN","error":"busy"}')
        self.net.tamper(lambda _, request: answer if "/make_leave/" in request.uri else None)
        self.net.advance(FIRST_S)
        self.assertEqual(("invite", 1), (self.member()["membership"], self.left()))
        self.net.untamper()
        self.net.advance(2 * FIRST_S)
        self.assertEqual(("leave", 0), (self.member()["membership"], self.left()))

    def test_a_knock_taken_back(self) -> None:
        self.net.up(A)
        state = [{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
        self.room_id = self.create(self.a, self.alice, initial_state=state)
        self.ok(self.b, self.bob, "POST", f"/knock/{quote(self.room_id)}", {}, {"via": [A]})
        self.net.down(A)
        self.decline()
        self.net.up(A)
        self.net.advance(2 * FIRST_S)
        self.assertEqual("leave", self.member()["membership"])


@on_each_database
class InvitedMeanwhile(NetCase):
    """bob declines, and is invited once more before he has an answer."""

    def invite(self) -> str:
        return f"/rooms/{quote(self.room_id)}/invite"

    def member(self) -> str:
        """What alice's server says that bob is."""
        path = f"/rooms/{quote(self.room_id)}/state/m.room.member/{quote(BOB)}"
        membership: str = self.ok(self.a, self.alice, "GET", path)["membership"]
        return membership

    def rooms(self) -> Any:
        """What bob's clients are told of."""
        return self.sync(self.b, self.bob).get("rooms", {})

    def declining(self) -> Any:
        return self.b.start("POST", f"{V3}/rooms/{quote(self.room_id)}/leave", {}, self.bob)

    def invited_by_two(self) -> None:
        """carol of c has invited bob; alice is in the room too, and does not know."""
        c = self.server(C)
        carol = c.register("carol")
        everybody = {"invite": 0}
        self.room_id = self.create(c, carol, preset="public_chat", power_level_content_override=everybody)
        self.assertEqual(200, self.join(self.a, self.alice, self.room_id, C).status)
        self.net.settle()
        self.net.part(A, C)
        self.ok(c, carol, "POST", self.invite(), {"user_id": BOB})

    def test_by_another_server_while_the_first_does_not_answer(self) -> None:
        self.invited_by_two()
        call = self.net._call

        def silently(origin: ServerName, request: PeerRequest) -> Any:
            lost = "/make_leave/" in request.uri and request.destination == C
            return Deferred() if lost else call(origin, request)

        self.patch(self.net, "_call", silently)
        declining = self.declining()
        self.net.settle()
        self.assertEqual(1, len(self.net.sent("make_leave", destination=C)))
        self.ok(self.a, self.alice, "POST", self.invite(), {"user_id": BOB})
        self.assertEqual(200, self.net.wait(declining).status)
        self.assertEqual(("leave", {}), (self.member(), self.rooms()))

    def test_by_a_server_that_does_not_answer_either(self) -> None:
        """It is that server then that is told later, and of what it sent."""
        self.invited_by_two()
        call = self.net._call
        self.patch(
            self.net, "_call", lambda one, asked: Deferred() if "_leave" in asked.uri else call(one, asked)
        )
        declining = self.declining()
        self.net.settle()
        self.ok(self.a, self.alice, "POST", self.invite(), {"user_id": BOB})
        self.assertEqual(200, self.net.wait(declining).status)
        self.assertEqual(("invite", {}), (self.member(), self.rooms()))
        self.patch(self.net, "_call", call)
        self.net.advance(2 * FIRST_S)
        self.assertEqual(("leave", {}), (self.member(), self.rooms()))

    def test_after_the_leave_was_taken(self) -> None:
        """That is an invite which nobody has declined."""
        self.room_id = self.create(self.a, self.alice)
        self.ok(self.a, self.alice, "POST", self.invite(), {"user_id": BOB})
        deliver = self.net._deliver

        def later(request: PeerRequest, *rest: Any) -> None:
            wait_s = 5.0 if "/send_leave/" in request.uri else 0.0
            self.net.time.callLater(wait_s, deliver, request, *rest)

        self.patch(self.net, "_deliver", later)
        declining = self.declining()
        self.net.settle()
        self.assertEqual("leave", self.member())
        self.ok(self.a, self.alice, "POST", self.invite(), {"user_id": BOB})
        self.assertEqual(200, self.net.wait(declining).status)
        self.assertEqual(("invite", [self.room_id]), (self.member(), list(self.rooms().get("invite", {}))))

    def test_while_it_is_heard_that_an_invite_was_taken_back(self) -> None:
        self.room_id = self.create(self.a, self.alice)
        self.ok(self.a, self.alice, "POST", self.invite(), {"user_id": BOB})
        statuses = list[int]()

        async def slowly(event: Event, keys: Any) -> None:
            await check_signed(event, keys)
            if event.content["membership"] == "leave":
                done = await self.a.start("POST", V3 + self.invite(), {"user_id": BOB}, self.alice)
                statuses.append(done.status)

        self.patch(outsiders, "check_signed", slowly)
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(self.room_id)}/kick", {"user_id": BOB})
        self.net.advance(10)
        self.assertEqual([200], statuses)
        self.assertEqual(("invite", [self.room_id]), (self.member(), list(self.rooms().get("invite", {}))))
