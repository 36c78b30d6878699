"""Users and aliases that an application service makes when somebody asks for them.

It is asked before they count as absent, and makes them, while we wait, through the client-server API. One that does not
answer is not asked again until it is back: nobody waits for a bridge that is down.

# spec: application-service-api#querying
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from homeserver.appservices.courier import Courier
from homeserver.appservices.registry import Appservice, Registry
from homeserver.db.threads import Database
from homeserver.http.transport import Unreachable
from homeserver.runtime.clock import Clock
from homeserver.store.users import load_accounts

ATTEMPTS = 2
# One that did not answer a question is asked nothing for so long.
SILENCE_S = 30.0


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
        """Whether a user of this server, who may be absent, is there now."""
        services = [one for one in self._registry.all if one.owns_user(user_id)]
        if not services or user_id in await self._database.read(load_accounts, [user_id]):
            return False
        return await self._ask(services, "users", user_id)

    async def make_alias(self, alias: str) -> bool:
        """Whether an absent alias of this server may be there now."""
        return await self._ask([one for one in self._registry.all if one.owns_alias(alias)], "rooms", alias)

    async def _ask(self, services: list[Appservice], kind: str, name: str) -> bool:
        for service in services:
            if service.registration.url is None or self._is_silent(service.id):
                continue
            if await self._ask_one(service, f"/{kind}/{quote(name, safe='')}"):
                return True
        return False

    def _is_silent(self, service_id: str) -> bool:
        return self.is_down(service_id) or self._clock.monotonic() < self._silent.get(service_id, 0.0)

    async def _ask_one(self, service: Appservice, path: str) -> bool:
        # spec: application-service-api#querying (several times before giving up)
        for _ in range(ATTEMPTS):
            try:
                return (await self._courier.get(service, path)).status == 200
            except Unreachable:
                pass
        self._silent[service.id] = self._clock.monotonic() + SILENCE_S
        return False
