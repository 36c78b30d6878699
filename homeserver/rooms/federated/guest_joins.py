"""Guests of ours and rooms that this server is not in: whether a room admits guests, before it is asked to let one in.

Other servers do not know who is a guest, so that they keep out of where they are not admitted is this server's duty
alone. What the room says itself is not here yet. So it is asked twice: before the join, of whoever tells something (the
invite, or a server that is in the room), and of the room's own state once it has come (``remote_joins.py``). By the
first no guest is sent to a door where they are not wanted; the second is what decides.

# spec: client-server-api#guest-access
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from federation.ids import RoomId, ServerName
from homeserver.http.errors import MatrixError
from homeserver.peers.types import AskSpace

GUEST_ACCESS = "m.room.guest_access"
# LIMIT(servers asked about one room, while a person waits)
ASKS_MOST = 3

ToldState = Callable[[int, RoomId], Awaitable[Sequence[dict[str, Any]]]]
"""The stripped state that came with a user's invite; nothing where there is none."""


class GuestJoins:
    """See the module."""

    def __init__(self, told_state: ToldState, ask: AskSpace) -> None:
        self._told_state = told_state
        self._ask = ask

    async def check(self, user_nid: int, room_id: RoomId, servers: Sequence[ServerName]) -> None:
        """Refuse (403) a room that does not admit guests, or of which nobody tells that it does."""
        told = _admits(await self._told_state(user_nid, room_id))
        for server in servers[:ASKS_MOST]:
            if told is not None:
                break
            space = await self._ask(server, room_id, suggested_only=False)
            # spec: server-server-api#get_matrixfederationv1hierarchyroomid
            told = None if space is None else bool(space.room["guest_can_join"])
        if not told:
            raise guests_forbidden()


def guests_forbidden() -> MatrixError:
    """What a guest is told of a room that does not admit them."""
    return MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests may not join this room")


def admits_guests(content: Any) -> bool:
    """Whether the content of an ``m.room.guest_access`` event admits guests; without the event nothing does."""
    return isinstance(content, dict) and content.get("guest_access") == "can_join"


def _admits(stripped: Sequence[dict[str, Any]]) -> bool | None:
    """What an invite's stripped state says; None: nothing. It is not one of the events that must be there."""
    for event in stripped:
        if event["type"] == GUEST_ACCESS and event["state_key"] == "":
            return admits_guests(event["content"])
    return None
