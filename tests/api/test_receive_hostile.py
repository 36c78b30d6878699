"""What hostile servers send and answer: none of it is a 500, takes a room over, or waits without end.

# spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from federation.event import MAX_PREV_EVENTS, Event
from homeserver.http.transport import PeerRequest, PeerResponse, Unreachable
from homeserver.rooms.federated.filling import WAITS_S
from homeserver.rooms.federated.receive import TRANSACTIONS_AT_ONCE
from homeserver.store.staging import load_waiting
from tests.api.receiving import ReceiveCase
from tests.api.rooms import ALICE, V3
from tests.support.app import START_S
from tests.support.databases import on_each_database
from tests.support.peer import FEDERATION, FakePeer, event_id_of, random_id

MISSING = ("POST", f"{FEDERATION}/get_missing_events/")
STATE_IDS = ("GET", f"{FEDERATION}/state_ids/")
STATE = ("GET", f"{FEDERATION}/state/")
EVENT = ("GET", f"{FEDERATION}/event/")
CHAIN = ("GET", f"{FEDERATION}/event_auth/")
BACKFILL = ("GET", f"{FEDERATION}/backfill/")


@on_each_database
class HostileEvents(ReceiveCase):
    def setUp(self) -> None:
        super().setUp()
        self.enter()
        self.before = self.timeline()
        self.count = 0

    def send(self, *pdus: Any) -> dict[str, Any]:
        """The results; the transaction itself is always taken, and the room is as it was."""
        status, answer = self.peer.push(self.app, *pdus)
        self.assertEqual(200, status, answer)
        self.settle()
        results: dict[str, Any] = answer["pdus"]
        return results

    def assert_dropped(self, pdu: dict[str, Any], reason: str, version: str = "11") -> None:
        """It has no place, and is told so."""
        results = self.send(pdu)
        self.assertIn(reason, results[event_id_of(pdu, version)].get("error", "no error"), pdu.keys())
        self.assertEqual(self.before, self.timeline())
        self.assertEqual(0, self.staged())

    def message(self, **fields: Any) -> dict[str, Any]:
        return self.room.make_json("m.room.message", {"body": "hello"}, **fields)

    # --- who made it ---------------------------------------------------------------------------------

    def test_wrong_signatures(self) -> None:
        thief = FakePeer(self.peer.server_name, "stolen")
        # The same name, and a key of that name that it does not have.
        self.room.peer = thief
        forged = self.message()
        self.room.peer = self.peer
        signature = forged["signatures"][self.peer.server_name]
        value = signature.pop(thief.key.key_id)
        signature[self.peer.key.key_id] = value
        self.assert_dropped(forged, "does not match")
        for signatures, reason in (
            ({}, "no signature"),
            ({self.peer.server_name: {}}, "no signature"),
            ({"other.example": {"ed25519:one": value}}, "no signature"),
            ({self.peer.server_name: {self.peer.key.key_id: "not base64!"}}, "not base64"),
            ({self.peer.server_name: {self.peer.key.key_id: ""}}, "does not match"),
            ({self.peer.server_name: {"rsa:1": value}}, "no signature"),
            ({self.peer.server_name: {self.peer.key.key_id: 1}}, "strings"),
            ({self.peer.server_name: []}, "strings"),
            ([], "object"),
        ):
            self.assert_dropped({**self.message(), "signatures": signatures}, reason)

    def test_forged_senders(self) -> None:
        self.assert_dropped(self.message(sender=ALICE), "no signature of test.example")
        bob = "@bob:test.example"
        join = self.room.make_json("m.room.member", {"membership": "join"}, sender=bob, state_key=bob)
        self.assert_dropped(join, "no signature of test.example")
        # Of one's own server, but of somebody who is not in the room.
        stranger = self.message(sender=self.peer.user("stranger"))
        results = self.send(stranger)
        self.assertIn("error", results[event_id_of(stranger, "11")])
        self.assertEqual(self.before, self.timeline())

    def test_forged_invites(self) -> None:
        """That an invite redeems a third-party one frees it from its sender's signature, where its author said so.

        # spec: server-server-api#validating-hashes-and-signatures-on-received-events
        """
        outsider = self.peer.user("outsider")
        dropped, refused = "no signature of test.example", "invite has no signed token"
        claims: tuple[Any, ...] = (1, None, [], "x", {}, {"signed": 1})
        for version in ("1", "10", "11", "12"):
            self.room_id = self.create(preset="private_chat", room_version=version)
            self.room = self.peer.follow(self.app, self.room_id)
            for number, claim in enumerate(claims):
                content = {"membership": "invite", "third_party_invite": claim}
                # An object is left by a redaction from version 11 on, and it is as what it claims that it is refused.
                stays = version in ("11", "12") and isinstance(claim, dict)
                for wrong in (True, False):
                    own_id: dict[str, Any] = (
                        {"event_id": f"$x{number}{wrong}:peer.example"} if version == "1" else {}
                    )
                    pdu = self.room.make_json(
                        "m.room.member", content, sender=ALICE, state_key=outsider, **own_id
                    )
                    if wrong:
                        pdu = {**pdu, "hashes": {"sha256": "AAAA"}, "signatures": {}}
                        pdu = self.peer.cosign(pdu, version)
                    found = self.send(pdu)[event_id_of(pdu, version)].get("error", "no error")
                    self.assertIn(dropped if wrong and not stays else refused, found, (version, claim, wrong))
                    self.assertIsNone(self.state("m.room.member", outsider), (version, claim, wrong))

    def test_wrong_server_names(self) -> None:
        for sender in (
            "@x:",
            "@x:a b",
            "@x:[::1",
            "@x",
            "x:peer.example",
            "@x:" + "a" * 300,
            "@x:a\0b",
            1,
            None,
        ):
            pdu = self.room.make_json("m.room.message", {})
            pdu["sender"] = sender
            pdu = self.peer.sign({key: value for key, value in pdu.items() if key != "signatures"})
            results = self.send(pdu)
            self.assertEqual(["error"], list(results[event_id_of(pdu, "11")]), sender)
        self.assertEqual(self.before, self.timeline())

    def test_a_key_that_nobody_has(self) -> None:
        """It cannot be told from one that cannot be had now: it waits, and not for ever."""
        pdu = self.message()
        signature = pdu["signatures"][self.peer.server_name]
        signature["ed25519:made_up"] = signature.pop(self.peer.key.key_id)
        self.assertEqual({event_id_of(pdu, "11"): {}}, self.send(pdu))
        self.assertEqual(1, self.staged())
        for wait_s in WAITS_S:
            self.settle(wait_s + 1)
        self.assertEqual(0, self.staged())
        self.assertEqual(self.before, self.timeline())

    def test_a_key_that_was_not_valid_then(self) -> None:
        late = self.message(ts=4_000_000_000_000)
        self.send(late)
        self.assertEqual(self.before, self.timeline())
        self.assertEqual(1, self.staged())

    def test_wrong_hashes(self) -> None:
        """What was not signed is taken away; the event itself is what its author signed."""
        said = self.message()
        tampered = {**said, "content": {"body": "a lie"}}
        event_id = event_id_of(said, "11")
        self.assertEqual({event_id: {}}, self.send(tampered))
        found = self.app.ok("GET", f"{V3}/rooms/{self.room_id}/event/{event_id}", None, self.alice)
        self.assertEqual({}, found["content"])
        wrong: tuple[Any, ...] = ({}, {"sha256": 1}, [], None)
        for hashes in wrong:
            pdu = {**self.message(), "hashes": hashes}
            self.assertEqual(["error"], list(self.send(pdu)[event_id_of(pdu, "11")]), hashes)

    # --- sizes and shapes ----------------------------------------------------------------------------

    def sized(self, size: int) -> dict[str, Any]:
        """A message of exactly so many bytes."""
        least = len(msgspec.json.encode(self.room.make_json("m.room.message", {"body": ""})))
        pdu = self.room.make_json("m.room.message", {"body": "x" * (size - least)})
        self.assertEqual(size, len(msgspec.json.encode(pdu)))
        return pdu

    def test_sizes(self) -> None:
        self.assert_dropped(self.sized(65_537), "too large")
        largest = self.sized(65_536)
        self.assertEqual({event_id_of(largest, "11"): {}}, self.send(largest))
        self.assertNotEqual(self.before, self.timeline())

    def test_references_without_end(self) -> None:
        nowhere = [random_id(str(number)) for number in range(100_000)]
        self.assert_dropped(self.message(prev=nowhere, depth=9, auth=[]), "too large")
        self.assert_dropped(self.message(prev=nowhere[:21], depth=9), "at most 20")
        self.assert_dropped(self.message(auth=nowhere[:11]), "at most 10")
        wrong: tuple[Any, ...] = (
            "x",
            {},
            None,
            [1],
            [None],
            [[]],
            [["$x", {}]],
            ["x"],
            ["$" + "x" * 300],
            ["$\0x"],
        )
        for name in ("prev_events", "auth_events"):
            for references in wrong:
                pdu = {**self.message(), name: references}
                self.assertEqual(["error"], list(self.send(pdu)[event_id_of(pdu, "11")]), (name, references))
        orphan = self.message(prev=[], depth=1)
        self.assertIn("error", self.send(orphan)[event_id_of(orphan, "11")])
        self.assertEqual(self.before, self.timeline())

    def test_fields_of_wrong_types(self) -> None:
        good = self.message()
        wrong: tuple[Any, ...] = (None, 1, -1, 1.5, "", "x" * 300, [], {}, True, "\0", 2**70, -(2**70))
        for name in (
            "type",
            "sender",
            "state_key",
            "content",
            "origin_server_ts",
            "depth",
            "redacts",
            "hashes",
        ):
            for value in wrong:
                pdu = {**good, name: value}
                if name in ("content", "origin_server_ts") and pdu[name] in ({}, 1, -1) and value is not True:
                    continue
                status, answer = self.peer.push(self.app, pdu)
                self.assertEqual(200, status, (name, value, answer))
                self.settle()
        # Whatever became of them: alice sees nothing that mallory could not say.
        types = {event["type"] for event in self.messages()}
        self.assertLessEqual(types, {"m.room.message", "m.room.redaction", "", "\0"})

    def messages(self) -> list[Any]:
        path = f"{V3}/rooms/{self.room_id}/messages"
        chunk: list[Any] = self.app.ok("GET", path, None, self.alice, {"dir": "b", "limit": 100})["chunk"]
        return chunk[: len(chunk) - len(self.before)]

    def test_names_with_nul(self) -> None:
        """PostgreSQL's text cannot hold them, and the rules of the room do not forbid them."""
        for fields in ({"event_type": "a\0b"}, {"event_type": "x", "state_key": "a\0b"}):
            pdu = self.room.make_json(content={"body": "\0"}, **fields)  # type: ignore[arg-type]
            status, answer = self.peer.push(self.app, pdu)
            self.assertEqual(200, status, answer)

    def test_deep_and_wide_json(self) -> None:
        deep = b'{"pdus":[' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"]}"
        uri = f"{FEDERATION}/send/deep"
        header = self.peer.authorization("test.example", "PUT", uri, b"{}")
        for body in (deep, b"[" * 1_000_000, b'{"pdus":' + b"[" * 300 + b"]" * 300 + b"}"):
            answer = self.app.answer("PUT", uri, body, headers={"authorization": header})
            self.assertEqual(400, answer.status)
        content: Any = "x"
        for _ in range(150):
            content = {"a": content}
        pdu = self.room.make_json("m.room.message", content)
        self.assertEqual({event_id_of(pdu, "11"): {}}, self.send(pdu))
        wide = self.room.make_json("m.room.message", {str(number): number for number in range(5_000)})
        self.assertEqual(
            ["error"] if len(msgspec.json.encode(wide)) > 65_536 else [],
            list(self.send(wide)[event_id_of(wide, "11")]),
        )

    def test_numbers(self) -> None:
        for number in (1.5, 1e300, 2**53, -(2**53), 2**63, 2**64, 2**70, 10**400):
            pdu = self.room.make_json("m.room.message", {"body": "x"})
            pdu["content"] = {"n": number}
            status, answer = self.push_text(pdu)
            self.assertEqual(200, status, number)
            self.assertIn("error", answer["pdus"][event_id_of(pdu, "11")], number)
        self.assertEqual(self.before, self.timeline())

    def test_numbers_in_old_rooms(self) -> None:
        """Until version 5 anything goes that JSON can say; that is no reason to fall over."""
        room = self.peer.follow(self.app, self.create(room_version="5"))
        self.enter(room)
        for number in (1.5, 1e300, 2**53, 2**63, 2**64, 2**70, -(2**70), 10**400):
            self.assertEqual(
                200, self.push_text({**room.make_json("m.room.message", {}), "content": {"n": number}})[0]
            )
        said = room.add("m.room.message", {"n": 1.5})
        self.assert_taken(self.peer.push(self.app, said), said)

    def push_text(self, pdu: dict[str, Any]) -> tuple[int, Any]:
        """As Python's own JSON, which writes numbers of any size."""
        self.count += 1
        body = json.dumps({"pdus": [pdu]}, separators=(",", ":"), sort_keys=True).encode()
        return self.peer.call(self.app, "PUT", f"{FEDERATION}/send/n{self.count}", body)

    def test_nothing_but_json(self) -> None:
        uri = f"{FEDERATION}/send/x"
        header = self.peer.authorization("test.example", "PUT", uri, b"{}")
        for body in (
            b"",
            b"{",
            b"\xff\xfe",
            b'{"pdus":[NaN]}',
            b'{"pdus":[Infinity]}',
            b'{"pdus":["\\ud800"]}',
            b"\0",
        ):
            answer = self.app.answer("PUT", uri, body, headers={"authorization": header})
            self.assertIn(answer.status, (400, 401), body)

    def test_circles(self) -> None:
        room = self.peer.follow(self.app, self.create(room_version="1"))
        self.enter(room)
        first = room.make("m.room.message", {}, prev=["$b:peer.example"], event_id="$a:peer.example", depth=9)
        second = room.make(
            "m.room.message", {}, prev=["$a:peer.example"], event_id="$b:peer.example", depth=9
        )
        own = room.make("m.room.message", {}, prev=["$c:peer.example"], event_id="$c:peer.example", depth=9)
        auth = room.make(
            "m.room.topic", {}, state_key="", auth=["$d:peer.example"], event_id="$d:peer.example", depth=9
        )
        for event in (first, second, own, auth):
            room.events[event.event_id] = event
            room.after[event.event_id] = dict(room.state)
        self.send(first, second, own, auth)
        for wait_s in WAITS_S:
            self.settle(wait_s + 1)
        self.assertEqual(0, self.staged())


@on_each_database
class HostileAnswers(ReceiveCase):
    def setUp(self) -> None:
        super().setUp()
        self.enter()
        self.unseen = [self.room.say("unseen"), self.room.say("unseen too")]
        self.late = self.room.say("late")

    def send(self) -> None:
        self.assert_taken(self.peer.push(self.app, self.late), self.late)
        self.settle()

    def test_garbage(self) -> None:
        before = self.timeline()
        self.send_with_garbage()
        self.assertEqual(before, self.timeline())
        self.peer.answers.clear()
        self.settle(sum(WAITS_S))
        self.settle()

    def send_with_garbage(self) -> None:
        stranger = FakePeer("stranger.example").create("11").say("not of this room")
        events: list[Any] = [
            stranger.json,
            {},
            None,
            1,
            [],
            "x",
            {"room_id": self.room_id},
            self.unseen[0].json | {"depth": -1},
        ]
        garbage: list[Any] = [
            b"",
            b"not json",
            b"[]",
            b"{}",
            b"[" * 100_000,
            b'{"a":' * 100_000,
            {"events": None, "pdus": None, "pdu_ids": None, "auth_chain": None, "auth_chain_ids": None},
            {"events": {}, "pdus": {}, "pdu_ids": {}, "auth_chain": {}, "auth_chain_ids": {}},
            {"events": events, "pdus": events, "pdu_ids": events, "auth_chain": events, "auth_chain_ids": []},
            {
                "events": events * 100,
                "pdus": [events],
                "pdu_ids": ["$\0"],
                "auth_chain": [],
                "auth_chain_ids": [],
            },
            {"events": [], "pdus": [], "pdu_ids": [], "auth_chain": [], "auth_chain_ids": []},
            {"pdu_ids": ["$nowhere"] * 1000, "auth_chain_ids": ["$x"] * 1000},
            {
                "pdu_ids": [random_id(str(one)) for one in range(2000)],
                "auth_chain_ids": [],
                "pdus": [],
                "auth_chain": [],
            },
            PeerResponse(500, b"oops"),
            PeerResponse(429, b'{"errcode":"M_LIMIT_EXCEEDED"}'),
            PeerResponse(200, b"\xff" * 1000),
            PeerResponse(302, b"", {"location": "http://127.0.0.1/"}),
            Unreachable("gone"),
        ]
        for number, lie in enumerate(garbage):
            self.peer.answers.update(dict.fromkeys((MISSING, STATE_IDS, STATE, EVENT, CHAIN), lie))
            late = self.room.make("m.room.message", {"number": number}, prev=[self.unseen[-1].event_id])
            self.assert_taken(self.peer.push(self.app, late), late)
            self.settle()
            self.assertEqual(number + 1, self.staged())

    def test_an_event_under_the_name_of_another(self) -> None:
        other = self.room.make("m.room.message", {"body": "not this one"}, prev=self.unseen[0].prev_event_ids)
        self.peer.answers[MISSING] = {"events": [other.json] * 20}
        self.peer.answers[EVENT] = self.peer.transaction([other])
        self.send()
        self.assertNotIn(other.event_id, self.timeline())
        # The state before the event itself was told, and is what it was.
        self.assertEqual(self.late.event_id, self.timeline()[-1])

    def test_references_without_end(self) -> None:
        """What would be dropped if it were sent has no place either where another event names it as its parent."""
        parents = [self.late.event_id] * MAX_PREV_EVENTS
        most = self.room.say("as many as may be", prev=parents)
        more = self.room.say("one more", prev=[*parents, most.event_id])
        last = self.room.say("last")
        self.peer.answers[BACKFILL] = PeerResponse(404, b"{}")
        self.assert_taken(self.peer.push(self.app, last), last)
        self.settle()
        self.assertEqual(0, self.staged())
        shown = self.timeline()
        self.assertEqual(last.event_id, shown[-1])
        self.assertNotIn(more.event_id, shown)
        # What is within the bounds was left out with it, and comes.
        self.assert_taken(self.peer.push(self.app, most), most)
        self.settle()
        self.assertIn(most.event_id, self.timeline())

    def test_answers_without_end(self) -> None:
        """A history that has no beginning: the flow has a budget."""

        def more(request: Any) -> Any:
            latest = msgspec.json.decode(request.body)["latest_events"]
            chain = []
            for number in range(20):
                parent = random_id(f"{latest[0]} {number}")
                chain.append(self.room.make("m.room.message", {}, prev=[parent], depth=5).json)
            return {"events": chain}

        self.peer.answers[MISSING] = more
        self.peer.answers[STATE_IDS] = self.peer.answers[EVENT] = PeerResponse(404, b"{}")
        self.send()
        self.assertEqual(1, self.staged())
        self.assertLess(len(self.peer.asked), 60)

    def test_answers_that_take_their_time(self) -> None:
        """Each comes just before we would stop to wait for it."""
        clock = self.app.time

        def slow(answer: Any) -> Any:
            def later(request: PeerRequest) -> Deferred[Any]:
                waiting: Deferred[Any] = Deferred()
                clock.callLater(19, waiting.callback, answer(request) if callable(answer) else answer)
                return waiting

            return later

        def more(request: PeerRequest) -> Any:
            assert request.body is not None
            parent = random_id(msgspec.json.decode(request.body)["latest_events"][0])
            return {"events": [self.room.make("m.room.message", {}, prev=[parent], depth=5).json]}

        self.peer.answers[MISSING] = slow(more)
        self.peer.answers[STATE_IDS] = self.peer.answers[EVENT] = slow(PeerResponse(404, b"{}"))
        self.send()
        while self.app.app.services.incoming.filler._running:
            self.settle(19)
        self.assertLess(self.app.time.seconds(), START_S + 180)
        asked = len(self.peer.asked)
        # It has a place again for what others lack, and its own event waits for the next attempt.
        self.assertEqual(1, self.staged())
        self.assertLess(asked, 15)

    def test_a_chain_that_goes_on_and_on(self) -> None:
        """Each event that is asked for names another one that is missing."""
        parents: dict[str, Event] = {}

        def make(parent_of: str) -> Event:
            return self.room.make("m.room.message", {}, prev=[random_id(parent_of)], depth=5)

        chain = [make("0")]
        for number in range(1_000):
            event = self.room.make("m.room.message", {"n": number}, prev=[chain[-1].event_id], depth=6)
            parents[event.event_id] = chain[-1]
            chain.append(event)

        def before(request: Any) -> Any:
            latest = msgspec.json.decode(request.body)["latest_events"][0]
            return {"events": [parents[latest].json]} if latest in parents else {"events": []}

        self.peer.answers[MISSING] = before
        self.peer.answers[STATE_IDS] = self.peer.answers[EVENT] = PeerResponse(404, b"{}")
        self.assert_taken(self.peer.push(self.app, chain[-1]), chain[-1])
        self.settle()
        self.assertEqual(1, self.staged())
        self.assertLessEqual(len(self.peer.asked_for("get_missing_events")), 21)


@on_each_database
class Floods(ReceiveCase):
    def test_transactions_at_once(self) -> None:
        self.enter()
        other = self.new_peer("other.example")
        joined = self.room.join(other.user(), signer=other.key)
        self.assert_taken(other.push(self.app, joined), joined)
        self.settle()
        read = self.app.database.read
        held: list[Any] = []

        def hold(*args: Any, **named: Any) -> Deferred[Any]:
            result: Deferred[Any] = Deferred()
            held.append((result, args, named))
            return result

        self.app.database.read = hold  # type: ignore[method-assign]
        said = [self.room.say(str(number)) for number in range(30)]
        # With a message for a device the answer is looked for outside of the room, which others go on to use.
        content = {
            "sender": self.peer.user(),
            "type": "m.test",
            "message_id": "flood",
            "messages": {ALICE: {"*": {}}},
        }
        edus = [{"edu_type": "m.direct_to_device", "content": content}]
        waiting = [
            self.peer.start(
                self.app, "PUT", f"{FEDERATION}/send/f{number}", self.peer.transaction([event], edus)
            )
            for number, event in enumerate(said)
        ]
        refused = [self.app.wait(one).status for one in waiting if one.called]
        self.assertEqual([429] * (30 - TRANSACTIONS_AT_ONCE), refused)
        self.app.database.read = read  # type: ignore[method-assign]
        theirs = self.room.make(
            "m.room.message", {}, sender=other.user(), signer=other.key, prev=[joined.event_id]
        )
        self.assert_taken(other.push(self.app, theirs), theirs)
        for result, args, named in held:
            read(*args, **named).chainDeferred(result)
        self.assertEqual(200, self.app.wait(waiting[0]).status)

    def test_edus_that_are_none(self) -> None:
        for edu in (
            None,
            1,
            {},
            {"edu_type": 1},
            {"edu_type": "m.typing"},
            {"edu_type": "m.typing", "content": []},
        ):
            self.assertEqual((200, {"pdus": {}}), self.peer.push(self.app, edus=[edu] * 100))
        deep: Any = {}
        for _ in range(150):
            deep = {"a": deep}
        contents: tuple[Any, ...] = (
            {},
            deep,
            {"user_id": ALICE, "room_id": self.room_id, "typing": True},
            {"push": [{}]},
        )
        for edu_type in (
            "m.typing",
            "m.receipt",
            "m.presence",
            "m.direct_to_device",
            "m.device_list_update",
            "\0",
        ):
            for content in contents:
                one = {"edu_type": edu_type, "content": content}
                self.assertEqual((200, {"pdus": {}}), self.peer.push(self.app, edus=[one]))

    def test_hopeless_events_of_many_names(self) -> None:
        """Each event is signed by a server that there is not; the room goes on."""
        self.enter()
        strangers = [FakePeer(f"s{number}.example") for number in range(50)]
        joins = [
            self.room.make(
                "m.room.member",
                {"membership": "join"},
                sender=one.user(),
                state_key=one.user(),
                signer=one.key,
            )
            for one in strangers
        ]
        self.assertEqual(200, self.peer.push(self.app, *joins)[0])
        self.settle()
        said = self.room.say("hello")
        self.assert_taken(self.peer.push(self.app, said), said)
        self.assertEqual(said.event_id, self.timeline()[-1])
        self.assertEqual(50, self.staged())
        self.assertEqual(50, len(self.app.wait(self.app.database.read(load_waiting))))
