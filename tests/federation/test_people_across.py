"""People of other servers: found in the directory by the state that a join brings, and shown as what they are.

spec: client-server-api#events-on-change-of-profile-information
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from federation.ids import ServerName
from homeserver.http.transport import PeerRequest
from tests.federation.people import V3, A, B, NetCase
from tests.support.databases import on_each_database

BOB = f"@bob:{B}"


@on_each_database
class PeopleAcross(NetCase):
    """bob is in a room of alice's server."""

    def test_found_by_name(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        search = "/user_directory/search"
        nobody = self.ok(self.b, self.bob, "POST", search, {"search_term": "alice"})
        self.assertEqual([], nobody["results"])
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.net.settle()
        found = self.ok(self.b, self.bob, "POST", search, {"search_term": "alice"})
        self.assertEqual([f"@alice:{A}"], [one["user_id"] for one in found["results"]])

    def test_a_name_that_is_changed_while_another_server_lets_one_in(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        named: list[Any] = []

        def rename(_: ServerName, request: PeerRequest) -> None:
            if "/send_join/" in request.uri and not named:
                path = f"{V3}/profile/{BOB}/displayname"
                named.append(self.b.start("PUT", path, {"displayname": "Robert"}, self.bob))

        self.net.tamper(rename)
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.assertEqual(200, self.net.wait(named[0]).status)
        self.net.settle()
        member = f"/rooms/{quote(room_id)}/state/m.room.member/{BOB}"
        for server, token in ((self.a, self.alice), (self.b, self.bob)):
            self.assertEqual("Robert", self.ok(server, token, "GET", member)["displayname"])
