"""Every endpoint of the server-server API, held against its official description.

In each scene our servers talk with each other. Whatever they ask and answer there, over the client-server API too, is
validated (see `watch.py`); and each endpoint must have been met with a success and with an error that is specified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType

from scripts.spec_coverage import endpoints
from tests.conformance import scenes_history, scenes_membership, scenes_queries
from tests.conformance.specification import CLIENT_SERVER, SERVER_SERVER
from tests.conformance.stage import Scene, StageCase
from tests.support.databases import on_each_database

# Where there is no success, or no error, to be had.
NEVER_SUCCEEDS = {
    "GET /_matrix/federation/v1/query/{queryType}": "every kind of query that is specified has its own endpoint",
    "POST /_matrix/policy/v1/sign": "we ask policy servers and are none",
}
NEVER_FAILS = {
    "GET /_matrix/federation/v1/version": "it takes nothing that could be wrong",
    "GET /_matrix/key/v2/server": "it takes nothing that could be wrong",
}

CLIENTS_NEED = (
    "POST /v3/join/{roomIdOrAlias}",
    "POST /v3/rooms/{roomId}/join",
    "POST /v3/knock/{roomIdOrAlias}",
    "POST /v3/rooms/{roomId}/invite",
    "POST /v3/rooms/{roomId}/leave",
    "GET /v1/room_summary/{roomIdOrAlias}",
    "GET /v1/rooms/{roomId}/hierarchy",
    "GET /v1/rooms/{roomId}/timestamp_to_event",
    "GET /v3/rooms/{roomId}/messages",
    "GET /v3/publicRooms",
    "POST /v3/publicRooms",
    "GET /v3/directory/room/{roomAlias}",
    "GET /v3/profile/{userId}",
    "POST /v3/keys/query",
    "POST /v3/keys/claim",
    "PUT /v3/sendToDevice/{eventType}/{txnId}",
    "POST /v3/user/{userId}/openid/request_token",
    "GET /v1/media/download/{serverName}/{mediaId}",
    "GET /v1/media/thumbnail/{serverName}/{mediaId}",
    "GET /v3/sync",
)


def scenes(*modules: ModuleType) -> Iterator[Scene]:
    """The public functions of some modules."""
    for module in modules:
        for name, value in vars(module).items():
            if (
                not name.startswith("_")
                and getattr(value, "__module__", "") == module.__name__
                and callable(value)
            ):
                yield value


ALL_SCENES = tuple(scenes(scenes_membership, scenes_history, scenes_queries))


class ServerServer(StageCase):
    """One test for each scene, made below, and what they come to together."""

    def test_every_endpoint_is_met(self) -> None:
        watches = [self.play(scene) for scene in ALL_SCENES]
        missing: list[str] = []
        for endpoint in endpoints():
            if endpoint.api != SERVER_SERVER:
                continue
            name = f"{endpoint.method} {endpoint.path}"
            operation = next(one for one in self.specification.operations() if one.name == name)
            statuses = {status for watch in watches for status, _ in watch.outcomes[name]}
            specified = {status for status in operation.statuses if status >= 400} or set(range(400, 500))
            if 200 not in statuses and name not in NEVER_SUCCEEDS:
                missing.append(f"{name}: no success")
            if not statuses & specified and name not in NEVER_FAILS:
                missing.append(f"{name}: none of the errors {sorted(specified)[:9]}, only {sorted(statuses)}")
        self.assertEqual([], missing)

    def test_what_clients_need_of_it(self) -> None:
        """The endpoints by which a client makes servers talk: a success, and an error where one is specified."""
        watches = [self.play(scene) for scene in ALL_SCENES]
        missing: list[str] = []
        for name in CLIENTS_NEED:
            method, _, template = name.partition(" ")
            operations = self.specification.operations(CLIENT_SERVER)
            operation = next(one for one in operations if one.name == f"{method} /_matrix/client{template}")
            statuses = {status for watch in watches for status, _ in watch.outcomes[operation.name]}
            specified = {status for status in operation.statuses if status >= 400} - {429}
            if 200 not in statuses:
                missing.append(f"{name}: no success")
            if specified and not specified & statuses:
                missing.append(f"{name}: none of {sorted(specified)}, only {sorted(statuses)}")
        self.assertEqual([], missing)

    def test_what_we_ask_of_others(self) -> None:
        """Each endpoint that one of our servers has a use for was asked by one."""
        watches = [self.play(scene) for scene in ALL_SCENES]
        sent = {name for watch in watches for name in watch.sent}
        self.assertEqual([], sorted(ASKED - sent))


ASKED = frozenset(
    f"{one.method} {one.path}"
    for one in endpoints()
    if one.api == SERVER_SERVER
    # By clients of ours, by identity servers and services, by hand, or on ways that this network is none of.
    and one.operation
    not in (
        "getWellKnown",
        "onBindThirdPartyIdentifier",
        "queryInfo",
        "exchangeOpenIdToken",
        "getVersion",
        "perspectivesKeyQuery",  # notaries are asked for many at once
        "getContentThumbnail",  # thumbnails are made here, of what is downloaded
    )
)


def _test_of(scene: Scene) -> Callable[[StageCase], None]:
    def test(self: StageCase) -> None:
        self.assertEqual([], self.play(scene).problems)

    test.__doc__ = scene.__doc__
    return test


for _scene in ALL_SCENES:
    setattr(ServerServer, f"test_{_scene.__name__}", _test_of(_scene))
on_each_database(ServerServer)
# As the decorator does it, which would have come before the tests were there.
del ServerServer
