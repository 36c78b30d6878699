"""The EDUs of transactions: kept from each other, held to access control lists, stored before the answer.

# spec: server-server-api#edus
# spec: server-server-api#server-access-control-lists-acls
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from homeserver.db.errors import DatabaseUnavailable
from tests.api.receiving import ReceiveCase
from tests.api.rooms import ALICE, V3
from tests.support.counting import count
from tests.support.databases import on_each_database
from tests.support.peer import FEDERATION


@on_each_database
class Edus(ReceiveCase):
    def setUp(self) -> None:
        super().setUp()
        self.enter()
        self.said = self.app.ok(
            "PUT",
            f"{V3}/rooms/{self.room_id}/send/m.room.message/m",
            {"msgtype": "m.text", "body": "read me"},
            self.alice,
        )["event_id"]
        self.since = self.sync()["next_batch"]
        self.count = 0

    def sync(self, since: str | None = None) -> Any:
        query: dict[str, Any] = {} if since is None else {"since": since}
        return self.app.ok("GET", f"{V3}/sync", None, self.alice, query)

    def typing(self, **content: Any) -> dict[str, Any]:
        fields = {"room_id": self.room_id, "user_id": self.peer.user(), "typing": True, **content}
        return {"edu_type": "m.typing", "content": fields}

    def receipt(self) -> dict[str, Any]:
        receipt = {"event_ids": [self.said], "data": {"ts": 1_700_000_000_000}}
        return {"edu_type": "m.receipt", "content": {self.room_id: {"m.read": {self.peer.user(): receipt}}}}

    def message(self, body: str = "hi", **fields: Any) -> dict[str, Any]:
        self.count += 1
        content = {
            "sender": self.peer.user(),
            "type": "m.test",
            "message_id": f"message{self.count}",
            "messages": {ALICE: {"*": {"body": body}}},
            **fields,
        }
        return {"edu_type": "m.direct_to_device", "content": content}

    def ephemeral(self) -> list[str]:
        """The types of what alice is told of the room."""
        room = self.sync(self.since).get("rooms", {}).get("join", {}).get(self.room_id, {})
        return [event["type"] for event in room.get("ephemeral", {}).get("events", [])]

    def inbox(self) -> list[str]:
        """The bodies of alice's messages to devices."""
        events = self.sync(self.since).get("to_device", {}).get("events", [])
        return [event["content"]["body"] for event in events]

    def test_each_kind_arrives(self) -> None:
        edus = [self.typing(), self.receipt(), self.message()]
        self.assertEqual((200, {"pdus": {}}), self.peer.push(self.app, edus=edus))
        self.assertEqual(["m.receipt", "m.typing"], sorted(self.ephemeral()))
        self.assertEqual(["hi"], self.inbox())

    def test_others_under_the_same_id(self) -> None:
        """As servers send that begin to count anew with each start; and each again, which is told once."""
        for text in ("one", "two", "two"):
            body = self.peer.transaction([], [self.message(text, message_id=text)])
            self.assertEqual(
                (200, {"pdus": {}}), self.peer.call(self.app, "PUT", f"{FEDERATION}/send/1", body)
            )
        self.assertEqual(["one", "two"], self.inbox())

    def test_others_under_the_same_id_at_once(self) -> None:
        dispatcher: Any = self.app.app.services.incoming.receiver._edus
        dispatch, gates = dispatcher.dispatch, [Deferred[None](), Deferred[None]()]
        held = iter(gates)

        async def slow(*args: Any) -> None:
            await next(held)
            await dispatch(*args)

        dispatcher.dispatch = slow
        bodies = [self.peer.transaction([], [self.message(text)]) for text in ("one", "two")]
        waiting = [self.peer.start(self.app, "PUT", f"{FEDERATION}/send/1", body) for body in bodies]
        for one in waiting:
            self.assertTrue(self.pause(one))
        for gate in gates:
            gate.callback(None)
        self.assertEqual([200, 200], [self.app.wait(one).status for one in waiting])
        self.assertEqual(["one", "two"], sorted(self.inbox()))

    def test_one_that_fails_fails_alone(self) -> None:
        edus = [
            self.typing(user_id=ALICE),
            self.typing(room_id="!nowhere:x.example"),
            self.message(sender=ALICE),
            self.message(messages={"nobody": {}}),
            {"edu_type": "m.receipt", "content": {self.room_id: 1}},
            {"edu_type": "org.example.unknown", "content": {}},
            self.typing(),
            self.message("the last"),
        ]
        self.assertEqual((200, {"pdus": {}}), self.peer.push(self.app, edus=edus))
        self.assertEqual(["m.typing"], self.ephemeral())
        self.assertEqual(["the last"], self.inbox())

    def test_a_fault_of_ours_in_one(self) -> None:
        edus = self.app.app.services.incoming.receiver._edus
        ephemeral: Any = edus._ephemeral

        async def broken(*_: Any) -> None:
            raise ZeroDivisionError

        ephemeral.typing = broken
        said = self.room.say("hello")
        answer = self.peer.push(self.app, said, edus=[self.typing(), self.receipt()])
        self.assert_taken(answer, said)
        self.assertEqual(["m.receipt"], self.ephemeral())
        self.assertEqual(["EDU failed"], [entry[1] for entry in self.app.log.entries if entry[0] == "error"])
        self.app.log.entries.clear()

    def test_servers_that_are_kept_out(self) -> None:
        content = {"allow": ["*"], "deny": [self.peer.server_name]}
        self.app.ok("PUT", f"{V3}/rooms/{self.room_id}/state/m.room.server_acl", content, self.alice)
        self.since = self.sync(self.since)["next_batch"]
        edus = [self.typing(), self.receipt(), self.message()]
        self.assertEqual((200, {"pdus": {}}), self.peer.push(self.app, edus=edus))
        self.assertEqual([], self.ephemeral())
        # Messages to devices are of no room.
        self.assertEqual(["hi"], self.inbox())

    def test_messages_are_stored_before_the_answer(self) -> None:
        write = self.app.database.write
        held: list[Any] = []

        def hold(*args: Any, **named: Any) -> Deferred[Any]:
            result: Deferred[Any] = Deferred()
            held.append((result, args, named))
            return result

        self.app.database.write = hold  # type: ignore[method-assign]
        body = self.peer.transaction([], [self.message()])
        waiting = self.peer.start(self.app, "PUT", f"{FEDERATION}/send/held", body)
        self.assertTrue(self.pause(waiting))
        self.app.database.write = write  # type: ignore[method-assign]
        for result, args, named in held:
            write(*args, **named).chainDeferred(result)
        self.assertEqual(200, self.app.wait(waiting).status)
        self.assertEqual(["hi"], self.inbox())

    def test_messages_that_could_not_be_stored_come_again(self) -> None:
        write = self.app.database.write

        def fail(*args: Any, **named: Any) -> Deferred[Any]:
            result: Deferred[Any] = Deferred()
            result.errback(DatabaseUnavailable("gone"))
            return result

        body, uri = self.peer.transaction([], [self.message()]), f"{FEDERATION}/send/failed"
        self.app.database.write = fail  # type: ignore[method-assign]
        self.assertEqual(503, self.peer.call(self.app, "PUT", uri, body)[0])
        self.app.database.write = write  # type: ignore[method-assign]
        self.app.log.entries.clear()
        self.assertEqual(200, self.peer.call(self.app, "PUT", uri, body)[0])
        self.assertEqual(200, self.peer.call(self.app, "PUT", uri, body)[0])
        self.assertEqual(["hi"], self.inbox())

    def test_messages_that_a_stop_broke_off_come_again(self) -> None:
        keys: Any = self.app.app.services.incoming.receiver._edus._keys
        take = keys.direct_to_device
        keys.direct_to_device = lambda *_: Deferred()
        body, uri = self.peer.transaction([], [self.message()]), f"{FEDERATION}/send/broken-off"
        waiting = self.peer.start(self.app, "PUT", uri, body)
        self.assertTrue(self.pause(waiting))
        waiting.cancel()
        self.assertEqual(503, self.app.wait(waiting).status)
        keys.direct_to_device = take
        self.assertEqual(200, self.peer.call(self.app, "PUT", uri, body)[0])
        self.assertEqual(["hi"], self.inbox())

    def test_typing_costs_no_statement(self) -> None:
        self.peer.push(self.app, edus=[self.typing()])
        edus = [self.typing(typing=False), self.typing()]
        counted = count(self.app, lambda: self.peer.push(self.app, edus=edus))
        self.assertEqual([], counted.texts, counted)

    def test_a_hundred_messages_are_stored_at_once(self) -> None:
        self.peer.push(self.app, edus=[self.message()])
        self.since = self.sync(self.since)["next_batch"]
        edus = [self.message(str(number)) for number in range(100)]
        counted = count(self.app, lambda: self.peer.push(self.app, edus=edus))
        self.assertEqual(1, counted.transactions, counted)
        self.assertEqual(0, counted.written.count("incoming_transactions"))
        self.assertEqual([str(number) for number in range(100)], self.inbox())
