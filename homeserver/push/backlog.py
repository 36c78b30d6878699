"""The part of counting that needs the database: one read unit, which also evaluates, away from the reactor."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace

from federation.event import Event
from homeserver.db.tx import Tx
from homeserver.push.conditions import EventView, FactMissing, Facts
from homeserver.push.readers import Reader
from homeserver.push.rules import NOTHING, Actions
from homeserver.store.events import load_redactions
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.receipts import MAIN, UNTHREADED, Mark, find_thread, relation_of
from homeserver.store.unread import Stand, find_joining, load_joined, load_power, load_unread


@dataclass(frozen=True, slots=True)
class Backlog:
    """Whose unread notifications of which room, and what is known already."""

    room_nid: int
    reader: Reader
    facts: Facts
    create_key: int
    power_key: int
    member_event_nid: int  # the reader's membership event
    member_pos: int  # and where it stands
    moves: int  # of the room, when this was asked


@dataclass(slots=True)
class Found:
    """What notifies, as (position, thread, highlighted), and where the reader's own messages stand."""

    facts: Facts
    joined_pos: int  # nothing up to here is unread
    notifying: list[tuple[int, str, bool]] = field(default_factory=list)
    own: list[tuple[int, str]] = field(default_factory=list)
    threads: dict[int, str] = field(default_factory=dict)  # by event nid, where that took a look-up


def load_backlog(
    tx: Tx, ask: Backlog, marks: Sequence[Mark], upto: int, most: int, cache: EventCache
) -> Found:
    """Evaluate what is unread of a room up to a position, given the reader's receipts there."""
    everything = max((mark.pos for mark in marks if mark.thread == UNTHREADED), default=0)
    main = max((mark.pos for mark in marks if mark.thread == MAIN), default=0)
    joined_pos = ask.member_pos
    if joined_pos > everything:
        joined_pos = find_joining(tx, ask.room_nid, joined_pos, ask.member_event_nid, cache)
    found = Found(replace(ask.facts), joined_pos)
    if found.facts.joined is None:
        # Nearly every set of rules asks for it, as soon as there is a message.
        found.facts.joined = load_joined(tx, ask.room_nid)
    stands = load_unread(tx, ask.room_nid, max(everything, joined_pos), main, upto, most)
    redacted = load_redactions(tx, [stand.nid for stand in stands]) if stands else {}
    _evaluate_all(tx, ask, stands, found, cache, redacted)
    return found


def load_missing(tx: Tx, ask: Backlog, nids: Sequence[int], cache: EventCache) -> Found:
    """Learn what it takes to evaluate some events."""
    found = Found(replace(ask.facts), ask.member_pos)
    _evaluate_all(tx, ask, [Stand(0, nid) for nid in nids], found, cache)
    return found


def _evaluate_all(
    tx: Tx,
    ask: Backlog,
    stands: Sequence[Stand],
    found: Found,
    cache: EventCache,
    redacted: Container[int] = (),
) -> None:
    events = load_events(tx, [stand.nid for stand in stands], cache) if stands else {}
    for pos, nid in stands:
        event = events[nid]
        if event.sender == ask.reader.user_id:
            thread = read_by_sending(event)
            if thread is not None:
                found.own.append((pos, thread))
            continue
        if nid in redacted or event.sender in ask.reader.ignored:
            continue
        actions = _evaluate(tx, ask, found.facts, EventView(event), cache)
        if not actions.notify:
            continue
        thread = own_thread(event)
        if thread is None:
            thread = found.threads[nid] = find_thread(tx, event, ask.room_nid, cache)[0]
        found.notifying.append((pos, thread, actions.highlight))


def _evaluate(tx: Tx, ask: Backlog, facts: Facts, view: EventView, cache: EventCache) -> Actions:
    rules = ask.reader.rules
    try:
        return rules.evaluate(view, facts)
    except FactMissing:
        _load_facts(tx, ask, facts, cache)
    try:
        return rules.evaluate(view, facts)
    except FactMissing:
        return NOTHING  # a room without a create event has no facts


def _load_facts(tx: Tx, ask: Backlog, facts: Facts, cache: EventCache) -> None:
    if facts.joined is None:
        facts.joined = load_joined(tx, ask.room_nid)
    if facts.power is None:
        facts.power = load_power(tx, ask.room_nid, ask.create_key, ask.power_key, cache)
    if facts.display_name is None:
        event = load_events(tx, [ask.member_event_nid], cache).get(ask.member_event_nid)
        name = event.content.get("displayname") if event is not None else None
        facts.display_name = name if isinstance(name, str) else ""


def own_thread(event: Event) -> str | None:
    """The thread that an event says itself that it is in; None where what it relates to must be asked."""
    if event.state_key is not None:
        return MAIN
    relation = relation_of(event.content)
    if relation is None:
        return MAIN
    return relation[1] if relation[0] == "m.thread" else None


def read_by_sending(event: Event) -> str | None:
    """The thread that somebody has read who sent this; None where it says nothing of that."""
    # spec: client-server-api#marking-notifications-as-read. State (a new display name) and what is put on one event
    # (a reaction, an edit) are no sign of having read what came between.
    if event.state_key is not None or event.type == "m.room.redaction":
        return None
    return own_thread(event)
