"""Rooms with a policy server: our events are put before it, and others' where they were not.

# spec: server-server-api#policy-servers
"""

from __future__ import annotations

from itertools import count
from typing import Any
from urllib.parse import quote

import msgspec
from twisted.internet.defer import Deferred

from federation.builder import Draft
from federation.event import MAX_PDU_BYTES, Event, stored_bytes
from federation.hashes import unpadded
from federation.ids import RoomId, UserId
from federation.policy import POLICY_KEY_ID, PolicyServer, has_valid_signature
from federation.signing import SigningKey, sign_event, with_signatures
from federation.versions import ROOM_VERSIONS
from homeserver.http.errors import MatrixError
from homeserver.http.transport import PeerRequest, PeerResponse
from homeserver.rooms import actor as rooms_actor
from homeserver.rooms.federated.filling import WAITS_S
from homeserver.rooms.turn import Turn
from homeserver.store.events import find_row
from tests.api.receiving import ReceiveCase
from tests.api.rooms import ALICE, V3
from tests.support.databases import on_each_database
from tests.support.peer import FEDERATION, event_id_of

_SIGN = ("POST", "/_matrix/policy/v1/sign")


class PolicyCase(ReceiveCase):
    """Mallory is in the room, and so is somebody of the policy server."""

    def setUp(self) -> None:
        super().setUp()
        self.enter()
        self.policy = self.new_peer("policy.example")
        self.key = SigningKey.from_seed(self.policy.server_name, "policy_server", b"\x07" * 32)
        self.server = PolicyServer(self.policy.server_name, self.key.public_key)
        self.policy.answers[_SIGN] = self.sign
        joined = self.room.join(self.policy.user(), signer=self.policy.key)
        self.assert_taken(self.policy.push(self.app, joined), joined)
        self.settle()
        self.configure()

    def configure(self, **content: Any) -> None:
        """Alice sets, or takes away, the policy server; nobody is asked about that."""
        keys = {"ed25519": unpadded(self.key.public_key)}
        wanted = content or {"via": self.policy.server_name, "public_keys": keys}
        before = len(self.asked_to_sign())
        self.app.ok("PUT", f"{V3}/rooms/{self.room_id}/state/m.room.policy", wanted, self.alice)
        self.assertEqual(before, len(self.asked_to_sign()))
        self.peer.follow(self.app, self.room_id)

    def signatures(self, pdu: dict[str, Any]) -> dict[str, Any]:
        """What an honest policy server answers."""
        signed = sign_event(pdu, ROOM_VERSIONS[self.version], self.key)
        name = self.policy.server_name
        return {name: {POLICY_KEY_ID: signed["signatures"][name][POLICY_KEY_ID]}}

    def sign(self, request: PeerRequest) -> Any:
        assert request.body is not None
        return self.signatures(msgspec.json.decode(request.body))

    def patient(self, request: PeerRequest) -> Any:
        """Honest, but not for ever."""
        if len(self.asked_to_sign()) > 20:
            return PeerResponse(400, b'{"errcode":"M_FORBIDDEN","error":"Asked again and again"}')
        return self.sign(request)

    def refuse(self, errcode: str = "M_FORBIDDEN", status: int = 400, **more: Any) -> None:
        body = msgspec.json.encode({"errcode": errcode, "error": "That looks like spam", **more})
        self.policy.answers[_SIGN] = PeerResponse(status, body)

    def asked_to_sign(self) -> list[PeerRequest]:
        return self.policy.asked_for("/policy/v1/sign")

    def start(self, txn_id: str, body: str = "hello") -> Deferred[Any]:
        path = f"{V3}/rooms/{self.room_id}/send/m.room.message/{txn_id}"
        return self.app.start("PUT", path, {"msgtype": "m.text", "body": body}, self.alice)

    def say(self, txn_id: str) -> tuple[int, Any]:
        answer = self.app.wait(self.start(txn_id))
        return answer.status, answer.json

    def stored(self, event_id: str) -> Event:
        """An event as others get it."""
        self.peer.follow(self.app, self.room_id)
        return next(event for event in self.room.events.values() if event.event_id == event_id)


@on_each_database
class OurEvents(PolicyCase):
    def test_they_are_signed_before_anybody_has_them(self) -> None:
        held: Deferred[Any] = Deferred()
        self.policy.answers[_SIGN] = held
        before = self.timeline()
        waiting = self.start("t")
        self.assertTrue(self.pause(waiting))
        self.assertEqual(before, self.timeline())
        (request,) = self.asked_to_sign()
        assert request.body is not None
        pdu = msgspec.json.decode(request.body)
        self.assertEqual(("hello", {"test.example"}), (pdu["content"]["body"], set(pdu["signatures"])))
        held.callback(self.signatures(pdu))
        answer = self.app.wait(waiting)
        self.assertEqual(200, answer.status)
        event = self.stored(answer.json["event_id"])
        self.assertTrue(has_valid_signature(event, self.server))
        self.assertEqual({"test.example", "policy.example"}, set(event.json["signatures"]))
        self.assertEqual([*before, event.event_id], self.timeline())
        # The retry of a client asks nobody.
        self.assertEqual((200, answer.json), self.say("t"))
        self.assertEqual(1, len(self.asked_to_sign()))

    def test_a_refusal_is_told_and_the_room_goes_on(self) -> None:
        before = self.timeline()
        self.refuse()
        status, answer = self.say("spam")
        self.assertEqual(
            (403, "M_FORBIDDEN", "That looks like spam"), (status, answer["errcode"], answer["error"])
        )
        self.assertEqual(before, self.timeline())
        self.policy.answers[_SIGN] = self.sign
        self.assertEqual(200, self.say("ham")[0])

    def test_what_it_says_reaches_the_client_as_it_was_said(self) -> None:
        harms = {"harms": ["org.example.spam"], "expiry": 1_700_000_100_000}
        for status in (400, 403):
            self.refuse("ORG.EXAMPLE.SAFETY", status, **harms)
            self.assertEqual(
                (403, {"errcode": "ORG.EXAMPLE.SAFETY", "error": "That looks like spam", **harms}),
                self.say(f"spam{status}"),
            )
        # Whatever its members are called, they are members and nothing else.
        odd = {"errcode": "X", "error": "no", "status": 200, "headers": [["a", "b"]], "extra": {"a": 1.5}}
        self.policy.answers[_SIGN] = PeerResponse(400, msgspec.json.encode(odd))
        self.assertEqual((403, odd), self.say("odd"))

    def test_no_policy_server_signs_a_client_out(self) -> None:
        """Codes that speak of the request that we made, or of the client's own session, are not the client's."""
        for number, (status, errcode) in enumerate(
            (
                (401, "M_UNKNOWN_TOKEN"),
                (400, "M_UNKNOWN_TOKEN"),
                (403, "M_MISSING_TOKEN"),
                (403, "M_USER_LOCKED"),
                (403, "M_CONSENT_NOT_GIVEN"),
                (400, "M_BAD_JSON"),
                (404, "M_NOT_FOUND"),
                (400, ""),
            )
        ):
            self.refuse(errcode, status, soft_logout=True, consent_uri="https://evil.example/")
            status, answer = self.say(f"s{number}")
            self.assertEqual(
                (403, {"errcode": "M_FORBIDDEN", "error": "That looks like spam"}), (status, answer)
            )

    def test_where_what_names_it_is_redacted_there_is_none(self) -> None:
        room = f"{V3}/rooms/{self.room_id}"
        query = {"format": "event"}
        named = self.app.ok("GET", f"{room}/state/m.room.policy", token=self.alice, query=query)["event_id"]
        self.app.ok("PUT", f"{room}/redact/{named}/1", {}, self.alice)
        self.refuse()
        before = len(self.asked_to_sign())
        self.assertEqual(200, self.say("spam")[0])
        self.assertEqual(before, len(self.asked_to_sign()))

    def test_other_answers(self) -> None:
        before = self.timeline()
        self.refuse("M_LIMIT_EXCEEDED", 429, retry_after_ms=7_000)
        status, answer = self.say("a")
        self.assertEqual(
            (429, "M_LIMIT_EXCEEDED", 7_000), (status, answer["errcode"], answer["retry_after_ms"])
        )
        self.refuse("M_UNRECOGNIZED", 404)
        self.assertEqual((403, "M_FORBIDDEN"), self.outcome(self.say("b")))
        name = self.policy.server_name
        lies: tuple[Any, ...] = (
            {},
            {name: {}},
            {name: {POLICY_KEY_ID: "x"}},
            {name: {POLICY_KEY_ID: unpadded(b"\1" * 64)}},
            {"other.example": {POLICY_KEY_ID: unpadded(b"\1" * 64)}},
        )
        for number, lie in enumerate(lies):
            self.policy.answers[_SIGN] = lie
            self.assertEqual((403, "M_FORBIDDEN"), self.outcome(self.say(f"lie{number}")), lie)
        # Neither is a verdict on the event: of the first it is a proxy that speaks.
        for number, lack in enumerate(
            (*(PeerResponse(status, b"<html>") for status in (500, 502, 503, 504)), b"garbage", [])
        ):
            self.policy.answers[_SIGN] = lack
            self.assertEqual((502, "M_UNKNOWN"), self.outcome(self.say(f"lack{number}")), lack)
        self.refuse("M_UNKNOWN", 429)
        self.assertEqual((429, "M_LIMIT_EXCEEDED"), self.outcome(self.say("d")))
        self.policy.reachable = False
        self.assertEqual(502, self.say("c")[0])
        self.assertEqual(before, self.timeline())

    def membership(self, user_id: str) -> Any:
        path = f"{V3}/rooms/{self.room_id}/state/m.room.member/{quote(user_id)}"
        return self.app.ok("GET", path, token=self.bob)

    def test_what_we_do_for_users_is_done_when_it_is_back(self) -> None:
        """A changed name, and the leave of who has no account any more."""
        self.bob = self.app.register("bob")
        self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, self.bob)
        self.policy.reachable = False
        path = f"{V3}/profile/{ALICE}/displayname"
        self.app.ok("PUT", path, {"displayname": "Alicia"}, self.alice)
        self.settle()
        self.assertNotEqual("Alicia", self.membership(ALICE).get("displayname"))
        self.policy.reachable = True
        self.app.advance(60)
        self.settle()
        self.assertEqual("Alicia", self.membership(ALICE)["displayname"])
        self.policy.reachable = False
        auth = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": "correct horse",
        }
        self.app.ok("POST", f"{V3}/account/deactivate", {"auth": auth}, self.alice)
        self.settle()
        self.assertEqual("join", self.membership(ALICE)["membership"])
        self.policy.reachable = True
        self.app.advance(10)
        self.settle()
        self.assertEqual("leave", self.membership(ALICE)["membership"])
        self.app.log.entries.clear()

    def outcome(self, answer: tuple[int, Any]) -> tuple[int, str]:
        return answer[0], answer[1]["errcode"]

    def test_its_signature_counts_for_the_size(self) -> None:
        """No other server would take what is too large with it, nor what stands on that."""
        self.refuse()
        self.assertEqual(403, self.say("probe")[0])
        (request,) = self.asked_to_sign()
        assert request.body is not None
        pdu = msgspec.json.decode(request.body)
        signed = sign_event(pdu, ROOM_VERSIONS[self.version], self.key)
        unsigned_size, signed_size = len(request.body), len(msgspec.json.encode(signed))
        before = self.timeline()
        self.policy.answers[_SIGN] = self.sign
        for number, size in enumerate((MAX_PDU_BYTES - unsigned_size, MAX_PDU_BYTES - signed_size + 1)):
            answer = self.app.wait(self.start(f"large{number}", "hello" + "x" * size))
            self.assertEqual((413, "M_TOO_LARGE"), (answer.status, answer.errcode))
            self.assertEqual(before, self.timeline())
        answer = self.app.wait(self.start("fits", "hello" + "x" * (MAX_PDU_BYTES - signed_size)))
        self.assertEqual(200, answer.status, answer.json)
        event = self.stored(answer.json["event_id"])
        self.assertTrue(has_valid_signature(event, self.server))
        self.assertEqual(MAX_PDU_BYTES, len(stored_bytes(event)))

    def test_a_signature_is_written_in_one_way(self) -> None:
        """Whatever stands for the same bytes, such as padding without end."""

        def padded(request: PeerRequest) -> Any:
            signatures = self.sign(request)
            signatures[self.policy.server_name][POLICY_KEY_ID] += "=" * 50_000
            return signatures

        self.policy.answers[_SIGN] = padded
        status, answer = self.say("padded")
        self.assertEqual(200, status, answer)
        event = self.stored(answer["event_id"])
        self.assertEqual(86, len(event.json["signatures"][self.policy.server_name][POLICY_KEY_ID]))

    def test_what_the_rules_refuse_is_put_before_nobody(self) -> None:
        bob = self.app.register("bob")
        path = f"{V3}/rooms/{self.room_id}/send/m.room.message/x"
        self.assertEqual(403, self.app.call("PUT", path, {"msgtype": "m.text", "body": "not here"}, bob)[0])
        self.assertEqual([], self.asked_to_sign())

    def test_the_room_moves_on_while_it_thinks(self) -> None:
        held: Deferred[Any] = Deferred()
        self.policy.answers[_SIGN] = held
        waiting = self.start("slow")
        self.assertTrue(self.pause(waiting))
        (request,) = self.asked_to_sign()
        said = [self.room.make("m.room.message", {"body": "meanwhile"})]
        said[0] = with_signatures(said[0], self.signatures(said[0].json))
        self.room.learn(said[0])
        self.assert_taken(self.peer.push(self.app, said[0]), said[0])
        self.assertEqual(said[0].event_id, self.timeline()[-1])
        assert request.body is not None
        held.callback(self.signatures(msgspec.json.decode(request.body)))
        answer = self.app.wait(waiting)
        self.assertEqual(200, answer.status)
        self.assertEqual([said[0].event_id, answer.json["event_id"]], self.timeline()[-2:])
        # The next one brings both together.
        self.policy.answers[_SIGN] = self.sign
        event = self.stored(self.say("next")[1]["event_id"])
        self.assertEqual({said[0].event_id, answer.json["event_id"]}, set(event.prev_event_ids))

    def test_it_is_not_allowed_any_more_when_the_signature_comes(self) -> None:
        bob = self.app.register("bob")
        self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, bob)
        held: Deferred[Any] = Deferred()
        self.policy.answers[_SIGN] = held
        path = f"{V3}/rooms/{self.room_id}/send/m.room.message/late"
        waiting = self.app.start("PUT", path, {"msgtype": "m.text", "body": "wait for me"}, bob)
        self.assertTrue(self.pause(waiting))
        request = self.asked_to_sign()[-1]
        self.policy.answers[_SIGN] = self.sign
        body = {"user_id": "@bob:test.example"}
        self.app.ok("POST", f"{V3}/rooms/{self.room_id}/ban", body, self.alice)
        assert request.body is not None
        held.callback(self.signatures(msgspec.json.decode(request.body)))
        self.assertEqual(403, self.app.wait(waiting).status)

    def test_many_at_once(self) -> None:
        waiting = [self.start(f"m{number}", str(number)) for number in range(10)]
        answers = [self.app.wait(one) for one in waiting]
        self.assertEqual([200] * 10, [answer.status for answer in answers])
        self.assertEqual({answer.json["event_id"] for answer in answers}, set(self.timeline()[-10:]))

    def test_what_is_never_the_same_twice_is_given_up(self) -> None:
        self.patch(rooms_actor, "SIGNED_MOST", 5)
        self.policy.answers[_SIGN] = self.patient
        actor, draws = self.app.app.core.rooms.known(self.room_id), count()
        assert actor is not None

        async def job(turn: Turn) -> None:
            content = {"msgtype": "m.text", "body": str(next(draws))}
            await turn.place(Draft(RoomId(self.room_id), "m.room.message", UserId(ALICE), content))

        error = self.failureResultOf(self.ended(actor.run(job)), MatrixError).value
        self.assertEqual((503, 5, 6), (error.status, len(self.asked_to_sign()), next(draws)))
        self.assertEqual(200, self.say("the room goes on")[0])

    def ended(self, waiting: Deferred[Any]) -> Deferred[Any]:
        self.assertFalse(self.pause(waiting))
        return waiting

    def test_events_of_all_kinds(self) -> None:
        self.app.ok("PUT", f"{V3}/rooms/{self.room_id}/state/m.room.topic", {"topic": "t"}, self.alice)
        event_id = self.say("x")[1]["event_id"]
        redaction = self.app.ok("PUT", f"{V3}/rooms/{self.room_id}/redact/{event_id}/r", {}, self.alice)
        self.assertTrue(has_valid_signature(self.stored(redaction["event_id"]), self.server))
        found = self.app.ok("GET", f"{V3}/rooms/{self.room_id}/event/{event_id}", None, self.alice)
        self.assertEqual({}, found["content"])
        self.app.ok("PUT", f"{V3}/profile/{ALICE}/displayname", {"displayname": "Alice"}, self.alice)
        self.settle()
        self.assertEqual("Alice", self.state("m.room.member", ALICE)["displayname"])
        self.assertEqual(4, len(self.asked_to_sign()))
        # Another key of the same type is like any other event.
        self.app.ok("PUT", f"{V3}/rooms/{self.room_id}/state/m.room.policy/x", {}, self.alice)
        self.assertEqual(5, len(self.asked_to_sign()))

    def test_rooms_without(self) -> None:
        self.configure(via="nobody.example", public_keys={"ed25519": unpadded(self.key.public_key)})
        self.assertEqual(200, self.say("nobody of that server is here")[0])
        self.configure(via=self.policy.server_name)
        self.assertEqual(200, self.say("no key")[0])
        self.configure(nothing=1)
        self.assertEqual(200, self.say("taken away")[0])
        self.assertEqual([], self.asked_to_sign())


@on_each_database
class Upgrades(PolicyCase):
    """A room is replaced: its tombstone and its last state are signed like anything else."""

    def upgrade(self, new_version: str) -> tuple[int, Any]:
        body = {"new_version": new_version}
        return self.app.call("POST", f"{V3}/rooms/{self.room_id}/upgrade", body, self.alice)

    def test_to_versions_of_either_kind_of_room_id(self) -> None:
        """Where the id of the new room is drawn, the tombstone names the same one when it comes back signed."""
        self.policy.answers[_SIGN] = self.patient
        for version in ("11", "12"):
            self.room_id = self.create()
            self.room = self.peer.follow(self.app, self.room_id)
            self.policy.rooms[self.room_id] = self.room
            joined = self.room.join(self.policy.user(), signer=self.policy.key)
            self.assert_taken(self.policy.push(self.app, joined), joined)
            self.configure()
            before = len(self.asked_to_sign())
            status, answer = self.upgrade(version)
            self.assertEqual(200, status, answer)
            # The tombstone, and the levels by which nobody goes on talking.
            self.assertEqual(2, len(self.asked_to_sign()) - before)
            self.assertEqual(answer["replacement_room"], self.state("m.room.tombstone")["replacement_room"])
            self.peer.follow(self.app, self.room_id)
            for event_type in ("m.room.tombstone", "m.room.power_levels"):
                event = next(one for one in reversed(self.room.events.values()) if one.type == event_type)
                self.assertTrue(has_valid_signature(event, self.server))


@on_each_database
class TheirEvents(PolicyCase):
    def shown(self, event: Event) -> bool:
        return event.event_id in self.timeline()

    def soft_failed(self, event: Event) -> bool:
        """Stored with its state, and shown to nobody."""
        row = self.app.wait(self.app.database.read(find_row, event.event_id))
        return row is not None and row.rejected_reason is None and row.pos is None

    def test_signed_ones_need_no_asking(self) -> None:
        said = self.room.make("m.room.message", {"body": "checked"})
        said = with_signatures(said, self.signatures(said.json))
        self.assert_taken(self.peer.push(self.app, said), said)
        self.assertTrue(self.shown(said))
        self.assertEqual([], self.asked_to_sign())

    def test_unsigned_ones_are_put_before_it(self) -> None:
        said = self.room.make("m.room.message", {"body": "unchecked"})
        self.assert_taken(self.peer.push(self.app, said), said)
        self.settle()
        self.assertTrue(self.shown(said))
        self.assertEqual(1, len(self.asked_to_sign()))
        # We hand it on as it should have been.
        self.assertTrue(has_valid_signature(self.stored(said.event_id), self.server))

    def test_those_that_it_would_make_too_large(self) -> None:
        """They stay as they are, and are shown to nobody, as if it had refused them."""
        size = len(stored_bytes(self.room.make("m.room.message", {"body": ""})))
        said = self.room.make("m.room.message", {"body": "x" * (MAX_PDU_BYTES - size)})
        self.assert_taken(self.peer.push(self.app, said), said)
        self.settle()
        self.assertEqual(1, len(self.asked_to_sign()))
        self.assertTrue(self.soft_failed(said))
        self.assertEqual(0, self.staged())

    def test_refused_ones_are_shown_to_nobody(self) -> None:
        self.refuse()
        said = self.room.say("spam")
        self.assert_taken(self.peer.push(self.app, said), said)
        self.settle()
        self.assertTrue(self.soft_failed(said))
        self.assertEqual(0, self.staged())

    def test_signatures_by_another_key(self) -> None:
        said = self.room.make("m.room.message", {"body": "forged"})
        other = SigningKey.from_seed(self.policy.server_name, "policy_server", b"\x08" * 32)
        forged = sign_event(said.json, ROOM_VERSIONS[self.version], other)
        self.refuse()
        said = with_signatures(said, {self.policy.server_name: forged["signatures"][self.policy.server_name]})
        self.assert_taken(self.peer.push(self.app, said), said)
        self.settle()
        self.assertTrue(self.soft_failed(said))

    def test_while_it_is_away(self) -> None:
        self.policy.reachable = False
        first, second = self.room.say("one"), self.room.say("two")
        self.assert_taken(self.peer.push(self.app, first, second), first, second)
        self.settle()
        self.assertEqual(2, self.staged())
        self.policy.reachable = True
        self.settle(WAITS_S[0] + 1)
        self.assertTrue(self.shown(first) and self.shown(second))
        # Not for ever.
        self.policy.reachable = False
        late = self.room.say("late")
        self.assert_taken(self.peer.push(self.app, late), late)
        for wait_s in WAITS_S[:4]:
            self.settle(wait_s + 1)
        self.assertTrue(self.soft_failed(late))
        self.assertEqual(0, self.staged())

    def test_what_it_refused_does_not_stick(self) -> None:
        """Neither after a restart, nor when the room's state lets its sender speak again, nor without the policy server."""
        self.refuse()
        now_ms = int(self.app.time.rightNow * 1000)
        stuck: dict[str, Any] = {"ts": now_ms, "msc4354_sticky": {"duration_ms": 3_600_000}}
        spam = self.room.make("m.room.message", {"body": "spam"}, **stuck)
        late, kept = (self.room.make("m.room.message", {"body": body}, **stuck) for body in ("late", "kept"))
        kept = with_signatures(kept, self.signatures(kept.json))
        self.assert_taken(self.peer.push(self.app, spam), spam)
        self.settle()
        # The other two are refused by the state first; one of them has the approval all the same.
        self.policy.answers[_SIGN] = self.sign
        body = {"user_id": spam.sender}
        self.app.ok("POST", f"{V3}/rooms/{self.room_id}/kick", body, self.alice)
        self.refuse()
        self.peer.push(self.app, late, kept)
        self.settle()
        self.app.restart()
        self.app.app.begin()
        self.settle()
        self.assertEqual([], self.stuck())
        self.policy.answers[_SIGN] = self.sign
        joined = self.peer.follow(self.app, self.room_id).join()
        self.assert_taken(self.peer.push(self.app, joined), joined)
        self.settle()
        self.assertEqual([kept.event_id], self.stuck())
        self.configure(nothing=1)
        joined = self.peer.follow(self.app, self.room_id).join(displayname="Other")
        self.assert_taken(self.peer.push(self.app, joined), joined)
        self.settle()
        self.assertNotIn(spam.event_id, self.stuck())

    def stuck(self) -> list[str]:
        """The sticky events that alice is told of beside the timeline."""
        room = self.app.ok("GET", f"{V3}/sync", token=self.alice)["rooms"]["join"][self.room_id]
        return [event["event_id"] for event in room.get("msc4354_sticky", {}).get("events", ())]

    def test_the_policy_event_itself(self) -> None:
        levels = {"users": {ALICE: 100, self.peer.user(): 50}}
        self.app.ok("PUT", f"{V3}/rooms/{self.room_id}/state/m.room.power_levels", levels, self.alice)
        self.peer.follow(self.app, self.room_id)
        asked = len(self.asked_to_sign())
        removed = self.room.add("m.room.policy", {}, state_key="")
        said = self.room.say("free")
        self.assert_taken(self.peer.push(self.app, removed, said), removed, said)
        self.settle()
        self.assertTrue(self.shown(said))
        self.assertEqual(asked, len(self.asked_to_sign()))


@on_each_database
class Handshakes(PolicyCase):
    def join(self) -> tuple[int, Any]:
        """Somebody of a third server comes in by us."""
        third = self.new_peer("third.example")
        user_id = third.user()
        made = third.call(
            self.app, "GET", f"{FEDERATION}/make_join/{self.room_id}/{user_id}?ver={self.version}"
        )
        self.assertEqual(200, made[0], made)
        event = third.sign(made[1]["event"], self.version)
        event_id = event_id_of(event, self.version)
        return third.call(
            self.app, "PUT", f"/_matrix/federation/v2/send_join/{self.room_id}/{event_id}", event
        )

    def test_who_joins_by_us_is_put_before_it(self) -> None:
        status, answer = self.join()
        self.assertEqual(200, status, answer)
        self.assertEqual(1, len(self.asked_to_sign()))
        joined = self.room.parse(answer["event"]) if "event" in answer else None
        self.assertEqual("join", self.state("m.room.member", "@mallory:third.example")["membership"])
        if joined is not None:
            self.assertTrue(has_valid_signature(joined, self.server))

    def test_who_is_not_wanted_does_not(self) -> None:
        self.refuse()
        self.assertEqual(403, self.join()[0])
        self.assertIsNone(self.state("m.room.member", "@mallory:third.example"))

    def test_invites_to_other_servers(self) -> None:
        third = self.new_peer("third.example")

        def invited(request: PeerRequest) -> Any:
            assert request.body is not None
            return {"event": third.cosign(msgspec.json.decode(request.body)["event"], self.version)}

        third.answers["PUT", "/_matrix/federation/v2/invite/"] = invited
        body = {"user_id": third.user()}
        self.app.ok("POST", f"{V3}/rooms/{self.room_id}/invite", body, self.alice)
        self.assertEqual("invite", self.state("m.room.member", third.user())["membership"])
        self.refuse()
        body = {"user_id": third.user("other")}
        status, answer = self.app.call("POST", f"{V3}/rooms/{self.room_id}/invite", body, self.alice)
        self.assertEqual((403, "That looks like spam"), (status, answer["error"]))
        # Their server has not heard of what was refused.
        self.assertEqual(1, len(third.asked_for("/invite/")))
