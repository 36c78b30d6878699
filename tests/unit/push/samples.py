"""Events and facts to try rules on."""

from __future__ import annotations

from typing import Any

from federation.auth.power import PowerLevels
from federation.event import Event
from federation.ids import EventId, RoomId, UserId
from federation.versions import ROOM_VERSIONS
from homeserver.push.conditions import EventView, Facts

ME = "@me:x"
ROOM = "!room:x"


def make_event(
    type_: str = "m.room.message",
    content: dict[str, Any] | None = None,
    sender: str = "@other:x",
    state_key: str | None = None,
) -> Event:
    rules = ROOM_VERSIONS["11"]
    body = {"msgtype": "m.text", "body": "hello"} if content is None else content
    return Event(
        EventId("$event"), RoomId(ROOM), type_, UserId(sender), state_key, body, 1, 1, (), (), None, {}, rules
    )


def view(*args: Any, **kwargs: Any) -> EventView:
    return EventView(make_event(*args, **kwargs))


def power(users: dict[str, int] | None = None, notifications: dict[str, int] | None = None) -> PowerLevels:
    return PowerLevels(users or {}, 0, {}, 0, 50, 50, 50, 0, 50, notifications or {})


def facts(joined: int = 10, name: str = "Me", levels: PowerLevels | None = None) -> Facts:
    return Facts(joined, levels or power(), name, ME)
