"""The core: the pipeline and its read models, on which every domain builds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

from federation.keyring import VerifyKey
from federation.signing import Signer
from homeserver.accounts.auth import Authenticator
from homeserver.config.registrations import AppserviceRegistration
from homeserver.config.schema import Config
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.client import HttpClient
from homeserver.http.mail import Mailer
from homeserver.http.transport import Transport
from homeserver.rooms.committer import Committer
from homeserver.rooms.federated.check_processes import CheckProcesses
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import RoomTools
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log
from homeserver.store.cache import ByteLru
from homeserver.store.changes import load_position
from homeserver.store.client_events import ClientEventCache
from homeserver.store.erasures import ErasedUsers, load_all_erasures
from homeserver.store.ids import LEASE_SIZE, Interner, Nids, lease_nids
from homeserver.store.members import Member, load_last_events, load_last_moves, load_local_members
from homeserver.store.parsed import EventCache
from homeserver.store.state import BaseCache
from homeserver.store.users import load_account_nids
from homeserver.store.visibility_reads import StateFacts
from homeserver.stream.index import MembershipIndex
from homeserver.stream.log import ChangeLog
from homeserver.stream.notifier import Notifier
from homeserver.stream.servers import ServerIndex
from homeserver.stream.threads import ThreadIndex

RunInThread = Callable[..., Deferred[Any]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process gives to the server."""

    database: Database
    clock: Clock
    entropy: Entropy
    log: Log
    signer: Signer
    run_in_thread: RunInThread
    transport: Transport
    further_keys: Sequence[Signer] = ()  # published beside the signer's
    old_keys: Sequence[VerifyKey] = ()  # no longer used, but good for what they have signed
    http: HttpClient | None = None  # for addresses that others name
    registrations: Sequence[AppserviceRegistration] = ()  # of application services
    appservice_http: HttpClient | None = None  # for addresses that the administrator names
    mailer: Mailer | None = None  # where mail can be sent
    processes: CheckProcesses | None = None  # to check events in, where such may be started


@dataclass(frozen=True, slots=True)
class Core:
    """The pipeline and its read models: what every domain builds on."""

    config: Config
    around: Surroundings
    nids: Nids
    interner: Interner
    changes: ChangeLog
    index: MembershipIndex
    servers: ServerIndex
    notifier: Notifier
    committer: Committer
    rooms: RoomRegistry
    events: EventCache
    client_events: ClientEventCache
    bases: BaseCache
    authenticator: Authenticator
    threads: ThreadIndex
    facts: StateFacts


async def build_core(config: Config, around: Surroundings) -> Core:
    """The pipeline over a database with the current schema."""
    nids = Nids()
    nids.add(await around.database.write(lease_nids, LEASE_SIZE))
    position, members, last_positions, accounts, moved = await around.database.read(_load_start)
    interner = Interner(around.database, nids, config.caches.names_bytes // 300)
    changes = ChangeLog(position)
    index = MembershipIndex(members, last_positions, accounts, moved)
    servers = ServerIndex(around.database, changes, index)
    notifier = Notifier(index)
    committer = Committer(around.database, interner, nids, changes.publish, around.clock, position)
    events, bases = EventCache(config.caches.events_bytes), BaseCache(config.caches.states_bytes)
    client_events = ClientEventCache(config.caches.client_events_bytes)
    # A rank is a number by a number: some 100 bytes with its place in the mapping.
    ranks: ByteLru[int, int] = ByteLru(8 * 1024 * 1024, lambda _: 100)
    tools = RoomTools(
        around.database, interner, events, bases, ranks, around.signer, around.clock, around.entropy
    )
    rooms = RoomRegistry(tools, committer)
    authenticator = Authenticator(around.database, committer, around.clock)
    threads = ThreadIndex(around.database)
    erased = ErasedUsers(await around.database.read(load_all_erasures))
    # In this order: who is woken finds the indexes up to date.
    changes.subscribe(index.apply)
    changes.subscribe(servers.apply)
    changes.subscribe(authenticator.apply, authenticator.kinds)
    changes.subscribe(threads.apply, threads.kinds)
    changes.subscribe(erased.apply, erased.kinds)
    changes.subscribe(notifier.apply)
    return Core(
        config,
        around,
        nids,
        interner,
        changes,
        index,
        servers,
        notifier,
        committer,
        rooms,
        events,
        client_events,
        bases,
        authenticator,
        threads,
        StateFacts(bases, erased),
    )


def _load_start(tx: Tx) -> tuple[int, Sequence[Member], dict[int, int], list[int], dict[int, int]]:
    members, accounts = load_local_members(tx), load_account_nids(tx)
    return load_position(tx), members, load_last_events(tx), accounts, load_last_moves(tx)
