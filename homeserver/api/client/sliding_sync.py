"""Sliding sync. proposal: MSC4186"""

from __future__ import annotations

from homeserver.api.client.sync import MAX_TIMEOUT_MS, PRESENCE, SetPresence
from homeserver.http.errors import invalid_param
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.sync.sliding.request import parse_request
from homeserver.sync.sliding.service import SlidingAsk, SlidingSync
from homeserver.sync.types import Requester

_UNSTABLE = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
_STABLE = "/_matrix/client/v4/sync"
# As many subscriptions as the first form may have, with as much state as clients ask for.
_MAX_BODY = 1024 * 1024


class SlidingSyncApi:
    """``set_presence(requester, state)`` hears of every sync: a client that syncs is there."""

    def __init__(self, sync: SlidingSync, set_presence: SetPresence | None = None) -> None:
        self._sync = sync
        self._set_presence = set_presence

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                template=template,
                handler=handler,
                auth=Auth.GUEST_OK,
                limit="sync",
                spec="proposals/4186#api",
                max_body=_MAX_BODY,
                suspended_may=True,
                cancel_on_disconnect=True,
            )
            for template, handler in ((_UNSTABLE, self.sync), (_STABLE, self.sync_stable))
        ]

    async def sync(self, request: Request) -> bytes:
        """The form that clients speak as long as the proposal is in no version of the specification."""
        return await self._answer(request, stable=False)

    async def sync_stable(self, request: Request) -> bytes:
        """The form of the accepted proposal."""
        return await self._answer(request, stable=True)

    async def _answer(self, request: Request, *, stable: bool) -> bytes:
        requester: Requester = request.requester
        asked = parse_request(request.body, requester.user_id, stable=stable)
        # The accepted proposal moved these into the body; the experimental form has them in the query.
        pos = asked.pos or request.arg("pos")
        timeout_ms = request.int_arg("timeout", 0, 0, MAX_TIMEOUT_MS, clamp=True)
        if asked.timeout_ms is not None:
            timeout_ms = min(asked.timeout_ms, MAX_TIMEOUT_MS)
        presence = asked.set_presence
        if presence is None:
            presence = request.arg("set_presence", "online")
        if presence not in PRESENCE:
            raise invalid_param("set_presence must be online, offline or unavailable")
        if self._set_presence is not None:
            self._set_presence(requester, presence)
        ask = SlidingAsk(requester, asked, pos or None, timeout_ms / 1000, stable)
        return await self._sync.sync(ask)
