"""GET /_chaos/health: whether this server can do its work, for load balancers and service managers.

However often it is asked, one look at the database is on its way at a time, and nobody waits for it longer than
`PATIENCE_S`. It tells nothing that a stranger should not know.
spec: docs/reference/web.md#health
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.db.threads import Database
from homeserver.http.request import Request
from homeserver.http.response import Response, json_response
from homeserver.http.route import Auth, Route
from homeserver.runtime.clock import Clock, DelayedCall
from homeserver.store.changes import load_position

PATIENCE_S = 2.0
_HEADERS = ((b"Cache-Control", b"no-store"),)


class HealthApi:
    """See the module. `position` is the newest one that this process knows."""

    def __init__(
        self, database: Database, clock: Clock, position: Callable[[], int], server_name: str
    ) -> None:
        self._database = database
        self._clock = clock
        self._position = position
        self._server_name = server_name
        self._probe = Probe(clock)

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_chaos/health",
                handler=self.health,
                auth=Auth.NONE,
                serve="health",
                spec="docs/reference/web.md#health",
            )
        ]

    async def health(self, _: Request) -> Response:
        reachable = await self._probe.ask(lambda: self._database.read(load_position))
        answer = {
            "status": "ok" if reachable else "failing",
            "database": "reachable" if reachable else "unreachable",
            "position": self._position(),
            "server_name": self._server_name,
        }
        return json_response(answer, 200 if reachable else 503, list(_HEADERS))


class Probe:
    """Asks one question at a time; whoever comes meanwhile shares its answer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[Deferred[bool]] = []
        self._running = False
        self._timer: DelayedCall | None = None

    def ask(self, look: Callable[[], Deferred[int]]) -> Deferred[bool]:
        """True where `look` succeeds in time."""
        answer: Deferred[bool] = Deferred()
        self._waiting.append(answer)
        if self._timer is None:
            self._timer = self._clock.callLater(PATIENCE_S, self._tell, False)
        if not self._running:
            # A look that is late keeps its place: a database that hangs gets no second one to hang on.
            self._running = True
            look().addBoth(self._done)
        return answer

    def _done(self, result: int | Failure) -> None:
        self._running = False
        self._tell(not isinstance(result, Failure))

    def _tell(self, reachable: bool) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            if not answer.called:
                answer.callback(reachable)
