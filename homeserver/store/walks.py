"""Walks from events to those before them, with what the next server needs of each: its text and its place.

The graph is read a layer at a time and by the timeline: where history is a line, which is nearly always, one statement
brings in all that a walk will come by. No recursion; each walk visits a bounded number of events.

# spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from heapq import heappop, heappush
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import and_, bindparam, func, literal_column, select

from homeserver.db.schema.rooms import event_json, events, redactions, timeline
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.history import HistoryRow

# LIMIT(a history of rejected events, which are walked through and never shown): so many are looked at for nothing.
_SPARE = 200


class Link(NamedTuple):
    """An event as a walk sees it."""

    nid: int
    event_id: str
    depth: int
    rejected: bool
    pos: int | None
    state_key_nid: int
    state_before: int | None  # None: an outlier, which has no place in history
    redacted_by: int
    json: str

    def row(self) -> HistoryRow:
        """What decides who may see it."""
        return HistoryRow(self.pos, self.nid, self.state_key_nid, self.state_before, self.redacted_by)


_FROM = (
    events.join(event_json, event_json.c.nid == events.c.nid)
    .outerjoin(timeline, timeline.c.event_nid == events.c.nid)
    .outerjoin(redactions, redactions.c.target_id == events.c.event_id)
)
_COLUMNS = (
    events.c.nid,
    events.c.event_id,
    events.c.depth,
    events.c.rejected_reason.is_not(None),
    timeline.c.pos,
    func.coalesce(events.c.state_key_nid, literal_column("0")),
    events.c.state_before,
    func.coalesce(redactions.c.by_nid, literal_column("0")),
    event_json.c.json,
)
_BY_ID = statement(
    select(*_COLUMNS)
    .select_from(_FROM)
    .where(and_(any_of(events.c.event_id, "ids"), events.c.room_nid == bindparam("room_nid")))
)
_BEFORE = statement(
    select(*_COLUMNS)
    .select_from(
        timeline.join(events, events.c.nid == timeline.c.event_nid)
        .join(event_json, event_json.c.nid == events.c.nid)
        .outerjoin(redactions, redactions.c.target_id == events.c.event_id)
    )
    .where(and_(timeline.c.room_nid == bindparam("room_nid"), timeline.c.pos < bindparam("before")))
    .order_by(timeline.c.pos.desc())
    .limit(bindparam("most"))
)


class _Parents(msgspec.Struct):
    prev_events: list[Any]


_decode_parents = msgspec.json.Decoder(_Parents).decode


def parents_of(text: str) -> list[str]:
    """The ids of an event's prev_events, of whatever room version."""
    return [one if isinstance(one, str) else one[0] for one in _decode_parents(text).prev_events]


def load_links(tx: Tx, room_nid: int, event_ids: Collection[str]) -> dict[str, Link]:
    """Events of a room by id; unknown ones, and those of other rooms, are absent."""
    # An id with a NUL names nothing, and PostgreSQL cannot be asked for it.
    wanted = [event_id for event_id in event_ids if "\0" not in event_id]
    return {row[1]: Link(*row) for row in tx.all(_BY_ID, ids=wanted, room_nid=room_nid)}


class _Reader:
    """The events of one walk, each read once."""

    def __init__(self, tx: Tx, room_nid: int) -> None:
        self._tx = tx
        self._room_nid = room_nid
        self._known: dict[str, Link | None] = {}

    def load(self, event_ids: Iterable[str]) -> None:
        """Bring some events in, with one statement where one is not here yet."""
        missing = [event_id for event_id in dict.fromkeys(event_ids) if event_id not in self._known]
        if missing:
            found = load_links(self._tx, self._room_nid, missing)
            self._known.update({event_id: found.get(event_id) for event_id in missing})

    def load_before(self, links: Sequence[Link], most: int) -> None:
        """What the timeline holds just before some events."""
        places = [link.pos for link in links if link.pos is not None]
        if places:
            rows = self._tx.all(_BEFORE, room_nid=self._room_nid, before=max(places), most=most)
            self._known.update({row[1]: Link(*row) for row in rows})

    def get(self, event_id: str) -> Link | None:
        """An event that was loaded and has a place in history."""
        link = self._known.get(event_id)
        return link if link is not None and link.state_before is not None else None


def walk_by_depth(tx: Tx, room_nid: int, starts: Collection[str], most: int) -> list[Link]:
    """At most ``most`` events: the starts and what precedes them, the deepest first. Rejected ones are left out."""
    reader = _Reader(tx, room_nid)
    reader.load(starts)
    waiting = [link for event_id in dict.fromkeys(starts) if (link := reader.get(event_id)) is not None]
    reader.load_before(waiting, most)
    seen = {link.event_id for link in waiting}
    queue: list[tuple[int, int, Link]] = []
    for link in waiting:
        heappush(queue, (-link.depth, -link.nid, link))
    found: list[Link] = []
    looked = 0
    while queue and len(found) < most and looked < most + _SPARE:
        link = heappop(queue)[2]
        looked += 1
        if not link.rejected:
            found.append(link)
        parents = [parent for parent in parents_of(link.json) if parent not in seen]
        reader.load(parents)
        seen.update(parents)
        for parent in parents:
            before = reader.get(parent)
            if before is not None:
                heappush(queue, (-before.depth, -before.nid, before))
    return found


def walk_by_breadth(
    tx: Tx, room_nid: int, starts: Collection[str], stops: Collection[str], most: int, min_depth: int
) -> list[Link]:
    """At most ``most`` events that precede the starts, the nearest first, not beyond ``stops`` or ``min_depth``.

    Neither the starts nor the stops are in the answer, nor are rejected events.
    """
    reader = _Reader(tx, room_nid)
    reader.load(starts)
    layer = [link for event_id in dict.fromkeys(starts) if (link := reader.get(event_id)) is not None]
    reader.load_before(layer, most)
    seen = {*starts, *stops}
    found: list[Link] = []
    looked = 0
    waiting = deque(layer)
    while waiting and len(found) < most and looked < most + _SPARE:
        parents = [parent for parent in parents_of(waiting.popleft().json) if parent not in seen]
        reader.load(parents)
        seen.update(parents)
        for parent in parents:
            link = reader.get(parent)
            looked += 1
            if link is None or link.depth < min_depth:
                continue
            waiting.append(link)
            if not link.rejected and len(found) < most:
                found.append(link)
    return found
