"""Events whose ancestors are missing: what to ask for, in which order, and what of the answers can be placed.

The way back from an event to what is known here, cheapest first:

1. ``get_missing_events`` between our newest events and it, again and again while that brings something;
2. where that ends before what is known: the parents themselves (``event``) and the state before each of them
   (``state_ids``), whatever of it is not here in parallel (``event``) or as a whole (``state``);
3. what authorises all of these (``event_auth``, ``event``).

An event that is to stand *aside*, outside of the graph, needs only the third (``authorise``).

The verdict is a ``Filled``: outliers, parents first, then steps in order, each placed on the ones before it and, where
history stays missing, on a state that another server told. Nobody is believed more than the specification wants: each
event stands by its own auth events and by the rules, and a told state meets ours in state resolution.

MUSTs: 1. whatever is answered, the flow ends, within its budget; 2. it waits for nothing and loops on no clock;
3. nothing here recurses: circles and self-references are left out (see order.py).

# spec: server-server-api#backfilling-and-retrieving-missing-events
# spec: server-server-api#retrieving-event-authorisation-information
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from federation.event import MAX_AUTH_EVENTS, MAX_PREV_EVENTS, Event
from federation.flows.needs import (
    Known,
    Limits,
    NeedAuthChain,
    NeedEvents,
    NeedKnown,
    NeedMissing,
    NeedState,
    NeedStateIds,
    RoomNeed,
    StateIds,
)
from federation.flows.order import auth_parents, in_order, prev_parents, reached
from federation.ids import EventId

# LIMIT(other servers answer with at most so many; asking for more makes no difference)
MISSING_AT_ONCE: Final = 20
_LATEST_MOST: Final = 20
_SMALL: Final = Limits(16 * 1024 * 1024, 20.0, 4)
_LARGE: Final = Limits(32 * 1024 * 1024, 60.0, 2)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one flow may cost."""

    ancestors: int = 400
    """Events between what was sent and what is known."""
    rounds: int = 20
    """Requests for those."""
    ends: int = 10
    """Missing parents that are fetched by themselves, and states that are asked for."""
    state: int = 100_000
    """Ids in a state and its auth chain."""
    outliers: int = 20_000
    """Events of states and auth chains that are fetched."""
    bulk: int = 100
    """Beyond so many missing events of a state it is asked for as a whole."""
    chains: int = 5
    """Auth chains that are asked for as a whole, and rounds for what still lacks."""
    small: Limits = _SMALL
    large: Limits = _LARGE


@dataclass(frozen=True, slots=True)
class Start:
    """What the flow is for, and where the room is."""

    wanted: tuple[Event, ...]
    extremities: tuple[EventId, ...]
    min_depth: int
    create: EventId | None = None
    """The create event of the room: a state without it is none."""
    lenient: bool = False
    """State events that nobody has are left out of a state, instead of the state being of no use."""


@dataclass(frozen=True, slots=True)
class Step:
    """An event to be placed on its parents; a state that was told stands for those that are missing."""

    event: Event
    told: tuple[EventId, ...] | None = None
    is_aside: bool = False  # it gets no place: its parents were not asked for


@dataclass(frozen=True, slots=True)
class Filled:
    """The verdict. Wanted events that are neither in ``steps`` nor in ``missing`` have a place already."""

    outliers: tuple[Event, ...]
    steps: tuple[Step, ...]
    missing: Mapping[EventId, str]
    """Wanted events that cannot be placed now, and why."""


Asking: TypeAlias = Generator[RoomNeed, Any, None]
DEFAULT_BUDGET: Final = Budget()


def receive(start: Start, budget: Budget = DEFAULT_BUDGET) -> Generator[RoomNeed, Any, Filled]:
    """See the module."""
    filling = Filling(start, budget)
    yield from filling.drop_placed()
    yield from filling.ask_between()
    yield from filling.ask_parents()
    yield from filling.ask_states()
    yield from filling.ask_chains()
    return filling.finish()


def authorise(start: Start, budget: Budget = DEFAULT_BUDGET) -> Generator[RoomNeed, Any, Filled]:
    """For events that stand aside: what authorises them, and nothing of what comes before them."""
    filling = Filling(start, budget)
    yield from filling.drop_placed()
    yield from filling.ask_chains()
    return filling.finish(aside=True)


class Filling:
    """What one flow has found so far."""

    def __init__(self, start: Start, budget: Budget) -> None:
        self._start = start
        self._budget = budget
        self._pool = {event.event_id: event for event in start.wanted}  # to be placed
        self._outliers: dict[EventId, Event] = {}
        self._states: dict[EventId, tuple[EventId, ...]] = {}  # told, before events of the pool
        self._looked: set[EventId] = set()
        self._stored: set[EventId] = set()
        self._placed: set[EventId] = set()

    # --- what is here --------------------------------------------------------------------------------

    def _look(self, event_ids: Iterable[EventId]) -> Asking:
        unknown = sorted(set(event_ids) - self._looked)
        if not unknown:
            return
        known: Known = yield NeedKnown(tuple(unknown))
        self._looked.update(unknown)
        self._stored |= known.stored
        self._placed |= known.placed

    def drop_placed(self) -> Asking:
        """Events that got their place meanwhile need nothing any more."""
        yield from self._look(self._pool)
        for event_id in [one for one in self._pool if one in self._placed]:
            del self._pool[event_id]

    def _missing_parents(self) -> Generator[RoomNeed, Any, list[EventId]]:
        parents = {parent for event in self._pool.values() for parent in event.prev_event_ids}
        parents -= self._pool.keys()
        yield from self._look(parents)
        return sorted(parent for parent in parents if parent not in self._placed)

    def _take(self, found: Sequence[Event], missing: Iterable[EventId], most: int) -> Asking:
        """Into the pool, what leads from missing parents to known ones; all else in an answer is ignored.

        So is what names more events than one that is sent may: it would cost a resolution of as many states, other servers
        refuse it, and only history is exempt.
        """
        # spec: server-server-api#get_matrixfederationv1backfillroomid
        new = {
            event.event_id: event
            for event in found
            if event.event_id not in self._pool
            and len(event.prev_event_ids) <= MAX_PREV_EVENTS
            and len(event.auth_event_ids) <= MAX_AUTH_EVENTS
        }
        yield from self._look(new)
        fresh = {event_id: event for event_id, event in new.items() if event_id not in self._placed}
        self._pool.update(reached(missing, fresh, prev_parents, most))

    # --- 1: between ----------------------------------------------------------------------------------

    def ask_between(self) -> Asking:
        """The events between what is known and what is wanted."""
        for _ in range(self._budget.rounds):
            missing = yield from self._missing_parents()
            left = self._budget.ancestors - len(self._pool)
            if not missing or left <= 0:
                return
            lacking = set(missing)
            children = [one for one in self._pool.values() if lacking.intersection(one.prev_event_ids)]
            children.sort(key=lambda event: (event.depth, event.event_id))
            before = len(self._pool)
            found: Sequence[Event] = yield NeedMissing(
                self._start.extremities[-_LATEST_MOST:],
                tuple(event.event_id for event in children[:_LATEST_MOST]),
                min(MISSING_AT_ONCE, left),
                self._start.min_depth,
                self._budget.small,
            )
            yield from self._take(found, missing, left)
            if len(self._pool) == before:
                return

    # --- 2: where history stays missing --------------------------------------------------------------

    def ask_parents(self) -> Asking:
        """The missing parents themselves: an event whose parents are all here has its state from them, not told."""
        missing = yield from self._missing_parents()
        if missing:
            wanted = tuple(missing[: self._budget.ends])
            found: Sequence[Event] = yield NeedEvents(wanted, self._budget.small)
            asked = set(wanted)
            yield from self._take([one for one in found if one.event_id in asked], wanted, len(wanted))

    def ask_states(self) -> Asking:
        """The state before each event that still has a missing parent."""
        missing = set((yield from self._missing_parents()))
        ends = [
            event
            for event in self._pool.values()
            if event.event_id not in self._states and missing.intersection(event.prev_event_ids)
        ]
        ends.sort(key=lambda event: (event.depth, event.event_id))
        for event in ends[: self._budget.ends]:
            answer: StateIds | None = yield NeedStateIds(event.event_id, self._budget.small)
            if answer is not None:
                yield from self._ask_state(event.event_id, answer)

    def give_up_stateless(self) -> Generator[RoomNeed, Any, bool]:
        """Events that still lack a parent and a state are not to be placed; whether there were any."""
        missing = set((yield from self._missing_parents()))
        lost = [
            event_id
            for event_id, event in self._pool.items()
            if event_id not in self._states and missing.intersection(event.prev_event_ids)
        ]
        for event_id in lost:
            del self._pool[event_id]
        return bool(lost)

    def _ask_state(self, event_id: EventId, answer: StateIds) -> Asking:
        every = {*answer.state, *answer.auth_chain}
        if len(every) > self._budget.state or event_id in every or not answer.state:
            return
        if self._start.create is not None and self._start.create not in answer.state:
            return
        yield from self._look(every)
        missing = self._lacking(every)
        if len(missing) > self._budget.outliers - len(self._outliers):
            return
        if len(missing) > self._budget.bulk:
            found: Sequence[Event] = yield NeedState(event_id, self._budget.large)
            self._keep(found, missing)
            missing = self._lacking(every)
        if missing:
            found = yield NeedEvents(tuple(missing), self._budget.small)
            self._keep(found, missing)
        self._states[event_id] = tuple(dict.fromkeys(answer.state))

    def _lacking(self, event_ids: Iterable[EventId]) -> list[EventId]:
        """Those that are not here, sorted. What is to be placed is here, and can be an outlier until then."""
        lacking: list[EventId] = []
        for event_id in sorted(set(event_ids) - self._stored - self._outliers.keys()):
            event = self._pool.get(event_id)
            if event is not None and event.is_state():
                self._outliers[event_id] = event
            else:
                lacking.append(event_id)
        return lacking

    def _keep(self, found: Iterable[Event], wanted: Iterable[EventId]) -> int:
        """Take wanted state events as outliers; how many that were."""
        asked = set(wanted)
        kept = 0
        for event in found:
            if event.event_id in asked and event.event_id not in self._outliers and event.is_state():
                self._outliers[event.event_id] = event
                kept += 1
        return kept

    # --- 3: what authorises all that -----------------------------------------------------------------

    def ask_chains(self) -> Asking:
        """Auth events that are missing, and theirs."""
        for number in range(self._budget.chains):
            missing = yield from self._missing_auth()
            if not missing:
                return
            lacking = set(missing)
            if number == 0:
                # One request brings the whole chain of an event.
                ends = [one for one in self._pool.values() if lacking.intersection(one.auth_event_ids)]
                for event in ends[: self._budget.chains]:
                    chain: Sequence[Event] = yield NeedAuthChain(event.event_id, self._budget.small)
                    yield from self._keep_chain(chain, missing)
                missing = yield from self._missing_auth()
            room = self._budget.outliers - len(self._outliers)
            found: Sequence[Event] = ()
            if missing and room > 0:
                found = yield NeedEvents(tuple(missing[:room]), self._budget.small)
            if not self._keep(found, missing) and number:
                return

    def _missing_auth(self) -> Generator[RoomNeed, Any, list[EventId]]:
        cited = {parent for event in self._outliers.values() for parent in event.auth_event_ids}
        cited.update(
            parent
            for event in self._pool.values()
            for parent in event.auth_event_ids
            if parent not in self._pool
        )
        yield from self._look(cited)
        missing = self._lacking(cited)
        return missing

    def _keep_chain(self, chain: Sequence[Event], missing: Iterable[EventId]) -> Asking:
        """Of a chain only what the missing events lead to: a server may send the whole world."""
        events = {event.event_id: event for event in chain}
        yield from self._look(events)
        new = {one: event for one, event in events.items() if one not in self._stored}
        room = self._budget.outliers - len(self._outliers)
        found = reached(missing, new, auth_parents, max(room, 0))
        self._keep(found.values(), found)

    # --- the verdict ---------------------------------------------------------------------------------

    def finish(self, *, aside: bool = False) -> Filled:
        """What can be placed; or, aside, what can be stored without a place."""
        outliers = in_order(self._outliers, auth_parents, lambda _, parent: parent in self._stored)
        here = self._stored.union(event.event_id for event in outliers)
        states = {event_id: state for event_id in self._states if (state := self._usable(event_id, here))}

        def parents(event: Event) -> Sequence[EventId]:
            if aside or event.event_id in states:
                return event.auth_event_ids
            return (*event.prev_event_ids, *event.auth_event_ids)

        def is_here(event: Event, parent: EventId) -> bool:
            if not aside and event.event_id not in states and parent in event.prev_event_ids:
                return parent in self._placed
            return parent in here

        ordered = in_order(self._pool, parents, is_here)
        steps = tuple(Step(event, states.get(event.event_id), aside) for event in ordered)
        done = {event.event_id for event in ordered}
        missing = {
            event_id: self._why(event, here)
            for event_id in (event.event_id for event in self._start.wanted)
            if (event := self._pool.get(event_id)) is not None and event_id not in done
        }
        return Filled(tuple(outliers), steps, missing)

    def _usable(self, event_id: EventId, here: set[EventId]) -> tuple[EventId, ...]:
        state = self._states[event_id]
        found = tuple(one for one in state if one in here)
        return found if self._start.lenient or len(found) == len(state) else ()

    def _why(self, event: Event, here: set[EventId]) -> str:
        if any(one not in here and one not in self._pool for one in event.auth_event_ids):
            return "what authorises it cannot be had"
        return "what comes before it cannot be had"
