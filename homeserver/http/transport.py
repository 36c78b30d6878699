"""How a request reaches another server: the seam between what we ask and how it travels.

Production resolves names and opens TLS connections (``peer.py``); tests and the simulator hand the request to another
server's router. Whoever implements it MUST bound time and size of the answer by what the request says.

# spec: server-server-api#api-standards
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote, urlencode

from twisted.internet.defer import Deferred, fail

from federation.ids import ServerName

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_MAX_BYTES = 16 * 1024 * 1024


class Unreachable(Exception):  # noqa: N818 (a fact about the other side, not a fault of ours)
    """No answer: nothing is known of what the other server did with the request."""


class TimedOut(Unreachable):
    """There was no answer in the time that it may take."""


class AnswerTooLarge(Unreachable):
    """There was an answer, and nobody wants so much."""


@dataclass(frozen=True, slots=True)
class PeerRequest:
    """One request to one server, complete but for the connection."""

    destination: ServerName
    method: str
    uri: str  # path and query, percent-encoded: byte for byte what the signature covers
    authorization: str | None = None
    body: bytes | None = None  # canonical JSON
    timeout_s: float = DEFAULT_TIMEOUT_S  # for the whole answer
    max_bytes: int = DEFAULT_MAX_BYTES


@dataclass(frozen=True, slots=True)
class PeerResponse:
    """What came back. Header names in lower case; the last value of a repeated one."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Transport(Protocol):
    """Carries requests. The Deferred fails with ``Unreachable`` alone."""

    def send(
        self, request: PeerRequest, receive: Callable[[bytes], None] | None = None
    ) -> Deferred[PeerResponse]:
        """Send; with ``receive`` the body of a 2xx answer goes there in pieces, and the response's is empty."""


class Nowhere:
    """No network: commands that work on the database alone, and tests of one server."""

    def send(
        self,
        request: PeerRequest,
        receive: Callable[[bytes], None] | None = None,  # noqa: ARG002
    ) -> Deferred[PeerResponse]:
        """Nobody is there."""
        return fail(Unreachable(f"{request.destination} cannot be reached: there is no network here"))


def build_uri(
    prefix: str, *segments: str, query: Mapping[str, str | int | list[str] | None] | None = None
) -> str:
    """A path of percent-encoded segments after a fixed prefix, with a query; members that are None are left out."""
    uri = "/".join([prefix, *(quote(segment, safe="") for segment in segments)])
    pairs = {name: value for name, value in (query or {}).items() if value is not None}
    return f"{uri}?{urlencode(pairs, doseq=True)}" if pairs else uri
