"""What application services are told beside events: typing, receipts, presence, messages to devices, keys."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from twisted.internet.defer import Deferred

from homeserver.appservices import bundles
from homeserver.config.registrations import AppserviceRegistration, Namespace, Pattern
from homeserver.db.schema.e2ee import to_device
from homeserver.db.statements import statement
from homeserver.http.client import HttpResponse
from homeserver.store.appservices import load_owed, load_progress
from homeserver.store.device_lists import load_sharing
from tests.api.servers import set_membership
from tests.api.test_appservice_transactions import GHOST, V3, BridgeCase
from tests.support.app import SERVER_NAME
from tests.support.appservices import AS_TOKEN, registration
from tests.support.databases import on_each_database
from tests.support.keys import KeyDevice

ALICE, BOB = f"@alice:{SERVER_NAME}", f"@bob:{SERVER_NAME}"
EVE = f"@_bridge_eve:{SERVER_NAME}"
FAR, FARTHER = "@far:elsewhere.example", "@farther:elsewhere.example"
COUNT = statement(select(func.count()).select_from(to_device))
TO_DEVICE = "de.sorunome.msc2409.to_device"


class EphemeralCase(BridgeCase):
    def told_of(self, kind: str, key: str = "ephemeral") -> list[Any]:
        """The ephemeral events of a type, in order."""
        return [e for body in self.http.transactions() for e in body.get(key, ()) if e["type"] == kind]

    def member(self, key: str) -> list[Any]:
        """What transactions said under a name."""
        return [body[key] for body in self.http.transactions() if key in body]

    def make_device(self, device_id: str = "PHONE", user_id: str = GHOST) -> KeyDevice:
        self.as_ghost_status("PUT", f"{V3}/devices/{device_id}", {}, user_id)
        return KeyDevice(user_id, device_id)

    def as_ghost_status(self, method: str, path: str, body: Any, user_id: str = GHOST) -> None:
        status, json = self.app.call(method, path, body, AS_TOKEN, {"user_id": user_id})
        self.assertIn(status, (200, 201), json)

    def send_message(self, number: int, device_id: str = "PHONE", user_id: str = GHOST) -> None:
        body = {"messages": {user_id: {device_id: {"number": number}}}}
        self.app.ok("PUT", f"{V3}/sendToDevice/m.test/n{number}", body, self.alice)
        self.settle()

    def numbers(self) -> list[int]:
        return [event["content"]["number"] for event in self.told_of("m.test", TO_DEVICE)]

    def inbox(self) -> int:
        """How many messages wait in the tables."""
        return int(self.app.wait(self.app.database.read(lambda tx: tx.value(COUNT))))


@on_each_database
class Ephemeral(EphemeralCase):
    def registrations(self) -> list[AppserviceRegistration]:
        return [registration(receive_ephemeral=True)]

    def test_typing(self) -> None:
        room_id = self.portal()
        self.settle(1)
        self.forget()
        path = f"{V3}/rooms/{room_id}/typing/{ALICE}"
        for _ in range(3):
            self.app.ok("PUT", path, {"typing": True, "timeout": 30_000}, self.alice)
            self.settle(1)
        self.app.ok("PUT", path, {"typing": False}, self.alice)
        self.settle(1)
        self.assertEqual(
            [
                {"type": "m.typing", "room_id": room_id, "content": {"user_ids": [ALICE]}},
                {"type": "m.typing", "room_id": room_id, "content": {"user_ids": []}},
            ],
            self.told_of("m.typing"),
        )
        self.assertEqual([], [event for body in self.http.transactions() for event in body["events"]])

    def test_typing_elsewhere(self) -> None:
        other = self.app.ok("POST", f"{V3}/createRoom", {}, self.alice)["room_id"]
        self.settle(1)
        self.forget()
        path = f"{V3}/rooms/{other}/typing/{ALICE}"
        self.app.ok("PUT", path, {"typing": True, "timeout": 30_000}, self.alice)
        self.settle(1)
        self.assertEqual([], self.told_of("m.typing"))

    def test_receipts(self) -> None:
        room_id = self.portal()
        event_id = self.say(room_id, "read me")
        self.settle(1)
        self.forget()
        path = f"{V3}/rooms/{room_id}/receipt"
        self.app.ok("POST", f"{path}/m.read.private/{event_id}", {}, self.alice)
        self.settle()
        self.assertEqual([], self.told_of("m.receipt"), "what alice reads in private is nobody's business")
        self.as_ghost("POST", f"{path}/m.read.private/{event_id}", {})
        self.app.ok("POST", f"{path}/m.read/{event_id}", {"thread_id": "main"}, self.alice)
        self.settle()
        private, public = self.told_of("m.receipt")
        self.assertEqual(room_id, public["room_id"])
        self.assertEqual([GHOST], list(private["content"][event_id]["m.read.private"]))
        self.assertEqual("main", public["content"][event_id]["m.read"][ALICE]["thread_id"])

    def test_receipts_of_before(self) -> None:
        room_id = self.portal()
        event_id = self.say(room_id, "read me")
        self.http.answer = lambda _: None
        self.app.ok("POST", f"{V3}/rooms/{room_id}/receipt/m.read/{event_id}", {}, self.alice)
        later = self.say(room_id, "and me")
        self.app.ok("POST", f"{V3}/rooms/{room_id}/receipt/m.read/{later}", {}, self.alice)
        self.http.answer = lambda _: (200, {})
        self.restart()
        self.settle(400)
        self.assertIn(later, self.told_of("m.receipt")[-1]["content"])

    def test_presence(self) -> None:
        self.portal()
        self.settle(1)
        self.forget()
        body = {"presence": "online", "status_msg": "here"}
        self.app.ok("PUT", f"{V3}/presence/{ALICE}/status", body, self.alice)
        self.app.register("stranger")
        self.settle(1)
        (event,) = self.told_of("m.presence")
        self.assertEqual(ALICE, event["sender"])
        self.assertEqual("here", event["content"]["status_msg"])
        self.assertNotIn("room_id", event)

    def test_what_comes_while_names_are_read(self) -> None:
        room_id = self.portal()
        self.settle(1)
        self.forget()
        held: Deferred[None] = Deferred()
        interner = self.app.app.core.interner
        names = interner.user_names

        async def user_names(nids: Any) -> dict[int, str]:
            await held
            return await names(nids)

        self.patch(interner, "user_names", user_names)
        self.app.ok("PUT", f"{V3}/presence/{ALICE}/status", {"presence": "online"}, self.alice)
        self.settle(1)
        self.as_ghost("PUT", f"{V3}/presence/{GHOST}/status", {"presence": "online"})
        path = f"{V3}/rooms/{room_id}/typing/{ALICE}"
        self.app.ok("PUT", path, {"typing": True, "timeout": 30_000}, self.alice)
        self.settle(1)
        held.callback(None)
        self.settle(1)
        self.assertEqual([[ALICE]], [event["content"]["user_ids"] for event in self.told_of("m.typing")])
        self.assertEqual({ALICE, GHOST}, {event["sender"] for event in self.told_of("m.presence")})

    def test_moments_are_not_kept_for_who_is_away(self) -> None:
        room_id = self.portal()
        self.settle(1)
        self.http.answer = lambda _: None
        path = f"{V3}/rooms/{room_id}/typing/{ALICE}"
        self.app.ok("PUT", path, {"typing": True, "timeout": 10_000}, self.alice)
        for _ in range(5):
            self.settle(20)
        self.forget()
        self.http.answer = lambda _: (200, {})
        self.settle(400)
        self.assertEqual([], [e for e in self.told_of("m.typing") if e["content"]["user_ids"]])

    def test_messages_to_devices(self) -> None:
        self.make_device()
        self.settle(1)
        self.forget()
        self.send_message(1)
        ((event,),) = self.member(TO_DEVICE)
        expected = {
            "type": "m.test",
            "sender": ALICE,
            "content": {"number": 1},
            "to_user_id": GHOST,
            "to_device_id": "PHONE",
        }
        self.assertEqual(expected, event)
        self.assertEqual(1, self.inbox(), "it may sync as its device")

    def test_messages_wait(self) -> None:
        self.make_device()
        self.http.answer = lambda _: None
        for number in range(1, 151):
            self.send_message(number)
        self.restart()
        self.http.answer = lambda _: (200, {})
        self.forget()
        self.settle(400)
        self.settle(400)
        self.assertEqual(list(range(1, 151)), self.numbers())
        self.assertEqual(
            [100, 49], [len(one) for one in self.member(TO_DEVICE)][-2:], "the first was on its way"
        )

    def test_old_messages_do_not_wait_for_ever(self) -> None:
        self.make_device()
        self.patch(bundles, "KEPT_FOR_SYNC", 5)
        for number in range(1, 11):
            self.send_message(number)
        self.assertEqual(list(range(1, 11)), self.numbers())
        self.assertEqual(5, self.inbox())

    def test_a_sync_as_the_device(self) -> None:
        self.make_device()
        self.send_message(1)
        query = {"user_id": GHOST, "device_id": "PHONE"}
        first = self.app.ok("GET", f"{V3}/sync", None, AS_TOKEN, query)
        self.assertEqual([1], [event["content"]["number"] for event in first["to_device"]["events"]])
        self.app.ok("GET", f"{V3}/sync", None, AS_TOKEN, {**query, "since": first["next_batch"]})
        self.settle()
        self.assertEqual(0, self.inbox())

    def test_who_syncs_keeps_messages(self) -> None:
        body = {
            "type": "m.login.application_service",
            "identifier": {"type": "m.id.user", "user": GHOST},
            "device_id": "PHONE",
        }
        token = self.app.ok("POST", f"{V3}/login", body, AS_TOKEN)["access_token"]
        self.send_message(1)
        self.assertEqual([1], self.numbers())
        events = self.app.ok("GET", f"{V3}/sync", None, token)["to_device"]["events"]
        self.assertEqual([1], [event["content"]["number"] for event in events])

    def test_only_its_users(self) -> None:
        self.app.ok("PUT", f"{V3}/sendToDevice/m.test/x", {"messages": {ALICE: {"*": {}}}}, self.alice)
        self.settle(1)
        self.assertEqual([], self.member(TO_DEVICE))

    def test_no_keys_without_asking(self) -> None:
        self.make_device()
        self.settle(1)
        self.assertFalse(any("msc3202" in key for body in self.http.transactions() for key in body))


@on_each_database
class Encryption(EphemeralCase):
    def registrations(self) -> list[AppserviceRegistration]:
        return [registration(push_ephemeral=True, encryption=True)]

    def upload(self, device: KeyDevice, token: str, **query: Any) -> None:
        body = {
            "device_keys": device.keys(),
            "one_time_keys": device.one_time_keys("A", "B"),
            "fallback_keys": device.fallback_key("F"),
        }
        self.app.ok("POST", f"{V3}/keys/upload", body, token, query)
        self.settle(1)

    def test_counts(self) -> None:
        device = self.make_device()
        self.settle(1)
        self.forget()
        self.upload(device, AS_TOKEN, user_id=GHOST, device_id="PHONE")
        for prefix in ("", "org.matrix.msc3202."):
            counts = self.member(f"{prefix}device_one_time_keys_count")[-1]
            self.assertEqual({GHOST: {"PHONE": {"signed_curve25519": 2}}}, counts)
            fallbacks = self.member(f"{prefix}device_unused_fallback_key_types")[-1]
            self.assertEqual({GHOST: {"PHONE": ["signed_curve25519"]}}, fallbacks)
        wanted = {"one_time_keys": {GHOST: {"PHONE": "signed_curve25519"}}}
        self.app.ok("POST", f"{V3}/keys/claim", wanted, self.alice)
        self.settle(1)
        counts = self.member("device_one_time_keys_count")[-1]
        self.assertEqual({GHOST: {"PHONE": {"signed_curve25519": 1}}}, counts)

    def test_counts_of_before(self) -> None:
        self.upload(self.make_device(), AS_TOKEN, user_id=GHOST, device_id="PHONE")
        self.http.answer = lambda _: None
        room_id = self.portal()
        wanted = {"one_time_keys": {GHOST: {"PHONE": "signed_curve25519"}}}
        self.app.ok("POST", f"{V3}/keys/claim", wanted, self.alice)
        self.say(room_id, "while it is away")
        self.forget()
        self.http.answer = lambda _: (200, {})
        self.restart()
        self.settle(400)
        self.assertEqual(
            {GHOST: {"PHONE": {"signed_curve25519": 1}}}, self.member("device_one_time_keys_count")[-1]
        )

    def test_device_lists(self) -> None:
        grant = self.app.ok(
            "POST",
            f"{V3}/login",
            {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": "alice"},
                "password": "correct horse",
                "device_id": "LAPTOP",
            },
        )
        device = KeyDevice(ALICE, "LAPTOP")
        self.upload(device, grant["access_token"])
        self.assertEqual([], self.member("device_lists"), "nothing is shared with alice yet")
        room_id = self.portal()
        self.settle(1)
        self.assertIn(ALICE, self.member("device_lists")[-1]["changed"])
        self.forget()
        self.app.ok("PUT", f"{V3}/devices/LAPTOP", {"display_name": "new"}, grant["access_token"])
        self.settle(1)
        self.assertEqual([{"changed": [ALICE], "left": []}], self.member("org.matrix.msc3202.device_lists"))
        self.forget()
        self.app.ok("POST", f"{V3}/rooms/{room_id}/leave", {}, self.alice)
        self.settle(1)
        self.assertEqual([{"changed": [], "left": [ALICE]}], self.member("device_lists"))

    def test_device_lists_that_were_still_to_be_told_at_a_restart(self) -> None:
        """They changed while a transaction was under way, and the one that was to tell of them did not arrive."""
        device_id = self.app.ok("GET", f"{V3}/account/whoami", None, self.alice)["device_id"]
        room_id = self.portal()
        self.settle(1)
        answer: Deferred[HttpResponse] = Deferred()
        self.http.answer = self.http.hold(answer)
        self.say(room_id, "under way")
        self.upload(KeyDevice(ALICE, device_id), self.alice)
        self.forget()
        self.http.answer = self.http.silence
        answer.callback(self.http.ok())
        self.settle(1)
        self.assertIn(ALICE, self.member("device_lists")[0]["changed"])
        self.restart()
        self.http.answer = lambda _: (200, {})
        self.forget()
        self.settle(400)
        self.assertIn(ALICE, {user_id for changed, _ in self.lists() for user_id in changed})

    def test_each_event_once_while_the_follower_waits(self) -> None:
        room_id = self.portal()
        self.settle(1)
        self.forget()
        answer: Deferred[HttpResponse] = Deferred()
        self.http.answer = self.http.hold(answer)
        self.say(room_id, "one")
        held: Deferred[None] = Deferred()
        read = self.app.database.read

        def wait(unit: Any, *args: Any) -> Any:
            return (
                held.addCallback(lambda _: read(unit, *args)) if unit is load_sharing else read(unit, *args)
            )

        self.patch(self.app.database, "read", wait)
        self.app.ok("POST", f"{V3}/rooms/{room_id}/leave", {}, self.alice)
        self.settle()
        # Her leaving is owed by now, and the follower is in the midst of it.
        self.http.answer = lambda _: (200, {})
        answer.callback(self.http.ok())
        self.settle()
        held.callback(None)
        self.settle(1)
        events = [event for body in self.http.transactions() for event in body["events"]]
        self.assertEqual(["m.room.message", "m.room.member"], [event["type"] for event in events])

    def test_no_event_is_lost_while_the_follower_waits(self) -> None:
        """The one that it waits with comes while what was owed before is read."""
        room_id = self.portal()
        self.settle(1)
        self.forget()
        self.http.answer = self.http.silence
        self.say(room_id, "one")
        self.say(room_id, "two")
        holds: dict[Any, Deferred[None]] = {load_owed: Deferred(), load_sharing: Deferred()}
        read = self.app.database.read

        def wait(unit: Any, *args: Any) -> Any:
            held = holds.get(unit)
            return read(unit, *args) if held is None else held.addCallback(lambda _: read(unit, *args))

        self.patch(self.app.database, "read", wait)
        self.forget()
        self.http.answer = lambda _: (200, {})
        self.settle(400)
        self.app.ok("POST", f"{V3}/rooms/{room_id}/leave", {}, self.alice)
        self.settle()
        holds.pop(load_owed).callback(None)
        self.settle(1)
        holds.pop(load_sharing).callback(None)
        self.settle(1)
        events = [event for body in self.http.transactions() for event in body["events"]]
        self.assertEqual(
            ["m.room.message", "m.room.message", "m.room.member"], [event["type"] for event in events]
        )

    def shared(self) -> str:
        """A room of alice's, with bob, somebody of another server, and no ghost."""
        room_id: str = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)[
            "room_id"
        ]
        self.app.ok("POST", f"{V3}/join/{room_id}", {}, self.app.register("bob"))
        set_membership(self.app, room_id, FAR, "join")
        self.make_ghost("_bridge_eve")
        self.settle(1)
        self.forget()
        return room_id

    def lists(self) -> list[tuple[list[str], list[str]]]:
        return [(one["changed"], one["left"]) for one in self.member("device_lists")]

    def test_device_lists_of_a_room_that_a_ghost_enters(self) -> None:
        """From the first ghost on everybody there is followed, until the last one has left."""
        room_id = self.shared()
        other = self.portal()
        self.settle(1)
        self.forget()
        self.as_ghost("POST", f"{V3}/join/{room_id}", {})
        self.settle(1)
        self.assertEqual([([ALICE, BOB, FAR], [])], self.lists())
        self.as_ghost("POST", f"{V3}/join/{room_id}", {}, EVE)
        self.as_ghost("POST", f"{V3}/rooms/{room_id}/leave", {})
        self.settle(1)
        self.assertEqual(1, len(self.lists()))
        set_membership(self.app, room_id, FAR, "leave")
        set_membership(self.app, room_id, FARTHER, "join")
        self.settle(1)
        self.assertEqual([([], [FAR]), ([FARTHER], [])], self.lists()[-2:])
        self.as_ghost("POST", f"{V3}/rooms/{room_id}/leave", {}, EVE)
        self.settle(1)
        # With alice another room is shared.
        self.assertEqual(([], [BOB, FARTHER]), self.lists()[-1])
        self.app.ok("POST", f"{V3}/rooms/{other}/leave", {}, self.alice)
        self.settle(1)
        self.assertEqual(([], [ALICE]), self.lists()[-1])

    def test_device_lists_of_who_came_and_went_while_it_was_away(self) -> None:
        room_id = self.shared()
        left = self.portal()
        self.settle(1)
        self.http.answer = lambda _: None
        self.as_ghost("POST", f"{V3}/join/{room_id}", {})
        set_membership(self.app, left, FARTHER, "join")
        set_membership(self.app, left, FARTHER, "leave")
        self.settle(1)
        self.restart()
        self.http.answer = lambda _: (200, {})
        self.forget()
        self.settle(400)
        changed = {user_id for one, _ in self.lists() for user_id in one}
        gone = {user_id for _, one in self.lists() for user_id in one}
        self.assertEqual(({ALICE, BOB, FAR}, {FARTHER}), (changed - {GHOST}, gone))

    def test_device_lists_in_sync_where_a_ghost_enters(self) -> None:
        """Those who were there are told of the ghost, and a sync as the ghost of them."""
        self.upload(self.make_device(), AS_TOKEN, user_id=GHOST, device_id="PHONE")
        room_id = self.shared()
        since = self.app.ok("GET", f"{V3}/sync", None, self.alice)["next_batch"]
        query = {"user_id": GHOST, "device_id": "PHONE"}
        ghost_since = self.app.ok("GET", f"{V3}/sync", None, AS_TOKEN, query)["next_batch"]
        self.as_ghost("POST", f"{V3}/join/{room_id}", {})
        told = self.app.ok("GET", f"{V3}/sync", None, self.alice, {"since": since})
        self.assertEqual({"changed": [GHOST], "left": []}, told["device_lists"])
        told = self.app.ok("GET", f"{V3}/sync", None, AS_TOKEN, {**query, "since": ghost_since})
        self.assertEqual({"changed": [ALICE, BOB, FAR], "left": []}, told["device_lists"])

    def test_old_name_of_ephemeral(self) -> None:
        room_id = self.portal()
        self.settle(1)
        self.forget()
        path = f"{V3}/rooms/{room_id}/typing/{ALICE}"
        self.app.ok("PUT", path, {"typing": True, "timeout": 30_000}, self.alice)
        self.settle(1)
        self.assertEqual([], self.told_of("m.typing"))
        self.assertEqual(1, len(self.told_of("m.typing", "de.sorunome.msc2409.ephemeral")))

    def test_messages_are_gone_once_confirmed(self) -> None:
        self.make_device()
        self.http.answer = self.http.silence
        for number in range(1, 6):
            self.send_message(number)
        self.assertEqual(5, self.inbox())
        self.restart()
        self.http.answer = lambda _: (200, {})
        self.settle(400)
        self.assertEqual([1, 2, 3, 4, 5], list(dict.fromkeys(self.numbers())))
        self.assertEqual(0, self.inbox())

    def test_what_was_told_with_messages_is_not_told_again(self) -> None:
        self.make_device()
        room_id = self.portal()
        self.settle(400)
        answer: Deferred[HttpResponse] = Deferred()
        self.http.answer = self.http.hold(answer)
        self.say(room_id, "first")
        self.say(room_id, "with a message")
        told_at = self.app.app.core.changes.position
        self.send_message(1)
        self.http.answer = lambda _: (200, {})
        answer.callback(self.http.ok())
        self.settle()
        self.assertEqual(([1], 0), (self.numbers(), self.inbox()))
        # Were this process to die now, there would be no open transaction, so the position must be here by itself.
        progress, pending = self.app.wait(self.app.database.read(load_progress))
        self.assertEqual({}, pending)
        self.assertGreaterEqual(progress["bridge"].caught_up_to, told_at)

    def test_messages_are_not_kept_for_a_sync(self) -> None:
        body = {
            "type": "m.login.application_service",
            "identifier": {"type": "m.id.user", "user": GHOST},
            "device_id": "PHONE",
        }
        self.app.ok("POST", f"{V3}/login", body, AS_TOKEN)
        self.send_message(1)
        self.assertEqual([1], self.numbers())
        self.assertEqual(0, self.inbox())


@on_each_database
class EveryRoom(EphemeralCase):
    """A bridge that watches every room, and has no user in any."""

    def registrations(self) -> list[AppserviceRegistration]:
        return [registration(receive_ephemeral=True, rooms=(Namespace(Pattern("!"), False),))]

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.app.ok("POST", f"{V3}/createRoom", {}, self.alice)["room_id"]
        self.event_id = self.say(self.room_id, "read me")
        self.settle(1)
        self.forget()

    def type(self) -> None:
        path = f"{V3}/rooms/{self.room_id}/typing/{ALICE}"
        self.app.ok("PUT", path, {"typing": True, "timeout": 30_000}, self.alice)
        self.settle(1)

    def read(self) -> None:
        path = f"{V3}/rooms/{self.room_id}/receipt/m.read/{self.event_id}"
        self.app.ok("POST", path, {}, self.alice)
        self.settle(1)

    def test_after_a_restart(self) -> None:
        self.restart()
        self.type()
        self.read()
        self.app.ok("PUT", f"{V3}/presence/{ALICE}/status", {"presence": "unavailable"}, self.alice)
        self.settle(1)
        self.assertEqual([self.room_id], [event["room_id"] for event in self.told_of("m.typing")])
        self.assertEqual([self.room_id], [event["room_id"] for event in self.told_of("m.receipt")])
        self.assertIn(ALICE, [event["sender"] for event in self.told_of("m.presence")])

    def test_receipts_while_it_was_away(self) -> None:
        other = self.app.ok("POST", f"{V3}/createRoom", {}, self.alice)["room_id"]
        self.settle(1)
        self.http.answer = self.http.silence
        # The first transaction waits for an answer; what comes after it is read from the tables.
        self.say(other, "are you there?")
        self.read()
        self.restart()
        self.forget()
        self.http.answer = lambda _: (200, {})
        self.settle(400)
        (receipt,) = self.told_of("m.receipt")
        self.assertEqual((self.room_id, [self.event_id]), (receipt["room_id"], list(receipt["content"])))
