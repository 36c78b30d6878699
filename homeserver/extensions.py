"""What else is installed beside the server and adds to it (``synapse-compat`` does).

An extension is an object named in the entry-point group ``chaos.extensions`` of an installed distribution. The server
imports none of them by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Protocol

from homeserver.composition.core import Core
from homeserver.composition.services import Services
from homeserver.http.route import Route

GROUP = "chaos.extensions"


class Extension(Protocol):
    """What an extension offers."""

    def routes(self, core: Core, services: Services) -> Sequence[Route]:
        """Endpoints beside the server's own."""


def load_extensions() -> list[Extension]:
    """Every installed extension, by name."""
    found = sorted(entry_points(group=GROUP), key=lambda one: one.name)
    return [one.load() for one in found]
