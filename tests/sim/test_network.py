"""The network of the simulator, and its liar: what becomes of a request."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.trial import unittest

from federation.canonical import encode_checked
from federation.ids import ServerName
from federation.xmatrix import build, parse, verify
from homeserver.http.transport import PeerRequest, PeerResponse, Unreachable
from tests.sim.clock import LifeClock, SimClock
from tests.sim.draws import Draws
from tests.sim.liar import LyingServer
from tests.sim.network import NetworkFaults, SimNetwork
from tests.sim.options import draw_options
from tests.sim.server import server_name, signing_key
from tests.support.http import Answer

A, B = server_name(0), server_name(1)


class Host:
    """Counts what it is asked, and answers at once or when told to."""

    def __init__(self, clock: SimClock) -> None:
        self.life: LifeClock | None = LifeClock(clock)
        self.heard: list[PeerRequest] = []
        self.waiting: Deferred[Answer] | None = None

    def receive(self, request: PeerRequest) -> Deferred[Answer]:
        self.heard.append(request)
        return self.waiting or succeed(Answer(200, {}, b'{"n":%d}' % len(self.heard), None))


class Network(unittest.TestCase):
    """Two hosts; all draws are 0, which is the plainest fate, unless a test gives others."""

    def build(self, *draws: int, **faults: int) -> None:
        self.clock = SimClock()
        self.problems: list[str] = []
        drawn = Draws(1, list(draws))
        self.network = SimNetwork(self.clock, drawn, lambda *_: None, NetworkFaults(**faults), self.problems)
        self.a, self.b = Host(self.clock), Host(self.clock)
        self.network.hosts |= {A: self.a, B: self.b}

    def send(self, life: LifeClock | None = None, origin: ServerName = A, to: ServerName = B) -> list[Any]:
        """A request's outcome, once it is there."""
        request = PeerRequest(to, "GET", "/_matrix/federation/v1/version", timeout_s=30.0)
        results: list[Any] = []
        own = self.a.life if origin == A else self.b.life
        assert own is not None
        self.network.carry(origin, life or own, request, None).addBoth(results.append)
        return results

    def test_plain(self) -> None:
        self.build()
        results = self.send()
        self.assertEqual(results, [])
        self.clock.advance(1.0)
        self.assertEqual([results[0].status, results[0].body], [200, b'{"n":1}'])
        self.assertEqual(self.network.waiting, 0)

    def test_a_cut_is_of_one_direction(self) -> None:
        self.build()
        self.network.cut(A, B)
        there, back = self.send(), self.send(origin=B, to=A)
        self.clock.advance(1.0)
        self.assertTrue(there[0].check(Unreachable))
        self.assertEqual((back[0].status, len(self.b.heard)), (200, 0))
        self.network.heal()
        self.assertEqual(self._status(self.send()), 200)

    def _status(self, results: list[Any]) -> int:
        self.clock.advance(40.0)
        return int(results[0].status)

    def test_lost_before_or_after_it_was_heeded(self) -> None:
        for fate, heard in ((99, 0), (98, 1), (97, 0)):
            self.build(fate, lost=10)
            results = self.send()
            self.clock.advance(40.0)
            self.assertTrue(results[0].check(Unreachable), fate)
            self.assertEqual(len(self.b.heard), heard, fate)

    def test_heeded_twice_and_answered_once(self) -> None:
        self.build(0, 0, 0, 0, 99, twice=10)
        results = self.send()
        self.clock.advance(1.0)
        self.assertEqual((len(self.b.heard), len(results), results[0].status), (2, 1, 200))

    def test_the_dead_hear_nothing(self) -> None:
        self.build()
        life = self.a.life
        assert life is not None
        results = self.send(life)
        life.kill()
        self.network.bury(life)
        self.clock.advance(40.0)
        self.assertEqual((results, len(self.b.heard), self.network.waiting), ([], 1, 0))

    def test_who_dies_before_the_answer_breaks_off(self) -> None:
        self.build()
        self.b.waiting = Deferred()
        results = self.send()
        self.clock.advance(1.0)
        self.assertEqual(results, [])
        assert self.b.life is not None
        self.b.life.kill()
        self.b.life = None
        self.network.broken_off(B)
        self.clock.advance(1.0)
        self.assertTrue(results[0].check(Unreachable))
        again = self.send()
        self.clock.advance(1.0)
        self.assertTrue(again[0].check(Unreachable), "nothing listens there")

    def test_a_500_is_a_problem(self) -> None:
        self.build()
        self.b.waiting = succeed(Answer(500, {}, b"{}", None))
        self.send()
        self.clock.advance(1.0)
        self.assertEqual(len(self.problems), 1)


class Lies(unittest.TestCase):
    """The liar's words are changed, and its requests stay validly signed."""

    def test_transactions(self) -> None:
        key = signing_key(0)
        uri = "/_matrix/federation/v1/send/1"
        pdus = [{"type": "m.room.message", "content": {"body": str(number)}} for number in range(6)]
        body = encode_checked({"pdus": pdus, "edus": []})
        header = build(key, method="PUT", uri=uri, destination=B, canonical_body=body)
        request = PeerRequest(B, "PUT", uri, header, body)
        changed = set()
        for seed in range(40):
            lying = LyingServer(Draws(seed), key, 100, lambda *_: None).change_request(request)
            assert lying.body is not None and lying.authorization is not None
            content = msgspec.json.decode(lying.body)
            verify(
                parse(lying.authorization),
                server_name=B,
                method="PUT",
                uri=uri,
                content=content,
                has_content=True,
                keys={key.key_id: key.public_key},
            )
            changed.add(lying.body)
        self.assertGreater(len(changed), 10)
        honest = LyingServer(Draws(1), key, 0, lambda *_: None)
        self.assertIs(honest.change_request(request), request)

    def test_answers(self) -> None:
        key = signing_key(0)
        asked = PeerRequest(A, "GET", "/_matrix/federation/v1/state_ids/!a:b?event_id=$x")
        truth = PeerResponse(200, b'{"pdu_ids":["$1","$2","$3"],"auth_chain_ids":["$4"]}')
        answers = set()
        forks = set()
        for seed in range(60):
            liar = LyingServer(Draws(seed), key, 100, lambda *_: None)
            answer = liar.change_answer(asked, truth)
            answers.add((answer.status, answer.body))
            forks.add(liar.could_fork)
        self.assertGreater(len(answers), 10)
        self.assertEqual(forks, {True, False})
        keys = PeerRequest(A, "GET", "/_matrix/key/v2/server")
        liar = LyingServer(Draws(1), key, 100, lambda *_: None)
        self.assertIs(liar.change_answer(keys, truth), truth, "nobody would believe it anything else")


class Worlds(unittest.TestCase):
    """The seeds that always run see everything that a world can be."""

    def test_kinds(self) -> None:
        options = [draw_options(Draws(seed)) for seed in range(1, 31)]
        self.assertEqual({one.servers for one in options}, {1, 2, 3, 4, 5})
        self.assertTrue(any(one.lies for one in options))
        for several in ("peers_lost", "peers_twice", "peers_slow", "partitions", "contested", "crashes"):
            self.assertTrue(any(getattr(one, several) for one in options if one.servers > 1), several)

    def test_the_plainest(self) -> None:
        plain = draw_options(Draws(1, []))
        self.assertEqual((plain.servers, plain.lies, plain.contested, plain.partitions), (1, 0, False, 0))
