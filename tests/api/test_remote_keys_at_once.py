"""Keys of other servers' users while several things happen at the same time.

spec: client-server-api#key-and-signature-security
spec: server-server-api#device-management
"""

from __future__ import annotations

from typing import Any

from tests.api.rooms import V3
from tests.api.servers import set_membership
from tests.api.test_remote_keys import ALICE, BOB, RemoteCase
from tests.support.databases import on_each_database
from tests.support.keys import CrossKeys


@on_each_database
class Askers(RemoteCase):
    def setUp(self) -> None:
        super().setUp()
        self.carol = self.near.register("carol")

    def test_whom_alice_verified_is_told_to_nobody_who_asks_with_her(self) -> None:
        room_id = self.share_room()
        self.query()
        own = CrossKeys(ALICE)
        self.near.ok("POST", f"{V3}/keys/device_signing/upload", own.body(), self.alice)
        master = self.cross.key("master")
        signed = own.user_signing.sign(master)
        body: Any = {BOB: {self.cross.master.public_key: signed}}
        self.near.ok("POST", f"{V3}/keys/signatures/upload", body, self.alice)
        set_membership(self.near, room_id, BOB, "leave")  # so that his server is asked
        for some in ([], ["PHONE"]):
            body = {"device_keys": {BOB: some}}
            before = self.asked()
            asked = [
                self.near.start("POST", f"{V3}/keys/query", body, token)
                for token in (self.alice, self.carol, self.alice)
            ]
            told = [self.net.wait(one).json["master_keys"][BOB] for one in asked]
            self.assertEqual([signed, master, signed], told)
            self.assertEqual(before + 1, self.asked())
