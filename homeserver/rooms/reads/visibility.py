"""How far a user sees into a room: members up to now, those who left up to then, everybody where anybody may read.

# spec: client-server-api#room-history-visibility
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import MatrixError, forbidden, not_found
from homeserver.rooms.types import Requester
from homeserver.store.history import BEGINNING, END
from homeserver.store.ids import Interner, StateKey
from homeserver.store.placement import Membership
from homeserver.store.timeline import load_moves_of_key, load_state_at
from homeserver.store.visibility_reads import Reader, StateFacts
from homeserver.stream.index import MembershipIndex, Standing
from homeserver.stream.log import ChangeLog

_VISIBILITY: StateKey = ("m.room.history_visibility", "")


@dataclass(frozen=True, slots=True)
class Sight:
    """What a user may look at in one room, at one moment."""

    room_id: str
    room_nid: int
    reader: Reader
    upto: int  # no event after this position is theirs to see
    membership: Membership
    departed: int | None = None  # the position at which they left, of those who did
    readable: bool = False  # whether anybody may look in now; not asked of members

    @property
    def joined(self) -> bool:
        """Whether they are in the room."""
        return self.reader.joined


class Sights:
    """Answers for a member from memory; for anybody else from the history of their membership."""

    def __init__(
        self,
        database: Database,
        interner: Interner,
        index: MembershipIndex,
        log: ChangeLog,
        facts: StateFacts,
    ) -> None:
        self._database = database
        self._interner = interner
        self._index = index
        self._log = log
        self._facts = facts

    async def find(self, requester: Requester, room_id: str) -> Sight:
        """What the requester may look at; 403 M_FORBIDDEN where that is nothing at all."""
        interner = self._interner
        room_nid = interner.known_room(room_id) or await interner.find_room(room_id)
        if room_nid is None:
            raise _stranger()
        own: StateKey = ("m.room.member", requester.user_id)
        member_key = interner.known_key(own) or await interner.find_key(own) or 0
        visibility_key = interner.known_key(_VISIBILITY) or await interner.find_key(_VISIBILITY) or 0
        upto = self._log.position
        standing = self._index.standing(requester.user_nid, room_nid)
        if standing is not None and standing.membership == Membership.JOIN:
            reader = Reader(requester.user_id, member_key, visibility_key, True)
            return Sight(room_id, room_nid, reader, upto, Membership.JOIN)
        reader = Reader(requester.user_id, member_key, visibility_key, False)
        return await self._database.read(_find_sight, room_id, room_nid, reader, upto, standing, self._facts)

    async def find_room_of(self, room_id: str, is_one: Callable[[str], bool]) -> int | None:
        """A room's number where somebody of this server is in it of whom this is so; else None."""
        interner = self._interner
        room_nid = interner.known_room(room_id) or await interner.find_room(room_id)
        if room_nid is None:
            return None
        names = await interner.user_names(self._index.local_members(room_nid))
        return room_nid if any(is_one(user_id) for user_id in names.values()) else None

    async def find_joined(self, requester: Requester, room_id: str) -> Sight:
        """As :meth:`find`, for members alone."""
        sight = await self.find(requester, room_id)
        if not sight.joined:
            raise forbidden("You are not a member of this room")
        return sight


class Oversight(Sights):
    """For administrators of the server, who see every room as if they had always been in it.

    Nobody asks here whether the requester is one.
    """

    async def find(self, requester: Requester, room_id: str) -> Sight:
        """All of a room; 404 M_NOT_FOUND for one that is not known here."""
        interner = self._interner
        room_nid = interner.known_room(room_id) or await interner.find_room(room_id)
        if room_nid is None or await interner.room_version(room_nid) is None:
            raise not_found("Room not found")
        # A reader without keys: no visibility counts, and no stay in the room.
        reader = Reader(requester.user_id, 0, 0, True)
        return Sight(room_id, room_nid, reader, self._log.position, Membership.LEAVE)


def _stranger() -> MatrixError:
    return forbidden("You are not a member of this room and were not one before")


def _find_sight(
    tx: Tx,
    room_id: str,
    room_nid: int,
    reader: Reader,
    upto: int,
    standing: Standing | None,
    facts: StateFacts,
) -> Sight:
    last_join = departed = None
    if standing is not None and not standing.forgotten:
        last_join, departed = _find_stay(tx, room_nid, reader.member_key, upto, facts)
    current = load_state_at(tx, [room_nid], [reader.visibility_key]).get(room_nid, {})
    readable = "world_readable" in facts.words(tx, current.values()).values()
    if not readable and departed is None:
        raise _stranger()
    membership = Membership.LEAVE if standing is None else standing.membership
    reader = Reader(reader.user_id, reader.member_key, reader.visibility_key, False, last_join)
    newest = upto if readable or departed is None else departed
    return Sight(room_id, room_nid, reader, newest, membership, departed, readable)


def find_visited(tx: Tx, room_nids: Collection[int], member_key: int, facts: StateFacts) -> list[int]:
    """Those of some rooms in which a user has been at some time."""
    moves = load_moves_of_key(tx, room_nids, member_key, BEGINNING, END)
    words = facts.words(
        tx, {move.event_nid for of_room in moves.values() for move in of_room if move.event_nid}
    )
    return [
        room_nid
        for room_nid, of_room in moves.items()
        if any(words.get(move.event_nid) == "join" for move in of_room)
    ]


def _find_stay(
    tx: Tx, room_nid: int, member_key: int, upto: int, facts: StateFacts
) -> tuple[int | None, int | None]:
    """The newest position at which a user joined, and where they left after that."""
    moves = load_moves_of_key(tx, [room_nid], member_key, BEGINNING, min(upto, END)).get(room_nid, [])
    words = facts.words(tx, {move.event_nid for move in moves if move.event_nid})
    last_join = departed = None
    for move in moves:
        if words.get(move.event_nid) == "join":
            last_join, departed = move.pos, None
        elif last_join is not None and departed is None:
            departed = move.pos
    return last_join, departed
