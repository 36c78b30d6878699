"""Questions to other servers: what is asked, what is kept, and what is made of answers that make no sense."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock as TaskClock
from twisted.trial.unittest import SynchronousTestCase

from federation.ids import RoomAlias, ServerName
from homeserver.http.errors import MatrixError
from homeserver.http.transport import Unreachable
from homeserver.peers import queries
from homeserver.peers.queries import ALIAS_KEPT_S, MAX_ROOMS, MAX_SERVERS, PROFILE_KEPT_S, Queries
from homeserver.runtime.clock import TwistedClock
from homeserver.store.changes import Change, Kind
from homeserver.store.placement import Membership, StateMove, StateMoved
from tests.support.peers import Asked, Reply, ScriptedPeers, later, refusal

USER = "@bob:far.example"
ALIAS = RoomAlias("#room:far.example")
FAR = ServerName("far.example")
ROOM = "!room:far.example"
FAILURES = (
    (refusal(404, "M_NOT_FOUND"), 404, "M_NOT_FOUND"),
    (refusal(404, "M_UNRECOGNIZED"), 404, "M_NOT_FOUND"),
    (refusal(403, "M_FORBIDDEN"), 403, "M_FORBIDDEN"),
    (refusal(429, "M_LIMIT_EXCEEDED"), 429, "M_LIMIT_EXCEEDED"),
    (refusal(500), 502, "M_UNKNOWN"),
    (refusal(200, "M_NOT_JSON"), 502, "M_UNKNOWN"),
    (Unreachable("nobody"), 502, "M_UNKNOWN"),
)


class QueriesCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = TaskClock()
        self.reply: Reply | Deferred[Any] = {}
        self.peers = ScriptedPeers(self.answer, frozenset({"denied.example"}))
        self.queries = Queries(self.peers, TwistedClock(self.time))

    def answer(self, asked: Asked) -> Reply | Deferred[Any]:
        return self.reply

    def result(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def refused(self, work: Coroutine[Any, Any, Any], status: int, errcode: str) -> None:
        error = self.failureResultOf(Deferred.fromCoroutine(work), MatrixError).value
        self.assertEqual((status, errcode), (error.status, error.errcode))


class ProfilesElsewhere(QueriesCase):
    def test_asked_once_for_every_field(self) -> None:
        self.reply = {"displayname": "Bob", "org.example.pet": {"kind": "cat"}}
        self.assertEqual(self.reply, self.result(self.queries.profile(USER, None)))
        self.assertEqual(self.reply, self.result(self.queries.profile(USER, "displayname")))
        (asked,) = self.peers.asked
        expected = "/_matrix/federation/v1/query/profile?user_id=%40bob%3Afar.example"
        self.assertEqual(("far.example", "GET", expected), (asked.destination, asked.method, asked.uri))
        self.time.advance(PROFILE_KEPT_S)
        self.result(self.queries.profile(USER, None))
        move = StateMove(1, 2, 0, 3, USER, Membership.JOIN)
        self.queries.apply([Change(1, Kind.STATE_MOVED, 1, 0, StateMoved((move,)))])
        self.result(self.queries.profile(USER, None))
        self.assertEqual(3, len(self.peers.asked))

    def test_two_at_once(self) -> None:
        self.reply = waiting = later()
        both = [Deferred.fromCoroutine(self.queries.profile(USER, None)) for _ in range(2)]
        waiting.callback({"displayname": "Bob"})
        for one in both:
            self.assertEqual({"displayname": "Bob"}, self.successResultOf(one))
        self.assertEqual(1, len(self.peers.asked))

    def test_what_is_no_field(self) -> None:
        self.reply = {
            "displayname": 7,
            "avatar_url": None,
            "m.tz": ["Europe/Berlin"],
            "k" * 256: 1,
            "org.example.null": None,
            "org.example.nul": "a\0b",
            "org.example.big": 2**70,
        }
        self.assertEqual(
            {"org.example.nul": "a\0b", "org.example.big": 2**70},
            self.result(self.queries.profile(USER, None)),
        )

    def test_refusals(self) -> None:
        for reply, status, errcode in FAILURES:
            self.reply = reply
            self.refused(self.queries.profile(USER, None), status, errcode)
        # None of them was kept.
        self.assertEqual(len(FAILURES), len(self.peers.asked))
        self.refused(self.queries.profile("@eve:denied.example", None), 404, "M_NOT_FOUND")
        self.assertEqual(len(FAILURES), len(self.peers.asked))

    def wait_for_it(self) -> list[Deferred[Any]]:
        """Servers answer when the test says so: what they are to answer."""
        waiting: list[Deferred[Any]] = []

        def script(_: Asked) -> Deferred[Any]:
            waiting.append(later())
            return waiting[-1]

        self.peers.script = script
        return waiting

    def begin(self, server_name: str, count: int) -> list[Deferred[Any]]:
        """Ask a server for as many profiles."""
        return [
            Deferred.fromCoroutine(self.queries.profile(f"@u{number}:{server_name}", None))
            for number in range(count)
        ]

    def test_a_slow_server_holds_up_its_own_alone(self) -> None:
        waiting = self.wait_for_it()
        running = self.begin("slow.example", queries.EACH + queries.WAITING_EACH)
        self.assertEqual(queries.EACH, len(self.peers.asked))
        self.refused(self.queries.profile("@one:slow.example", None), 429, "M_LIMIT_EXCEEDED")
        self.refused(self.queries.alias(RoomAlias("#one:slow.example")), 429, "M_LIMIT_EXCEEDED")
        self.peers.script = self.answer
        self.reply = {"displayname": "Bob"}
        self.assertEqual(self.reply, self.result(self.queries.profile(USER, None)))
        # Those that wait come when there is room.
        for one in running:
            self.assertNoResult(one)
        for one in waiting:
            one.callback({"displayname": "Eve"})
        for number, one in enumerate(running):
            name = "Eve" if number < queries.EACH else "Bob"
            self.assertEqual({"displayname": name}, self.successResultOf(one))

    def test_not_too_many_for_one(self) -> None:
        self.result(self.queries.profile(USER, None))
        waiting = self.wait_for_it()

        def ask(number: int, asker: str | None = "10.0.0.1") -> Deferred[Any]:
            asked = self.queries.profile(f"@u:s{number}.example", None, asker)
            return Deferred.fromCoroutine(asked)

        for number in range(queries.EACH_ASKER):
            ask(number)
        self.refused(self.queries.profile("@u:s98.example", None, "10.0.0.1"), 429, "M_LIMIT_EXCEEDED")
        self.refused(self.queries.alias(ALIAS, "10.0.0.1"), 429, "M_LIMIT_EXCEEDED")
        rooms = self.queries.public_rooms(FAR, {}, filtered=False, asker="10.0.0.1")
        self.refused(rooms, 429, "M_LIMIT_EXCEEDED")
        # What is there and what is under way costs nothing.
        self.assertEqual({}, self.result(self.queries.profile(USER, None, "10.0.0.1")))
        self.assertNoResult(ask(0))
        self.assertNoResult(ask(98, "10.0.0.2"))
        self.assertNoResult(ask(99, None))
        waiting[0].callback({})
        self.assertNoResult(ask(97))
        self.refused(self.queries.profile("@u:s96.example", None, "10.0.0.1"), 429, "M_LIMIT_EXCEEDED")
        # Whoever goes away leaves what is under way behind.
        gone = Deferred.fromCoroutine(self.queries.profile("@u:s97.example", None, "10.0.0.1"))
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.refused(self.queries.profile("@u:s96.example", None, "10.0.0.1"), 429, "M_LIMIT_EXCEEDED")

    def test_not_too_many_at_once(self) -> None:
        self.wait_for_it()
        for number in range(queries.AT_ONCE // queries.EACH):
            self.begin(f"s{number}.example", queries.EACH)
        self.assertEqual(queries.AT_ONCE, len(self.peers.asked))
        for number in range(queries.WAITING):
            self.begin(f"w{number}.example", 1)
        self.assertEqual(queries.AT_ONCE, len(self.peers.asked))
        self.refused(self.queries.profile(USER, None), 429, "M_LIMIT_EXCEEDED")

    def test_whoever_has_gone_is_not_asked_for(self) -> None:
        waiting = self.wait_for_it()
        running = self.begin("slow.example", queries.EACH + 1)
        running[-1].cancel()
        self.failureResultOf(running[-1], CancelledError)
        for one in waiting:
            one.callback({})
        self.assertEqual(queries.EACH, len(self.peers.asked))
        self.peers.script = self.answer
        # And may be asked for again.
        self.assertEqual({}, self.result(self.queries.profile(f"@u{queries.EACH}:slow.example", None)))


class AliasesElsewhere(QueriesCase):
    def test_found(self) -> None:
        self.reply = {"room_id": ROOM, "servers": ["other.example", "far.example"]}
        for _ in range(2):
            found = self.result(self.queries.alias(ALIAS))
            self.assertEqual((ROOM, ("other.example", "far.example")), found)
        self.assertEqual(
            ["/_matrix/federation/v1/query/directory?room_alias=%23room%3Afar.example"],
            [asked.uri for asked in self.peers.asked],
        )
        self.time.advance(ALIAS_KEPT_S)
        self.result(self.queries.alias(ALIAS))
        self.assertEqual(2, len(self.peers.asked))

    def test_servers_that_are_none(self) -> None:
        for servers in (None, "far.example", 5, {"a": 1}, [7, None, "bad name", "", "a:b:c", {"x": 1}]):
            self.reply = {"room_id": ROOM, "servers": servers}
            self.time.advance(ALIAS_KEPT_S)
            self.assertEqual((ROOM, ("far.example",)), self.result(self.queries.alias(ALIAS)))
        self.reply = {
            "room_id": ROOM,
            "servers": ["a.example"] * 300 + [f"s{n}.example" for n in range(5_000)],
        }
        self.time.advance(ALIAS_KEPT_S)
        servers = self.result(self.queries.alias(ALIAS))[1]
        self.assertEqual(MAX_SERVERS + 1, len(servers))
        self.assertEqual(("a.example", "far.example"), (servers[0], servers[-1]))

    def test_rooms_that_are_none(self) -> None:
        for room_id in (
            None,
            5,
            "",
            "room",
            "#room:far.example",
            "!a\0:far.example",
            ["!a:b"],
            "!" + "a" * 300,
        ):
            self.reply = {"room_id": room_id, "servers": []}
            self.refused(self.queries.alias(ALIAS), 502, "M_UNKNOWN")
        self.reply = {}
        self.refused(self.queries.alias(ALIAS), 502, "M_UNKNOWN")

    def test_refusals(self) -> None:
        for reply, status, errcode in FAILURES:
            self.reply = reply
            self.refused(self.queries.alias(ALIAS), status, errcode)


class DirectoriesElsewhere(QueriesCase):
    def test_both_ways_to_ask(self) -> None:
        room = {
            "room_id": ROOM,
            "num_joined_members": 3,
            "world_readable": True,
            "guest_can_join": False,
            "name": "A room",
            "join_rule": "public",
        }
        self.reply = {"chunk": [room], "next_batch": "n", "total_room_count_estimate": 1}
        page = self.result(self.queries.public_rooms(FAR, {"limit": 2, "since": "a b"}, filtered=False))
        self.assertEqual(self.reply, page)
        options = {"limit": 2, "filter": {"generic_search_term": "x"}, "include_all_networks": True}
        self.result(self.queries.public_rooms(FAR, options, filtered=True))
        got, posted = self.peers.asked
        self.assertEqual(
            ("GET", "/_matrix/federation/v1/publicRooms?limit=2&since=a+b", None),
            (got.method, got.uri, got.content),
        )
        self.assertEqual(
            ("POST", "/_matrix/federation/v1/publicRooms", options),
            (posted.method, posted.uri, posted.content),
        )
        # The same again is not asked for again.
        self.result(self.queries.public_rooms(FAR, options, filtered=True))
        self.assertEqual(2, len(self.peers.asked))

    def test_what_is_no_room(self) -> None:
        bare = {"room_id": ROOM, "num_joined_members": 0, "world_readable": False, "guest_can_join": False}
        self.reply = {
            "chunk": [
                *(None, 5, "room", [], {}, {"room_id": "nonsense"}, {"room_id": 5}),
                {"room_id": ROOM, "num_joined_members": -1, "world_readable": "yes", "name": 7, "evil": "x"},
                {"room_id": ROOM, "num_joined_members": True, "guest_can_join": 1, "topic": {"a": 1}},
                {"room_id": ROOM, "num_joined_members": 1.5, "avatar_url": None},
                {
                    "room_id": ROOM,
                    "num_joined_members": 10**30,
                    "avatar_url": "http://x",
                    "canonical_alias": "x",
                },
            ],
            "next_batch": 5,
            "prev_batch": {"a": 1},
            "total_room_count_estimate": "many",
        }
        self.assertEqual(
            {"chunk": [bare] * 4}, self.result(self.queries.public_rooms(FAR, {}, filtered=False))
        )
        self.reply = {"chunk": [bare] * 2_000}
        page = self.result(self.queries.public_rooms(FAR, {"limit": 1}, filtered=False))
        self.assertEqual(MAX_ROOMS, len(page["chunk"]))
        for chunk in (None, 5, {"a": 1}):
            self.reply = {"chunk": chunk}
            self.refused(self.queries.public_rooms(FAR, {"limit": 3}, filtered=False), 502, "M_UNKNOWN")
