"""Push gateways without sockets: what they were told, and what they are to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from homeserver.http.client import HttpLimits, HttpResponse
from homeserver.http.transport import Unreachable

URL = "https://push.example/_matrix/push/v1/notify"
OK = (200, b'{"rejected":[]}')

Answer = tuple[int, bytes] | Unreachable | None
"""A status and a body, or nobody there; None: it never answers."""


class FakeGateways:
    """Stands in for ``HttpClient``. ``say(url, notification)`` decides on each answer."""

    def __init__(self) -> None:
        self.say: Callable[[str, dict[str, Any]], Answer] = lambda url, notification: OK
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.limits: list[HttpLimits] = []
        self.hanging: list[Deferred[HttpResponse]] = []

    def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        limits: HttpLimits | None = None,
        **_: Any,
    ) -> Deferred[HttpResponse]:
        """See ``HttpClient.request``."""
        if method != "POST" or body is None or (headers or {}).get("Content-Type") != "application/json":
            raise AssertionError("not a notification")
        notification = msgspec.json.decode(body)["notification"]
        self.told.append((url, notification))
        if limits is not None:
            self.limits.append(limits)
        answer = self.say(url, notification)
        waiting: Deferred[HttpResponse] = Deferred()
        if answer is None:
            self.hanging.append(waiting)
        elif isinstance(answer, Unreachable):
            waiting.errback(answer)
        else:
            waiting.callback(HttpResponse(url, answer[0], answer[1]))
        return waiting

    def time_out(self) -> None:
        """Those that hang are given up, as the client does by the clock."""
        hanging, self.hanging = self.hanging, []
        for waiting in hanging:
            if not waiting.called:
                waiting.errback(Unreachable("took too long"))

    def take(self) -> list[dict[str, Any]]:
        """What was told since the last look."""
        told, self.told = self.told, []
        return [notification for _, notification in told]
