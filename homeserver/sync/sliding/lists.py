"""Which rooms a request is about: by their place in lists, and by name. From memory.

The rooms of a user are those that they are in, invited to or knocking at; those that somebody else put them out of; and
those that they left, or were unbanned from, since the connection was told of them. Of one that they forgot they hear that
it is over, and nothing after that. Others that they left can be asked for by name. They are ordered by their newest event, whatever it is, so that news is always at the top.

1. A filter MUST NOT tell of a room more than the user may know: how many pass is in the answer. Where they are not in it,
   it looks at what the room was when they were last told of it.

proposal: MSC4186 (lists, subscriptions, activity ordering)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from homeserver.http.errors import invalid_param
from homeserver.moderation.types import InvitePermission
from homeserver.store.ids import Interner
from homeserver.store.placement import Membership
from homeserver.store.sliding_reads import NO_FACTS, RoomFacts, UserFacts
from homeserver.stream.index import MembershipIndex, Standing
from homeserver.sync.sliding.connections import GONE, State
from homeserver.sync.sliding.facts import Facts
from homeserver.sync.sliding.inviters import Inviters
from homeserver.sync.sliding.request import NO_FILTERS, Asked, Filters, RoomConfig
from homeserver.sync.sliding.required import WISHES_MOST, Required, weigh
from homeserver.sync.types import Requester

_OPEN = (Membership.INVITE, Membership.KNOCK)
# LIMIT(time in the reactor: each room is held against each different filter, some microseconds each)
CHECKS_MOST = 200_000
# LIMIT(memory, in bytes: a client asks for two or three, of some kilobytes, and clients of one kind for the same)
_WISHES_KEPT = 4 * WISHES_MOST


@dataclass(frozen=True, slots=True)
class Relevant:
    """What a request wants of a room: everything that any of its rules wants."""

    limit: int
    wishes: frozenset[Required]
    lists: Mapping[str, None]  # the lists that show it
    subscribed: bool


@dataclass(slots=True)
class Windows:
    """What the lists and subscriptions of a request come to."""

    counts: dict[str, int] = field(default_factory=dict)
    rooms: dict[int, Relevant] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  # of those at least


class Lists:
    """See the module."""

    def __init__(self, index: MembershipIndex, interner: Interner, facts: Facts, inviters: Inviters) -> None:
        self._index = index
        self._interner = interner
        self._facts = facts
        self._inviters = inviters
        self._wishes: dict[frozenset[Required], tuple[frozenset[Required], int]] = {}  # with what they weigh
        self._weight = 0

    async def prepare(self, requester: Requester, asked: Asked) -> None:
        """Have at hand what ``look`` takes from memory."""
        await self._facts.user(requester.user_nid, requester.user_id)
        await self._interner.find_rooms(asked.subscriptions)

    async def look(
        self, requester: Requester, asked: Asked, state: State, since: int, permission: InvitePermission
    ) -> Windows:
        """The rooms of each list's window, and those that are subscribed to; ``since``: what the client has."""
        index, user_nid = self._index, requester.user_nid
        user = await self._facts.user(user_nid, requester.user_id)
        standings, join = index.rooms_of(user_nid), Membership.JOIN
        rooms = {
            nid: standing
            for nid, standing in standings.items()
            if standing.membership is join or _is_shown(nid, standing, user, state, since)
        }
        for nid in await self._inviters.hidden(user_nid, rooms, permission):
            del rooms[nid]
        windows = Windows()
        if any(one.filters.by_name for one in asked.lists.values()):
            windows.names = await self._names(rooms)
        rules: dict[int, list[str]] = {}
        ordered: list[int] | None = None
        passed: dict[Filters, Mapping[int, Standing]] = {NO_FILTERS: rooms}
        in_order: dict[Filters, list[int]] = {}  # those that pass
        for name, one in asked.lists.items():
            if one.filters not in passed:
                if len(passed) * len(rooms) > CHECKS_MOST:
                    raise invalid_param("These are too many different lists for so many rooms")
                passed[one.filters] = await self._filter(user_nid, rooms, one.filters, user, windows.names)
            fit = passed[one.filters]
            windows.counts[name] = len(fit)
            wanted: Iterable[int] = fit
            if one.ranges is not None and not _covers_all(one.ranges, len(fit)):
                if ordered is None:
                    ordered = self._order(rooms)
                if one.filters not in in_order:
                    in_order[one.filters] = [nid for nid in ordered if nid in fit]
                wanted = _pick(in_order[one.filters], one.ranges)
            for nid in wanted:
                rules.setdefault(nid, []).append(name)
        subscribed: dict[int, RoomConfig] = {}
        for room_id, config in asked.subscriptions.items():
            room_nid = self._interner.known_room(room_id)
            if room_nid is not None and (room_nid in rooms or _may_look_back(room_nid, standings, user)):
                subscribed[room_nid] = config
                rules.setdefault(room_nid, [])
        self._combine(windows, asked, rules, subscribed)
        if not windows.names:
            windows.names = await self._names(windows.rooms)
        return windows

    async def _names(self, rooms: Iterable[int]) -> dict[int, str]:
        known, names = self._interner.room_name, {}
        for nid in rooms:
            name = known(nid)
            if name is None:
                return await self._interner.room_names(rooms)
            names[nid] = name
        return names

    def _order(self, rooms: Mapping[int, Standing]) -> list[int]:
        """The newest first."""
        last, join = self._index.last_event, Membership.JOIN
        placed = {
            nid: last.get(nid) or one.pos if one.membership is join else one.pos for nid, one in rooms.items()
        }
        return sorted(placed, key=placed.__getitem__, reverse=True)

    def _combine(
        self,
        windows: Windows,
        asked: Asked,
        rules: Mapping[int, list[str]],
        subscribed: Mapping[int, RoomConfig],
    ) -> None:
        """Rooms that the same rules ask for share one object."""
        combined: dict[tuple[tuple[str, ...], RoomConfig | None], Relevant] = {}
        different: set[frozenset[Required]] = set()
        weight = 0
        for nid, names in rules.items():
            own = subscribed.get(nid)
            key = (tuple(names), own)
            relevant = combined.get(key)
            if relevant is None:
                configs = [asked.lists[name].config for name in names]
                if own is not None:
                    configs.append(own)
                wishes, size = self._same(frozenset(one.required for one in configs))
                if wishes not in different:
                    # They are kept, and each is a sum of lists and subscriptions: a hundred lists make many sums.
                    different.add(wishes)
                    weight += size
                    if weight > WISHES_MOST:
                        raise invalid_param("These are too many different wishes for the state of rooms")
                relevant = combined[key] = Relevant(
                    max(one.limit for one in configs),
                    wishes,
                    dict.fromkeys(names),
                    own is not None,
                )
            windows.rooms[nid] = relevant

    def _same(self, wishes: frozenset[Required]) -> tuple[frozenset[Required], int]:
        """Equal wishes of different requests are one object: rooms by the hundred are held against them."""
        known = self._wishes.get(wishes)
        if known is None:
            known = (wishes, weigh(wishes))
            self._weight += known[1]
            if self._weight > _WISHES_KEPT:
                self._wishes.clear()
                self._weight = known[1]
            self._wishes[wishes] = known
        return known

    async def _filter(
        self,
        user_nid: int,
        rooms: Mapping[int, Standing],
        filters: Filters,
        user: UserFacts,
        names: Mapping[int, str],
    ) -> Mapping[int, Standing]:
        found = rooms
        if filters.is_invited is not None:
            invited = filters.is_invited
            found = {
                nid: one for nid, one in found.items() if (one.membership == Membership.INVITE) is invited
            }
        if filters.by_user:
            found = {nid: one for nid, one in found.items() if _fits_user(nid, filters, user, names)}
        if filters.by_room:
            facts, fits = await self._facts_of(user_nid, found, user), _room_test(filters)
            found = {nid: one for nid, one in found.items() if fits(facts.get(nid, NO_FACTS))}
        if filters.spaces is not None:
            spaces = [self._interner.known_room(room_id) for room_id in sorted(filters.spaces)]
            if None in spaces:
                numbers = await self._interner.find_rooms(filters.spaces)
                spaces = [numbers.get(room_id) for room_id in sorted(filters.spaces)]
            joined = [
                nid
                for nid in spaces
                if nid is not None and nid in rooms and rooms[nid].membership == Membership.JOIN
            ]
            children = await self._facts.children(joined)
            found = {nid: one for nid, one in found.items() if names.get(nid) in children}
        return found

    async def _facts_of(
        self, user_nid: int, rooms: Mapping[int, Standing], user: UserFacts
    ) -> Mapping[int, RoomFacts]:
        """What rooms are as far as a user may know it: of those that they are not in, what they were when they were told."""
        outside = await self._facts.outside(user_nid, [nid for nid, one in rooms.items() if one.outside])
        inside = {nid: one for nid, one in rooms.items() if not one.outside}
        told_by = {
            nid: one.event_nid if one.membership in _OPEN else user.last_told.get(nid, 0)
            for nid, one in inside.items()
            if one.membership is not Membership.JOIN
        }
        told = await self._facts.told({nid for nid in told_by.values() if nid})
        joined = await self._facts.rooms([nid for nid in inside if nid not in told_by])
        facts = {nid: joined[nid] for nid in inside if nid not in told_by}
        facts.update((nid, told[event_nid]) for nid, event_nid in told_by.items() if event_nid)
        facts.update(outside)
        return facts


def _is_shown(nid: int, standing: Standing, user: UserFacts, state: State, since: int) -> bool:
    """Whether a room that the user is not in is among theirs."""
    if standing.membership in _OPEN:
        return True
    told = state.get(nid)
    if told is not None and told.kind != GONE:
        # Although it may be forgotten by now: a client that shows the room must hear that it is over.
        return True
    if standing.forgotten:
        return False  # whatever still happens to them there
    # Who was told of a ban is told that it is over, too.
    return nid in user.removed or (told is not None and standing.pos > (told.sent or since))


def _may_look_back(nid: int, standings: Mapping[int, Standing], user: UserFacts) -> bool:
    """Whether a room that is not among a user's may be asked for by name: they left it, and may see what they saw."""
    standing = standings.get(nid)
    if standing is None or standing.membership != Membership.LEAVE or standing.forgotten:
        return False
    return nid not in user.strangers


def _covers_all(ranges: Iterable[tuple[int, int]], count: int) -> bool:
    return any(first == 0 and last >= count - 1 for first, last in ranges)


def _pick(ordered: list[int], ranges: Iterable[tuple[int, int]]) -> list[int]:
    return [nid for first, last in ranges for nid in ordered[first : last + 1]]


def _fits_user(nid: int, filters: Filters, user: UserFacts, names: Mapping[int, str]) -> bool:
    if filters.is_dm is not None and (names.get(nid) in user.direct) is not filters.is_dm:
        return False
    tags = user.tags.get(nid, frozenset())
    if tags & filters.not_tags:
        return False
    return filters.tags is None or bool(tags & filters.tags)


def _room_test(filters: Filters) -> Callable[[RoomFacts], bool]:
    def fits(facts: RoomFacts) -> bool:
        if filters.is_encrypted is not None and facts.encrypted is not filters.is_encrypted:
            return False
        if facts.room_type in filters.not_room_types:
            return False
        if filters.room_types is not None and facts.room_type not in filters.room_types:
            return False
        return filters.name_like is None or filters.name_like in (facts.name or "").casefold()

    return fits
