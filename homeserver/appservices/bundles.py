"""What one transaction says: owed facts, and what is of the moment, as JSON.

What is owed is cut so that a transaction stays within its bounds; the rest comes with the next one. The names of members
are those of the specification, and those that a registration asks for by the names of before.

# spec: application-service-api#put_matrixappv1transactionstxnid
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from federation.ids import may_stand_alone
from homeserver.appservices.registry import Appservice
from homeserver.db.tx import Tx
from homeserver.store.appservices import (
    DeviceName,
    Owed,
    OwedEvent,
    OwedInvite,
    OwedMessage,
    OwedReceipt,
    find_excess,
    load_device_names,
    load_logged_in,
)
from homeserver.store.client_events import ClientEvent, ClientEventCache, load_client_events
from homeserver.store.one_time_keys import KeysLeft, load_keys_left
from homeserver.store.outside import shown_outside
from homeserver.store.receipts import PRIVATE, UNTHREADED, ReceiptChange
from homeserver.store.state import BaseCache
from homeserver.store.stripped import load_stripped_state, strip
from homeserver.store.to_device import load_waiting
from homeserver.store.unsigned import unsigned_members

EVENTS_MOST = 100
MESSAGES_MOST = 100
RECEIPTS_MOST = 500
# LIMIT(confirmed messages that wait for a sync of their device, should it be one that syncs)
KEPT_FOR_SYNC = 1_000
# LIMIT(bytes of one transaction; one event alone may still be larger). What is made with aiohttp refuses 1 MiB unless
# it is told otherwise, and so do reverse proxies.
BYTES_MOST = 768 * 1024
# LIMIT(bytes that are reckoned for each room, user and device of which something of the moment is told)
MOMENT_BYTES = 2048

_RECEIPT_KINDS = ("m.read", "m.read.private")
_MSC3202 = "org.matrix.msc3202."
_TO_DEVICE = "de.sorunome.msc2409.to_device"
_EPHEMERAL = "de.sorunome.msc2409.ephemeral"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(slots=True)
class Moment:
    """What is not owed, and told as it is when the transaction is made."""

    devices: Collection[int] = ()  # whose keys came or went
    changed: Collection[int] = ()  # users whose keys changed
    left: Collection[int] = ()  # users with whom nothing is shared any more
    typing: Mapping[int, Sequence[str]] = field(default_factory=dict)  # room -> who types there
    presence: Sequence[Mapping[str, Any]] = ()  # m.presence events

    def __bool__(self) -> bool:
        return bool(self.typing or self.presence or self.devices or self.changed or self.left)


@dataclass(slots=True)
class Loaded:
    """What was read for a transaction."""

    events: dict[int, ClientEvent]
    messages: list[tuple[int, int, bytes]]  # (position, device, message)
    names: dict[int, DeviceName]
    logged_in: frozenset[int]
    excess: dict[int, int]  # device -> up to where its messages are too many to be kept for a sync
    keys: list[KeysLeft]
    stripped: dict[int, list[bytes]]  # invite -> what somebody who is not in the room may see of it


def bounded(owed: Sequence[Owed]) -> Sequence[Owed]:
    """As many of the oldest as fit into one transaction."""
    left = {
        OwedEvent: EVENTS_MOST,
        OwedInvite: EVENTS_MOST,
        OwedMessage: MESSAGES_MOST,
        OwedReceipt: RECEIPTS_MOST,
    }
    for place, one in enumerate(owed):
        left[type(one)] -= 1
        if left[type(one)] < 0:
            return owed[:place]
    return owed


@dataclass(frozen=True, slots=True)
class Tools:
    """What reading takes: caches of what never changes, and the numbers of the state that strangers may see."""

    events: ClientEventCache
    bases: BaseCache
    strip_keys: Sequence[int]


def load_bundle(tx: Tx, owed: Sequence[Owed], devices: Collection[int], tools: Tools) -> Loaded:
    """Read what a transaction needs."""
    events = [one for one in owed if type(one) is OwedEvent]
    nids = {nid for one in events for nid in (one.event_nid, one.prev_nid) if nid}
    spans: dict[int, list[int]] = {}
    for one in owed:
        if type(one) is OwedMessage:
            spans.setdefault(one.device_nid, []).append(one.pos)
    messages: list[tuple[int, int, bytes]] = []
    for device_nid, places in spans.items():
        wanted = frozenset(places)
        found = load_waiting(tx, device_nid, places[0] - 1, places[-1], len(places) + MESSAGES_MOST)
        messages += [(pos, device_nid, message) for pos, message in found if pos in wanted]
    named = sorted({*spans, *devices})
    client_events = load_client_events(tx, sorted(nids), tools.events)
    invites = [one.event_nid for one in events if one.own and _is_invite(client_events.get(one.event_nid))]
    return Loaded(
        client_events,
        sorted(messages),
        load_device_names(tx, named) if named else {},
        load_logged_in(tx, sorted(spans)) if spans else frozenset(),
        {
            nid: pos
            for nid in spans
            if (pos := find_excess(tx, nid, spans[nid][-1], KEPT_FOR_SYNC)) is not None
        },
        [load_keys_left(tx, device_nid) for device_nid in sorted(devices)],
        _load_stripped(tx, invites, tools) if invites else {},
    )


def _is_invite(event: ClientEvent | None) -> bool:
    return event is not None and event.content_dict().get("membership") == "invite"


def _load_stripped(tx: Tx, invites: Sequence[int], tools: Tools) -> dict[int, list[bytes]]:
    """The state of rooms as it was when somebody was invited there, as far as they may see it."""
    found = load_stripped_state(tx, invites, tools.strip_keys, tools.events, tools.bases)
    return {nid: [strip(event) for event in state] for nid, state in found.items()}


@dataclass(frozen=True, slots=True)
class Names:
    """Ids by number, for what a transaction mentions."""

    rooms: Mapping[int, str]
    users: Mapping[int, str]


class Bundle:
    """Writes the body. ``upto``: the position with which the application service is up to date after it."""

    def __init__(self, service: Appservice, owed: Sequence[Owed], upto: int, now_ms: int) -> None:
        self._service = service
        self._now_ms = now_ms
        self.owed = owed
        self.upto = upto
        self.delivered: dict[int, int] = {}

    def write(self, loaded: Loaded, names: Names, moment: Moment, most: int = BYTES_MOST) -> bytes:
        """The whole body; ``owed`` and ``upto`` are cut to what fits into so many bytes: to the oldest alone at last."""
        registration = self._service.registration
        passing: list[bytes] = []
        if registration.wants_ephemeral:
            passing = [*_typing(names, moment), *map(_encode, moment.presence)]
        keys = _encryption(loaded, names, moment) if registration.encryption else {}
        size = self._times * sum(map(len, passing)) + 2 * sum(map(len, keys.values()))
        events, messages = self._fill(loaded, names, most - size)
        members: list[tuple[str, bytes]] = [("events", _array(events))]
        if registration.wants_ephemeral:
            ephemeral = _array([*self._receipts(names), *passing])
            if ephemeral != b"[]":
                if registration.receive_ephemeral:
                    members.append(("ephemeral", ephemeral))
                if registration.push_ephemeral:
                    members.append((_EPHEMERAL, ephemeral))
            if messages:
                members.append((_TO_DEVICE, _array(messages)))
        for name, value in keys.items():
            members += [(name, value), (_MSC3202 + name, value)]
        return b"{%b}" % b",".join([_encode(name) + b":" + value for name, value in members])

    @property
    def _times(self) -> int:
        """Under how many names ephemeral events are told."""
        registration = self._service.registration
        return registration.receive_ephemeral + registration.push_ephemeral

    def _fill(self, loaded: Loaded, names: Names, most: int) -> tuple[list[bytes], list[bytes]]:
        """The events and the messages that fit, with the receipts between them; the first one does in any case."""
        waiting = {(pos, device_nid): message for pos, device_nid, message in loaded.messages}
        events: list[bytes] = []
        messages: list[bytes] = []
        size = 0
        for place, one in enumerate(self.owed):
            text = b""
            if type(one) is OwedEvent:
                text = self._event(one, loaded, names)
            elif type(one) is OwedInvite:
                text = self._invite(one, names)
            elif type(one) is OwedMessage and one in waiting:
                text = self._message(one.device_nid, waiting[one], loaded)
            cost = self._times * _size_of(one.receipt, names) if type(one) is OwedReceipt else len(text)
            if size and size + cost > most:
                self.owed = self.owed[:place]
                self.upto = self.owed[-1].pos
                break
            size += cost
            if text and type(one) is OwedMessage:
                messages.append(text)
                self._end(one, loaded)
            elif text:
                events.append(text)
        return events, messages

    def _event(self, one: OwedEvent, loaded: Loaded, names: Names) -> bytes:
        event, room_id = loaded.events.get(one.event_nid), names.rooms.get(one.room_nid)
        if event is None or room_id is None:
            return b""  # purged meanwhile
        unsigned = unsigned_members(event, self._now_ms, previous=loaded.events.get(one.prev_nid))
        stripped = loaded.stripped.get(one.event_nid)
        if stripped:
            unsigned += b',"invite_room_state":' + _array(stripped)
        return event.render(unsigned, room_id)

    def _invite(self, one: OwedInvite, names: Names) -> bytes:
        """A membership of a room that this server is not in, with what is known of the room."""
        event, room_id = _decode(one.told.event), names.rooms.get(one.told.room_nid)
        if not isinstance(event, dict) or room_id is None:
            return b""
        stripped = msgspec.Raw(one.told.stripped.encode())
        more = {"room_id": room_id, "unsigned": {"invite_room_state": stripped}}
        return _encode({**shown_outside(event, one.told.event_id), **more})

    def _receipts(self, names: Names) -> list[bytes]:
        # spec: application-service-api#pushing-ephemeral-data
        by_room: dict[int, list[dict[str, Any]]] = {}
        newest: dict[tuple[int, int, int, str], ReceiptChange] = {}
        for one in self.owed:
            if type(one) is OwedReceipt:
                moved = one.receipt
                newest[moved.room_nid, moved.user_nid, moved.kind, moved.thread] = moved
        for moved in newest.values():
            if moved.kind == PRIVATE and not self._service.owns_user(moved.user_id):
                continue
            data: dict[str, Any] = {"ts": moved.ts_ms}
            if moved.thread != UNTHREADED:
                data["thread_id"] = moved.thread
            kind = _RECEIPT_KINDS[moved.kind]
            bodies = by_room.setdefault(moved.room_nid, [])
            for body in bodies:
                users = body.setdefault(moved.event_id, {}).setdefault(kind, {})
                if moved.user_id not in users:
                    users[moved.user_id] = data
                    break
            else:
                bodies.append({moved.event_id: {kind: {moved.user_id: data}}})
        return [
            _encode({"type": "m.receipt", "room_id": names.rooms[room_nid], "content": body})
            for room_nid, bodies in by_room.items()
            if room_nid in names.rooms
            for body in bodies
        ]

    def _message(self, device_nid: int, message: bytes, loaded: Loaded) -> bytes:
        if device_nid not in loaded.names:
            return b""
        name = loaded.names[device_nid]
        return _encode({**_decode(message), "to_user_id": name.user_id, "to_device_id": name.device_id})

    def _end(self, one: OwedMessage, loaded: Loaded) -> None:
        """Note up to where a device's messages are over once this one is confirmed.

        Those of people, and of other application services' users, are not this one's to end: they wait for a sync, or for
        whoever takes over a dehydrated device.
        """
        name = loaded.names[one.device_nid]
        if not (name.made_by == self._service.id or self._service.reserves_user(name.user_id)):
            return
        if self._is_over(name.user_id, one.device_nid, loaded):
            self.delivered[one.device_nid] = one.pos
        elif one.device_nid in loaded.excess:
            self.delivered[one.device_nid] = min(one.pos, loaded.excess[one.device_nid])

    def _is_over(self, user_id: str, device_nid: int, loaded: Loaded) -> bool:
        """Whether nobody else comes for a device's messages once the application service has them.

        Bridges of both kinds are about: those that take messages from transactions, and those that sync as a device of
        theirs, with its token or with the ``as_token``. Only the registration tells them apart (MSC3202). Somebody who
        has a token, and is not the application service's alone, may sync whatever it says.
        """
        if not self._service.registration.encryption:
            return False
        return device_nid not in loaded.logged_in or self._service.reserves_user(user_id)


def _array(items: Sequence[bytes]) -> bytes:
    return b"[%b]" % b",".join(items)


def _size_of(moved: ReceiptChange, names: Names) -> int:
    """How many bytes a receipt takes at most: those of one room and event share the rest."""
    return 200 + sum(
        map(len, (moved.event_id, moved.user_id, moved.thread, names.rooms.get(moved.room_nid, "")))
    )


def _typing(names: Names, moment: Moment) -> list[bytes]:
    return [
        _encode({"type": "m.typing", "room_id": names.rooms[nid], "content": {"user_ids": list(users)}})
        for nid, users in moment.typing.items()
        if nid in names.rooms
    ]


def _device_owners(names: Names, nids: Collection[int]) -> list[str]:
    return sorted(user_id for nid in nids if may_stand_alone(user_id := names.users.get(nid, "")))


def _encryption(loaded: Loaded, names: Names, moment: Moment) -> dict[str, bytes]:
    """The members of MSC3202; those that say nothing are left out."""
    found: dict[str, bytes] = {}
    if moment.changed or moment.left:
        lists = {
            "changed": _device_owners(names, moment.changed),
            "left": _device_owners(names, moment.left),
        }
        found["device_lists"] = _encode(lists)
    counts: dict[str, dict[str, Any]] = {}
    fallbacks: dict[str, dict[str, Any]] = {}
    for left in loaded.keys:
        if left.device_nid in loaded.names:
            user_id, device_id, _ = loaded.names[left.device_nid]
            counts.setdefault(user_id, {})[device_id] = left.counts
            fallbacks.setdefault(user_id, {})[device_id] = left.unused_fallbacks
    if counts:
        found["device_one_time_keys_count"] = _encode(counts)
        found["device_unused_fallback_key_types"] = _encode(fallbacks)
    return found
