"""What this distribution adds to the server: endpoints that tools written for Synapse call."""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.composition.core import Core
from homeserver.composition.services import Services
from homeserver.http.route import Route
from synapse_compat.registration import SharedSecretRegistrationApi


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
        return registration.routes()


EXTENSION = SynapseCompat()
