"""The composition root: every object of the server, built in order, with explicit arguments.

``build_app`` makes an ``App`` over a database that has the current schema; it opens no socket and starts no thread, so
the same function serves production, tests and the simulator. ``homeserver.operations`` puts it on the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from homeserver.composition.bridging import rate_key
from homeserver.composition.core import Core, Surroundings, build_core
from homeserver.composition.outgoing import Outgoing, build_outgoing
from homeserver.composition.peering import Peering, build_peering
from homeserver.composition.people import help_uri
from homeserver.composition.routes import build_routes
from homeserver.composition.services import Services, build_services, limit_classes
from homeserver.config.schema import Config
from homeserver.db.errors import DatabaseUnavailable, TooLong
from homeserver.ephemeral.before import TypingBefore
from homeserver.http.errors import MatrixError, UserLimitReachedError, too_large
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.http.router import Router
from homeserver.runtime.clock import DelayedCall
from homeserver.stream.chores import SWEEP_EVERY_S, Chore, Chores, standard_chores

HOUSEKEEPING_S = 2.0

ExtraRoutes = Callable[["Core", "Services"], Sequence[Route]]


class App:
    """A server without sockets."""

    def __init__(
        self, core: Core, peering: Peering, services: Services, outgoing: Outgoing, routes: Sequence[Route]
    ) -> None:
        self.core = core
        self.peering = peering
        self.services = services
        self.outgoing = outgoing
        self.router = Router(
            routes,
            authenticate=self._authenticate,
            ratelimit=services.limiter,
            new_error_id=self.new_error_id,
            log_failure=self.log_failure,
            translate=self._translate,
            rate_key=rate_key(services.bridging.registry),
        )
        self.typing_before = TypingBefore(core.around.database, core.committer, services.typing)
        self._timer: DelayedCall | None = None
        self._ending = ""
        self._chores = Chores(core.around.clock, core.around.log)

    def _authenticate(self, request: Request, auth: Auth) -> Any:
        """Who asks: a server by its signature, everybody else by a token."""
        if auth is Auth.FEDERATION:
            return self.peering.gate.authenticate(request)
        return self.core.authenticator.authenticate(request, auth)

    def new_error_id(self) -> str:
        """What a 500 tells the client, and the log the administrator."""
        return self.core.around.entropy.token(6)

    def log_failure(self, error_id: str, request: Request, error: BaseException) -> None:
        """Record an exception of ours."""
        self.core.around.log.error(
            "request failed", error_id=error_id, route=request.route.template, exc_info=error
        )

    def _translate(self, error: Exception) -> MatrixError | None:
        """A database that cannot answer is a 503: nothing was stored, and a retry may succeed. What it has no room for is
        the client's fault."""
        if isinstance(error, UserLimitReachedError):
            return error.to_refusal(help_uri(self.peering.settings))
        if isinstance(error, TooLong):
            self.core.around.log.error("a key is too long for the database", problem=str(error))
            return too_large("A name in the request is too long")
        if not isinstance(error, DatabaseUnavailable):
            return None
        self.core.around.log.error("database unavailable", problem=str(error))
        return MatrixError(
            503, "M_UNKNOWN", "The database is not available at the moment. Nothing was stored."
        )

    def begin(self, housekeeping_s: float = HOUSEKEEPING_S) -> None:
        """Start the house-keeping that goes by the clock, and go on with what an earlier process left to do."""
        self.typing_before.begin()
        self.services.rooms.departures.start()
        self.services.rooms.profiles.begin()
        self.services.people.guests.start()
        self.services.overseeing.tasks.start()
        self.services.rooms.strangers.partial.start()
        self.services.rooms.strangers.declinations.start()
        self.services.rooms.strangers.offers.start()
        self.services.rooms.strangers.outsiders.signed.start()
        self.services.unattended.begin(self.core.config)
        self.services.reading.finding.begin()
        self.services.media.begin()
        self.services.tasks.spawn_restarting("go on with staged events", self.services.incoming.filler.start)
        self.outgoing.begin()
        chores = standard_chores(self.core.committer, self.core.around.clock)
        sweep = Chore("forget sticky events", SWEEP_EVERY_S, self.services.unattended.sticky.sweep)
        forget = Chore(
            "forget who was in rooms by hearsay", SWEEP_EVERY_S, self.outgoing.sender.forget_hearsay
        )
        self._chores.start([*chores, sweep, forget])
        self._timer = self.core.around.clock.callLater(housekeeping_s, self._keep_house, housekeeping_s)

    def _keep_house(self, every_s: float) -> None:
        self.core.committer.look()
        self.core.rooms.drop_idle()
        self._timer = self.core.around.clock.callLater(every_s, self._keep_house, every_s)

    def reload(self, config: Config) -> None:
        """Go on with a configuration that differs in reloadable keys."""
        limits = config.rate_limits
        self.services.limiter.reconfigure(limit_classes(limits), enabled=limits.enabled)
        self.peering.settings.config = config
        self.outgoing.sender.reconfigure()

    def release_waiters(self) -> None:
        """Answer every long poll now."""
        self.services.typing.end_all()
        self.core.notifier.release()
        self.services.reading.old_sync.release()
        self.outgoing.say_goodbye()

    async def stop(self) -> None:
        """Wait until everything that was accepted is stored."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._ending = "chores"
        await self._chores.stop()
        self.services.incoming.filler.stop()
        self.services.rooms.strangers.declinations.stop()
        self.services.rooms.strangers.offers.stop()
        self.services.unattended.delayed.stop()
        self.services.rooms.upgrades.stop()
        self._ending = "other servers"
        await self.outgoing.stop()
        self._ending = "tasks"
        await self.services.tasks.stop()
        await self.peering.tasks.stop()
        self.services.media.stop()
        self._ending = "followers"
        await self.outgoing.followers.stop()
        self._ending = "commits"
        await self.typing_before.save()
        await self.core.committer.drained()
        self._ending = "the database"
        self.services.typing.close()
        if self.services.presence is not None:
            self.services.presence.close()

    @property
    def ending(self) -> str:
        """What a stop waits for now."""
        busy = {
            "tasks": [*self.services.tasks.names(), *self.peering.tasks.names()],
            "followers": self.outgoing.followers.busy(),
        }
        return f"{self._ending}: {', '.join(names)}" if (names := busy.get(self._ending)) else self._ending


async def build_app(config: Config, around: Surroundings, extra_routes: Sequence[ExtraRoutes] = ()) -> App:
    """The whole server over a database with the current schema."""
    core = await build_core(config, around)
    peering = build_peering(core)
    services = build_services(core, peering)
    await services.rooms.strangers.partial.load()
    await services.rooms.blocks.load()
    await services.unattended.sticky.load()
    await services.unattended.related.load()
    outgoing = build_outgoing(core, peering, services)
    routes = build_routes(core, peering, services)
    for extra in extra_routes:
        routes += extra(core, services)
    app = App(core, peering, services, outgoing, routes)
    await app.typing_before.load()
    return app
