"""The part of counting that needs the database: one read unit, which also evaluates, away from the reactor.

It is for many rooms of one user at once, in a number of statements that does not depend on how many there are, and
parses only what may notify:

1. Nothing up to the user's receipt for everything, and nothing from before they joined.
2. Of what is not after their receipt for the main timeline, or their newest message there: only what relates to
   another event, for nothing else can be in a thread.
3. Of their own events before, only those as well; and nothing that was redacted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from federation.event import Event
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.tx import Tx
from homeserver.push.conditions import EventView, FactMissing, Facts
from homeserver.push.readers import Reader, ReaderAsk, load_reader
from homeserver.push.rules import NOTHING, Actions
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.receipts import MAIN, UNTHREADED, Mark, load_marks
from homeserver.store.relation import relation_of
from homeserver.store.unread import (
    Span,
    Stand,
    find_joinings,
    find_threads,
    load_joined,
    load_power,
    load_related,
    load_stands,
)

_REDACTION = WELL_KNOWN_TYPES["m.room.redaction"]
# How many of a user's newest events in a room are looked at for one of the main timeline.
_OWN_REACH = 3


@dataclass(frozen=True, slots=True)
class Backlog:
    """Which room's unread notifications, and what is known already."""

    room_nid: int
    facts: Facts
    member_event_nid: int  # the reader's membership event
    member_pos: int  # and where it stands
    moves: int  # of the room, when this was asked


@dataclass(slots=True)
class Found:
    """What notifies, as (position, thread, highlighted), and how far the reader has read."""

    facts: Facts
    marks: list[Mark] = field(default_factory=list)
    notifying: list[tuple[int, str, bool]] = field(default_factory=list)
    own: list[tuple[int, str]] = field(default_factory=list)  # where the reader's own messages stand
    threads: dict[int, str] = field(default_factory=dict)  # by event nid, where that took a look-up


@dataclass(slots=True)
class _Case:
    """One room while it is counted."""

    ask: Backlog
    found: Found
    stands: list[Stand] = field(default_factory=list)
    low: int = 0  # nothing up to here is unread
    main: int = 0  # and up to here nothing of the main timeline


def load_backlogs(
    tx: Tx,
    user_nid: int,
    who: Reader | ReaderAsk,
    asks: Sequence[Backlog],
    upto: int,
    most: int,
    cache: EventCache,
) -> tuple[Reader, list[Found]]:
    """Evaluate what is unread of some rooms up to a position: at most the newest ``most`` events of each."""
    reader = who if isinstance(who, Reader) else load_reader(tx, who)
    cases = {ask.room_nid: _case(ask, reader) for ask in asks}
    _find_read(tx, user_nid, reader, cases, cache)
    _find_stands(tx, user_nid, cases, upto, most, cache)
    unknown = [nid for nid, case in cases.items() if case.found.facts.joined is None]
    # Nearly every set of rules asks for it, as soon as there is a message.
    for nid, joined in load_joined(tx, unknown).items():
        cases[nid].found.facts.joined = joined
    _evaluate_all(tx, user_nid, reader, list(cases.values()), cache)
    return reader, [case.found for case in cases.values()]


def load_missing(
    tx: Tx, user_nid: int, reader: Reader, ask: Backlog, nids: Sequence[int], cache: EventCache
) -> Found:
    """Learn what it takes to evaluate some events."""
    case = _case(ask, reader)
    case.stands = [Stand(0, nid) for nid in nids]
    _evaluate_all(tx, user_nid, reader, [case], cache)
    return case.found


def _case(ask: Backlog, reader: Reader) -> _Case:
    return _Case(ask, Found(replace(ask.facts, user_id=reader.user_id, threads=reader.threads)))


# --- which events ----------------------------------------------------------------------------------------------


def _find_read(tx: Tx, user_nid: int, reader: Reader, cases: Mapping[int, _Case], cache: EventCache) -> None:
    """How far the reader has read."""
    for mark in load_marks(tx, user_nid, list(cases)):
        case = cases[mark.room_nid]
        case.found.marks.append(mark)
        if mark.thread == UNTHREADED:
            case.low = max(case.low, mark.pos)
        elif mark.thread == MAIN:
            case.main = max(case.main, mark.pos)
    unclear = {nid: case.ask.member_pos for nid, case in cases.items() if case.ask.member_pos > case.low}
    for nid, pos in find_joinings(tx, reader.user_id, unclear, cache).items():
        if pos > cases[nid].low:
            cases[nid].low = pos
            cases[nid].found.marks.append(Mark(nid, UNTHREADED, pos))


def _find_stands(
    tx: Tx, user_nid: int, cases: Mapping[int, _Case], upto: int, most: int, cache: EventCache
) -> None:
    """The events that may be unread."""
    spans = [Span(nid, max(case.low, case.main), upto) for nid, case in cases.items()]
    for nid, stands in load_stands(tx, [span for span in spans if span.low < upto], most).items():
        cases[nid].stands = stands
    own = {nid: _own_newest(case.stands, user_nid) for nid, case in cases.items()}
    events = load_events(tx, [stand.nid for stands in own.values() for stand in stands], cache)
    for nid, stands in own.items():
        sent = next((one.pos for one in stands if read_by_sending(events[one.nid]) == MAIN), 0)
        if sent:
            case = cases[nid]
            case.found.own.append((sent, MAIN))
            case.stands = [one for one in case.stands if one.pos > sent or one.may_be_in_thread]
    older = [
        Span(nid, case.low, case.main)
        for nid, case in cases.items()
        if case.low < case.main and len(case.stands) < most
    ]
    for nid, related in load_related(tx, older).items():
        case = cases[nid]
        case.stands = related[-(most - len(case.stands)) :] + case.stands


def _own_newest(stands: Sequence[Stand], user_nid: int) -> list[Stand]:
    """The newest of the reader's own messages, the newest first."""
    found: list[Stand] = []
    for stand in reversed(stands):
        if stand.sender_nid == user_nid and _may_read(stand):
            found.append(stand)
            if len(found) == _OWN_REACH:
                break
    return found


def _may_read(stand: Stand) -> bool:
    """Whether sending an event may say that its sender has read something; see ``read_by_sending``."""
    return not stand.is_state and stand.type_nid != _REDACTION


# --- evaluating ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    """An event for whose rules a fact was missing."""

    case: _Case
    stand: Stand
    view: EventView
    event: Event


def _evaluate_all(tx: Tx, user_nid: int, reader: Reader, cases: Sequence[_Case], cache: EventCache) -> None:
    nids = [stand.nid for case in cases for stand in case.stands if _matters(stand, user_nid)]
    events = load_events(tx, nids, cache) if nids else {}
    notifying: list[tuple[_Open, Actions]] = []
    unclear: list[_Open] = []
    for case in cases:
        for stand in case.stands:
            event = events.get(stand.nid)
            if event is None:
                continue
            if event.sender == reader.user_id:
                thread = read_by_sending(event)
                if thread is not None:
                    case.found.own.append((stand.pos, thread))
            elif not stand.redacted and event.sender not in reader.ignored:
                one = _Open(case, stand, EventView(event), event)
                try:
                    actions = reader.rules.evaluate(one.view, case.found.facts)
                except FactMissing:
                    unclear.append(one)
                    continue
                if actions.notify:
                    notifying.append((one, actions))
    if unclear:
        _load_facts(tx, {one.case.ask.room_nid: one.case for one in unclear}, cache)
        evaluated = [(one, _evaluate(reader, one)) for one in unclear]
        notifying += [each for each in evaluated if each[1].notify]
    _keep(tx, notifying, cache)


def _matters(stand: Stand, user_nid: int) -> bool:
    """Whether an event must be parsed. A redacted message still says that its sender had read what came before."""
    return _may_read(stand) if stand.sender_nid == user_nid else not stand.redacted


def _evaluate(reader: Reader, one: _Open) -> Actions:
    try:
        return reader.rules.evaluate(one.view, one.case.found.facts)
    except FactMissing:
        return NOTHING  # a room without a create event has no facts


def _load_facts(tx: Tx, cases: Mapping[int, _Case], cache: EventCache) -> None:
    facts = {nid: case.found.facts for nid, case in cases.items()}
    fill_facts(tx, facts, {nid: case.ask.member_event_nid for nid, case in cases.items()}, cache)


def fill_facts(
    tx: Tx, facts: Mapping[int, Facts], member_event_nids: Mapping[int, int], cache: EventCache
) -> None:
    """All that rules may ask of some rooms, as far as it is missing."""
    for nid, joined in load_joined(tx, [nid for nid, one in facts.items() if one.joined is None]).items():
        facts[nid].joined = joined
    unknown = [nid for nid, one in facts.items() if one.power is None]
    if unknown:
        for nid, power in load_power(tx, unknown, cache).items():
            facts[nid].power = power
    unnamed = {nid: member_event_nids[nid] for nid, one in facts.items() if one.display_name is None}
    events = load_events(tx, list(unnamed.values()), cache)
    for nid, event_nid in unnamed.items():
        event = events.get(event_nid)
        name = event.content.get("displayname") if event is not None else None
        facts[nid].display_name = name if isinstance(name, str) else ""


def _keep(tx: Tx, notifying: Sequence[tuple[_Open, Actions]], cache: EventCache) -> None:
    """Sort what notifies into threads."""
    threads = {one.stand.nid: own_thread(one.event) for one, _ in notifying}
    asked = {
        one.stand.nid: (one.case.ask.room_nid, one.event)
        for one, _ in notifying
        if threads[one.stand.nid] is None
    }
    looked_up = find_threads(tx, asked, cache) if asked else {}
    for one, actions in notifying:
        nid, found = one.stand.nid, one.case.found
        thread = threads[nid]
        if thread is None:
            thread = found.threads[nid] = looked_up[nid]
        found.notifying.append((one.stand.pos, thread, actions.highlight))
    for found in {id(one.case): one.case.found for one, _ in notifying}.values():
        found.notifying.sort()


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
