"""PeerRoom: a room as a ``FakePeer`` has it, with every event that it made or learned, and what others may ask of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import bindparam, select

from federation.auth.select import StateKey, auth_keys_for
from federation.event import Event, EventRef, parse_stored
from federation.hashes import compute_event_id
from federation.ids import EventId, RoomId, ServerName, UserId
from federation.signing import Signer, SigningKey, hash_and_sign_event, sign_event
from federation.state.resolve import resolve
from federation.versions import RoomRules
from homeserver.db.schema.rooms import event_json, events, room_heads, rooms
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx

_START_MS = 1_700_000_000_000
_EVENTS = statement(
    select(events.c.event_id, event_json.c.json)
    .select_from(
        events.join(event_json, event_json.c.nid == events.c.nid).join(
            rooms, rooms.c.nid == events.c.room_nid
        )
    )
    .where(rooms.c.room_id == bindparam("room_id"))
    .order_by(events.c.depth, events.c.nid)
)
_HEAD = statement(
    select(rooms.c.version, room_heads.c.extremities)
    .select_from(rooms.join(room_heads, room_heads.c.room_nid == rooms.c.nid))
    .where(rooms.c.room_id == bindparam("room_id"))
)
_IDS = statement(select(events.c.event_id).where(any_of(events.c.nid, "nids")))


def read_room(tx: Tx, room_id: str) -> tuple[str, list[tuple[str, str]], list[str]]:
    """The version of a stored room, its events (id and text, parents first), and the ids of its newest."""
    row = tx.one(_HEAD, room_id=room_id)
    assert row is not None, f"there is no {room_id}"
    nids = [int(nid) for nid in row[1].strip("[]").split(",") if nid]
    found = [(event_id, json) for event_id, json in tx.all(_EVENTS, room_id=room_id)]
    return row[0], found, tx.column(_IDS, nids=nids)


class _Graph:
    """Events as state resolution wants to look at them."""

    def __init__(self, known: Mapping[EventId, Event]) -> None:
        self._known = known

    def events(self, refs: Collection[EventId]) -> dict[EventId, Event]:
        return {ref: self._known[ref] for ref in refs if ref in self._known}

    def parents(self, refs: Collection[EventId]) -> dict[EventId, tuple[EventId, ...]]:
        return {ref: self._known[ref].auth_event_ids for ref in refs if ref in self._known}


class Owner(Protocol):
    """What a room must know of its peer."""

    server_name: ServerName
    key: SigningKey

    def user(self, localpart: str = ...) -> UserId: ...


class PeerRoom:
    """Events by id, the state after each of them, and the newest events."""

    def __init__(self, peer: Owner, rules: RoomRules) -> None:
        self.peer = peer
        self.rules = rules
        self.room_id = RoomId("" if rules.room_id_is_create_hash else f"!room:{peer.server_name}")
        self.events: dict[EventId, Event] = {}
        self.after: dict[EventId, dict[StateKey, EventId]] = {}
        self.head: list[EventId] = []

    # --- making events -------------------------------------------------------------------------------

    def add(self, event_type: str, content: Mapping[str, Any], **fields: Any) -> Event:
        """An event on the newest ones (or on ``prev``), which becomes the newest. ``fields``: see ``make``."""
        event = self.make(event_type, content, **fields)
        self.learn(event)
        return event

    def say(self, text: str, **fields: Any) -> Event:
        """A message."""
        return self.add("m.room.message", {"msgtype": "m.text", "body": text}, **fields)

    def join(self, user_id: str | None = None, **fields: Any) -> Event:
        """Somebody comes in by themselves."""
        user_id = user_id or self.peer.user()
        return self.add("m.room.member", {"membership": "join"}, sender=user_id, state_key=user_id, **fields)

    def make(self, event_type: str, content: Mapping[str, Any], **fields: Any) -> Event:
        """An event that nobody has yet, not even this room."""
        return self.parse(self.make_json(event_type, content, **fields))

    def make_json(
        self,
        event_type: str,
        content: Mapping[str, Any],
        *,
        sender: str | None = None,
        state_key: str | None = None,
        prev: Sequence[str] | None = None,
        auth: Sequence[str] | None = None,
        depth: int | None = None,
        ts: int | None = None,
        signer: Signer | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """The same as JSON: hashed and signed, whether or not it makes sense. ``more`` goes into it as it is."""
        sender = sender or self.peer.user()
        parents = self.head if prev is None else [EventId(one) for one in prev]
        if auth is None:
            keys = auth_keys_for(self.rules, event_type, sender, state_key, content)
            state = self.state_after(parents)
            auth = [state[key] for key in keys if key in state]
        if depth is None:
            depth = 1 + max((self.events[one].depth for one in parents if one in self.events), default=0)
        event: dict[str, Any] = {
            "type": event_type,
            "sender": sender,
            "content": dict(content),
            "depth": depth,
            "origin_server_ts": _START_MS + 1_000 * len(self.events) if ts is None else ts,
            "prev_events": self._references(parents),
            "auth_events": self._references(auth),
        }
        if self.room_id:
            event["room_id"] = self.room_id
        if state_key is not None:
            event["state_key"] = state_key
        if not self.rules.event_ids_are_hashes:
            room = self.room_id[1:].partition(":")[0]
            event["event_id"] = f"${room}.{len(self.events)}.{len(parents)}.{depth}:{self.peer.server_name}"
        return hash_and_sign_event({**event, **more}, self.rules, signer or self.peer.key)

    def parse(self, event: dict[str, Any]) -> Event:
        """An event of this room out of its JSON, unchecked."""
        return parse_stored(compute_event_id(event, self.rules), event, self.rules)

    def learn(self, event: Event) -> None:
        """Take an event into the room, as the newest where its parents were."""
        if event.type == "m.room.create" and not self.room_id:
            self.room_id = event.room_id
        state = dict(self.state_after(event.prev_event_ids))
        if event.state_key is not None:
            state[event.key()] = event.event_id
        self.events[event.event_id] = event
        self.after[event.event_id] = state
        self.head = [one for one in self.head if one not in event.prev_event_ids] + [event.event_id]

    def state_after(self, event_ids: Sequence[str]) -> Mapping[StateKey, EventId]:
        """The resolved state after some events together."""
        states = [self.after[EventId(one)] for one in event_ids if one in self.after]
        if len(states) < 2:
            return states[0] if states else {}
        return resolve(self.rules, states, _Graph(self.events))

    @property
    def state(self) -> Mapping[StateKey, EventId]:
        """The current state."""
        return self.state_after(self.head)

    def _references(self, event_ids: Sequence[str]) -> list[Any]:
        if not self.rules.references_carry_hashes:
            return list(event_ids)
        known = {one: self.events[EventId(one)].reference() for one in event_ids if one in self.events}
        found = [known.get(EventId(one), EventRef(EventId(one), "unknown")) for one in event_ids]
        return [[reference.event_id, {"sha256": reference.sha256}] for reference in found]

    # --- answers -------------------------------------------------------------------------------------

    def auth_chain(self, event_ids: Collection[str]) -> list[EventId]:
        """The auth events of some events, recursively, sorted; without the events themselves."""
        found: set[EventId] = set()
        todo = [EventId(one) for one in event_ids]
        while todo:
            for parent in self.events[todo.pop()].auth_event_ids:
                if parent in self.events and parent not in found:
                    found.add(parent)
                    todo.append(parent)
        if self.rules.create_not_in_auth_events:
            found.update(one for one, event in self.events.items() if event.type == "m.room.create")
        return sorted(found)

    def state_before(self, event_id: str) -> list[EventId]:
        """The ids of the state before an event, sorted."""
        return sorted(self.state_after(self.events[EventId(event_id)].prev_event_ids).values())

    def _json(self, event_ids: Collection[str]) -> list[dict[str, Any]]:
        return [self.events[EventId(one)].json for one in event_ids]

    def state_ids_answer(self, event_id: str) -> dict[str, Any]:
        state = self.state_before(event_id)
        return {"pdu_ids": state, "auth_chain_ids": self.auth_chain(state)}

    def state_answer(self, event_id: str) -> dict[str, Any]:
        state = self.state_before(event_id)
        return {"pdus": self._json(state), "auth_chain": self._json(self.auth_chain(state))}

    def event_auth_answer(self, event_id: str) -> dict[str, Any]:
        return {"auth_chain": self._json(self.auth_chain([event_id]))}

    def missing_answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Breadth first from the latest, up to the limit; oldest first."""
        latest = [EventId(one) for one in body["latest_events"]]
        seen = {*latest, *map(EventId, body["earliest_events"])}
        found = self._walk(latest, seen, body.get("limit", 10))
        return {"events": self._json(found[::-1])}

    def backfill_answer(self, latest: Sequence[str], limit: int) -> dict[str, Any]:
        """The latest themselves and what is before them, newest first."""
        known = [EventId(one) for one in latest if one in self.events]
        found = known + self._walk(known, set(known), limit - len(known))
        return {"origin": self.peer.server_name, "origin_server_ts": _START_MS, "pdus": self._json(found)}

    def _walk(self, latest: Sequence[EventId], seen: set[EventId], limit: int) -> list[EventId]:
        found: list[EventId] = []
        todo = list(latest)
        while todo and len(found) < limit:
            event = self.events.get(todo.pop(0))
            for parent in event.prev_event_ids if event is not None else ():
                if parent in self.events and parent not in seen and len(found) < limit:
                    seen.add(parent)
                    found.append(parent)
                    todo.append(parent)
        return found

    def make_join_answer(self, user_id: str) -> dict[str, Any]:
        """A template of a join."""
        content = {"membership": "join"}
        event = self.make_json("m.room.member", content, sender=user_id, state_key=user_id)
        for key in ("hashes", "signatures", "event_id"):
            event.pop(key, None)
        return {"room_version": self.rules.version, "event": event}

    def send_join_answer(self, event: dict[str, Any]) -> dict[str, Any]:
        """The join becomes part of the room; the state before it."""
        joined = self.parse(event)
        state = sorted(self.state_after(joined.prev_event_ids).values())
        self.learn(joined)
        return {
            "event": sign_event(joined.json, self.rules, self.peer.key),
            "members_omitted": False,
            "origin": self.peer.server_name,
            "state": self._json(state),
            "auth_chain": self._json(self.auth_chain(state)),
        }
