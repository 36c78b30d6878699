"""Fetching keys as flows: what is asked, of whom, and what is believed."""

from __future__ import annotations

import unittest
from collections.abc import Callable, Generator
from typing import Any

from federation.flows.keys import (
    MAX_KEY_IDS,
    MAX_PER_QUERY,
    Fetched,
    Wanted,
    fetch_direct,
    fetch_from_notary,
    fetch_keys,
)
from federation.flows.needs import NeedKeys, NeedPeer
from federation.ids import KeyId, ServerName
from federation.keyring import MAX_RESPONSES, build_key_response, notarise
from federation.signing import SigningKey

NOW_MS = 1_700_000_000_000
SOON_MS = NOW_MS + 3_600_000
SERVER, NOTARY = ServerName("example.org"), ServerName("notary.example")
KEY = SigningKey.from_seed(SERVER, "a", b"\x07" * 32)
NOTARY_KEY = SigningKey.from_seed(NOTARY, "n", b"\x08" * 32)
A, B, C = KeyId("ed25519:a"), KeyId("ed25519:b"), KeyId("ed25519:c")
RESPONSE = build_key_response([KEY], [], SOON_MS)


def run(flow: Generator[Any, Any, Any], answer: Callable[[Any], Any]) -> tuple[Any, list[str]]:
    """A flow's result, and what it asked."""
    asked: list[str] = []
    reply: Any = None
    while True:
        try:
            need = flow.send(reply)
        except StopIteration as done:
            return done.value, asked
        if isinstance(need, NeedKeys):
            asked.append(f"keys of {need.server_name}")
            reply = {NOTARY_KEY.key_id: NOTARY_KEY.public_key}
        else:
            asked.append(f"{need.method} {need.destination}")
            reply = answer(need)


def wanted(
    name: str = SERVER, *key_ids: KeyId, until_ts_ms: int = NOW_MS, is_current: bool = False
) -> Wanted:
    return Wanted(ServerName(name), key_ids or (A,), until_ts_ms, is_current)


def notary_answer(need: NeedPeer) -> Any:
    """The server is gone, and the notary has its keys."""
    if need.destination == SERVER:
        return None
    return {"server_keys": [notarise(RESPONSE, NOTARY_KEY)]}


class Direct(unittest.TestCase):
    def test_what_the_server_signed(self) -> None:
        found, asked = run(fetch_direct(SERVER, NOW_MS), lambda _: RESPONSE)
        self.assertEqual(found.keys.keys[A].public_key, KEY.public_key)
        self.assertTrue(found.is_direct)
        self.assertEqual(asked, ["GET example.org"])

    def test_nothing_and_what_is_not_signed(self) -> None:
        answers = [None, {}, {**RESPONSE, "valid_until_ts": 1}, {**RESPONSE, "server_name": NOTARY}]
        for _ in range(len(answers)):
            self.assertIsNone(run(fetch_direct(SERVER, NOW_MS), lambda _: answers.pop())[0])


class ThenNotaries(unittest.TestCase):
    def ask(self, one: Wanted, answer: Callable[[Any], Any]) -> tuple[list[Fetched], list[str]]:
        return run(fetch_keys(one.server_name, [one], [NOTARY], NOW_MS), answer)

    def test_no_notary_where_the_server_has_what_is_wanted(self) -> None:
        found, asked = self.ask(wanted(), lambda _: RESPONSE)
        self.assertEqual((len(found), asked), (1, ["GET example.org"]))

    def test_no_notary_for_a_key_that_the_server_does_not_use(self) -> None:
        _, asked = self.ask(wanted(SERVER, B, is_current=True), lambda _: RESPONSE)
        self.assertEqual(asked, ["GET example.org"])

    def test_a_notary_for_what_is_missing(self) -> None:
        found, asked = self.ask(wanted(), notary_answer)
        self.assertEqual([one.is_direct for one in found], [False])
        self.assertEqual(asked, ["GET example.org", "keys of notary.example", "POST notary.example"])
        # Also where the server answers, without the key of then.
        _, asked = self.ask(wanted(SERVER, B), lambda need: RESPONSE if need.method == "GET" else None)
        self.assertIn("POST notary.example", asked)

    def test_a_notary_is_not_asked_about_itself(self) -> None:
        _, asked = self.ask(wanted(NOTARY), lambda _: None)
        self.assertEqual(asked, ["GET notary.example"])

    def test_the_next_notary_where_one_does_not_know(self) -> None:
        second = ServerName("second.example")

        # With the same key as the first, so that the flow's question for it has the same answer.
        key = SigningKey.from_seed(second, "n", b"\x08" * 32)

        def answer(need: NeedPeer) -> Any:
            return {"server_keys": [notarise(RESPONSE, key)]} if need.destination == second else None

        flow = fetch_keys(SERVER, [wanted()], [NOTARY, second, ServerName("third.example")], NOW_MS)
        found, asked = run(flow, answer)
        self.assertEqual(len(found), 1)
        self.assertNotIn("POST third.example", asked)

    def test_each_key_that_is_wanted_until_it_is_had(self) -> None:
        second = ServerName("second.example")
        # What the server published before, and does no more.
        old = SigningKey.from_seed(SERVER, "b", b"\x06" * 32)
        queries: list[Any] = []

        def answer(need: NeedPeer) -> Any:
            if need.method == "GET":
                return RESPONSE
            queries.append((need.destination, set((need.content or {})["server_keys"][SERVER])))
            published = build_key_response([old], [], SOON_MS)
            return {"server_keys": [notarise(published, NOTARY_KEY)]} if need.destination == NOTARY else None

        all_wanted = [wanted(SERVER, key_id) for key_id in (A, B, C)]
        found, _ = run(fetch_keys(SERVER, all_wanted, [NOTARY, second], NOW_MS), answer)
        self.assertEqual([{A}, {B}], [set(one.keys.keys) for one in found])
        self.assertEqual([(NOTARY, {B, C}), (second, {C})], queries)


class Bulk(unittest.TestCase):
    def queries(self, all_wanted: list[Wanted]) -> list[dict[str, Any]]:
        """What a notary that has nothing is asked for."""
        queries: list[dict[str, Any]] = []

        def answer(need: NeedPeer) -> Any:
            queries.append((need.content or {})["server_keys"])
            return {"server_keys": []}

        run(fetch_from_notary(all_wanted, NOTARY, NOW_MS), answer)
        return queries

    def test_several_keys_of_a_server_in_one_question(self) -> None:
        both = [
            wanted(SERVER, A),
            wanted(SERVER, B, until_ts_ms=5),
            wanted(SERVER, B, A, until_ts_ms=SOON_MS),
        ]
        criteria = {key_id: {"minimum_valid_until_ts": SOON_MS} for key_id in (A, B)}
        self.assertEqual([{SERVER: criteria}], self.queries(both))

    def test_made_up_keys_do_not_pile_up(self) -> None:
        made_up = [wanted(SERVER, KeyId(f"ed25519:{number}")) for number in range(100)]
        (query,) = self.queries([*made_up, wanted("other.example")])
        self.assertEqual([MAX_KEY_IDS, 1], [len(one) for one in query.values()])

    def test_no_more_keys_at_once_than_answers_are_read(self) -> None:
        many = [
            wanted(f"s{number}.example", KeyId(f"ed25519:{key}"))
            for number in range(40)
            for key in range(MAX_KEY_IDS)
        ]
        queries = self.queries(many)
        self.assertEqual(40, sum(map(len, queries)))
        for query in queries:
            self.assertLessEqual(sum(map(len, query.values())), MAX_RESPONSES)
        self.assertEqual(-(-40 * MAX_KEY_IDS // MAX_RESPONSES), len(queries))

    def test_many_servers_in_few_queries_and_only_those(self) -> None:
        queries: list[int] = []

        def answer(need: NeedPeer) -> Any:
            queries.append(len((need.content or {})["server_keys"]))
            other = SigningKey.from_seed(ServerName("other.example"), "o", b"\x09" * 32)
            unasked = notarise(build_key_response([other], [], SOON_MS), NOTARY_KEY)
            return {"server_keys": [notarise(RESPONSE, NOTARY_KEY), unasked, 7]}

        many = [wanted(), *(wanted(f"s{number}.example") for number in range(2 * MAX_PER_QUERY))]
        found, _ = run(fetch_from_notary(many, NOTARY, NOW_MS), answer)
        self.assertEqual(queries, [MAX_PER_QUERY, MAX_PER_QUERY, 1])
        self.assertEqual([one.keys.server_name for one in found], [SERVER])

    def test_a_notary_without_keys_is_not_asked(self) -> None:
        flow = fetch_from_notary([wanted()], NOTARY, NOW_MS)
        self.assertIsInstance(next(flow), NeedKeys)
        with self.assertRaises(StopIteration) as done:
            flow.send({})
        self.assertEqual(done.exception.value, [])
        self.assertEqual(run(fetch_from_notary([], NOTARY, NOW_MS), lambda _: None), ([], []))

    def test_what_was_found_stays_when_the_notary_falls_silent(self) -> None:
        answers: list[Any] = [{"server_keys": [notarise(RESPONSE, NOTARY_KEY)]}, None]
        many = [wanted(), *(wanted(f"s{number}.example") for number in range(2 * MAX_PER_QUERY))]
        found, asked = run(fetch_from_notary(many, NOTARY, NOW_MS), lambda _: answers.pop(0))
        self.assertEqual((len(found), len(asked)), (1, 3))


class Met(unittest.TestCase):
    def test_when_nothing_need_be_asked(self) -> None:
        keys = run(fetch_direct(SERVER, NOW_MS), lambda _: RESPONSE)[0].keys
        self.assertTrue(wanted(SERVER, A, until_ts_ms=SOON_MS).is_met(keys))
        self.assertTrue(wanted(SERVER, B, A).is_met(keys))
        self.assertFalse(wanted(SERVER, A, until_ts_ms=SOON_MS + 1).is_met(keys))
        self.assertFalse(wanted(SERVER, B).is_met(keys))
        self.assertFalse(wanted().is_met(None))
        self.assertTrue(Wanted(SERVER, (), NOW_MS).is_met(keys))
        self.assertFalse(Wanted(SERVER, (), SOON_MS + 1).is_met(keys))
