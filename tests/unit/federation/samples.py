"""Keys and events that several tests use."""

from __future__ import annotations

from typing import Any

from federation.builder import Draft, build
from federation.event import Event, EventRef
from federation.ids import EventId, RoomId, ServerName, UserId
from federation.signing import SigningKey
from federation.versions import ROOM_VERSIONS, RoomRules

SERVER = ServerName("example.org")
KEY = SigningKey.from_seed(SERVER, "a", bytes(range(32)))
OTHER_KEY = SigningKey.from_seed(ServerName("other.example"), "b", bytes(range(1, 33)))
KEYS = {key.server_name: {key.key_id: key.public_key} for key in (KEY, OTHER_KEY)}
ALICE = UserId("@alice:example.org")
NOW_MS = 1_700_000_000_000
V1, V3, V4, V6, V10, V11, V12 = (ROOM_VERSIONS[version] for version in ("1", "3", "4", "6", "10", "11", "12"))


def room_of(rules: RoomRules) -> RoomId:
    return RoomId("!" + "R" * 43) if rules.room_id_is_create_hash else RoomId("!room:example.org")


def some_refs(rules: RoomRules, count: int) -> list[EventRef]:
    names = "abcdefghijklmnopqrstuvwxyz"
    suffix = "" if rules.event_ids_are_hashes else ":example.org"
    return [EventRef(EventId("$" + names[i] * 43 + suffix), names[i] * 43) for i in range(count)]


def make(rules: RoomRules, event_type: str = "m.room.message", **changes: Any) -> tuple[Event, bytes]:
    """Build one event; `changes` are fields of the draft or keyword arguments of `build`."""
    draft: dict[str, Any] = {
        "room_id": room_of(rules),
        "type": event_type,
        "sender": ALICE,
        "content": {"body": "hello", "msgtype": "m.text"},
    }
    options: dict[str, Any] = {
        "prev_events": some_refs(rules, 1),
        "auth_events": some_refs(rules, 3),
        "depth": 5,
        "rules": rules,
        "signer": KEY,
        "now_ms": NOW_MS,
        "local_id": "local1",
    }
    for name, value in changes.items():
        (options if name in options else draft)[name] = value
    return build(Draft(**draft), **options)
