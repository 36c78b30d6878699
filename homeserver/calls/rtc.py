"""The media servers that group calls of clients use (MatrixRTC), as the configuration names them.

spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4143
"""

from __future__ import annotations

from typing import Any

from homeserver.config.schema import Calls

WELL_KNOWN = "org.matrix.msc4143.rtc_foci"


def rtc_transports(calls: Calls) -> list[dict[str, Any]]:
    """Each of them as clients read it, the preferred one first."""
    return [{"type": "livekit", "livekit_service_url": url} for url in calls.livekit_service_urls]


def well_known_foci(calls: Calls) -> dict[str, Any]:
    """What ``/.well-known/matrix/client`` says of them: nothing where there are none."""
    transports = rtc_transports(calls)
    return {WELL_KNOWN: transports} if transports else {}
