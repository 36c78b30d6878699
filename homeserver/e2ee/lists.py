"""Whose keys a client has to ask for again, and whom it need not follow any more: from the tables.

Runs in a database thread. The reader's snapshot may be ahead of ``upto``; who comes or goes after it is told the next
time, so nobody is missed, and at most somebody is told twice. Of a room where the reader came or went themselves those
are named with whom they were in it, and nobody who came after they had gone: who is let in then is no business of theirs.

# spec: client-server-api#tracking-the-device-list-for-a-user
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.db.tx import Tx
from homeserver.store.company import find_met, load_moves_since
from homeserver.store.cross_signing import load_others_signed
from homeserver.store.device_lists import (
    MemberMove,
    load_changed_users,
    load_joined_by_room,
    load_sharing,
)
from homeserver.store.visibility_reads import StateFacts

_JOIN = "join"


@dataclass(frozen=True, slots=True)
class ListAsk:
    """Who asks about ``(since, upto]``, with the rooms that they are in, and those where their membership moved."""

    user_nid: int
    since: int
    upto: int
    joined: frozenset[int]
    moved: frozenset[int]


@dataclass(frozen=True, slots=True)
class ListNews:
    """Users whose keys must be asked for, and users with whom no room is shared any more."""

    changed: frozenset[int] = frozenset()
    left: frozenset[int] = frozenset()


def load_news(tx: Tx, ask: ListAsk, facts: StateFacts) -> ListNews:
    """See the module."""
    by_room, words = load_moves_since(tx, ask.joined | ask.moved, ask.since, facts)
    came: set[int] = set()
    went: set[int] = set()
    crossed: set[int] = set()
    for room_nid, moves in by_room.items():
        # Of the reader those after ``upto`` too: who went before them would be missed by this time and the next.
        if _crossing([move for move in moves if move.user_nid == ask.user_nid], words):
            crossed.add(room_nid)
        elif room_nid in ask.joined:
            rows = [move for move in moves if move.pos <= ask.upto]
            for user_nid, is_there in _crossing(rows, words).items():
                (came if is_there else went).add(user_nid)
    for room_nid, there in load_joined_by_room(tx, crossed).items():
        if room_nid in ask.joined:
            came |= there
        went |= find_met(ask.user_nid, there, by_room[room_nid], words)
    changed = set(load_changed_users(tx, ask.since, ask.upto))
    sharing = load_sharing(tx, came | went | changed, ask.joined)
    told = ((came | changed) & sharing) - {ask.user_nid}
    if ask.user_nid in changed:
        told.add(ask.user_nid)
    told.update(load_others_signed(tx, ask.user_nid, ask.since, ask.upto))
    return ListNews(frozenset(told), frozenset(went - sharing - {ask.user_nid}))


def _crossing(moves: Sequence[MemberMove], words: dict[int, str]) -> dict[int, bool]:
    """Those who joined or left (and not those who only changed their name): whether they were there at last."""

    def is_join(nid: int) -> bool:
        return bool(nid) and words.get(nid) == _JOIN

    crossed = {move.user_nid for move in moves if is_join(move.event_nid) != is_join(move.prev_nid)}
    return {move.user_nid: is_join(move.event_nid) for move in moves if move.user_nid in crossed}
