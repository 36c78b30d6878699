"""What is staged, in memory: counted, bounded, forgotten."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from homeserver.rooms.federated.staged import Bounds, Copy, Kept, Staged
from homeserver.store.staging import Waiting


class StagedTests(SynchronousTestCase):
    def test_bounds(self) -> None:
        staged = Staged(Bounds(origin=2, room=3, all=4))
        self.assertTrue(staged.add(1, "$a", "one", Copy.WHOLE))
        self.assertTrue(staged.add(2, "$a", "one", Copy.WHOLE))
        self.assertFalse(staged.add(1, "$c", "one", Copy.WHOLE), "too many of a server")
        self.assertTrue(staged.add(1, "$a", "one", Copy.WHOLE), "it is here already")
        self.assertTrue(staged.add(1, "$a", "two", Copy.WHOLE), "and stays who sent it first")
        self.assertEqual("one", staged.origin_of(1, "$a"))
        self.assertTrue(staged.add(1, "$d", "two", Copy.WHOLE))
        self.assertTrue(staged.add(1, "$e", "three", Copy.WHOLE))
        self.assertFalse(staged.add(1, "$f", "four", Copy.WHOLE), "too many in a room")
        self.assertFalse(staged.add(3, "$f", "four", Copy.WHOLE), "too many in all")
        staged.discard(1, ["$d", "$nowhere"])
        self.assertTrue(staged.add(3, "$f", "four", Copy.WHOLE))
        self.assertEqual(4, len(staged))

    def test_the_last_quarter_is_for_those_who_have_little(self) -> None:
        staged = Staged(Bounds(room=8, all=12, few=2))
        ids = [f"${number}" for number in range(20)]
        self.assertEqual(6, sum(staged.add(1, one, "one", Copy.WHOLE) for one in ids[:9]))
        self.assertEqual(2, sum(staged.add(1, one, "two", Copy.WHOLE) for one in ids[10:]))
        self.assertEqual(1, sum(staged.add(2, one, "one", Copy.WHOLE) for one in ids[:9]), "nine in all")
        self.assertEqual(2, sum(staged.add(2, one, "three", Copy.WHOLE) for one in ids[10:]))
        self.assertEqual(1, sum(staged.add(3, one, "four", Copy.WHOLE) for one in ids), "twelve in all")

    def test_strangers(self) -> None:
        staged = Staged(Bounds(room=3), Bounds(room=2))
        for number in range(3):
            self.assertEqual(number < 2, staged.add(1, f"${number}", f"s{number}", Copy.WHOLE, stranger=True))
        self.assertTrue(staged.add(1, "$2", "s1", Copy.WHOLE), "it came in")
        self.assertEqual({"s0": 1, "s1": 2}, dict(staged.origins_in(1)))
        self.assertEqual(3, len(staged))
        staged.discard(1, ["$1"])
        self.assertEqual({"s0": 1, "s1": 1}, dict(staged.origins_in(1)))
        self.assertTrue(staged.add(1, "$3", "s3", Copy.WHOLE, stranger=True))

    def test_who_waits_where(self) -> None:
        staged = Staged()
        staged.fill([Waiting(1, "$a", "one", 0), Waiting(1, "$b", "two", 0)])
        staged.fill([Waiting(1, "$a", "one", 0)])
        self.assertEqual({"one": 1, "two": 1}, dict(staged.origins_in(1)))
        staged.discard(1, ["$a", "$a"])
        self.assertEqual({"two": 1}, dict(staged.origins_in(1)))
        staged.discard(1, ["$b"])
        self.assertEqual((0, {}), (len(staged), dict(staged.origins_in(1))))
        self.assertIsNone(staged.origin_of(1, "$a"))

    def test_another_copy(self) -> None:
        staged = Staged()
        staged.fill([Waiting(1, "$a", "one", 0)])
        self.assertEqual(Kept("one", Copy.UNKNOWN), staged.find(1, "$a"))
        staged.note(1, "$a", Copy.WHOLE)
        staged.note(1, "$nowhere", Copy.WHOLE)
        self.assertEqual(Kept("one", Copy.WHOLE), staged.find(1, "$a"))
        self.assertIsNone(staged.find(1, "$nowhere"))
        self.assertEqual(1, len(staged))
