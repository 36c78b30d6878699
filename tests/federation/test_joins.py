"""Joins across servers, with everybody honest. spec: server-server-api#joining-rooms"""

from __future__ import annotations

from tests.federation.people import A, NetCase
from tests.support.databases import on_each_database


@on_each_database
class RemoteJoin(NetCase):
    """bob of b joins alice's rooms on a."""

    def test_every_room_version(self) -> None:
        for version in [str(number) for number in range(1, 13)]:
            room_id = self.create(self.a, self.alice, preset="public_chat", name="Room", room_version=version)
            self.say(self.a, self.alice, room_id, "before")
            self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status, version)
            self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob))
            self.say(self.b, self.bob, room_id, "after")
            joined = self.sync(self.b, self.bob)["rooms"]["join"][room_id]
            self.assertEqual("after", joined["timeline"]["events"][-1]["content"]["body"])
            self.assertEqual(2, joined["summary"]["m.joined_member_count"])
