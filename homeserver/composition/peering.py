"""Other servers: their keys, our requests to them, and theirs to us. Built over the core, before the domains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from federation.ids import parse_server_name
from homeserver.composition.core import Core
from homeserver.config.schema import Config
from homeserver.config.settings import Settings
from homeserver.http.addresses import EVERYWHERE, AddressFilter
from homeserver.http.client import HttpClient
from homeserver.http.client_tls import ClientTls
from homeserver.http.connections import Connections
from homeserver.http.peer import PeerTransport
from homeserver.http.resolve import SystemResolver
from homeserver.peers.client import Client
from homeserver.peers.gate import FederationGate
from homeserver.peers.health import Health
from homeserver.peers.keyring import KeyRing
from homeserver.peers.own_keys import OwnKeys
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.tasks import TaskGroup


@dataclass(frozen=True, slots=True)
class Peering:
    """What the domains take to speak with other servers."""

    settings: Settings
    client: Client
    health: Health  # who is down; whom one heard from
    own_keys: OwnKeys
    keys: KeyRing
    gate: FederationGate
    tasks: TaskGroup


@dataclass(frozen=True, slots=True)
class Outside:
    """What reaches the network in a real process."""

    transport: PeerTransport
    http: HttpClient
    connections: Connections
    appservice_http: HttpClient
    appservice_connections: Connections
    own_transport: PeerTransport  # to this very server, whose address may be any

    def stop(self) -> None:
        """Keep no connection any more."""
        self.connections.stop()
        self.appservice_connections.stop()


def open_network(config: Config, reactor: Any, clock: Clock, entropy: Entropy) -> Outside:
    """Production's way to other machines. Opens nothing yet. Raises ValueError for an unusable CA file."""
    resolver = SystemResolver(reactor, clock, entropy)
    connections = Connections(
        reactor,
        resolver,
        AddressFilter(config.outbound.allow_private_ranges),
        ClientTls(config.outbound.ca_file),
        clock,
    )
    http = HttpClient(connections, clock)
    # Application services live on loopback as a rule. Their addresses are the administrator's and nobody else's.
    trusting = Connections(
        reactor, resolver, AddressFilter(EVERYWHERE), ClientTls(config.outbound.ca_file), clock
    )
    verify = config.federation.verify_certificates
    transport = PeerTransport(connections, http, resolver, clock, verify=verify)
    trusting_http = HttpClient(trusting, clock)
    own_transport = PeerTransport(trusting, trusting_http, resolver, clock, verify=verify)
    return Outside(transport, http, connections, trusting_http, trusting, own_transport)


def build_peering(core: Core) -> Peering:
    """Speaks through the transport of the core's surroundings. Opens nothing."""
    config, around = core.config, core.around
    settings = Settings(config)
    health = Health(settings, around.clock)
    client = Client(around.transport, around.signer, settings, health)
    own_keys = OwnKeys((around.signer, *around.further_keys), around.old_keys, around.clock)
    tasks = TaskGroup(around.clock, around.log)
    keys = KeyRing(
        own_keys,
        [parse_server_name(name) for name in config.federation.trusted_key_servers],
        client.ask_unsigned,
        around.database,
        core.committer,
        around.clock,
        tasks,
    )
    gate = FederationGate(own_keys.server_name, keys, client.allows, health.heard_from)
    return Peering(settings, client, health, own_keys, keys, gate, tasks)
