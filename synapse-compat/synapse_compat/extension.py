"""What this distribution adds to the server: endpoints that tools written for Synapse call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from homeserver.accounts.administration import AccountDesk
from homeserver.composition.core import Core
from homeserver.composition.services import Services
from homeserver.http.route import Route
from synapse_compat.administrators import AdministratorsApi
from synapse_compat.event_reports import EventReportsApi
from synapse_compat.media import MediaAdminApi
from synapse_compat.registration import SharedSecretRegistrationApi
from synapse_compat.registration_tokens import RegistrationTokensApi
from synapse_compat.room_deletion import RoomDeletionApi
from synapse_compat.room_reads import RoomReadsApi
from synapse_compat.rooms import RoomsApi
from synapse_compat.user_actions import UserActionsApi
from synapse_compat.user_devices import UserDevicesApi
from synapse_compat.user_redactions import UserRedactionsApi
from synapse_compat.users import UsersApi


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
        apis: list[_HasRoutes] = [registration, *_admin_apis(core, services)]
        return [route for api in apis for route in api.routes()]


def _admin_apis(core: Core, services: Services) -> list[_HasRoutes]:
    """The admin API; docs/admin-api.md lists it."""
    accounts, evidence = services.accounts, services.overseeing.evidence
    desk = _account_desk(core, services)
    return [
        AdministratorsApi(accounts, services.people.moderation),
        EventReportsApi(evidence),
        RoomsApi(
            core.config.server_name,
            services.overseeing.listing,
            services.rooms.blocks,
            services.overseeing.stewardship,
        ),
        RoomDeletionApi(
            accounts, services.overseeing.listing, services.rooms.blocks, services.overseeing.tasks
        ),
        RoomReadsApi(services.reading.oversight),
        UsersApi(desk),
        UserActionsApi(desk, evidence, services.bridging.registry, core.around.log),
        UserRedactionsApi(accounts, services.overseeing.tasks),
        MediaAdminApi(accounts, services.media.desk),
        RegistrationTokensApi(accounts, core.around.clock),
        UserDevicesApi(accounts, services.devices, services.sessions),
    ]


def _account_desk(core: Core, services: Services) -> AccountDesk:
    return AccountDesk(
        core.around.database,
        core.committer,
        services.accounts,
        services.hasher,
        services.profiles,
        services.people.threepids,
        services.sessions,
        core.around.clock,
    )


EXTENSION = SynapseCompat()
