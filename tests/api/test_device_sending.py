"""Messages between devices and changes of their keys on their way to other servers: durable, each once, in order."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from federation.ids import ServerName
from federation.queue import OutgoingEdu, Transaction
from homeserver.peers.device_debts import EDUS_AT_ONCE, ROOMS_MOST, Debt
from homeserver.store.to_device import load_outgoing_destinations
from homeserver.stream.followers import STORE_AFTER_S
from tests.api.rooms import V3
from tests.api.sending import HOME, Mailbox, SendingCase
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.keys import log_in_with_keys

ALICE, USER = f"@alice:{HOME}", "@user:one.example"


class DevicesCase(SendingCase):
    def setUp(self) -> None:
        super().setUp()
        (self.one,) = self.join("one.example")
        self.sent = 0

    def message(self, text: str, user_id: str = USER) -> None:
        self.sent += 1
        body = {"messages": {user_id: {"PHONE": {"text": text}}}}
        self.home.ok("PUT", f"{V3}/sendToDevice/m.dummy/{self.sent}", body, self.alice)

    def log_in(self, device_id: str, name: str = "alice") -> str:
        """A device with keys."""
        return log_in_with_keys(self.home, f"@{name}:{HOME}", device_id)

    def messages(self, box: Mailbox) -> list[str]:
        contents = box.told("m.direct_to_device")
        for content in contents:
            self.assertEqual((content["sender"], content["type"]), (ALICE, "m.dummy"))
        return [content["messages"][f"@user:{box.name}"]["PHONE"]["text"] for content in contents]

    def devices(self, box: Mailbox) -> list[str]:
        return [content["device_id"] for content in box.told("m.device_list_update")]

    def outboxes(self) -> Any:
        return self.home.wait(self.home.database.read(load_outgoing_destinations))


@on_each_database
class Messages(DevicesCase):
    def test_each_once_and_then_forgotten(self) -> None:
        self.message("first")
        self.message("second")
        self.net.settle()
        self.assertEqual(self.messages(self.one), ["first", "second"])
        self.assertEqual(self.outboxes(), {})
        self.net.advance(2 * STORE_AFTER_S)
        self.assertEqual((self.messages(self.one), self.owing()), (["first", "second"], []))

    def test_an_outage_and_restarts(self) -> None:
        self.net.down("one.example")
        texts = [f"m{number}" for number in range(EDUS_AT_ONCE + 20)]
        for text in texts[:60]:
            self.message(text)
        self.net.advance(2 * STORE_AFTER_S)
        self.assertGreater(self.owing()[0].devices_after, 0)
        self.home.restart()
        for text in texts[60:]:
            self.message(text)
        self.say("and an event")
        self.net.advance(2 * STORE_AFTER_S)
        self.home.restart()
        self.net.up("one.example")
        self.net.advance(60)
        self.assertEqual(self.messages(self.one), texts)
        self.assertEqual(self.one.bodies, ["and an event"])
        self.assertEqual((self.outboxes(), self.owing()), ({}, []))

    def test_to_a_server_that_shares_no_room(self) -> None:
        two = Mailbox(self.net, "two.example")
        self.message("hello", "@user:two.example")
        self.net.settle()
        self.assertEqual((self.messages(two), self.messages(self.one)), (["hello"], []))

    def test_nothing_is_forgotten_before_it_is_acknowledged(self) -> None:
        self.one.answer = (500, {})
        self.message("first")
        self.net.settle()
        self.assertEqual(list(self.outboxes()), ["one.example"])
        self.message("second")
        self.one.answer = (200, {"pdus": {}})
        self.net.advance(30)
        self.assertEqual(self.messages(self.one), ["first", "second"])
        self.assertEqual(self.outboxes(), {})


@on_each_database
class Lists(DevicesCase):
    def test_servers_in_the_users_rooms_hear_of_changes(self) -> None:
        two = Mailbox(self.net, "two.example")
        other = self.home.register("other")
        room_id = self.home.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, other)["room_id"]
        self.move("@user:two.example", "join", room_id)
        self.log_in("PHONE")
        self.net.settle()
        self.assertEqual((self.devices(self.one), self.devices(two)), (["PHONE"], []))
        self.log_in("DESK")
        self.net.settle()
        self.assertEqual(self.devices(self.one), ["PHONE", "DESK"])
        first, second = self.one.told("m.device_list_update")
        self.assertEqual(second["prev_id"], [first["stream_id"]])

    def test_a_server_that_was_away(self) -> None:
        self.log_in("PHONE")
        self.net.settle()
        self.net.down("one.example")
        self.log_in("DESK")
        self.net.advance(2 * STORE_AFTER_S)
        self.home.restart()
        self.log_in("TABLET")
        self.net.advance(STORE_AFTER_S)
        self.net.up("one.example")
        self.net.advance(30)
        self.assertEqual(self.devices(self.one), ["PHONE", "DESK", "TABLET"])
        updates = self.one.told("m.device_list_update")
        for before, after in pairwise(updates):
            self.assertEqual(after["prev_id"], [before["stream_id"]])
        self.net.advance(2 * STORE_AFTER_S)
        self.assertEqual(self.owing(), [])

    def test_who_comes_to_share_a_room_is_told_in_whole(self) -> None:
        self.log_in("PHONE")
        self.net.settle()
        (two,) = self.join("two.example")
        self.assertEqual(self.devices(two), ["PHONE"])
        self.move("@second:two.example", "join")
        # A new name is not a new member.
        self.home.ok("PUT", f"{V3}/profile/{ALICE}/displayname", {"displayname": "A"}, self.alice)
        self.net.settle()
        self.assertEqual(self.devices(two), ["PHONE"])
        bob = self.home.register("bob")
        self.log_in("BOBS", "bob")
        self.net.settle()
        self.assertEqual(self.devices(two), ["PHONE"])
        self.home.ok("POST", f"{V3}/join/{self.room_id}", {}, bob)
        self.net.settle()
        self.assertEqual(self.devices(two), ["PHONE", "BOBS"])


class Debts(DatabaseCase):
    """The span of one destination."""

    def settle(self, debt: Debt, edus: list[OutgoingEdu]) -> bool:
        return debt.settle(Transaction("t", ServerName("one.example"), (), tuple(edus)))

    def test_a_span_is_read_and_settled(self) -> None:
        debt = Debt(10)
        self.assertFalse(debt.wants_reading)
        debt.add(12, 5, fresh=True)
        debt.add(14, 6)
        self.assertEqual(debt.ask(), ({5, 6}, {5}, 10, 14))
        edus = debt.read([(12, b"a"), (14, b"b")])
        debt.add(20, 5)
        self.assertFalse(debt.wants_reading, "one lot at a time")
        self.assertFalse(self.settle(debt, edus[:1]))
        self.assertTrue(self.settle(debt, edus[1:]))
        self.assertEqual((debt.after, debt.is_owed), (14, True))
        self.assertEqual(debt.ask(), ({5}, set(), 14, 20))
        self.assertEqual(debt.read([]), [])
        self.assertFalse(debt.is_owed)

    def test_more_than_one_lot(self) -> None:
        debt = Debt(0)
        debt.add(1000, 5, fresh=True)
        debt.ask()
        edus = debt.read([(pos, b"x") for pos in range(1, EDUS_AT_ONCE + 1)])
        self.assertTrue(self.settle(debt, edus))
        self.assertEqual(debt.ask(), ({5}, {5}, EDUS_AT_ONCE, 1000))

    def test_rooms_are_bounded(self) -> None:
        debt = Debt(0)
        for room_nid in range(1, ROOMS_MOST + 2):
            debt.add(room_nid, room_nid, fresh=True)
        self.assertEqual((debt.rooms, debt.fresh), (None, set()))
        debt.ask()
        debt.unask()
        self.assertIsNone(debt.rooms)

    def test_where_nothing_was_owed_nothing_before_is(self) -> None:
        debt = Debt(0)
        debt.add(100, settled=99)
        self.assertEqual(debt.after, 99)
        debt.add(200, settled=199)
        self.assertEqual((debt.after, debt.due), (99, 200))
