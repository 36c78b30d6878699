"""Profiles as sync tells them: what changed of those with whom a user shares a room.

1. Of users of other servers nobody tells us but their rooms, and these of names and pictures (``remote_profiles.py``).
2. What is told is the profile as it is now. Of several changes only the last is told, and one may be told twice.
3. Whether there is anything is known from memory; where the memory does not reach back, the tables are asked.

proposals: MSC4262 (sliding sync), MSC4429 (classic sync), MSC4426 (user status)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from homeserver.db.threads import Database
from homeserver.store.changes import Change, Kind
from homeserver.store.company import load_met
from homeserver.store.ids import Interner
from homeserver.store.placement import ENDED, MOVING, Membership, moves_of
from homeserver.store.profiles import Changed, ProfileChanged, load_changes, load_fields
from homeserver.store.remote_profiles import SHOWN, Shown
from homeserver.store.visibility_reads import StateFacts
from homeserver.stream.index import MembershipIndex
from homeserver.stream.log import ChangeLog
from homeserver.sync.remote_profiles import RemoteNews
from homeserver.sync.serialise import encode

_KEPT = 10_000
# LIMIT(profiles in one answer beside those that changed: clients ask for what they show)
FULL_MOST = 2_000

Fields = frozenset[str] | None
"""The fields that are asked for; None: all."""


@dataclass(slots=True)
class Update:
    """What is new of one user's profile: values as JSON, and the fields that are gone."""

    updated: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)


Updates = dict[int, Update | None]
"""By user; None: the reader shares no room with them any more."""


class ProfileNews:
    """See the module; follows the log."""

    def __init__(
        self,
        database: Database,
        interner: Interner,
        index: MembershipIndex,
        changes: ChangeLog,
        facts: StateFacts,
    ) -> None:
        self._database = database
        self._facts = facts
        self._interner = interner
        self._index = index
        self._log = changes
        self._recent: deque[Changed] = deque()
        self._floor = changes.position
        self._remote = RemoteNews(database, index, changes.position)

    kinds = MOVING | {Kind.PROFILE}  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        self._remote.apply(changes)
        for change in changes:
            if change.kind != Kind.PROFILE:
                continue
            if not isinstance(change.payload, ProfileChanged):
                self._recent.clear()
                self._floor = change.pos
                continue
            self._recent.append(Changed(change.pos, change.payload.user_nid, change.payload.field))
            if len(self._recent) > _KEPT:
                self._floor = self._recent.popleft().pos

    def changed(self, user_nid: int, since: int, fields: Fields) -> bool:
        """Whether there may be news for a user after a position; from memory."""
        if since < self._floor:
            return True
        if any(self._concerns(user_nid, one, fields) for one in self._since(since)):
            return True
        return _of_rooms(fields) and self._remote.changed(user_nid, since)

    def _since(self, since: int) -> Iterable[Changed]:
        """The newest first."""
        for one in reversed(self._recent):
            if one.pos <= since:
                return
            yield one

    def _concerns(self, user_nid: int, one: Changed, fields: Fields) -> bool:
        return (fields is None or one.field in fields) and self._index.shares_room(user_nid, one.user_nid)

    async def updates(self, user_nid: int, since: int, upto: int, fields: Fields) -> Updates:
        """What changed in ``(since, upto]`` of those with whom a user shares a room, themselves included."""
        if since < self._floor:
            found: Iterable[Changed] = await self._database.read(load_changes, since, upto)
        else:
            found = [one for one in self._since(since) if one.pos <= upto]
        changed: dict[int, set[str]] = {}
        for one in found:
            if self._concerns(user_nid, one, fields):
                changed.setdefault(one.user_nid, set()).add(one.field)
        result: Updates = {}
        if changed:
            current = await self._database.read(load_fields, sorted(changed))
            for nid, names in changed.items():
                profile = current.get(nid, {})
                result[nid] = Update(
                    {name: profile[name] for name in sorted(names) if name in profile},
                    sorted(name for name in names if name not in profile),
                )
        if _of_rooms(fields):
            for nid, shown in (await self._remote.updates(user_nid, since, upto)).items():
                told = _told(shown, fields)
                if told.updated or told.removed:
                    result[nid] = told
        return result

    async def departed(self, user_nid: int, since: int, upto: int, fields: Fields) -> Updates:
        """Users with whom a user was in a room and shares none any more, as far as the log tells."""
        index, log = self._index, self._log
        if since < log.floor:
            return {}
        gone: set[int] = set()
        left: list[int] = []
        for room_nid, standing in index.rooms_of(user_nid).items():
            changes = log.of_topic(room_nid, since)
            moves = [(change.pos, move) for change in changes for move in moves_of(change) if move.member_nid]
            # Theirs also where they came after this answer's position: of who had gone before that nobody would tell then.
            if any(move.member_nid == user_nid and move.membership != Membership.JOIN for _, move in moves):
                left.append(room_nid)
            elif standing.membership == Membership.JOIN:
                gone.update(
                    move.member_nid for pos, move in moves if pos <= upto and move.membership in ENDED
                )
        if left:
            # Not who is there now: who was let in after them is no business of theirs.
            gone |= await self._database.read(load_met, user_nid, left, since, self._facts)
        found: Updates = {
            nid: None for nid in sorted(gone) if index.is_local(nid) and not index.shares_room(user_nid, nid)
        }
        if _of_rooms(fields):
            others = [nid for nid in gone if not index.is_local(nid)]
            found.update(dict.fromkeys(await self._remote.strangers(user_nid, others, FULL_MOST)))
        return found

    async def full(self, user_nid: int, others: Collection[int], fields: Fields) -> Updates:
        """The profiles of some users for another, as far as they are asked for and known here."""
        if fields is not None and not fields:
            return {}
        wanted = sorted(others)[:FULL_MOST]
        local = [nid for nid in wanted if self._index.is_local(nid)]
        result: Updates = {}
        for nid, profile in (await self._database.read(load_fields, local)).items() if local else ():
            told = {name: value for name, value in profile.items() if fields is None or name in fields}
            if told:
                result[nid] = Update(told)
        if len(local) < len(wanted) and _of_rooms(fields):
            remote = [nid for nid in wanted if not self._index.is_local(nid)]
            for nid, shown in (await self._remote.full(user_nid, remote)).items():
                updated = _told(shown, fields).updated
                if updated:
                    result[nid] = Update(updated)
        return result

    async def numbers(self, user_ids: Iterable[str]) -> Collection[int]:
        """The numbers of users, of those who are known."""
        return (await self._interner.find_users(user_ids)).values()

    async def members(self, room_nids: Collection[int], fields: Fields) -> Collection[int]:
        """Those who are in some rooms, our own users first, at most so many as are told of at once."""
        found: dict[int, None] = {}
        for room_nid in room_nids:
            found.update(dict.fromkeys(sorted(self._index.local_members(room_nid))))
            if len(found) > FULL_MOST:
                break
        if _of_rooms(fields):
            found.update(dict.fromkeys(await self._remote.members(room_nids, FULL_MOST - len(found))))
        return list(found)[:FULL_MOST]

    async def name(self, updates: Updates) -> Mapping[str, Update | None]:
        """The same by user id."""
        names = await self._interner.user_names(updates)
        return {names[nid]: one for nid, one in updates.items() if nid in names}


def _of_rooms(fields: Fields) -> bool:
    """Whether a field is asked for that rooms show."""
    return fields is None or not SHOWN.isdisjoint(fields)


def _told(shown: Shown, fields: Fields) -> Update:
    asked = {name: value for name, value in shown.items() if fields is None or name in fields}
    updated = {name: encode(value).decode() for name, value in asked.items() if value is not None}
    return Update(updated, sorted(name for name in asked if asked[name] is None))


def merge(first: Updates, second: Updates) -> Updates:
    """Both; where they speak of the same user, what the second says goes before."""
    result = dict(first)
    for nid, update in second.items():
        known = result.get(nid)
        if known is None or update is None:
            result[nid] = update
        else:
            removed = sorted({*known.removed, *update.removed}.difference(update.updated))
            result[nid] = Update({**known.updated, **update.updated}, removed)
    return result
