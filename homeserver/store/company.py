"""With whom a user was in rooms at some time after a position: from who is there now, and how memberships moved.

The moves are undone from the newest to the oldest, so nobody is found who came after the user had gone, or had gone before
they came. What was read MUST be of one snapshot, and the moves reach up to it.

# spec: client-server-api#tracking-the-device-list-for-a-user
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from homeserver.db.tx import Tx
from homeserver.store.device_lists import MemberMove, load_joined_by_room, load_member_moves
from homeserver.store.history import END
from homeserver.store.placement import Membership
from homeserver.store.visibility_reads import StateFacts

_JOIN = Membership.JOIN.word


def load_moves_since(
    tx: Tx, room_nids: Collection[int], since: int, facts: StateFacts
) -> tuple[dict[int, list[MemberMove]], dict[int, str]]:
    """How memberships moved after a position, up to now, by room, oldest first; and what their events say."""
    by_room: dict[int, list[MemberMove]] = {}
    nids: set[int] = set()
    for move in load_member_moves(tx, room_nids, since, END):
        by_room.setdefault(move.room_nid, []).append(move)
        nids.update(nid for nid in (move.event_nid, move.prev_nid) if nid)
    return by_room, facts.words(tx, nids)


def find_met(
    user_nid: int, there: Collection[int], moves: Sequence[MemberMove], words: Mapping[int, str]
) -> set[int]:
    """With whom a user was in a room, of those who are there now and those who moved, as ``load_moves_since`` found."""
    now = set(there)
    met = set(now) if user_nid in now else set()
    for move in reversed(moves):
        was_in, is_own = words.get(move.prev_nid) == _JOIN, move.user_nid == user_nid
        came_back = was_in and move.user_nid not in now
        if was_in:
            now.add(move.user_nid)
        else:
            now.discard(move.user_nid)
        if came_back and is_own:
            met |= now
        elif came_back and user_nid in now:
            met.add(move.user_nid)
    met.discard(user_nid)
    return met


def load_met(tx: Tx, user_nid: int, room_nids: Collection[int], since: int, facts: StateFacts) -> set[int]:
    """With whom a user was in one of the rooms after a position, of those rooms where they came or went."""
    by_room, words = load_moves_since(tx, room_nids, since, facts)
    crossed = {
        move.room_nid
        for moves in by_room.values()
        for move in moves
        if move.user_nid == user_nid and _JOIN in (words.get(move.event_nid), words.get(move.prev_nid))
    }
    met: set[int] = set()
    for room_nid, there in load_joined_by_room(tx, crossed).items():
        met |= find_met(user_nid, there, by_room[room_nid], words)
    return met
