"""OAuth 2.0: apps, what people let them do, and the browsers in which they say so. Built over the core."""

from __future__ import annotations

from dataclasses import dataclass

from homeserver.composition.core import Core
from homeserver.oauth.browsers import Browsers
from homeserver.oauth.clients import Clients
from homeserver.oauth.grants import Grants
from homeserver.oauth.id_tokens import IdTokens
from homeserver.oauth.metadata import Places
from homeserver.oauth.requests import AuthorizationRequests
from homeserver.oauth.resets import CrossSigningResets


@dataclass(frozen=True, slots=True)
class Authorizing:
    """See the module."""

    places: Places
    clients: Clients
    requests: AuthorizationRequests
    grants: Grants
    browsers: Browsers
    id_tokens: IdTokens
    resets: CrossSigningResets


def build_authorizing(core: Core) -> Authorizing:
    """Its objects."""
    around, worker = core.around, core.committer
    database, clock, entropy = around.database, around.clock, around.entropy
    places = Places(core.config.base_url)
    clients = Clients(database, worker, clock, with_loopback=places.base.startswith("http:"))
    id_tokens = IdTokens(places.issuer, database, worker, clock)
    grants = Grants(
        places.link,
        clients,
        id_tokens,
        database,
        worker,
        core.interner,
        clock,
        entropy,
        core.config.sessions,
    )
    return Authorizing(
        places,
        clients,
        AuthorizationRequests(clients, places.issuer),
        grants,
        Browsers(places.base, database, worker, clock, entropy),
        id_tokens,
        CrossSigningResets(places.resets, database, clock),
    )
