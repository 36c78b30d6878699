"""Events that are sent later. spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4140"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from federation.ids import RoomId
from homeserver.api.client.send import check_invites
from homeserver.api.client.sticky import said_at_ms, sticky_ms
from homeserver.http.errors import forbidden, invalid_param, missing_param
from homeserver.http.ratelimit import RateLimiter
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.rooms.delayed import DelayedEvents, DelayTooLongError, Later
from homeserver.store.delayed import Delayed

_PREFIX = "/_matrix/client/unstable/org.matrix.msc4140"
_ONE = _PREFIX + "/delayed_events/{delay_id}"
_SPEC = "proposals/4140#"
_MAX_BODY = 512 * 1024
_LONGEST_MS = 2**53 - 1


class LaterBody(msgspec.Struct):
    """What is to be sent, and when. ``delay``: what ``delay_ms`` was called before."""

    content: dict[str, Any]
    delay_ms: int | None = None
    delay: int | None = None
    state_key: str | None = None


class ActionBody(msgspec.Struct):
    """COMPAT(clients of before the action was in the path, 2026)"""

    action: Literal["send", "cancel", "restart"]


class DelayedEventsApi:
    """Scheduling, where a client does not say it with /send (``send.py``), looking, and managing."""

    def __init__(self, delayed: DelayedEvents, ratelimit: RateLimiter) -> None:
        self._delayed = delayed
        self._ratelimit = ratelimit

    def routes(self) -> list[Route]:
        # Who knows the id may do what they like with it; a token, where there is one, only counts for the rate limit.
        managing = (("send", self.send), ("cancel", self.cancel), ("restart", self.restart))
        return [
            Route(
                method="PUT",
                template=_PREFIX + "/rooms/{room_id:room_id}/delayed_event/{event_type}/{txn_id:txn_id}",
                handler=self.schedule,
                auth=Auth.GUEST_OK,
                limit="send",
                max_body=_MAX_BODY,
                spec=_SPEC + "scheduling-a-delayed-event",
            ),
            Route(
                method="GET",
                template=_PREFIX + "/delayed_events",
                handler=self.all,
                auth=Auth.GUEST_OK,
                limit="read",
                spec=_SPEC + "getting-delayed-events",
            ),
            Route(
                method="GET",
                template=_ONE,
                handler=self.one,
                auth=Auth.GUEST_OK,
                limit="read",
                spec=_SPEC + "getting-delayed-events",
            ),
            Route(
                method="POST",
                template=_ONE,
                handler=self.act,
                auth=Auth.OPTIONAL,
                limit="read",
                spec=_SPEC + "managing-delayed-events",
                suspended_may=True,
            ),
            *(
                Route(
                    method="POST",
                    template=f"{_ONE}/{action}",
                    handler=handler,
                    auth=Auth.OPTIONAL,
                    limit="read",
                    spec=_SPEC + "managing-delayed-events",
                    suspended_may=True,
                )
                for action, handler in managing
            ),
        ]

    async def schedule(self, request: Request, room_id: RoomId, event_type: str, txn_id: str) -> Any:
        body = request.json(LaterBody)
        delay_ms = body.delay_ms if body.delay_ms is not None else body.delay
        if delay_ms is None:
            raise missing_param("delay_ms is missing")
        if delay_ms < 1:
            raise invalid_param("delay_ms must be positive")
        check_invites(self._ratelimit, request, event_type, body.content)
        later = Later(
            room_id,
            event_type,
            body.content,
            delay_ms,
            body.state_key,
            sticky_ms(request),
            f"{event_type}/{txn_id}",
            said_at_ms(request),
        )
        try:
            return {"delay_id": await self._delayed.schedule(request.requester, later)}
        except DelayTooLongError as error:
            raise forbidden(str(error)) from None

    async def all(self, request: Request) -> Any:
        found = [_to_json(one) for one in await self._delayed.scheduled(request.requester)]
        # COMPAT(matrix-js-sdk, 2026): the second name.
        return {"delayed_events": found, "scheduled": found}

    async def one(self, request: Request, delay_id: str) -> Any:
        return _to_json(await self._delayed.one(request.requester, delay_id))

    async def act(self, request: Request, delay_id: str) -> Any:
        handlers = {"send": self.send, "cancel": self.cancel, "restart": self.restart}
        return await handlers[request.json(ActionBody).action](request, delay_id)

    async def send(self, _: Request, delay_id: str) -> Any:
        await self._delayed.send(delay_id)
        return {}

    async def cancel(self, _: Request, delay_id: str) -> Any:
        await self._delayed.cancel(delay_id)
        return {}

    async def restart(self, _: Request, delay_id: str) -> Any:
        await self._delayed.restart(delay_id)
        return {}


def _to_json(one: Delayed) -> dict[str, Any]:
    """``delay`` and ``running_since``: the names of before, and the end has had no object of its own.

    COMPAT(matrix-js-sdk, ruma, 2026)
    """
    found: dict[str, Any] = {
        "delay_id": one.delay_id,
        "room_id": one.room_id,
        "type": one.type,
        "content": msgspec.Raw(one.content.encode()),
        "delay_ms": one.delay_ms,
        "delayed_since_ts": one.since_ts_ms,
        "delay": one.delay_ms,
        "running_since": one.since_ts_ms,
    }
    if one.state_key is not None:
        found["state_key"] = one.state_key
    if one.ended_ts_ms is not None:
        end: dict[str, Any] = {"finalised_ts": one.ended_ts_ms}
        if one.event_id is not None:
            end["event_id"] = one.event_id
        if one.error is not None:
            end["error"] = msgspec.Raw(one.error.encode())
        found |= {**end, "finalised": end}
    return found
