"""Transactions of other servers. spec: server-server-api#transactions"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from federation.event import Event
from homeserver.db.errors import DatabaseUnavailable
from homeserver.rooms.federated.receive import JOIN_WAIT_S
from tests.api.receiving import ReceiveCase
from tests.api.rooms import V3
from tests.support.counting import count
from tests.support.databases import on_each_database
from tests.support.peer import FEDERATION, FakePeer


@on_each_database
class Transactions(ReceiveCase):
    def test_a_join_and_messages(self) -> None:
        joined = self.enter()
        said = [self.room.say(str(number)) for number in range(50)]
        self.assert_taken(self.peer.push(self.app, *said), *said)
        self.assertEqual([event.event_id for event in (joined, *said)], self.timeline()[-51:])
        self.assertEqual("join", self.state("m.room.member", self.peer.user())["membership"])
        self.assertEqual(0, self.staged())

    def test_what_a_transaction_of_fifty_messages_costs(self) -> None:
        self.enter()
        self.assert_taken(self.peer.push(self.app, warm := self.room.say("warm")), warm)
        said = [self.room.say(str(number)) for number in range(50)]
        counted = count(self.app, lambda: self.assert_taken(self.peer.push(self.app, *said), *said))
        self.assertEqual(1, counted.transactions, counted)
        # The answer of an earlier time, whether somebody of the fifty is known; then one statement a table and size.
        self.assertLessEqual(len(counted.statements), 29, counted)
        single = self.room.say("single")
        counted = count(self.app, lambda: self.assert_taken(self.peer.push(self.app, single), single))
        self.assertEqual(1, counted.transactions, counted)
        self.assertEqual(
            [
                "room_heads",
                "events",
                "event_json",
                "edges",
                "stream",
                "timeline",
                "changes",
            ],
            counted.written,
            counted,
        )
        self.assertEqual(7, len(counted.statements), counted)
        # It stands on what is in memory; that it is new, the commit itself makes sure of.
        self.assertEqual([], counted.units, counted)

    def test_what_a_fork_of_twenty_costs(self) -> None:
        self.enter()
        self.assert_taken(self.peer.push(self.app, warm := self.room.say("warm")), warm)
        fork = list(self.room.head)
        said = [self.room.say(str(number), prev=fork) for number in range(20)]
        counted = count(self.app, lambda: self.assert_taken(self.peer.push(self.app, *said), *said))
        self.assertEqual(1, counted.transactions, counted)
        self.assertLessEqual(len(counted.statements), 25, counted)

    def test_events_of_others_are_relayed(self) -> None:
        self.enter()
        other = self.new_peer("other.example")
        user_id = other.user("carol")
        joined = self.room.join(user_id, signer=other.key)
        # Its keys are not known yet: it waits for them.
        self.assert_taken(self.peer.push(self.app, joined), joined)
        self.settle()
        self.assertEqual("join", self.state("m.room.member", user_id)["membership"])
        self.assertEqual(1, len(other.asked_for("/_matrix/key/v2/server")))
        said = self.room.say("hello", sender=user_id, signer=other.key)
        self.assert_taken(self.peer.push(self.app, said), said)
        self.assertEqual(said.event_id, self.timeline()[-1])

    def test_the_same_again_is_answered_as_before(self) -> None:
        self.enter()
        said = self.room.say("once")
        body = self.peer.transaction([said])
        uri = f"{FEDERATION}/send/again"
        first = self.peer.call(self.app, "PUT", uri, body)
        before = self.timeline()
        self.assertEqual(first, self.peer.call(self.app, "PUT", uri, body))
        # Whatever it holds the second time: it was taken already.
        other = self.peer.transaction([self.room.make("m.room.message", {"body": "twice"})])
        self.assertEqual(first, self.peer.call(self.app, "PUT", uri, other))
        self.app.restart()
        self.assertEqual(first, self.peer.call(self.app, "PUT", uri, body))
        self.assertEqual(before, self.timeline())
        # Another server may use the same id.
        bob = self.new_peer("bob.example")
        joined = self.room.join(bob.user(), signer=bob.key)
        self.assertEqual(200, bob.call(self.app, "PUT", uri, bob.transaction([joined]))[0])
        self.settle()
        self.assertEqual("join", self.state("m.room.member", bob.user())["membership"])

    def test_an_answer_that_the_events_give_again_is_not_stored(self) -> None:
        self.enter()
        said = [self.room.say("one"), self.room.say("two")]
        self.check_again("good", said, stored=0)

    def test_an_answer_that_says_more_is_stored(self) -> None:
        self.enter()
        bad = self.room.make("m.room.power_levels", {"users": {self.peer.user(): 100}}, state_key="")
        self.check_again("mixed", [self.room.say("one"), bad], stored=1)

    def check_again(self, txn_id: str, events: Sequence[Event], *, stored: int) -> None:
        """A transaction comes three times, the second time after a restart."""
        body = self.peer.transaction(events)
        answers: list[Any] = []

        def ask() -> None:
            answers.append(self.peer.call(self.app, "PUT", f"{FEDERATION}/send/{txn_id}", body))

        counted = count(self.app, ask)
        self.assertEqual(stored, counted.written.count("incoming_transactions"), counted)
        before = self.timeline()
        self.app.restart()
        counted = count(self.app, ask)
        self.assertEqual([], counted.written, counted)
        self.assertEqual(before, self.timeline())
        # Now it is in memory.
        counted = count(self.app, ask)
        self.assertEqual([], counted.texts, counted)
        self.assertEqual({event.event_id for event in events}, set(answers[0][1]["pdus"]))
        self.assertEqual([answers[0]] * 3, answers)

    def test_answers_are_forgotten_after_a_day(self) -> None:
        self.enter()
        said = self.room.say("once")
        uri = f"{FEDERATION}/send/old"
        self.peer.call(self.app, "PUT", uri, self.peer.transaction([said]))
        self.app.time.advance(25 * 3600)
        self.settle(700)
        missing = self.peer.transaction([])
        missing["pdus"] = [self.room.say("new").json]
        self.assertNotIn(said.event_id, self.peer.call(self.app, "PUT", uri, missing)[1]["pdus"])

    def test_the_same_transaction_twice_at_once(self) -> None:
        self.enter()
        body = self.peer.transaction([self.room.say("once")])
        uri = f"{FEDERATION}/send/twice"
        waiting = [self.peer.start(self.app, "PUT", uri, body) for _ in range(3)]
        before = len(self.timeline())
        answers = [self.app.wait(one) for one in waiting]
        self.assertEqual([200] * 3, [answer.status for answer in answers])
        self.assertEqual(1, len({answer.body for answer in answers}))
        self.assertLessEqual(len(self.timeline()) - before, 1)

    def test_no_answer_before_it_is_stored(self) -> None:
        self.enter()
        said = self.room.say("hello")
        write = self.app.database.write
        held: list[Any] = []

        def hold(*args: Any, **named: Any) -> Deferred[Any]:
            result: Deferred[Any] = Deferred()
            held.append((result, args, named))
            return result

        self.app.database.write = hold  # type: ignore[method-assign]
        waiting = self.peer.start(self.app, "PUT", f"{FEDERATION}/send/held", self.peer.transaction([said]))
        self.assertTrue(self.pause(waiting))
        self.assertEqual(1, len(held))
        self.app.database.write = write  # type: ignore[method-assign]
        for result, args, named in held:
            write(*args, **named).chainDeferred(result)
        self.assertEqual(200, self.app.wait(waiting).status)

    def test_a_database_that_fails_is_no_answer(self) -> None:
        self.enter()
        said = self.room.say("hello")
        write = self.app.database.write

        def fail(*args: Any, **named: Any) -> Deferred[Any]:
            result: Deferred[Any] = Deferred()
            result.errback(DatabaseUnavailable("gone"))
            return result

        self.app.database.write = fail  # type: ignore[method-assign]
        body, uri = self.peer.transaction([said]), f"{FEDERATION}/send/failed"
        self.assertEqual(503, self.peer.call(self.app, "PUT", uri, body)[0])
        self.app.log.entries.clear()
        self.app.database.write = write  # type: ignore[method-assign]
        self.assert_taken(self.peer.call(self.app, "PUT", uri, body), said)
        self.assertEqual(said.event_id, self.timeline()[-1])

    def test_what_waits_although_nobody_said_that_it_was_stored(self) -> None:
        """The first commit is made and its answer lost; the second time the transaction has its answer already."""
        self.enter()
        self.room.say("missing")
        late = self.room.say("late")
        bad = self.room.make("m.room.power_levels", {"users": {self.peer.user(): 100}}, state_key="", prev=[])
        body, uri = self.peer.transaction([late, bad]), f"{FEDERATION}/send/lost"
        self.app.lose_answer("staging")
        self.assertEqual(503, self.peer.call(self.app, "PUT", uri, body)[0])
        self.app.log.entries.clear()
        again = self.peer.call(self.app, "PUT", uri, body)
        self.assert_refused(again, bad, "")
        self.settle(10)
        self.assertEqual(late.event_id, self.timeline()[-1])

    def test_rooms_that_this_server_is_not_in(self) -> None:
        own = self.peer.create("1")
        event = own.say("hello")
        # An id of the first versions can be read without knowing the room.
        self.assert_refused(self.peer.push(self.app, event), event, "not in that room")
        # All others have none that we could know.
        self.assertEqual((200, {"pdus": {}}), self.peer.push(self.app, self.peer.create("11").say("hello")))
        # A room that all of ours have left.
        self.enter()
        self.app.ok("POST", f"{V3}/rooms/{self.room_id}/leave", {}, self.alice)
        said = self.room.say("anybody?")
        self.assert_refused(self.peer.push(self.app, said), said, "not in that room")
        self.assertEqual(0, self.staged())

    def test_access_control_lists(self) -> None:
        self.enter()
        content = {"allow": ["*"], "deny": [self.peer.server_name], "allow_ip_literals": True}
        path = f"{V3}/rooms/{self.room_id}/state/m.room.server_acl"
        self.app.ok("PUT", path, content, self.alice)
        said = self.room.say("let me in")
        self.assert_refused(self.peer.push(self.app, said), said, "not allowed")
        # It is who sends that counts: another server may relay it.
        other = self.new_peer("other.example")
        self.assert_taken(other.push(self.app, said), said)
        self.assertIn(said.event_id, self.timeline())

    def test_one_room_does_not_stop_another(self) -> None:
        self.enter()
        second_id = self.create()
        second = self.peer.follow(self.app, second_id)
        self.enter(second)
        bad = self.room.add("m.room.power_levels", {"users": {self.peer.user(): 100}}, state_key="")
        good = second.say("hello")
        foreign = self.peer.create("1").say("where?")
        status, answer = self.peer.push(self.app, bad, good, foreign)
        self.assertEqual(200, status)
        self.assertEqual({}, answer["pdus"][good.event_id])
        self.assertEqual({bad.event_id, good.event_id, foreign.event_id}, set(answer["pdus"]))
        self.assert_refused((status, answer), bad, "")
        self.assertIn(good.event_id, self.timeline(second_id))
        self.assertNotIn(bad.event_id, self.timeline())
        self.assertNotIn(self.peer.user(), self.state("m.room.power_levels")["users"])

    def test_every_room_version(self) -> None:
        for number in range(1, 13):
            room_id = self.create(room_version=str(number))
            room = self.peer.follow(self.app, room_id)
            joined = room.join()
            said = room.say("hello")
            self.assert_taken(self.peer.push(self.app, joined, said), joined, said)
            self.assertEqual([joined.event_id, said.event_id], self.timeline(room_id)[-2:])


@on_each_database
class Bodies(ReceiveCase):
    """What is no transaction."""

    def send(self, body: Any, txn_id: str = "x") -> tuple[int, Any]:
        return self.peer.call(self.app, "PUT", f"{FEDERATION}/send/{txn_id}", body)

    def test_limits(self) -> None:
        self.enter()
        too_many = [self.room.make("m.room.message", {"n": number}).json for number in range(51)]
        self.assertEqual(413, self.send({"pdus": too_many})[0])
        self.assertEqual(413, self.send({"pdus": [], "edus": [{}] * 101})[0])
        self.assertEqual((200, {"pdus": {}}), self.send({"pdus": [], "edus": [{}] * 100}))
        self.assertEqual(200, self.send({"pdus": too_many[:50]}, "fifty")[0])
        self.assertEqual(400, self.send({"pdus": []}, "t" * 256)[0])

    def test_fifty_of_the_largest_events_fit(self) -> None:
        self.enter()
        said = []
        for _ in range(50):
            size = len(msgspec.json.encode(self.room.make_json("m.room.message", {"body": ""})))
            said.append(self.room.say("x" * (65_536 - size - 40)))
        self.assertGreater(sum(len(msgspec.json.encode(event.json)) for event in said), 3_200_000)
        self.assert_taken(self.peer.push(self.app, *said), *said)

    def test_shapes(self) -> None:
        bodies: tuple[Any, ...] = ({}, {"pdus": {}}, {"pdus": None}, {"pdus": [], "edus": {}}, {"pdus": "x"})
        for body in bodies:
            self.assertEqual((400, "M_BAD_JSON"), self.refusal(self.send(body)), body)
        self.assertEqual((400, "M_BAD_JSON"), self.refusal(self.send(b"[]")))
        entries: tuple[Any, ...] = (
            None,
            1,
            "x",
            [],
            {},
            {"room_id": 1},
            {"room_id": "x"},
            {"room_id": "!" + "x" * 300},
        )
        for entry in entries:
            self.assertEqual((200, {"pdus": {}}), self.send({"pdus": [entry]}), entry)

    def refusal(self, answer: tuple[int, Any]) -> tuple[int, str]:
        return answer[0], answer[1].get("errcode")

    def test_unsigned_and_badly_signed(self) -> None:
        uri = f"{FEDERATION}/send/x"
        self.assertEqual(401, self.app.call("PUT", uri, {"pdus": []})[0])
        thief = FakePeer(self.peer.server_name, "stolen")
        self.assertEqual(401, thief.call(self.app, "PUT", uri, {"pdus": []})[0])

    def test_duplicate_keys_have_one_reading(self) -> None:
        """The last one counts, for the signature and for us; what is stored is not what was sent, byte for byte."""
        self.enter()
        said = self.room.say("the truth")
        honest = msgspec.json.encode(said.json)
        lie = honest.replace(b'"body":"the truth"', b'"body":"a lie","body":"the truth"')
        body = b'{"pdus":[{"room_id":"!nowhere:x"}],"pdus":[' + lie + b"]}"
        read = {"pdus": [said.json]}
        uri = f"{FEDERATION}/send/doubled"
        header = self.peer.authorization(
            self.app.config.server_name, "PUT", uri, msgspec.json.encode(read, order="sorted")
        )
        answer = self.app.answer("PUT", uri, body, headers={"authorization": header})
        self.assert_taken((answer.status, answer.json), said)
        path = f"{V3}/rooms/{self.room_id}/event/{said.event_id}"
        found = self.app.ok("GET", path, None, self.alice)
        self.assertEqual("the truth", found["content"]["body"])


@on_each_database
class WhileJoining(ReceiveCase):
    """A room of the peer's, which alice joins; the peer sends events as soon as it has seen the join."""

    def setUp(self) -> None:
        super().setUp()
        self.own = self.peer.create("11")
        self.held: list[tuple[Deferred[Any], Any]] = []
        self.peer.answers["PUT", "/_matrix/federation/v2/send_join/"] = self.hold
        query = {"server_name": self.peer.server_name}
        path = f"{V3}/join/{self.own.room_id}"
        self.joining = self.app.start("POST", path, {}, self.alice, query)
        self.assertTrue(self.pause(self.joining))

    def hold(self, request: Any) -> Deferred[Any]:
        """The join is accepted, and the answer is slow."""
        answer = self.own.send_join_answer(msgspec.json.decode(request.body))
        waiting: Deferred[Any] = Deferred()
        self.held.append((waiting, answer))
        return waiting

    def test_events_wait_for_the_join(self) -> None:
        said = self.own.say("welcome")
        body = self.peer.transaction([said])
        waiting = self.peer.start(self.app, "PUT", f"{FEDERATION}/send/early", body)
        self.assertTrue(self.pause(waiting))
        for one, answer in self.held:
            one.callback(answer)
        self.assertEqual(200, self.app.wait(self.joining).status)
        answer = self.app.wait(waiting)
        self.assert_taken((answer.status, answer.json), said)
        self.assertEqual(said.event_id, self.timeline(self.own.room_id)[-1])

    def test_a_join_that_takes_long(self) -> None:
        said = self.own.say("welcome")
        body = self.peer.transaction([said])
        waiting = self.peer.start(self.app, "PUT", f"{FEDERATION}/send/early", body)
        self.assertTrue(self.pause(waiting))
        self.settle(JOIN_WAIT_S + 1)
        self.assertEqual(429, self.app.wait(waiting).status)
        for one, answer in self.held:
            one.callback(answer)
        self.assertEqual(200, self.app.wait(self.joining).status)
        self.assert_taken(self.peer.call(self.app, "PUT", f"{FEDERATION}/send/early", body), said)
