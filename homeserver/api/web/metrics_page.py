"""GET /metrics, for Prometheus, on listeners that serve `metrics` and no others. spec: docs/reference/web.md#metrics"""

from __future__ import annotations

from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Auth, Route
from homeserver.runtime.metrics import Metrics


class MetricsApi:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/metrics",
                handler=self.page,
                auth=Auth.NONE,
                serve="metrics",
                spec="docs/reference/web.md#metrics",
            )
        ]

    async def page(self, _: Request) -> Response:
        body, content_type = self._metrics.exposition()
        return Response(200, body, content_type=content_type.encode("ascii"))
