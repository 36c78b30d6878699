"""Sending events, setting state, redacting.

# spec: client-server-api#sending-events-to-a-room
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from federation.builder import Draft
from federation.ids import EventId, RoomId, UserId
from homeserver.api.client.sticky import said_at_ms, sticky_ms
from homeserver.http.errors import MatrixError, user_suspended
from homeserver.http.ratelimit import RateLimiter
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.http.router import default_rate_key
from homeserver.rooms.delayed import DelayedEvents, DelayTooLongError, Later
from homeserver.rooms.related_redactions import RelatedRedactions
from homeserver.rooms.send import Sender, redaction
from homeserver.rooms.types import Requester

_SEND = "client-server-api#put_matrixclientv3roomsroomidsendeventtypetxnid"
_STATE = "client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey"
_REDACT = "client-server-api#put_matrixclientv3roomsroomidredacteventidtxnid"
_ROOM = "/_matrix/client/v3/rooms/{room_id:room_id}"
# A PDU of 65,536 bytes bounds the content; JSON escapes may make its text some times longer.
_MAX_BODY = 512 * 1024
_DELAY = "org.matrix.msc4140.delay"


class RedactBody(msgspec.Struct):
    """The content of a redaction, and what goes with its target (MSC3912, by its names so far)."""

    reason: str | None = None
    with_relations: list[str] | None = None
    with_rel_types: list[str] | None = None
    unstable: list[str] | None = msgspec.field(default=None, name="org.matrix.msc3912.with_relations")

    @property
    def rel_types(self) -> list[str]:
        """The ways of relating to the target that are meant."""
        return self.with_relations or self.with_rel_types or self.unstable or []


class SendApi:
    """What puts events into rooms that exist."""

    def __init__(
        self, sender: Sender, delayed: DelayedEvents, related: RelatedRedactions, ratelimit: RateLimiter
    ) -> None:
        self._sender = sender
        self._related = related
        self._delayed = delayed
        self._ratelimit = ratelimit

    def routes(self) -> list[Route]:
        return [
            Route(
                method="PUT",
                template=_ROOM + "/send/{event_type}/{txn_id:txn_id}",
                handler=self.send,
                auth=Auth.GUEST_OK,
                limit="send",
                max_body=_MAX_BODY,
                spec=_SEND,
                suspended_may=True,  # for what redacts: see rooms/send.py
            ),
            Route(
                method="PUT",
                template=_ROOM + "/redact/{event_id:event_id}/{txn_id:txn_id}",
                handler=self.redact,
                limit="send",
                max_body=_MAX_BODY,
                spec=_REDACT,
                suspended_may=True,
            ),
            Route(
                method="PUT",
                template=_ROOM + "/state/{event_type}",
                handler=self.put_state,
                auth=Auth.GUEST_OK,
                limit="send",
                max_body=_MAX_BODY,
                spec=_STATE,
            ),
            Route(
                method="PUT",
                template=_ROOM + "/state/{event_type}/{state_key:text}",
                handler=self.put_state,
                auth=Auth.GUEST_OK,
                limit="send",
                max_body=_MAX_BODY,
                spec=_STATE,
            ),
        ]

    async def send(self, request: Request, room_id: RoomId, event_type: str, txn_id: str) -> Any:
        requester = request.requester
        if request.raw_query:
            later = _later(request, room_id, event_type, txn_key=f"{event_type}/{txn_id}")
            if later is not None:
                if requester.is_suspended:
                    raise user_suspended()
                return await self._schedule(requester, later)
        draft = Draft(
            room_id,
            event_type,
            requester.user_id,
            request.json(),
            origin_server_ts=said_at_ms(request),
            sticky_ms=sticky_ms(request),
        )
        event_id = await self._sender.send(
            requester, draft, txn_id, is_suspended=requester.is_suspended, is_admin=requester.is_admin
        )
        return {"event_id": event_id}

    async def redact(self, request: Request, room_id: RoomId, event_id: EventId, txn_id: str) -> Any:
        requester = request.requester
        body = request.json(RedactBody, allow_empty=True)
        content = {} if body.reason is None else {"reason": body.reason}
        draft = redaction(room_id, requester.user_id, event_id, content)
        if body.rel_types and not requester.is_suspended:
            sent = await self._related.redact(
                requester, draft, txn_id, body.rel_types, is_admin=requester.is_admin
            )
            return {"event_id": sent}
        by_id = await self._sender.send(
            requester,
            draft,
            txn_id,
            "redact",
            is_suspended=requester.is_suspended,
            is_admin=requester.is_admin,
        )
        return {"event_id": by_id}

    async def put_state(self, request: Request, room_id: RoomId, event_type: str, state_key: str = "") -> Any:
        sender_id = UserId(request.requester.user_id)
        content = request.json()
        check_invites(self._ratelimit, request, event_type, content)
        if request.raw_query:
            later = _later(request, room_id, event_type, state_key)
            if later is not None:
                return await self._schedule(request.requester, later)
        draft = Draft(
            room_id,
            event_type,
            sender_id,
            content,
            state_key,
            origin_server_ts=said_at_ms(request),
            sticky_ms=sticky_ms(request),
        )
        return {"event_id": await self._sender.put_state(draft)}

    async def _schedule(self, requester: Requester, later: Later) -> dict[str, str]:
        try:
            return {"delay_id": await self._delayed.schedule(requester, later)}
        except DelayTooLongError as error:
            # COMPAT(matrix-js-sdk, until it uses the endpoint of its own): by these it makes the delay shorter.
            names: dict[str, Any] = {
                "org.matrix.msc4140.errcode": "M_MAX_DELAY_EXCEEDED",
                "org.matrix.msc4140.max_delay": error.most_ms,
            }
            raise MatrixError(400, "M_UNKNOWN", str(error), **names) from None


def check_invites(
    ratelimit: RateLimiter, request: Request, event_type: str, content: Mapping[str, Any]
) -> None:
    """An invite counts as one, whichever way it is made, and whenever."""
    if event_type == "m.room.member" and content.get("membership") == "invite":
        count_invites(ratelimit, request, 1)


def count_invites(ratelimit: RateLimiter, request: Request, count: int) -> None:
    """Take so many invites of those that the requester may make now; refuses (429) where they are too many."""
    key = default_rate_key(request)
    if key is not None:
        ratelimit.check("invite", key, request.requester.rate, count)


def _later(
    request: Request,
    room_id: RoomId,
    event_type: str,
    state_key: str | None = None,
    txn_key: str | None = None,
) -> Later | None:
    """What is to be sent later, where the query says so."""
    # spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4140
    if request.arg(_DELAY) is None:
        return None
    if request.requester.is_suspended:
        raise user_suspended()
    delay_ms = request.int_arg(_DELAY, 0)
    return Later(
        room_id,
        event_type,
        request.json(),
        delay_ms,
        state_key,
        sticky_ms(request),
        txn_key,
        said_at_ms(request),
    )
