"""What clients asked before there was ``/sync``, of rooms that their server is not in."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.federation.people import A, B, NetCase
from tests.support.databases import on_each_database

BOB = f"@bob:{B}"


@on_each_database
class RemoteInvites(NetCase):
    """alice of a invites bob of b."""

    def test_what_clients_asked_before_sync(self) -> None:
        room_id = self.create(self.a, self.alice)
        invite_path = f"/rooms/{quote(room_id)}/invite"
        self.ok(self.a, self.alice, "POST", invite_path, {"user_id": BOB})

        def shown() -> list[Any]:
            rooms: list[Any] = self.ok(self.b, self.bob, "GET", "/initialSync")["rooms"]
            return rooms

        (room,) = shown()
        self.assertEqual((room_id, "invite"), (room["room_id"], room["membership"]))
        invite = room["invite"]
        self.assertEqual(
            (f"@alice:{A}", BOB, room_id), (invite["sender"], invite["state_key"], invite["room_id"])
        )
        for kind, content in (
            ("m.ignored_user_list", {"ignored_users": {f"@alice:{A}": {}}}),
            ("m.invite_permission_config", {"default_action": "block"}),
        ):
            path = f"/user/{BOB}/account_data/{kind}"
            self.ok(self.b, self.bob, "PUT", path, content)
            self.assertEqual([], shown())
            self.ok(self.b, self.bob, "PUT", path, {})
