"""What came into a room since somebody asked for its unread notifications, and what rules say of it.

``_verdicts`` are parallel to ``items``: an event is evaluated once for all who have the same rules. Those can tell only
whom it names and whether they subscribed to its thread; of such an event a verdict holds for everybody else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred

from federation.auth.power import PowerLevels
from federation.event import Event
from homeserver.push.conditions import EventView, named_in, thread_root
from homeserver.push.entries import MOST, Entry
from homeserver.push.readers import Reader
from homeserver.push.rules import Actions, CompiledRules
from homeserver.store.parsed import EventCache
from homeserver.store.placement import Membership, Placement, StateMove
from homeserver.store.receipts import MAIN

_SLACK = 200
# LIMIT(memory: eight bytes of each event for each of these sets of rules)
_RULES_MOST = 4
# LIMIT(memory: whom an event names outlives the event; what names more is evaluated for each)
_NAMED_MOST_CHARACTERS = 1_000


@dataclass(slots=True)
class Item:
    """An event of a room's newest."""

    pos: int
    nid: int
    event_id: str
    sender: str
    redacted: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What rules say of an event, and of whom they say it."""

    notify: bool
    highlight: bool
    thread: str  # "" where it does not notify
    named: frozenset[str] = frozenset()  # of these each is asked for alone
    in_thread: bool = False  # and so is who subscribes to threads

    @property
    def is_short(self) -> bool:
        """Whether it may be kept."""
        return sum(map(len, self.named)) <= _NAMED_MOST_CHARACTERS

    def holds_for(self, reader: Reader) -> bool:
        """Whether rules say the same to somebody else who has them."""
        return reader.user_id not in self.named and not (self.in_thread and reader.threads is not None)


# One object for nearly all events.
_COMMON = {one: one for one in (Verdict(False, False, ""), Verdict(True, False, MAIN))}


def make_verdict(actions: Actions, thread: str, view: EventView) -> Verdict:
    """What was found for somebody, of whom it need not hold as a verdict: ``holds_for``."""
    made = Verdict(actions.notify, actions.highlight, thread, named_in(view), thread_root(view) is not None)
    return _COMMON.get(made, made)


class Room:
    """What came into a room since somebody asked for it, and facts of it."""

    __slots__ = ("_judged", "_verdicts", "entries", "floor", "items", "joined", "loading", "moves", "power")

    def __init__(self, floor: int) -> None:
        self.floor = floor  # every event after it is among the items
        self.items: list[Item] = []
        self.joined: int | None = None
        self.power: PowerLevels | None = None
        self.moves = 0  # counts what may have changed a fact
        self.entries: dict[int, Entry] = {}
        self.loading: list[Deferred[None]] | None = None  # those who wait while facts are read
        self._verdicts: OrderedDict[CompiledRules, list[Verdict | None]] = OrderedDict()
        self._judged = 0  # the moves that the verdicts know of

    def verdicts(self, rules: CompiledRules) -> list[Verdict | None]:
        """What these rules say of each of the items, to be filled in by whoever asks; None: not evaluated."""
        if rules.by_name:
            # A display name is its owner's alone: nobody else is told what was found.
            return [None] * len(self.items)
        if self._judged != self.moves:
            self._verdicts.clear()
            self._judged = self.moves
        known = self._verdicts.get(rules)
        if known is None:
            known = self._verdicts[rules] = []
            if len(self._verdicts) > _RULES_MOST:
                self._verdicts.popitem(last=False)
        else:
            self._verdicts.move_to_end(rules)
        known += [None] * (len(self.items) - len(known))
        return known

    def note(self, placed: Placement, pos: int, events: EventCache) -> None:
        """An event came."""
        event = placed.event
        if not placed.idle:
            events.put(placed.nid, event)
            # Its redaction may have come before it.
            redacted = bool(placed.redacted_by)
            self._append(Item(pos, placed.nid, event.event_id, event.sender, redacted))
        if not placed.linear:
            self._note_moves(placed.moves)
        elif event.state_key is not None:
            self._note_state(event, placed, events)
        if placed.redacts_target is not None:
            self._note_redaction(placed.redacts_target)

    def _append(self, item: Item) -> None:
        self.items.append(item)
        if len(self.items) > MOST + _SLACK:
            self.keep_newest(MOST)

    def keep_newest(self, most: int) -> None:
        """Forget the other items: the entries of those who have not looked since are made anew when they do."""
        gone = len(self.items) - most
        if gone > 0:
            self.floor = self.items[gone - 1].pos
            del self.items[:gone]
            for verdicts in self._verdicts.values():
                del verdicts[:gone]

    def _note_moves(self, moves: Sequence[StateMove]) -> None:
        """A fork was resolved: what is known of the room's members and levels is asked for anew."""
        if not moves:
            return
        self.power = self.joined = None
        self.moves += 1
        for move in moves:
            entry = self.entries.get(move.member_nid)
            if entry is not None:
                entry.display_name = None
                if move.membership != Membership.JOIN:
                    del self.entries[move.member_nid]

    def _note_redaction(self, event_id: str) -> None:
        found = next((item for item in self.items if item.event_id == event_id), None)
        if found is not None:
            found.redacted = True
        for user_nid, entry in list(self.entries.items()):
            if entry.upto < 0:
                # Whether what is being read knows of it, nobody can say: count again when asked.
                del self.entries[user_nid]
            elif found is not None:
                entry.drop(found.pos)
            elif entry.oldest() <= self.floor:
                # It may be one of those that are known by position alone.
                del self.entries[user_nid]

    def _note_state(self, event: Event, placed: Placement, events: EventCache) -> None:
        if event.type in ("m.room.power_levels", "m.room.create"):
            self.power = None
            self.moves += 1
        elif placed.moves and placed.moves[0].member_nid:
            move = placed.moves[0]
            self.moves += 1
            before = events.get(placed.prev_nid) if placed.prev_nid else None
            if placed.prev_nid and before is None:
                self.joined = None
            elif self.joined is not None:
                was = before is not None and before.content.get("membership") == "join"
                self.joined += (move.membership == Membership.JOIN) - was
            entry = self.entries.get(move.member_nid)
            if entry is not None:
                entry.display_name = None
                if move.membership != Membership.JOIN:
                    del self.entries[move.member_nid]
