"""The user directory knows people of other servers, from the state that a join brings."""

from __future__ import annotations

from tests.federation.people import A, NetCase
from tests.support.databases import on_each_database


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
