"""Pages of inboxes that are read ahead are those that would be read when they are asked for."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from homeserver.db.errors import DatabaseUnavailable
from homeserver.e2ee.pages import InboxPages
from homeserver.sync.types import Inbox

DEVICE = 7


class FakeDatabase:
    """An inbox of numbered messages, read at once or when it is told to."""

    def __init__(self, size: int = 0) -> None:
        self.newest = size
        self.reads: list[tuple[int, int, int, int]] = []
        self.waiting: list[Deferred[Inbox]] | None = None
        self.error: Exception | None = None

    def page(self, since: int, upto: int, most: int) -> Inbox:
        last = min(self.newest, upto)
        shown = range(since + 1, min(since + most, last) + 1)
        end = shown[-1] if len(shown) == most and shown[-1] < last else upto
        return Inbox(b",".join(b"%d" % number for number in shown), end)

    def read(self, _: Any, device_nid: int, since: int, upto: int, most: int) -> Deferred[Inbox]:
        self.reads.append((device_nid, since, upto, most))
        if self.error is not None:
            return fail(self.error)
        page = self.page(since, upto, most)
        if self.waiting is None:
            return succeed(page)
        later: Deferred[Inbox] = Deferred()
        later.addCallback(lambda _: page)
        self.waiting.append(later)
        return later


class Pages(SynchronousTestCase):
    def setUp(self) -> None:
        self.database = FakeDatabase(10)
        self.pages = InboxPages(self.database)  # type: ignore[arg-type]

    def read(self, since: int, upto: int, most: int, then: int, device_nid: int = DEVICE) -> Inbox:
        return self.successResultOf(
            Deferred.fromCoroutine(self.pages.read(device_nid, since, upto, most, then))
        )

    def test_the_next_page_is_there_already(self) -> None:
        self.assertEqual(Inbox(b"1,2", 2), self.read(0, 10, 2, 4))
        self.assertEqual([(DEVICE, 0, 10, 2), (DEVICE, 2, 10, 4)], self.database.reads)
        self.assertEqual(Inbox(b"3,4,5,6", 6), self.read(2, 10, 4, 4))
        self.assertEqual((DEVICE, 6, 10, 4), self.database.reads[-1])
        self.assertEqual(Inbox(b"7,8,9,10", 10), self.read(6, 10, 4, 4))
        self.assertEqual(3, len(self.database.reads))

    def test_who_asks_before_it_is_there_waits_for_it(self) -> None:
        self.read(0, 10, 2, 4)
        self.database.waiting = []
        self.read(2, 10, 4, 4)
        asking = Deferred.fromCoroutine(self.pages.read(DEVICE, 6, 12, 4, 4))
        self.assertNoResult(asking)
        self.assertEqual(1, len(self.database.waiting))
        self.database.newest = 12
        self.database.waiting.pop().callback(None)  # type: ignore[arg-type]
        # It ended with what was the newest: more has come since.
        self.assertEqual((DEVICE, 6, 12, 4), self.database.reads[-1])
        self.database.waiting.pop(0).callback(None)  # type: ignore[arg-type]
        self.assertEqual(Inbox(b"7,8,9,10", 10), self.successResultOf(asking))

    def test_another_page_is_asked_for(self) -> None:
        self.read(0, 10, 2, 4)
        self.assertEqual(Inbox(b"1,2", 2), self.read(0, 10, 2, 4))
        self.assertEqual(Inbox(b"3,4", 4), self.read(2, 10, 2, 2))
        self.assertEqual(Inbox(b"5,6", 6), self.read(4, 10, 2, 2))

    def test_what_could_not_be_read_ahead_is_read(self) -> None:
        self.database.newest = 3
        first = Deferred.fromCoroutine(self.pages.read(DEVICE, 0, 3, 2, 2))
        self.assertEqual(Inbox(b"1,2", 2), self.successResultOf(first))
        self.database.error = DatabaseUnavailable("gone")
        self.database.newest = 6
        self.assertEqual(Inbox(b"3", 3), self.read(2, 3, 2, 2))
        self.failureResultOf(Deferred.fromCoroutine(self.pages.read(DEVICE, 3, 6, 2, 2)), DatabaseUnavailable)
        self.database.error = None
        self.read(0, 6, 2, 2)
        self.database.error = DatabaseUnavailable("gone")
        self.assertEqual(Inbox(b"3,4", 4), self.read(2, 6, 2, 2))
        self.database.error = None
        self.assertEqual(Inbox(b"5,6", 6), self.read(4, 6, 2, 2))

    def test_few_wait(self) -> None:
        for device_nid in range(100, 110):
            self.read(0, 10, 2, 2, device_nid)
        for device_nid, reads in ((100, 2), (109, 1)):
            before = len(self.database.reads)
            self.assertEqual(Inbox(b"3,4", 4), self.read(2, 10, 2, 2, device_nid))
            self.assertEqual(reads, len(self.database.reads) - before, "the first made room for the last")

    @given(
        st.lists(
            st.tuples(st.integers(0, 5), st.integers(1, 5), st.integers(1, 5), st.booleans()), max_size=30
        )
    )
    def test_nothing_else_is_told(self, acts: list[tuple[int, int, int, bool]]) -> None:
        """Whatever comes in between, and whatever sizes are asked for."""
        database = FakeDatabase(8)
        pages = InboxPages(database)  # type: ignore[arg-type]
        since = 0
        for come, most, then, goes_on in acts:
            database.newest += come
            upto = database.newest
            found = self.successResultOf(Deferred.fromCoroutine(pages.read(DEVICE, since, upto, most, then)))
            self.assertEqual(database.page(since, upto, most), found)
            since = found.upto if goes_on else since
