"""Application services: who they are, and what they are told. Built over the core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from homeserver.accounts.users import Accounts
from homeserver.api.client.appservice_accounts import AppserviceAccounts
from homeserver.appservices.masquerade import Masquerade
from homeserver.appservices.registry import Registry
from homeserver.core import Core
from homeserver.http.request import Request
from homeserver.http.router import default_rate_key


@dataclass(frozen=True, slots=True)
class Bridging:
    """What the endpoints take to know application services."""

    registry: Registry
    accounts: AppserviceAccounts
    masquerade: Masquerade


def build_bridging(core: Core, accounts: Accounts) -> Bridging:
    """Without an application service: names that belong to nobody, and nothing that follows the log."""
    around = core.around
    registry = Registry(core.config.server_name, around.registrations)
    theirs = AppserviceAccounts(registry, accounts, around.clock)
    masquerade = Masquerade(registry, around.database, theirs.make)
    if registry.all:
        core.changes.subscribe(masquerade.apply)
        core.authenticator.foreign = masquerade
    return Bridging(registry, theirs, masquerade)


def rate_key(registry: Registry) -> Callable[[Request], str | None]:
    """Whom a rate limit counts. An application service registers and logs in its users unhindered."""
    if not registry.all:
        return default_rate_key

    def key(request: Request) -> str | None:
        if request.requester is None and registry.by_token(request.access_token()) is not None:
            return None
        return default_rate_key(request)

    return key
