"""Application services: who they are, and what they are told. Built over the core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from homeserver.accounts.users import Accounts
from homeserver.api.client.appservice_accounts import AppserviceAccounts
from homeserver.appservices.courier import Courier
from homeserver.appservices.deliveries import Deliveries
from homeserver.appservices.existence import Existence
from homeserver.appservices.following import FOLLOWER, AppserviceFollowing
from homeserver.appservices.masquerade import Masquerade
from homeserver.appservices.networks import Networks
from homeserver.appservices.outbox import Outbox
from homeserver.appservices.registry import Registry
from homeserver.composition.core import Core
from homeserver.ephemeral.presence import Presence
from homeserver.ephemeral.typing import Typing
from homeserver.http.request import Request
from homeserver.http.router import default_rate_key
from homeserver.stream.followers import Follower


@dataclass(frozen=True, slots=True)
class Bridging:
    """What the endpoints take to know application services."""

    registry: Registry
    accounts: AppserviceAccounts
    masquerade: Masquerade
    courier: Courier
    networks: Networks
    existence: Existence | None  # None: there is nobody to ask


def build_bridging(core: Core, accounts: Accounts) -> Bridging:
    """Without an application service: names that belong to nobody, and nothing that follows the log."""
    around = core.around
    registry = Registry(core.config.server_name, around.registrations)
    theirs = AppserviceAccounts(registry, accounts, around.clock)
    masquerade = Masquerade(registry, around.database, theirs.make_sender)
    if registry.all:
        core.changes.subscribe(masquerade.apply, masquerade.kinds)
        core.authenticator.foreign = masquerade
    courier = Courier(around.appservice_http, around.clock)
    existence = Existence(registry, courier, around.database, around.clock) if registry.all else None
    networks = Networks(registry, courier, around.clock)
    return Bridging(registry, theirs, masquerade, courier, networks, existence)


@dataclass(frozen=True, slots=True)
class Telling:
    """What tells application services."""

    deliveries: Deliveries
    following: AppserviceFollowing
    follower: Follower


def build_telling(
    core: Core,
    bridging: Bridging,
    typing: Typing,
    presence: Presence | None,
    store_soon: Callable[[], None],
) -> Telling | None:
    """The follower and its outboxes; None where nobody is told anything."""
    around, index, interner = core.around, core.index, core.interner
    boxes = [Outbox(one) for one in bridging.registry.all if one.registration.url is not None]
    if not boxes:
        return None
    deliveries = Deliveries(
        boxes,
        bridging.courier,
        around.database,
        core.committer,
        interner,
        core.client_events,
        core.bases,
        index.rooms_since,
        typing.users_in,
        presence,
        around.clock,
        around.entropy,
        around.log,
        store_soon,
    )
    server_name = core.config.server_name
    following = AppserviceFollowing(
        server_name, deliveries, around.database, core.committer, interner, index, core.events, around.clock
    )
    bridging.masquerade.heard_from = deliveries.heard_from
    if bridging.existence is not None:
        bridging.existence.is_down = deliveries.is_down
    _listen(following, typing, presence)
    follower = Follower(FOLLOWER, following.handle, memory=deliveries)
    return Telling(deliveries, following, follower)


def _listen(following: AppserviceFollowing, typing: Typing, presence: Presence | None) -> None:
    """Hear of what is only in memory, beside whoever hears of it already."""
    tell_typing = typing.tell

    def types(room_nid: int, user_id: str, types: bool) -> None:
        tell_typing(room_nid, user_id, types)
        following.typing(room_nid)

    typing.tell = types
    if presence is None:
        return
    tell_presence = presence.tell

    def came(user_nid: int) -> None:
        tell_presence(user_nid)
        following.presence(user_nid)

    presence.tell = came
    if presence.remote is not None:
        presence.remote.tell = following.presence


def rate_key(registry: Registry) -> Callable[[Request], str | None]:
    """Whom a rate limit counts. An application service registers and logs in its users unhindered."""
    if not registry.all:
        return default_rate_key

    def key(request: Request) -> str | None:
        if request.requester is None and registry.by_token(request.access_token()) is not None:
            return None
        return default_rate_key(request)

    return key
