"""The answer to ``send_join``: a room's whole state and what it rests on, written while it is read.

A room may have tens of thousands of state events: their texts are read in chunks, each when the one before it is on
its way, and spliced as they are stored.

# spec: server-server-api#put_matrixfederationv2send_joinroomideventid
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import msgspec

from federation.event import Event, stored_bytes
from federation.ids import domain_of
from homeserver.db.threads import Database
from homeserver.rooms.federated.admission import Admitted
from homeserver.store.ids import Interner
from homeserver.store.peer_sight import load_texts_for
from homeserver.store.room_answers import JoinAnswer, load_join_answer
from homeserver.store.visibility_reads import StateFacts

CHUNK = 500
_NAMING = (("m.room.name", ""), ("m.room.canonical_alias", ""))
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class PreparedAnswer:
    """The join as it was placed, and the numbers of what goes with it."""

    event: Event
    room_nid: int
    events: JoinAnswer


class JoinAnswers:
    """See the module."""

    def __init__(self, server_name: str, database: Database, interner: Interner, facts: StateFacts) -> None:
        self._server_name = server_name
        self._database = database
        self._interner = interner
        self._facts = facts

    async def load(self, admitted: Admitted, *, omit_members: bool) -> PreparedAnswer:
        """What goes into the answer to a join that was placed."""
        naming = [await self._interner.find_key(key) or 0 for key in _NAMING]
        found = await self._database.read(
            load_join_answer, admitted.nid, self._facts.bases, omit_members=omit_members, naming=naming
        )
        room_nid = await self._interner.find_room(admitted.event.room_id)
        assert room_nid is not None  # an event of it was placed
        return PreparedAnswer(admitted.event, room_nid, found)

    async def write(self, answer: PreparedAnswer) -> AsyncIterator[bytes]:
        """The body in pieces."""
        events = answer.events
        yield b'{"origin":%b,"event":%b' % (_encode(self._server_name), stored_bytes(answer.event))
        if events.members_omitted:
            yield b',"members_omitted":true,"servers_in_room":' + _encode(events.servers)
        else:
            yield b',"members_omitted":false'
        yield b',"state":['
        async for piece in self._write_events(answer, events.state):
            yield piece
        yield b'],"auth_chain":['
        async for piece in self._write_events(answer, events.auth_chain):
            yield piece
        yield b"]}"

    async def _write_events(self, answer: PreparedAnswer, nids: Sequence[int]) -> AsyncIterator[bytes]:
        room_nid, server, rules = answer.room_nid, domain_of(answer.event.sender), answer.event.rules
        for start in range(0, len(nids), CHUNK):
            chunk = nids[start : start + CHUNK]
            texts = await self._database.read(load_texts_for, room_nid, server, chunk, rules, self._facts)
            yield (b"," if start else b"") + b",".join([texts[nid] for nid in chunk])
