"""What is built once for many readers, and how long it is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from weakref import ref

import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from homeserver.store.client_events import ClientEvent, ClientEventCache, Key
from homeserver.store.placement import Placement
from homeserver.store.state import empty_snapshot
from homeserver.sync import shared
from homeserver.sync.filters import SyncFilter, parse_filter
from homeserver.sync.shared import FRESH_MS, SharedRoom, SharedRooms
from homeserver.sync.timelines import Keys
from homeserver.sync.window import Topic, Window

ROOM = 7
EVENTS = 20
EVENT_BYTES = 60_000
BOUND = 32 * 1024 * 1024


def filter_without(number: int) -> SyncFilter:
    """One of many filters that let the same pass."""
    timeline = {"limit": EVENTS, "not_types": [f"org.example.{number}"]}
    return parse_filter(msgspec.json.encode({"room": {"timeline": timeline}}))


class SharedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.cache = ClientEventCache()
        nothing: Any = None  # these events take no read
        self.shared = SharedRooms(nothing, self.cache, nothing)

    def window(self, upto: int) -> Window:
        window = Window(0, upto)
        window.topics[ROOM] = Topic([self.placed(nid) for nid in range(1, EVENTS + 1)])
        return window

    def placed(self, nid: int) -> Placement:
        head = b'{"content":{"body":"%b"},"event_id":"$%d"' % (b"x" * EVENT_BYTES, nid)
        shown = ClientEvent(nid, f"${nid}", "m.room.message", "@a:x", None, 0, head, b"{}", False, None)
        self.cache.put(Key(nid, 0), shown)
        event: Any = SimpleNamespace(event_id=f"${nid}", content={})
        nowhere = empty_snapshot(ROOM)
        return Placement(event, b"{}", nid, ROOM, 11, None, 1, nowhere, nowhere, pos=nid)

    def build(self, window: Window, number: int, now_ms: int = 0) -> SharedRoom:
        building = self.shared.build(
            window, ROOM, filter_without(number), now_ms, Keys(0, 0, 0, 0), state_after=False
        )
        return self.successResultOf(Deferred.fromCoroutine(building))

    def known(self, window: Window, number: int, now_ms: int = 0) -> SharedRoom | None:
        return self.shared.known(window, ROOM, filter_without(number), now_ms, state_after=False)

    def test_all_windows_together_take_so_much(self) -> None:
        windows = [self.window(upto) for upto in range(100, 105)]
        for number in range(30):
            room = self.build(windows[number % 5], number)
            self.assertIs(room, self.known(windows[number % 5], number))
        kept = [room for window in windows for room in window.shared.values()]
        self.assertGreater(len(kept), 1)
        self.assertLess(sum(len(room.timeline) + sum(map(len, room.written)) for room in kept), BOUND)

    def test_what_is_old_makes_room(self) -> None:
        first, second = self.window(100), self.window(101)
        self.build(first, 1)
        self.build(second, 2, FRESH_MS)
        self.assertEqual(1, len(first.shared))
        self.build(second, 3, FRESH_MS + 1)
        self.assertEqual((0, 2), (len(first.shared), len(second.shared)))
        # What was built anew under the same name is not what is too old.
        again = self.build(second, 2, 2 * FRESH_MS)
        self.build(first, 1, 2 * FRESH_MS + 1)
        self.assertIs(again, self.known(second, 2, 2 * FRESH_MS))

    def test_a_window_goes_with_those_who_look_at_it(self) -> None:
        window = self.window(100)
        self.build(window, 1)
        known = ref(window)
        del window
        self.assertIsNone(known())
        # What was built in it is forgotten in its turn.
        self.build(self.window(101), 2, FRESH_MS + 1)
        self.assertEqual(1, len(self.shared._kept))

    def test_the_last_stays_however_large_it_is(self) -> None:
        self.patch(shared, "SHARED_BYTES", 1)
        window = self.window(100)
        for number in range(2):
            self.assertIs(self.build(window, number), self.known(window, number))
            self.assertEqual(1, len(window.shared))
