"""A room at a glance: its state and its newest messages, for those who look into it without being members.

# spec: client-server-api#get_matrixclientv3roomsroomidinitialsync
"""

from __future__ import annotations

import msgspec

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.rooms.reads.pagination import Pagination
from homeserver.rooms.reads.reading import Archive, Asker, scan, write_events, write_state
from homeserver.rooms.reads.state_reads import load_room_state
from homeserver.rooms.reads.visibility import Sights
from homeserver.rooms.types import Requester
from homeserver.store.account_data import AccountDatum, load_account_data_of
from homeserver.store.changes import load_position
from homeserver.store.client_events import join
from homeserver.store.directory import is_published
from homeserver.store.history import BEGINNING
from homeserver.stream.tokens import timeline_token

_encode = msgspec.json.Encoder().encode


class RoomGlances:
    """See the module."""

    def __init__(self, database: Database, sights: Sights, pagination: Pagination, archive: Archive) -> None:
        self._database = database
        self._sights = sights
        self._pagination = pagination
        self._archive = archive

    async def look(self, requester: Requester, room_id: str, limit: int) -> bytes:
        """The room as the requester may see it."""
        sight = await self._sights.find(requester, room_id)
        asker = await self._pagination.asker(requester, sight)
        return await self._database.read(_write, self._archive, asker, requester.user_nid, limit)


def _write(tx: Tx, archive: Archive, asker: Asker, user_nid: int, limit: int) -> bytes:
    sight = asker.sight
    newest = scan(
        tx, archive, sight, BEGINNING, sight.upto, limit, None, backwards=True, ignored=asker.ignored
    )
    start = b"" if newest.edge is None else b',"start":' + _encode(timeline_token(newest.edge))
    messages = b'{"chunk":%b,"end":%b%b}' % (
        join(write_events(tx, archive, asker, newest.found[::-1])),
        _encode(timeline_token(sight.upto)),
        start,
    )
    # Also of a room that they left: what they keep of it goes on without the room.
    kept = load_account_data_of(tx, user_nid, [sight.room_nid], load_position(tx))
    return b'{"room_id":%b,"membership":%b,"messages":%b,"state":%b,"visibility":%b,"account_data":%b}' % (
        _encode(sight.room_id),
        _encode(sight.membership.word),
        messages,
        join(write_state(tx, archive, asker, load_room_state(tx, sight))),
        b'"public"' if is_published(tx, sight.room_nid) else b'"private"',
        join(_datum(one) for one in kept),
    )


def _datum(one: AccountDatum) -> bytes:
    return b'{"type":%b,"content":%b}' % (_encode(one.type), one.content.encode())
