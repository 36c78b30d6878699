"""Rooms with members of other servers, without those servers: their memberships are placed by this server itself."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from federation.builder import Draft
from federation.ids import RoomId, UserId
from homeserver.rooms.turn import Turn
from tests.support.app import TestApp


def set_membership(app: TestApp, room_id: str, user_id: str, membership: str, sender: str = "") -> None:
    """Place a membership as if its server had sent it (``sender`` where it is another's doing)."""
    place_event(app, room_id, "m.room.member", {"membership": membership}, user_id, sender or user_id)


def place_event(
    app: TestApp, room_id: str, event_type: str, content: Any, state_key: str | None, sender: str
) -> str:
    """Place any event of any user; its id."""
    draft = Draft(RoomId(room_id), event_type, UserId(sender), content, state_key)

    async def job(turn: Turn) -> str:
        return str((await turn.place(draft)).event.event_id)

    async def place() -> str:
        return await (await app.app.core.rooms.find(room_id)).run(job)

    return app.wait(Deferred.fromCoroutine(place()))
