"""Memberships and newest positions in memory: a read model that follows the log.

"Which of my rooms changed since this token" is a walk over a dict, without SQL. Only users of this server are here.
Estimate: 120 bytes a membership.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from homeserver.store.changes import Change, Kind
from homeserver.store.members import Member
from homeserver.store.outside import Told
from homeserver.store.placement import ENDED, Membership, StateMove, moves_of
from homeserver.store.users import AccountChanged

# LIMIT(memory: who came before that is not told of as somebody new)
CAME_MOST = 2_000


class Coming(NamedTuple):
    """A local user came into a room."""

    pos: int
    room_nid: int
    user_nid: int


class Standing(NamedTuple):
    """What a user is to a room, since when, by which event."""

    membership: Membership
    pos: int
    event_nid: int
    forgotten: bool = False
    outside: bool = False  # in a room that this server is not in: no event, see store/outside.py


def _standing(member: Member) -> Standing:
    return Standing(member.membership, member.pos, member.event_nid, member.forgotten, member.outside)


_NONE: Mapping[int, Standing] = {}
_EMPTY: frozenset[int] = frozenset()


class MembershipIndex:
    """See above. ``apply`` is subscribed to the log before anything that reads from here."""

    def __init__(
        self,
        members: Iterable[Member],
        last_positions: Mapping[int, int],
        accounts: Iterable[int] = (),
        moved: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        """``last_positions``: of events. ``moved``: of rooms' states, which move without an event, too."""
        self._by_user: dict[int, dict[int, Standing]] = {}
        self._joined: dict[int, set[int]] = {}
        self._came: deque[Coming] = deque(maxlen=CAME_MOST)
        self.last_pos: dict[int, int] = dict(last_positions)  # topic -> newest position there
        self.last_event: dict[int, int] = dict(last_positions)  # room -> position of its newest event
        for room_nid, pos in moved.items():
            self.last_pos[room_nid] = max(pos, self.last_pos.get(room_nid, 0))
        for user_nid in accounts:
            self.add_local_user(user_nid)
        for member in members:
            self._put(member.user_nid, member.room_nid, _standing(member))

    def add_local_user(self, user_nid: int) -> None:
        """An account of this server: its memberships are kept."""
        self._by_user.setdefault(user_nid, {})

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        last_pos = self.last_pos
        for change in changes:
            last_pos[change.topic] = change.pos
            if change.kind == Kind.EVENT:
                self.last_event[change.topic] = change.pos
            if change.kind == Kind.EVENT or change.kind == Kind.STATE_MOVED:
                for move in moves_of(change):
                    if move.member_nid and move.member_nid in self._by_user:
                        self._move(change, move)
            elif change.kind == Kind.OUTSIDE and change.payload is not None:
                told: Told = change.payload
                self._follow(
                    told.user_nid, told.room_nid, Standing(told.membership, change.pos, 0, outside=True)
                )
            elif change.kind == Kind.ACCOUNT:
                self._add_account(-change.topic, change.payload)
            elif change.kind == Kind.FORGOTTEN:
                self._forget(-change.topic, change.ref)

    def _move(self, change: Change, move: StateMove) -> None:
        if move.event_nid:
            if move.membership == Membership.JOIN and move.member_nid not in self.local_members(change.topic):
                self._came.append(Coming(change.pos, change.topic, move.member_nid))
            self._follow(move.member_nid, change.topic, Standing(move.membership, change.pos, move.event_nid))
        else:
            before = self._by_user[move.member_nid].pop(change.topic, None)
            self._joined.get(change.topic, set()).discard(move.member_nid)
            if before is not None and before.membership not in ENDED:
                # As store.outside.put_vanished has it.
                gone = Standing(Membership.LEAVE, change.pos, 0, outside=True)
                self._put(move.member_nid, change.topic, gone)
        # An invited or removed user hears of it although they are not in the room.
        self.last_pos[-move.member_nid] = change.pos

    def _add_account(self, user_nid: int, payload: AccountChanged) -> None:
        self.add_local_user(user_nid)
        for member in payload.members:
            self._put(user_nid, member.room_nid, _standing(member))
            self.last_pos[-user_nid] = max(self.last_pos[-user_nid], member.pos)

    def _follow(self, user_nid: int, room_nid: int, standing: Standing) -> None:
        """A membership is another: a room that was forgotten stays so while it is over for the user."""
        # spec: client-server-api#leaving-rooms
        if standing.membership in ENDED:
            before = self._by_user.get(user_nid, _NONE).get(room_nid)
            if before is not None and before.forgotten:
                standing = standing._replace(forgotten=True)
        self._put(user_nid, room_nid, standing)

    def _put(self, user_nid: int, room_nid: int, standing: Standing) -> None:
        self._by_user.setdefault(user_nid, {})[room_nid] = standing
        if standing.membership == Membership.JOIN:
            self._joined.setdefault(room_nid, set()).add(user_nid)
        elif room_nid in self._joined:
            self._joined[room_nid].discard(user_nid)

    def came_in(self, since: int, upto: int) -> list[Coming]:
        """Who came into which room in ``(since, upto]``, as far as it is remembered; the newest first."""
        found: list[Coming] = []
        for coming in reversed(self._came):
            if coming.pos <= since:
                break
            if coming.pos <= upto:
                found.append(coming)
        return found

    def _forget(self, user_nid: int, room_nid: int) -> None:
        standing = self._by_user.get(user_nid, {}).get(room_nid)
        if standing is not None:
            self._by_user[user_nid][room_nid] = standing._replace(forgotten=True)

    # --- questions -----------------------------------------------------------------------------------

    def is_local(self, user_nid: int) -> bool:
        """Whether this is an account of this server."""
        return user_nid in self._by_user

    def local_users(self) -> list[int]:
        """Every account of this server."""
        return list(self._by_user)

    def rooms_of(self, user_nid: int) -> Mapping[int, Standing]:
        """Every room that a local user is or was anything to."""
        return self._by_user.get(user_nid, _NONE)

    def standing(self, user_nid: int, room_nid: int) -> Standing | None:
        """What a local user is to a room."""
        return self._by_user.get(user_nid, _NONE).get(room_nid)

    def is_joined(self, user_nid: int, room_nid: int) -> bool:
        """Whether a local user is in a room."""
        standing = self.standing(user_nid, room_nid)
        return standing is not None and standing.membership == Membership.JOIN

    def joined_rooms(self, user_nid: int) -> list[int]:
        """The rooms that a local user is in."""
        return [nid for nid, one in self.rooms_of(user_nid).items() if one.membership == Membership.JOIN]

    def has_news(self, user_nid: int, pos: int) -> bool:
        """Whether anything happened after a position to a local user, or in a room that they are in."""
        last_pos = self.last_pos
        if last_pos.get(-user_nid, 0) > pos:
            return True
        for room_nid, standing in self.rooms_of(user_nid).items():
            if standing.membership == Membership.JOIN and last_pos.get(room_nid, 0) > pos:
                return True
        return False

    def rooms_since(self, pos: int) -> list[int]:
        """The rooms in which something happened after a position."""
        return [topic for topic, newest in self.last_pos.items() if topic > 0 and newest > pos]

    def local_members(self, room_nid: int) -> Collection[int]:
        """The local users who are in a room (do not change it)."""
        return self._joined.get(room_nid, _EMPTY)

    def shares_room(self, one: int, other: int) -> bool:
        """Whether two local users are in a room together."""
        return one == other or any(
            other in self.local_members(room_nid) for room_nid in self.joined_rooms(one)
        )
