"""The children of an event, page by page, and the threads of a room, as one reader sees them.

# spec: client-server-api#relationships-api
# spec: client-server-api#querying-threads-in-a-room
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import MatrixError
from homeserver.rooms.reads.pagination import Pagination, find_event, no_event
from homeserver.rooms.reads.reading import Archive, Asker, LoadSpan, find_seen, scan, write_events
from homeserver.rooms.reads.visibility import Sights
from homeserver.rooms.types import Requester
from homeserver.store.bundles import may_have_thread
from homeserver.store.client_events import ERASED, join, load_as_redacted
from homeserver.store.history import BEGINNING, HistoryRow, load_history_rows
from homeserver.store.relations import (
    Kind,
    find_user_nids,
    load_children,
    load_descendants,
    load_threads,
)
from homeserver.store.veil import find_strangers
from homeserver.stream.tokens import parse_timeline_token, timeline_token

# The specification asks for three at least.
RECURSION_DEPTH = 3
# LIMIT(one request: of more descendants than these the newest of each level are found)
_DESCENDANTS_MOST = 5_000
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ChildrenAsked:
    """Which children somebody wants. Tokens as the client gave them."""

    event_id: str
    kind: Kind
    backwards: bool
    limit: int
    from_token: str | None = None
    to_token: str | None = None
    recurse: bool | None = None  # None: not asked about


@dataclass(frozen=True, slots=True)
class ThreadsAsked:
    """Which threads somebody wants."""

    participated: bool
    limit: int
    from_token: str | None = None


class Relationships:
    """See the module."""

    def __init__(self, database: Database, sights: Sights, pagination: Pagination, archive: Archive) -> None:
        self._database = database
        self._sights = sights
        self._pagination = pagination
        self._archive = archive

    async def children(self, requester: Requester, room_id: str, asked: ChildrenAsked) -> bytes:
        """The answer of ``/relations``; 404 M_NOT_FOUND where the reader may not see the parent."""
        low, high = _span(asked)
        try:
            sight = await self._sights.find(requester, room_id)
        except MatrixError as error:
            if error.status != 403:
                raise
            raise no_event() from None
        asker = await self._pagination.asker(requester, sight)
        return await self._database.read(_write_children, self._archive, asker, asked, low, high)

    async def threads(self, requester: Requester, room_id: str, asked: ThreadsAsked) -> bytes:
        """The answer of ``/threads``; 403 M_FORBIDDEN where the reader may see nothing of the room."""
        high = parse_timeline_token(asked.from_token) if asked.from_token is not None else None
        sight = await self._sights.find(requester, room_id)
        asker = await self._pagination.asker(requester, sight)
        return await self._database.read(_write_threads, self._archive, asker, asked, high)


def _span(asked: ChildrenAsked) -> tuple[int, int | None]:
    """The span to search, ``(low, high]``; None: up to now."""
    start = parse_timeline_token(asked.from_token) if asked.from_token is not None else None
    stop = parse_timeline_token(asked.to_token) if asked.to_token is not None else None
    low, high = (stop, start) if asked.backwards else (start, stop)
    return BEGINNING if low is None else low, high


def _write_children(
    tx: Tx, archive: Archive, asker: Asker, asked: ChildrenAsked, low: int, high: int | None
) -> bytes:
    sight = asker.sight
    find_event(tx, archive, sight, asked.event_id)
    top = sight.upto if high is None else min(high, sight.upto)
    parts = [b'{"chunk":']
    if low < top:
        load = _loader(tx, asker, asked)
        scanned = scan(
            tx,
            archive,
            sight,
            low,
            top,
            asked.limit,
            None,
            backwards=asked.backwards,
            ignored=asker.ignored,
            load=load,
        )
        # What is redacted relates to nothing.
        found = [one for one in scanned.found if one.event.redacted_by != ERASED]
        parts.append(join(write_events(tx, archive, asker, found)))
        if scanned.edge is not None:
            parts += [b',"next_batch":', _encode(timeline_token(scanned.edge))]
    else:
        parts.append(b"[]")
    if asked.from_token is not None:
        # There may be something before where this page began: from there it can be searched the other way.
        parts += [b',"prev_batch":', _encode(asked.from_token)]
    if asked.recurse is not None:
        parts.append(b',"recursion_depth":%d' % (RECURSION_DEPTH if asked.recurse else 1))
    parts.append(b"}")
    return b"".join(parts)


def _loader(tx: Tx, asker: Asker, asked: ChildrenAsked) -> LoadSpan:
    """How a scan gets at the children."""
    sight, event_id, kind = asker.sight, asked.event_id, asked.kind
    if not asked.recurse:

        def load(
            tx: Tx, room_nid: int, low: int, high: int, most: int, *, backwards: bool = False
        ) -> list[HistoryRow]:
            return load_children(tx, room_nid, event_id, kind, low, high, most, backwards=backwards)

        return load
    found = load_descendants(
        tx, sight.room_nid, event_id, kind, sight.upto, RECURSION_DEPTH, _DESCENDANTS_MOST
    )

    def pick(
        tx: Tx,  # noqa: ARG001 (all of them are here)
        room_nid: int,  # noqa: ARG001
        low: int,
        high: int,
        most: int,
        *,
        backwards: bool = False,
    ) -> list[HistoryRow]:
        rows = [row for row in found if row.pos is not None and low < row.pos <= high]
        return (rows[::-1] if backwards else rows)[:most]

    return pick


def _write_threads(tx: Tx, archive: Archive, asker: Asker, asked: ThreadsAsked, high: int | None) -> bytes:
    sight = asker.sight
    ignored = find_user_nids(tx, asker.ignored) if asker.ignored else set()
    ignored |= find_strangers(tx, sight.room_nid, sight.reader.member_key, archive.facts)
    places = load_threads(
        tx,
        sight.room_nid,
        asker.user_nid,
        ignored,
        sight.upto,
        sight.upto if high is None else min(high, sight.upto),
        asked.limit + 1,
        participated=asked.participated,
    )
    shown = places[: asked.limit]
    rows = load_history_rows(tx, [one.root_nid for one in shown])
    roots = [rows[one.root_nid] for one in shown if one.root_nid in rows]
    roots = [row for row in roots if row.pos is not None and row.pos <= sight.upto]
    found = [one for one in find_seen(tx, archive, sight, roots) if may_have_thread(one.event)]
    hidden = [one.row.nid for one in found if one.event.sender in asker.ignored]
    if hidden:
        # spec: client-server-api#get_matrixclientv1roomsroomidthreads (as if the client aggregated by itself)
        redacted = load_as_redacted(tx, hidden)
        found = [one._replace(event=redacted.get(one.row.nid, one.event)) for one in found]
    parts = [b'{"chunk":', join(write_events(tx, archive, asker, found))]
    if len(places) > len(shown):
        parts += [b',"next_batch":', _encode(timeline_token(shown[-1].newest - 1))]
    parts.append(b"}")
    return b"".join(parts)
