"""Events for servers that are away: nothing is lost, nothing out of order, nobody kept waiting."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from twisted.internet.defer import Deferred

from homeserver.config.schema import Federation
from homeserver.http.transport import PeerRequest
from homeserver.peers.places import FAILING_MOST, HEALTHY_MOST
from homeserver.store.changes import load_cursors
from homeserver.store.outgoing import OWED_MOST
from homeserver.stream.followers import STORE_AFTER_S
from tests.api.sending import HOME, SEND, Mailbox, SendingCase, with_limits
from tests.api.servers import place_event
from tests.support.databases import on_each_database


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

    def test_what_is_said_while_the_server_stops(self) -> None:
        (one,) = self.join("one.example")
        self.say("before")
        self.net.settle()
        self.home.wait(Deferred.fromCoroutine(self.home.app.outgoing.stop()))
        self.say("meanwhile")
        self.net.settle()
        self.assertEqual(one.bodies, ["before"])
        self.home.restart()
        self.net.advance(5)
        self.assertEqual(one.bodies, ["before", "meanwhile"])

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
        twice = self.create()
        self.move("@user:one.example", "join", twice)
        self.net.settle()
        one.taken.clear()
        self.net.down("one.example")
        self.say("quiet", quiet)
        self.say("of the first stay", twice)
        self.move("@user:one.example", "leave", twice)
        self.say("between", twice)
        self.move("@user:one.example", "join", twice)
        self.move("@user:one.example", "leave", twice)
        self.say("after", twice)
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
        self.assertEqual(
            one.bodies, ["quiet", "of the first stay", "last of left", f"m{OWED_MOST + 9}", "theirs"]
        )
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
        self.home.app.reload(with_limits(self.home.config, retry_min_s=1, retry_max_s=2))
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
