"""The read model of sticky events, change by change."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from homeserver.store.changes import Change, Kind
from homeserver.store.erasures import ErasedUsers
from homeserver.store.sticky import Sticky
from homeserver.stream.sticky import StickyIndex

ROOM, EVENT = 1, 5


class Index(SynchronousTestCase):
    """`StickyIndex`."""

    def setUp(self) -> None:
        self.index = StickyIndex(ErasedUsers([]))
        self.sticky = Sticky(EVENT, ROOM, "$event", "@bob:far.example", 10_000)

    def shown(self) -> list[int]:
        return [one.pos for one in self.index.shown(ROOM, 0, 99, 1)]

    def change(self, pos: int, *, is_shown: bool) -> Change:
        return Change(pos, Kind.STICKY, ROOM if is_shown else 0, EVENT, self.sticky)

    def test_what_was_hidden_is_shown_once(self) -> None:
        """Of two looks at it that are under way at once, each has stored that it is to be shown."""
        self.index.apply([self.change(3, is_shown=False)])
        self.assertEqual([], self.shown())
        self.index.apply([self.change(4, is_shown=True), self.change(5, is_shown=True)])
        self.assertEqual([4], self.shown())
        self.assertEqual({}, self.index.all_hidden(1))
