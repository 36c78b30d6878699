"""What this distribution adds to the server: endpoints that tools written for Synapse call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from homeserver.composition.core import Core
from homeserver.composition.services import Services
from homeserver.http.route import Route
from synapse_compat.administrators import AdministratorsApi
from synapse_compat.event_reports import EventReportsApi
from synapse_compat.registration import SharedSecretRegistrationApi
from synapse_compat.room_reads import RoomReadsApi


class _HasRoutes(Protocol):
    def routes(self) -> list[Route]: ...


class SynapseCompat:
    """The extension that the server finds through its entry point."""

    def routes(self, core: Core, services: Services) -> Sequence[Route]:
        """Endpoints under /_synapse."""
        registration = SharedSecretRegistrationApi(
            core.config.registration.shared_secret,
            services.accounts,
            services.hasher,
            core.around.clock,
            core.around.entropy,
        )
        apis: list[_HasRoutes] = [registration, *_admin_apis(services)]
        return [route for api in apis for route in api.routes()]


def _admin_apis(services: Services) -> list[_HasRoutes]:
    """The admin API; docs/admin-api.md lists it."""
    accounts = services.accounts
    return [
        AdministratorsApi(accounts, services.people.moderation),
        EventReportsApi(services.overseeing.evidence),
        RoomReadsApi(services.reading.oversight),
    ]


EXTENSION = SynapseCompat()
