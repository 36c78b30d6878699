"""Stripped state from other servers: what they say of a room to somebody who is not in it.

Since v1.16 it comes as whole events, the create event among them. In rooms whose id is the create event's hash, that
event is held to its hash, its signature and the room's id, so that an invite that brings it cannot lie about which room it
is for. Where nothing can be proved (in older rooms, and by servers that bring no whole create event), whatever has the
form is shown.

# spec: server-server-api#inviting-to-a-room
# spec: client-server-api#stripped-state
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from federation.canonical import encode_checked
from federation.errors import Malformed
from federation.event import Event, parse_untrusted
from federation.signing import required_signers
from federation.versions import RoomRules
from homeserver.http.errors import invalid_param
from homeserver.peers.types import EventKeys
from homeserver.rooms.federated.signed import is_signed

# LIMIT(entries looked at, and bytes kept of them, for each membership)
ENTRIES_MOST = 50
BYTES_MOST = 64 * 1024
_MEMBER_BYTES_MOST = 32 * 1024
# What only whole events have.
_WHOLE = frozenset({"auth_events", "hashes", "signatures"})
_encode = msgspec.json.Encoder().encode


def strip(event: Event) -> bytes:
    """What strangers may see of a state event."""
    return _stripped(event.content, event.sender, event.state_key or "", event.type)


async def read_stripped(entries: Any, event: Event, keys: EventKeys, *, must_prove: bool) -> str:
    """The stored form: a list of stripped events, with the membership that it came for at the end.

    ``must_prove``: refuse (400) a room of a version that has such proof when what is given as one does not hold.
    """
    rules = event.rules
    found: list[bytes] = []
    unproved: list[bytes] = []
    proved = is_false = False
    size = 0
    for entry in entries[:ENTRIES_MOST] if isinstance(entries, list) else ():
        whole = _parse(entry, event.room_id, rules)
        if whole is not None and rules.room_id_is_create_hash:
            if not await is_signed(whole, sorted(required_signers(whole)), keys):
                is_false = is_false or whole.type == "m.room.create"
                continue
            proved = proved or whole.type == "m.room.create"
        stripped = strip(whole) if whole is not None else _as_stripped(entry, rules)
        if stripped is None or size + len(stripped) > BYTES_MOST:
            continue
        size += len(stripped)
        if whole is None and rules.room_id_is_create_hash and entry.get("type") == "m.room.create":
            # COMPAT(Dendrite, and Synapse of before July 2026: stripped in rooms of these versions, too)
            is_false = is_false or not _WHOLE.isdisjoint(entry)
            unproved.append(stripped)
        else:
            found.append(stripped)
    if proved:
        unproved = []
    elif must_prove and is_false:
        raise invalid_param("The room's create event does not hold")
    return stripped_json([*unproved[:1], *found, strip(event)])


def _parse(entry: Any, room_id: str, rules: RoomRules) -> Event | None:
    """A whole state event of the room."""
    try:
        event = parse_untrusted(entry, rules)
    except Malformed:
        return None
    return event if event.room_id == room_id and event.state_key is not None else None


def _as_stripped(entry: Any, rules: RoomRules) -> bytes | None:
    """COMPAT(servers before v1.16, and those that send only the create event whole): stripped already."""
    if not isinstance(entry, dict):
        return None
    content = entry.get("content")
    names = [name for key in ("sender", "state_key", "type") if isinstance(name := entry.get(key), str)]
    if not isinstance(content, dict) or len(names) < 3 or any(len(name) > 255 for name in names):
        return None
    try:
        if len(encode_checked(content, strict=rules.strict_canonical_json)) > _MEMBER_BYTES_MOST:
            return None
    except Malformed:
        return None
    return _stripped(content, names[0], names[1], names[2])


def _stripped(content: dict[str, Any], sender: str, state_key: str, event_type: str) -> bytes:
    return _encode({"content": content, "sender": sender, "state_key": state_key, "type": event_type})


def stripped_json(events: Sequence[bytes]) -> str:
    """The stored form of some stripped events."""
    return (b"[" + b",".join(events) + b"]").decode()
