"""What outlasts the process is what differs from the rows, also after a commit that failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import TestCase

from homeserver.push.debts import Debts, Owed, decode_owed, encode_owed
from homeserver.store.pushers import Debt, PusherKey

KEY = PusherKey(1, "app", "key")


def debt(failures: int) -> Debt:
    return Debt(*KEY, failures, 0, 0, "[]")


class Rows:
    """What a transaction does, as far as it is asked to."""

    def __init__(self) -> None:
        self.kept: dict[PusherKey, Debt] = {}

    def run(self, _: object, **key: Any) -> None:
        self.kept.pop(PusherKey(**key), None)

    def value(self, _: object, **key: Any) -> int:
        return 1

    def insert(self, _: object, rows: list[tuple[Any, ...]]) -> None:
        self.kept.update({one.key: one for one in map(Debt._make, rows)})


class Memory(TestCase):
    def setUp(self) -> None:
        self.hurried = 0
        self.rows = Rows()
        self.debts = Debts(self.hurry)

    def hurry(self) -> None:
        self.hurried += 1

    def save(self, *, fails: bool = False) -> bool:
        """Whether there was anything to store."""
        unit: Callable[..., None] | None = self.debts.unsaved()
        if unit is None:
            return False
        if not fails:
            unit(self.rows)
            self.debts.saved()
        return True

    def test_only_what_differs(self) -> None:
        self.debts.note(KEY, lambda: None)
        self.assertFalse(self.save())
        self.debts.note(KEY, lambda: debt(1))
        self.assertTrue(self.save())
        self.debts.note(KEY, lambda: debt(1))
        self.assertFalse(self.save())
        self.assertEqual({KEY: debt(1)}, self.rows.kept)
        self.debts.settled(KEY)
        self.debts.settled(PusherKey(2, "app", "key"))
        self.assertEqual(1, self.hurried)
        self.debts.note(KEY, None)
        self.assertTrue(self.save())
        self.assertEqual({}, self.rows.kept)

    def test_a_commit_that_failed(self) -> None:
        self.debts.note(KEY, lambda: debt(1))
        self.assertTrue(self.save(fails=True))
        self.assertTrue(self.save())
        self.assertEqual({KEY: debt(1)}, self.rows.kept)
        self.debts.note(KEY, lambda: debt(2))
        self.assertTrue(self.save(fails=True))
        # It may have been stored after all: that it is even again has to be said.
        self.debts.note(KEY, lambda: debt(1))
        self.assertTrue(self.save())
        self.assertEqual({KEY: debt(1)}, self.rows.kept)

    def test_what_an_earlier_process_left(self) -> None:
        self.debts.load([debt(3)])
        self.debts.note(KEY, lambda: debt(3))
        self.assertFalse(self.save())

    def test_stored_form(self) -> None:
        owed = [Owed(1, 2, 3, 4, ["notify", {"set_tweak": "sound", "value": "\0"}])]
        self.assertEqual(owed, decode_owed(encode_owed(owed)))
        self.assertNotIn("\0", encode_owed(owed))
