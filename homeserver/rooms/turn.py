"""A turn: what one job does to a room while its actor gives it the head.

A job sees the room's state as it will be once everything accepted before it is stored, and places events on it. The
head that it makes becomes the room's when the job ends, and is thrown away when it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from federation.auth.power import PowerLevels, parse_power_levels
from federation.auth.rules import check_state_dependent, check_state_independent
from federation.auth.select import auth_keys_for
from federation.builder import Draft, build
from federation.errors import Malformed
from federation.event import Event, EventRef
from federation.signing import Signer
from federation.verdict import Accept
from homeserver.db.threads import Database
from homeserver.db.tx import Tx, WriteTx
from homeserver.http.errors import MatrixError, forbidden, invalid_param
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.store.cache import ByteLru
from homeserver.store.events import load_ranks
from homeserver.store.ids import Interner, StateKey
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.placement import ClientTransaction, Placement, RoomHead
from homeserver.store.state import BaseCache, derive

# LIMIT(memory of an active room): beyond it the state that the actor remembers is loaded again when needed.
_WARM_MOST = 1_000
_PREV_EVENTS_MOST = 10

WarmState = dict[StateKey, "tuple[int, Event] | None"]
_CREATE: StateKey = ("m.room.create", "")
_POWER: StateKey = ("m.room.power_levels", "")


@dataclass(frozen=True, slots=True)
class RoomTools:
    """What every actor works with."""

    database: Database
    interner: Interner
    events: EventCache
    bases: BaseCache
    ranks: ByteLru[int, int]
    signer: Signer
    clock: Clock
    entropy: Entropy


class Turn:
    """One job's hold of a room. ``warm`` maps state keys to (nid, event), or None where the room has none."""

    __slots__ = ("_new", "_tools", "attempt", "extra", "head", "placements", "power", "warm")

    def __init__(
        self, tools: RoomTools, head: RoomHead, warm: WarmState, power: PowerLevels | None, attempt: int
    ) -> None:
        if len(warm) > _WARM_MOST:
            warm.clear()  # now, and never between two look-ups of one job
        self._tools = tools
        self._new = head.version == 0
        self.head = head
        self.warm = warm
        self.power = power
        self.attempt = attempt  # 1 where the first try was undone by a failed commit
        self.placements: list[Placement] = []
        self.extra: list[Callable[[WriteTx], Any]] = []

    # --- reading the state -----------------------------------------------------------------------

    async def state(self, event_type: str, state_key: str = "") -> Event | None:
        """The state event at a key, at the head."""
        key = (event_type, state_key)
        if key not in self.warm:
            await self._load([key])
        found = self.warm[key]
        return found[1] if found is not None else None

    async def load(self, keys: Sequence[StateKey]) -> None:
        """Bring several state events into memory with one read."""
        missing = [key for key in keys if key not in self.warm]
        if missing:
            await self._load(missing)

    async def _load(self, keys: Sequence[StateKey]) -> None:
        if self._new:
            # The room is being made: its whole state was placed in this turn, and all of that is warm.
            self.warm.update(dict.fromkeys(keys))
            return
        nids: dict[StateKey, int] = {}
        for key in keys:
            if "\0" in key[1]:
                continue  # no event has such a key (see ``_build``), and PostgreSQL cannot be asked for one
            key_nid = self._tools.interner.known_key(key) or await self._tools.interner.find_key(key)
            event_nid = self.head.snapshot.get(key_nid) if key_nid is not None else 0
            if event_nid:
                nids[key] = event_nid
        found = await self._events(sorted(set(nids.values()))) if nids else {}
        # Only now, when every read has succeeded: what is warm is believed.
        for key in keys:
            nid = nids.get(key)
            self.warm[key] = None if nid is None else (nid, found[nid])

    async def _events(self, nids: list[int]) -> dict[int, Event]:
        cache = self._tools.events
        found = {nid: event for nid in nids if (event := cache.get(nid)) is not None}
        if len(found) < len(nids):
            missing = [nid for nid in nids if nid not in found]
            found.update(await self._tools.database.read(_load_events, missing, cache))
        return found

    def lookup(self, event_type: str, state_key: str) -> Event | None:
        """The state at a key that was loaded before."""
        found = self.warm[(event_type, state_key)]
        return found[1] if found is not None else None

    async def power_levels(self) -> PowerLevels:
        """The levels in force."""
        if self.power is None:
            await self.load([_CREATE, _POWER])
            create = self.lookup(*_CREATE)
            if create is None:
                raise forbidden("The room has no create event")
            self.power = parse_power_levels(self.lookup(*_POWER), create, self.head.rules)
        return self.power

    async def _rank(self, auth_nids: list[int]) -> int:
        """The rank in the auth graph of an event with these auth events."""
        ranks = self._tools.ranks
        found = {nid: rank for nid in auth_nids if (rank := ranks.get(nid)) is not None}
        missing = [nid for nid in auth_nids if nid not in found]
        if missing:
            loaded = await self._tools.database.read(load_ranks, missing)
            for nid, rank in loaded.items():
                ranks.put(nid, rank)
            found.update(loaded)
        return 1 + max(found.values(), default=0)

    # --- placing events --------------------------------------------------------------------------

    async def place(
        self,
        draft: Draft,
        *,
        transaction: ClientTransaction | None = None,
        redacts_target: str | None = None,
    ) -> Placement:
        """Build the event on the head, check it, and make the head that follows.

        Raises ``MatrixError`` (403 M_FORBIDDEN) where the room's rules refuse it, and what the specification says
        where the event is malformed or too large.
        """
        rules = self.head.rules
        keys = auth_keys_for(rules, draft.type, draft.sender, draft.state_key, draft.content)
        warm = self.warm
        missing = [key for key in keys if key not in warm]
        if missing or (_CREATE not in warm and draft.type != "m.room.create"):
            await self._load([*missing, *([] if _CREATE in warm else [_CREATE])])
        auth = [found for key in keys if (found := warm[key]) is not None]
        event, json = self._build(draft, auth)
        await self._check(event)
        return await self._put(event, json, auth, transaction, redacts_target)

    async def adopt(self, event: Event, json: bytes) -> Placement:
        """Place a create event that was built before its room had an actor (its hash may be the room's id)."""
        await self._check(event)
        return await self._put(event, json, [], None, None)

    def _build(self, draft: Draft, auth: list[tuple[int, Event]]) -> tuple[Event, bytes]:
        head, tools = self.head, self._tools
        if draft.type == "m.room.create" and head.extremities:
            # Version 12 has no form for such an event: so it is refused before it is built.
            raise forbidden("The room has a create event already")
        if "\0" in draft.type or (draft.state_key is not None and "\0" in draft.state_key):
            # PostgreSQL's text has no NUL, and no client needs one in a name.
            raise invalid_param("Event types and state keys must not contain NUL")
        try:
            return build(
                draft,
                prev_events=[reference for _, reference in head.extremities[-_PREV_EVENTS_MOST:]],
                auth_events=[event.reference() for _, event in auth],
                depth=head.depth + 1,
                rules=head.rules,
                signer=tools.signer,
                now_ms=tools.clock.now_ms(),
                local_id="" if head.rules.event_ids_are_hashes else tools.entropy.token(24),
            )
        except Malformed as error:
            raise MatrixError(error.status, error.errcode, str(error)) from error

    async def _check(self, event: Event) -> None:
        if event.state_key is not None:
            keys = auth_keys_for(event.rules, event.type, event.sender, event.state_key, event.content)
            cited = [one for key in keys if (one := self.lookup(*key)) is not None]
            create = None if event.type == "m.room.create" else self.lookup(*_CREATE)
            verdict = check_state_independent(event, cited, create=create)
            if not isinstance(verdict, Accept):
                raise forbidden(verdict.reason)
        if event.type == "m.room.create":
            if event.state_key is None:
                raise forbidden("A create event is a state event")
            return
        power = self.power or await self.power_levels()
        verdict = check_state_dependent(event, self.lookup, power)
        if not isinstance(verdict, Accept):
            raise forbidden(verdict.reason)

    async def _put(
        self,
        event: Event,
        json: bytes,
        auth: list[tuple[int, Event]],
        transaction: ClientTransaction | None,
        redacts_target: str | None,
    ) -> Placement:
        head, interner = self.head, self._tools.interner
        nid = interner.take_nid()
        type_nid = interner.known_type(event.type) or await interner.event_type(event.type)
        sender_nid = interner.known_user(event.sender) or await interner.user(event.sender)
        before = after = head.snapshot
        key_nid: int | None = None
        prev_nid = member_nid = 0
        rank: int | None = None
        if event.state_key is not None:
            key = (event.type, event.state_key)
            key_nid = interner.known_key(key) or await interner.state_key(key)
            prev_nid = before.get(key_nid)
            after = derive(before, {key_nid: nid}, interner.take_nid())
            if event.type == "m.room.member":
                member_nid = interner.known_user(event.state_key) or await interner.user(event.state_key)
            rank = await self._rank([auth_nid for auth_nid, _ in auth])
            self._tools.ranks.put(nid, rank)
            self.warm[key] = (nid, event)
            if key in (_POWER, _CREATE):
                self.power = None
        placed = Placement(
            event,
            json,
            nid,
            head.room_nid,
            type_nid,
            key_nid,
            sender_nid,
            before,
            after,
            prev_nid,
            tuple([auth_nid for auth_nid, _ in auth]),
            rank,
            member_nid,
            redacts_target,
            transaction,
        )
        extremities: tuple[tuple[int, EventRef], ...] = ((nid, event.reference()),)
        if len(head.extremities) > _PREV_EVENTS_MOST:
            extremities = (*head.extremities[:-_PREV_EVENTS_MOST], *extremities)
        self.head = RoomHead(
            head.room_nid, head.room_id, head.rules, head.version + 1, extremities, after, head.depth + 1
        )
        self._tools.events.put(nid, event)
        self.placements.append(placed)
        return placed


def _load_events(tx: Tx, nids: list[int], cache: EventCache) -> dict[int, Event]:
    return load_events(tx, nids, cache)
