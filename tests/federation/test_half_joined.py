"""Joins and knocks that another server took, and of which it was never heard here. spec: server-server-api#joining-rooms"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from sqlalchemy import func, select

from homeserver.db.schema.rooms import offered
from homeserver.db.statements import statement
from homeserver.http.transport import PeerRequest, PeerResponse, Unreachable
from homeserver.rooms.federated import offers
from homeserver.rooms.federated.offers import ATTEMPTS_MOST, FIRST_WAIT_MS
from homeserver.rooms.federated.remote_joins import SEND_JOIN_S
from homeserver.rooms.federated.retries import EARLY_AFTER_S, LONGEST_WAIT_MS
from tests.federation.people import V3, A, B, C, NetCase
from tests.support.databases import on_each_database

BOB = f"@bob:{B}"
FIRST_S = FIRST_WAIT_MS / 1000
HOUR_S = 3600
_COUNT = statement(select(func.count()).select_from(offered))
KNOCKING = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}


class HalfCase(NetCase):
    """What gets lost between b, where bob wants in, and a, where the room is."""

    room_id: str

    def lose_answers(self, part: str, most: int = 1_000, server: str = A) -> None:
        """The server does what it is asked for, and the answer does not arrive."""
        left = [most]

        def tamper(_: Any, request: PeerRequest, __: PeerResponse) -> Exception | None:
            if request.destination != server or part not in request.uri or not left[0]:
                return None
            left[0] -= 1
            return Unreachable("the connection was cut")

        self.net.tamper_answers(tamper)

    def change_answers(self, part: str, answer: PeerResponse) -> None:
        """Another answer arrives."""
        self.net.tamper_answers(lambda _, request, __: answer if part in request.uri else None)

    def swallow_answers(self, part: str) -> None:
        """No answer ever arrives, and nobody says so."""
        deliver: Callable[..., None] = self.net._deliver

        def swallow(request: PeerRequest, *rest: Any) -> None:
            if part not in request.uri:
                deliver(request, *rest)

        self.patch(self.net, "_deliver", swallow)

    def start_join(self, token: str = "") -> Any:
        path = f"{V3}/join/{quote(self.room_id)}"
        return self.b.start("POST", path, {}, token or self.bob, {"via": [A]})

    def come(self, *via: str) -> int:
        """bob joins."""
        return self.join(self.b, self.bob, self.room_id, *(via or (A,))).status

    def member(self) -> str:
        """What alice's server says that bob is."""
        events = self.ok(self.a, self.alice, "GET", f"/rooms/{quote(self.room_id)}/state")
        found = [one["content"]["membership"] for one in events if one.get("state_key") == BOB]
        return found[0] if found else ""

    def at_home(self, since: str | None = None) -> str:
        """How bob's client lists the room."""
        rooms = self.sync(self.b, self.bob, since).get("rooms", {})
        return next(
            (kind for kind in ("join", "invite", "knock", "leave") if self.room_id in rooms.get(kind, {})), ""
        )

    def open(self) -> int:
        """Of how many offers b does not know what became."""
        count: int = self.net.wait(self.b.database.read(lambda tx: tx.value(_COUNT)))
        return count

    def sent(self, part: str) -> int:
        return len(self.net.sent(part, origin=B))


@on_each_database
class HalfJoined(HalfCase):
    """bob joins a public room of alice's."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.create(self.a, self.alice, preset="public_chat")

    def test_the_answer_gets_lost(self) -> None:
        self.lose_answers("/send_join/")
        self.refused(self.join(self.b, self.bob, self.room_id, A), 502, "M_UNKNOWN")
        self.assertEqual(("join", "", 1), (self.member(), self.at_home(), self.open()))
        self.net.advance(FIRST_S)
        self.assertEqual(("leave", "", 0), (self.member(), self.at_home(), self.open()))
        self.assertEqual([], self.ok(self.b, self.bob, "GET", "/joined_rooms")["joined_rooms"])
        asked = self.sent("make_leave")
        self.net.advance(HOUR_S)
        self.assertEqual(asked, self.sent("make_leave"))

    def test_the_same_is_offered_once_more(self) -> None:
        self.lose_answers("/send_join/", most=1)
        self.assertEqual(200, self.come())
        sent = self.net.sent("/send_join/")
        self.assertEqual(2, len(sent))
        self.assertEqual(sent[0].path, sent[1].path)
        self.net.settle()
        self.assert_same_state(self.room_id, (self.a, self.alice), (self.b, self.bob))
        self.assertEqual(0, self.open())
        self.net.advance(HOUR_S)
        self.assertEqual(("join", 0), (self.member(), self.sent("make_leave")))

    def test_an_answer_that_makes_no_sense(self) -> None:
        self.change_answers("/send_join/", PeerResponse(200, b"nonsense"))
        self.assertEqual(502, self.come())
        # It has said that it took it.
        self.assertEqual(1, self.sent("/send_join/"))
        self.net.advance(FIRST_S)
        self.assertEqual(("leave", "", 0), (self.member(), self.at_home(), self.open()))

    def test_a_proxy_in_between(self) -> None:
        self.change_answers("/send_join/", PeerResponse(504, b"<html>"))
        self.assertEqual((502, 2), (self.come(), self.sent("/send_join/")))
        self.net.advance(FIRST_S)
        self.assertEqual("leave", self.member())

    def test_no_answer_in_the_time_there_is(self) -> None:
        self.swallow_answers("/send_join/")
        answer = self.net.wait(self.start_join(), limit_s=SEND_JOIN_S + 1)
        self.assertEqual((502, 1), (answer.status, self.sent("/send_join/")))
        self.net.settle()
        self.assertEqual(("leave", "", 0), (self.member(), self.at_home(), self.open()))

    def test_the_process_dies_before_the_answer(self) -> None:
        self.swallow_answers("/send_join/")
        self.start_join()
        self.net.settle()
        self.assertEqual("join", self.member())
        self.b.restart()
        self.net.advance(FIRST_S)
        self.assertEqual(("leave", "", 0), (self.member(), self.at_home(), self.open()))

    def test_a_restart_before_it_is_taken_back(self) -> None:
        self.lose_answers("/send_join/")
        self.come()
        self.b.restart()
        self.net.advance(FIRST_S)
        self.assertEqual(("leave", 0), (self.member(), self.open()))

    def test_tried_again_in_time(self) -> None:
        self.lose_answers("/send_join/", most=2)
        self.assertEqual([502, 200], [self.come(), self.come()])
        self.assertEqual(0, self.open())
        self.net.advance(HOUR_S)
        self.assertEqual(("join", "join", 0), (self.member(), self.at_home(), self.sent("make_leave")))
        self.assert_same_state(self.room_id, (self.a, self.alice), (self.b, self.bob))

    def test_tried_again_while_it_is_taken_back(self) -> None:
        self.lose_answers("/send_join/", most=2)
        self.come()
        statuses: list[int] = []

        def late(_: Any, request: PeerRequest) -> None:
            if "/send_leave/" in request.uri and not statuses:
                statuses.append(0)
                self.start_join().addCallback(lambda answer: statuses.append(answer.status))

        self.net.tamper(late)
        self.net.advance(FIRST_S)
        self.net.advance(HOUR_S)
        self.assertEqual([0, 200], statuses)
        self.assertEqual(("join", "join", 0), (self.member(), self.at_home(), self.open()))
        self.assert_same_state(self.room_id, (self.a, self.alice), (self.b, self.bob))

    def test_tried_again_while_it_is_about_to_be_taken_back(self) -> None:
        self.lose_answers("/send_join/", most=2)
        self.come()
        statuses: list[int] = []

        def late(_: Any, request: PeerRequest) -> None:
            if "/make_leave/" in request.uri and not statuses:
                statuses.append(0)
                self.start_join().addCallback(lambda answer: statuses.append(answer.status))

        self.net.tamper(late)
        self.net.advance(HOUR_S)
        self.assertEqual(([0, 200], 0), (statuses, self.sent("/send_leave/")))
        self.assertEqual(("join", "join", 0), (self.member(), self.at_home(), self.open()))

    def test_not_taken_back_while_it_is_tried_again(self) -> None:
        self.lose_answers("/send_join/")
        self.come()
        self.net.untamper()
        self.swallow_answers("/send_join/")
        joining = self.start_join()
        self.net.advance(2 * FIRST_S)
        self.assertEqual(("join", 0), (self.member(), self.sent("make_leave")))
        self.net.wait(joining, limit_s=SEND_JOIN_S)
        self.net.advance(HOUR_S)
        self.assertEqual(("leave", 0), (self.member(), self.open()))

    def assert_bob_is_heard(self, eve: str) -> None:
        """eve is in the room; bob comes in too, and what he says is told at once, and stays."""
        self.assertEqual(200, self.come())
        self.say(self.b, self.bob, self.room_id, "it is me")
        self.net.settle()
        path = f"/rooms/{quote(self.room_id)}/messages"
        chunk = self.ok(self.a, self.alice, "GET", path, None, {"dir": "b"})["chunk"]
        self.assertIn("it is me", [event["content"].get("body") for event in chunk])
        self.net.advance(HOUR_S)
        self.assertEqual(("join", "join", 0), (self.member(), self.at_home(), self.open()))
        self.assert_same_state(self.room_id, (self.a, self.alice), (self.b, eve))

    def test_not_taken_back_while_another_comes_in(self) -> None:
        """The room that comes with the other's join has the user in it, and knows of no leave beside that join."""
        eve = self.b.register("eve")
        self.lose_answers("/send_join/")
        self.come()
        self.net.untamper()
        self.delay("/send_join/", 1.5 * FIRST_S)
        joining = self.start_join(eve)
        self.net.advance(2 * FIRST_S)
        self.assertEqual((200, 0), (self.net.wait(joining).status, self.sent("/send_leave/")))
        self.assert_bob_is_heard(eve)

    def test_another_comes_in_while_it_is_taken_back(self) -> None:
        """What is on its way cannot be called back; so it has arrived before a server is asked what the room is."""
        eve = self.b.register("eve")
        self.lose_answers("/send_join/")
        self.come()
        self.net.untamper()
        leaves = self.delay("/send_leave/", 10.0)
        self.net.advance(FIRST_S)
        self.assertEqual(1, len(leaves))
        self.assertEqual(200, self.net.wait(self.start_join(eve), limit_s=11.0).status)
        self.assertEqual("leave", self.member())
        self.assert_bob_is_heard(eve)

    def test_taken_back_after_another_was_not_let_in(self) -> None:
        eve = self.b.register("eve")
        self.lose_answers("/send_join/")
        self.come()
        self.net.untamper()
        self.swallow_answers("/send_join/")
        joining = self.start_join(eve)
        self.net.advance(2 * FIRST_S)
        self.assertEqual(("join", 0), (self.member(), self.sent("make_leave")))
        self.assertEqual(502, self.net.wait(joining, limit_s=SEND_JOIN_S).status)
        self.net.advance(HOUR_S)
        self.assertEqual(("leave", 0), (self.member(), self.open()))

    def test_another_server_lets_the_user_in(self) -> None:
        server = self.server(C)
        carol = server.register("carol")
        self.join(server, carol, self.room_id, A)
        self.net.settle()
        self.lose_answers("/send_join/")
        self.assertEqual(200, self.come(A, C))
        self.assertEqual(0, self.open())
        self.net.settle()
        self.say(self.a, self.alice, self.room_id, "welcome")
        self.net.advance(HOUR_S)
        self.assert_same_state(self.room_id, (self.a, self.alice), (self.b, self.bob), (server, carol))
        self.assertEqual("join", self.member())

    def test_two_servers_may_have_taken_it(self) -> None:
        server = self.server(C)
        carol = server.register("carol")
        self.join(server, carol, self.room_id, A)
        self.net.settle()
        self.lose_answers("/send_join/")
        self.lose_answers("/send_join/", server=C)
        self.assertEqual((502, 2), (self.come(A, C), self.open()))
        self.net.advance(HOUR_S)
        self.assertEqual(("leave", 0), (self.member(), self.open()))
        self.assert_same_state(self.room_id, (self.a, self.alice), (server, carol))

    def test_a_refusal_leaves_nothing_to_do(self) -> None:
        refusal = PeerResponse(403, b'{"errcode":"M_FORBIDDEN","error":"no"}')
        self.net.tamper(lambda _, request: refusal if "/send_join/" in request.uri else None)
        self.assertEqual((403, 1, 0), (self.come(), self.sent("/send_join/"), self.open()))
        self.net.advance(HOUR_S)
        self.assertEqual(0, self.sent("make_leave"))

    def test_it_never_arrived(self) -> None:
        """The server says so, and says so again when nothing can be on its way any more."""
        self.net.tamper(lambda _, request: Unreachable("cut") if "/send_join/" in request.uri else None)
        self.assertEqual(502, self.come())
        self.net.untamper()
        self.net.advance(FIRST_S)
        self.assertEqual((1, 1), (self.open(), self.sent("make_leave")))
        self.net.advance(HOUR_S)
        self.assertEqual((0, 2, 0), (self.open(), self.sent("make_leave"), self.sent("/send_leave/")))
        self.assertEqual("", self.member())

    def test_it_arrives_late(self) -> None:
        late: list[PeerRequest] = []

        def delay(_: Any, request: PeerRequest) -> Exception | None:
            if "/send_join/" not in request.uri:
                return None
            late.append(request)
            return Unreachable("cut")

        self.net.tamper(delay)
        self.come()
        self.net.untamper()
        self.net.advance(FIRST_S)
        self.net._call(B, late[-1])  # type: ignore[arg-type]
        self.net.settle()
        self.assertEqual("join", self.member())
        self.net.advance(HOUR_S)
        self.assertEqual(("leave", 0), (self.member(), self.open()))

    def test_later_and_later_and_not_for_ever(self) -> None:
        waits = [min(FIRST_WAIT_MS << one, LONGEST_WAIT_MS) for one in range(ATTEMPTS_MOST)]
        self.assertTrue(6.5 < sum(waits) / 86_400_000 < 7.5)
        self.patch(offers, "ATTEMPTS_MOST", 3)
        self.lose_answers("/send_join/")
        self.come()
        self.net.down(A)
        for number, wait_ms in enumerate(waits[:3]):
            self.net.advance(wait_ms / 1000 - 1)
            self.assertEqual(number, self.sent("make_leave"))
            self.net.advance(1)
            self.assertEqual(number + 1, self.sent("make_leave"))
        self.assertEqual(0, self.open())

    def test_a_server_that_was_away(self) -> None:
        self.lose_answers("/send_join/")
        self.come()
        self.net.down(A)
        self.net.advance(HOUR_S)
        self.net.up(A)
        self.net.advance(HOUR_S)
        self.assertEqual(("leave", 0), (self.member(), self.open()))

    def hear_from_a(self) -> None:
        """alice's server asks bob's for something, which has nothing to do with the room."""
        self.ok(self.a, self.alice, "GET", f"/profile/{quote(BOB)}")

    def test_a_server_that_was_away_gives_a_sign_of_life(self) -> None:
        self.lose_answers("/send_join/")
        self.come()
        self.net.down(A)
        self.net.advance(HOUR_S)
        self.net.untamper()
        self.net.up(A)
        self.hear_from_a()
        self.net.advance(EARLY_AFTER_S)
        self.assertEqual(("leave", 0), (self.member(), self.open()))

    def test_a_sign_of_life_makes_no_haste(self) -> None:
        """What was just sent may be on its way: neither is it taken back before its time, nor is a refusal believed."""
        self.net.tamper(lambda _, request: Unreachable("cut") if "/send_join/" in request.uri else None)
        self.come()
        self.net.untamper()
        self.hear_from_a()
        self.net.advance(EARLY_AFTER_S)
        self.assertEqual((1, 0), (self.open(), self.sent("make_leave")))
        self.net.advance(FIRST_S)
        self.hear_from_a()
        self.net.advance(EARLY_AFTER_S)
        self.assertEqual((1, 1), (self.open(), self.sent("make_leave")))

    def test_invited_while_it_is_taken_back(self) -> None:
        """After the leave, of which its server has not said yet that it took it."""
        self.lose_answers("/send_join/")
        self.come()
        self.net.untamper()
        deliver: Callable[..., None] = self.net._deliver

        def later(request: PeerRequest, *rest: Any) -> None:
            self.net.time.callLater(5.0 if "/send_leave/" in request.uri else 0.0, deliver, request, *rest)

        self.patch(self.net, "_deliver", later)
        self.net.advance(FIRST_S)
        self.assertEqual("leave", self.member())
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(self.room_id)}/invite", {"user_id": BOB})
        self.net.advance(HOUR_S)
        self.assertEqual(("invite", "invite", 0), (self.member(), self.at_home(), self.open()))

    def test_sent_away_meanwhile(self) -> None:
        self.lose_answers("/send_join/")
        self.come()
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(self.room_id)}/ban", {"user_id": BOB})
        self.net.advance(HOUR_S)
        self.assertEqual(("ban", 0, 0), (self.member(), self.open(), self.sent("/send_leave/")))

    def test_invited_meanwhile(self) -> None:
        """Another invite is no part of what was offered."""
        self.lose_answers("/send_join/")
        self.come()
        for path in ("kick", "invite"):
            self.ok(self.a, self.alice, "POST", f"/rooms/{quote(self.room_id)}/{path}", {"user_id": BOB})
        self.net.advance(HOUR_S)
        self.assertEqual(("invite", "invite", 0), (self.member(), self.at_home(), self.open()))

    def end_account(self) -> None:
        auth = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": BOB},
            "password": "correct horse",
        }
        self.ok(self.b, self.bob, "POST", "/account/deactivate", {"auth": auth})

    def test_the_account_ends_and_another_comes_in(self) -> None:
        """With the room comes what nobody had known here; and who has no account any more takes nothing back."""
        eve = self.b.register("eve")
        self.lose_answers("/send_join/")
        self.come()
        self.net.untamper()
        self.end_account()
        self.assertEqual(200, self.join(self.b, eve, self.room_id, A).status)
        self.net.advance(HOUR_S)
        self.assertEqual("leave", self.member())
        self.assert_same_state(self.room_id, (self.a, self.alice), (self.b, eve))

    def test_the_account_ends_and_it_arrives_late(self) -> None:
        eve = self.b.register("eve")
        late: list[PeerRequest] = []

        def delay(_: Any, request: PeerRequest) -> Exception | None:
            if "/send_join/" not in request.uri:
                return None
            late.append(request)
            return Unreachable("cut")

        self.net.tamper(delay)
        self.come()
        self.net.untamper()
        self.end_account()
        self.assertEqual(200, self.join(self.b, eve, self.room_id, A).status)
        self.net._call(B, late[-1])  # type: ignore[arg-type]
        self.net.settle()
        self.say(self.a, self.alice, self.room_id, "who is bob?")
        self.net.settle()
        self.assertEqual(("leave", 1), (self.member(), self.open()))
        self.net.advance(HOUR_S)
        self.assertEqual(0, self.open())
        self.assert_same_state(self.room_id, (self.a, self.alice), (self.b, eve))


@on_each_database
class HalfAccepted(HalfCase):
    """bob was invited, and accepts."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.create(self.a, self.alice)
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(self.room_id)}/invite", {"user_id": BOB})
        self.net.settle()

    def test_the_answer_gets_lost(self) -> None:
        self.lose_answers("/send_join/")
        self.come()
        since = self.sync(self.b, self.bob)["next_batch"]
        self.assertEqual(("join", "invite"), (self.member(), self.at_home()))
        self.net.advance(FIRST_S)
        # The invite was used up.
        self.assertEqual(("leave", "leave", ""), (self.member(), self.at_home(since), self.at_home()))
        self.net.advance(HOUR_S)
        self.assertEqual(403, self.come())

    def test_it_never_arrived(self) -> None:
        """The invite still stands: it is not declined in the user's name."""
        self.net.tamper(lambda _, request: Unreachable("cut") if "/send_join/" in request.uri else None)
        self.come()
        self.net.untamper()
        self.net.advance(HOUR_S)
        self.assertEqual(("invite", "invite", 0), (self.member(), self.at_home(), self.open()))
        self.assertEqual(0, self.sent("/send_leave/"))
        self.assertEqual(200, self.come())

    def test_tried_again_in_time(self) -> None:
        self.lose_answers("/send_join/", most=2)
        self.assertEqual([502, 200], [self.come(), self.come()])
        self.net.advance(HOUR_S)
        self.assertEqual(("join", "join", 0), (self.member(), self.at_home(), self.open()))

    def test_tried_again_while_the_leave_is_on_its_way(self) -> None:
        """It cannot be called back: the join waits for it, and is none then, as the invite is used up. Nobody is in and out."""
        self.lose_answers("/send_join/", most=2)
        self.come()
        leaves = self.delay("/send_leave/", 10.0)
        self.net.advance(FIRST_S)
        joining = self.start_join()
        self.net.advance(HOUR_S)
        self.assertEqual((1, 403), (len(leaves), self.net.wait(joining).status))
        self.assertEqual(("leave", "", 0), (self.member(), self.at_home(), self.open()))

    def test_declined_after_all(self) -> None:
        self.lose_answers("/send_join/")
        self.come()
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(self.room_id)}/leave", {})
        self.net.advance(HOUR_S)
        self.assertEqual(("leave", "", 0), (self.member(), self.at_home(), self.open()))


@on_each_database
class HalfKnocked(HalfCase):
    """bob knocks."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.create(self.a, self.alice, initial_state=[KNOCKING])

    def knock(self) -> int:
        path = f"/knock/{quote(self.room_id)}"
        return self.call(self.b, self.bob, "POST", path, {}, {"via": [A]}).status

    def test_the_answer_gets_lost(self) -> None:
        self.lose_answers("/send_knock/")
        self.assertEqual(502, self.knock())
        self.assertEqual(("knock", "", 1), (self.member(), self.at_home(), self.open()))
        self.net.advance(FIRST_S)
        self.assertEqual(("leave", "", 0), (self.member(), self.at_home(), self.open()))

    def test_the_same_is_offered_once_more(self) -> None:
        self.lose_answers("/send_knock/", most=1)
        self.assertEqual(200, self.knock())
        self.net.advance(HOUR_S)
        self.assertEqual(("knock", "knock", 0), (self.member(), self.at_home(), self.open()))

    def test_let_in_meanwhile(self) -> None:
        self.lose_answers("/send_knock/")
        self.knock()
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(self.room_id)}/invite", {"user_id": BOB})
        self.net.advance(HOUR_S)
        self.assertEqual(("invite", "invite", 0), (self.member(), self.at_home(), self.open()))

    def test_let_in_before_the_same_is_offered_once_more(self) -> None:
        """By a bot, say."""
        self.delay("/send_knock/", 1.0)
        path, invites = f"{V3}/rooms/{quote(self.room_id)}/invite", list[Any]()

        def lose(_: Any, request: PeerRequest, __: PeerResponse) -> Exception | None:
            if "/send_knock/" not in request.uri or invites:
                return None
            invites.append(self.a.start("POST", path, {"user_id": BOB}, self.alice))
            return Unreachable("the connection was cut")

        self.net.tamper_answers(lose)
        self.assertEqual((200, 2), (self.knock(), self.sent("/send_knock/")))
        self.assertEqual([200], [self.net.wait(one).status for one in invites])
        self.assertEqual(("invite", "invite", 0), (self.member(), self.at_home(), self.open()))

    def test_an_answer_that_makes_no_sense(self) -> None:
        self.change_answers("/send_knock/", PeerResponse(200, b"nonsense"))
        self.assertEqual(502, self.knock())
        self.net.advance(FIRST_S)
        self.assertEqual(("leave", 0), (self.member(), self.open()))
