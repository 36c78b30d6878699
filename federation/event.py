"""Event: one PDU, parsed. The only way in from the network is `parse_untrusted`; the way in from disk is
`parse_stored`, which trusts.

An Event is immutable; nobody mutates its `json` or `content` either. Room ids: from room version 12 the create
event carries none, and the id is derived here, so `room_id` is always set.

# spec: server-server-api#pdus
# spec: client-server-api#size-limits
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from federation.canonical import MAX_EVENT_DEPTH, MAX_INTEGER, encode_by_rules, encode_checked
from federation.errors import Malformed
from federation.hashes import compute_event_id, event_id_of, hash_in_event_id, redacted_bytes, reference_hash
from federation.ids import (
    EventId,
    RoomId,
    UserId,
    parse_event_id,
    parse_event_id_with_domain,
    parse_room_id,
    parse_user_id_historical,
)
from federation.versions import RoomRules

MAX_PDU_BYTES: Final = 65536
MAX_FIELD_BYTES: Final = 255
MAX_PREV_EVENTS: Final = 20
MAX_AUTH_EVENTS: Final = 10
_MAX_INT64: Final = 2**63 - 1
_USUAL_ID: Final = re.compile(r"\$[A-Za-z0-9_\-]{43}")

_decode_stored: Final = msgspec.json.Decoder(dict[str, Any]).decode


class EventRef(NamedTuple):
    """What a later event writes into its prev_events or auth_events."""

    event_id: EventId
    sha256: str
    """Unpadded base64 reference hash; only room versions 1 and 2 put it on the wire."""


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One event of one room. Compared by identity; compare `event_id` for equality."""

    event_id: EventId
    room_id: RoomId
    type: str
    sender: UserId
    state_key: str | None
    content: dict[str, Any]
    origin_server_ts: int
    depth: int
    prev_event_ids: tuple[EventId, ...]
    auth_event_ids: tuple[EventId, ...]
    redacts: EventId | None
    json: dict[str, Any]
    rules: RoomRules

    def is_state(self) -> bool:
        return self.state_key is not None

    def key(self) -> tuple[str, str]:
        """(type, state_key) of a state event."""
        if self.state_key is None:
            raise ValueError("not a state event")
        return (self.type, self.state_key)

    def reference(self) -> EventRef:
        if self.rules.event_ids_are_hashes:
            return EventRef(self.event_id, hash_in_event_id(self.event_id, self.rules))
        return EventRef(self.event_id, reference_hash(self.json, self.rules))


def parse_untrusted(data: dict[str, Any], rules: RoomRules, *, is_old: bool = False) -> Event:
    """Parse a PDU from another server. Raises Malformed for whatever breaks the format or a limit.

    Signatures, hashes and authorisation are not looked at here. `is_old`: it is out of an answer to a backfill, so it
    may name more events than one that is sent now.
    """
    return parse_with_texts(data, rules, is_old=is_old).event


class Parsed(NamedTuple):
    """An event, and the texts of it that were made on the way: for whom there are many."""

    event: Event
    stored: bytes
    """As `stored_bytes` gives it."""
    signed: bytes
    """As `hashes.redacted_bytes` gives it."""


def parse_with_texts(data: dict[str, Any], rules: RoomRules, *, is_old: bool = False) -> Parsed:
    """The same as `parse_untrusted`, without what would be encoded again for storing and verifying."""
    if type(data) is not dict:
        raise Malformed("Event must be a JSON object")
    event_json = data.copy()
    event_json.pop("unsigned", None)
    encoded = encode_checked(event_json, strict=rules.strict_canonical_json, max_depth=MAX_EVENT_DEPTH)
    check_size(encoded)
    try:
        _check_fields(event_json, rules, is_old)
        signed = redacted_bytes(event_json, rules)
        event_id = _check_event_id(event_json, signed, rules)
        room_id = _check_room_id(event_json, event_id, rules)
    except Malformed as error:
        if error.errcode != "M_INVALID_PARAM":
            raise
        # The id parsers speak of parameters; here the ids are parts of a JSON body.
        raise Malformed(error.message) from None
    return Parsed(_assemble(event_id, room_id, event_json, rules), encoded, signed)


def parse_stored(event_id: EventId, data: bytes | dict[str, Any], rules: RoomRules) -> Event:
    """Rebuild an Event from what `stored_bytes` wrote. Trusts it entirely."""
    event_json = data if isinstance(data, dict) else _decode_stored(data)
    room_id = event_json.get("room_id")
    return _assemble(event_id, RoomId("!" + event_id[1:] if room_id is None else room_id), event_json, rules)


def stored_bytes(event: Event) -> bytes:
    """The canonical JSON of the PDU with hashes and signatures and without `unsigned`."""
    return encode_by_rules(event.json, strict=event.rules.strict_canonical_json)


def _assemble(event_id: EventId, room_id: RoomId, event_json: dict[str, Any], rules: RoomRules) -> Event:
    content = event_json["content"]
    return Event(
        event_id,
        room_id,
        event_json["type"],
        event_json["sender"],
        event_json.get("state_key"),
        content,
        event_json["origin_server_ts"],
        event_json["depth"],
        reference_ids(event_json["prev_events"], rules),
        reference_ids(event_json["auth_events"], rules),
        redacts_of(event_json, content, rules) if event_json["type"] == "m.room.redaction" else None,
        event_json,
        rules,
    )


def reference_ids(references: list[Any], rules: RoomRules) -> tuple[EventId, ...]:
    """The ids in prev_events or auth_events."""
    if rules.references_carry_hashes:
        return tuple(reference[0] for reference in references)
    return tuple(references)


def redacts_of(event_json: dict[str, Any], content: dict[str, Any], rules: RoomRules) -> EventId | None:
    """The target of an event that is known to be a redaction."""
    target = content.get("redacts") if rules.redacts_in_content else event_json.get("redacts")
    # `content` is free-form: what is no event id redacts nothing.
    if type(target) is not str or target[:1] != "$" or len(target) > 255 or "\0" in target:
        return None
    return EventId(target)


def check_size(stored: bytes) -> None:
    """Whether the text of an event, with all that is to be signed of it, may go to other servers: as `stored_bytes` has it.

    # spec: client-server-api#size-limits
    """
    if len(stored) > MAX_PDU_BYTES:
        raise Malformed("Event is too large", errcode="M_TOO_LARGE", status=413)


def check_text_field(name: str, value: Any) -> None:
    """A string of at most 255 bytes. # spec: client-server-api#size-limits"""
    if type(value) is not str:
        raise Malformed(f"{name} must be a string")
    if len(value) > MAX_FIELD_BYTES or (not value.isascii() and _utf8_size(value) > MAX_FIELD_BYTES):
        raise Malformed(f"{name} is too long", errcode="M_TOO_LARGE", status=413)


def _utf8_size(value: str) -> int:
    try:
        return len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise Malformed("JSON string holds a lone surrogate") from None


def _check_integer(name: str, value: Any, minimum: int, maximum: int) -> None:
    if type(value) is not int or not minimum <= value <= maximum:
        raise Malformed(f"{name} must be an integer in range")


def highest_integer(rules: RoomRules) -> int:
    """Where depths and times of a room version end."""
    # spec: rooms/v6#event-format (and those before)
    return MAX_INTEGER if rules.strict_canonical_json else _MAX_INT64


def _check_fields(event_json: dict[str, Any], rules: RoomRules, is_old: bool) -> None:
    check_text_field("type", event_json.get("type"))
    parse_user_id_historical(event_json.get("sender", ""))
    if "state_key" in event_json:
        check_text_field("state_key", event_json["state_key"])
    if type(event_json.get("content")) is not dict:
        raise Malformed("content must be an object")
    maximum = highest_integer(rules)
    _check_integer("origin_server_ts", event_json.get("origin_server_ts"), -maximum, maximum)
    _check_integer("depth", event_json.get("depth"), 0, maximum)
    # spec: server-server-api#get_matrixfederationv1backfillroomid (what was accepted once is not refused now)
    prev_most, auth_most = (MAX_PDU_BYTES,) * 2 if is_old else (MAX_PREV_EVENTS, MAX_AUTH_EVENTS)
    _check_references("prev_events", event_json.get("prev_events"), prev_most, rules)
    _check_references("auth_events", event_json.get("auth_events"), auth_most, rules)
    if not rules.redacts_in_content and type(event_json.get("redacts", "")) is not str:
        raise Malformed("redacts must be a string")
    hashes = event_json.get("hashes")
    if type(hashes) is not dict or type(hashes.get("sha256")) is not str:
        raise Malformed("hashes must hold a sha256 hash")
    _check_signatures(event_json.get("signatures"))


def _check_references(name: str, references: Any, limit: int, rules: RoomRules) -> None:
    if type(references) is not list or len(references) > limit:
        raise Malformed(f"{name} must be a list of at most {limit}")
    for reference in references:
        event_id = reference
        if rules.references_carry_hashes:
            if type(reference) is not list or len(reference) != 2 or type(reference[1]) is not dict:
                raise Malformed(f"{name} must hold pairs of event id and hashes")
            if not all(type(value) is str for value in reference[1].values()):
                raise Malformed(f"{name} must hold hashes as strings")
            event_id = reference[0]
        # What nearly all of them are needs no second look.
        if not (type(event_id) is str and _USUAL_ID.fullmatch(event_id)):
            parse_event_id(event_id)


def _check_signatures(signatures: Any) -> None:
    if type(signatures) is not dict:
        raise Malformed("signatures must be an object")
    for by_key in signatures.values():
        if type(by_key) is not dict or not all(type(value) is str for value in by_key.values()):
            raise Malformed("signatures must hold strings by server and key id")


def _check_event_id(event_json: dict[str, Any], signed: bytes, rules: RoomRules) -> EventId:
    if rules.event_ids_are_hashes:
        return event_id_of(signed, rules)
    return parse_event_id_with_domain(compute_event_id(event_json, rules))


def _check_room_id(event_json: dict[str, Any], event_id: EventId, rules: RoomRules) -> RoomId:
    if rules.room_id_is_create_hash and event_json["type"] == "m.room.create":
        # spec: rooms/v12#event-format
        if "room_id" in event_json:
            raise Malformed("The create event of this room version must not have a room_id")
        return RoomId("!" + event_id[1:])
    room_id = parse_room_id(event_json.get("room_id", ""))
    if rules.room_id_is_create_hash != (":" not in room_id):
        raise Malformed("room_id does not have the form of this room version")
    return room_id
