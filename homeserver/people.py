"""Accounts beyond logging in: their standing, their addresses, guests. Built over the core."""

from __future__ import annotations

from dataclasses import dataclass

from homeserver.accounts.standing import Moderation
from homeserver.core import Core


@dataclass(frozen=True, slots=True)
class People:
    """See the module."""

    moderation: Moderation


def build_people(core: Core) -> People:
    """Its objects."""
    around = core.around
    return People(Moderation(core.config.server_name, around.database, core.committer))
