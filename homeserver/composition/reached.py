"""What `chaos doctor` says of the way in: whether other servers find ours by its name. Bounded in time; never fails."""

from __future__ import annotations

import ipaddress
from typing import Final, Protocol

import msgspec
from twisted.internet.defer import Deferred

from federation.flows.discovery import Location, is_address, split_name
from federation.ids import ServerName
from homeserver.cli.operations import Finding
from homeserver.config.schema import Config
from homeserver.http.deadline import cut_off
from homeserver.http.transport import PeerRequest, PeerResponse, Unreachable
from homeserver.runtime.clock import Clock

PATIENCE_S: Final = 10.0
_ANSWER_MOST: Final = 65_536
_HINT: Final = (
    "it takes a listener with tls on 8448, or a proxy that also serves /.well-known/ and /_matrix/ there"
)


class Way(Protocol):
    """The part of `PeerTransport` that is asked."""

    async def locate(self, server_name: ServerName) -> Location:
        """Where a server is."""

    def send(self, request: PeerRequest) -> Deferred[PeerResponse]:
        """Ask it."""


async def examine_way_in(config: Config, way: Way, clock: Clock) -> list[Finding]:
    """One finding; none where other servers are not wanted, or the name is for this machine only."""
    name = config.parsed_server_name
    if not config.federation.enabled or _is_local(name):
        return []
    place: str = name
    try:
        location = await cut_off(clock, PATIENCE_S, Deferred.fromCoroutine(way.locate(name)))
        place = _describe(name, location)
        request = PeerRequest(
            name, "GET", "/_matrix/key/v2/server", timeout_s=PATIENCE_S, max_bytes=_ANSWER_MOST
        )
        problem = _problem_of(await way.send(request), name)
    except Unreachable as error:
        problem = " ".join(str(error).split()) or type(error).__name__
    if not problem:
        return [Finding("ok", "federation", f"other servers find {place}")]
    return [Finding("warning", "federation", f"other servers do not find {place}: {problem}; {_HINT}")]


def _describe(name: ServerName, location: Location) -> str:
    places = ", ".join(f"{one.host} port {one.port}" for one in location.endpoints)
    if location.well_known is None:
        return f"{name} at {places}"
    said = location.well_known.delegate
    document = f"https://{name}/.well-known/matrix/server {f'says {said}' if said else 'says nothing'}"
    return f"{name} at {places} ({document})"


def _problem_of(response: PeerResponse, name: ServerName) -> str:
    try:
        answer = msgspec.json.decode(response.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        answer = None
    found = answer.get("server_name") if response.status == 200 and isinstance(answer, dict) else None
    if not isinstance(found, str):
        return f"/_matrix/key/v2/server is not answered as by a Matrix server (status {response.status})"
    return "" if found == name else f"{found[:255]} answers there"


def _is_local(name: ServerName) -> bool:
    host, _ = split_name(name)
    if is_address(host):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")
