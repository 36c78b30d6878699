"""Several keys of one server, of which it tells the newest alone: each that is wanted is had, and none that is made up.

spec: server-server-api#retrieving-server-keys
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from federation.flows.keys import MAX_KEY_IDS, Wanted
from federation.ids import KeyId, ServerName
from federation.versions import ROOM_VERSIONS
from homeserver.config.schema import Federation
from homeserver.peers import keyring
from homeserver.peers.keyring import KeyRing
from tests.support.app import test_key
from tests.support.archive import Archive
from tests.support.federation import WEEK_MS, TestNet

SERVER = "/_matrix/key/v2/server"
NEW = ROOM_VERSIONS["11"]
KEY = KeyId("ed25519:test")


class SeveralKeys(TestCase):
    """b, whose notary keeps all that it saw, and another server."""

    def setUp(self) -> None:
        self.net = TestNet(self)
        self.notary = Archive(self.net)
        self.server = self.net.server(
            "b.example", federation=Federation(trusted_key_servers=(self.notary.name,))
        )
        self.other = self.net.stranger("other.example")
        self.name = ServerName("other.example")

    @property
    def ring(self) -> KeyRing:
        return self.server.app.peering.keys

    def keys(self, key_id: str = KEY, ts_ms: int | None = None, fetch: bool = True) -> Any:
        """The keys for an event under this one."""
        ts_ms = self.net.now_ms if ts_ms is None else ts_ms
        found = self.ring.for_event(self.name, [KeyId(key_id)], ts_ms, NEW, fetch=fetch)
        return self.net.wait(Deferred.fromCoroutine(found))

    def lacking(self, wanted: list[Wanted]) -> list[str]:
        """Whose keys may be had later, in a join."""
        found = self.net.wait(Deferred.fromCoroutine(self.ring.fetch_many(wanted)), 3600)
        return [one.server_name for one in found]

    def rotate(self) -> tuple[KeyId, KeyId]:
        """The other has lost its key, which the notary saw, and has a new one."""
        self.notary.show(self.other)
        self.other.key = test_key("other.example", "new", 77)
        return KEY, KeyId("ed25519:new")

    def side_by_side(self, *key_ids: str) -> list[Any]:
        """Events of now under different keys, whose keys are wanted all at once."""
        waiting = [
            Deferred.fromCoroutine(
                self.ring.for_event(self.name, [KeyId(key_id)], self.net.now_ms, NEW, fetch=True)
            )
            for key_id in key_ids
        ]
        return [self.net.wait(one) for one in waiting]

    def asked(self) -> int:
        return len(self.net.sent(SERVER, "b.example", "other.example"))

    def test_two_keys_of_a_server_at_once(self) -> None:
        old, new = self.rotate()
        self.assertEqual([{new}, {old, new}], [set(found) for found in self.side_by_side(new, old)])
        self.assertEqual((1, [{self.name: {old}}]), (self.asked(), self.notary.queries))

    def test_two_keys_of_a_server_at_once_the_old_one_first(self) -> None:
        old, new = self.rotate()
        self.assertEqual([{old, new}] * 2, [set(found) for found in self.side_by_side(old, new)])
        self.assertEqual((1, [{self.name: {old}}]), (self.asked(), self.notary.queries))

    def test_two_keys_of_a_server_that_is_gone(self) -> None:
        old, new = self.rotate()
        self.notary.show(self.other)
        self.net.down("other.example")
        found = self.side_by_side(new, old)
        self.assertEqual([new in found[0], old in found[1]], [True, True])
        self.assertEqual((1, [{self.name: {new}}, {self.name: {old}}]), (self.asked(), self.notary.queries))

    def test_another_key_of_a_server_that_was_asked_just_now(self) -> None:
        old, new = self.rotate()
        self.keys(new)
        self.assertIn(old, self.keys(old))
        self.assertEqual((1, [{self.name: {old}}]), (self.asked(), self.notary.queries))

    def test_made_up_keys_of_a_server_do_not_pile_up(self) -> None:
        for number in range(20):
            self.side_by_side(*(f"ed25519:{number}_{key}" for key in range(40)))
        self.assertEqual((1, 1 + keyring.MORE_ROUNDS), (self.asked(), len(self.notary.queries)))
        for query in self.notary.queries:
            self.assertLessEqual(len(query[self.name]), MAX_KEY_IDS)
        # Nor do they keep its own key away from others.
        self.assertIn(KEY, self.keys())
        self.assertEqual({}, dict(self.ring._waiting))

    def test_what_no_server_can_publish_is_not_asked_for(self) -> None:
        self.side_by_side("ed25519:" + "x" * 60_000, "ed25519:not a name")
        self.assertEqual((0, []), (self.asked(), self.notary.queries))
        self.side_by_side("ed25519:" + "x" * 60_000, KEY)
        self.assertEqual((1, []), (self.asked(), self.notary.queries))

    def test_no_notary_for_a_made_up_key_of_a_request(self) -> None:
        for number in range(5):
            waiting = self.ring.for_request(self.name, KeyId(f"ed25519:{number}"))
            self.assertEqual({KEY}, set(self.net.wait(Deferred.fromCoroutine(waiting))))
        self.assertEqual((1, []), (self.asked(), self.notary.queries))

    # --- for a join ----------------------------------------------------------------------------------

    def test_each_key_that_is_wanted_of_a_server(self) -> None:
        old, new = self.rotate()
        wanted = [Wanted(self.name, (key_id,), self.net.now_ms) for key_id in (old, new)]
        self.keys(new)
        self.net.advance(60)
        self.assertEqual([], self.lacking(wanted))
        self.assertEqual({old, new}, set(self.keys(new, fetch=False)))
        self.assertEqual([{self.name: {old}}], self.notary.queries)
        # With all at hand nobody is asked, be it one key or several.
        before = len(self.net.requests)
        self.assertEqual([], self.lacking(wanted))
        self.assertEqual([], self.lacking([Wanted(self.name, (KeyId("ed25519:x"), new), self.net.now_ms)]))
        self.assertEqual(before, len(self.net.requests))

    def test_each_key_until_when_it_is_wanted(self) -> None:
        """An old key that is here as it was published long ago, and was good for longer than that."""
        self.keys()
        self.net.leap(2 * WEEK_MS // 1000)
        old, new = self.rotate()
        ts_ms = self.net.now_ms
        self.keys(new)
        self.assertNotIn(old, self.keys(new, ts_ms, fetch=False))
        self.net.advance(60)
        self.assertEqual([], self.lacking([Wanted(self.name, (one,), ts_ms) for one in (old, new)]))
        self.assertIn(old, self.keys(new, ts_ms, fetch=False))

    def test_made_up_keys_cost_one_question(self) -> None:
        self.keys()
        self.net.advance(60)
        before = len(self.net.sent(SERVER, "b.example", "other.example"))
        made_up = [Wanted(self.name, (KeyId(f"ed25519:{number}"),), self.net.now_ms) for number in range(100)]
        self.assertEqual([], self.lacking(made_up))
        self.assertEqual(before + 1, len(self.net.sent(SERVER, "b.example", "other.example")))
        self.assertEqual([MAX_KEY_IDS], [len(query[self.name]) for query in self.notary.queries])
