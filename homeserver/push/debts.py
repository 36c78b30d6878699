"""What pushers have still to get, as it outlasts the process: the memory of the follower that notifies.

A row is written only for a pusher that is behind when the follower's cursor is stored, and in the same transaction: what
is to be told is in a row, or after the cursor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from homeserver.db.tx import WriteTx
from homeserver.store.pushers import Debt, PusherKey, store_debts


class Owed(NamedTuple):
    """One event of which a pusher is to hear. Stored as it is, in a list."""

    pos: int
    room_nid: int
    event_nid: int  # 0: a membership of a room that this server is not in
    ts_ms: int
    actions: list[Any]


_decode = msgspec.json.Decoder(list[Owed]).decode
_encode = msgspec.json.Encoder().encode


def encode_owed(owed: Iterable[Owed]) -> str:
    """As it is stored."""
    return _encode(list(owed)).decode()


def decode_owed(stored: str) -> list[Owed]:
    """What ``encode_owed`` wrote."""
    return _decode(stored)


Tell = Callable[[], Debt | None]


class Debts:
    """See the module, and ``stream.followers.Memory``."""

    def __init__(self, store_soon: Callable[[], None]) -> None:
        self._store_soon = store_soon
        self._stored: dict[PusherKey, Debt] = {}
        self._saving: dict[PusherKey, Debt | None] = {}
        self._moved: dict[PusherKey, Tell | None] = {}

    def load(self, debts: Iterable[Debt]) -> None:
        """What an earlier process left."""
        for debt in debts:
            self._stored[debt.key] = debt

    def note(self, key: PusherKey, tell: Tell | None) -> None:
        """A pusher's debt is another now; ``tell`` gives what it is when it is stored. None: the pusher is no more."""
        self._moved[key] = tell

    def settled(self, key: PusherKey) -> None:
        """A pusher has got something: its row, if there is one, is to follow soon."""
        if key in self._stored:
            self._store_soon()

    def hurry(self) -> None:
        """Store soon what was noted."""
        self._store_soon()

    def unsaved(self) -> Callable[[WriteTx], None] | None:
        saving = self._saving  # of a commit that failed
        for key, tell in self._moved.items():
            debt = tell() if tell is not None else None
            if key in saving or debt != self._stored.get(key):
                saving[key] = debt
        self._moved.clear()
        if not saving:
            return None
        owing = [debt for debt in saving.values() if debt is not None]
        even = [key for key, debt in saving.items() if debt is None]

        def store(tx: WriteTx) -> None:
            store_debts(tx, owing, even)

        return store

    def saved(self) -> None:
        for key, debt in self._saving.items():
            if debt is None:
                self._stored.pop(key, None)
            else:
                self._stored[key] = debt
        self._saving = {}
