"""Content hash, reference hash and event id.

# spec: server-server-api#calculating-the-reference-hash-for-an-event
# spec: server-server-api#calculating-the-content-hash-for-an-event
"""

from __future__ import annotations

import binascii
from hashlib import sha256
from typing import Any, Final

from federation.canonical import encode_by_rules
from federation.errors import Malformed
from federation.ids import EventId
from federation.redaction import redact
from federation.versions import RoomRules

_NOT_HASHED: Final = ("unsigned", "signatures", "hashes")
_TO_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE: Final = str.maketrans("-_", "+/")


def unpadded(data: bytes) -> str:
    """# spec: appendices#unpadded-base64"""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").decode("ascii")


def decode_base64(text: str, *, urlsafe: bool = False) -> bytes:
    """Decode base64 with or without padding. # spec: appendices#unpadded-base64"""
    if type(text) is not str or not text.isascii():
        raise Malformed("Not base64")
    stripped = text.rstrip("=")
    if urlsafe:
        stripped = stripped.replace("-", "+").replace("_", "/")
    try:
        return binascii.a2b_base64(stripped + "=" * (-len(stripped) % 4), strict_mode=True)
    except binascii.Error:
        raise Malformed("Not base64") from None


def content_hash(event_json: dict[str, Any], *, strict: bool = True) -> str:
    """Unpadded base64 SHA-256 over the whole event without `unsigned`, `signatures` and `hashes`."""
    hashed = event_json.copy()
    for key in _NOT_HASHED:
        hashed.pop(key, None)
    return unpadded(sha256(encode_by_rules(hashed, strict=strict)).digest())


def check_content_hash(event_json: dict[str, Any], rules: RoomRules) -> bool:
    """Whether the event is what its author hashed. If not, the receiver redacts it; it is not dropped for it."""
    hashes = event_json.get("hashes")
    claimed = hashes.get("sha256") if type(hashes) is dict else None
    if type(claimed) is not str:
        return False
    expected = content_hash(event_json, strict=rules.strict_canonical_json)
    if claimed == expected:
        return True
    # Several texts stand for the same bytes (padding, unused bits), and it is the bytes that count.
    try:
        return decode_base64(claimed) == decode_base64(expected)
    except Malformed:
        return False


def redacted_bytes(event_json: dict[str, Any], rules: RoomRules) -> bytes:
    """What both the signatures and the reference hash cover: redacted, without signatures, canonical."""
    redacted = redact(event_json, rules)
    redacted.pop("signatures", None)
    return encode_by_rules(redacted, strict=rules.strict_canonical_json)


def reference_hash(event_json: dict[str, Any], rules: RoomRules) -> str:
    """Unpadded standard base64, as prev_events of room versions 1 and 2 carry it."""
    return unpadded(sha256(redacted_bytes(event_json, rules)).digest())


def event_id_of(redacted: bytes, rules: RoomRules) -> EventId:
    """The event id that follows from the redacted bytes; only for versions whose ids are hashes."""
    encoded = binascii.b2a_base64(sha256(redacted).digest(), newline=False).rstrip(b"=")
    if rules.event_id_format == "hash_urlsafe_base64":
        encoded = encoded.translate(_TO_URLSAFE)
    return EventId("$" + encoded.decode("ascii"))


def compute_event_id(event_json: dict[str, Any], rules: RoomRules) -> EventId:
    """The id of an event: carried by it in versions 1 and 2, its reference hash afterwards."""
    if not rules.event_ids_are_hashes:
        event_id = event_json.get("event_id")
        if type(event_id) is not str:
            raise Malformed("Event has no event_id")
        return EventId(event_id)
    return event_id_of(redacted_bytes(event_json, rules), rules)


def hash_in_event_id(event_id: EventId, rules: RoomRules) -> str:
    """The reference hash, in standard base64, that an id made of a hash contains."""
    encoded = event_id[1:]
    return encoded.translate(_FROM_URLSAFE) if rules.event_id_format == "hash_urlsafe_base64" else encoded
