"""The endpoints: every area of the API, over the domains."""

from __future__ import annotations

from homeserver.api.client import dehydrated_device
from homeserver.api.client.account import AccountApi
from homeserver.api.client.account_data import AccountDataApi
from homeserver.api.client.admin import AdminApi
from homeserver.api.client.appservices import AppservicesApi
from homeserver.api.client.capabilities import CapabilitiesApi
from homeserver.api.client.context import ContextApi
from homeserver.api.client.create_room import CreateRoomApi
from homeserver.api.client.cross_signing import CrossSigningApi
from homeserver.api.client.dehydrated_device import DehydratedDeviceApi
from homeserver.api.client.delayed_events import DelayedEventsApi
from homeserver.api.client.device_keys import DeviceKeysApi
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
from homeserver.api.client.mutual_rooms import MutualRoomsApi
from homeserver.api.client.notifications import NotificationsApi
from homeserver.api.client.old_sync import OldSyncApi
from homeserver.api.client.openid import OpenIdApi
from homeserver.api.client.presence import PresenceApi
from homeserver.api.client.preview import PreviewApi
from homeserver.api.client.profile import ProfileApi
from homeserver.api.client.push_rules import PushRulesApi
from homeserver.api.client.pushers import PushersApi
from homeserver.api.client.read_markers import ReadMarkersApi
from homeserver.api.client.receipts import ReceiptsApi
from homeserver.api.client.refresh import RefreshApi
from homeserver.api.client.register import RegisterApi
from homeserver.api.client.relations import RelationsApi
from homeserver.api.client.rendezvous import FEATURES as RENDEZVOUS
from homeserver.api.client.rendezvous import ETagRendezvousApi, RendezvousApi
from homeserver.api.client.reports import ReportsApi
from homeserver.api.client.room_keys import RoomKeysApi
from homeserver.api.client.search import SearchApi
from homeserver.api.client.send import SendApi
from homeserver.api.client.send_to_device import SendToDeviceApi
from homeserver.api.client.sliding_sync import SlidingSyncApi
from homeserver.api.client.spaces import SpacesApi
from homeserver.api.client.state import StateApi
from homeserver.api.client.sync import SetPresence, SyncApi
from homeserver.api.client.third_party import ThirdPartyNetworksApi
from homeserver.api.client.thread_subscriptions import ThreadSubscriptionsApi
from homeserver.api.client.threepids import ThreepidsApi
from homeserver.api.client.timestamp import TimestampApi
from homeserver.api.client.typing import TypingApi
from homeserver.api.client.upgrade import UpgradeApi
from homeserver.api.client.user_directory import UserDirectoryApi
from homeserver.api.client.versions import VersionsApi
from homeserver.api.client.voip import VoipApi
from homeserver.api.client.wellknown import WellKnownApi
from homeserver.api.federation.backfill import BackfillApi
from homeserver.api.federation.events import PeerEventsApi
from homeserver.api.federation.hierarchy import FederatedHierarchyApi
from homeserver.api.federation.invites import InvitesApi
from homeserver.api.federation.joins import JoinsApi
from homeserver.api.federation.keys import KeysApi
from homeserver.api.federation.knocks import KnocksApi
from homeserver.api.federation.leaves import LeavesApi
from homeserver.api.federation.media import FederatedMediaApi
from homeserver.api.federation.public_rooms import FederatedDirectoryApi
from homeserver.api.federation.query import QueryApi
from homeserver.api.federation.send import TransactionsApi
from homeserver.api.federation.state import PeerStateApi
from homeserver.api.federation.third_party import ThirdPartyApi
from homeserver.api.federation.user_keys import UserKeysApi
from homeserver.api.federation.version import FederationVersionApi
from homeserver.api.oauth.clients import OAuthClientsApi
from homeserver.api.oauth.discovery import OAuthDiscoveryApi
from homeserver.api.oauth.tokens import OAuthTokensApi
from homeserver.api.web.auth_fallback import AuthFallbackApi
from homeserver.api.web.limits import LimitsApi
from homeserver.api.web.login_fallback import LoginFallbackApi
from homeserver.api.web.unsubscribe import UnsubscribeApi
from homeserver.api.web.validate_email import ValidateEmailApi
from homeserver.calls.rtc import well_known_foci
from homeserver.calls.turn import TurnCredentials
from homeserver.composition.core import Core
from homeserver.composition.pages import build_pages
from homeserver.composition.peering import Peering
from homeserver.composition.services import Services
from homeserver.composition.unattended import capabilities, unstable_features
from homeserver.ephemeral.presence import Presence
from homeserver.http.route import HasRoutes, Route
from homeserver.oauth.rendezvous import Rendezvouses


def build_routes(core: Core, peering: Peering, services: Services) -> list[Route]:
    """Every endpoint that this server answers."""
    apis = account_apis(core, services) + client_apis(core, services) + reading_apis(services)
    if core.config.has_oauth:
        apis += [*oauth_apis(core, services), *build_pages(core, services)]
    if core.config.federation.enabled:
        apis += federation_apis(core, peering, services)
    return [route for api in apis for route in api.routes()]


def federation_apis(core: Core, peering: Peering, services: Services) -> list[HasRoutes]:
    """What other servers ask."""
    strangers = services.rooms.strangers
    return [
        KeysApi(peering.own_keys, peering.keys, core.around.clock.now_ms),
        FederationVersionApi(),
        FederatedDirectoryApi(services.rooms.directory, lambda: peering.settings.config.public_rooms),
        QueryApi(core.config.server_name, services.rooms.aliases, services.profiles),
        FederatedMediaApi(services.media.downloads),
        FederatedHierarchyApi(services.summaries),
        BackfillApi(services.peer_reading.history),
        PeerEventsApi(services.peer_reading.history),
        PeerStateApi(services.peer_reading.state),
        TransactionsApi(services.incoming.receiver),
        UserKeysApi(services.encryption.queries),
        JoinsApi(strangers.admission, strangers.answers),
        KnocksApi(strangers.admission),
        LeavesApi(strangers.admission),
        InvitesApi(strangers.outsiders),
        ThirdPartyApi(strangers.exchange),
    ]


def account_apis(core: Core, services: Services) -> list[HasRoutes]:
    """How people come to an account, and what becomes of it."""
    config, around = core.config, core.around
    settings, accounts, interactive = services.settings, services.accounts, services.interactive
    bridging = services.bridging
    return [
        RegisterApi(
            settings.get,
            accounts,
            services.registrar,
            interactive,
            services.limiter,
            around.clock,
            bridging.accounts,
            services.people.validations,
        ),
        LoginApi(config, services.identity, services.sessions, interactive, bridging.accounts),
        LogoutApi(services.sessions),
        RefreshApi(services.sessions),
        AdminApi(services.people.moderation),
        AccountApi(
            accounts,
            services.identity,
            interactive,
            lambda: settings.config.passwords,
            services.people.validations,
            services.people.threepids,
        ),
        ThreepidsApi(services.people.validations, services.people.threepids, services.identity, interactive),
        DevicesApi(services.devices, services.identity, interactive, services.sessions),
        ProfileApi(services.profiles),
        ValidateEmailApi(services.people.validations),
        AuthFallbackApi(config.server_name, interactive, services.limiter),
        LoginFallbackApi(config.server_name),
        OAuthDiscoveryApi(settings.get, services.authorizing.places),
        LimitsApi(settings.get),
    ]


def oauth_apis(core: Core, services: Services) -> list[HasRoutes]:
    """How apps log people in without their password."""
    authorizing, clock, entropy = services.authorizing, core.around.clock, core.around.entropy
    return [
        RendezvousApi(Rendezvouses(clock, entropy), clock),
        ETagRendezvousApi(Rendezvouses(clock, entropy), authorizing.places.base),
        OAuthClientsApi(authorizing.clients, authorizing.id_tokens),
        OAuthTokensApi(authorizing.grants),
    ]


def reading_apis(services: Services) -> list[HasRoutes]:
    """How clients look into rooms, beside sync."""
    return [
        StateApi(services.reading.state),
        MembersApi(services.reading.state, services.bridging.registry),
        MessagesApi(services.reading.pagination),
        RelationsApi(services.reading.relationships),
        SearchApi(services.reading.finding.searches),
        UserDirectoryApi(services.reading.finding.people),
        EventApi(services.reading.pagination),
        ContextApi(services.reading.pagination),
        TimestampApi(services.reading.timestamps),
        ThreadSubscriptionsApi(services.reading.subscriptions),
        InitialSyncApi(services.reading.glances),
        OldSyncApi(services.reading.old_sync),
    ]


def client_apis(core: Core, services: Services) -> list[HasRoutes]:
    """What clients ask."""
    config, around = core.config, core.around
    settings, interactive = services.settings, services.interactive
    encryption, bridging = services.encryption, services.bridging
    unattended, limiter = services.unattended, services.limiter
    media = MediaApi(services.media.repository, services.media.downloads)
    return [
        VersionsApi({**unstable_features(config), **(RENDEZVOUS if config.has_oauth else {})}),
        WellKnownApi(config, {**dehydrated_device.WELL_KNOWN, **well_known_foci(config.calls)}),
        CapabilitiesApi(
            lambda: settings.config.default_room_version,
            capabilities(config),
            threepids=around.mailer is not None,
        ),
        AccountDataApi(services.account_data),
        FilterApi(services.filters),
        SendApi(services.rooms.sender, unattended.delayed, unattended.related, limiter),
        media,
        LegacyMediaApi(services.media.downloads, media),
        *([PreviewApi(services.media.previews)] if config.url_previews.enabled else []),
        CreateRoomApi(
            services.rooms.creator, config.server_name, bridging.registry, services.people.by_address, limiter
        ),
        MembershipApi(services.rooms.memberships, services.rooms.aliases, services.people.by_address),
        AppservicesApi(bridging.registry, bridging.courier, services.rooms.directory),
        ThirdPartyNetworksApi(bridging.networks),
        DirectoryApi(
            config.server_name,
            services.rooms.directory,
            services.rooms.aliases,
            lambda: settings.config.public_rooms,
            services.queries.public_rooms,
            bridging.registry,
        ),
        SpacesApi(config.server_name, services.spaces, services.summaries, services.rooms.aliases),
        UpgradeApi(services.rooms.upgrades),
        JoinedRoomsApi(core.index, core.interner),
        TypingApi(services.typing, core.interner, core.index),
        ReceiptsApi(services.rooms.receipts),
        ReadMarkersApi(services.rooms.receipts),
        OpenIdApi(services.openids),
        PresenceApi(services.presence, around.database, core.interner, core.index),
        PushRulesApi(services.push_rules),
        PushersApi(services.pushers),
        NotificationsApi(services.notifying.listing),
        UnsubscribeApi(services.notifying.unsubscribing),
        DeviceKeysApi(
            encryption.uploads, encryption.queries, encryption.news, services.syncing.classic, core.changes
        ),
        CrossSigningApi(
            encryption.signing,
            services.identity,
            interactive,
            services.authorizing.resets if config.has_oauth else None,
        ),
        SendToDeviceApi(encryption.messages),
        RoomKeysApi(encryption.backups),
        DelayedEventsApi(unattended.delayed, limiter),
        ReportsApi(services.overseeing.reports),
        MutualRoomsApi(services.people.mutual),
        VoipApi(TurnCredentials(lambda: settings.config.turn, core.around.clock), config.calls),
        DehydratedDeviceApi(encryption.dehydrated),
        SyncApi(services.syncing.classic, around.database, _note_sync(services.presence)),
        SlidingSyncApi(services.syncing.sliding, _note_sync(services.presence)),
    ]


def _note_sync(presence: Presence | None) -> SetPresence | None:
    """A client that syncs is there."""
    if presence is None:
        return None
    return lambda requester, state: presence.synced(
        requester.user_nid, requester.user_id, requester.device_nid, state
    )
