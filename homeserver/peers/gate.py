"""The gate of federation: whose a request is, by its signature. For routes with ``Auth.FEDERATION``.

MUSTs: 1. nothing in the header is believed before the signature is verified, over the body that the handler gets;
2. servers that are not allowed cause no fetch of keys; 3. every failure is a 401, but those we do not talk with (403).

# spec: server-server-api#request-authentication
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from federation.canonical import loads_untrusted
from federation.errors import Malformed
from federation.ids import KeyId, ServerName
from federation.xmatrix import XMatrix, parse, verify
from homeserver.http.errors import MatrixError, forbidden, limit_exceeded
from homeserver.http.request import Request
from homeserver.http.router import address_key
from homeserver.peers.keyring import KeyRing
from homeserver.peers.types import Peer

# Servers with several keys send a header for each.
MAX_HEADERS = 5
BUSY_RETRY_MS = 5_000
# LIMIT(made-up names cost a fetch each: fewer from one address than the key ring makes at a time, so that others pass)
MAX_FETCHES_EACH = 24


class FederationGate:
    """Admits signed requests. One whose key is in memory costs no Deferred."""

    def __init__(
        self,
        server_name: ServerName,
        keys: KeyRing,
        allows: Callable[[str], bool],
        heard_from: Callable[[ServerName], object],
    ) -> None:
        self._server_name = server_name
        self._keys = keys
        self._allows = allows
        self._heard_from = heard_from
        self._fetching: dict[str, int] = {}

    def authenticate(self, request: Request) -> Peer | Awaitable[Peer]:
        """The server that signed this request; parses its body, once for everybody. Raises MatrixError, Malformed."""
        headers = _headers(request)
        origin = headers[0].origin
        if origin.lower() == self._server_name.lower():
            raise _unauthorized("This server does not ask itself")
        if not self._allows(origin):
            raise forbidden("This server does not federate with yours")
        if request.body:
            request.content = loads_untrusted(request.body)
        keys = self._keys.known(origin)
        if keys is None or all(header.key_id not in keys for header in headers):
            return self._authenticate_later(request, headers)
        return self._admit(request, headers, keys)

    async def _authenticate_later(self, request: Request, headers: list[XMatrix]) -> Peer:
        address = address_key(request.client_ip)
        fetching = self._fetching.get(address, 0)
        if fetching >= MAX_FETCHES_EACH or self._keys.is_busy:
            raise limit_exceeded(BUSY_RETRY_MS)
        self._fetching[address] = fetching + 1
        try:
            keys = await self._keys.for_request(headers[0].origin, headers[0].key_id)
        finally:
            self._fetching[address] -= 1
            if not self._fetching[address]:
                del self._fetching[address]
        return self._admit(request, headers, keys)

    def _admit(self, request: Request, headers: list[XMatrix], keys: Mapping[KeyId, bytes]) -> Peer:
        known = [header for header in headers if header.key_id in keys] or headers
        for header in known[:-1]:
            try:
                self._verify(request, header, keys)
            except Malformed:
                continue
            break
        else:
            self._verify(request, known[-1], keys)
        origin = headers[0].origin
        self._heard_from(origin)
        return Peer(origin)

    def _verify(self, request: Request, header: XMatrix, keys: Mapping[KeyId, bytes]) -> None:
        verify(
            header,
            server_name=self._server_name,
            method=request.method,
            uri=request.target.decode("latin-1"),
            content=request.content,
            has_content=bool(request.body),
            keys=keys,
        )


def _headers(request: Request) -> list[XMatrix]:
    """Every X-Matrix header; all of one server."""
    values = request.headers.get_all(b"authorization")
    found: list[XMatrix] = []
    for value in values[:MAX_HEADERS]:
        if value[:8].lower() == b"x-matrix":
            found.append(parse(value.decode("latin-1")))
    if not found:
        raise _unauthorized("This needs a signed request: an Authorization header with X-Matrix")
    if any(header.origin != found[0].origin for header in found):
        raise _unauthorized("Authorization headers of several servers")
    return found


def _unauthorized(error: str) -> MatrixError:
    return MatrixError(401, "M_UNAUTHORIZED", error)
