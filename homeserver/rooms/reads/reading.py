"""Events as one reader sees them: rows of history to the bytes of client events, within one unit of work.

# spec: client-server-api#room-event-format
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from homeserver.db.tx import Tx
from homeserver.rooms.reads.visibility import Sight
from homeserver.store.bundles import Viewer, load_bundles
from homeserver.store.client_events import ClientEvent, ClientEventCache, load_seen
from homeserver.store.history import (
    HistoryRow,
    find_member_keys,
    load_history_rows,
    load_span,
)
from homeserver.store.placement import Membership
from homeserver.store.unsigned import PlainEvents, sent_as, unsigned_members
from homeserver.store.veil import load_veiled, veil
from homeserver.store.visibility_reads import StateFacts, look

# LIMIT(a filter that nothing fits, or a history that the reader may not see: the client asks again from there)
SCANNED_MOST = 1_000
_BATCH = 100


class Ignoring(Protocol):
    """Whom users ignore (``homeserver.sync.ignored.IgnoreLists`` is one)."""

    def known(self, user_nid: int) -> frozenset[str] | None:
        """Whom a user ignores, if it is in memory."""

    async def load(self, user_nid: int) -> frozenset[str]:
        """Whom a user ignores."""


class LoadSpan(Protocol):
    """Events in ``(low, high]``, at most so many."""

    def __call__(
        self, tx: Tx, room_nid: int, low: int, high: int, most: int, *, backwards: bool = False
    ) -> list[HistoryRow]: ...


class Names(Protocol):
    """Which names pass."""

    def accepts(self, name: str) -> bool:
        """Whether this one does."""


class Filter(Protocol):
    """Which events a reader wants (``homeserver.sync.filters.EventFilter`` is one)."""

    @property
    def limit(self) -> int: ...
    @property
    def lazy(self) -> bool: ...
    @property
    def everything(self) -> bool: ...
    @property
    def rooms(self) -> Names: ...

    def accepts(self, event_type: str, sender: str, has_url: bool = False) -> bool:
        """Whether an event passes."""


@dataclass(frozen=True, slots=True)
class Archive:
    """Memory for what never changes, shared by all who read."""

    facts: StateFacts
    client_events: ClientEventCache


@dataclass(frozen=True, slots=True)
class Asker:
    """Who reads, when, and by what their device knows what they sent lately (event id -> transaction key)."""

    sight: Sight
    now_ms: int
    sent: Mapping[str, str]
    user_nid: int = 0
    ignored: frozenset[str] = frozenset()  # whose events do not count among what relates to others


class Found(NamedTuple):
    """An event that the reader may see."""

    row: HistoryRow
    event: ClientEvent
    membership: Membership


@dataclass(frozen=True, slots=True)
class Scanned:
    """Part of a history, in the order of the search."""

    found: list[Found]
    edge: int | None  # the point to go on from; None where there is nothing beyond
    end: int = 0  # where there is nothing beyond: the point up to which was searched
    gap_top: int | None = None  # as ``HistoryRow`` has it


def find_seen(tx: Tx, archive: Archive, sight: Sight, rows: Sequence[HistoryRow]) -> list[Found]:
    """Those of some events that the reader may see."""
    views = look(tx, sight.reader, rows, archive.facts)
    redacted = {row.nid: row.redacted_by for row, view in zip(rows, views, strict=True) if view is not None}
    if not redacted:
        return []
    events = load_seen(tx, redacted, archive.client_events)
    events = veil(tx, events, sight.reader.member_key, archive.facts, archive.client_events)
    return [
        Found(row, events[row.nid], view)
        for row, view in zip(rows, views, strict=True)
        if view is not None and row.nid in events
    ]


_NOBODY: frozenset[str] = frozenset()


def scan(
    tx: Tx,
    archive: Archive,
    sight: Sight,
    low: int,
    high: int,
    limit: int,
    wanted: Filter | None,
    *,
    backwards: bool,
    ignored: frozenset[str] = _NOBODY,
    load: LoadSpan = load_span,
) -> Scanned:
    """At most ``limit`` events in ``(low, high]`` that the reader may see and wants, of those that ``load`` finds.

    ``ignored``: whose messages the reader does not want to see.
    """
    found: list[Found] = []
    scanned = 0
    wants_all = not ignored and (wanted is None or wanted.everything)
    while True:
        # One more than needed tells whether anything lies beyond.
        most = limit - len(found) + 1
        if scanned or not wants_all:
            most = max(most, _BATCH)
        rows = load(tx, sight.room_nid, low, high, most, backwards=backwards)
        ended = len(rows) < most
        if not ended:
            rows.pop()
        gap_top = rows[0].gap_top if rows else None
        seen = find_seen(tx, archive, sight, rows)
        if wants_all and len(found) + len(rows) <= limit:
            found += seen
        else:
            by_nid = {one.row.nid: one for one in seen}
            for place, row in enumerate(rows):
                if len(found) >= limit:
                    edge = _edge(rows[place - 1], backwards) if place else high if backwards else low
                    return Scanned(found, edge, gap_top=gap_top)
                one = by_nid.get(row.nid)
                if one is not None and _wants(wanted, one.event) and not _is_hidden(one.event, ignored):
                    found.append(one)
        edge = _edge(rows[-1], backwards) if rows else high if backwards else low
        if ended:
            return Scanned(found, None, edge, gap_top)
        scanned += len(rows)
        if len(found) >= limit or scanned >= SCANNED_MOST:
            return Scanned(found, edge, gap_top=gap_top)
        low, high = (low, edge) if backwards else (edge, high)


def before_all(found: Sequence[Found]) -> int:
    """The point before the oldest of some events."""
    return min(one.row.pos for one in found if one.row.pos is not None) - 1


def _edge(row: HistoryRow, backwards: bool) -> int:
    assert row.pos is not None
    return row.pos - 1 if backwards else row.pos


def _wants(wanted: Filter | None, event: ClientEvent) -> bool:
    return wanted is None or wanted.everything or wanted.accepts(event.type, event.sender, event.has_url)


def _is_hidden(event: ClientEvent, ignored: frozenset[str]) -> bool:
    # spec: client-server-api#ignoring-users (state events are shown all the same)
    return bool(ignored) and event.state_key is None and event.sender in ignored


def write_events(tx: Tx, archive: Archive, asker: Asker, found: Sequence[Found]) -> list[bytes]:
    """The events as bytes, each with its unsigned members."""
    now_ms, sent, room_id, user_id = asker.now_ms, asker.sent, asker.sight.room_id, asker.sight.reader.user_id
    replaced = _find_replaced(tx, archive, asker.sight, found)
    related = _find_related(tx, archive, asker, found)
    written: list[bytes] = []
    plain = PlainEvents(room_id, now_ms)
    for one in found:
        event = one.event
        nid = one.row.nid
        key = sent.get(event.event_id) if event.sender == user_id else None
        known = sent_as(key, event) if key is not None else b""
        if nid not in replaced and nid not in related and not event.because and not event.sticky_ms:
            # Nearly every event of a page: of it is said its age, the reader's membership, and by what they know it.
            written.append(plain.render(event, one.membership, known))
            continue
        previous, hidden = replaced.get(nid, (None, False))
        unsigned = unsigned_members(
            event,
            now_ms,
            membership=one.membership,
            previous=previous,
            sent_as=known,
            hide_previous=hidden,
            relations=related.get(nid, b""),
        )
        written.append(event.render(unsigned, room_id))
    return written


def _find_related(tx: Tx, archive: Archive, asker: Asker, found: Sequence[Found]) -> dict[int, bytes]:
    """What relates to some events, summed up."""
    sight = asker.sight
    viewer = Viewer(sight.reader, asker.user_nid, asker.ignored, sight.upto, asker.now_ms)
    events = {one.row.nid: one.event for one in found if one.row.related}
    if not events:
        return {}
    room_ids = dict.fromkeys(events, sight.room_id)
    return load_bundles(tx, viewer, room_ids, events, archive.facts, archive.client_events)


def _find_replaced(
    tx: Tx, archive: Archive, sight: Sight, found: Sequence[Found]
) -> dict[int, tuple[ClientEvent, bool]]:
    """The state events that some events replaced, and whether the reader may not see what they said."""
    states = {one.row.nid: one.row for one in found if one.row.state_key_nid}
    if not states:
        return {}
    before = archive.facts.snapshots(tx, {row.state_before or 0 for row in states.values()})
    replaced = {nid: before[row.state_before or 0].get(row.state_key_nid) for nid, row in states.items()}
    previous_nids = {nid for nid in replaced.values() if nid}
    if not previous_nids:
        return {}
    rows = load_history_rows(tx, previous_nids)
    events = load_seen(tx, {nid: row.redacted_by for nid, row in rows.items()}, archive.client_events)
    events = veil(tx, events, sight.reader.member_key, archive.facts, archive.client_events)
    ordered = list(rows.values())
    views = look(tx, sight.reader, ordered, archive.facts)
    # What is said of somebody they may know.
    own = sight.reader.member_key
    hidden = {
        row.nid: view is None and row.state_key_nid != own for row, view in zip(ordered, views, strict=True)
    }
    return {
        nid: (events[previous_nid], hidden[previous_nid])
        for nid, previous_nid in replaced.items()
        if previous_nid in events
    }


def write_senders(tx: Tx, archive: Archive, asker: Asker, found: Sequence[Found]) -> list[bytes]:
    """The membership events of those who sent some events, as they were at these.

    # spec: client-server-api#lazy-loading-room-members
    """
    missing = find_member_keys(tx, {one.event.sender for one in found})
    nids: list[int] = []
    snapshot_nids = dict.fromkeys(one.row.state_before or 0 for one in found)
    snapshots = archive.facts.snapshots(tx, snapshot_nids)
    for snapshot_nid in snapshot_nids:
        snapshot = snapshots[snapshot_nid]
        for user_id, key_nid in list(missing.items()):
            if nid := snapshot.get(key_nid):
                nids.append(nid)
                del missing[user_id]
    return write_state(tx, archive, asker, nids)


def write_state(
    tx: Tx, archive: Archive, asker: Asker, nids: Collection[int], wanted: Filter | None = None
) -> list[bytes]:
    """State events as bytes."""
    member_key = asker.sight.reader.member_key
    events = load_veiled(tx, nids, member_key, archive.facts, archive.client_events)
    room_id, now_ms = asker.sight.room_id, asker.now_ms
    return [
        event.render(unsigned_members(event, now_ms), room_id)
        for nid in nids
        if (event := events.get(nid)) is not None and _wants(wanted, event)
    ]
