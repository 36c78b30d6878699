"""The state of a room for readers: now for its members, as it was when they left for those who did.

# spec: client-server-api#get_matrixclientv3roomsroomidstate
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from federation.ids import is_content_uri, may_stand_alone
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import forbidden, not_found
from homeserver.rooms.reads.reading import Archive, Asker, write_state
from homeserver.rooms.reads.visibility import Sight, Sights
from homeserver.rooms.types import Requester
from homeserver.runtime.clock import Clock
from homeserver.store.client_events import ClientEvent, join
from homeserver.store.history import BEGINNING, END, load_current_members, load_span, members_among
from homeserver.store.ids import Interner
from homeserver.store.members import load_joined, load_members
from homeserver.store.placement import MEMBERSHIPS, Membership
from homeserver.store.timeline import load_moves, load_moves_of_key, load_state, load_state_at, undo
from homeserver.store.unsigned import unsigned_members
from homeserver.store.veil import load_veiled
from homeserver.store.visibility_reads import StateFacts, visible
from homeserver.stream.tokens import parse_timeline_token


class _MemberContent(msgspec.Struct):
    """What ``/joined_members`` tells; wrong types count as absent."""

    displayname: Any = None
    avatar_url: Any = None


class _Member(msgspec.Struct):
    """A stored membership, of which nothing else is looked at."""

    content: _MemberContent


_decode_member = msgspec.json.Decoder(_Member).decode


class StateReads:
    """State and members, as bytes."""

    def __init__(
        self,
        database: Database,
        interner: Interner,
        sights: Sights,
        archive: Archive,
        clock: Clock,
        whole: Callable[[int], Awaitable[bool]],
    ) -> None:
        self._database = database
        self._interner = interner
        self._sights = sights
        self._archive = archive
        self._clock = clock
        self._whole = whole  # waits for the members of a room that are still to come

    async def one(
        self, requester: Requester, room_id: str, event_type: str, state_key: str, *, whole_event: bool
    ) -> bytes:
        """The state at a key: its content, or the whole event; 404 M_NOT_FOUND where there is none."""
        sight = await self._sights.find(requester, room_id)
        key = (event_type, state_key)
        key_nid = self._interner.known_key(key) or await self._interner.find_key(key)
        event = None
        if key_nid is not None:
            event = await self._database.read(_find_state, sight, key_nid, self._archive)
        if event is None:
            raise not_found("The room has no state with this type and key")
        if not whole_event:
            return event.content
        return event.render(unsigned_members(event, self._clock.now_ms()), room_id)

    async def all(self, requester: Requester, room_id: str) -> bytes:
        """Every state event."""
        asker = await self._asker(requester, room_id)
        return await self._database.read(_write_all, self._archive, asker)

    async def members(
        self,
        requester: Requester,
        room_id: str,
        at_token: str | None,
        membership: Membership | None,
        not_membership: Membership | None,
    ) -> bytes:
        """The membership events: of one kind, or of all but one kind, or (with both) of either."""
        at = parse_timeline_token(at_token) if at_token is not None else None
        asker = await self._asker(requester, room_id)
        if await self._whole(asker.sight.room_nid):
            # What was so then is what has come now.
            at, asker = None, await self._asker(requester, room_id)
        wanted = frozenset(
            one
            for one in Membership
            if (membership is None and not_membership is None)
            or one is membership
            or (not_membership is not None and one is not not_membership)
        )
        return await self._database.read(_write_members, self._archive, asker, at, wanted)

    async def joined_members(
        self, requester: Requester, room_id: str, is_own: Callable[[str], bool] | None = None
    ) -> dict[str, dict[str, str]]:
        """Who is in the room, with their names and pictures there; for its members, and where anybody may look in.

        ``is_own``: of an application service, which users are its own. It may ask where any of them is a member.
        """
        # spec: client-server-api#get_matrixclientv3roomsroomidjoined_members
        room_nid = None if is_own is None else await self._sights.find_room_of(room_id, is_own)
        if room_nid is None:
            sight = await self._sights.find(requester, room_id)
            if not (sight.joined or sight.readable):
                raise forbidden("You are not a member of this room any more")
            room_nid = sight.room_nid
        await self._whole(room_nid)
        return await self._database.read(_load_profiles, room_nid)

    async def _asker(self, requester: Requester, room_id: str) -> Asker:
        return Asker(await self._sights.find(requester, room_id), self._clock.now_ms(), {})


def _find_state(tx: Tx, sight: Sight, key_nid: int, archive: Archive) -> ClientEvent | None:
    state: Mapping[int, int] = load_state_at(tx, [sight.room_nid], [key_nid]).get(sight.room_nid, {})
    if sight.departed is not None and key_nid != sight.reader.member_key:
        moves = load_moves_of_key(tx, [sight.room_nid], key_nid, sight.departed, END).get(sight.room_nid, [])
        state = undo(state, moves, sight.departed)
    event_nid = state.get(key_nid, 0)
    member_key = sight.reader.member_key
    wanted = [event_nid] if event_nid else []
    return load_veiled(tx, wanted, member_key, archive.facts, archive.client_events).get(event_nid)


def load_room_state(tx: Tx, sight: Sight) -> list[int]:
    """The state events that a reader may know, by nid: of who has left, with what they are to the room by now."""
    state: Mapping[int, int] = load_state(tx, [sight.room_nid]).get(sight.room_nid, {})
    if sight.departed is not None:
        moves = load_moves(tx, [sight.room_nid], sight.departed).get(sight.room_nid, [])
        own = sight.reader.member_key
        state = undo(state, [move for move in moves if move.key_nid != own], sight.departed)
    return [nid for nid in state.values() if nid]


def _write_all(tx: Tx, archive: Archive, asker: Asker) -> bytes:
    return join(write_state(tx, archive, asker, load_room_state(tx, asker.sight)))


def _write_members(
    tx: Tx, archive: Archive, asker: Asker, at: int | None, wanted: frozenset[Membership]
) -> bytes:
    sight = asker.sight
    upto = sight.departed if at is None else min(at, sight.upto)
    if at is not None and upto is not None and not _may_look_at(tx, archive.facts, sight, upto):
        raise forbidden("You may not see what was in this room then")
    if upto is None:
        nids = [one.event_nid for one in load_members(tx, sight.room_nid) if one.membership in wanted]
    else:
        nids = _members_at(tx, sight.room_nid, upto)
        if len(wanted) < len(Membership):
            words = archive.facts.words(tx, nids)
            nids = [nid for nid in nids if MEMBERSHIPS.get(words.get(nid, "")) in wanted]
    return b'{"chunk":%b}' % join(write_state(tx, archive, asker, nids))


def _may_look_at(tx: Tx, facts: StateFacts, sight: Sight, upto: int) -> bool:
    """Whether who was in the room at a position is a reader's to know: a token may have been given to somebody else."""
    # spec: client-server-api#room-history-visibility
    newest = load_span(tx, sight.room_nid, BEGINNING, upto, 1, backwards=True)
    if all(visible(tx, sight.reader, newest, facts)):
        return True
    # It may have come late, from a fork on which they were not in the room yet: but here they were.
    own = load_moves_of_key(tx, [sight.room_nid], sight.reader.member_key, BEGINNING, upto)
    nids = [move.event_nid for move in own.get(sight.room_nid, [])[-1:] if move.event_nid]
    return "join" in facts.words(tx, nids).values()


def _members_at(tx: Tx, room_nid: int, upto: int) -> list[int]:
    """The membership events at a position."""
    moves = load_moves(tx, [room_nid], upto).get(room_nid, [])
    member_keys = members_among(tx, {move.key_nid for move in moves}) if moves else set()
    state = load_current_members(tx, room_nid)
    earlier = undo(state, [move for move in moves if move.key_nid in member_keys], upto)
    return [nid for nid in earlier.values() if nid]


def _load_profiles(tx: Tx, room_nid: int) -> dict[str, dict[str, str]]:
    joined: dict[str, dict[str, str]] = {}
    for user_id, text in load_joined(tx, room_nid).items():
        if not may_stand_alone(user_id):
            continue
        profile = joined[user_id] = {}
        content = _decode_member(text).content if text is not None else _MemberContent()
        if isinstance(content.displayname, str):
            profile["display_name"] = content.displayname
        if is_content_uri(content.avatar_url):
            profile["avatar_url"] = content.avatar_url
    return joined
