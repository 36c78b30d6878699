"""Sending: messages, state events and redactions of local users, once per transaction id."""

from __future__ import annotations

from typing import Any

from federation.builder import Draft
from federation.event import Event
from federation.ids import EventId, RoomId
from homeserver.db.tx import Tx
from homeserver.http.errors import forbidden, not_found
from homeserver.rooms.actor import RoomActor
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.transactions import TransactionCache
from homeserver.rooms.turn import Turn
from homeserver.rooms.types import Requester
from homeserver.store.events import find_row
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.placement import ClientTransaction


class Sender:
    """The entrance for everything that a client puts into a room that exists."""

    def __init__(self, rooms: RoomRegistry, transactions: TransactionCache) -> None:
        self._rooms = rooms
        self._transactions = transactions

    async def send(self, requester: Requester, draft: Draft, txn_id: str, endpoint: str = "send") -> str:
        """Send a message event or (``endpoint="redact"``) a redaction; the event id, the same for a retry."""
        assert draft.room_id is not None
        actor = self._rooms.known(draft.room_id) or await self._rooms.find(draft.room_id)
        key = f"{endpoint}/{draft.type if draft.redacts is None else draft.redacts}/{txn_id}"
        transaction = ClientTransaction(requester.device_nid, key, txn_id)
        transactions, device_nid, room_nid = self._transactions, requester.device_nid, actor.room_nid
        while True:
            if transactions.is_loaded(device_nid):
                done = transactions.known(device_nid, room_nid, key)
            else:
                done = await transactions.find(device_nid, room_nid, key)
            if done is not None:
                return done
            first = transactions.begin(device_nid, room_nid, key)
            if first is None:
                break
            if answer := await first:
                return answer
        event_id = ""
        try:
            event_id = await self._place(actor, draft, transaction)
            transactions.put(device_nid, room_nid, key, event_id)
            return event_id
        finally:
            transactions.end(device_nid, room_nid, key, event_id)

    async def _place(self, actor: RoomActor, draft: Draft, transaction: ClientTransaction) -> str:
        async def job(turn: Turn) -> str:
            if turn.attempt:
                stored = await self._transactions.find_stored(
                    transaction.device_nid, actor.room_nid, transaction.txn_key
                )
                if stored is not None:
                    return stored
            target = draft.redacts or _redacts_in(draft)
            applied = await self._check_redaction(turn, draft, target) if target is not None else None
            placed = await turn.place(draft, transaction=transaction, redacts_target=applied)
            return placed.event.event_id

        return await actor.run(job)

    async def put_state(self, draft: Draft) -> str:
        """Set a state event; the event id."""
        assert draft.room_id is not None
        actor = await self._rooms.find(draft.room_id)

        async def job(turn: Turn) -> str:
            return (await turn.place(draft)).event.event_id

        return await actor.run(job)

    async def _check_redaction(self, turn: Turn, draft: Draft, target_id: str) -> str:
        """The id of the event that a redaction takes effect on; refuses one that may not.

        # spec: client-server-api#redactions
        """
        target = await self._find(target_id, turn)
        if target is None:
            raise not_found("The event to redact was not found in this room")
        power = await turn.power_levels()
        if target.sender != draft.sender and power.user(draft.sender) < power.redact:
            raise forbidden("You may not redact other people's events")
        if target.type == "m.room.create":
            raise forbidden("A room's create event cannot be redacted")
        return target_id

    async def _find(self, event_id: str, turn: Turn) -> Event | None:
        tools = self._rooms.tools
        return await tools.database.read(_load_in_room, event_id, turn.head.room_nid, tools.events)


def _redacts_in(draft: Draft) -> str | None:
    # A redaction may also be sent as an ordinary event.  # spec: client-server-api#redactions (v1.18, MSC4169)
    if draft.type != "m.room.redaction":
        return None
    target: Any = draft.content.get("redacts")
    return target if isinstance(target, str) else None


def _load_in_room(tx: Tx, event_id: str, room_nid: int, cache: EventCache) -> Event | None:
    row = find_row(tx, event_id)
    if row is None or row.room_nid != room_nid:
        return None
    return load_events(tx, [row.nid], cache).get(row.nid)


def redaction(room_id: RoomId, sender: Any, target_id: EventId, content: dict[str, Any]) -> Draft:
    """The draft of a redaction."""
    return Draft(room_id=room_id, type="m.room.redaction", sender=sender, content=content, redacts=target_id)
