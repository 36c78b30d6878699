"""Build our own events: hash, name, sign and serialise in one pass. The hottest path of the whole server.

The content is encoded once and spliced; the redacted bytes serve both the signature and the event id. The same
size limits hold for what we build as for what we receive.

# spec: server-server-api#adding-hashes-and-signatures-to-outgoing-events
# spec: client-server-api#size-limits
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from msgspec import Raw

from federation.canonical import MAX_INTEGER, MIN_INTEGER, encode, encode_checked
from federation.errors import Malformed
from federation.event import (
    MAX_AUTH_EVENTS,
    MAX_PREV_EVENTS,
    Event,
    EventRef,
    check_size,
    check_text_field,
    highest_integer,
    redacts_of,
)
from federation.hashes import event_id_of, unpadded
from federation.ids import EventId, RoomId, ServerName, UserId, parse_event_id_with_domain
from federation.redaction import redact_content
from federation.signing import Signer
from federation.sticky import DURATION, STICKY
from federation.versions import RoomRules


@dataclass(frozen=True, slots=True)
class Draft:
    """What somebody wants to say, before it has a place in a room. The content becomes the event's: hands off."""

    room_id: RoomId | None
    """None for a create event whose hash becomes the room id."""
    type: str
    sender: UserId
    content: dict[str, Any]
    state_key: str | None = None
    redacts: EventId | None = None
    origin_server_ts: int | None = None
    """None: now."""
    origin: ServerName | None = None
    """Named in the event itself, as the endpoint that signs invites requires; else it is not."""
    sticky_ms: int | None = None
    """For how long it reaches everybody in the room; None: it is like any other."""


def is_of(draft: Draft, event: Event) -> bool:
    """Whether an event was built of such a draft (which may have had a redaction's target added)."""
    content = {**event.content, **draft.content}
    return (
        (event.type, event.sender, event.state_key) == (draft.type, draft.sender, draft.state_key)
        and content == event.content
        and event.redacts == draft.redacts
    )


def build(
    draft: Draft,
    *,
    prev_events: Sequence[EventRef],
    auth_events: Sequence[EventRef],
    depth: int,
    rules: RoomRules,
    signer: Signer,
    now_ms: int,
    local_id: str = "",
) -> tuple[Event, bytes]:
    """The event and its stored bytes. Raises Malformed when the draft breaks a format or size rule.

    `local_id` is the caller's random string for room versions 1 and 2, whose event ids are not hashes.
    """
    content = draft.content
    if draft.redacts is not None and rules.redacts_in_content:
        content = {**content, "redacts": draft.redacts}
    content_json = Raw(encode_checked(content, strict=rules.strict_canonical_json))
    fields = _fields(draft, prev_events, auth_events, depth, rules, now_ms)
    fields["content"] = content_json
    if not rules.event_ids_are_hashes:
        fields["event_id"] = parse_event_id_with_domain(f"${local_id}:{signer.server_name}")
    fields["hashes"] = {"sha256": unpadded(sha256(encode(fields)).digest())}

    redacted = fields.copy()
    # Of all that `_fields` sets, only these keys are not protected from redaction.
    redacted.pop("redacts", None)
    redacted.pop(STICKY, None)
    if draft.origin is not None and not rules.redaction.keep_origin_membership_prev_state:
        del redacted["origin"]
    kept = redact_content(draft.type, content, rules.redaction)
    redacted["content"] = content_json if kept is content else kept
    redacted_json = _encode_redacted(redacted, rules)
    signature = unpadded(signer.sign(redacted_json))
    fields["signatures"] = {signer.server_name: {signer.key_id: signature}}

    stored = encode(fields)
    check_size(stored)
    fields["content"] = content
    event_id = fields["event_id"] if "event_id" in fields else event_id_of(redacted_json, rules)
    room_id = draft.room_id if draft.room_id is not None else RoomId("!" + event_id[1:])
    event = Event(
        event_id,
        room_id,
        draft.type,
        draft.sender,
        draft.state_key,
        content,
        fields["origin_server_ts"],
        fields["depth"],
        tuple([reference.event_id for reference in prev_events]),
        tuple([reference.event_id for reference in auth_events]),
        redacts_of(fields, content, rules) if draft.type == "m.room.redaction" else None,
        fields,
        rules,
    )
    return event, stored


def _encode_redacted(redacted: dict[str, Any], rules: RoomRules) -> bytes:
    if not rules.strict_canonical_json and type(redacted["content"]) is dict:
        # The kept part of an old room's content may hold floats: encode it the careful way, then splice.
        redacted["content"] = Raw(encode_checked(redacted["content"], strict=False))
    return encode(redacted)


def _fields(
    draft: Draft,
    prev_events: Sequence[EventRef],
    auth_events: Sequence[EventRef],
    depth: int,
    rules: RoomRules,
    now_ms: int,
) -> dict[str, Any]:
    if len(prev_events) > MAX_PREV_EVENTS or len(auth_events) > MAX_AUTH_EVENTS:
        raise ValueError("too many prev_events or auth_events")
    check_text_field("type", draft.type)
    timestamp = now_ms if draft.origin_server_ts is None else draft.origin_server_ts
    if not MIN_INTEGER <= timestamp <= MAX_INTEGER:
        raise Malformed("origin_server_ts must be an integer in range")
    fields: dict[str, Any] = {
        "auth_events": _references(auth_events, rules),
        # spec: rooms/v6#event-format (a room at the limit stays there)
        "depth": min(depth, highest_integer(rules)),
        "origin_server_ts": timestamp,
        "prev_events": _references(prev_events, rules),
        "sender": draft.sender,
        "type": draft.type,
    }
    if draft.state_key is not None:
        check_text_field("state_key", draft.state_key)
        fields["state_key"] = draft.state_key
    if draft.room_id is not None:
        fields["room_id"] = draft.room_id
    if (draft.room_id is None) != (rules.room_id_is_create_hash and draft.type == "m.room.create"):
        raise ValueError("only a create event whose hash is the room id goes without room_id")
    if draft.redacts is not None and not rules.redacts_in_content:
        fields["redacts"] = draft.redacts
    if draft.origin is not None:
        fields["origin"] = draft.origin
    if draft.sticky_ms is not None:
        fields[STICKY] = {DURATION: draft.sticky_ms}
    return fields


def _references(events: Sequence[EventRef], rules: RoomRules) -> list[Any]:
    if rules.references_carry_hashes:
        return [[event_id, {"sha256": sha256_base64}] for event_id, sha256_base64 in events]
    return [event_id for event_id, _ in events]
