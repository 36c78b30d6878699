"""Device lists of people whom two servers see in their rooms at different times."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.federation.people import V3, A, B, C, NetCase
from tests.support.databases import on_each_database
from tests.support.federation import NetServer
from tests.support.keys import log_in_with_keys


@on_each_database
class ListsAcross(NetCase):
    """alice and olive are on a, bob on b, carol, who made the room, on c."""

    def devices(self, user_id: str) -> list[str]:
        """What bob is told of somebody's devices."""
        answer = self.ok(self.b, self.bob, "POST", "/keys/query", {"device_keys": {user_id: []}})
        return sorted(answer["device_keys"].get(user_id, {}))

    def put(self, server: NetServer, token: str, room_id: str, event_type: str, content: Any) -> None:
        self.ok(server, token, "PUT", f"/rooms/{quote(room_id)}/state/{event_type}", content)

    def test_a_device_that_went_while_one_side_thought_that_nothing_was_shared(self) -> None:
        """olive sends bob away who, as the others find out together, had lost the right to by then."""
        c = self.server(C)
        carol, olive = c.register("carol"), self.a.register("olive")
        levels = {"users": {f"@carol:{C}": 100, f"@olive:{A}": 50}}
        room_id = self.create(
            c, carol, preset="public_chat", room_version="11", power_level_content_override=levels
        )
        for server, token in ((self.a, self.alice), (self.a, olive), (self.b, self.bob)):
            self.assertEqual(200, self.join(server, token, room_id, C).status)
        self.net.settle()
        alice = f"@alice:{A}"
        log_in_with_keys(self.a, alice, "KEPT")
        lost = log_in_with_keys(self.a, alice, "LOST")
        self.net.settle()
        self.assertEqual(["KEPT", "LOST"], self.devices(alice))
        # What was asked for says nothing of the chain; after an update the list is asked for that does.
        log_in_with_keys(self.a, alice, "LATE")
        self.net.advance(60)
        self.assertEqual(["KEPT", "LATE", "LOST"], self.devices(alice))
        self.net.part(A, B)
        self.net.part(A, C)
        content = self.ok(c, carol, "GET", f"/rooms/{quote(room_id)}/state/m.room.power_levels")
        self.put(c, carol, room_id, "m.room.power_levels", {**content, "users": {f"@carol:{C}": 100}})
        kick = {"user_id": f"@bob:{B}"}
        self.ok(self.a, olive, "POST", f"/rooms/{quote(room_id)}/kick", kick)
        self.a.ok("POST", f"{V3}/logout", {}, lost)
        self.net.heal()
        self.net.advance(600)
        self.say(c, carol, room_id, "are all here?")
        self.net.advance(60)
        members = self.ok(self.a, self.alice, "GET", f"/rooms/{quote(room_id)}/joined_members")["joined"]
        self.assertIn(f"@bob:{B}", members)
        self.assertEqual(["KEPT", "LATE"], self.devices(alice))
