"""Users report rooms, events and users to those in charge of this server.

1. An event is reported by who is in its room and may see it; rooms and users by anybody.
2. Nobody but those in charge hears of it: what a report says goes to no other user, and to no other server.

spec: client-server-api#reporting-content
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from homeserver.accounts.types import Requester
from homeserver.db.threads import Database
from homeserver.http.errors import MatrixError, bad_json, invalid_param, limit_exceeded, not_found
from homeserver.runtime.clock import Clock
from homeserver.store.ids import Interner
from homeserver.store.placement import Membership
from homeserver.store.reports import Report, TooManyReportsError, insert_report
from homeserver.store.users import load_account
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex

# LIMIT(characters of a reason)
REASON_MOST = 10_000
LIFETIME_S = 365 * 86_400
_RETRY_AFTER_MS = 3_600_000

SeeEvent = Callable[[Requester, str, str], Awaitable[object]]
"""Raises 404 where a user may not see an event of a room, or it is not there."""


class Reports:
    """See the module."""

    def __init__(
        self,
        server_name: str,
        database: Database,
        worker: Worker,
        interner: Interner,
        index: MembershipIndex,
        see_event: SeeEvent,
        clock: Clock,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._worker = worker
        self._interner = interner
        self._index = index
        self._see_event = see_event
        self._clock = clock

    async def report_room(self, requester: Requester, room_id: str, reason: str) -> None:
        """Report a room; the reporter need not be in it."""
        # spec: client-server-api#post_matrixclientv3roomsroomidreport
        if await self._interner.find_room(room_id) is None:
            raise not_found("The room was not found")
        await self._keep(self._report(requester, reason, room_id=room_id))

    async def report_event(self, requester: Requester, room_id: str, event_id: str, reason: str) -> None:
        """Report an event of a room that the reporter is in."""
        # spec: client-server-api#post_matrixclientv3roomsroomidreporteventid
        room_nid = await self._interner.find_room(room_id)
        standing = self._index.standing(requester.user_nid, room_nid) if room_nid is not None else None
        if standing is None or standing.membership != Membership.JOIN:
            raise _no_event()
        try:
            await self._see_event(requester, room_id, event_id)
        except MatrixError as error:
            if error.status != 404:
                raise
            raise _no_event() from None
        await self._keep(self._report(requester, reason, room_id=room_id, event_id=event_id))

    async def report_user(self, requester: Requester, user_id: str, reason: str) -> None:
        """Report a user of this server, or of another one whom this server has heard of."""
        # spec: client-server-api#post_matrixclientv3usersuseridreport
        user_nid = await self._interner.find_user(user_id)
        is_local = user_id.partition(":")[2] == self._server_name
        if user_nid is None or (is_local and await self._database.read(load_account, user_nid) is None):
            raise not_found("The user was not found")
        await self._keep(self._report(requester, reason, user_id=user_id))

    def _report(
        self,
        requester: Requester,
        reason: str,
        *,
        room_id: str | None = None,
        event_id: str | None = None,
        user_id: str | None = None,
    ) -> Report:
        if "\0" in reason:
            raise bad_json("The reason must not contain NUL")
        if len(reason) > REASON_MOST:
            raise invalid_param(f"The reason is longer than {REASON_MOST} characters")
        return Report(requester.user_nid, self._clock.now_ms(), reason, room_id, event_id, user_id)

    async def _keep(self, report: Report) -> None:
        try:
            await self._worker.work(insert_report, report, report.ts_ms - LIFETIME_S * 1000)
        except TooManyReportsError:
            raise limit_exceeded(_RETRY_AFTER_MS) from None


def _no_event() -> MatrixError:
    return not_found("The event was not found or you are not joined to the room.")
