"""Two users of one server who want into a room of another at once: each is let in, or refused, for themselves."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from federation.ids import ServerName
from homeserver.rooms.federated import handshakes
from homeserver.rooms.federated.remote import RemoteMemberships
from tests.federation.people import V3, A, B, NetCase
from tests.support.databases import on_each_database
from tests.support.http import Answer


@on_each_database
class JoinsOfTwo(NetCase):
    """bob and dave, both of b."""

    def setUp(self) -> None:
        super().setUp()
        self.dave = self.b.register("dave")

    def join_both(self, room_id: str, *, first: str, second: str) -> list[Answer]:
        """Both ask before the other's join is under way; of one at a time the first one's is."""
        self.let_meet()
        path = f"{V3}/join/{quote(room_id)}"
        before = len(self.net.sent("/make_join/"))
        calls = [self.b.start("POST", path, {}, token, {"via": [A]}) for token in (first, second)]
        answers = [self.net.wait(call) for call in calls]
        self.net.settle()
        self.assertEqual(before + 2, len(self.net.sent("/make_join/")), "each was tried")
        return answers

    def let_meet(self) -> None:
        """Who looks for servers to ask does so when both are there."""
        ask, waiting = RemoteMemberships.servers, list[Deferred[None]]()

        async def servers(*args: Any) -> list[ServerName]:
            if len(waiting) < 2:
                waiting.append(Deferred())
                if len(waiting) < 2:
                    await waiting[0]
                else:
                    waiting[0].callback(None)
            return await ask(*args)

        self.patch(RemoteMemberships, "servers", servers)

    def joined(self, token: str) -> list[str]:
        found: list[str] = self.ok(self.b, token, "GET", "/joined_rooms")["joined_rooms"]
        return found

    def test_the_first_is_refused_and_the_second_invited(self) -> None:
        room_id = self.create(self.a, self.alice, invite=[f"@dave:{B}"])
        self.net.settle()
        first, second = self.join_both(room_id, first=self.bob, second=self.dave)
        self.refused(first, 403, "M_FORBIDDEN")
        self.assertEqual(200, second.status, second.json)
        self.assertEqual(([], [room_id]), (self.joined(self.bob), self.joined(self.dave)))
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.dave))

    def test_the_first_is_banned_and_the_server_knows_nothing_of_the_room(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/ban", {"user_id": f"@bob:{B}"})
        first, second = self.join_both(room_id, first=self.bob, second=self.dave)
        self.refused(first, 403, "M_FORBIDDEN")
        self.assertEqual(200, second.status, second.json)
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.dave))

    def test_nobody_comes_back_into_a_room_that_is_closed_now(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        path = f"/rooms/{quote(room_id)}"
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.ok(self.b, self.bob, "POST", f"{path}/leave", {})
        self.net.settle()
        self.ok(self.a, self.alice, "PUT", f"{path}/state/m.room.join_rules/", {"join_rule": "invite"})
        for answer in self.join_both(room_id, first=self.bob, second=self.dave):
            self.refused(answer, 403, "M_FORBIDDEN")
        self.assertEqual(([], []), (self.joined(self.bob), self.joined(self.dave)))

    def test_both_are_let_in_elsewhere_where_nobody_here_may(self) -> None:
        club = self.create(self.a, self.alice, preset="public_chat")
        rules = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": club}]}
        room_id = self.create(
            self.a,
            self.alice,
            initial_state=[{"type": "m.room.join_rules", "content": rules}],
            power_level_content_override={"invite": 50},
        )
        erin = self.b.register("erin")
        for token in (self.bob, self.dave, erin):
            self.assertEqual(200, self.join(self.b, token, club, A).status)
        self.net.settle()
        self.assertEqual(200, self.join(self.b, erin, room_id, A).status)
        self.net.settle()
        answers = self.join_both(room_id, first=self.bob, second=self.dave)
        self.assertEqual([200, 200], [answer.status for answer in answers])
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob), (self.b, self.dave))

    def test_the_first_asks_servers_that_take_too_long(self) -> None:
        """One after the other, while the second waits."""
        room_id = self.create(self.a, self.alice, preset="public_chat")
        names = [f"{letter}.example" for letter in "defg"]
        for name in names:
            self.net.stranger(name).answers["GET", "/_matrix/federation/v1/make_join/"] = None
        self.patch(handshakes, "ASK_FOR_S", 1.0)
        path = f"{V3}/join/{quote(room_id)}"
        first = self.b.start("POST", path, {}, self.bob, {"via": names})
        self.net.settle()
        second = self.b.start("POST", path, {}, self.dave, {"via": [A]})
        self.refused(self.net.wait(first), 502, "M_UNKNOWN")
        self.assertEqual(200, self.net.wait(second).status)
        for name in names[1:]:
            self.assertEqual([], self.net.sent("make_join", destination=name))
