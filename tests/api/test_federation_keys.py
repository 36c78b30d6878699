"""Keys between whole servers: published, notarised, fetched for events, from whoever has them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from federation.canonical import encode_checked
from federation.flows.keys import Wanted
from federation.ids import KeyId, ServerName
from federation.keyring import VerifyKey, build_key_response, notarise
from federation.signing import verify_json
from federation.versions import ROOM_VERSIONS
from homeserver.config.schema import Federation
from homeserver.http.transport import PeerRequest
from homeserver.peers import keyring
from homeserver.peers.gate import MAX_FETCHES_EACH
from homeserver.peers.keyring import KeyRing
from homeserver.store.server_keys import load_server_keys
from tests.support.app import test_key
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.federation import NetServer, Stranger, TestNet

SERVER = "/_matrix/key/v2/server"
QUERY = "/_matrix/key/v2/query"
WEEK_MS = 7 * 24 * 3600 * 1000
NEW, OLD = ROOM_VERSIONS["11"], ROOM_VERSIONS["1"]
KEY = KeyId("ed25519:test")


class Published(TestCase):
    def setUp(self) -> None:
        self.net = TestNet(self)
        old = VerifyKey(KeyId("ed25519:old"), b"\x07" * 32, 1_600_000_000_000, expired=True)
        self.server = self.net.server("b.example", old_keys=[old])
        self.keys = {KEY: self.server.signing_keys[0].public_key}

    def test_our_keys_are_signed_and_roll(self) -> None:
        for path in (SERVER, SERVER + "/ed25519:test", SERVER + "/"):
            json = self.server.ok("GET", path)
            self.assertEqual(json["server_name"], "b.example")
            self.assertEqual(set(json["verify_keys"]), {KEY})
            self.assertEqual(json["old_verify_keys"]["ed25519:old"]["expired_ts"], 1_600_000_000_000)
            self.assertEqual(json["valid_until_ts"], self.net.now_ms + WEEK_MS)
            self.assertTrue(verify_json(json, "b.example", self.keys))
        self.net.leap(3 * 24 * 3600)
        self.assertEqual(self.server.ok("GET", SERVER)["valid_until_ts"], self.net.now_ms + WEEK_MS)

    def test_our_answer_has_the_form_that_is_signed(self) -> None:
        """Who verifies it need not encode it anew."""
        answer = self.net.wait(self.server.start("GET", SERVER))
        self.assertEqual(encode_checked(answer.json), answer.body)

    def test_everybody_may_see_the_version(self) -> None:
        json = self.server.ok("GET", "/_matrix/federation/v1/version")
        self.assertEqual(json["server"]["name"], "CHAOS")
        self.assertRegex(json["server"]["version"], r"\A[0-9]+\.[0-9]+")


@on_each_database
class Notary(DatabaseCase):
    def setUp(self) -> None:
        self.net = TestNet(self)
        self.server = self.net.server("b.example", database=self.new_database())
        self.other = self.net.stranger("other.example")

    def get(self, name: str, query: dict[str, Any] | None = None) -> list[Any]:
        answers: list[Any] = self.server.ok("GET", f"{QUERY}/{name}", query=query)["server_keys"]
        return answers

    def fetches(self) -> int:
        return len(self.net.sent(SERVER, "b.example"))

    def test_another_servers_keys_with_both_signatures(self) -> None:
        (answer,) = self.get("other.example")
        self.assertTrue(verify_json(answer, "other.example", {KEY: self.other.key.public_key}))
        self.assertTrue(verify_json(answer, "b.example", {KEY: self.server.signing_keys[0].public_key}))
        answers = self.server.ok("POST", QUERY, {"server_keys": {"other.example": {}, "b.example": {}}})
        self.assertEqual(
            sorted(one["server_name"] for one in answers["server_keys"]), ["b.example", "other.example"]
        )
        self.assertEqual(self.fetches(), 1)

    def test_an_answer_that_is_good_for_long_enough_is_not_fetched_again(self) -> None:
        self.get("other.example")
        self.net.advance(60)
        self.get("other.example", {"minimum_valid_until_ts": self.net.now_ms + WEEK_MS - 120_000})
        self.assertEqual(self.fetches(), 1)
        (answer,) = self.get("other.example", {"minimum_valid_until_ts": self.net.now_ms + WEEK_MS - 1000})
        self.assertEqual(self.fetches(), 2)
        self.assertEqual(answer["valid_until_ts"], self.net.now_ms + WEEK_MS)
        # What cannot be had is given as it is, and not asked for each time.
        for _ in range(3):
            self.get("other.example", {"minimum_valid_until_ts": self.net.now_ms + 10 * WEEK_MS})
        self.assertEqual(self.fetches(), 2)

    def test_of_a_server_that_is_gone_what_was_known(self) -> None:
        (first,) = self.get("other.example")
        self.net.down("other.example")
        self.net.leap(30 * 24 * 3600)
        self.server.restart()
        self.assertEqual(self.get("other.example"), [first])

    def test_of_one_that_nobody_knows_nothing(self) -> None:
        self.assertEqual(self.get("nowhere.example"), [])
        self.assertEqual(self.server.ok("POST", QUERY, {"server_keys": {}}), {"server_keys": []})

    def test_what_another_notary_said_is_not_signed(self) -> None:
        first = self.net.server("notary.example")
        first.ok("GET", f"{QUERY}/other.example")
        second = self.net.server("c.example", federation=Federation(trusted_key_servers=("notary.example",)))
        self.net.down("other.example")
        ring = second.app.peering.keys
        name = ServerName("other.example")
        found = self.net.wait(
            Deferred.fromCoroutine(ring.for_event(name, [KEY], self.net.now_ms, NEW, fetch=True))
        )
        self.assertEqual(set(found), {KEY})
        self.assertEqual(second.ok("GET", f"{QUERY}/other.example")["server_keys"], [])
        self.net.heal()
        self.net.advance(60)
        self.assertEqual(len(second.ok("GET", f"{QUERY}/other.example")["server_keys"]), 1)

    def test_other_signatures_do_not_travel_with_it(self) -> None:
        response = self.other.key_response()
        response["signatures"] |= {"x.example": [1], "y.example": {"a": {"b": 1}}}
        self.other.answers["GET", SERVER] = lambda _: (200, response)
        (answer,) = self.get("other.example")
        self.assertEqual(set(answer["signatures"]), {"other.example", "b.example"})

    def test_strangers_do_not_hold_what_we_need_ourselves(self) -> None:
        silent = [self.net.stranger(f"s{number}.example") for number in range(100)]
        for one in silent:
            one.answers["GET", SERVER] = None
        names: dict[str, Any] = {one.name: {} for one in silent}
        waiting = [self.server.start("POST", QUERY, {"server_keys": names}) for _ in range(5)]
        self.net.settle()
        # A few at a time, and each once.
        self.assertEqual(self.fetches(), 8)
        # One of them is there after all, and is let in meanwhile.
        silent[90].answers["GET", SERVER] = lambda _: (200, silent[90].key_response())
        path = "/_matrix/federation/v1/query/profile?user_id=@x:b.example"
        self.assertEqual(silent[90].ask("b.example", "GET", path)[0], 404)
        began_s = self.net.time.seconds()
        for answer in waiting:
            self.assertLessEqual(len(self.net.wait(answer).json["server_keys"]), 1)
        self.assertLess(self.net.time.seconds() - began_s, 20)

    def test_questions_that_are_none(self) -> None:
        many: dict[str, Any] = {f"s{number}.example": {} for number in range(101)}
        bodies: list[Any] = [
            {},
            {"server_keys": []},
            {"server_keys": {"other.example": []}},
            {"server_keys": {"other.example": {"ed25519:a": 7}}},
            {"server_keys": {"other.example": {"ed25519:a": {"minimum_valid_until_ts": "1"}}}},
            {"server_keys": {"other.example": {"ed25519:a": {"minimum_valid_until_ts": True}}}},
            {"server_keys": {"other.example": {"ed25519:a": {"minimum_valid_until_ts": -1}}}},
            {"server_keys": {"not a name": {}}},
            {"server_keys": {"\0": {}}},
            {"server_keys": many},
        ]
        for body in bodies:
            status, json = self.server.call("POST", QUERY, body)
            self.assertEqual(status, 400, (body, json))
        for path in ("/a%20b", "/%00", "/" + "a" * 300):
            self.assertEqual(self.server.call("GET", QUERY + path)[0], 400)
        self.assertEqual(
            self.server.call("GET", f"{QUERY}/other.example", query={"minimum_valid_until_ts": "x"})[0], 400
        )
        self.assertEqual(self.fetches(), 0)


class ForEvents(TestCase):
    """The keys that count for events, which may be of long ago."""

    def setUp(self) -> None:
        self.net = TestNet(self)
        self.notary = self.net.server("notary.example")
        self.server = self.net.server(
            "b.example", federation=Federation(trusted_key_servers=("notary.example",))
        )
        self.other = self.net.stranger("other.example")
        self.name = ServerName("other.example")

    @property
    def ring(self) -> KeyRing:
        return self.server.app.peering.keys

    def keys(self, key_id: str = KEY, ts_ms: int | None = None, rules: Any = NEW, fetch: bool = True) -> Any:
        return self.net.wait(
            Deferred.fromCoroutine(
                self.ring.for_event(
                    self.name,
                    [KeyId(key_id)],
                    self.net.now_ms if ts_ms is None else ts_ms,
                    rules,
                    fetch=fetch,
                )
            )
        )

    def known(self, ts_ms: int, rules: Any = NEW) -> Any:
        return self.ring.known_for_event(self.name, [KEY], ts_ms, rules)

    def test_fetched_once_then_known(self) -> None:
        self.assertIsNone(self.known(self.net.now_ms))
        self.assertEqual(self.keys(fetch=False), {})
        expected = {KEY: self.other.key.public_key}
        self.assertEqual(self.keys(), expected)
        self.assertEqual(self.known(self.net.now_ms), expected)
        self.assertEqual(self.keys(fetch=False), expected)
        self.assertEqual(len(self.net.sent(SERVER, "b.example")), 1)

    def test_validity_counts_where_the_room_version_says_so(self) -> None:
        self.keys()
        late_ms = self.net.now_ms + WEEK_MS + 1
        self.assertIsNone(self.known(late_ms))
        self.assertEqual(self.keys(ts_ms=late_ms), {})
        self.assertEqual(self.known(late_ms, OLD), {KEY: self.other.key.public_key})

    def test_an_old_key_counts_for_what_is_old(self) -> None:
        new = test_key("other.example", "new", 77)
        expired_ms = self.net.now_ms - 1000
        old = VerifyKey(KEY, self.other.key.public_key, expired_ms, expired=True)
        self.other.answers["GET", SERVER] = lambda _: (
            200,
            build_key_response([new], [old], self.net.now_ms + WEEK_MS),
        )
        self.assertIn(KEY, self.keys(ts_ms=expired_ms))
        for rules in (NEW, OLD):
            self.assertNotIn(KEY, self.keys(ts_ms=expired_ms + 1, rules=rules))
        # And never for requests.
        for_request = self.net.wait(Deferred.fromCoroutine(self.ring.for_request(self.name, KEY)))
        self.assertEqual(set(for_request), {"ed25519:new"})

    def test_a_key_that_is_no_longer_listed_stays_known(self) -> None:
        self.keys()
        ts_ms = self.net.now_ms
        new = test_key("other.example", "new", 77)
        self.other.answers["GET", SERVER] = lambda _: (
            200,
            build_key_response([new], [], self.net.now_ms + WEEK_MS),
        )
        self.net.advance(60)
        self.assertIn("ed25519:new", self.keys("ed25519:new"))
        self.server.restart()
        self.assertEqual(set(self.keys(ts_ms=ts_ms, fetch=False)), {KEY, "ed25519:new"})

    def test_keys_of_a_server_that_is_gone_come_from_a_notary(self) -> None:
        self.notary.ok("GET", f"{QUERY}/other.example")
        self.net.down("other.example")
        self.assertEqual(self.keys(), {KEY: self.other.key.public_key})
        # The notary's own keys were needed to believe it, and are kept too.
        self.assertIsNotNone(self.ring.known(ServerName("notary.example")))

    def test_without_any_source_it_is_asked_less_and_less_often(self) -> None:
        self.net.down("other.example", "notary.example")
        self.assertEqual(self.keys(), {})

        def asked() -> int:
            return len(self.net.sent(SERVER, "b.example", "other.example"))

        self.assertEqual(asked(), 1)
        for _ in range(5):
            self.keys()
        self.assertEqual(asked(), 1)
        for wait_s in (15, 30, 60):
            before = asked()
            self.net.advance(wait_s - 1)
            self.keys()
            self.assertEqual(asked(), before)
            self.net.advance(1)
            self.keys()
            self.assertEqual(asked(), before + 1)
        self.net.heal()
        self.net.advance(120)
        self.assertEqual(self.keys(), {KEY: self.other.key.public_key})

    def test_a_notary_that_is_away_costs_no_time(self) -> None:
        self.notary.ok("GET", f"{QUERY}/other.example")
        self.net.wait(Deferred.fromCoroutine(self.ring.for_request(ServerName("notary.example"), KEY)))
        self.net.down("other.example", "notary.example")
        self.keys()
        self.assertEqual(len(self.net.sent(QUERY, "b.example")), 1)
        self.net.advance(15)
        # Asked for another server meanwhile, it would only be waited for again.
        self.server.app.peering.health.consult(lambda name: name == "notary.example")
        self.keys()
        self.assertEqual(len(self.net.sent(QUERY, "b.example")), 1)
        self.assertEqual(len(self.net.sent(SERVER, "b.example", "other.example")), 2)

    def test_a_notary_that_lies_is_not_believed(self) -> None:
        self.net.down("other.example")
        liar = self.net.stranger("liar.example")
        honest = self.other.key_response()
        forged = build_key_response([test_key("other.example", seed=78)], [], self.net.now_ms + WEEK_MS)
        signed = notarise(forged, liar.key)
        answers: list[Any] = [
            b"",
            [],
            {"server_keys": {}},
            {"server_keys": [7, None, {}]},
            # Not signed by the notary; signed by it alone; changed afterwards; of another server.
            {"server_keys": [honest]},
            {"server_keys": [notarise({**honest, "signatures": {}}, liar.key)]},
            {"server_keys": [{**signed, "valid_until_ts": 1}]},
            {"server_keys": [notarise(liar.key_response(), liar.key)] * 300},
        ]
        self.server = self.net.server(
            "c.example", federation=Federation(trusted_key_servers=("liar.example",))
        )
        for answer in answers:
            liar.answers["POST", QUERY] = lambda _, answer=answer: (200, answer)  # type: ignore[misc]
            self.assertEqual(self.keys(), {})
            self.net.advance(601)
        # One that is trusted may vouch for what it saw.
        liar.answers["POST", QUERY] = lambda _: (200, {"server_keys": [notarise(honest, liar.key)]})
        self.assertEqual(self.keys(), {KEY: self.other.key.public_key})

    def test_two_notaries_that_need_each_other(self) -> None:
        one, two = self.net.stranger("one.example"), self.net.stranger("two.example")
        self.server = self.net.server(
            "c.example", federation=Federation(trusted_key_servers=("one.example", "two.example"))
        )
        for stranger in (one, two):
            stranger.answers["GET", SERVER] = lambda _: (500, {})
        waiting = [
            Deferred.fromCoroutine(
                self.ring.for_event(ServerName(name), [KEY], self.net.now_ms, NEW, fetch=True)
            )
            for name in ("one.example", "two.example", "other.example")
        ]
        self.assertEqual([bool(self.net.wait(one)) for one in waiting], [False, False, True])

    def test_our_own_keys_need_no_fetch(self) -> None:
        name = ServerName("b.example")
        found = self.ring.known_for_event(name, [KEY], self.net.now_ms, NEW)
        self.assertEqual(found, {KEY: self.server.signing_keys[0].public_key})
        self.assertEqual(self.ring.known(name), found)
        self.assertEqual(self.net.requests, [])

    def test_nothing_claimed_nothing_asked(self) -> None:
        found = self.net.wait(
            Deferred.fromCoroutine(self.ring.for_event(self.name, [], self.net.now_ms, NEW, fetch=True))
        )
        self.assertEqual((found, self.net.requests), ({}, []))

    # --- many at once --------------------------------------------------------------------------------

    def fetch_many(self, strangers: list[Stranger]) -> None:
        wanted = [Wanted(one.name, (KEY,), self.net.now_ms) for one in strangers]
        self.net.wait(Deferred.fromCoroutine(self.ring.fetch_many(wanted)), 3600)

    def lacking(self, wanted: list[Wanted]) -> list[str]:
        """Whose keys may be had later."""
        found = self.net.wait(Deferred.fromCoroutine(self.ring.fetch_many(wanted)), 3600)
        return [one.server_name for one in found]

    def have(self, strangers: list[Stranger]) -> list[str]:
        return [
            one.name
            for one in strangers
            if self.ring.known_for_event(one.name, [KEY], self.net.now_ms, NEW) is not None
        ]

    def test_the_keys_of_a_large_room(self) -> None:
        many = [self.net.stranger(f"s{number}.example") for number in range(60)]
        for stranger in many[:20]:
            self.notary.ok("GET", f"{QUERY}/{stranger.name}")
        self.net.down(*(one.name for one in many[:30]))
        before = self.net.time.seconds()
        self.fetch_many(many)
        self.assertEqual(self.have(many), [one.name for one in many[:20] + many[30:]])
        self.assertLess(self.net.time.seconds() - before, 60)
        self.assertEqual(len(self.net.sent(QUERY, "b.example")), 1)
        requests = len(self.net.requests)
        self.fetch_many(many[30:])
        self.assertEqual(len(self.net.requests), requests)

    def test_a_notary_that_does_not_answer_is_asked_once_more(self) -> None:
        gone = [self.net.stranger(f"s{number}.example") for number in range(3)]
        for stranger in gone:
            self.notary.ok("GET", f"{QUERY}/{stranger.name}")
        self.net.down(*(one.name for one in gone))
        failures = [ConnectionError("not now")]

        def fail(_: ServerName, request: PeerRequest) -> Exception | None:
            return failures.pop() if failures and request.uri.startswith(QUERY) else None

        self.net.tamper(fail)
        self.fetch_many(gone)
        self.assertEqual(self.have(gone), [one.name for one in gone])
        self.assertEqual(len(self.net.sent(QUERY, "b.example")), 2)

    def test_who_did_not_answer_is_told(self) -> None:
        self.net.down("notary.example")
        gone, there = self.net.stranger("gone.example"), self.net.stranger("there.example")
        gone.answers["GET", SERVER] = None
        wanted = [Wanted(one.name, (KeyId("ed25519:old"),), self.net.now_ms) for one in (gone, there)]
        # The notary may have what the other, which answered, does not tell any more.
        self.assertEqual(self.lacking(wanted), ["gone.example", "there.example"])
        self.net.up("notary.example")
        self.net.advance(60)
        self.assertEqual(self.lacking(wanted), ["gone.example"])

    def test_not_more_at_once_than_a_few(self) -> None:
        self.net.down("notary.example")
        many = [self.net.stranger(f"s{number}.example") for number in range(100)]
        for stranger in many:
            stranger.answers["GET", SERVER] = None
        wanted = [Wanted(one.name, (KEY,), self.net.now_ms) for one in many]
        waiting = Deferred.fromCoroutine(self.ring.fetch_many(wanted))
        self.net.settle()
        self.assertEqual(len(self.net.sent(SERVER, "b.example", None)) - 1, 32)
        # A request that comes meanwhile does not wait for them.
        path = "/_matrix/federation/v1/query/profile?user_id=@x:b.example"
        self.assertEqual(self.other.ask("b.example", "GET", path)[0], 404)
        began_s = self.net.time.seconds()
        self.net.wait(waiting, 3600)
        self.assertEqual(self.have(many), [])
        # Those whose turn had not come in time are not asked for nobody.
        self.assertLess(self.net.time.seconds() - began_s, 31)
        self.net.advance(120)
        self.assertLess(len(self.net.sent(SERVER, "b.example", None)), 100)

    def test_two_joins_that_want_the_same(self) -> None:
        self.net.down("notary.example")
        silent = [self.net.stranger(f"s{number}.example") for number in range(40)]
        for one in silent:
            one.answers["GET", SERVER] = None
        wanted = [Wanted(one.name, (KEY,), self.net.now_ms) for one in [*silent, self.other]]
        first = Deferred.fromCoroutine(self.ring.fetch_many(wanted, patience_s=10))
        self.net.advance(5)
        second = Deferred.fromCoroutine(self.ring.fetch_many(wanted, patience_s=60))
        self.net.wait(first)
        self.assertEqual(self.have([self.other]), [])
        self.net.wait(second)
        self.assertEqual(self.have([self.other]), ["other.example"])

    def test_made_up_servers_do_not_pile_up(self) -> None:
        evil = self.net.stranger("evil.example")
        path = "/_matrix/federation/v1/query/profile"
        waiting = []
        for number in range(MAX_FETCHES_EACH + 5):
            silent = self.net.stranger(f"s{number}.example")
            silent.answers["GET", SERVER] = None
            header = evil.authorization("b.example", "GET", path, key=silent.key)
            waiting.append(evil.start("b.example", "GET", path, authorization=header))
        # Somebody else is let in meanwhile.
        self.assertEqual(self.other.ask("b.example", "GET", f"{path}?user_id=@x:b.example")[0], 404)
        statuses = [self.net.wait(one).status for one in waiting]
        self.assertEqual(statuses, [401] * MAX_FETCHES_EACH + [429] * 5)
        # And its places are free again.
        self.assertEqual(evil.ask("b.example", "GET", f"{path}?user_id=@x:b.example")[0], 404)

    def test_a_ring_that_is_busy_says_so(self) -> None:
        self.patch(keyring, "MAX_RUNNING", 1)
        self.net.server("c.example")
        self.other.answers["GET", SERVER] = None
        path = "/_matrix/federation/v1/query/profile?user_id=@x:b.example"
        waiting = self.other.start("c.example", "GET", path)
        self.net.settle()
        self.assertEqual(self.net.stranger("late.example").ask("c.example", "GET", path)[0], 429)
        self.net.wait(waiting)


@on_each_database
class Stored(DatabaseCase):
    def test_what_was_learned_is_written_down_and_merged(self) -> None:
        net = TestNet(self)
        server = net.server("b.example", database=self.new_database())
        others = [net.stranger(f"s{number}.example") for number in range(3)]

        def stored(server: NetServer) -> Any:
            names = [one.name for one in others]
            return server.wait(server.database.read(load_server_keys, names))

        wanted = [Wanted(one.name, (KEY,), net.now_ms) for one in others]
        net.wait(Deferred.fromCoroutine(server.app.peering.keys.fetch_many(wanted)))
        found = stored(server)
        self.assertEqual(
            {name: keys.keys[KEY].public_key for name, keys in found.items()},
            {one.name: one.key.public_key for one in others},
        )
        for keys in found.values():
            self.assertEqual(keys.valid_until_ts_ms, net.now_ms + WEEK_MS)
