"""Accounts beyond logging in: their standing, their addresses, whom they meet. Built over the core."""

from __future__ import annotations

from dataclasses import dataclass

from homeserver.accounts.identity_servers import Account, IdentityServers
from homeserver.accounts.standing import Moderation
from homeserver.accounts.threepids import Threepids
from homeserver.accounts.validations import Validations
from homeserver.api.web.limits import PATH as LIMITS
from homeserver.composition.core import Core
from homeserver.config.settings import Settings
from homeserver.http.ratelimit import RateLimiter
from homeserver.rooms.address_invites import AddressInvites
from homeserver.rooms.blocks import RoomBlocks
from homeserver.rooms.guests import GuestDepartures
from homeserver.rooms.membership import Memberships
from homeserver.rooms.reads.mutual import MutualRooms
from homeserver.runtime.tasks import TaskGroup


@dataclass(frozen=True, slots=True)
class People:
    """See the module."""

    moderation: Moderation
    validations: Validations
    threepids: Threepids
    guests: GuestDepartures
    by_address: AddressInvites[Account]
    mutual: MutualRooms


def build_people(
    core: Core,
    settings: Settings,
    limiter: RateLimiter,
    tasks: TaskGroup,
    memberships: Memberships,
    blocks: RoomBlocks,
) -> People:
    """Its objects."""
    around, worker = core.around, core.committer
    database, clock = around.database, around.clock
    validations = Validations(
        settings.get, database, worker, around.mailer, limiter, tasks, clock, around.entropy, around.log
    )
    servers = IdentityServers(around.http, around.signer)
    guests = GuestDepartures(core.rooms, core.index, tasks, around.log)
    core.changes.subscribe(guests.apply, guests.kinds)
    return People(
        Moderation(core.config.server_name, database, worker, core.authenticator.last_seen),
        validations,
        Threepids(validations, servers, database, worker, clock),
        guests,
        AddressInvites(core.rooms, memberships, blocks, servers, around.log),
        MutualRooms(database, core.interner, core.index),
    )


def help_uri(settings: Settings) -> str:
    """Where people read about the limits of their accounts."""
    config = settings.config
    return config.support.support_page or f"{config.base_url}{LIMITS}"
