"""The composition root: every object of the server, built in order, with explicit arguments.

``build_app`` makes an ``App`` over a database that has the current schema; it opens no socket and starts no thread, so
the same function serves production, tests and the simulator. ``homeserver.operations`` puts it on the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

from federation.signing import Signer
from homeserver.accounts.auth import Authenticator
from homeserver.config.schema import Config, RateLimits
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.ratelimit import LimitClass, RateLimiter
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.http.router import Router
from homeserver.rooms.committer import Committer
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.send import Sender
from homeserver.rooms.transactions import TransactionCache
from homeserver.rooms.turn import RoomTools
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log
from homeserver.store.changes import load_position
from homeserver.store.client_events import ClientEventCache
from homeserver.store.ids import LEASE_SIZE, Interner, Nids, lease_nids
from homeserver.store.members import Member, load_last_events, load_local_members
from homeserver.store.parsed import EventCache
from homeserver.store.state import BaseCache
from homeserver.stream.index import MembershipIndex
from homeserver.stream.log import ChangeLog
from homeserver.stream.notifier import Notifier

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


@dataclass(frozen=True, slots=True)
class Core:
    """The pipeline and its read models: what every domain builds on."""

    config: Config
    around: Surroundings
    nids: Nids
    interner: Interner
    changes: ChangeLog
    index: MembershipIndex
    notifier: Notifier
    committer: Committer
    rooms: RoomRegistry
    events: EventCache
    client_events: ClientEventCache
    bases: BaseCache
    authenticator: Authenticator


@dataclass(frozen=True, slots=True)
class App:
    """A server without sockets."""

    core: Core
    router: Router
    limiter: RateLimiter

    async def stop(self) -> None:
        """Wait until everything that was accepted is stored."""
        await self.core.committer.drained()


async def build_core(config: Config, around: Surroundings) -> Core:
    """The pipeline over a database with the current schema."""
    nids = Nids()
    nids.add(await around.database.write(lease_nids, LEASE_SIZE))
    position, members, last_positions = await around.database.read(_load_start)
    interner = Interner(around.database, nids, config.caches.names_bytes // 300)
    changes = ChangeLog(position)
    index = MembershipIndex(members, last_positions)
    notifier = Notifier(index)
    committer = Committer(around.database, interner, nids, changes.publish, around.clock, position)
    events, bases = EventCache(config.caches.events_bytes), BaseCache(config.caches.states_bytes)
    client_events = ClientEventCache(config.caches.client_events_bytes)
    tools = RoomTools(around.database, interner, events, bases, around.signer, around.clock, around.entropy)
    rooms = RoomRegistry(tools, committer)
    authenticator = Authenticator(around.database, committer, around.clock)
    # In this order: who is woken finds the indexes up to date.
    changes.subscribe(index.apply)
    changes.subscribe(authenticator.apply)
    changes.subscribe(notifier.apply)
    return Core(
        config,
        around,
        nids,
        interner,
        changes,
        index,
        notifier,
        committer,
        rooms,
        events,
        client_events,
        bases,
        authenticator,
    )


def _load_start(tx: Tx) -> tuple[int, Sequence[Member], dict[int, int]]:
    return load_position(tx), load_local_members(tx), load_last_events(tx)


async def build_app(config: Config, around: Surroundings) -> App:
    """The whole server over a database with the current schema."""
    core = await build_core(config, around)
    limiter = RateLimiter(around.clock, limit_classes(config.rate_limits), enabled=config.rate_limits.enabled)

    def log_failure(error_id: str, request: Request, error: BaseException) -> None:
        route = request.route.template
        around.log.error("request failed", error_id=error_id, route=route, exc_info=error)

    router = Router(
        build_routes(core),
        authenticate=core.authenticator.authenticate,
        ratelimit=limiter,
        new_error_id=lambda: around.entropy.token(6),
        log_failure=log_failure,
    )
    return App(core, router, limiter)


def limit_classes(limits: RateLimits) -> dict[str, LimitClass]:
    """The configured rate limits by the names that routes use."""
    names = ("login", "register", "send", "join", "invite", "create_room", "media", "search", "write", "read")
    configured = {name: getattr(limits, name) for name in names}
    return {name: LimitClass(one.per_second, one.burst) for name, one in configured.items()}


def build_routes(core: Core) -> list[Route]:
    """Every endpoint that this server answers."""
    transactions = TransactionCache(core.around.database)
    sender = Sender(core.rooms, transactions)
    del sender
    return []
