"""The composition root: every object of the server, built in order, with explicit arguments.

``build_app`` makes an ``App`` over a database that has the current schema; it opens no socket and starts no thread, so
the same function serves production, tests and the simulator. ``homeserver.operations`` puts it on the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from federation.signing import Signer
from homeserver.accounts.account_data import AccountData
from homeserver.accounts.auth import Authenticator
from homeserver.accounts.devices import Devices
from homeserver.accounts.filters import Filters
from homeserver.accounts.login import Identity
from homeserver.accounts.passwords import PasswordHasher
from homeserver.accounts.profiles import Profiles
from homeserver.accounts.sessions import Sessions
from homeserver.accounts.uia import InteractiveAuth
from homeserver.accounts.users import Accounts
from homeserver.api.client.account import AccountApi
from homeserver.api.client.account_data import AccountDataApi
from homeserver.api.client.capabilities import CapabilitiesApi
from homeserver.api.client.context import ContextApi
from homeserver.api.client.create_room import CreateRoomApi
from homeserver.api.client.devices import DevicesApi
from homeserver.api.client.directory import DirectoryApi
from homeserver.api.client.event import EventApi
from homeserver.api.client.filter import FilterApi
from homeserver.api.client.initial_sync import InitialSyncApi
from homeserver.api.client.joined_rooms import JoinedRoomsApi
from homeserver.api.client.login import LoginApi
from homeserver.api.client.logout import LogoutApi
from homeserver.api.client.media import MediaApi
from homeserver.api.client.media_legacy import LegacyMediaApi
from homeserver.api.client.members import MembersApi
from homeserver.api.client.membership import MembershipApi
from homeserver.api.client.messages import MessagesApi
from homeserver.api.client.presence import PresenceApi
from homeserver.api.client.profile import ProfileApi
from homeserver.api.client.push_rules import PushRulesApi
from homeserver.api.client.pushers import PushersApi
from homeserver.api.client.read_markers import ReadMarkersApi
from homeserver.api.client.receipts import ReceiptsApi
from homeserver.api.client.refresh import RefreshApi
from homeserver.api.client.register import RegisterApi
from homeserver.api.client.send import SendApi
from homeserver.api.client.state import StateApi
from homeserver.api.client.sync import SetPresence, SyncApi
from homeserver.api.client.timestamp import TimestampApi
from homeserver.api.client.typing import TypingApi
from homeserver.api.client.upgrade import UpgradeApi
from homeserver.api.client.versions import VersionsApi
from homeserver.api.client.wellknown import WellKnownApi
from homeserver.config.schema import Config, RateLimits
from homeserver.db.errors import DatabaseUnavailable
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.ephemeral.presence import Presence
from homeserver.ephemeral.ticker import Ticker
from homeserver.ephemeral.typing import Typing
from homeserver.http.errors import MatrixError
from homeserver.http.ratelimit import LimitClass, RateLimiter
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.http.router import Router
from homeserver.media.service import MediaService
from homeserver.push.counts import Unread
from homeserver.push.pushers import Pushers
from homeserver.push.service import PushRules
from homeserver.rooms.aliases import CANONICAL, Aliases
from homeserver.rooms.committer import Committer
from homeserver.rooms.create import RoomCreator
from homeserver.rooms.departures import Departures
from homeserver.rooms.directory import Directory
from homeserver.rooms.initial import RoomGlances
from homeserver.rooms.invites import InviteGate
from homeserver.rooms.membership import Memberships
from homeserver.rooms.pagination import Pagination
from homeserver.rooms.profiles import RoomProfiles
from homeserver.rooms.reading import Archive
from homeserver.rooms.receipts import Receipts
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.restricted import RestrictedJoins
from homeserver.rooms.send import Sender
from homeserver.rooms.state_reads import StateReads
from homeserver.rooms.succession import Succession
from homeserver.rooms.timestamps import Timestamps
from homeserver.rooms.transactions import TransactionCache
from homeserver.rooms.turn import RoomTools
from homeserver.rooms.upgrade import RoomUpgrades
from homeserver.rooms.visibility import Sights
from homeserver.runtime.clock import Clock, DelayedCall
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.cache import ByteLru
from homeserver.store.changes import load_position
from homeserver.store.client_events import ClientEventCache
from homeserver.store.ids import LEASE_SIZE, Interner, Nids, lease_nids
from homeserver.store.members import Member, load_last_events, load_local_members
from homeserver.store.parsed import EventCache
from homeserver.store.state import BaseCache
from homeserver.store.visibility_reads import StateFacts
from homeserver.stream.index import MembershipIndex
from homeserver.stream.log import ChangeLog
from homeserver.stream.notifier import Notifier
from homeserver.sync.v3 import SyncService, SyncTools

HOUSEKEEPING_S = 2.0

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


class App:
    """A server without sockets."""

    def __init__(self, core: Core, services: Services, routes: Sequence[Route]) -> None:
        self.core = core
        self.services = services
        self.router = Router(
            routes,
            authenticate=core.authenticator.authenticate,
            ratelimit=services.limiter,
            new_error_id=self.new_error_id,
            log_failure=self.log_failure,
            translate=self._translate,
        )
        self._timer: DelayedCall | None = None

    def new_error_id(self) -> str:
        """What a 500 tells the client, and the log the administrator."""
        return self.core.around.entropy.token(6)

    def log_failure(self, error_id: str, request: Request, error: BaseException) -> None:
        """Record an exception of ours."""
        self.core.around.log.error(
            "request failed", error_id=error_id, route=request.route.template, exc_info=error
        )

    def _translate(self, error: Exception) -> MatrixError | None:
        """A database that cannot answer is a 503: nothing was stored, and a retry may succeed."""
        if not isinstance(error, DatabaseUnavailable):
            return None
        self.core.around.log.error("database unavailable", problem=str(error))
        return MatrixError(
            503, "M_UNKNOWN", "The database is not available at the moment. Nothing was stored."
        )

    def begin(self) -> None:
        """Start the house-keeping that goes by the clock, and go on with what an earlier process left to do."""
        self.services.departures.start()
        self.services.media.begin()
        self._timer = self.core.around.clock.callLater(HOUSEKEEPING_S, self._keep_house)

    def _keep_house(self) -> None:
        self.core.committer.look()
        self.core.rooms.drop_idle()
        self._timer = self.core.around.clock.callLater(HOUSEKEEPING_S, self._keep_house)

    def reload(self, config: Config) -> None:
        """Go on with a configuration that differs in reloadable keys."""
        limits = config.rate_limits
        self.services.limiter.reconfigure(limit_classes(limits), enabled=limits.enabled)
        self.services.settings.config = config

    def release_waiters(self) -> None:
        """Answer every long poll now."""
        self.core.notifier.release()

    async def stop(self) -> None:
        """Wait until everything that was accepted is stored."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        await self.services.tasks.stop()
        self.services.media.stop()
        await self.core.committer.drained()
        self.services.typing.close()
        if self.services.presence is not None:
            self.services.presence.close()


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
    # A rank is a number by a number: some 100 bytes with its place in the mapping.
    ranks: ByteLru[int, int] = ByteLru(8 * 1024 * 1024, lambda rank: 100)
    tools = RoomTools(
        around.database, interner, events, bases, ranks, around.signer, around.clock, around.entropy
    )
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


ExtraRoutes = Callable[["Core", "Services"], Sequence[Route]]


async def build_app(config: Config, around: Surroundings, extra_routes: Sequence[ExtraRoutes] = ()) -> App:
    """The whole server over a database with the current schema."""
    core = await build_core(config, around)
    services = build_services(core)
    routes = build_routes(core, services)
    for extra in extra_routes:
        routes += extra(core, services)
    return App(core, services, routes)


def limit_classes(limits: RateLimits) -> dict[str, LimitClass]:
    """The configured rate limits by the names that routes use."""
    names = ("login", "register", "send", "join", "invite", "create_room", "media", "search", "write", "read")
    configured = {name: getattr(limits, name) for name in names}
    return {name: LimitClass(one.per_second, one.burst) for name, one in configured.items()}


class Settings:
    """The configuration in force: reloadable keys change under whoever asks again."""

    __slots__ = ("config",)

    def __init__(self, config: Config) -> None:
        self.config = config

    def get(self) -> Config:
        """The whole configuration."""
        return self.config


@dataclass(frozen=True, slots=True)
class Reading:
    """Rooms as their readers see them."""

    pagination: Pagination
    state: StateReads
    timestamps: Timestamps
    glances: RoomGlances


def build_reading(core: Core, transactions: TransactionCache) -> Reading:
    """What reads rooms, over one memory of what never changes."""
    database, interner, clock = core.around.database, core.interner, core.around.clock
    archive = Archive(StateFacts(core.bases), core.client_events)
    sights = Sights(database, interner, core.index, core.changes, archive.facts)
    pagination = Pagination(database, sights, transactions, archive, clock)
    return Reading(
        pagination,
        StateReads(database, interner, sights, archive, clock),
        Timestamps(database, sights, archive.facts),
        RoomGlances(database, sights, pagination, archive),
    )


@dataclass(frozen=True, slots=True)
class Services:
    """The domains, over the core."""

    settings: Settings
    limiter: RateLimiter
    interactive: InteractiveAuth
    hasher: PasswordHasher
    sessions: Sessions
    accounts: Accounts
    identity: Identity
    devices: Devices
    profiles: Profiles
    account_data: AccountData
    filters: Filters
    transactions: TransactionCache
    sender: Sender
    media: MediaService
    reading: Reading
    tasks: TaskGroup
    creator: RoomCreator
    memberships: Memberships
    departures: Departures
    aliases: Aliases
    directory: Directory
    upgrades: RoomUpgrades
    typing: Typing
    receipts: Receipts
    presence: Presence | None
    push_rules: PushRules
    pushers: Pushers
    sync: SyncService


def build_services(core: Core) -> Services:
    """Every domain object."""
    config, around = core.config, core.around
    database, worker, interner, clock, entropy = (
        around.database,
        core.committer,
        core.interner,
        around.clock,
        around.entropy,
    )
    settings = Settings(config)
    limiter = RateLimiter(clock, limit_classes(config.rate_limits), enabled=config.rate_limits.enabled)
    hasher = PasswordHasher(around.run_in_thread, entropy)
    sessions = Sessions(database, worker, interner, clock, entropy, config.sessions)
    accounts = Accounts(config.server_name, database, worker, interner, clock, entropy, hasher, sessions)
    transactions = TransactionCache(database)
    tasks = TaskGroup(clock, around.log)
    gate = InviteGate(config.server_name, database, interner)
    succession = Succession(interner, worker)
    creator = RoomCreator(config.server_name, lambda: settings.config.default_room_version, core.rooms, gate)
    memberships = Memberships(core.rooms, worker, RestrictedJoins(interner, core.index), gate, succession)
    aliases = Aliases(config.server_name, core.rooms, worker, core.index)
    room_profiles = RoomProfiles(core.rooms, core.index, tasks, around.log)
    departures = Departures(core.rooms, core.index, tasks, around.log)
    core.changes.subscribe(departures.apply)
    # One counter for both: a sync token has one number for what is only in memory.
    ticker = Ticker()
    typing = Typing(clock, ticker, core.notifier.wake_room)
    core.changes.subscribe(typing.apply)
    presence: Presence | None = None
    if config.presence.enabled:
        presence = Presence(clock, ticker, core.index, core.notifier.wake_users)
        core.changes.subscribe(presence.apply)
    push_rules = PushRules(database, worker)
    directory = Directory(core.rooms, worker, interner)
    core.changes.subscribe(directory.apply)
    return Services(
        settings=settings,
        limiter=limiter,
        interactive=InteractiveAuth(clock, entropy, config.sessions.interactive_auth_lifetime_s),
        hasher=hasher,
        sessions=sessions,
        accounts=accounts,
        identity=Identity(accounts, hasher, sessions, limiter),
        devices=Devices(database, worker),
        profiles=Profiles(config.server_name, database, worker, interner, room_profiles.changed),
        account_data=AccountData(database, worker, interner, {"m.push_rules": push_rules.load_content}),
        filters=Filters(database, worker),
        transactions=transactions,
        sender=Sender(
            core.rooms, transactions, {CANONICAL: aliases.check_canonical_alias}, memberships.set_member
        ),
        media=build_media(core, settings),
        reading=build_reading(core, transactions),
        tasks=tasks,
        creator=creator,
        memberships=memberships,
        departures=departures,
        aliases=aliases,
        directory=directory,
        upgrades=RoomUpgrades(core.rooms, creator, succession),
        typing=typing,
        presence=presence,
        push_rules=push_rules,
        pushers=Pushers(database, worker, clock),
        receipts=Receipts(database, worker, interner, core.index, core.events, clock),
        sync=SyncService(
            SyncTools(
                database,
                interner,
                core.changes,
                core.index,
                core.notifier,
                clock,
                core.client_events,
                core.bases,
            ),
            entropy.id(8),
            typing=typing,
            presence=presence,
            unread=Unread(database, interner, core.changes, core.index, core.events),
        ),
    )


def build_media(core: Core, settings: Settings) -> MediaService:
    """The content repository."""
    config, around = core.config, core.around
    return MediaService(
        config.server_name,
        config.data_dir / "media",
        around.database,
        core.committer,
        around.run_in_thread,
        around.clock,
        around.entropy,
        around.log,
        lambda: settings.config.media,
    )


class HasRoutes(Protocol):
    """One area of the API."""

    def routes(self) -> list[Route]:
        """Its endpoints."""


def build_routes(core: Core, services: Services) -> list[Route]:
    """Every endpoint that this server answers."""
    config, around = core.config, core.around
    settings, accounts, interactive = services.settings, services.accounts, services.interactive
    apis: list[HasRoutes] = [
        VersionsApi(),
        WellKnownApi(config),
        CapabilitiesApi(lambda: settings.config.default_room_version),
        RegisterApi(settings.get, accounts, services.hasher, interactive, services.limiter, around.clock),
        LoginApi(config, services.identity, services.sessions, interactive),
        LogoutApi(services.sessions),
        RefreshApi(services.sessions),
        AccountApi(accounts, services.identity, interactive, lambda: settings.config.passwords),
        DevicesApi(services.devices, services.identity, interactive),
        ProfileApi(services.profiles),
        AccountDataApi(services.account_data),
        FilterApi(services.filters),
        SendApi(services.sender),
        media := MediaApi(services.media.repository, services.media.downloads),
        LegacyMediaApi(services.media.downloads, media),
        StateApi(services.reading.state),
        MembersApi(services.reading.state),
        MessagesApi(services.reading.pagination),
        EventApi(services.reading.pagination),
        ContextApi(services.reading.pagination),
        TimestampApi(services.reading.timestamps),
        InitialSyncApi(services.reading.glances),
        CreateRoomApi(services.creator),
        MembershipApi(services.memberships, services.aliases),
        DirectoryApi(
            config.server_name, services.directory, services.aliases, lambda: settings.config.public_rooms
        ),
        UpgradeApi(services.upgrades),
        JoinedRoomsApi(core.index, core.interner),
        TypingApi(services.typing, core.interner, core.index),
        ReceiptsApi(services.receipts),
        ReadMarkersApi(services.receipts),
        PresenceApi(services.presence, core.interner, core.index),
        PushRulesApi(services.push_rules),
        PushersApi(services.pushers),
        SyncApi(services.sync, around.database, _note_sync(services.presence)),
    ]
    return [route for api in apis for route in api.routes()]


def _note_sync(presence: Presence | None) -> SetPresence | None:
    """A client that syncs is there."""
    if presence is None:
        return None
    return lambda requester, state: presence.synced(
        requester.user_nid, requester.user_id, requester.device_nid, state
    )
