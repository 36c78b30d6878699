"""The small parts of sliding sync: what a connection weighs."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from homeserver.store.sliding import ConnectionKey
from homeserver.sync.sliding.connections import Connection, Told
from homeserver.sync.sliding.required import Required, weigh


class ConnectionTests(SynchronousTestCase):
    def test_wishes_are_counted_once_for_all_rooms(self) -> None:
        wishes = [frozenset({Required(frozenset({(f"{number}" * 200, "")}))}) for number in range(3)]
        connection = Connection(ConnectionKey(1, 2, ""), "epoch")
        connection.put(1, {})
        self.assertEqual(0, connection.size)
        rooms = {nid: Told(wishes=wishes[0]) for nid in range(100)}
        connection.put(2, rooms)
        alike = connection.size
        connection.put(3, rooms | {7: Told(wishes=wishes[1]), 8: Told(wishes=wishes[2])})
        self.assertEqual(2 * alike + weigh(wishes[1]) + weigh(wishes[2]), connection.size)
        self.assertGreater(weigh(wishes[1]), 200)
        connection.drop([1, 3])
        self.assertEqual((alike, {2}), (connection.size, set(connection.states)))
