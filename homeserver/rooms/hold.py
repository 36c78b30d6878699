"""What one turn knows of the events that others name: asked of the database once, kept up with what the turn places.

# spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from federation.auth.power import PowerLevels, parse_power_levels
from federation.auth.select import CREATE, MEMBER, POWER_LEVELS, StateKey, StateLookup, auth_keys_for
from federation.checks import lookup_of
from federation.event import Event
from federation.ids import EventId
from homeserver.db.tx import Tx
from homeserver.rooms.turn import Turn
from homeserver.store.known import Found, Known, StateRow, find_state_rows, load_known
from homeserver.store.placement import Place, Placement
from homeserver.store.state import Snapshot

# From so many on, names are looked up together.
_FEW = 8
# LIMIT(parents of rejected parents, and theirs)
_HIDDEN_MOST = 1_000


class AnsweredAlready(Exception):  # noqa: N818 (nothing is wrong)
    """What came was answered before; nothing of it was placed."""

    def __init__(self, answer: str) -> None:
        super().__init__("this was answered before")
        self.answer = answer


Earlier = Callable[[Tx], str | None]
"""Looks for what was answered before."""


class Hold:
    """Events by id, states by snapshot, for the length of a turn."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.found = Found()
        self._asked: set[str] = set()
        self._with_state: set[str] = set()
        self._powers: dict[int, PowerLevels] = {}
        for one in turn.head.extremities:
            event = turn.tools.events.get(one.nid)
            if event is not None:
                self._keep(one.reference.event_id, Known(one.nid, event, False, True, one.after))
        for found in turn.warm.values():
            if found is not None and found[1].event_id not in self._asked:
                self.found.known[found[1].event_id] = Known(found[0], found[1], False, True, None)
                self._asked.add(found[1].event_id)
        for placed in turn.unstored():
            self.note(placed)

    # --- events --------------------------------------------------------------------------------------

    def note(self, placed: Placement) -> None:
        """An event that the database does not know yet."""
        event_id = placed.event.event_id
        has_state = placed.place is not Place.OUTLIER
        self.found.known[event_id] = Known(
            placed.nid,
            placed.event,
            placed.rejected is not None,
            placed.place in (Place.TIMELINE, Place.HISTORY),
            placed.state_after if has_state else None,
        )
        self.found.outliers.discard(event_id)
        if not has_state:
            self.found.outliers.add(event_id)
        if placed.awaits_target and placed.event.redacts is not None:
            self.found.redactions.setdefault(placed.event.redacts, []).append(placed.nid)
        self._asked.add(event_id)
        self._with_state.add(event_id)

    async def load(
        self,
        new_ids: Collection[str],
        parent_ids: Collection[str],
        other_ids: Collection[str],
        earlier: Earlier | None = None,
    ) -> None:
        """Ask for what is not known yet.

        ``earlier`` is asked in the same unit of work; raises ``AnsweredAlready`` where it finds something.
        """
        turn = self.turn
        new = [one for one in new_ids if one not in self._with_state]
        parents = [one for one in parent_ids if one not in self._with_state]
        others = [one for one in other_ids if one not in self._asked]
        if not (new or parents or others or earlier):
            return
        tools, room_nid = turn.tools, turn.head.room_nid

        def look(tx: Tx) -> Found | str:
            answer = earlier(tx) if earlier is not None else None
            if answer is not None:
                return answer
            return load_known(tx, room_nid, new, parents, others, tools.events, tools.bases)

        loaded = await tools.database.read(look)
        if isinstance(loaded, str):
            raise AnsweredAlready(loaded)
        self._merge(loaded)
        self._asked.update(new, parents, others)
        self._with_state.update(parents)
        # A new event that is not here has no state that could be asked for later.
        self._with_state.update(one for one in new if one not in loaded.known)

    def presume(self, events: Sequence[Event]) -> bool:
        """Take events for new without asking, if that is likely and all else that they name is known; whether it is so.

        Of a chain on top of the room's head nothing is stored yet, or it was refused, or came as somebody's auth event.
        The commit fails where it is so (``Bundle.unseen``), and the job runs again and has to ask.
        """
        head = self.turn.head
        if not events or not head.version or head.partial:
            return False
        newest = {one.reference.event_id for one in head.extremities}
        if not newest <= self._with_state:
            return False
        for event in events:
            if (
                event.redacts is not None
                or event.event_id in self._asked
                or set(event.prev_event_ids) != newest
                or not self._asked.issuperset(event.auth_event_ids)
            ):
                return False
            newest = {event.event_id}
        ids = [event.event_id for event in events]
        self.turn.unseen = ids
        self._asked.update(ids)
        self._with_state.update(ids)
        return True

    async def ask_after_all(self, event_id: EventId) -> bool:
        """Ask for an event that was taken for new; whether it is here."""
        unseen = self.turn.unseen
        if unseen is None or event_id not in unseen:
            return False
        unseen.remove(event_id)
        self._with_state.discard(event_id)
        await self.load([event_id], (), ())
        return self.known(event_id) is not None

    def _keep(self, event_id: str, known: Known) -> None:
        self.found.known[event_id] = known
        self._asked.add(event_id)
        self._with_state.add(event_id)

    def _merge(self, loaded: Found) -> None:
        mine = self.found
        for event_id, known in loaded.known.items():
            # What this process has not stored yet is newer than what the database says.
            if event_id not in mine.known or (mine.known[event_id].after is None and known.after is not None):
                mine.known[event_id] = known
        mine.outliers |= loaded.outliers
        mine.elsewhere |= loaded.elsewhere
        for target_id, nids in loaded.redactions.items():
            mine.redactions.setdefault(target_id, []).extend(nids)

    def known(self, event_id: str) -> Known | None:
        """An event of this room, if it is here."""
        return self.found.known.get(event_id)

    def is_elsewhere(self, event_ids: Iterable[str]) -> bool:
        """Whether one of these is an event of another room."""
        elsewhere = self.found.elsewhere
        return bool(elsewhere) and any(one in elsewhere for one in event_ids)

    def has_state(self, event_id: str) -> bool:
        """Whether an event is here with the state at it."""
        return event_id in self.found.known and event_id not in self.found.outliers

    async def prefetch_names(self, events: Sequence[Event]) -> None:
        """Look the names in many events up together."""
        if len(events) <= _FEW:
            return
        interner = self.turn.tools.interner
        users: set[str] = {event.sender for event in events}
        keys = {event.key() for event in events if event.state_key is not None}
        users.update(key[1] for key in keys if key[0] == "m.room.member")
        await interner.bind_users(sorted(users))
        await interner.bind_keys(sorted(keys))

    async def behind_hidden(self, event_ids: Iterable[str]) -> set[str]:
        """Events that some name as parents, and the parents of those among them that nobody is shown."""
        seen = set(event_ids)
        layer = sorted(seen)
        while layer and len(seen) < _HIDDEN_MOST:
            hidden = [one for one in layer if self.has_state(one) and not self.found.known[one].is_shown]
            further = {parent for one in hidden for parent in self.found.known[one].event.prev_event_ids}
            layer = sorted(further - seen)
            seen |= further
            await self.load((), layer, ())
        return seen

    # --- states --------------------------------------------------------------------------------------

    async def create(self) -> Event | None:
        """The room's create event."""
        turn = self.turn
        if turn.head.version:
            return await turn.state(*CREATE)
        known = self.known("$" + turn.head.room_id[1:])
        return known.event if known is not None else None

    async def state_at(self, snapshot: Snapshot, keys: Sequence[StateKey]) -> dict[StateKey, Event]:
        """State events at some keys of a state."""
        turn, interner = self.turn, self.turn.tools.interner
        nids: dict[StateKey, int] = {}
        for key in keys:
            key_nid = interner.known_key(key) or await interner.find_key(key)
            nid = snapshot.get(key_nid) if key_nid is not None else 0
            if nid:
                nids[key] = nid
        events = await turn.events(sorted(set(nids.values())))
        return {key: events[nid] for key, nid in nids.items()}

    async def lookup_at(self, snapshot: Snapshot, event: Event) -> tuple[Any, PowerLevels | None]:
        """What decides about an event in a state: a look-up, and the levels in force."""
        keys = [CREATE, POWER_LEVELS, *auth_keys_for(event.rules, *described(event))]
        if snapshot is self.turn.head.snapshot:
            await self.turn.load(keys)
            levels = await self.turn.power_levels() if self.turn.lookup(*CREATE) is not None else None
            return self.filled(self.turn.lookup, event), levels
        state = await self.state_at(snapshot, keys)
        return self.filled(lookup_of(state), event), await self.levels(snapshot, state)

    def filled(self, lookup: StateLookup, event: Event) -> StateLookup:
        """While a join is not complete, members whom the state does not name are what the event says they are."""
        if not self.turn.head.partial:
            return lookup
        cited = [known.event for one in event.auth_event_ids if (known := self.known(one)) is not None]
        members = {one.key(): one for one in cited if one.type == MEMBER and one.state_key is not None}

        def filled(event_type: str, state_key: str) -> Event | None:
            found = lookup(event_type, state_key)
            return members.get((event_type, state_key)) if found is None else found

        return filled

    async def levels(self, snapshot: Snapshot, state: Mapping[StateKey, Event]) -> PowerLevels | None:
        """The power levels of a state, given its create and power levels events."""
        create = state.get(CREATE)
        if create is None:
            return None
        levels = self._powers.get(snapshot.nid)
        if levels is None or not snapshot.nid:
            levels = parse_power_levels(state.get(POWER_LEVELS), create, create.rules)
            self._powers[snapshot.nid] = levels
        return levels

    async def snapshot_of(self, event_ids: Sequence[EventId]) -> Snapshot | None:
        """The state that some events make, stored against that of the head; None where one of them is not here."""
        turn = self.turn
        unstored = {one.event.event_id: one for one in turn.unstored() if one.state_key_nid is not None}
        asked = [one for one in event_ids if one not in unstored]
        rows = dict(
            await turn.tools.database.read(find_state_rows, turn.head.room_nid, asked) if asked else {}
        )
        for event_id in event_ids:
            placed = unstored.get(event_id)
            if placed is not None and placed.state_key_nid is not None:
                rows[event_id] = StateRow(placed.nid, placed.state_key_nid, placed.rejected is not None)
        if len(rows) < len(set(event_ids)):
            return None
        # A rejected event takes no part in any state, whoever says so.
        state = {row.key_nid: row.nid for row in rows.values() if not row.is_rejected}
        return near(turn, state)


def near(turn: Turn, state: dict[int, int]) -> Snapshot:
    """A whole state, stored as what differs from the head's where that is little."""
    head = turn.head.snapshot
    before = head.as_dict() if head.size else {}
    changes = {key: nid for key, nid in state.items() if before.get(key) != nid}
    changes.update((key, 0) for key in before if key not in state)
    return turn.keep(head, changes) if changes else head


def described(event: Event) -> tuple[str, str, str | None, Any]:
    """What ``auth_keys_for`` wants to know of an event."""
    return event.type, event.sender, event.state_key, event.content
