"""What relates to events of the log, as far as the log itself tells: without SQL.

An event that is news to a client can hardly have been related to before; what came with it in the same answer counts.
(Where servers disagree about the order, an event may come after what relates to it: the client has had that already.)

# spec: client-server-api#aggregations-of-child-events
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homeserver.store.bundles import REFERENCES_MOST, Thread, bundle, may_be_edited, may_have_thread
from homeserver.store.client_events import ClientEvent
from homeserver.store.placement import Membership, Placement
from homeserver.store.relation import relation_of
from homeserver.store.relations import IN_THREAD, REFERENCE, REPLACE, is_replacement
from homeserver.store.unsigned import unsigned_members

_KINDS = (REPLACE, REFERENCE, IN_THREAD)


@dataclass(frozen=True, slots=True)
class Related:
    """The children of one event, oldest first."""

    edits: Sequence[ClientEvent]
    references: Sequence[ClientEvent]
    in_thread: Sequence[ClientEvent]
    senders: frozenset[str]


def find_children(placements: Sequence[Placement]) -> dict[str, list[Placement]]:
    """What relates to what among some events, by the parent's id; for nearly all, one look at each."""
    found: dict[str, list[Placement]] = {}
    for placed in placements:
        if "m.relates_to" not in placed.event.content:
            continue
        relation = relation_of(placed.event.content)
        if relation is not None and relation[0] in _KINDS:
            found.setdefault(relation[1], []).append(placed)
    if found:
        here = {placed.event.event_id for placed in placements}
        found = {parent_id: children for parent_id, children in found.items() if parent_id in here}
    return found


def find_related(
    children: Mapping[str, Sequence[Placement]], events: Mapping[int, ClientEvent]
) -> dict[str, Related]:
    """The children by their parent's id. ``events``: parents and children as they are seen now, by nid."""
    by_id = {event.event_id: event for event in events.values()}
    found: dict[str, Related] = {}
    for parent_id, placements in children.items():
        parent = by_id.get(parent_id)
        if parent is None or parent.state_key is not None:
            continue
        seen = [(placed, events[placed.nid]) for placed in placements if placed.nid in events]
        # What is redacted relates to nothing any more.
        told = [(placed, event) for placed, event in seen if event.relation is not None]
        related = Related(
            [event for placed, event in told if _replaces(placed, parent)],
            [event for _, event in told if _is(event, REFERENCE)],
            [event for _, event in told if _is(event, IN_THREAD) and may_have_thread(parent)],
            frozenset(event.sender for _, event in told),
        )
        if related.edits or related.references or related.in_thread:
            found[parent_id] = related
    return found


def _is(event: ClientEvent, rel_type: str) -> bool:
    return event.relation is not None and event.relation[0] == rel_type


def _replaces(placed: Placement, parent: ClientEvent) -> bool:
    # spec: client-server-api#validity-of-replacement-events
    event = placed.event
    relation = relation_of(event.content)
    return (
        relation is not None
        and relation[0] == REPLACE
        and may_be_edited(parent)
        and (event.sender, event.type) == (parent.sender, parent.type)
        and is_replacement(event.type, event.state_key, event.content)
    )


@dataclass(frozen=True, slots=True)
class Relations:
    """The relationships of a room's news; ``find`` gives those of an event as one reader is told of them."""

    room_id: str
    now_ms: int
    by_parent: Mapping[str, Related]

    def differs(self, event_id: str, ignored: frozenset[str]) -> bool:
        """Whether a reader is told something else than others: of threads, and of whom they ignore."""
        related = self.by_parent.get(event_id)
        if related is None:
            return False
        if related.in_thread:
            return True
        return bool(ignored) and not ignored.isdisjoint(related.senders)

    def find(self, event: ClientEvent, user_id: str, ignored: frozenset[str]) -> bytes:
        """The member ``m.relations`` of an event, or nothing."""
        related = self.by_parent.get(event.event_id)
        if related is None:
            return b""
        edits = [one for one in related.edits if one.sender not in ignored]
        latest = max(edits, key=lambda one: (one.ts_ms, one.event_id), default=None)
        references = [one.event_id for one in related.references if one.sender not in ignored]
        in_thread = [one for one in related.in_thread if one.sender not in ignored]
        thread: Thread | None = None
        if in_thread:
            newest = in_thread[-1]
            # Nothing in a thread is the root of another, so this ends.
            nested = self.find(newest, user_id, ignored)
            participated = user_id in (event.sender, *(one.sender for one in in_thread))
            thread = Thread(self._write(newest, nested), len(in_thread), participated)
        edit = self._write(latest, b"") if latest is not None else None
        return bundle(edit, references[-REFERENCES_MOST:], thread)

    def _write(self, event: ClientEvent, relations: bytes) -> bytes:
        unsigned = unsigned_members(event, self.now_ms, membership=Membership.JOIN, relations=relations)
        return event.render(unsigned, self.room_id)
