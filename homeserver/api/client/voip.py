"""What clients ask before a call: relays, and media servers.

# spec: client-server-api#voice-over-ip
"""

from __future__ import annotations

from typing import Any

from homeserver.calls.rtc import rtc_transports
from homeserver.calls.turn import TurnCredentials
from homeserver.config.schema import Calls
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route


class VoipApi:
    """``/voip/turnServer`` and the transports of MatrixRTC."""

    def __init__(self, turn: TurnCredentials, calls: Calls) -> None:
        self._turn = turn
        self._transports = {"rtc_transports": rtc_transports(calls)}

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/client/v3/voip/turnServer",
                handler=self.turn_server,
                auth=Auth.GUEST_OK,
                limit="read",
                spec="client-server-api#get_matrixclientv3voipturnserver",
            ),
            Route(
                method="GET",
                template="/_matrix/client/unstable/org.matrix.msc4143/rtc/transports",
                handler=self.transports,
                # COMPAT(Element Call as a widget, 2026): it has no token to send. What is told is public anyhow.
                auth=Auth.OPTIONAL,
                limit="read",
                spec="proposals/4143#discovery-of-rtc-transports",
            ),
        ]

    async def turn_server(self, request: Request) -> dict[str, Any]:
        return self._turn.make(request.requester.user_id)

    async def transports(self, _: Request) -> dict[str, Any]:
        return self._transports
