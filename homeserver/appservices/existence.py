"""Users and aliases that an application service makes when somebody asks for them.

It is asked before they count as absent, and makes them, while we wait, through the client-server API. Where it does not
answer, whoever asked for them is told so (408). It is not asked again until it is back: nobody waits for a bridge that is
down.

# spec: application-service-api#querying
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

from homeserver.appservices.courier import Courier
from homeserver.appservices.registry import Appservice, Registry
from homeserver.db.threads import Database
from homeserver.http.errors import MatrixError
from homeserver.http.transport import Unreachable
from homeserver.runtime.clock import Clock
from homeserver.store.users import load_accounts

ATTEMPTS = 2
# One that did not answer a question is asked nothing for so long.
SILENCE_S = 30.0


class AwayError(MatrixError):
    """Whoever could tell whether something exists does not answer."""

    def __init__(self) -> None:
        super().__init__(408, "M_UNKNOWN", "The application service does not answer")


class Existence:
    """See the module. ``is_down``: whether an application service failed to answer last time."""

    def __init__(self, registry: Registry, courier: Courier, database: Database, clock: Clock) -> None:
        self._registry = registry
        self._courier = courier
        self._database = database
        self._clock = clock
        self._silent: dict[str, float] = {}  # by application service: until when
        self.is_down: Callable[[str], bool] = lambda _: False

    async def make_user(self, user_id: str) -> bool:
        """Whether a user of this server, who may be absent, is there now. Raises AwayError."""
        services = [one for one in self._registry.all if one.owns_user(user_id)]
        if not services or user_id in await self._database.read(load_accounts, [user_id]):
            return False
        return await self._ask(services, "users", user_id)

    async def try_user(self, user_id: str) -> None:
        """Have a user made who may be absent, as far as that can be done now."""
        # What happens to the user is told to an application service that is away, which makes them when it is back.
        with suppress(AwayError):
            await self.make_user(user_id)

    async def make_alias(self, alias: str) -> bool:
        """Whether an absent alias of this server may be there now. Raises AwayError."""
        return await self._ask([one for one in self._registry.all if one.owns_alias(alias)], "rooms", alias)

    async def _ask(self, services: list[Appservice], kind: str, name: str) -> bool:
        is_away = False
        for service in services:
            if service.registration.url is None:
                continue
            if self._is_silent(service.id):
                is_away = True
                continue
            made = await self._ask_one(service, f"/{kind}/{quote(name, safe='')}")
            if made:
                return True
            is_away |= made is None
        if is_away:
            raise AwayError
        return False

    def _is_silent(self, service_id: str) -> bool:
        return self.is_down(service_id) or self._clock.monotonic() < self._silent.get(service_id, 0.0)

    async def _ask_one(self, service: Appservice, path: str) -> bool | None:
        """Whether it says yes; None: it says nothing."""
        # spec: application-service-api#querying (several times before giving up)
        for _ in range(ATTEMPTS):
            try:
                return (await self._courier.get(service, path)).status == 200
            except Unreachable:
                pass
        self._silent[service.id] = self._clock.monotonic() + SILENCE_S
        return None
