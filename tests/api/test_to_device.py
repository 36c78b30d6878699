"""Messages to devices: each once, in order, until the device has them. spec: client-server-api#send-to-device-messaging"""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from homeserver.db.schema.e2ee import device_transactions, to_device
from homeserver.db.statements import statement
from homeserver.db.tx import Tx
from homeserver.e2ee import sections
from homeserver.e2ee.to_device import MAX_MESSAGE_BYTES
from homeserver.store import to_device as store
from homeserver.store.to_device import sweep_ids
from tests.api.keys import KeysCase
from tests.api.rooms import ALICE, BOB, V3
from tests.support.databases import on_each_database

_COUNT = statement(select(func.count()).select_from(to_device))
_TRANSACTIONS = statement(select(func.count()).select_from(device_transactions))


def _waiting(tx: Tx) -> int:
    return int(tx.value(_COUNT))


def _transactions(tx: Tx) -> int:
    return int(tx.value(_TRANSACTIONS))


@on_each_database
class Messages(KeysCase):
    def setUp(self) -> None:
        super().setUp()
        self.phone, _ = self.device("alice", "PHONE")
        self.desk, _ = self.device("alice", "DESK")

    def waiting(self) -> int:
        """How many messages are stored. What a sync has let go of is deleted while nobody waits for it."""
        self.app.advance(0)
        return self.app.wait(self.app.database.read(_waiting))

    def outgoing(self, destination: str) -> int:
        """How many messages wait for another server."""
        position = self.app.app.core.changes.position
        found = self.app.database.read(store.load_outgoing, destination, 0, position, 100)
        return len(self.app.wait(found))

    def send(self, device_id: str, *contents: Any) -> None:
        """Bob sends to alice, one request each."""
        for content in contents:
            txn_id = f"t{self.sent}"
            self.sent += 1
            self.assertEqual((200, {}), self.send_to(self.bob, {ALICE: {device_id: content}}, txn_id))

    sent = 0

    def test_for_the_device_alone_and_gone_when_it_has_it(self) -> None:
        since = self.sync(self.phone)["next_batch"]
        self.send("PHONE", {"secret": "x\0y"})
        self.assertEqual([], self.messages(self.sync(self.desk)))
        answer = self.sync(self.phone, since)
        event = {"type": "m.room_key_request", "sender": BOB, "content": {"secret": "x\0y"}}
        self.assertEqual([event], answer["to_device"]["events"])
        # The answer may have been lost.
        self.assertEqual([event], self.sync(self.phone, since)["to_device"]["events"])
        self.assertEqual([event], self.sync(self.phone)["to_device"]["events"])
        self.assertEqual(1, self.waiting())
        self.assertNotIn("to_device", self.sync(self.phone, answer["next_batch"]))
        self.assertEqual(0, self.waiting())
        self.assertNotIn("to_device", self.sync(self.phone))

    def test_a_sync_that_waits(self) -> None:
        since = self.sync(self.phone)["next_batch"]
        query = {"since": since, "timeout": 30_000}
        waiting = self.app.start("GET", f"{V3}/sync", None, self.phone, query)
        other = self.app.start(
            "GET", f"{V3}/sync", None, self.desk, {**query, "since": self.sync(self.desk)["next_batch"]}
        )
        self.assertFalse(waiting.called)
        self.send("PHONE", {"n": 1})
        self.assertEqual([{"n": 1}], self.messages(self.app.wait(waiting).json))
        # Woken with her other device, and found nothing.
        self.app.advance(1)
        self.assertFalse(other.called)
        self.app.advance(30)
        self.assertEqual([], self.messages(self.app.wait(other).json))

    def test_all_devices(self) -> None:
        self.send("*", {"n": 1})
        # Alice's first device as well.
        for token in (self.phone, self.desk, self.alice):
            self.assertEqual([{"n": 1}], self.messages(self.sync(token)))
        own = {ALICE: {"*": {"n": 2}, "DESK": {"n": 3}}}
        self.assertEqual((200, {}), self.send_to(self.phone, own))
        self.assertEqual([{"n": 1}, {"n": 3}], self.messages(self.sync(self.desk)))
        self.assertEqual([{"n": 1}, {"n": 2}], self.messages(self.sync(self.phone)))

    def test_a_transaction_is_done_once(self) -> None:
        for _ in range(3):
            self.assertEqual((200, {}), self.send_to(self.bob, {ALICE: {"PHONE": {"n": 1}}}, "same"))
        self.app.restart()
        self.assertEqual((200, {}), self.send_to(self.bob, {ALICE: {"PHONE": {"n": 2}}}, "same"))
        self.assertEqual([{"n": 1}], self.messages(self.sync(self.phone)))
        # Under another type, or of another device, it is another.
        self.send_to(self.bob, {ALICE: {"PHONE": {"n": 3}}}, "same", "m.dummy")
        self.send_to(self.desk, {ALICE: {"PHONE": {"n": 4}}}, "same")
        self.assertEqual([{"n": 1}, {"n": 3}, {"n": 4}], self.messages(self.sync(self.phone)))

    def test_at_the_same_time(self) -> None:
        path, body = f"{V3}/sendToDevice/m.dummy/one", {"messages": {ALICE: {"PHONE": {"n": 1}}}}
        sent = [self.app.start("PUT", path, body, self.bob) for _ in range(5)]
        self.assertEqual([200] * 5, [self.app.wait(one).status for one in sent])
        self.assertEqual([{"n": 1}], self.messages(self.sync(self.phone)))

    def test_ids_of_transactions_are_forgotten(self) -> None:
        self.send("PHONE", {"n": 1}, {"n": 2})
        self.assertEqual(2, self.app.wait(self.app.database.read(_transactions)))
        core = self.app.app.core
        now_ms = core.around.clock.now_ms()
        self.assertEqual(0, self.app.wait(core.committer.work(sweep_ids, now_ms, 10)))
        self.assertEqual(2, self.app.wait(core.committer.work(sweep_ids, now_ms + 1, 10)))
        self.assertEqual(0, self.app.wait(self.app.database.read(_transactions)))

    def test_many_come_some_at_a_time_and_the_next_at_once(self) -> None:
        since = self.sync(self.phone)["next_batch"]
        contents = [{"n": number} for number in range(250)]
        self.send("PHONE", *contents)
        found: list[Any] = []
        sizes: list[int] = []
        for _ in range(2):
            # Each asks as a client does, ready to wait: it must not.
            waiting = self.app.start(
                "GET", f"{V3}/sync", None, self.phone, {"since": since, "timeout": 30_000}
            )
            answer = self.app.wait(waiting).json
            sizes.append(len(self.messages(answer)))
            found += self.messages(answer)
            since = answer["next_batch"]
            # Nothing is deleted while the next page is waited for.
            self.assertEqual(250, self.waiting())
        self.assertEqual(([100, 150], contents), (sizes, found))
        self.assertNotIn("to_device", self.sync(self.phone, since))
        self.assertEqual(0, self.waiting())

    def test_pages_grow_while_they_are_taken(self) -> None:
        since = self.sync(self.phone)["next_batch"]
        self.send("PHONE", *({"n": number} for number in range(40)))
        self.patch(sections, "MESSAGES_MOST", 2)
        self.patch(sections, "MESSAGES_LARGEST", 6)
        self.app.restart()
        told: list[int] = []

        def page(token: str) -> tuple[int, str]:
            answer = self.sync(self.phone, token)
            told.extend(one["n"] for one in self.messages(answer))
            return len(self.messages(answer)), answer["next_batch"]

        sizes = []
        for _ in range(4):
            size, since = page(since)
            sizes.append(size)
        self.assertEqual([2, 4, 6, 6], sizes)
        self.assertEqual(list(range(18)), told)
        # An answer that did not arrive, or was too much: a small one, and from there on larger ones.
        page(since)
        size, since = page(since)
        self.assertEqual((2, [18, 19]), (size, told[-2:]))
        self.assertEqual(4, page(since)[0])
        self.app.restart()
        self.assertEqual(2, page(since)[0])
        while size:
            size, since = page(since)
        # Who has all begins anew.
        self.send("PHONE", *({"n": 100 + number} for number in range(3)))
        self.assertEqual(2, page(since)[0])

    def test_what_a_device_has_is_deleted_when_it_has_much(self) -> None:
        since = self.sync(self.phone)["next_batch"]
        self.send("PHONE", *({"n": number} for number in range(12)))
        self.patch(sections, "MESSAGES_MOST", 2)
        self.patch(sections, "MESSAGES_LARGEST", 2)
        self.patch(sections, "_TAKEN_MOST", 3)
        self.app.restart()
        left: list[int] = []
        told: list[int] = []
        while len(told) < 12:
            answer = self.sync(self.phone, since)
            since = answer["next_batch"]
            told += [one["n"] for one in self.messages(answer)]
            left.append(self.waiting())
            self.sync(self.phone, since)  # it asks twice for each page: that is one page taken
        self.assertEqual(list(range(12)), told)
        self.assertEqual([12, 12, 12, 6, 6, 2], left)
        self.sync(self.phone, since)
        self.assertEqual(0, self.waiting())

    def test_some_of_many_across_a_restart_and_with_newer_ones(self) -> None:
        since = self.sync(self.phone)["next_batch"]
        self.send("PHONE", *({"n": number} for number in range(150)))
        answer = self.sync(self.phone, since)
        first = self.messages(answer)
        self.app.restart()
        self.send("PHONE", {"n": 150})
        again = self.sync(self.phone, answer["next_batch"])
        self.assertEqual([{"n": number} for number in range(151)], first + self.messages(again))
        # A token from before a restart whose tail nobody understands is a token of nobody.
        status, error = self.app.call("GET", f"{V3}/sync", None, self.phone, {"since": f"{since}_x"})
        self.assertEqual((400, "M_INVALID_PARAM"), (status, error["errcode"]))

    def test_large_ones(self) -> None:
        text = "x" * (MAX_MESSAGE_BYTES - 100)
        count = store.PAGE_BYTES // len(text) + 2
        since = self.sync(self.phone)["next_batch"]
        for number in range(count):
            self.send("PHONE", {"n": number, "text": text})
        found: list[int] = []
        while len(found) < count:
            answer = self.sync(self.phone, since)
            part = [one["n"] for one in self.messages(answer)]
            self.assertTrue(0 < len(part) < count)
            found += part
            since = answer["next_batch"]
        self.assertEqual(list(range(count)), found)

    def test_an_inbox_goes_with_its_device(self) -> None:
        self.send("PHONE", {"n": 1})
        self.send("DESK", {"n": 2})
        self.ok(self.phone, "/logout")
        self.assertEqual(1, self.waiting())
        token, _ = self.device("alice", "PHONE")
        self.assertEqual([], self.messages(self.sync(token)))
        self.assertEqual([{"n": 2}], self.messages(self.sync(self.desk)))

    def test_an_inbox_holds_so_many(self) -> None:
        self.patch(store, "INBOX_MOST", 3)
        self.send("PHONE", *({"n": number} for number in range(5)))
        self.send("DESK", {"n": 9})
        answer = self.sync(self.phone)
        self.assertEqual([{"n": 0}, {"n": 1}, {"n": 2}], self.messages(answer))
        self.assertEqual([{"n": 9}], self.messages(self.sync(self.desk)))
        self.sync(self.phone, answer["next_batch"])
        self.send("PHONE", {"n": 5})
        self.assertEqual([{"n": 5}], self.messages(self.sync(self.phone)))

    def test_so_much_waits_for_another_server_and_no_more(self) -> None:
        self.patch(store, "OUTBOX_MOST", 2)
        far: Any = {"@dave:far.example": {"X": {}}}
        for number in range(2):
            self.assertEqual((200, {}), self.send_to(self.bob, far, f"t{number}"))
        # The messages of everybody else do not wait for it.
        other: Any = {"@erin:other.example": {"Y": {}}}
        both = {**far, **other, ALICE: {"PHONE": {"n": 1}}}
        self.assertEqual((200, {}), self.send_to(self.bob, both, "t2"))
        self.assertEqual([{"n": 1}], self.messages(self.sync(self.phone)))
        self.assertEqual((2, 1), (self.outgoing("far.example"), self.outgoing("other.example")))
        dropped = [fields["destination"] for _, event, fields in self.app.log.entries if "dropped" in event]
        self.assertEqual(["far.example"], dropped)
        # As far as there is room again, and a retry is a repetition all the same.
        self.patch(store, "OUTBOX_MOST", 3)
        self.assertEqual((200, {}), self.send_to(self.bob, both, "t2"))
        self.assertEqual(2, self.outgoing("far.example"))
        self.assertEqual((200, {}), self.send_to(self.bob, far, "t3"))
        self.assertEqual(3, self.outgoing("far.example"))

    def test_a_rooms_key_for_all_devices_in_one_request(self) -> None:
        """As mautrix-go and Nheko send it, by Olm and with the keys of the sender's device."""
        content = {
            "algorithm": "m.olm.v1.curve25519-aes-sha2",
            "ciphertext": {"k" * 43: {"body": "b" * 2_200}},
        }
        messages: Any = {
            f"@somebody{number}:far{number % 3}.example": {f"DEVICE{n}": content for n in range(4)}
            for number in range(1_500)
        }
        messages[ALICE] = {"PHONE": {"n": 1}}
        self.assertEqual((200, {}), self.send_to(self.bob, messages))
        self.assertEqual([{"n": 1}], self.messages(self.sync(self.phone)))
        # So many as fit into an EDU.
        self.assertTrue(3 * 70 < sum(self.outgoing(f"far{n}.example") for n in range(3)) < 3 * 85)

    def test_numbers_that_no_server_would_sign(self) -> None:
        self.send("PHONE", {"x": 1.5, "y": 2**60})
        self.assertEqual([{"x": 1.5, "y": 2**60}], self.messages(self.sync(self.phone)))

    def test_nobody(self) -> None:
        messages: Any = {ALICE: {"NONE": {}}, "@nobody:test.example": {"*": {}, "X": {}}}
        self.assertEqual((200, {}), self.send_to(self.bob, messages))
        self.assertEqual(0, self.waiting())
        self.assertEqual((200, {}), self.send_to(self.bob, {}, "t2"))

    def test_refused(self) -> None:
        messages: Any
        cases: list[tuple[Any, int, str]] = [
            (None, 400, "M_BAD_JSON"),
            ([], 400, "M_BAD_JSON"),
            ({ALICE: []}, 400, "M_BAD_JSON"),
            ({ALICE: {"PHONE": 1}}, 400, "M_BAD_JSON"),
            ({"alice": {"PHONE": {}}}, 400, "M_INVALID_PARAM"),
            ({"@a:b\0": {"PHONE": {}}}, 400, "M_INVALID_PARAM"),
            ({ALICE: {"": {}}}, 400, "M_INVALID_PARAM"),
            ({ALICE: {"x\0": {}}}, 400, "M_INVALID_PARAM"),
            ({ALICE: {"x" * 256: {}}}, 400, "M_INVALID_PARAM"),
            ({ALICE: {"PHONE": {"x": "x" * MAX_MESSAGE_BYTES}}}, 413, "M_TOO_LARGE"),
            ({"@dave:far.example": {"X": {"x": 1.5}}}, 400, "M_BAD_JSON"),
            ({"@dave:far.example": {"X": {"x": 2**60}}}, 400, "M_BAD_JSON"),
            ({ALICE: {str(number): {} for number in range(10_001)}}, 413, "M_TOO_LARGE"),
            ({ALICE: {str(number): {"x": [{}] * 100} for number in range(5_000)}}, 413, "M_TOO_LARGE"),
        ]
        for messages, status, errcode in cases:
            self.assert_refused(self.send_to(self.bob, messages), status, errcode)
        answer = self.send_to(self.bob, {ALICE: {"PHONE": {}}}, "t" * 256)
        self.assert_refused(answer, 400, "M_INVALID_PARAM")
        answer = self.send_to(self.bob, {ALICE: {"PHONE": {}}}, "t", "t" * 256)
        self.assert_refused(answer, 400, "M_INVALID_PARAM")
        self.assertEqual(0, self.waiting())
