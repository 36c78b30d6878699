"""What a client asks of the delivery of an event, in the query."""

from __future__ import annotations

from typing import Final

from federation.sticky import STICKY_MOST_MS
from homeserver.http.request import Request

ARGUMENT: Final = "org.matrix.msc4354.sticky_duration_ms"


def sticky_ms(request: Request) -> int | None:
    """For how long the event is to be sticky; None: it is like any other."""
    # spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4354
    if not request.raw_query or request.arg(ARGUMENT) is None:
        return None
    return request.int_arg(ARGUMENT, 0, maximum=STICKY_MOST_MS)


def said_at_ms(request: Request) -> int | None:
    """When an application service says that it was; None: now."""
    # spec: application-service-api#timestamp-massaging
    if request.requester.appservice_id is None or request.arg("ts") is None:
        return None
    return request.int_arg("ts", 0)
