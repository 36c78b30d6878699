"""Reports of events, for those who look through them; and the events, whatever room they are of."""

from __future__ import annotations

from typing import Any

from federation.ids import EventId
from homeserver.http.errors import not_found
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.moderation.evidence import NAMELESS, Evidence, RoomNames
from homeserver.store.reports import EventReport, ReportsWanted
from synapse_compat.gate import admin_route, is_backwards, next_token, page_bounds

_REPORTS = "/v1/event_reports"
_REPORT = _REPORTS + "/{report_id:int}"


class EventReportsApi:
    """See the module."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence

    def routes(self) -> list[Route]:
        return [
            admin_route("GET", _REPORTS, self.list_all, "reports"),
            admin_route("GET", _REPORT, self.get, "reports"),
            admin_route("DELETE", _REPORT, self.delete, "reports"),
            admin_route("GET", "/v1/fetch_event/{event_id:event_id}", self.fetch, "reports"),
        ]

    async def list_all(self, request: Request) -> dict[str, Any]:
        """A page of the reports, the newest first unless ``dir`` is f."""
        wanted = ReportsWanted(
            request.arg("user_id", ""), request.arg("event_sender_user_id", ""), request.arg("room_id", "")
        )
        skip, most = page_bounds(request)
        newest_first = is_backwards(request, default=True)
        found, total = await self._evidence.reports(wanted, skip, most, newest_first=newest_first)
        names = await self._evidence.room_names([one.room_id for one in found])
        shown = [_shown(one, names.get(one.room_id, NAMELESS)) for one in found]
        return {"event_reports": shown, "total": total, **next_token(skip, len(found), total)}

    async def get(self, _: Request, report_id: int) -> dict[str, Any]:
        """One report with its event."""
        report = await self._evidence.report(report_id)
        if report is None:
            raise _no_report()
        names = await self._evidence.room_names([report.room_id])
        event = await self._evidence.event(report.event_id)
        return {**_shown(report, names.get(report.room_id, NAMELESS)), "event_json": event and _aged(event)}

    async def delete(self, _: Request, report_id: int) -> dict[str, Any]:
        """A report was dealt with."""
        if not await self._evidence.drop_report(report_id):
            raise _no_report()
        return {}

    async def fetch(self, _: Request, event_id: EventId) -> dict[str, Any]:
        """An event of any room."""
        event = await self._evidence.event(event_id)
        if event is None:
            raise not_found("Event not found")
        return {"event": {**_aged(event), "event_id": event_id}}


def _aged(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "unsigned": {"age_ts": event.get("origin_server_ts")}}


def _shown(report: EventReport, names: RoomNames) -> dict[str, Any]:
    return {
        "id": report.pos,
        "received_ts": report.ts_ms,
        "room_id": report.room_id,
        "name": names.name,
        "canonical_alias": names.canonical_alias,
        "event_id": report.event_id,
        "user_id": report.reporter_id,
        "reason": report.reason,
        # Clients of before v1.8 of the specification sent one; it is passed over, and null is among what it may be.
        "score": None,
        "sender": report.sender_id,
    }


def _no_report() -> Exception:
    return not_found("Event report not found")
