"""Reporting rooms, events and users. spec: client-server-api#reporting-content"""

from __future__ import annotations

from typing import Any

import msgspec

from federation.ids import EventId, RoomId
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.moderation.reports import Reports

_ROOM = "/_matrix/client/v3/rooms/{room_id:room_id}/report"


class ReportBody(msgspec.Struct):
    """Why a room or a user is reported; it may be blank, and must be there."""

    reason: str


class EventReportBody(msgspec.Struct):
    """Why an event is reported. ``score``, which old clients send, is no longer part of the specification."""

    reason: str | None = None


class ReportsApi:
    """The three endpoints."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template=_ROOM,
                handler=self.room,
                limit="write",
                spec="client-server-api#post_matrixclientv3roomsroomidreport",
                suspended_may=True,
            ),
            Route(
                method="POST",
                template=_ROOM + "/{event_id:event_id}",
                handler=self.event,
                limit="write",
                spec="client-server-api#post_matrixclientv3roomsroomidreporteventid",
                suspended_may=True,
            ),
            Route(
                method="POST",
                # Whoever is to be reported may have a name that could not be chosen today.
                template="/_matrix/client/v3/users/{user_id:member_id}/report",
                handler=self.user,
                limit="write",
                spec="client-server-api#post_matrixclientv3usersuseridreport",
                suspended_may=True,
            ),
        ]

    async def room(self, request: Request, room_id: RoomId) -> dict[str, Any]:
        await self._reports.report_room(request.requester, room_id, request.json(ReportBody).reason)
        return {}

    async def event(self, request: Request, room_id: RoomId, event_id: EventId) -> dict[str, Any]:
        reason = request.json(EventReportBody, allow_empty=True).reason or ""
        await self._reports.report_event(request.requester, room_id, event_id, reason)
        return {}

    async def user(self, request: Request, user_id: str) -> dict[str, Any]:
        await self._reports.report_user(request.requester, user_id, request.json(ReportBody).reason)
        return {}
