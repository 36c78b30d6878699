"""Servers that come into a room at the same time: each by an event that does not know of the other's."""

from __future__ import annotations

from urllib.parse import quote

from tests.federation.people import V3, A, B, C, NetCase
from tests.support.databases import on_each_database
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
