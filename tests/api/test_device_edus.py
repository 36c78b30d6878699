"""What other servers are told of our users' devices, as it is read back for their queues.

spec: server-server-api#device-management
"""

from __future__ import annotations

from typing import Any

import msgspec

from federation.canonical import encode
from federation.edus import DeviceListUpdate, DirectToDevice, SigningKeyUpdate, parse_edu
from federation.ids import ServerName
from homeserver.e2ee.outgoing import Due, load_device_edus
from homeserver.e2ee.to_device import EDU_BYTES
from homeserver.store.to_device import forget_sent, load_destinations_at, load_outgoing_destinations
from tests.api.keys import KeysCase
from tests.api.rooms import ALICE, V3
from tests.api.servers import set_membership
from tests.support.app import SERVER_NAME
from tests.support.databases import on_each_database
from tests.support.keys import CrossKeys

FAR = "far.example"
DAVE = f"@dave:{FAR}"


class OutgoingCase(KeysCase):
    def position(self) -> int:
        position: int = self.app.app.core.changes.position
        return position

    def load(
        self, after: int, rooms: list[str], fresh: list[str] | None = None, most: int = 100, upto: int = 0
    ) -> list[tuple[int, Any]]:
        """The parsed EDUs for the other server, each with its position."""
        nids = {room_id: self.app.app.core.interner.known_room(room_id) or 0 for room_id in rooms}
        due = Due(FAR, list(nids.values()), [nids[room_id] for room_id in fresh or []])
        upto = upto or self.position()
        found = self.app.wait(self.app.database.read(load_device_edus, due, after, upto, most))
        self.assertEqual(sorted(pos for pos, _ in found), [pos for pos, _ in found])
        self.assertTrue(all(after < pos <= upto for pos, _ in found), (after, found))
        edus = [(pos, msgspec.json.decode(text)) for pos, text in found]
        self.assertEqual([encode(edu) for _, edu in edus], [text for _, text in found], "canonical JSON")
        return [(pos, parse_edu(edu, ServerName(SERVER_NAME))) for pos, edu in edus]


@on_each_database
class Lists(OutgoingCase):
    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.create(preset="public_chat")
        self.start = self.position()
        self.token, self.phone = self.device("alice", "PHONE")
        self.desk_token, self.desk = self.device("alice", "DESK")
        self.device("bob", "ELSE")  # who shares no room with them

    def updates(self, after: int) -> list[tuple[int, str, tuple[int, ...], bool]]:
        """Position, device, what goes before, whether it is gone."""
        found = self.load(after, [self.room_id])
        result: list[tuple[int, str, tuple[int, ...], bool]] = []
        for pos, edu in found:
            assert isinstance(edu, DeviceListUpdate)
            self.assertEqual(pos, edu.stream_id)
            result.append((pos, edu.device_id, edu.prev_ids, edu.deleted))
        return result

    def test_each_device_once_in_a_chain(self) -> None:
        first, second = self.updates(self.start)
        self.assertEqual(("PHONE", (), False), first[1:])
        self.assertEqual(("DESK", (first[0],), False), second[1:])
        edu = self.load(self.start, [self.room_id])[0][1]
        self.assertEqual((ALICE, self.phone.keys(), None), (edu.user_id, edu.keys, edu.display_name))
        # Whoever has the first goes on from there.
        self.assertEqual([second], self.updates(first[0]))
        self.assertEqual([], self.updates(second[0]))

    def test_only_what_a_device_is_now(self) -> None:
        known = self.updates(self.start)[-1][0]
        for number in range(3):
            name = {"display_name": f"name {number}"}
            self.app.ok("PUT", f"{V3}/devices/PHONE", name, self.token)
        self.ok(self.desk_token, "/logout")
        self.app.ok("PUT", f"{V3}/devices/PHONE", {"display_name": "last"}, self.token)
        desk, phone = self.updates(known)
        self.assertEqual(("DESK", (known,), True), desk[1:])
        self.assertEqual(("PHONE", (desk[0],), False), phone[1:])
        edu = self.load(known, [self.room_id])[-1][1]
        self.assertEqual(("last", self.phone.keys()), (edu.display_name, edu.keys))
        # Up to an earlier position the chain is the one that was sent then.
        self.assertEqual([], self.load(known, [self.room_id], upto=known + 1)[1:])

    def test_only_for_those_who_share_a_room(self) -> None:
        self.assertEqual([], self.load(self.start, []))
        other = self.create(self.bob)
        self.assertEqual(["ELSE"], [edu.device_id for _, edu in self.load(self.start, [other], [other])])

    def test_who_comes_is_told_of_in_whole(self) -> None:
        after = self.position()
        self.ok(self.bob, f"/join/{self.room_id}")
        found = self.load(after, [self.room_id])
        self.assertEqual([("ELSE", ())], [(edu.device_id, edu.prev_ids) for _, edu in found])
        # A server that comes into the room hears of everybody there, even of what is old.
        whole = self.load(self.position() - 1, [self.room_id], [self.room_id])
        self.assertEqual(["PHONE", "DESK", "ELSE"], [edu.device_id for _, edu in whole])
        prev_ids = {edu.device_id: edu.prev_ids for _, edu in whole}
        self.assertEqual(((), ()), (prev_ids["PHONE"], prev_ids["ELSE"]))
        self.assertEqual(1, len(prev_ids["DESK"]))
        # Of whom it knew from another room it hears nothing again.
        second = self.create(preset="public_chat")
        self.assertEqual([], self.load(self.position() - 1, [self.room_id, second], [second]))

    def test_who_comes_finds_out_what_they_missed(self) -> None:
        """A server that has kept a list from before must not take it for good where a device went meanwhile."""
        tablet_token, _ = self.device("alice", "TABLET")
        self.ok(self.desk_token, "/logout")
        desk = self.updates(self.start)[-1][0]
        self.app.ok("PUT", f"{V3}/devices/PHONE", {"display_name": "last"}, self.token)

        def told() -> list[tuple[str, tuple[int, ...], bool]]:
            whole = [edu for _, edu in self.load(self.position() - 1, [self.room_id], [self.room_id])]
            return [(edu.device_id, edu.prev_ids, edu.deleted) for edu in whole]

        # Not what is gone, but that something was before.
        self.assertEqual([("TABLET", (), False), ("PHONE", (desk,), False)], told())
        renamed = self.updates(desk)[0][0]
        self.ok(tablet_token, "/logout")
        self.assertEqual([("PHONE", (desk,), False), ("TABLET", (renamed,), True)], told())

    def test_cross_signing_keys(self) -> None:
        after = self.position()
        cross = CrossKeys(ALICE)
        self.ok(self.alice, "/keys/device_signing/upload", cross.body())
        [(_, edu)] = self.load(after, [self.room_id])
        assert isinstance(edu, SigningKeyUpdate)
        self.assertEqual(
            (cross.key("master"), cross.key("self_signing")), (edu.master_key, edu.self_signing_key)
        )
        after = self.position()
        signed = cross.self_signing.sign(self.phone.keys())
        self.ok(self.alice, "/keys/signatures/upload", {ALICE: {"PHONE": signed}})
        [(_, update)] = self.load(after, [self.room_id])
        assert isinstance(update, DeviceListUpdate)
        self.assertEqual(signed, update.keys)

    def test_some_at_a_time(self) -> None:
        set_membership(self.app, self.room_id, DAVE, "join")
        for number in range(5):
            self.send_to(self.alice, {DAVE: {"X": {"n": number}}}, f"t{number}")
        whole = self.load(self.start, [self.room_id])
        after, found = self.start, []
        while part := self.load(after, [self.room_id], most=2):
            found += part
            after = part[-1][0]
        self.assertEqual(whole, found)
        self.assertEqual(7, len(found))


@on_each_database
class Messages(OutgoingCase):
    def test_wait_until_they_are_sent(self) -> None:
        after = self.position()
        other = "@erin:other.example"
        messages = {
            DAVE: {"X": {"n": 1, "nul": "\0"}, "*": {"n": 2}},
            other: {"Y": {"n": 3}},
            ALICE: {"*": {}},
        }
        for _ in range(2):
            self.assertEqual((200, {}), self.send_to(self.bob, messages, "t1", "m.dummy"))
        [(pos, edu)] = self.load(after, [])
        assert isinstance(edu, DirectToDevice)
        self.assertEqual(("@bob:test.example", "m.dummy"), (edu.sender, edu.type))
        self.assertLessEqual(len(edu.message_id), 32)
        found = {(one.user_id, one.device_id): one.content for one in edu.messages}
        self.assertEqual({(DAVE, "X"): {"n": 1, "nul": "\0"}, (DAVE, "*"): {"n": 2}}, found)
        self.app.restart()
        self.assertEqual([(pos, edu)], self.load(after, []))
        read, work = self.app.database.read, self.app.app.core.committer.work
        waiting = self.app.wait(read(load_outgoing_destinations))
        self.assertEqual({FAR, "other.example"}, set(waiting))
        self.assertEqual({pos: FAR}, self.app.wait(read(load_destinations_at, [pos, pos + 1_000])))
        self.app.wait(work(forget_sent, FAR, pos))
        self.assertEqual([], self.load(after, []))
        self.assertEqual({"other.example"}, set(self.app.wait(read(load_outgoing_destinations))))

    def test_no_edu_is_larger_than_it_must_be(self) -> None:
        after = self.position()
        text = "x" * (EDU_BYTES // 3)
        messages = {DAVE: {f"D{number}": {"text": text} for number in range(7)}}
        messages[DAVE]["LARGE"] = {"text": "x" * (EDU_BYTES + 10)}
        self.assertEqual((200, {}), self.send_to(self.bob, messages))
        edus = [edu for _, edu in self.load(after, [])]
        self.assertEqual([2, 2, 2, 1, 1], [len(edu.messages) for edu in edus])
        self.assertEqual(5, len({edu.message_id for edu in edus}))

    def test_keys_of_a_device_that_was_never_told(self) -> None:
        """A device that came and went while nobody looked is told of as gone, to those who may have heard of it."""
        room_id = self.create(preset="public_chat")
        after = self.position()
        token, _ = self.device("alice", "BRIEF")
        self.ok(token, "/logout")
        [(_, edu)] = self.load(after, [room_id])
        self.assertEqual(("BRIEF", True, None), (edu.device_id, edu.deleted, edu.keys))
        # And to who comes: they may have a list that they took for good, and would not miss anything.
        [(_, again)] = self.load(self.position() - 1, [room_id], [room_id])
        self.assertEqual(edu, again)
