"""Keys of other servers' users while several things happen at the same time.

spec: client-server-api#key-and-signature-security
spec: server-server-api#device-management
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from homeserver.db.tx import WriteTx
from homeserver.e2ee.foreign import read_device
from homeserver.e2ee.shapes import foreign_signing_key
from homeserver.store.cross_signing import MASTER, SELF_SIGNING
from homeserver.store.device_lists import note_signing_change
from homeserver.store.remote_lists import (
    Fetched,
    Update,
    apply_signing_keys,
    apply_update,
    load_remote_lists,
    store_list,
)
from tests.api.rooms import V3
from tests.api.servers import set_membership
from tests.api.test_remote_keys import ALICE, BOB, RemoteCase
from tests.support.databases import on_each_database
from tests.support.keys import CrossKeys, KeyDevice


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


@on_each_database
class Batches(RemoteCase):
    """What is heard of a list while an older answer waits for the same transaction."""

    def setUp(self) -> None:
        super().setUp()
        self.core = self.near.app.core
        self.share_room()
        bob = self.core.interner.known_user(BOB)
        assert bob is not None
        self.bob = bob

    def late(self) -> Fetched:
        """An answer of now, which bob's server gave before anything else happened."""
        phone = read_device(BOB, self.bob, "PHONE", self.phone.keys(), None)
        assert phone is not None
        keys = [
            foreign_signing_key(self.cross.key(usage), BOB, usage, self.bob)
            for usage in (MASTER, SELF_SIGNING)
        ]
        return Fetched(
            self.bob,
            self.stream_id,
            self.core.changes.position,
            [phone],
            [one for one in keys if one is not None],
        )

    def update_of(self, device: KeyDevice, *prev_ids: int) -> Update:
        """What bob's server tells of a new device, and says in its answers from now on."""
        self.stream_id += 1
        self.devices[device.device_id] = device.keys()
        read = read_device(BOB, self.bob, device.device_id, device.keys(), None)
        return Update(self.bob, device.device_id, self.stream_id, prev_ids, read)

    def together(self, *waiting: Deferred[Any]) -> list[Any]:
        """What came of units of work that went into one transaction."""
        before = self.core.committer.batches
        found = [self.net.wait(one) for one in waiting]
        self.assertEqual(before + 1, self.core.committer.batches)
        return found

    def test_an_older_answer_does_not_bring_an_old_identity_back(self) -> None:
        self.query()
        late = self.late()
        self.cross = CrossKeys(BOB, "second")
        master = foreign_signing_key(self.cross.key("master"), BOB, MASTER, self.bob)
        assert master is not None
        work = self.core.committer.work
        _, good = self.together(work(apply_signing_keys, self.bob, [master]), work(store_list, late))
        self.assertFalse(good)
        self.assertEqual(self.cross.key("master"), self.query()["master_keys"][BOB])
        self.assertEqual(2, self.asked())

    def test_a_resync_goes_on_where_another_gap_came_with_its_answer(self) -> None:
        self.query()
        late = self.late()
        update = self.update_of(KeyDevice(BOB, "DESK"), 3)
        work = self.core.committer.work
        self.assertEqual([False, False], self.together(work(apply_update, update), work(store_list, late)))
        self.assertEqual({"DESK", "PHONE"}, set(self.query()["device_keys"][BOB]))
        self.assertEqual(2, self.asked())

    def test_the_first_answer_may_be_older_than_an_update(self) -> None:
        late = self.late()
        update = self.update_of(KeyDevice(BOB, "DESK"), self.stream_id)
        work = self.core.committer.work
        self.assertEqual([True, False], self.together(work(apply_update, update), work(store_list, late)))
        self.assertEqual({"DESK", "PHONE"}, set(self.query()["device_keys"][BOB]))
        self.assertEqual(1, self.asked())

    def test_what_others_did_and_what_came_to_nothing_is_no_reason(self) -> None:
        alice = self.core.interner.known_user(ALICE)
        assert alice is not None

        def fail(tx: WriteTx) -> None:
            note_signing_change(tx, self.bob)
            raise ZeroDivisionError

        work = self.core.committer.work
        failed = work(fail)
        _, good = self.together(work(note_signing_change, alice), work(store_list, self.late()))
        self.assertTrue(good)
        self.assertRaises(ZeroDivisionError, self.net.wait, failed)
        self.assertFalse(
            self.net.wait(self.near.database.read(load_remote_lists, [self.bob]))[self.bob].stale
        )
