"""Events on their way to other servers: who gets what, in which order, and what happens when somebody is away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from federation.event import parse_untrusted
from federation.hashes import check_content_hash, compute_event_id
from federation.signing import required_signers, verify_event_signatures
from federation.verdict import Accept
from federation.versions import ROOM_VERSIONS
from homeserver.config.schema import Federation, Switch
from homeserver.db.errors import DatabaseUnavailable
from homeserver.http.transport import PeerRequest
from homeserver.peers.sender import FAILING_MOST, HEALTHY_MOST, REFUSALS_MOST
from homeserver.runtime.metrics import make_metrics
from homeserver.store.changes import load_cursors
from homeserver.store.outgoing import OWED_MOST, Owing, Relay, load_destinations, relay
from homeserver.stream.followers import STORE_AFTER_S
from tests.api.rooms import V3
from tests.api.servers import place_event, set_membership
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.federation import Stranger, TestNet

SEND = "/_matrix/federation/v1/send/"
HOME = "home.example"
RULES = ROOM_VERSIONS["10"]


class Mailbox:
    """Another server, played by hand: takes transactions and answers what it is told."""

    def __init__(self, net: TestNet, name: str) -> None:
        self.name = name
        self.stranger: Stranger = net.stranger(name)
        self.stranger.answers["PUT", SEND] = self._take
        self.attempts: list[PeerRequest] = []
        self.taken: list[dict[str, Any]] = []  # transactions that were answered with 200
        self.answer: tuple[int, Any] | None = (200, {"pdus": {}})

    def _take(self, request: PeerRequest) -> tuple[int, Any] | None:
        self.attempts.append(request)
        if self.answer is not None and self.answer[0] == 200 and isinstance(self.answer[1], dict):
            self.taken.append(msgspec.json.decode(request.body or b""))
        return self.answer

    @property
    def pdus(self) -> list[dict[str, Any]]:
        return [pdu for transaction in self.taken for pdu in transaction["pdus"]]

    @property
    def edus(self) -> list[dict[str, Any]]:
        return [edu for transaction in self.taken for edu in transaction.get("edus", ())]

    def told(self, edu_type: str) -> list[dict[str, Any]]:
        """The contents of the EDUs of a type."""
        return [edu["content"] for edu in self.edus if edu["edu_type"] == edu_type]

    @property
    def bodies(self) -> list[str]:
        """What the messages among the events say."""
        return [pdu["content"]["body"] for pdu in self.pdus if pdu["type"] == "m.room.message"]


class SendingCase(DatabaseCase):
    """A server with alice in a public room, and other servers' users in it."""

    version = "10"
    presence = Switch(enabled=False)  # who says something is online, and that is told as well

    def setUp(self) -> None:
        self.net = TestNet(self)
        self.home = self.net.server(
            HOME, database=self.new_database(), federation=self.federation(), presence=self.presence
        )
        self.net.settle()
        self.alice = self.home.register("alice")
        self.room_id = self.create()

    def federation(self) -> Federation:
        return Federation(retry_min_s=1, retry_max_s=20)

    def create(self) -> str:
        body = {"preset": "public_chat", "room_version": self.version}
        room_id: str = self.home.ok("POST", f"{V3}/createRoom", body, self.alice)["room_id"]
        return room_id

    def join(self, *names: str, room_id: str | None = None) -> list[Mailbox]:
        """Servers with a user each in the room."""
        boxes = [Mailbox(self.net, name) for name in names]
        for box in boxes:
            self.move(f"@user:{box.name}", "join", room_id)
        self.net.settle()
        return boxes

    def move(self, user_id: str, membership: str, room_id: str | None = None, sender: str = "") -> None:
        set_membership(self.home, room_id or self.room_id, user_id, membership, sender)

    def say(self, body: str, room_id: str | None = None) -> str:
        path = f"{V3}/rooms/{room_id or self.room_id}/send/m.room.message/{body}"
        sent = self.home.ok("PUT", path, {"msgtype": "m.text", "body": body}, self.alice)
        return str(sent["event_id"])

    def owing(self) -> list[Owing]:
        return self.home.wait(self.home.database.read(load_destinations))

    @property
    def sender(self) -> Any:
        return self.home.app.outgoing.sender


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
        self.assertEqual(9, len([text for text in texts if text != "COMMIT"]), texts)
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
class Outages(SendingCase):
    """Somebody is away."""

    def test_nothing_is_lost_or_out_of_order_in_an_outage(self) -> None:
        one, two = self.join("one.example", "two.example")
        self.net.down("one.example")
        for number in range(60):
            self.say(f"m{number}")
            self.net.advance(1)
        self.assertEqual(len(two.bodies), 60, "the others are not kept waiting")
        self.assertEqual(one.bodies, [])
        self.net.up("one.example")
        self.net.advance(25)
        self.assertEqual(one.bodies, [f"m{number}" for number in range(60)])
        self.assertEqual(self.owing(), [])

    def test_a_restart_in_the_middle(self) -> None:
        (one,) = self.join("one.example")
        self.say("before")
        self.net.settle()
        self.net.down("one.example")
        for number in range(70):
            self.say(f"m{number}")
        self.net.advance(30)
        (row,) = self.owing()
        self.assertEqual(row.server_name, "one.example")
        self.assertGreater(row.failures, 2)
        self.home.restart()
        self.net.settle()
        self.say("in the second life")
        self.net.advance(5)
        self.home.restart()
        self.net.up("one.example")
        self.net.advance(25)
        expected = ["before", *(f"m{number}" for number in range(70)), "in the second life"]
        self.assertEqual(one.bodies, expected)
        self.net.advance(2 * STORE_AFTER_S)
        self.assertEqual(self.owing(), [])

    def test_a_crash_sends_again_and_never_skips(self) -> None:
        (one,) = self.join("one.example")
        self.say("stored")
        self.net.advance(2 * STORE_AFTER_S)
        one.answer = None
        self.say("under way")
        self.net.settle()
        # No stop: what was in memory is gone.
        self.home.app.outgoing.sender._stopped = True
        self.home.app = self.home._build()
        self.home.http = type(self.home.http)(self.home.app.router)
        self.home.app.begin()
        one.answer = (200, {"pdus": {}})
        self.net.advance(10)
        self.assertEqual(one.bodies, ["stored", "under way"])

    def test_who_was_not_there_hears_nothing(self) -> None:
        """The room as it was at each event, and not as it is at the end of the outage."""
        one, two = self.join("one.example", "two.example")
        self.net.down("one.example")
        self.say("first")
        self.net.settle()
        self.move("@user:one.example", "leave", sender="@alice:home.example")
        self.say("without them")
        self.move("@user:one.example", "join")
        self.say("with them")
        self.home.restart()
        self.net.up("one.example")
        self.net.advance(25)
        self.assertEqual(one.bodies, ["first", "with them"])
        self.assertEqual(two.bodies, ["first", "without them", "with them"])

    def test_after_a_long_outage_the_newest_of_each_room(self) -> None:
        one, _ = self.join("one.example", "two.example")
        quiet = self.create()
        self.move("@user:one.example", "join", quiet)
        left = self.create()
        self.move("@user:one.example", "join", left)
        self.net.settle()
        one.taken.clear()
        self.net.down("one.example")
        self.say("quiet", quiet)
        self.say("last of left", left)
        self.move("@user:one.example", "leave", left)
        self.say("not for them", left)
        for number in range(OWED_MOST + 10):
            self.say(f"m{number}")
        # The room's newest event is another server's: that may not have reached them either.
        place_event(self.home, self.room_id, "m.room.message", {"body": "theirs"}, None, "@user:two.example")
        self.home.restart()
        self.net.up("one.example")
        self.net.advance(40)
        self.assertEqual(one.bodies, ["quiet", "last of left", f"m{OWED_MOST + 9}", "theirs"])
        self.net.advance(2 * STORE_AFTER_S)
        self.assertEqual(self.owing(), [])

    def test_waits_double_up_to_the_limit(self) -> None:
        (one,) = self.join("one.example")
        one.answer = (500, {})
        self.say("x")
        self.net.advance(200)
        times = [self._made(request) for request in one.attempts]
        self.assertEqual(len(set(times)), 1, "the same transaction, byte for byte")
        self.assertEqual(len({request.uri for request in one.attempts}), 1)
        self.assertEqual(len({request.body for request in one.attempts}), 1)
        (row,) = self.owing()
        self.assertIn(len(one.attempts) - row.failures, (0, 1), "stored some seconds after the attempt")
        # After 1, 2, 4, 8 and 16 s, then every 20 s, each but the first up to half as early.
        self.assertGreaterEqual(len(one.attempts), 6 + 8)
        self.assertLessEqual(len(one.attempts), 6 + 20)
        self.assertLessEqual(row.retry_at_ts_ms - self.net.now_ms, 20_000)

    def _made(self, request: PeerRequest) -> int:
        made: int = msgspec.json.decode(request.body or b"")["origin_server_ts"]
        return made

    def test_the_limits_are_reloaded(self) -> None:
        (one,) = self.join("one.example")
        one.answer = (500, {})
        self.say("x")
        self.net.advance(60)
        before = len(one.attempts)
        self.home.app.reload(_with_limits(self.home.config, retry_min_s=1, retry_max_s=2))
        self.net.advance(20)
        self.assertGreaterEqual(len(one.attempts), before + 9)

    def test_the_back_off_outlasts_the_process(self) -> None:
        self.join("one.example")
        self.net.down("one.example")
        self.say("x")
        self.net.advance(35)
        (row,) = self.owing()
        self.home.restart()
        self.net.advance((row.retry_at_ts_ms - self.net.now_ms) / 1000 - 1)
        self.assertTrue(self.sender.is_down("one.example"))
        sent = len(self.net.sent(SEND, destination="one.example"))
        self.assertEqual(self.owing(), [row])
        self.net.advance(2)
        self.assertEqual(len(self.net.sent(SEND, destination="one.example")), sent + 1)

    def test_a_sign_of_life_ends_the_wait(self) -> None:
        (one,) = self.join("one.example")
        self.net.down("one.example")
        self.say("x")
        self.net.advance(100)
        self.net.up("one.example")
        self.assertEqual(one.bodies, [])
        one.stranger.ask(HOME, "GET", "/_matrix/federation/v1/query/profile?user_id=@alice:home.example")
        self.net.advance(1)
        self.assertEqual(one.bodies, ["x"])

    def test_who_speaks_and_does_not_listen_is_not_tried_all_the_time(self) -> None:
        (one,) = self.join("one.example")
        one.answer = (503, {})
        self.say("x")
        self.net.advance(25)
        before = len(one.attempts)
        for _ in range(20):
            one.stranger.ask(HOME, "GET", "/_matrix/federation/v1/query/profile?user_id=@alice:home.example")
        self.net.advance(1.5)
        self.assertLessEqual(len(one.attempts), before + 2)

    def test_a_thousand_dead_servers_keep_nobody_waiting(self) -> None:
        dead = [f"dead{number}.example" for number in range(FAILING_MOST + HEALTHY_MOST + 50)]
        for name in dead:
            self.move(f"@user:{name}", "join")
        (one,) = self.join("one.example")
        for name in dead:
            Mailbox(self.net, name).answer = None
        self.say("first")
        self.net.advance(120)
        self.assertEqual(one.bodies, ["first"])
        self.say("second")
        self.net.settle()
        self.assertEqual(one.bodies, ["first", "second"], "they have failed, and wait in a line of their own")
        sender = self.sender
        self.assertLessEqual(sender.count("sending"), FAILING_MOST)
        self.assertEqual(
            sender.count("sending") + sender.count("failing") + sender.count("waiting"), len(dead)
        )
        self.net.advance(2 * STORE_AFTER_S)
        self.assertEqual(len(self.owing()), len(dead))
        for number in range(5):
            self.say(f"more{number}")
        self.net.advance(60)
        waiting = [len(link.machine._pdus) for link in sender._links.values()]
        self.assertEqual(sum(waiting), 0, "nothing is kept in memory for who is away")
        self.assertEqual(one.bodies[-1], "more4")


@on_each_database
class SwitchedOff(SendingCase):
    """Federation is off, on a database of a server that had it on."""

    def test_the_log_does_not_wait_for_it(self) -> None:
        self.join("one.example")
        self.net.down("one.example")
        self.say("while it was on")
        self.net.advance(2 * STORE_AFTER_S)
        self.assertIn("federation", self.cursors())
        self.home.config = replace(self.home.config, federation=Federation(enabled=False))
        self.home.restart()
        self.net.up("one.example")
        self.net.advance(30)
        self.assertNotIn("federation", self.cursors(), "or the log would be kept for ever")
        self.assertEqual(len(self.net.sent(SEND, destination="one.example")), self.tried)
        self.home.config = replace(self.home.config, federation=self.federation())
        self.home.restart()
        self.net.advance(30)
        self.assertEqual(self.box.bodies, ["while it was on"])

    def join(self, *names: str, room_id: str | None = None) -> list[Mailbox]:
        (self.box,) = boxes = super().join(*names, room_id=room_id)
        return boxes

    def cursors(self) -> dict[str, int]:
        cursors = self.home.wait(self.home.database.read(load_cursors))
        self.tried = len(self.net.sent(SEND, destination="one.example"))
        return cursors


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
        self.home.app.reload(_with_limits(self.home.config, deny_servers=("one.example",)))
        self.net.up("one.example")
        self.say("y")
        self.net.advance(25)
        self.assertEqual((one.bodies, two.bodies), ([], ["x", "y"]))
        self.assertEqual((len(self.sender), self.owing()), (0, []))


def _fail_commit(text: str) -> None:
    if text.startswith("INSERT INTO timeline"):
        raise DatabaseUnavailable("the disk is full")


def _with_limits(config: Any, **changes: Any) -> Any:
    return replace(config, federation=replace(config.federation, **changes))
