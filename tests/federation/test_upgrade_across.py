"""What becomes of the names that a server has given a room of another server's, when that one replaces the room."""

from __future__ import annotations

from urllib.parse import quote

from tests.federation.people import A, B, C, NetCase
from tests.support.databases import on_each_database


@on_each_database
class UpgradeAcross(NetCase):
    """bob is in a room of alice's server, has given it a name of his own server and shows it in the directory there."""

    def setUp(self) -> None:
        super().setUp()
        levels = {"users": {f"@alice:{A}": 100, f"@bob:{B}": 50}}
        self.room_id = self.create(
            self.a,
            self.alice,
            preset="public_chat",
            room_version="10",
            power_level_content_override=levels,
        )
        self.assertEqual(200, self.join(self.b, self.bob, self.room_id, A).status)
        self.net.settle()
        self.name("pub", self.room_id)
        path = f"/directory/list/room/{quote(self.room_id)}"
        self.ok(self.b, self.bob, "PUT", path, {"visibility": "public"})

    def name(self, name: str, room_id: str) -> None:
        path = f"/directory/room/{quote(f'#{name}:{B}')}"
        self.ok(self.b, self.bob, "PUT", path, {"room_id": room_id})

    def resolve(self, name: str) -> str:
        found: str = self.ok(self.b, self.bob, "GET", f"/directory/room/{quote(f'#{name}:{B}')}")["room_id"]
        return found

    def listed(self) -> list[str]:
        return [room["room_id"] for room in self.ok(self.b, self.bob, "GET", "/publicRooms")["chunk"]]

    def upgrade(self) -> str:
        path = f"/rooms/{quote(self.room_id)}/upgrade"
        new_id: str = self.ok(self.a, self.alice, "POST", path, {"new_version": "11"})["replacement_room"]
        self.net.settle()
        return new_id

    def test_they_follow_whoever_comes_first(self) -> None:
        new_id = self.upgrade()
        self.assertEqual(self.room_id, self.resolve("pub"))
        self.assertEqual(200, self.join(self.b, self.bob, new_id, A).status)
        self.net.settle()
        self.assertEqual(new_id, self.resolve("pub"))
        self.assertEqual([new_id], self.listed())

    def test_and_nobody_who_comes_later(self) -> None:
        new_id = self.upgrade()
        self.join(self.b, self.bob, new_id, A)
        self.net.settle()
        self.name("old", self.room_id)
        carol = self.b.register("carol")
        self.assertEqual(200, self.join(self.b, carol, new_id).status)
        self.net.settle()
        self.assertEqual((self.room_id, new_id), (self.resolve("old"), self.resolve("pub")))

    def test_a_room_that_only_says_so_is_no_successor(self) -> None:
        c = self.server(C)
        dave = c.register("dave")
        creation = {"predecessor": {"room_id": self.room_id, "event_id": "$last"}}
        claimant = self.create(c, dave, preset="public_chat", room_version="11", creation_content=creation)
        self.assertEqual(200, self.join(self.b, self.bob, claimant, C).status)
        self.net.settle()
        self.assertEqual((self.room_id, [self.room_id]), (self.resolve("pub"), self.listed()))
        self.upgrade()
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(claimant)}/leave")
        self.net.settle()
        self.assertEqual(200, self.join(self.b, self.bob, claimant, C).status)
        self.net.settle()
        self.assertEqual((self.room_id, [self.room_id]), (self.resolve("pub"), self.listed()))
