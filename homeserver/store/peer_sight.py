"""May another server see these events? What its users may see, it may; the rest it gets in redacted form.

A server sees what one of its users saw: by the history visibility at the event, and by what its users were to the
room then. Where anybody in the room may read all of it, which is nearly always, its users need not be looked at.

# spec: client-server-api#room-history-visibility
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from federation.versions import RoomRules
from federation.visibility import DEFAULT_VISIBILITY
from homeserver.db.tx import Tx
from homeserver.store.history import HistoryRow
from homeserver.store.peer_reads import as_redacted, load_keys_of_server, load_texts
from homeserver.store.state import Snapshot
from homeserver.store.veil import find_hidden
from homeserver.store.visibility_reads import StateFacts

_USERS_AT_ONCE = 500


class _Sent(msgspec.Struct):
    sender: str


_decode_sender = msgspec.json.Decoder(_Sent).decode


@dataclass(frozen=True, slots=True)
class Onlooker:
    """A server that looks at a room."""

    server: str
    room_nid: int
    resident: bool  # one of its users is in the room now
    visibility_key: int  # state key nid of m.room.history_visibility; 0: no room has one


def find_erased(
    tx: Tx, room_nid: int, server: str, texts: Mapping[int, bytes | str], facts: StateFacts
) -> set[int]:
    """Which events of a room a server gets redacted because they are of erased users. ``texts``: by nid."""
    erased = facts.erased.by_id
    if not erased:
        return set()
    suspects = {nid: erased[user_id] for nid, text in texts.items() if (user_id := _sender(text)) in erased}
    if not suspects:
        return set()
    return find_hidden(tx, suspects, lambda _: load_keys_of_server(tx, room_nid, server), facts)


def _sender(text: bytes | str) -> str:
    return _decode_sender(text).sender


def visible_to(tx: Tx, onlooker: Onlooker, rows: Sequence[HistoryRow], facts: StateFacts) -> list[bool]:
    """For each event whether the server may see it."""
    snapshots = facts.snapshots(tx, {row.state_before for row in rows if row.state_before is not None})
    held = {nid: one.get(onlooker.visibility_key) for nid, one in snapshots.items()}
    own = {
        row.nid for row in rows if onlooker.visibility_key and row.state_key_nid == onlooker.visibility_key
    }
    words = facts.words(tx, {nid for nid in held.values() if nid} | own)
    visibilities = {nid: words.get(by, DEFAULT_VISIBILITY) for nid, by in held.items()}
    # For everybody, or for all who are or will be in the room.
    open_words = {"world_readable", "shared"} if onlooker.resident else {"world_readable"}
    closed = {nid: snapshots[nid] for nid, word in visibilities.items() if word not in open_words}
    if not closed:
        return [row.state_before is not None for row in rows]
    keys = load_keys_of_server(tx, onlooker.room_nid, onlooker.server)
    of_users = frozenset(keys)
    seen_by = _seen_by(tx, closed, visibilities, keys, facts)
    return [
        row.state_before is not None
        and (
            row.state_before not in closed
            or row.state_before in seen_by
            # Either side of a change of the visibility may allow it; what its users did, a server knows.
            or (row.nid in own and words.get(row.nid) in open_words)
            or row.state_key_nid in of_users
        )
        for row in rows
    ]


def _seen_by(
    tx: Tx,
    closed: Mapping[int, Snapshot],
    visibilities: Mapping[int, str],
    keys: Sequence[int],
    facts: StateFacts,
) -> Collection[int]:
    """The states in which one of these users could see what was sent."""
    seen: set[int] = set()
    for start in range(0, len(keys), _USERS_AT_ONCE):
        some = keys[start : start + _USERS_AT_ONCE]
        undecided = {nid: one for nid, one in closed.items() if nid not in seen}
        if not undecided:
            break
        memberships = {nid: {one.get(key) for key in some} - {0} for nid, one in undecided.items()}
        words = facts.words(tx, set().union(*memberships.values()))
        for nid, event_nids in memberships.items():
            enough = {"join", "invite"} if visibilities[nid] == "invited" else {"join"}
            if any(words.get(event_nid) in enough for event_nid in event_nids):
                seen.add(nid)
    return seen


def load_texts_for(
    tx: Tx, room_nid: int, server: str, nids: Sequence[int], rules: RoomRules, facts: StateFacts
) -> dict[int, bytes]:
    """As ``load_texts``, for one server that the events of a room are sent to."""
    texts = load_texts(tx, nids, rules)
    for nid in find_erased(tx, room_nid, server, texts, facts):
        texts[nid] = as_redacted(texts[nid], rules)
    return texts
