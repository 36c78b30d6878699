"""The directory's pages, and the conditions of restricted joins: the pure parts."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.trial import unittest

from federation.errors import Malformed
from federation.ids import parse_room_id
from homeserver.http.errors import MatrixError
from homeserver.rooms.directory import Directory, Query
from homeserver.rooms.federated.restricted import allowed_rooms
from homeserver.store.changes import Change, Kind
from homeserver.store.directory import RoomFacts, load_facts, load_published

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("m.room_membership"),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["type", "room_id", "x"]), inner)
    ),
    max_leaves=12,
)


class _FakeDatabase:
    """Answers the directory's two reads from a dict of member counts by room."""

    def __init__(self, joined: dict[int, int]) -> None:
        self.joined = joined
        self.reads = 0
        self.held: list[Deferred[Any]] | None = None  # a list: answers wait there

    def read(self, unit: Any, *args: Any) -> Deferred[Any]:
        self.reads += 1
        if self.held is not None:
            self.held.append(Deferred())
            return self.held[-1]
        if unit is load_published:
            return succeed(list(self.joined))
        assert unit is load_facts
        return succeed(
            [RoomFacts(nid, f"!{nid}:a", "11", self.joined[nid]) for nid in args[0] if nid in self.joined]
        )


class _Rooms:
    """A registry as far as the directory looks at it."""

    def __init__(self, database: _FakeDatabase) -> None:
        self.tools = self
        self.database = database


class _Index:
    """Somebody of this server is in every room but some."""

    def __init__(self) -> None:
        self.empty: set[int] = set()

    def local_members(self, room_nid: int) -> list[int]:
        return [] if room_nid in self.empty else [1]


def directory_of(database: _FakeDatabase, index: _Index | None = None) -> Directory:
    unused: Any = None
    rooms: Any = _Rooms(database)
    memberships: Any = index or _Index()
    return Directory(rooms, unused, unused, memberships)


class Pages(unittest.TestCase):
    def page(self, directory: Directory, limit: int, since: str | None = None) -> dict[str, Any]:
        found: dict[str, Any] = self.successResultOf(
            Deferred.fromCoroutine(directory.page(Query(limit, since)))
        )
        return found

    @given(st.dictionaries(st.integers(1, 50), st.integers(0, 5), max_size=30), st.integers(1, 8))
    def test_every_room_once_and_the_same_way_back(self, joined: dict[int, int], limit: int) -> None:
        directory = directory_of(_FakeDatabase(joined))
        pages: list[list[str]] = []
        since: str | None = None
        page: dict[str, Any] = {}
        while since is not None or not pages:
            page = self.page(directory, limit, since)
            pages.append([one["room_id"] for one in page["chunk"]])
            since = page.get("next_batch")
        expected = [f"!{nid}:a" for nid in sorted(joined, key=lambda nid: (-joined[nid], nid))]
        self.assertEqual(expected, [room_id for chunk in pages for room_id in chunk])
        back = []
        while "prev_batch" in page:
            page = self.page(directory, limit, page["prev_batch"])
            back.append([one["room_id"] for one in page["chunk"]])
        self.assertEqual(pages[:-1], back[::-1])

    def test_only_what_changed_is_read_again(self) -> None:
        database = _FakeDatabase({1: 3, 2: 2})
        directory = directory_of(database)
        self.page(directory, 10)
        reads = database.reads
        directory.apply([Change(1, Kind.RECEIPT, 1, 7), Change(2, Kind.EVENT, 99, 8)])
        self.page(directory, 10)
        self.assertEqual(reads, database.reads)
        database.joined[2] = 9
        directory.apply([Change(3, Kind.EVENT, 2, 9)])
        self.assertEqual("!2:a", self.page(directory, 10)["chunk"][0]["room_id"])
        self.assertEqual(reads + 1, database.reads)
        del database.joined[2]
        directory.apply([Change(4, Kind.DIRECTORY, 2, 0)])
        self.assertEqual(1, self.page(directory, 10)["total_room_count_estimate"])

    def test_a_room_that_this_server_leaves_and_joins_again(self) -> None:
        database, index = _FakeDatabase({1: 3, 2: 2}), _Index()
        directory = directory_of(database, index)
        self.assertEqual(2, self.page(directory, 10)["total_room_count_estimate"])
        for empty, expected in (({1}, ["!2:a"]), (set[int](), ["!1:a", "!2:a"])):
            index.empty = empty
            directory.apply([Change(1, Kind.EVENT, 1, 7)])
            reads = database.reads
            page = self.page(directory, 10)
            self.assertEqual(expected, [one["room_id"] for one in page["chunk"]])
            self.assertEqual(reads + 1, database.reads)

    def test_an_older_answer_does_not_replace_a_newer_one(self) -> None:
        database = _FakeDatabase({1: 1})
        directory = directory_of(database)
        self.page(directory, 10)
        directory.apply([Change(1, Kind.EVENT, 1, 1)])
        held = database.held = []
        first = Deferred.fromCoroutine(directory.page(Query()))
        self.assertNoResult(first)
        database.held = None
        database.joined[1] = 5
        directory.apply([Change(2, Kind.EVENT, 1, 2)])
        self.assertEqual(5, self.page(directory, 10)["chunk"][0]["num_joined_members"])
        held[0].callback([RoomFacts(1, "!1:a", "11", 1)])
        self.assertEqual(5, self.successResultOf(first)["chunk"][0]["num_joined_members"])

    @given(st.text(max_size=30))
    def test_tokens_are_refused_or_understood(self, since: str) -> None:
        directory = directory_of(_FakeDatabase({1: 1}))
        outcome = Deferred.fromCoroutine(directory.page(Query(since=since)))
        if not since or re.fullmatch(r"[fb][0-9]{1,12}_[0-9]{1,18}", since, re.ASCII):
            self.successResultOf(outcome)
        else:
            self.assertEqual("M_INVALID_PARAM", self.failureResultOf(outcome, MatrixError).value.errcode)


class Conditions(unittest.TestCase):
    @given(JSON)
    def test_whatever_stands_there(self, allow: Any) -> None:
        event: Any = type("Event", (), {"content": {"allow": allow}})
        for room_id in allowed_rooms(event):
            try:
                parse_room_id(room_id)
            except Malformed:
                self.fail("not a room id")

    def test_a_bounded_number(self) -> None:
        allow = [{"type": "m.room_membership", "room_id": "!a:b"}] * 1000
        event: Any = type("Event", (), {"content": {"allow": allow}})
        self.assertEqual(200, len(allowed_rooms(event)))
