"""Events on their way to other servers: who gets what, in which order, and what the others answer."""

from __future__ import annotations

from typing import Any

from federation.event import parse_untrusted
from federation.hashes import check_content_hash, compute_event_id
from federation.signing import required_signers, verify_event_signatures
from federation.verdict import Accept
from homeserver.db.errors import DatabaseUnavailable
from homeserver.peers.sender import REFUSALS_MOST
from homeserver.runtime.metrics import make_metrics
from homeserver.store.outgoing import Relay, relay
from tests.api.rooms import V3
from tests.api.sending import HOME, RULES, SEND, Mailbox, SendingCase, with_limits
from tests.api.servers import place_event
from tests.support.databases import on_each_database
from tests.support.federation import TestNet


@on_each_database
class Delivery(SendingCase):
    """Everybody is there."""

    def test_an_event_goes_to_each_server_once_as_it_was_signed(self) -> None:
        one, two = self.join("one.example", "two.example:8448")
        event_id = self.say("hello")
        self.net.settle()
        for box in (one, two):
            self.assertEqual(box.bodies, ["hello"])
            (transaction,) = box.taken
            self.assertEqual(sorted(transaction), ["origin", "origin_server_ts", "pdus"])
            self.assertEqual(
                (transaction["origin"], transaction["origin_server_ts"]), (HOME, self.net.now_ms)
            )
            (pdu,) = transaction["pdus"]
            self.assertNotIn("unsigned", pdu)
            self.assertNotIn("event_id", pdu)
            self.assertEqual(compute_event_id(pdu, RULES), event_id)
            self.assertTrue(check_content_hash(pdu, RULES))
            key = self.home.signing_keys[0]
            event = parse_untrusted(pdu, RULES)
            keys = {key.server_name: {key.key_id: key.public_key}}
            self.assertIsInstance(verify_event_signatures(event, required_signers(event), keys), Accept)
        self.assertEqual(len(self.sender), 0, "who has everything is forgotten")
        self.assertEqual(self.owing(), [])

    def test_it_costs_no_statement(self) -> None:
        self.join("one.example", "two.example", "three.example")
        self.say("warm")
        self.net.settle()
        self.net.advance(30)
        texts: list[str] = []
        self.home.engine.hook = texts.append
        self.say("hello")
        spoken = len(texts)
        self.net.settle()
        self.home.engine.hook = None
        self.assertEqual(spoken, len(texts), texts[spoken:])
        # What the message itself costs in a room without other servers: see test_query_counts.
        self.assertEqual(8, len([text for text in texts if text != "COMMIT"]), texts)
        self.assertEqual(len(self.net.sent(SEND, destination="three.example")), 2)

    def test_nothing_leaves_before_the_commit(self) -> None:
        (one,) = self.join("one.example")
        self.home.engine.hook = _fail_commit
        path = f"{V3}/rooms/{self.room_id}/send/m.room.message/x"
        status, _ = self.home.call("PUT", path, {"msgtype": "m.text", "body": "lost"}, self.alice)
        self.home.engine.hook = None
        self.assertEqual(status, 503)
        self.net.settle()
        self.assertEqual(one.bodies, [])
        self.home.log.entries.clear()

    def test_only_our_own_events_leave(self) -> None:
        one, two = self.join("one.example", "two.example")
        place_event(self.home, self.room_id, "m.room.message", {"body": "theirs"}, None, "@user:two.example")
        self.net.settle()
        self.assertEqual((one.bodies, two.bodies), ([], []))

    def test_who_leaves_hears_of_it_and_of_nothing_more(self) -> None:
        one, two = self.join("one.example", "two.example")
        self.move("@user:one.example", "leave", sender="@alice:home.example")
        self.say("after the kick")
        self.move("@user:two.example", "ban", sender="@alice:home.example")
        self.say("after the ban")
        self.net.settle()
        self.assertEqual([pdu["type"] for pdu in one.pdus], ["m.room.member"])
        self.assertEqual(two.bodies, ["after the kick"])
        self.assertEqual(two.pdus[-1]["content"]["membership"], "ban")

    def test_an_invite_that_is_taken_back(self) -> None:
        box = Mailbox(self.net, "one.example")
        self.move("@user:one.example", "invite", sender="@alice:home.example")
        self.say("not for them")
        self.move("@user:one.example", "leave", sender="@alice:home.example")
        self.net.settle()
        self.assertEqual([pdu["content"].get("membership") for pdu in box.pdus], ["leave"])

    def test_our_last_user_leaves(self) -> None:
        (one,) = self.join("one.example")
        self.home.ok("POST", f"{V3}/rooms/{self.room_id}/leave", {}, self.alice)
        self.net.settle()
        self.assertEqual([pdu["content"]["membership"] for pdu in one.pdus], ["leave"])

    def test_fifty_events_a_transaction_in_order_one_at_a_time(self) -> None:
        (one,) = self.join("one.example")
        one.answer = None
        self.say("m0")
        self.net.settle()
        for number in range(1, 121):
            self.say(f"m{number}")
        self.net.settle()
        self.assertEqual(len(one.attempts), 1, "while one is under way there is no other")
        one.answer = (200, {"pdus": {}})
        self.net.advance(60 + 5)
        self.assertEqual(one.bodies, [f"m{number}" for number in range(121)])
        self.assertEqual([len(transaction["pdus"]) for transaction in one.taken], [1, 50, 50, 20])
        self.assertEqual(len({request.uri for request in one.attempts}), 4)

    def test_what_is_measured(self) -> None:
        metrics = make_metrics()
        self.home.app.outgoing.watch(metrics)
        (one,) = self.join("one.example")
        one.answer = (500, {})
        self.say("x")
        self.net.settle()
        text = metrics.exposition()[0].decode()
        self.assertIn('chaos_follower_lag{follower="federation"} 0.0', text)
        for state, count in (("sending", 0), ("waiting", 0), ("failing", 1)):
            self.assertIn(f'chaos_destinations{{state="{state}"}} {count}.0', text)
        self.assertNotIn("one.example", text)

    def test_what_is_redacted_meanwhile(self) -> None:
        (one,) = self.join("one.example")
        one.answer = (503, {})
        event_id = self.say("secret")
        self.net.settle()
        self.home.ok("PUT", f"{V3}/rooms/{self.room_id}/redact/{event_id}/r", {}, self.alice)
        self.home.restart()
        one.answer = (200, {"pdus": {}})
        self.net.advance(30)
        first, second = one.pdus
        self.assertEqual((compute_event_id(first, RULES), first["content"]), (event_id, {}))
        self.assertEqual(second["type"], "m.room.redaction")

    def test_events_that_we_distribute_for_another_server(self) -> None:
        one, two = self.join("one.example", "two.example")
        event_id = place_event(
            self.home, self.room_id, "m.room.topic", {"topic": "x"}, "", "@alice:home.example"
        )
        self.net.settle()
        one.taken.clear()
        two.taken.clear()
        core = self.home.app.core
        placed = core.changes.since(core.changes.position - 1)[0].payload  # type: ignore[index]
        payload = Relay(event_id, placed.room_nid, "@user:one.example", placed.json)  # type: ignore[arg-type]
        two.answer = (503, {})
        self.home.wait(core.committer.work(relay, placed.nid, payload))
        self.net.settle()
        self.assertEqual(one.pdus, [], "its own server has it")
        # Not in memory any more: it is read.
        self.home.restart()
        two.answer = (200, {"pdus": {}})
        self.net.advance(60)
        self.assertEqual([compute_event_id(pdu, RULES) for pdu in two.pdus], [event_id])
        self.assertEqual(one.pdus, [])


@on_each_database
class Answers(SendingCase):
    """What other servers answer."""

    def one_answer(self, status: int, content: Any, then_s: float = 25) -> Mailbox:
        (one,) = self.join("one.example")
        one.answer = (status, content)
        self.say("x")
        self.net.settle()
        self.assertEqual(len(one.attempts), 1)
        one.answer = (200, {"pdus": {}})
        self.net.advance(then_s)
        return one

    def test_not_found_forbidden_and_broken_servers_get_it_later(self) -> None:
        for status, content in (
            (404, {"errcode": "M_UNRECOGNIZED"}),
            (403, {"errcode": "M_FORBIDDEN"}),
            (401, {"errcode": "M_UNAUTHORIZED"}),
            (500, b"<html>"),
            (302, b""),
            (200, b"not JSON"),
            (200, b"[]"),
            (200, b'{"pdus":' * 5000),
        ):
            with self.subTest(status=status, content=content[:20] if isinstance(content, bytes) else content):
                self.net = TestNet(self)
                self.setUp()
                self.assertEqual(self.one_answer(status, content).bodies, ["x"])

    def test_a_transaction_that_is_no_good_is_dropped_at_last(self) -> None:
        (one,) = self.join("one.example")
        one.answer = (400, {"errcode": "M_BAD_JSON"})
        self.say("poison")
        self.net.advance(130)
        self.assertEqual(len(one.attempts), REFUSALS_MOST)
        self.assertIn("a transaction was refused and is dropped", self.home.log.events("warning"))
        one.answer = (200, {"pdus": {}})
        self.say("wholesome")
        self.net.advance(5)
        self.assertEqual(one.bodies, ["wholesome"])

    def test_too_many_requests(self) -> None:
        one = self.one_answer(429, {"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 15_000}, 14)
        one.stranger.ask(HOME, "GET", "/_matrix/federation/v1/query/profile?user_id=@alice:home.example")
        self.net.settle()
        self.assertEqual(one.bodies, [], "a sign of life is no news: it did answer")
        self.net.advance(2)
        self.assertEqual(one.bodies, ["x"])

    def test_events_that_are_refused_one_by_one_are_not_sent_again(self) -> None:
        (one,) = self.join("one.example")
        self.net.down("one.example")
        event_id = self.say("x")
        one.answer = (200, {"pdus": {event_id: {"error": "no"}, "$other": {"error": "what"}, "5": 6}})
        self.net.up("one.example")
        self.net.advance(25)
        self.assertEqual(one.bodies, ["x"])
        (entry,) = [
            fields
            for _, event, fields in self.home.log.entries
            if event == "events refused by another server"
        ]
        self.assertEqual((entry["count"], entry["events"]), (1, [f"{event_id}: no"]))

    def test_shapes_of_answers(self) -> None:
        contents: list[Any] = [{}, {"pdus": []}, {"pdus": {"$x": 5}}, {"pdus": {"$x": {"error": 5}}}]
        for content in contents:
            with self.subTest(content=content):
                self.net = TestNet(self)
                self.setUp()
                (one,) = self.join("one.example")
                one.answer = (200, content)
                self.say("x")
                self.net.advance(100)
                self.assertEqual(len(one.attempts), 1)

    def test_a_server_that_we_must_not_talk_with(self) -> None:
        one, two = self.join("one.example", "two.example")
        self.net.down("one.example")
        self.say("x")
        self.net.advance(5)
        self.home.app.reload(with_limits(self.home.config, deny_servers=("one.example",)))
        self.net.up("one.example")
        self.say("y")
        self.net.advance(25)
        self.assertEqual((one.bodies, two.bodies), ([], ["x", "y"]))
        self.assertEqual((len(self.sender), self.owing()), (0, []))


def _fail_commit(text: str) -> None:
    if text.startswith("INSERT INTO timeline"):
        raise DatabaseUnavailable("the disk is full")
