"""Versions of the specification that this server speaks. spec: client-server-api#api-versions"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from homeserver.http.request import Request
from homeserver.http.route import Auth, Route

# Old versions stay: clients look for one that they know (some for v1.1 to v1.10, bridges for v1.4 or later).
VERSIONS: tuple[str, ...] = (
    "v1.1",
    "v1.2",  # registration tokens, knocking, restricted joins
    "v1.3",  # refresh tokens, relations
    "v1.4",  # threads, private receipts
    "v1.5",
    "v1.6",  # timestamp_to_event
    "v1.7",  # login tokens, asynchronous uploads
    "v1.8",
    "v1.9",
    "v1.10",
    "v1.11",  # authenticated media
    "v1.12",
    "v1.13",  # reports of rooms, suspended accounts
    "v1.14",  # reports of users
    "v1.15",  # room summaries; without an authority for OAuth 2.0, which `auth_metadata` says as specified
    "v1.16",  # fields of profiles, the state after a timeline, rooms of version 12
    "v1.17",  # devices of application services
    "v1.18",  # suspending and locking, blocking invites, policy servers
    "v1.19",  # rooms that users share, image packs
)
# What clients ask for by name, be it in no version or in one that they do not look at.
FEATURES: Mapping[str, bool] = MappingProxyType(
    {
        # Profile fields beyond name and picture (v1.16); without the second name they are asked for by MSC4133's path.
        "uk.tcpip.msc4133": True,
        "uk.tcpip.msc4133.stable": True,
        # Cross-signing (v1.1). COMPAT(Element Web to 1.12.2): otherwise it makes no keys, and offers to verify nobody.
        "org.matrix.e2e_cross_signing": True,
        # Threads and their receipts, private receipts (v1.4).
        "org.matrix.msc3440.stable": True,
        "org.matrix.msc3771": True,
        "org.matrix.msc3773": True,
        "org.matrix.msc2285.stable": True,
        # Kinds of rooms in the directory (v1.4).
        "org.matrix.msc3827.stable": True,
        # Media that are created first (v1.7), and for which one must be somebody (v1.11).
        "fi.mau.msc2246.stable": True,
        "org.matrix.msc3916.stable": True,
        # Pings between application services and us (v1.7).
        "fi.mau.msc2659.stable": True,
        # The state after a timeline (v1.16).
        "org.matrix.msc4222": True,
        # Suspending and locking accounts (v1.18).
        "uk.timedout.msc4323.stable": True,
        # Sliding sync (accepted, and in no version yet).
        "org.matrix.simplified_msc3575": True,
        # Changes of profiles in both kinds of sync, and the fields that say what somebody is up to.
        "org.matrix.msc4262": True,
        "org.matrix.msc4426": True,
        "org.matrix.msc4429": True,
        # Thread subscriptions, and telling of them in sliding sync.
        "org.matrix.msc4306": True,
        "org.matrix.msc4308": True,
        # Pushers that another device can switch off. matrix-js-sdk, Element.
        "org.matrix.msc3881": True,
        # Rooms that two users share (v1.19).
        "uk.half-shot.msc2666.query_mutual_rooms": True,
        "uk.half-shot.msc2666.query_mutual_rooms.stable": True,
        # Blocking invites (v1.18), and choosing whose.
        "org.matrix.msc4380.stable": True,
        "org.matrix.msc4155": True,
        # Media servers of group calls.
        "org.matrix.msc4143": True,
        # Redactions through /send (v1.18).
        "com.beeper.msc4169": True,
        # Account data can be deleted.
        "org.matrix.msc3391": True,
        # Busy, as a presence.
        "org.matrix.msc3026.busy_presence": True,
        # Dehydrated devices.
        "org.matrix.msc3814": True,
    }
)


class VersionsApi:
    """`extra_features`: unstable features that other parts of the server bring."""

    def __init__(self, extra_features: Mapping[str, bool] = MappingProxyType({})) -> None:
        features = {**FEATURES, **extra_features}
        self._answer = msgspec.json.encode({"versions": list(VERSIONS), "unstable_features": features})

    def routes(self) -> list[Route]:
        return [
            # A token is allowed, and checked if it is there; the answer is the same for everybody.
            Route(
                method="GET",
                template="/_matrix/client/versions",
                handler=self.versions,
                auth=Auth.OPTIONAL,
                spec="client-server-api#get_matrixclientversions",
            )
        ]

    async def versions(self, _: Request) -> bytes:
        return self._answer
