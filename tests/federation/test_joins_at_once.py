"""Servers that come into a room at the same time: each by an event that does not know of the other's."""

from __future__ import annotations

from urllib.parse import quote

from homeserver.http.transport import PeerRequest
from tests.federation.people import V3, A, B, C, NetCase
from tests.support.databases import on_each_database
from tests.support.federation import NetServer
from tests.support.http import Answer


@on_each_database
class JoinsAtOnce(NetCase):
    """bob of b and carol of c join alice's room, and nobody says anything afterwards."""

    def join_at_once(self, room_id: str) -> None:
        self.c = self.server(C)
        self.carol = self.c.register("carol")
        path = f"{V3}/join/{quote(room_id)}"
        calls = [
            server.start("POST", path, {}, token, {"via": [A]})
            for server, token in ((self.b, self.bob), (self.c, self.carol))
        ]
        answers: list[Answer] = [self.net.wait(call) for call in calls]
        self.assertEqual([200, 200], [answer.status for answer in answers])
        self.net.settle()
        parents = {tuple(sent.json["prev_events"]) for sent in self.net.sent(path="/send_join/")}
        self.assertEqual(1, len(parents), "neither was made on the other")

    def test_each_hears_of_the_other(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.join_at_once(room_id)
        self.net.advance(60)
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob), (self.c, self.carol))
        for server, token in ((self.b, self.bob), (self.c, self.carol)):
            members = self.ok(server, token, "GET", f"/rooms/{quote(room_id)}/joined_members")["joined"]
            self.assertEqual({f"@alice:{A}", f"@bob:{B}", f"@carol:{C}"}, set(members))


@on_each_database
class BackAtOnce(NetCase):
    """bob, the last of b in alice's room, leaves, and wants to come back before a has heard of that."""

    def leave_unheard(self, join_rule: str, version: str = "12", *, renamed: bool = False) -> str:
        room_id = self.create(self.a, self.alice, preset="public_chat", room_version=version)
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        rule = {"join_rule": join_rule}
        self.ok(self.a, self.alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.join_rules/", rule)
        self.net.settle()
        self.net.tamper(lambda origin, request: OSError("lost") if "/send/" in request.uri else None)
        if renamed:
            path = f"/profile/{quote(f'@bob:{B}')}/displayname"
            self.ok(self.b, self.bob, "PUT", path, {"displayname": version})
            self.say(self.b, self.bob, room_id, "goodbye")
            self.net.settle()
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(room_id)}/leave", {})
        self.net.settle()
        self.assertIn(f"@bob:{B}", self.members(room_id))
        self.net.advance(1)  # of a leave and a join of one moment either may win
        return room_id

    def members(self, room_id: str) -> set[str]:
        return set(self.ok(self.a, self.alice, "GET", f"/rooms/{quote(room_id)}/joined_members")["joined"])

    def test_who_may_not_is_out_on_both_sides(self) -> None:
        for version in ("1", "11", "12"):
            room_id = self.leave_unheard("invite", version)
            self.net.untamper()
            self.refused(self.join(self.b, self.bob, room_id, A), 403, "M_FORBIDDEN")
            self.assertEqual({f"@alice:{A}"}, self.members(room_id))
            self.assertEqual([], self.ok(self.b, self.bob, "GET", "/joined_rooms")["joined_rooms"])

    def test_who_had_another_name_when_they_left_is_out_too(self) -> None:
        """The server does not know either of the membership that the leave ended."""
        for version in ("1", "11", "12"):
            room_id = self.leave_unheard("invite", version, renamed=True)
            self.net.untamper()
            self.refused(self.join(self.b, self.bob, room_id, A), 403, "M_FORBIDDEN")
            self.assertEqual({f"@alice:{A}"}, self.members(room_id))
            self.assertEqual([], self.ok(self.b, self.bob, "GET", "/joined_rooms")["joined_rooms"])

    def test_a_server_that_needs_a_while_to_hear_of_it(self) -> None:
        """It does not get what the leave stands on at once, and offers a join meanwhile."""
        room_id = self.leave_unheard("invite", renamed=True)
        self.net.untamper()
        before = len(self.net.sent("/make_join/"))

        def delay(origin: str, request: PeerRequest) -> OSError | None:
            early = len(self.net.sent("/make_join/")) < before + 2
            return OSError("lost") if origin == A and request.destination == B and early else None

        self.net.tamper(delay)
        self.refused(self.join(self.b, self.bob, room_id, A), 403, "M_FORBIDDEN")
        self.assertLess(before + 2, len(self.net.sent("/make_join/")))
        self.assertEqual({f"@alice:{A}"}, self.members(room_id))

    def test_who_may_is_in_on_both_sides(self) -> None:
        room_id = self.leave_unheard("public")
        self.net.untamper()
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.net.advance(3600)
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob))

    def test_a_leave_that_cannot_be_told_keeps_nobody_out(self) -> None:
        """As without it: the room's servers will make of both what they can."""
        room_id = self.leave_unheard("public")
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.net.untamper()
        self.net.advance(3600)
        self.assertEqual({f"@alice:{A}", f"@bob:{B}"}, self.members(room_id))


@on_each_database
class JoinsUnheardOf(NetCase):
    """carol of c joins by alice's server while bob's is cut off from both; then alice, who alone knew all, leaves."""

    def let_in_unheard(self, *, visibility: str = "shared") -> str:
        """A room in which bob has an event that no server but his has heard of, when carol's join comes to his."""
        self.c = self.server(C)
        self.carol = self.c.register("carol")
        rule = {"type": "m.room.history_visibility", "content": {"history_visibility": visibility}}
        levels = {"users": {f"@alice:{A}": 100, f"@bob:{B}": 100}}
        room_id = self.create(
            self.a,
            self.alice,
            preset="public_chat",
            room_version="11",
            initial_state=[rule],
            power_level_content_override=levels,
        )
        self.join(self.b, self.bob, room_id, A)
        self.net.settle()
        self.net.part(A, B)
        self.net.part(B, C)
        return room_id

    def come_together(self, room_id: str) -> None:
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/leave", {})
        self.net.heal()
        self.net.advance(600)

    def name(self, room_id: str) -> None:
        path = f"/rooms/{quote(room_id)}/state/m.room.name"
        self.ok(self.b, self.bob, "PUT", path, {"name": "Bob's"})

    def test_state(self) -> None:
        room_id = self.let_in_unheard()
        self.name(room_id)
        self.come_together(room_id)
        self.assertIn(("m.room.name", ""), self.state(self.c, self.carol, room_id))
        self.assert_same_state(room_id, (self.b, self.bob), (self.c, self.carol))

    def test_state_before_a_message(self) -> None:
        room_id = self.let_in_unheard()
        self.name(room_id)
        event_id = self.say(self.b, self.bob, room_id, "nobody hears me")
        self.come_together(room_id)
        self.assert_same_state(room_id, (self.b, self.bob), (self.c, self.carol))
        self.assertEqual(200, self.event(self.c, self.carol, room_id, event_id).status)

    def test_messages_that_they_may_not_see(self) -> None:
        room_id = self.let_in_unheard(visibility="joined")
        event_id = self.say(self.b, self.bob, room_id, "not for carol")
        self.come_together(room_id)
        self.assertEqual(404, self.event(self.c, self.carol, room_id, event_id).status)
        sent = [one.request.body or b"" for one in self.net.sent(path="/send/", destination=C)]
        self.assertTrue([body for body in sent if b"m.room.member" in body], "alice's leave, at least")
        self.assertFalse([body for body in sent if b"not for carol" in body])

    def event(self, server: NetServer, token: str, room_id: str, event_id: str) -> Answer:
        return self.call(server, token, "GET", f"/rooms/{quote(room_id)}/event/{quote(event_id)}")
