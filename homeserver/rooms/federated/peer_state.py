"""The state of a room before an event, and what authorises an event, for other servers.

The state of a large room is sent as it is read, a few hundred events at a time: memory holds the numbers of the
events and one slice of their texts, however large the room is.

# spec: server-server-api#retrieving-events
# spec: server-server-api#retrieving-event-authorisation-information
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from federation.ids import EventId, RoomId, ServerName
from federation.versions import RoomRules
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import not_found
from homeserver.rooms.federated.peer_gate import PeerGate, Visit
from homeserver.store.auth_chain import load_auth_chain, load_auth_chain_of
from homeserver.store.client_events import join
from homeserver.store.peer_reads import load_event_ids
from homeserver.store.peer_sight import load_texts_for
from homeserver.store.state import load_snapshot
from homeserver.store.visibility_reads import StateFacts
from homeserver.store.walks import Link, load_links

_AT_ONCE = 500
_encode = msgspec.json.Encoder().encode

Body = bytes | AsyncIterator[bytes]
_Load = Callable[[Tx, Sequence[int], Visit], list[bytes]]


class _Cited(msgspec.Struct):
    auth_events: list[Any]


_decode_cited = msgspec.json.Decoder(_Cited).decode


@dataclass(frozen=True, slots=True)
class _Lists:
    """Two lists of events in one answer, and the whole of it where it is small."""

    visit: Visit
    state: Sequence[int]
    chain: Sequence[int]
    whole: bytes | None


class PeerState:
    """Answers other servers; raises ``MatrixError`` for those that a room is closed to."""

    def __init__(
        self, database: Database, gate: PeerGate, facts: StateFacts, is_incomplete: Callable[[int], bool]
    ) -> None:
        self._database = database
        self._gate = gate
        self._facts = facts
        self._is_incomplete = is_incomplete  # not all of the room is here

    async def state(self, server: ServerName, room_id: RoomId, event_id: EventId) -> Body:
        """The events of the state before an event, and of its auth chain; 404 M_NOT_FOUND where it is unknown."""
        return await self._answer(server, room_id, event_id, (b"pdus", b"auth_chain"), self._load_texts)

    async def state_ids(self, server: ServerName, room_id: RoomId, event_id: EventId) -> Body:
        """As :meth:`state`, the ids alone."""
        return await self._answer(server, room_id, event_id, (b"pdu_ids", b"auth_chain_ids"), _load_ids)

    async def auth_chain(self, server: ServerName, room_id: RoomId, event_id: EventId) -> Body:
        """All that authorises an event, those cited before those who cite them."""
        is_resident = await self._gate.is_resident(server, room_id)

        def unit(tx: Tx) -> _Lists:
            visit = self._gate.enter(tx, server, room_id, is_resident=is_resident)
            link = _find(tx, visit, event_id)
            chain = load_auth_chain_of(tx, visit.room.nid, _cited_by(link, visit.room.rules))
            return _gather(tx, visit, [], chain, (b"", b"auth_chain"), self._load_texts)

        found = await self._database.read(unit)
        return self._send(found, (b"", b"auth_chain"), self._load_texts)

    async def _answer(
        self, server: ServerName, room_id: RoomId, event_id: EventId, names: tuple[bytes, bytes], load: _Load
    ) -> Body:
        is_resident = await self._gate.is_resident(server, room_id)

        def unit(tx: Tx) -> _Lists:
            visit = self._gate.enter(tx, server, room_id, is_resident=is_resident)
            link = _find(tx, visit, event_id)
            if link.state_before is None or self._is_incomplete(visit.room.nid):
                raise not_found(f"The state at event {event_id} is not known here")
            snapshot = load_snapshot(tx, link.state_before, self._facts.bases)
            state = [nid for _, nid in snapshot.items()]
            return _gather(tx, visit, state, load_auth_chain(tx, state), names, load)

        return self._send(await self._database.read(unit), names, load)

    def _load_texts(self, tx: Tx, nids: Sequence[int], visit: Visit) -> list[bytes]:
        room = visit.room
        texts = load_texts_for(tx, room.nid, visit.server, nids, room.rules, self._facts)
        return [texts[nid] for nid in nids if nid in texts]

    def _send(self, found: _Lists, names: tuple[bytes, bytes], load: _Load) -> Body:
        return found.whole if found.whole is not None else self._slices(found, names, load)

    async def _slices(self, found: _Lists, names: tuple[bytes, bytes], load: _Load) -> AsyncIterator[bytes]:
        lead = b"{"
        for name, nids in zip(names, (found.state, found.chain), strict=True):
            if not name:
                continue
            yield lead + b'"' + name + b'":['
            for start in range(0, len(nids), _AT_ONCE):
                some = nids[start : start + _AT_ONCE]
                texts = await self._database.read(load, some, found.visit)
                yield (b"," if start else b"") + b",".join(texts)
            lead = b"],"
        yield b"]}"


def _gather(
    tx: Tx,
    visit: Visit,
    state: Sequence[int],
    chain: Sequence[int],
    names: tuple[bytes, bytes],
    load: _Load,
) -> _Lists:
    if len(state) + len(chain) > _AT_ONCE:
        return _Lists(visit, state, chain, None)
    pairs = [(name, nids) for name, nids in zip(names, (state, chain), strict=True) if name]
    lists = [b'"%b":%b' % (name, join(load(tx, nids, visit))) for name, nids in pairs]
    return _Lists(visit, state, chain, b"{" + b",".join(lists) + b"}")


def _load_ids(tx: Tx, nids: Sequence[int], visit: Visit) -> list[bytes]:  # noqa: ARG001 (as _load_texts)
    ids = load_event_ids(tx, nids)
    return [_encode(ids[nid]) for nid in nids if nid in ids]


def _find(tx: Tx, visit: Visit, event_id: EventId) -> Link:
    link = load_links(tx, visit.room.nid, [event_id]).get(event_id)
    if link is None:
        raise not_found(f"Could not find event {event_id}")
    return link


def _cited_by(link: Link, rules: RoomRules) -> list[str]:
    cited = _decode_cited(link.json).auth_events
    return [one[0] for one in cited] if rules.references_carry_hashes else cited
