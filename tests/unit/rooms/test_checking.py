"""Checks 1 to 3 for many events: in order, in batches, with keys that are here, come, or do not.

# spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from federation.event import Event
from federation.flows.keys import Wanted
from federation.ids import KeyId, ServerName
from federation.keyring import ServerKeys
from federation.verdict import Drop
from federation.versions import RoomRules
from homeserver.rooms.federated.checking import EventChecker, KeysMissing
from tests.support.peer import FakePeer


class FakeKeys:
    """The key ring: what is in memory, and what can be had."""

    def __init__(self, *peers: FakePeer) -> None:
        self.memory = {peer.server_name: {peer.key.key_id: peer.key.public_key} for peer in peers}
        self.away: dict[ServerName, dict[KeyId, bytes]] = {}
        self.fetched: list[tuple[ServerName, tuple[KeyId, ...]]] = []

    def known_for_event(
        self, server_name: ServerName, key_ids: Sequence[KeyId], ts_ms: int, rules: RoomRules
    ) -> Mapping[KeyId, bytes] | None:
        keys = self.memory.get(server_name, {})
        return keys if any(key_id in keys for key_id in key_ids) else None

    async def for_event(
        self, server_name: ServerName, key_ids: Sequence[KeyId], ts_ms: int, rules: RoomRules, *, fetch: bool
    ) -> Mapping[KeyId, bytes]:
        self.fetched.append((server_name, tuple(key_ids)))
        if fetch and server_name in self.away:
            self.memory[server_name] = self.away[server_name]
        return self.memory.get(server_name, {})

    async def stored(self, server_names: Sequence[ServerName]) -> Mapping[ServerName, ServerKeys]:
        raise AssertionError("not for this")

    async def fetch_many(self, wanted: Sequence[Wanted], *, patience_s: float = 30.0) -> Sequence[Wanted]:
        raise AssertionError("not for this")


class EventCheckerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.peer, self.other = FakePeer(), FakePeer("other.example")
        self.room = self.peer.create("11")
        self.keys = FakeKeys(self.peer)
        self.batches: list[int] = []
        self.checker = EventChecker(self.keys, self.run_in_thread)

    def run_in_thread(self, function: Any, items: Any, *args: Any) -> Deferred[Any]:
        self.batches.append(len(items))
        return maybeDeferred(function, items, *args)

    def parse(self, *pdus: Any) -> list[Event | Drop]:
        waiting = Deferred.fromCoroutine(self.checker.parse(pdus, self.room.rules, self.room.room_id))
        return self.successResultOf(waiting)

    def verify(self, *events: Event, fetch: bool = False) -> list[Any]:
        return self.successResultOf(Deferred.fromCoroutine(self.checker.verify(events, fetch=fetch)))

    def test_in_the_order_of_the_arguments(self) -> None:
        said = [self.room.say(str(number)) for number in range(5)]
        elsewhere = self.other.create("11").say("elsewhere")
        parsed = self.parse(said[0].json, None, said[1].json, elsewhere.json, {"type": 1})
        self.assertEqual([Event, Drop, Event, Drop, Drop], [type(one) for one in parsed])
        unsigned = self.room.parse({**said[2].json, "signatures": {}})
        unknown = self.room.make("m.room.message", {}, sender=self.other.user(), signer=self.other.key)
        found = self.verify(said[3], unsigned, said[4], unknown)
        self.assertEqual([Event, Drop, Event, KeysMissing], [type(one) for one in found])
        self.assertEqual([said[3].event_id, said[4].event_id], [found[0].event_id, found[2].event_id])
        self.assertEqual([], self.keys.fetched)

    def test_a_few_in_the_reactor_and_many_beside_it(self) -> None:
        said = [self.room.say(str(number)) for number in range(250)]
        self.verify(*said[:3])
        self.assertEqual([], self.batches)
        found = self.verify(*said)
        # Who must have signed them, and whether they did.
        self.assertEqual([100, 100, 50] * 2, self.batches)
        self.assertEqual([one.event_id for one in said], [one.event_id for one in found])
        self.batches.clear()
        self.parse(*(one.json for one in said))
        self.assertEqual([100, 100, 50], self.batches)

    def test_keys_are_fetched_once_for_many(self) -> None:
        user_id = self.other.user()
        said = [
            self.room.make("m.room.message", {"n": number}, sender=user_id, signer=self.other.key)
            for number in range(9)
        ]
        self.assertEqual({KeysMissing}, {type(one) for one in self.verify(*said)})
        self.assertEqual({KeysMissing}, {type(one) for one in self.verify(*said, fetch=True)})
        self.assertEqual([(self.other.server_name, (self.other.key.key_id,))], self.keys.fetched)
        self.keys.away[self.other.server_name] = {self.other.key.key_id: self.other.key.public_key}
        self.assertEqual({Event}, {type(one) for one in self.verify(*said, fetch=True)})
        self.assertEqual(2, len(self.keys.fetched))

    def test_a_wrong_hash_is_redacted(self) -> None:
        said = self.room.say("the truth")
        (found,) = self.verify(self.room.parse({**said.json, "content": {"body": "a lie"}}))
        self.assertEqual((said.event_id, {}), (found.event_id, found.content))

    def test_answers_keep_what_passes(self) -> None:
        said = self.room.say("hello")
        forged = self.room.make("m.room.message", {}, signer=FakePeer("peer.example", "stolen").key)
        # A server may have taken in what we would not take now.
        many = self.room.make("m.room.message", {}, prev=[said.event_id] * 30, depth=9)
        pdus = [said.json, None, forged.json, many.json]
        waiting = Deferred.fromCoroutine(self.checker.check(pdus, self.room.rules, self.room.room_id))
        found = self.successResultOf(waiting)
        self.assertEqual([said.event_id, many.event_id], [one.event_id for one in found])
