"""May a reader see these events, and what were they to the room then? Decided for many events at once.

What is looked at never changes (the state before an event, what a state event says), so it is remembered by number,
within a byte budget: a page of history that somebody has just read needs no statement here.

# spec: client-server-api#room-history-visibility
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from federation.visibility import DEFAULT_VISIBILITY, may_see, visibility_of
from homeserver.db.tx import Tx
from homeserver.store.cache import ByteLru
from homeserver.store.erasures import ErasedUsers
from homeserver.store.events import load_json
from homeserver.store.history import HistoryRow
from homeserver.store.placement import MEMBERSHIPS, Membership
from homeserver.store.state import BaseCache, Snapshot, empty_snapshot, load_snapshots

_NO_STATE = empty_snapshot(0)


class _Content(msgspec.Struct):
    membership: Any = None
    history_visibility: Any = None


class _Event(msgspec.Struct):
    type: str
    content: _Content


_decode = msgspec.json.Decoder(_Event).decode


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads a room, and what they are to it."""

    user_id: str
    member_key: int  # state key nid of their membership; 0: they have none anywhere
    visibility_key: int  # that of m.room.history_visibility; 0: no room has one
    joined: bool
    last_join: int | None = None  # of those who are not in the room: the newest position at which they joined


class StateFacts:
    """The states that events were sent on, what memberships and visibilities said, whose events are erased.

    Shared by all threads.
    """

    def __init__(
        self,
        bases: BaseCache,
        erased: ErasedUsers,
        snapshots_bytes: int = 12 * 1024 * 1024,
        words_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        self.bases = bases
        self.erased = erased
        self._snapshots: ByteLru[int, Snapshot] = ByteLru(
            snapshots_bytes, lambda one: 300 + 100 * len(one.delta)
        )
        self._words: ByteLru[int, str] = ByteLru(words_bytes, lambda word: 200 + len(word))

    def snapshots(self, tx: Tx, nids: Collection[int]) -> dict[int, Snapshot]:
        """States by nid (0: the empty one); in at most two reads."""
        found: dict[int, Snapshot] = {}
        missing: list[int] = []
        for nid in nids:
            known = self._snapshots.get(nid) if nid else _NO_STATE
            if known is None:
                missing.append(nid)
            else:
                found[nid] = known
        if missing:
            for nid, snapshot in load_snapshots(tx, missing, self.bases).items():
                self._snapshots.put(nid, snapshot)
                found[nid] = snapshot
        return found

    def words(self, tx: Tx, nids: Collection[int]) -> dict[int, str]:
        """What state events say: a visibility, a membership; "" where that is nothing. In at most one read."""
        found: dict[int, str] = {}
        missing: list[int] = []
        for nid in nids:
            known = self._words.get(nid)
            if known is None:
                missing.append(nid)
            else:
                found[nid] = known
        if missing:
            for row in load_json(tx, missing):
                word = _word(row.json)
                self._words.put(row.nid, word)
                found[row.nid] = word
        return found


def _word(json: bytes) -> str:
    # Both keys survive redaction, so this holds whatever becomes of the event.
    event = _decode(json)
    if event.type == "m.room.history_visibility":
        return visibility_of({"history_visibility": event.content.history_visibility})
    membership = event.content.membership
    return membership if isinstance(membership, str) and membership in MEMBERSHIPS else ""


def look(tx: Tx, reader: Reader, rows: Sequence[HistoryRow], facts: StateFacts) -> list[Membership | None]:
    """For each event what the reader was to the room after it; None where they may not see it."""
    member_key, visibility_key = reader.member_key, reader.visibility_key
    snapshots = facts.snapshots(tx, {row.state_before for row in rows if row.state_before is not None})
    held = {nid: (one.get(visibility_key), one.get(member_key)) for nid, one in snapshots.items()}
    wanted = {nid for pair in held.values() for nid in pair if nid}
    watched = {key for key in (member_key, visibility_key) if key}
    own = {row.nid for row in rows if row.state_key_nid in watched}
    words = facts.words(tx, wanted | own)
    before = {
        nid: (words.get(visibility_nid, DEFAULT_VISIBILITY), words.get(member_nid, ""))
        for nid, (visibility_nid, member_nid) in held.items()
    }
    result: list[Membership | None] = []
    # Nearly all of a page stands in the same few states, and nobody has joined or left meanwhile.
    plain = {
        state: MEMBERSHIPS.get(membership, Membership.LEAVE)
        if may_see(visibility, membership, reader.joined)
        else None
        for state, (visibility, membership) in before.items()
    }
    for row in rows:
        if reader.joined and row.nid not in own and row.pos is not None and row.state_before is not None:
            result.append(plain[row.state_before])
            continue
        if row.pos is None or row.state_before is None:
            result.append(None)
            continue
        visibility, membership = before[row.state_before]
        later = reader.joined or (reader.last_join is not None and reader.last_join > row.pos)
        allowed = may_see(visibility, membership, later)
        if row.nid in own:
            # Either side of the change may allow it.
            if row.state_key_nid == member_key:
                membership = words.get(row.nid, "")
            else:
                visibility = words.get(row.nid, DEFAULT_VISIBILITY)
            allowed = allowed or may_see(visibility, membership, later)
        result.append(MEMBERSHIPS.get(membership, Membership.LEAVE) if allowed else None)
    return result


def visible(tx: Tx, reader: Reader, rows: Sequence[HistoryRow], facts: StateFacts) -> list[bool]:
    """Whether the reader may see each of these events."""
    return [one is not None for one in look(tx, reader, rows, facts)]
