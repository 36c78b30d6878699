"""A turn: what one job does to a room while its actor gives it the head.

A job sees the room's state as it will be once everything accepted before it is stored, and places events on it. The
head that it makes becomes the room's when the job ends, and is thrown away when it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

from federation.auth.power import PowerLevels, parse_power_levels
from federation.auth.rules import check_state_dependent, check_state_independent
from federation.auth.select import auth_keys_for
from federation.builder import Draft, build, is_of
from federation.errors import Malformed
from federation.event import MAX_PREV_EVENTS, Event
from federation.ids import EventId
from federation.policy import POLICY_EVENT_TYPE, PolicyServer, is_exempt
from federation.redaction import redact_content
from federation.signing import Signer
from federation.sticky import STICKY, sticky_until_ms
from federation.verdict import Accept
from homeserver.db.threads import Database
from homeserver.db.tx import Tx, WriteTx
from homeserver.http.errors import MatrixError, forbidden, invalid_param
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.store.auth_graph import Unstored, UnstoredEvent, resolve_states
from homeserver.store.cache import ByteLru
from homeserver.store.events import load_memberships, load_ranks, load_redactions
from homeserver.store.ids import Interner, StateKey
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.placement import (
    MEMBERSHIPS,
    ClientTransaction,
    Extremity,
    Membership,
    Place,
    Placement,
    RoomHead,
    StateMove,
)
from homeserver.store.state import BaseCache, Snapshot, derive, diff
from homeserver.store.sticky import Sticky, stick, stick_again

# LIMIT(memory of an active room): beyond it the state that the actor remembers is loaded again when needed.
_WARM_MOST = 1_000
_RESOLVED_MOST = 100

WarmState = dict[StateKey, "tuple[int, Event] | None"]
_MEMBER = "m.room.member"
_CREATE: StateKey = ("m.room.create", "")
_POWER: StateKey = ("m.room.power_levels", "")
_POLICY: StateKey = (POLICY_EVENT_TYPE, "")


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


Finish = Callable[[WriteTx, str], object]
"""What is stored with an event, whose id it gets, or not at all."""


class SignatureNeeded(Exception):  # noqa: N818 (nothing is wrong: the job runs again with the signature)
    """A turn came to an event that the room's policy server must sign first."""

    def __init__(self, event: Event, server: PolicyServer) -> None:
        super().__init__(f"{event.event_id} needs a signature of {server.server_name}")
        self.event = event
        self.server = server


class Policing(Protocol):
    """Knows the policy servers of rooms (``policing.py``)."""

    async def server_of(self, turn: Turn) -> PolicyServer | None:
        """Who must sign what is placed."""

    async def place(self, turn: Turn, event: Event, transaction: ClientTransaction | None) -> Placement:
        """Place an event that was signed meanwhile."""

    async def sign(self, needed: SignatureNeeded) -> Event:
        """Ask for a signature: over the network, and never within a turn."""

    async def approved(self, event: Event, server: PolicyServer | None, *, is_ours: bool) -> Event:
        """The same for an event of a handshake; what is another's comes back as it is where it is refused."""


class Turn:
    """One job's hold of a room. ``warm`` maps state keys to (nid, event), or None where the room has none."""

    __slots__ = (
        "attempt",
        "ends",
        "extra",
        "flying",
        "head",
        "is_new",
        "placements",
        "policing",
        "power",
        "resolved",
        "signed",
        "snapshots",
        "tools",
        "unseen",
        "unused",
        "used",
        "warm",
    )

    def __init__(
        self,
        tools: RoomTools,
        head: RoomHead,
        warm: WarmState,
        power: PowerLevels | None,
        attempt: int,
        flying: Mapping[str, Placement] = MappingProxyType({}),
        resolved: dict[frozenset[int], Snapshot] | None = None,
        policing: Policing | None = None,
        signed: Sequence[Event] = (),
    ) -> None:
        if len(warm) > _WARM_MOST:
            warm.clear()  # now, and never between two look-ups of one job
        self.tools = tools
        self.is_new = head.version == 0  # nothing of the room is stored: what is not warm is not there
        self.head = head
        self.warm = warm
        self.power = power
        self.attempt = attempt  # 1 where the first try was undone by a failed commit
        self.flying = flying  # events on their way to the disk, by id
        self.resolved = {} if resolved is None else resolved  # by the snapshots that were resolved
        self.policing = policing
        # What the job's earlier tries built and the policy server signed, in order; and what of that was placed.
        self.signed, self.used = list(signed), list[Event]()
        self.placements: list[Placement] = []
        self.snapshots: list[Snapshot] = []  # new ones, to be stored with the placements
        self.ends: tuple[int, ...] = ()
        self.extra: list[Callable[[WriteTx], Any]] = []
        # Events that were taken for new without asking, which the commit makes sure of; None: whatever came was asked for.
        self.unseen: list[EventId] | None = None
        # Keys that no room has ever had, as far as the database knows; asked once a turn, however often forks meet.
        self.unused: set[StateKey] = set()

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
        if self.is_new:
            # The room is being made: its whole state was placed in this turn, and all of that is warm.
            self.warm.update(dict.fromkeys(keys))
            return
        nids: dict[StateKey, int] = {}
        for key in keys:
            key_nid = self.tools.interner.known_key(key)
            if key_nid is None and key not in self.unused:
                key_nid = await self.tools.interner.find_key(key)
                if key_nid is None:
                    self.unused.add(key)
            event_nid = self.head.snapshot.get(key_nid) if key_nid is not None else 0
            if event_nid:
                nids[key] = event_nid
        found = await self.events(sorted(set(nids.values()))) if nids else {}
        # Only now, when every read has succeeded: what is warm is believed.
        for key in keys:
            nid = nids.get(key)
            self.warm[key] = None if nid is None else (nid, found[nid])

    async def events(self, nids: Collection[int]) -> dict[int, Event]:
        """Events of this room by nid, those on their way to the disk too."""
        cache = self.tools.events
        found = {nid: event for nid in nids if (event := cache.get(nid)) is not None}
        if len(found) < len(nids):
            wanted = set(nids)
            found.update({one.nid: one.event for one in self.unstored() if one.nid in wanted})
            missing = [nid for nid in nids if nid not in found]
            if missing:
                found.update(await self.tools.database.read(_load_events, missing, cache))
        return found

    def unstored(self) -> Iterable[Placement]:
        """The placements that the database does not know yet."""
        yield from self.flying.values()
        yield from self.placements

    def redacted_unstored(self, events: Iterable[tuple[int, Event]]) -> set[int]:
        """Those of some events, by nid, of whose redaction the database does not know yet."""
        unstored = list(self.unstored())
        targets = {one.redacts_target for one in unstored}
        redacted = {one.nid for one in unstored if one.redacted_by}
        return {nid for nid, event in events if nid in redacted or event.event_id in targets}

    def lookup(self, event_type: str, state_key: str) -> Event | None:
        """The state at a key that was loaded before."""
        found = self.warm[(event_type, state_key)]
        return found[1] if found is not None else None

    async def contents(self, keys: Sequence[StateKey]) -> dict[StateKey, Mapping[str, Any]]:
        """What is said at some keys, as everybody is shown it: without what redactions took away.

        The events of ``state`` are as they were sent, since the authorisation rules ask for no more than redaction leaves.
        """
        # spec: client-server-api#redactions
        await self.load(keys)
        found = {key: one for key in keys if (one := self.warm[key]) is not None}
        if not found:
            return {}
        redacted = self.redacted_unstored(found.values())
        stored = [nid for nid, _ in found.values()]
        if stored and not self.is_new:
            redacted.update(await self.tools.database.read(load_redactions, stored))
        return {
            key: redact_content(event.type, event.content, self.head.rules.redaction)
            if nid in redacted
            else event.content
            for key, (nid, event) in found.items()
        }

    async def content(self, event_type: str, state_key: str = "") -> Mapping[str, Any] | None:
        """The same of one key; None where the room has no such state."""
        return (await self.contents([(event_type, state_key)])).get((event_type, state_key))

    async def power_levels(self) -> PowerLevels:
        """The levels in force."""
        if self.power is None:
            await self.load([_CREATE, _POWER])
            create = self.lookup(*_CREATE)
            if create is None:
                raise forbidden("The room has no create event")
            self.power = parse_power_levels(self.lookup(*_POWER), create, self.head.rules)
        return self.power

    async def rank(self, auth_nids: Sequence[int]) -> int:
        """The rank in the auth graph of an event with these auth events."""
        ranks = self.tools.ranks
        found = {nid: rank for nid in auth_nids if (rank := ranks.get(nid)) is not None}
        if len(found) < len(auth_nids):
            found.update({one.nid: one.auth_rank or 0 for one in self.unstored() if one.nid in auth_nids})
            missing = [nid for nid in auth_nids if nid not in found]
            if missing:
                loaded = await self.tools.database.read(load_ranks, missing)
                for nid, rank in loaded.items():
                    ranks.put(nid, rank)
                found.update(loaded)
        return 1 + max(found.values(), default=0)

    # --- states ----------------------------------------------------------------------------------

    def keep(self, before: Snapshot, changes: Mapping[int, int]) -> Snapshot:
        """The state after some changes, to be stored with what this turn places."""
        snapshot = derive(before, changes, self.tools.interner.take_nid())
        self.snapshots.append(snapshot)
        return snapshot

    async def resolve(self, states: Sequence[Snapshot]) -> Snapshot:
        """What several states resolve to, by the room version's algorithm."""
        # spec: server-server-api#room-state-resolution
        distinct = list({state.nid: state for state in states}.values())
        if len(distinct) == 1:
            return distinct[0]
        names = frozenset(state.nid for state in distinct)
        known = self.resolved.get(names)
        if known is not None:
            return known
        # What is stored as a difference to the largest is smallest.
        distinct.sort(key=lambda state: (-state.size, state.nid))
        events = {
            one.nid: UnstoredEvent(
                one.event, one.state_key_nid, one.auth_nids, one.auth_rank or 0, one.rejected is not None
            )
            for one in self.unstored()
            # One that is only written anew (``completion.py``) says nothing of its auth events: the tables do.
            if one.state_key_nid is not None and (one.is_new or one.auth_nids or one.rejected is not None)
        }
        unstored = Unstored(events, self.tools.interner.unsaved_keys())
        changes = await self.tools.database.read(
            resolve_states, self.head.rules, distinct, self.tools.events, unstored
        )
        same = next((one for one in distinct[1:] if not _differs(distinct[0], one, changes)), None)
        resolved = same or (self.keep(distinct[0], changes) if changes else distinct[0])
        if len(self.resolved) >= _RESOLVED_MOST:
            self.resolved.clear()
        self.resolved[names] = resolved
        return resolved

    async def moves(
        self, before: Snapshot, after: Snapshot, words: Mapping[int, str] = MappingProxyType({})
    ) -> tuple[StateMove, ...]:
        """How the current state moves from one state to another. ``words``: what membership events say, where known."""
        changed = diff(before, after)
        names = await self.tools.interner.key_names(changed)
        members = {key: names[key][1] for key in changed if names[key][0] == _MEMBER}
        users = await self.tools.interner.find_users(members.values())
        new_nids = [new for key, (_, new) in changed.items() if new and key in members]
        memberships = await self._memberships(new_nids, words)
        found: list[StateMove] = []
        for key, (old, new) in changed.items():
            user_id = members.get(key)
            if user_id is None:
                found.append(StateMove(key, new, old))
            else:
                nid = users.get(user_id) or await self.tools.interner.user(user_id)
                found.append(StateMove(key, new, old, nid, user_id, memberships.get(new, Membership.LEAVE)))
        return tuple(found)

    async def _memberships(self, nids: Sequence[int], known: Mapping[int, str]) -> dict[int, Membership]:
        wanted = set(nids)
        words: dict[int, Any] = {nid: known[nid] for nid in nids if nid in known}
        words.update(
            (one.nid, one.event.content.get("membership")) for one in self.unstored() if one.nid in wanted
        )
        missing = [nid for nid in nids if nid not in words]
        if missing:
            words.update(await self.tools.database.read(load_memberships, missing))
        return {nid: MEMBERSHIPS.get(word, Membership.LEAVE) for nid, word in words.items()}

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
        policing = self.policing
        server = None
        if policing is not None and (_POLICY not in self.warm or self.warm[_POLICY] is not None):
            server = await policing.server_of(self)
            if server is not None and self.signed:
                event = self.signed.pop(0)
                if is_of(draft, event):
                    self.used.append(event)
                    return await policing.place(self, event, transaction)
                self.signed.clear()  # the room has moved, and the job with it
        whole = self.head
        is_part = len(whole.extremities) > MAX_PREV_EVENTS
        try:
            if is_part:
                await self._narrow()
            rules = whole.rules
            keys = auth_keys_for(rules, draft.type, draft.sender, draft.state_key, draft.content)
            warm = self.warm
            missing = [key for key in keys if key not in warm]
            if missing or (_CREATE not in warm and draft.type != "m.room.create"):
                await self._load([*missing, *([] if _CREATE in warm else [_CREATE])])
            auth = [found for key in keys if (found := warm[key]) is not None]
            event, json = self._build(draft, auth)
            await self._check(event)
            if server is not None and not is_exempt(event):
                raise SignatureNeeded(event, server)
            placed = await self._put(event, json, auth, transaction, redacts_target)
        except MatrixError:
            if is_part:  # the job may go on without this event, and then on all of the extremities
                self.head = whole
                self.forget_state()
            raise
        if is_part:
            await self._widen(whole, placed)
        return placed

    async def adopt(self, event: Event, json: bytes) -> Placement:
        """Place a create event that was built before its room had an actor (its hash may be the room's id)."""
        await self._check(event)
        return await self._put(event, json, [], None, None)

    def _build(self, draft: Draft, auth: list[tuple[int, Event]]) -> tuple[Event, bytes]:
        head, tools = self.head, self.tools
        if draft.type == "m.room.create" and head.extremities:
            # Version 12 has no form for such an event: so it is refused before it is built.
            raise forbidden("The room has a create event already")
        if draft.type == "m.room.redaction" and draft.state_key is not None:
            # Others would take it for a redaction, whose target and power nobody here has looked at.
            raise forbidden("A redaction is no state")
        if "\0" in draft.type or (draft.state_key is not None and "\0" in draft.state_key):
            # PostgreSQL's text has no NUL, and no client needs one in a name.
            raise invalid_param("Event types and state keys must not contain NUL")
        try:
            return build(
                draft,
                prev_events=[one.reference for one in head.extremities],
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
        head, interner = self.head, self.tools.interner
        nid = interner.take_nid()
        type_nid = interner.known_type(event.type) or await interner.event_type(event.type)
        sender_nid = interner.known_user(event.sender) or await interner.user(event.sender)
        before = after = head.snapshot
        key_nid: int | None = None
        prev_nid = 0
        rank: int | None = None
        auth_nids = tuple([auth_nid for auth_nid, _ in auth])
        moves: tuple[StateMove, ...] = ()
        if event.state_key is not None:
            key = (event.type, event.state_key)
            key_nid = interner.known_key(key) or await interner.state_key(key)
            prev_nid = before.get(key_nid)
            after = self.keep(before, {key_nid: nid})
            moves = (await self.own_move(event, key_nid, nid, prev_nid),)
            rank = await self.rank(auth_nids)
            self.tools.ranks.put(nid, rank)
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
            auth_nids,
            rank,
            redacts_target,
            transaction,
            moves=moves,
        )
        self.note(placed)
        self.place_on_head(placed)
        return placed

    async def own_move(self, event: Event, key_nid: int, nid: int, prev_nid: int) -> StateMove:
        """How the current state moves by a state event on top of it."""
        user_id = event.state_key
        if event.type != _MEMBER or user_id is None:
            return StateMove(key_nid, nid, prev_nid)
        interner = self.tools.interner
        member_nid = interner.known_user(user_id) or await interner.user(user_id)
        membership = MEMBERSHIPS[event.content["membership"]]
        return StateMove(key_nid, nid, prev_nid, member_nid, user_id, membership)

    def place_on_head(self, placed: Placement) -> None:
        """The event is the successor of all the room's newest, and now the only newest itself."""
        head, event = self.head, placed.event
        extremity = Extremity(placed.nid, event.reference(), event.depth, placed.state_after)
        self.head = RoomHead(
            head.room_nid,
            head.room_id,
            head.rules,
            head.version + 1,
            (extremity,),
            placed.state_after,
            event.depth,
            head.partial,
        )

    def note(self, placed: Placement, *, sticks: bool = True) -> None:
        """This is to be stored when the turn ends. ``sticks``: if it says so."""
        event = placed.event
        self.tools.events.put(placed.nid, event)
        self.placements.append(placed)
        if sticks and placed.place in (Place.TIMELINE, Place.NOWHERE):
            self.stick(placed, shown=placed.place is Place.TIMELINE)

    def stick(self, placed: Placement, *, shown: bool) -> None:
        """If the event sticks, note that with it: shown from now on, or to nobody as yet."""
        if STICKY not in placed.event.json:
            return
        now_ms, event = self.tools.clock.now_ms(), placed.event
        until_ms = sticky_until_ms(event.json, now_ms)
        if until_ms <= now_ms or placed.rejected is not None or placed.redacted_by:
            return
        placed.sticky_until_ms = until_ms
        sticky = Sticky(placed.nid, placed.room_nid, event.event_id, event.sender, until_ms)
        self.extra.append(partial(stick if placed.is_new else stick_again, sticky=sticky, shown=shown))

    async def _narrow(self) -> None:
        """Of so many extremities that one event cannot name them, look at the newest alone."""
        head = self.head
        seen = head.extremities[-MAX_PREV_EVENTS:]
        snapshot = await self.resolve([one.after for one in seen])
        depth = max(one.depth for one in seen)
        self.head = replace(head, extremities=seen, snapshot=snapshot, depth=depth)
        self.forget_state()

    async def _widen(self, before: RoomHead, placed: Placement) -> None:
        """The event stands on some of the extremities; the others are still there."""
        placed.linear = False
        others = before.extremities[:-MAX_PREV_EVENTS]
        placed.moves = await self.settle(before, [*others, *self.head.extremities])

    async def settle(
        self,
        before: RoomHead,
        extremities: Sequence[Extremity],
        words: Mapping[int, str] = MappingProxyType({}),
    ) -> tuple[StateMove, ...]:
        """The room's newest events are these now; how the current state moves to what their states resolve to.

        ``words``: see ``moves``.
        """
        snapshot = await self.resolve([one.after for one in extremities])
        moves = await self.moves(before.snapshot, snapshot, words)
        self.head = replace(
            before,
            version=before.version + 1,
            extremities=tuple(extremities),
            snapshot=snapshot,
            depth=max(one.depth for one in extremities),
        )
        self.forget_state()
        return moves

    def forget_state(self) -> None:
        """The state of the head is another now: what was remembered of it is wrong."""
        self.warm.clear()
        self.power = None


def _differs(first: Snapshot, other: Snapshot, changes: Mapping[int, int]) -> bool:
    """Whether a state is another than the first with some changes."""
    wanted = {key: new for key, (_, new) in diff(first, other).items()}
    return wanted != changes


def _load_events(tx: Tx, nids: list[int], cache: EventCache) -> dict[int, Event]:
    return load_events(tx, nids, cache)


def finished(turn: Turn, event_id: str, finish: Finish | None) -> str:
    """The event is placed, and what belongs to it is stored in the same transaction."""
    if finish is not None:
        turn.extra.append(lambda tx: finish(tx, event_id))
    return event_id
