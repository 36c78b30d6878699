"""Device lists and answers that are as large as may be."""

from __future__ import annotations

from homeserver.store import remote_lists
from tests.api.test_remote_keys import BOB, DEVICES, RemoteCase
from tests.support.databases import on_each_database
from tests.support.keys import KeyDevice


@on_each_database
class FullLists(RemoteCase):
    def setUp(self) -> None:
        super().setUp()
        self.share_room()
        self.query()
        self.update(self.phone)
        self.assertEqual(1, self.resynced(), "it is fetched with its stream id")

    def resynced(self) -> int:
        """How often the whole list was fetched."""
        self.net.settle()
        return self.asked(DEVICES)

    def test_devices(self) -> None:
        """What is told of those that are known counts, and one that there is no room for makes the list be fetched."""
        self.patch(remote_lists, "MAX_DEVICES", 1)
        self.update(self.phone, self.stream_id, device_display_name="Bob's pocket")
        told = self.query()["device_keys"][BOB]["PHONE"]["unsigned"]
        self.assertEqual(({"device_display_name": "Bob's pocket"}, 1), (told, self.resynced()))
        desk = KeyDevice(BOB, "DESK")
        self.devices = {"DESK": desk.keys()}
        self.update(desk, self.stream_id)
        self.assertEqual((2, ["DESK"]), (self.resynced(), list(self.query()["device_keys"][BOB])))
