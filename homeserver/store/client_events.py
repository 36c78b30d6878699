"""Events in the format of the client-server API, as bytes: made once for each event and spliced into every answer.

A ``ClientEvent`` holds the part that is the same for everybody (``head``: an open JSON object without ``room_id`` and
``unsigned``). ``render`` closes it with what differs: the room id where the endpoint has it, the age, the reader's
transaction id. A redacted event is another ``ClientEvent`` (its redaction's nid is part of the cache's key), so nothing
here ever changes.

# spec: client-server-api#room-event-format
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import msgspec

from federation.redaction import redact
from federation.sticky import STICKY, sticky_duration_ms
from federation.versions import ROOM_VERSIONS
from homeserver.db.tx import Tx
from homeserver.store.cache import ByteLru
from homeserver.store.events import StoredJson, load_json, load_redactions
from homeserver.store.placement import Placement
from homeserver.store.relation import read_relation
from homeserver.store.sticky import load_ends


class _Pdu(msgspec.Struct):
    """What a client sees of a stored event; the content stays bytes."""

    type: str
    sender: str
    origin_server_ts: int
    content: msgspec.Raw
    state_key: str | msgspec.UnsetType = msgspec.UNSET
    redacts: str | msgspec.UnsetType = msgspec.UNSET
    msc4354_sticky: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Content(msgspec.Struct):
    """What of a content matters beyond its bytes. Wrong types count as absent."""

    url: Any = None
    redacts: Any = None
    relates_to: Any = msgspec.field(default=None, name="m.relates_to")


_decode_pdu = msgspec.json.Decoder(_Pdu).decode
_decode_content = msgspec.json.Decoder(_Content).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """One event as clients see it. ``head`` lacks its closing brace."""

    nid: int
    event_id: str
    type: str
    sender: str
    state_key: str | None
    ts_ms: int
    head: bytes
    content: bytes
    has_url: bool
    relation: tuple[str, str] | None  # (rel_type, event id)
    redacted_by: int = 0
    because: bytes = b""  # of a redacted event: the ``redacted_because`` member of unsigned
    sticky_ms: int = 0  # for how long it reaches everybody in the room
    redacted_by_user: str = ""  # who sent the redaction
    sticky_until_ms: int = 0  # when that ends by our own clock; 0: it did not begin here, or is forgotten

    def render(self, unsigned: bytes = b"", room_id: str | None = None) -> bytes:
        """The whole object. ``unsigned``: the members of its unsigned object, without braces."""
        parts = [self.head]
        if room_id is not None:
            parts.append(b',"room_id":' + _encode(room_id))
        if unsigned or self.because:
            members = (
                unsigned + b"," + self.because if unsigned and self.because else unsigned or self.because
            )
            parts.append(b',"unsigned":{' + members + b"}")
        parts.append(b"}")
        return b"".join(parts)

    def content_dict(self) -> Any:
        """The content, parsed."""
        return _decode_any(self.content)


# In the place of a redaction: the event is seen redacted because who sent it wanted to be erased (store/veil.py).
ERASED: Final = -1


class Key(NamedTuple):
    """An event, and the redaction that it is seen through (0: none)."""

    nid: int
    redacted_by: int


def weigh_event(event: ClientEvent) -> int:
    """Roughly how many bytes an event takes in memory; its content is a part of its head as well."""
    return 2 * len(event.head) + 600


class ClientEventCache(ByteLru[Key, ClientEvent]):
    """Client events by event and redaction."""

    def __init__(self, budget: int = 32 * 1024 * 1024) -> None:
        super().__init__(budget, weigh_event)


def from_placement(placed: Placement) -> ClientEvent:
    """The client event of what this process has just stored."""
    rules = placed.event.rules
    event = _make(placed.nid, placed.event.event_id, placed.json, b"", 0, rules.redacts_in_content)
    return replace(event, sticky_until_ms=placed.sticky_until_ms) if placed.sticky_until_ms else event


def load_client_events(tx: Tx, nids: Collection[int], cache: ClientEventCache) -> dict[int, ClientEvent]:
    """Client events by nid, seen through their redactions. Two reads, one where all are cached.

    (And one for those that stick, when they are read for the first time.)
    """
    if not nids:
        return {}
    return load_seen(tx, {**dict.fromkeys(nids, 0), **load_redactions(tx, list(nids))}, cache)


def load_seen(tx: Tx, redacted: Mapping[int, int], cache: ClientEventCache) -> dict[int, ClientEvent]:
    """As :func:`load_client_events`, of events whose redactions (0: none) are known. No read where all are cached.

    Those whose redaction is ``ERASED`` are seen as redacted, without one.
    """
    found: dict[int, ClientEvent] = {}
    missing: list[int] = []
    cached = cache.get_many(map(Key._make, redacted.items()))
    for nid, event in zip(redacted, cached, strict=True):
        if event is None:
            missing.append(nid)
        else:
            found[nid] = event
    if not missing:
        return found
    by_nids = sorted({redacted[nid] for nid in missing if redacted[nid] > 0})
    rows = {row.nid: row for row in load_json(tx, [*missing, *by_nids])}
    for nid in missing:
        row = rows.get(nid)
        if row is None:
            continue
        by = rows.get(redacted[nid])
        if redacted[nid] == ERASED:
            event = _erased(row)
        else:
            event = _plain(row) if by is None else _redacted(row, by)
        found[nid] = event
        if not event.sticky_ms:
            cache.put(Key(nid, event.redacted_by), event)
    stuck = [nid for nid in missing if nid in found and found[nid].sticky_ms]
    if stuck:
        # Kept only with its end: where that cannot be read now, all of it is read again.
        ends = load_ends(tx, stuck)
        for nid in stuck:
            event = found[nid] = replace(found[nid], sticky_until_ms=ends.get(nid, 0))
            cache.put(Key(nid, event.redacted_by), event)
    return found


def _plain(row: StoredJson) -> ClientEvent:
    rules = ROOM_VERSIONS[row.version]
    return _make(row.nid, row.event_id, row.json, b"", 0, rules.redacts_in_content)


def _redacted(row: StoredJson, by: StoredJson) -> ClientEvent:
    rules = ROOM_VERSIONS[row.version]
    kept = redact(_decode_any(row.json), rules)
    # spec: client-server-api#redactions: the redaction stands in unsigned.redacted_because
    redaction = _plain(by)
    event = _make(row.nid, row.event_id, _encode(kept), _because(redaction), by.nid, rules.redacts_in_content)
    return replace(event, redacted_by_user=redaction.sender)


def _because(redaction: ClientEvent) -> bytes:
    return b'"redacted_because":' + redaction.render(room_id=None)


def redacted_through(event: ClientEvent, redaction: ClientEvent) -> ClientEvent:
    """A redacted event, with its redaction as somebody sees that."""
    return replace(event, because=_because(redaction))


def _erased(row: StoredJson) -> ClientEvent:
    rules = ROOM_VERSIONS[row.version]
    kept = _encode(redact(_decode_any(row.json), rules))
    return _make(row.nid, row.event_id, kept, b"", ERASED, rules.redacts_in_content)


def load_as_redacted(tx: Tx, nids: Collection[int]) -> dict[int, ClientEvent]:
    """Client events by nid as if they were redacted, for readers who ignore those who sent them."""
    found: dict[int, ClientEvent] = {}
    for row in load_json(tx, nids):
        rules = ROOM_VERSIONS[row.version]
        kept = _encode(redact(_decode_any(row.json), rules))
        found[row.nid] = _make(row.nid, row.event_id, kept, b"", 0, rules.redacts_in_content)
    return found


def _make(
    nid: int, event_id: str, json: bytes, unsigned: bytes, redacted_by: int, redacts_in_content: bool
) -> ClientEvent:
    pdu = _decode_pdu(json)
    raw = bytes(pdu.content)
    try:
        content = _decode_content(raw)
    except msgspec.ValidationError:
        content = _Content()
    parts = [
        b'{"content":',
        raw,
        b',"event_id":',
        _encode(event_id),
        b',"origin_server_ts":%d,"sender":' % pdu.origin_server_ts,
        _encode(pdu.sender),
        b',"type":',
        _encode(pdu.type),
    ]
    state_key = None if pdu.state_key is msgspec.UNSET else str(pdu.state_key)
    if state_key is not None:
        parts += [b',"state_key":', _encode(state_key)]
    redacts = content.redacts if redacts_in_content else pdu.redacts
    if pdu.type == "m.room.redaction" and isinstance(redacts, str):
        # COMPAT(clients before room version 11, always): the target also stands at the top level.
        parts += [b',"redacts":', _encode(redacts)]
    sticky_ms = 0
    if pdu.msc4354_sticky is not msgspec.UNSET:
        sticky = bytes(pdu.msc4354_sticky)
        parts += [b',"%b":' % STICKY.encode(), sticky]
        sticky_ms = sticky_duration_ms({STICKY: _decode_any(sticky)})
    return ClientEvent(
        nid,
        event_id,
        pdu.type,
        pdu.sender,
        state_key,
        pdu.origin_server_ts,
        b"".join(parts),
        raw,
        isinstance(content.url, str),
        read_relation(content.relates_to),
        redacted_by,
        unsigned,
        sticky_ms,
    )


def join(parts: Iterable[bytes]) -> bytes:
    """A JSON array of objects that are bytes already."""
    return b"[" + b",".join(parts) + b"]"
