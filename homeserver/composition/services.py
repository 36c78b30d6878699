"""The domains: every service object, over the core."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial as bind

from homeserver.accounts.account_data import AccountData
from homeserver.accounts.devices import Devices
from homeserver.accounts.filters import Filters
from homeserver.accounts.identity_servers import IdentityServers
from homeserver.accounts.login import Identity
from homeserver.accounts.openid import OpenIds
from homeserver.accounts.passwords import PasswordHasher
from homeserver.accounts.profiles import Profiles
from homeserver.accounts.registrar import Registrar
from homeserver.accounts.sessions import Sessions
from homeserver.accounts.uia import InteractiveAuth
from homeserver.accounts.users import Accounts
from homeserver.appservices.existence import Existence
from homeserver.composition.authorizing import Authorizing, build_authorizing
from homeserver.composition.bridging import Bridging, build_bridging
from homeserver.composition.core import Core
from homeserver.composition.finding import Finding, build_finding
from homeserver.composition.incoming import Incoming, build_incoming
from homeserver.composition.momentary import build_presence
from homeserver.composition.notifying import Notifying, build_notifying
from homeserver.composition.overseeing import Overseeing, build_overseeing
from homeserver.composition.peering import Peering
from homeserver.composition.people import People, build_people
from homeserver.composition.storing import build_storage
from homeserver.composition.syncing import Syncing, build_syncing
from homeserver.composition.unattended import Unattended, build_sticky, build_unattended
from homeserver.config.schema import RateLimits
from homeserver.config.settings import Settings
from homeserver.e2ee.backup import KeyBackups
from homeserver.e2ee.dehydration import DehydratedDevices
from homeserver.e2ee.edus import KeyEdus
from homeserver.e2ee.queries import KeyQueries
from homeserver.e2ee.remote import RemoteLists
from homeserver.e2ee.sections import DeviceNews
from homeserver.e2ee.signing import CrossSigning
from homeserver.e2ee.to_device import ToDeviceMessages
from homeserver.e2ee.uploads import KeyUploads
from homeserver.ephemeral.presence import Presence
from homeserver.ephemeral.ticker import Ticker
from homeserver.ephemeral.typing import Typing
from homeserver.http.ratelimit import LimitClass, RateLimiter
from homeserver.media.service import MediaService
from homeserver.peers.client import Client
from homeserver.peers.edus_in import EphemeralEdus
from homeserver.peers.health import Health
from homeserver.peers.queries import Queries
from homeserver.peers.spaces import SpaceQueries
from homeserver.peers.types import AskSpace
from homeserver.push.pushers import Pushers
from homeserver.push.service import PushRules
from homeserver.rooms.aliases import CANONICAL, Aliases
from homeserver.rooms.blocks import RoomBlocks
from homeserver.rooms.create import RoomCreator
from homeserver.rooms.departures import Departures
from homeserver.rooms.directory import Directory
from homeserver.rooms.federated.admission import Admission
from homeserver.rooms.federated.declinations import Declinations
from homeserver.rooms.federated.exchange import Exchange
from homeserver.rooms.federated.guest_joins import GuestJoins
from homeserver.rooms.federated.handshakes import Handshakes
from homeserver.rooms.federated.join_answers import JoinAnswers
from homeserver.rooms.federated.join_checks import JoinChecks
from homeserver.rooms.federated.large_answers import LargeAnswers
from homeserver.rooms.federated.offers import Offers
from homeserver.rooms.federated.outsiders import Outsiders
from homeserver.rooms.federated.partial import PartialRooms
from homeserver.rooms.federated.peer_gate import PeerGate
from homeserver.rooms.federated.peer_history import PeerHistory
from homeserver.rooms.federated.peer_state import PeerState
from homeserver.rooms.federated.remote import RemoteMemberships
from homeserver.rooms.federated.remote_invites import RemoteInvites
from homeserver.rooms.federated.remote_joins import RemoteJoins
from homeserver.rooms.federated.remote_receipts import RemoteReceipts
from homeserver.rooms.federated.restricted import RestrictedJoins
from homeserver.rooms.first_invites import FirstInvites
from homeserver.rooms.invites import InviteGate
from homeserver.rooms.membership import Memberships
from homeserver.rooms.profiles import RoomProfiles
from homeserver.rooms.reads.initial import RoomGlances
from homeserver.rooms.reads.old_sync import OldSync
from homeserver.rooms.reads.pagination import Pagination
from homeserver.rooms.reads.reading import Archive
from homeserver.rooms.reads.relations import Relationships
from homeserver.rooms.reads.room_views import RoomViews
from homeserver.rooms.reads.spaces import Spaces
from homeserver.rooms.reads.state_reads import StateReads
from homeserver.rooms.reads.summaries import Summaries
from homeserver.rooms.reads.timestamps import Timestamps
from homeserver.rooms.reads.visibility import Oversight, Sights
from homeserver.rooms.receipts import Receipts
from homeserver.rooms.send import Sender
from homeserver.rooms.succession import Succession
from homeserver.rooms.thread_subscriptions import ThreadSubscriptions
from homeserver.rooms.transactions import TransactionCache
from homeserver.rooms.upgrade import RoomUpgrades
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.placement import MOVING
from homeserver.store.threepids import load_mail_addresses
from homeserver.store.visibility_reads import StateFacts
from homeserver.sync.ignored import IgnoreLists


def limit_classes(limits: RateLimits) -> dict[str, LimitClass]:
    """The configured rate limits by the names that routes use."""
    return {name: LimitClass(one.per_second, one.burst) for name, one in limits.classes().items()}


@dataclass(frozen=True, slots=True)
class RoomOversight:
    """Rooms as administrators of the server see them: all of each."""

    pagination: Pagination
    state: StateReads
    timestamps: Timestamps


@dataclass(frozen=True, slots=True)
class Reading:
    """Rooms as their readers see them."""

    pagination: Pagination
    relationships: Relationships
    state: StateReads
    timestamps: Timestamps
    glances: RoomGlances
    old_sync: OldSync
    subscriptions: ThreadSubscriptions
    finding: Finding
    oversight: RoomOversight


def build_reading(
    core: Core,
    settings: Settings,
    incoming: Incoming,
    transactions: TransactionCache,
    facts: StateFacts,
    ignored: IgnoreLists,
    partial: PartialRooms,
    tasks: TaskGroup,
) -> Reading:
    """What reads rooms, over one memory of what never changes."""
    database, interner, clock = core.around.database, core.interner, core.around.clock
    archive = Archive(facts, core.client_events)
    sights = Sights(database, interner, core.index, core.changes, archive.facts)
    pagination = Pagination(database, sights, transactions, archive, ignored, clock, incoming.backfills)
    everything = Oversight(database, interner, core.index, core.changes, archive.facts)
    oversight = RoomOversight(
        Pagination(database, everything, transactions, archive, ignored, clock, incoming.backfills),
        StateReads(database, interner, everything, archive, clock, partial.whole),
        Timestamps(database, everything, archive.facts, incoming.moments),
    )
    glances = RoomGlances(database, sights, pagination, archive)
    old_sync = OldSync(
        database,
        interner,
        core.index,
        core.changes,
        sights,
        pagination,
        glances,
        archive,
        clock,
        ignored.load_invites,
    )
    core.changes.subscribe(old_sync.apply, old_sync.kinds)
    return Reading(
        pagination,
        Relationships(database, sights, pagination, archive),
        StateReads(database, interner, sights, archive, clock, partial.whole),
        Timestamps(database, sights, archive.facts, incoming.moments),
        glances,
        old_sync,
        ThreadSubscriptions(database, core.committer, interner, sights, archive, core.events, core.changes),
        build_finding(core, settings, sights, pagination, archive, ignored, tasks),
        oversight,
    )


@dataclass(frozen=True, slots=True)
class PeerReading:
    """Rooms as other servers see them."""

    gate: PeerGate
    history: PeerHistory
    state: PeerState


def build_peer_reading(core: Core, facts: StateFacts, partial: PartialRooms) -> PeerReading:
    """What reads rooms for other servers."""
    database, gate = core.around.database, PeerGate(core.interner, core.servers)
    history = PeerHistory(
        core.config.server_name, database, core.interner, core.changes, gate, facts, core.around.clock
    )
    return PeerReading(gate, history, PeerState(database, gate, facts, partial.is_incomplete))


@dataclass(frozen=True, slots=True)
class RoomServices:
    """What changes rooms."""

    transactions: TransactionCache
    sender: Sender
    creator: RoomCreator
    memberships: Memberships
    departures: Departures
    aliases: Aliases
    directory: Directory
    upgrades: RoomUpgrades
    profiles: RoomProfiles
    receipts: Receipts
    strangers: Strangers
    blocks: RoomBlocks


@dataclass(frozen=True, slots=True)
class Strangers:
    """Memberships across servers: users of others in rooms of ours, and users of ours in rooms of others."""

    admission: Admission
    answers: JoinAnswers
    outsiders: Outsiders
    declinations: Declinations
    offers: Offers
    exchange: Exchange
    remote: RemoteMemberships
    partial: PartialRooms


def build_partial(core: Core, peering: Peering, checks: JoinChecks, tasks: TaskGroup) -> PartialRooms:
    """What completes joins."""
    around = core.around
    partial = PartialRooms(
        core.rooms,
        core.committer,
        core.index,
        peering.client,
        checks,
        LargeAnswers(),
        around.run_in_thread,
        tasks,
        around.clock,
        around.log,
    )
    core.servers.others, core.servers.others_upto = partial.servers, partial.servers_upto
    return partial


def build_pending(
    core: Core, health: Health, handshakes: Handshakes, tasks: TaskGroup
) -> tuple[Offers, Declinations]:
    """What is to be taken back or told at other servers, sooner or later."""
    around, index = core.around, core.index
    database, worker, clock, log = around.database, core.committer, around.clock, around.log
    offers = Offers(database, worker, core.interner, index, handshakes, tasks, clock, log)
    declinations = Declinations(database, worker, index, handshakes, tasks, clock, log)
    for one in (offers, declinations):
        health.observe(on_success=one.heard_from, on_contact=one.heard_from)
    return offers, declinations


def build_strangers(
    core: Core,
    peering: Peering,
    restricted: RestrictedJoins,
    gate: InviteGate,
    blocks: RoomBlocks,
    checks: JoinChecks,
    partial: PartialRooms,
    ask_space: AskSpace,
    tasks: TaskGroup,
) -> Strangers:
    """What lets users in, here and there."""
    around, rooms, keys, client = core.around, core.rooms, peering.keys, peering.client
    admission = Admission(rooms, core.index, restricted, keys, partial.is_incomplete)
    handshakes = Handshakes(client, around.signer, around.clock, around.entropy)
    invites = RemoteInvites(rooms.tools, admission, client, keys)
    is_valid = IdentityServers(around.http, around.signer).is_valid
    exchange = Exchange(admission, invites, handshakes, blocks, core.config.server_name, is_valid, around.log)
    offers, declinations = build_pending(core, peering.health, handshakes, tasks)
    joins = RemoteJoins(
        rooms,
        core.committer,
        core.index,
        client,
        handshakes,
        checks,
        partial,
        partial.answers,
        offers,
        around.run_in_thread,
        around.log,
    )
    outsiders = Outsiders(
        rooms,
        core.committer,
        core.index,
        handshakes,
        keys,
        gate,
        blocks,
        joins.adopted,
        declinations,
        offers,
        tasks,
        around.log,
    )
    core.changes.subscribe(outsiders.signed.apply, MOVING)
    return Strangers(
        admission,
        JoinAnswers(core.config.server_name, around.database, core.interner, core.facts),
        outsiders,
        declinations,
        offers,
        exchange,
        RemoteMemberships(
            rooms,
            core.index,
            handshakes,
            joins,
            outsiders,
            invites,
            exchange,
            partial,
            GuestJoins(outsiders.told_state, ask_space),
        ),
        partial,
    )


def build_rooms(
    core: Core,
    peering: Peering,
    tasks: TaskGroup,
    queries: Queries,
    ask_space: AskSpace,
    existence: Existence | None,
) -> RoomServices:
    """The operations on rooms; some follow the log."""
    config, around, rooms, worker, interner = (
        core.config,
        core.around,
        core.rooms,
        core.committer,
        core.interner,
    )
    database, settings = around.database, peering.settings
    transactions = TransactionCache(database)
    try_user = None if existence is None else existence.try_user
    make_alias = None if existence is None else existence.make_alias
    gate = InviteGate(config.server_name, database, interner, peering.client.allows, try_user)
    succession = Succession(interner, worker)
    checks = JoinChecks(peering.keys, around.run_in_thread, around.processes)
    partial = build_partial(core, peering, checks, tasks)
    restricted = RestrictedJoins(database, interner, core.index, partial.is_partial)
    blocks = RoomBlocks(database, worker, interner)
    core.changes.subscribe(blocks.apply, blocks.kinds)
    strangers = build_strangers(core, peering, restricted, gate, blocks, checks, partial, ask_space, tasks)
    remote = strangers.remote
    profiles = RoomProfiles(rooms, core.index, core.changes, tasks, around.log)
    creator = RoomCreator(
        config.server_name,
        lambda: settings.config.default_room_version,
        rooms,
        gate,
        profiles,
        FirstInvites(remote.invite, tasks, around.clock, around.log),
    )
    memberships = Memberships(
        rooms, worker, restricted, gate, blocks, succession, remote, profiles, strangers.exchange.is_valid
    )
    aliases = Aliases(config.server_name, rooms, worker, core.index, core.servers, queries.alias, make_alias)
    departures = Departures(rooms, core.index, remote, tasks, around.log)
    directory = Directory(rooms, worker, interner, core.index)
    core.changes.subscribe(departures.apply, departures.kinds)
    core.changes.subscribe(directory.apply, directory.kinds)
    return RoomServices(
        transactions=transactions,
        sender=Sender(
            rooms, transactions, {CANONICAL: aliases.check_canonical_alias}, memberships.set_member
        ),
        creator=creator,
        memberships=memberships,
        departures=departures,
        aliases=aliases,
        directory=directory,
        upgrades=RoomUpgrades(rooms, creator, succession, remote.whole, profiles),
        profiles=profiles,
        receipts=Receipts(database, worker, interner, core.index, core.events, around.clock),
        strangers=strangers,
        blocks=blocks,
    )


@dataclass(frozen=True, slots=True)
class Encryption:
    """Keys of devices, and messages between them."""

    uploads: KeyUploads
    queries: KeyQueries
    signing: CrossSigning
    messages: ToDeviceMessages
    news: DeviceNews
    edus: KeyEdus
    backups: KeyBackups
    dehydrated: DehydratedDevices


def build_encryption(core: Core, peering: Peering, tasks: TaskGroup, facts: StateFacts) -> Encryption:
    """End-to-end encryption, as far as a server has to do with it."""
    around, worker, interner, index = core.around, core.committer, core.interner, core.index
    server_name, database, clock = core.config.server_name, around.database, around.clock
    news = DeviceNews(database, worker, interner, index, core.changes, facts)
    core.changes.subscribe(news.apply, news.kinds)
    remote = RemoteLists(
        peering.client, database, worker, interner, index, core.changes, tasks, clock, around.log
    )
    return Encryption(
        KeyUploads(worker),
        KeyQueries(server_name, database, worker, interner, index, remote),
        CrossSigning(database, worker, interner),
        ToDeviceMessages(server_name, worker, interner, clock, around.entropy, around.log),
        news,
        KeyEdus(server_name, remote, database, worker, interner, index, clock, around.log),
        KeyBackups(database, worker, interner),
        DehydratedDevices(database, worker, interner, core.changes, clock),
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
    registrar: Registrar
    identity: Identity
    openids: OpenIds
    authorizing: Authorizing
    devices: Devices
    profiles: Profiles
    account_data: AccountData
    filters: Filters
    media: MediaService
    queries: Queries
    spaces: Spaces
    summaries: Summaries
    rooms: RoomServices
    reading: Reading
    peer_reading: PeerReading
    incoming: Incoming
    tasks: TaskGroup
    typing: Typing
    presence: Presence | None
    push_rules: PushRules
    pushers: Pushers
    notifying: Notifying
    encryption: Encryption
    syncing: Syncing
    overseeing: Overseeing
    unattended: Unattended
    people: People
    bridging: Bridging


def build_services(core: Core, peering: Peering) -> Services:
    """Every domain object."""
    config, around = core.config, core.around
    database, worker, interner = around.database, core.committer, core.interner
    clock, entropy, settings = around.clock, around.entropy, peering.settings
    limiter = RateLimiter(clock, limit_classes(config.rate_limits), enabled=config.rate_limits.enabled)
    hasher = PasswordHasher(around.run_in_thread, entropy)
    sessions = Sessions(database, worker, interner, clock, entropy, config.sessions)
    accounts = Accounts(config.server_name, database, worker, interner, clock, entropy, hasher, sessions)
    tasks = TaskGroup(clock, around.log)
    queries = Queries(peering.client, clock)
    core.changes.subscribe(queries.apply, MOVING)
    views = RoomViews(database, interner, core.index, core.servers)
    ask_space = SpaceQueries(peering.client, clock).ask
    bridging = build_bridging(core, accounts)
    rooms = build_rooms(core, peering, tasks, queries, ask_space, bridging.existence)
    # One counter for both: a sync token has one number for what is only in memory.
    ticker = Ticker()
    typing = Typing(clock, ticker, core.notifier.wake_room)
    core.changes.subscribe(typing.apply, typing.kinds)
    presence = build_presence(core, ticker, tasks)
    push_rules, notifying = PushRules(database, worker), build_notifying(core)
    facts, ignored = core.facts, IgnoreLists(database)
    sticky = build_sticky(core, tasks)
    encryption = build_encryption(core, peering, tasks, facts)
    ephemeral = build_ephemeral(core, typing, presence, tasks)
    strangers, partial = rooms.strangers, rooms.strangers.partial
    joining, heard, whole = strangers.remote.under_way, strangers.outsiders.heard, partial.whole
    incoming = build_incoming(core, peering, tasks, ephemeral, encryption.edus, joining, heard, whole)
    reading = build_reading(core, settings, incoming, rooms.transactions, facts, ignored, partial, tasks)
    if presence is not None:
        reading.old_sync.presence = bind(presence.changes_for, since_counter=0)
    return Services(
        settings=settings,
        limiter=limiter,
        interactive=InteractiveAuth(clock, entropy, config.sessions.interactive_auth_lifetime_s),
        hasher=hasher,
        sessions=sessions,
        accounts=accounts,
        registrar=Registrar(settings.get, accounts, hasher, clock, bridging.accounts.check_open),
        identity=Identity(accounts, hasher, sessions, limiter),
        openids=OpenIds(config.server_name, database, worker, clock, entropy),
        authorizing=build_authorizing(core),
        devices=Devices(database, worker, core.authenticator.last_seen),
        profiles=build_profiles(core, queries, bridging),
        account_data=AccountData(database, worker, interner, {"m.push_rules": push_rules.load_content}),
        filters=Filters(database, worker),
        media=build_media(core, settings, peering.client),
        queries=queries,
        spaces=Spaces(config.server_name, views, ask_space, rooms.strangers.remote.servers, clock, entropy),
        summaries=Summaries(views, ask_space, rooms.strangers.remote.servers),
        rooms=rooms,
        reading=reading,
        peer_reading=build_peer_reading(core, facts, partial),
        incoming=incoming,
        tasks=tasks,
        typing=typing,
        presence=presence,
        push_rules=push_rules,
        pushers=Pushers(database, worker, clock, load_mail_addresses),
        notifying=notifying,
        encryption=encryption,
        people=build_people(core, settings, limiter, tasks, rooms.memberships, rooms.blocks),
        bridging=bridging,
        overseeing=_overseeing(core, rooms, reading, tasks),
        unattended=build_unattended(core, tasks, rooms.sender, sticky.keeper),
        syncing=build_syncing(
            core, facts, ignored, typing, presence, encryption.news, notifying.unread, sticky.sections
        ),
    )


def _overseeing(core: Core, rooms: RoomServices, reading: Reading, tasks: TaskGroup) -> Overseeing:
    return build_overseeing(
        core,
        reading.pagination.event,
        rooms.sender,
        rooms.creator,
        rooms.memberships,
        rooms.blocks,
        rooms.aliases,
        tasks,
    )


def build_profiles(core: Core, queries: Queries, bridging: Bridging) -> Profiles:
    """What users say of themselves."""
    return Profiles(
        core.config.server_name,
        core.around.database,
        core.committer,
        core.interner,
        queries.profile,
        None if bridging.existence is None else bridging.existence.make_user,
    )


def build_ephemeral(core: Core, typing: Typing, presence: Presence | None, tasks: TaskGroup) -> EphemeralEdus:
    """Takes what other servers tell of the moment."""
    database = core.around.database
    receipts = RemoteReceipts(database, core.committer, core.events, tasks)
    core.changes.subscribe(receipts.apply, receipts.kinds)
    remote = None if presence is None else presence.remote
    return EphemeralEdus(database, core.interner, core.index, core.servers, typing, receipts, remote)


def build_media(core: Core, settings: Settings, client: Client) -> MediaService:
    """The content repository."""
    config, around = core.config, core.around
    return MediaService(
        config.server_name,
        build_storage(config, around),
        around.database,
        core.committer,
        core.interner,
        around.run_in_thread,
        around.clock,
        around.entropy,
        around.log,
        lambda: settings.config.media,
        client,
        around.http,
    )
