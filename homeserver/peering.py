"""Other servers: their keys, our requests to them, and theirs to us. Built over the core, before the domains."""

from __future__ import annotations

from dataclasses import dataclass

from federation.ids import parse_server_name
from homeserver.config.settings import Settings
from homeserver.core import Core
from homeserver.peers.client import Client
from homeserver.peers.gate import FederationGate
from homeserver.peers.health import Health
from homeserver.peers.keyring import KeyRing
from homeserver.peers.own_keys import OwnKeys
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
