"""Invites, knocks and leaves across servers. spec: server-server-api#inviting-to-a-room"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.federation.people import A, B, NetCase
from tests.support.databases import on_each_database

BOB = f"@bob:{B}"


@on_each_database
class RemoteInvite(NetCase):
    """alice of a invites bob of b."""

    def invite(self, room_id: str, user_id: str = BOB) -> Any:
        return self.call(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": user_id})

    def membership(self, room_id: str, user_id: str = BOB) -> str | None:
        """What alice's server says that somebody is."""
        answer = self.call(
            self.a, self.alice, "GET", f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user_id)}"
        )
        found: str | None = (answer.json or {}).get("membership")
        return found

    def test_every_room_version(self) -> None:
        for version in [str(number) for number in range(1, 13)]:
            room_id = self.create(self.a, self.alice, name=f"Room {version}", room_version=version)
            since = self.sync(self.b, self.bob)["next_batch"]
            self.assertEqual(200, self.invite(room_id).status, version)
            self.assertEqual("invite", self.membership(room_id))
            told = self.sync(self.b, self.bob, since)["rooms"]
            events = {
                (one["type"], one["state_key"]): one
                for one in told["invite"][room_id]["invite_state"]["events"]
            }
            self.assertEqual(f"Room {version}", events["m.room.name", ""]["content"]["name"])
            self.assertIn(("m.room.create", ""), events)
            self.assertEqual("invite", events["m.room.member", BOB]["content"]["membership"])
            self.assertEqual({"content", "sender", "state_key", "type"}, set(events["m.room.member", BOB]))
            initial = self.sync(self.b, self.bob)["rooms"]
            self.assertEqual(told["invite"][room_id], initial["invite"][room_id])
            # Without a server named: the inviter's is known.
            self.assertEqual(200, self.join(self.b, self.bob, room_id).status, version)
            self.assertEqual("join", self.membership(room_id))
            after = self.sync(self.b, self.bob)["rooms"]
            self.assertNotIn(room_id, after.get("invite", {}))
            self.assertIn(room_id, after["join"])

    def test_a_restart_forgets_nothing(self) -> None:
        room_id = self.create(self.a, self.alice, name="Room")
        self.invite(room_id)
        before = self.sync(self.b, self.bob)["rooms"]["invite"]
        self.b.restart()
        self.assertEqual(before, self.sync(self.b, self.bob)["rooms"]["invite"])

    def test_rejected(self) -> None:
        room_id = self.create(self.a, self.alice)
        self.invite(room_id)
        since = self.sync(self.b, self.bob)["next_batch"]
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(room_id)}/leave", {})
        self.assertEqual("leave", self.membership(room_id))
        told = self.sync(self.b, self.bob, since)["rooms"]
        (event,) = told["leave"][room_id]["timeline"]["events"]
        self.assertEqual(("m.room.member", "leave"), (event["type"], event["content"]["membership"]))
        self.assertNotIn("rooms", self.sync(self.b, self.bob))
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(room_id)}/forget", {})
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(room_id)}/leave", {})

    def test_rejected_while_the_other_server_is_away(self) -> None:
        room_id = self.create(self.a, self.alice)
        self.invite(room_id)
        self.net.down(A)
        since = self.sync(self.b, self.bob)["next_batch"]
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(room_id)}/leave", {})
        (event,) = self.sync(self.b, self.bob, since)["rooms"]["leave"][room_id]["timeline"]["events"]
        self.assertEqual((BOB, "leave"), (event["sender"], event["content"]["membership"]))
        self.net.up(A)
        self.assertEqual("invite", self.membership(room_id))
        # And again: the room was not let in by that.
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.assertEqual("join", self.membership(room_id))
