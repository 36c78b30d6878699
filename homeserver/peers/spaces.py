"""What other servers tell of spaces. Kept for a while, as a walk through a space comes back page by page.

spec: server-server-api#get_matrixfederationv1hierarchyroomid
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from federation.errors import Malformed, RemoteError
from federation.ids import RoomId, ServerName, parse_room_id, parse_user_id_historical
from homeserver.http.transport import Unreachable, build_uri
from homeserver.peers.failures import garbage
from homeserver.peers.queries import PREFIX, clean_room, is_count
from homeserver.peers.types import PeerClient, RemoteSpace
from homeserver.runtime.clock import Clock
from homeserver.runtime.shared import Busy, Shared

KEPT_S: Final = 120.0
BUDGET: Final = 16 * 1024 * 1024
# A person waits, and there may be more servers to ask.
TIMEOUT_S: Final = 10.0
MAX_BYTES: Final = 4 * 1024 * 1024
MAX_CHILDREN: Final = 1_000
MAX_ALLOWED: Final = 200
_CHILD: Final = "m.space.child"

_encode = msgspec.json.encode


class SpaceQueries:
    """Asks, checks, keeps."""

    def __init__(self, client: PeerClient, clock: Clock) -> None:
        self._client = client
        self._kept: Shared[tuple[str, str, bool], RemoteSpace] = Shared(
            clock, keep_s=KEPT_S, budget=BUDGET, size=_weigh
        )

    async def ask(
        self, server_name: ServerName, room_id: RoomId, /, *, suggested_only: bool
    ) -> RemoteSpace | None:
        """What a server tells of a room; None where it tells nothing, or nothing that makes sense."""
        if not self._client.allows(server_name):
            return None
        query = {"suggested_only": "true" if suggested_only else "false"}
        uri = build_uri(f"{PREFIX}/hierarchy", room_id, query=query)

        async def ask() -> RemoteSpace:
            answer = await self._client.ask(
                server_name, "GET", uri, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES, insist=False
            )
            return _clean(answer, server_name, room_id)

        try:
            return await self._kept.get((server_name, room_id, suggested_only), ask)
        except (RemoteError, Unreachable, Busy):
            return None


def _weigh(space: RemoteSpace) -> int:
    return 1_000 + len(_encode(space.room)) + len(_encode(space.children)) + 300 * len(space.closed)


def _clean(answer: dict[str, Any], server_name: str, room_id: str) -> RemoteSpace:
    room = _summary(answer.get("room"))
    if room is None or room["room_id"] != room_id:
        raise garbage(server_name, "a room")
    children: dict[str, dict[str, Any]] = {}
    for one in _listed(answer.get("children")):
        child = _summary(one)
        if child is not None:
            children[child["room_id"]] = child
    closed = frozenset(_room_ids(answer.get("inaccessible_children"), MAX_CHILDREN))
    return RemoteSpace(room, children, closed)


def _summary(value: Any) -> dict[str, Any] | None:
    """A room's summary; that of a child need not name the child's own children."""
    room = clean_room(value)
    if room is None:
        return None
    for name in ("encryption", "room_version"):
        if isinstance(value.get(name), str):
            room[name] = value[name]
    allowed = _room_ids(value.get("allowed_room_ids"), MAX_ALLOWED)
    if allowed:
        room["allowed_room_ids"] = allowed
    room["children_state"] = [
        child for one in _listed(value.get("children_state")) if (child := _child(one)) is not None
    ]
    return room


def _child(value: Any) -> dict[str, Any] | None:
    """A stripped m.space.child event with its time."""
    if not isinstance(value, dict) or value.get("type") != _CHILD:
        return None
    content, ts_ms = value.get("content"), value.get("origin_server_ts")
    if not isinstance(content, dict) or not is_count(ts_ms):
        return None
    try:
        room_id = parse_room_id(value.get("state_key", ""))
        sender = parse_user_id_historical(value.get("sender", ""))
    except Malformed:
        return None
    return {
        "type": _CHILD,
        "state_key": room_id,
        "content": content,
        "sender": sender,
        "origin_server_ts": ts_ms,
    }


def _listed(value: Any) -> list[Any]:
    return value[:MAX_CHILDREN] if isinstance(value, list) else []


def _room_ids(value: Any, most: int) -> list[str]:
    found: list[str] = []
    for one in value[:most] if isinstance(value, list) else ():
        try:
            found.append(parse_room_id(one))
        except Malformed:
            continue
    return found
