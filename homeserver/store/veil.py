"""What is left to see of erased users' events: whoever had no sight of them when the erasure came gets them redacted.

Somebody had sight of an event if they were in the room when it was sent, or came between it and the erasure. (That the
history visibility lets them see it now is decided before, as for every event.) So a stay in the room that began before
the erasure and ended after the event decides, and none that began later. Another server had sight if one of its users had.

Some events stay as they are: what the room's state is made of now and what events of others rest on, because that is the
room's and not only the user's (a newcomer must know that the room is encrypted); and what came after the erasure, such as
their leaving.

Nothing is read unless an erased user's event is about to be shown. docs/decisions/0019-erased-users.md says why it is so.

# spec: client-server-api#post_matrixclientv3accountdeactivate
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import and_, exists, literal, or_, select

from homeserver.db.schema.rooms import current_state, events, state_log, timeline
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.client_events import (
    ERASED,
    ClientEvent,
    ClientEventCache,
    load_client_events,
    load_seen,
    redacted_through,
)
from homeserver.store.history import BEGINNING, END
from homeserver.store.visibility_reads import StateFacts

_KEYS_AT_ONCE = 500

KeysIn = Callable[[Collection[int]], Sequence[int]]
"""The state keys of the memberships of those who look, in some rooms."""

# What other events rest on. (In old room versions, redacting some of them changes what the rules say.)
_OF_ROOM = [
    literal(WELL_KNOWN_TYPES[name])
    for name in ("m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.third_party_invite")
]
_in_force = exists().where(
    and_(
        current_state.c.room_nid == events.c.room_nid,
        current_state.c.state_key_nid == events.c.state_key_nid,
        current_state.c.event_nid == events.c.nid,
    )
)
_PLACES = statement(
    select(events.c.nid, events.c.room_nid, timeline.c.pos, or_(_in_force, events.c.type_nid.in_(_OF_ROOM)))
    .select_from(events.outerjoin(timeline, timeline.c.event_nid == events.c.nid))
    .where(any_of(events.c.nid, "nids"))
)
_MOVES = statement(
    select(state_log.c.room_nid, state_log.c.state_key_nid, state_log.c.pos, state_log.c.event_nid)
    .where(and_(any_of(state_log.c.room_nid, "room_nids"), any_of(state_log.c.state_key_nid, "key_nids")))
    .order_by(state_log.c.pos)
)


class _Stay(NamedTuple):
    """From where to where somebody was in a room."""

    begin: int
    end: int


class _Place(NamedTuple):
    """An event that is to be shown, and when its sender was erased."""

    room_nid: int
    pos: int
    erased_at: int

    def was_seen(self, stays: Sequence[_Stay]) -> bool:
        return any(stay.begin <= self.erased_at and stay.end > self.pos for stay in stays)


def load_veiled(
    tx: Tx, nids: Collection[int], member_key: int, facts: StateFacts, cache: ClientEventCache
) -> dict[int, ClientEvent]:
    """Client events as a reader is to see them, by nid; see :func:`veil`."""
    return veil(tx, load_client_events(tx, nids, cache), member_key, facts, cache)


def veil(
    tx: Tx, found: dict[int, ClientEvent], member_key: int, facts: StateFacts, cache: ClientEventCache
) -> dict[int, ClientEvent]:
    """Events as a reader is to see them, by nid. ``member_key``: of their membership; 0: of nobody in particular."""
    erased = facts.erased.by_id
    if not erased:
        return found
    suspects: dict[int, int] = {}
    for nid, event in found.items():
        if event.redacted_by:
            if event.redacted_by_user in erased:
                # What was redacted is; why, the redaction says, and that is an event of theirs.
                suspects[event.redacted_by] = erased[event.redacted_by_user]
        elif event.sender in erased:
            suspects[nid] = erased[event.sender]
    if not suspects:
        return found
    keys = [member_key] if member_key else []
    hidden = find_hidden(tx, suspects, lambda _: keys, facts)
    if not hidden:
        return found
    veiled = load_seen(tx, dict.fromkeys(hidden, ERASED), cache)
    shown: dict[int, ClientEvent] = {}
    for nid, event in found.items():
        if nid in veiled:
            event = veiled[nid]
        elif event.redacted_by in veiled:
            event = redacted_through(event, veiled[event.redacted_by])
        shown[nid] = event
    return shown


def find_hidden(tx: Tx, suspects: Mapping[int, int], keys_in: KeysIn, facts: StateFacts) -> set[int]:
    """Which of some events of erased users are to be shown redacted. ``suspects``: nid -> when its sender was erased."""
    hidden: dict[int, _Place] = {}
    for nid, room_nid, pos, stays in tx.all(_PLACES, nids=list(suspects)):
        place = _Place(room_nid, BEGINNING if pos is None else pos, suspects[nid])
        if not stays and place.pos <= place.erased_at:
            hidden[nid] = place
    keys = list(keys_in({place.room_nid for place in hidden.values()})) if hidden else []
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        room_nids = {place.room_nid for place in hidden.values()}
        if not room_nids:
            break
        stays = _load_stays(tx, room_nids, keys[start : start + _KEYS_AT_ONCE], facts)
        hidden = {nid: one for nid, one in hidden.items() if not one.was_seen(stays.get(one.room_nid, ()))}
    return set(hidden)


def _load_stays(
    tx: Tx, room_nids: Collection[int], member_keys: Sequence[int], facts: StateFacts
) -> dict[int, list[_Stay]]:
    """When somebody of these was in the rooms."""
    moves = tx.all(_MOVES, room_nids=list(room_nids), key_nids=list(member_keys)) if member_keys else []
    words = facts.words(tx, {row[3] for row in moves if row[3]})
    began: dict[tuple[int, int], int] = {}
    stays: dict[int, list[_Stay]] = {}
    for room_nid, key_nid, pos, event_nid in moves:
        key = (room_nid, key_nid)
        if words.get(event_nid) == "join":
            began.setdefault(key, pos)
        elif key in began:
            stays.setdefault(room_nid, []).append(_Stay(began.pop(key), pos))
    for (room_nid, _), pos in began.items():
        stays.setdefault(room_nid, []).append(_Stay(pos, END))
    return stays


def find_strangers(tx: Tx, room_nid: int, member_key: int, facts: StateFacts) -> set[int]:
    """The erased users of whose events in a room a reader has seen none, by nid."""
    erased = facts.erased.by_nid
    if not erased:
        return set()
    stays = _load_stays(tx, [room_nid], [member_key] if member_key else [], facts)
    first = min((stay.begin for stay in stays.get(room_nid, ())), default=END)
    return {user_nid for user_nid, pos in erased.items() if pos < first}
