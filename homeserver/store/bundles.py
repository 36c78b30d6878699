"""What relates to an event, summed up in its ``unsigned`` for one reader: its latest edit, its references, its thread.

Events of the tables are looked up many at once: one statement for a page to which nothing relates, at most two more for
any other, and the same again for the newest events of its threads. Events of the log come with what the log has on them
(``sync.shared``).

# spec: client-server-api#aggregations-of-child-events
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from homeserver.db.tx import Ask, Tx
from homeserver.store.client_events import ClientEvent, ClientEventCache, load_seen
from homeserver.store.placement import Membership
from homeserver.store.relations import (
    IN_THREAD,
    REFERENCE,
    REPLACE,
    Child,
    Count,
    ask_counts,
    find_user_nids,
    load_candidates,
    load_counts,
    load_in_threads,
)
from homeserver.store.unsigned import unsigned_members
from homeserver.store.veil import find_hidden
from homeserver.store.visibility_reads import Reader, StateFacts, look

# LIMIT(the answer grows with what others send): so many references of an event are listed, the newest.
REFERENCES_MOST = 100
# LIMIT(one statement): of so many of the newest edits, and of the users last seen in a thread, one must be visible.
_EDITS_MOST = 10
_SENDERS_MOST = 3
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Viewer:
    """In whose eyes, and when."""

    reader: Reader
    user_nid: int
    ignored: frozenset[str]
    upto: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class Thread:
    """An event's thread."""

    latest: bytes
    count: int
    participated: bool


def bundle(edit: bytes | None, references: Sequence[str], thread: Thread | None) -> bytes:
    """The member ``m.relations``; nothing where there is nothing in it."""
    parts: list[bytes] = []
    if edit is not None:
        # spec: client-server-api#server-side-aggregation-of-mreplace-relationships
        parts.append(b'"m.replace":' + edit)
    if references:
        # spec: client-server-api#server-side-aggregation-of-mreference
        parts.append(b'"m.reference":' + _encode({"chunk": [{"event_id": one} for one in references]}))
    if thread is not None:
        # spec: client-server-api#server-side-aggregation-of-mthread-relationships
        participated = b"true" if thread.participated else b"false"
        parts.append(
            b'"m.thread":{"latest_event":%b,"count":%d,"current_user_participated":%b}'
            % (thread.latest, thread.count, participated)
        )
    return b'"m.relations":{' + b",".join(parts) + b"}" if parts else b""


def may_be_edited(event: ClientEvent) -> bool:
    """Whether an edit of this event counts. What was redacted stays so, whatever was to take its place."""
    # spec: client-server-api#validity-of-replacement-events
    is_edit = event.relation is not None and event.relation[0] == REPLACE
    return event.state_key is None and not is_edit and not event.redacted_by


def may_have_thread(event: ClientEvent) -> bool:
    """Whether an event can be the root of a thread."""
    # spec: client-server-api#threading (no root is itself the child of an event)
    return event.state_key is None and event.relation is None


def load_bundles(
    tx: Tx,
    viewer: Viewer,
    room_ids: Mapping[int, str],
    events: Mapping[int, ClientEvent],
    facts: StateFacts,
    cache: ClientEventCache,
) -> dict[int, bytes]:
    """The bundles of those events that have one. ``room_ids``: the room's id of each event."""
    # spec: client-server-api#aggregations-of-child-events (state events have none)
    nids = _may_have(events)
    counts = load_counts(tx, nids, viewer.upto) if nids else []
    if not counts:
        return {}
    ignored = find_user_nids(tx, viewer.ignored) if viewer.ignored else set()
    counts = _drop_erased(tx, viewer, counts, facts)
    work = _Work(viewer, events, [one for one in counts if one.sender_nid not in ignored])
    children = [one for one in _load_children(tx, work) if one.sender_nid not in ignored]
    hidden = _find_hidden(tx, viewer, children, facts)
    children = [one for one in children if one.row.nid not in hidden]
    _look(tx, work, children, facts, cache)
    latest = {nid: work.children[nid] for nid in work.latest.values() if nid in work.children}
    inner = {nid: room_ids[root_nid] for root_nid, nid in work.latest.items()}
    # What is in a thread has none of its own, so this ends.
    nested = load_bundles(tx, viewer, inner, latest, facts, cache)
    found = {nid: _write(work, nid, room_ids[nid], nested) for nid in events if nid in work.parents}
    return {nid: data for nid, data in found.items() if data}


def _drop_erased(tx: Tx, viewer: Viewer, counts: list[Count], facts: StateFacts) -> list[Count]:
    """Without what erased users have in threads, where the viewer is shown none of it.

    LIMIT(one statement: for a viewer who was away, their newest event there decides for all of them)
    """
    erased = facts.erased.by_nid
    doubted = {
        (one.parent_nid, one.newest)
        for one in counts
        if one.rel_type == IN_THREAD and erased and one.sender_nid in erased
    }
    if not doubted:
        return counts
    found = load_in_threads(tx, {nid for nid, _ in doubted}, sorted({pos for _, pos in doubted}))
    newest = [one for one in found if (one.parent_nid, one.row.pos) in doubted]
    hidden = _find_hidden(tx, viewer, newest, facts)
    gone = {(one.parent_nid, one.row.pos) for one in newest if one.row.nid in hidden}
    return [one for one in counts if (one.parent_nid, one.newest) not in gone]


def _find_hidden(tx: Tx, viewer: Viewer, children: Sequence[Child], facts: StateFacts) -> set[int]:
    """The children that the viewer would be shown redacted: these relate to nothing."""
    erased = facts.erased.by_nid
    suspects = {one.row.nid: erased[one.sender_nid] for one in children if one.sender_nid in erased}
    key = viewer.reader.member_key
    return find_hidden(tx, suspects, lambda _: [key] if key else [], facts) if suspects else set()


def _may_have(events: Mapping[int, ClientEvent]) -> list[int]:
    return [nid for nid, event in events.items() if event.state_key is None]


def ask_whether(events: Mapping[int, ClientEvent], upto: int) -> list[Ask]:
    """What :func:`load_bundles` asks first, if anything."""
    nids = _may_have(events)
    return [ask_counts(nids, upto)] if nids else []


@dataclass(slots=True)
class _Work:
    """Bundles on their way."""

    viewer: Viewer
    events: Mapping[int, ClientEvent]
    counts: Sequence[Count]
    parents: set[int] = field(default_factory=set)
    threads: dict[int, list[Count]] = field(default_factory=dict)  # who wrote there, the newest first
    edits: dict[int, int] = field(default_factory=dict)  # parent -> its latest edit
    references: dict[int, list[str]] = field(default_factory=dict)
    latest: dict[int, int] = field(default_factory=dict)  # root -> the newest event of its thread
    children: dict[int, ClientEvent] = field(default_factory=dict)
    memberships: dict[int, Membership] = field(default_factory=dict)  # the reader's at these children

    def __post_init__(self) -> None:
        self.parents = {one.parent_nid for one in self.counts}
        for one in sorted(self.counts, key=lambda one: one.newest, reverse=True):
            if one.rel_type == IN_THREAD and may_have_thread(self.events[one.parent_nid]):
                self.threads.setdefault(one.parent_nid, []).append(one)


def _load_children(tx: Tx, work: _Work) -> list[Child]:
    """Whatever may be told of children; edits and references oldest first, events of threads newest first."""
    plain = {
        one.parent_nid
        for one in work.counts
        if one.rel_type == REFERENCE
        or (one.rel_type == REPLACE and may_be_edited(work.events[one.parent_nid]))
    }
    found: list[Child] = []
    if plain:
        found += load_candidates(tx, plain, work.viewer.upto, _EDITS_MOST, REFERENCES_MOST)
    if work.threads:
        newest = {(nid, one.newest) for nid, counts in work.threads.items() for one in counts[:_SENDERS_MOST]}
        in_threads = load_in_threads(tx, work.threads, sorted({pos for _, pos in newest}))
        found += [one for one in in_threads if (one.parent_nid, one.row.pos) in newest]
    return found


def _look(tx: Tx, work: _Work, children: Sequence[Child], facts: StateFacts, cache: ClientEventCache) -> None:
    """Keep what the reader may see of the children."""
    views = look(tx, work.viewer.reader, [one.row for one in children], facts)
    seen = [(one, view) for one, view in zip(children, views, strict=True) if view is not None]
    latest_edits: dict[int, Child] = {}
    for child, view in seen:
        parent_nid, nid = child.parent_nid, child.row.nid
        if child.rel_type == REFERENCE:
            work.references.setdefault(parent_nid, []).append(child.event_id)
        elif child.rel_type == IN_THREAD:
            if parent_nid not in work.latest:
                work.latest[parent_nid] = nid
                work.memberships[nid] = view
        elif may_be_edited(work.events[parent_nid]):
            # spec: client-server-api#server-side-aggregation-of-mreplace-relationships (which is the latest)
            before = latest_edits.get(parent_nid)
            if before is None or (before.ts_ms, before.event_id) < (child.ts_ms, child.event_id):
                latest_edits[parent_nid] = child
                work.memberships[nid] = view
    work.edits = {parent_nid: child.row.nid for parent_nid, child in latest_edits.items()}
    told = [*work.edits.values(), *work.latest.values()]
    work.children = load_seen(tx, dict.fromkeys(told, 0), cache) if told else {}


def _write(work: _Work, nid: int, room_id: str, nested: Mapping[int, bytes]) -> bytes:
    viewer = work.viewer

    def written(child_nid: int | None) -> bytes | None:
        child = work.children.get(child_nid) if child_nid is not None else None
        if child is None:
            return None
        unsigned = unsigned_members(
            child,
            viewer.now_ms,
            membership=work.memberships[child.nid],
            relations=nested.get(child.nid, b""),
        )
        return child.render(unsigned, room_id)

    thread: Thread | None = None
    latest = written(work.latest.get(nid))
    if latest is not None:
        counts = work.threads[nid]
        participated = work.events[nid].sender == viewer.reader.user_id or any(
            one.sender_nid == viewer.user_nid for one in counts
        )
        thread = Thread(latest, sum(one.children for one in counts), participated)
    return bundle(written(work.edits.get(nid)), work.references.get(nid, ()), thread)
