"""Client: requests to other servers, signed, and their answers, parsed and judged. Implements ``peers.types.PeerClient``.

It decides whom we talk with; how a request travels is the transport's business.

# spec: server-server-api#request-authentication
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from federation.canonical import encode_checked, loads_object
from federation.errors import Malformed, RemoteError
from federation.flows.needs import NeedPeer
from federation.ids import ServerName
from federation.signing import Signer
from federation.xmatrix import build
from homeserver.config.settings import Settings
from homeserver.http.transport import (
    DEFAULT_MAX_BYTES,
    DEFAULT_TIMEOUT_S,
    AnswerTooLarge,
    PeerRequest,
    PeerResponse,
    Transport,
    Unreachable,
)
from homeserver.peers.health import Health

MAX_ERROR_BYTES = 64 * 1024
MAX_TEXT = 500
MAX_RETRY_AFTER_MS = 24 * 3600 * 1000
# What a proxy says in the name of a server that is not there.
_NOBODY_THERE = frozenset({502, 503, 504})


class Client:
    """Asks other servers. Whatever comes back is hostile until it is parsed."""

    def __init__(self, transport: Transport, signer: Signer, settings: Settings, health: Health) -> None:
        self._transport = transport
        self._signer = signer
        self._settings = settings
        self._health = health

    def allows(self, server_name: str) -> bool:
        """Whether the configuration lets us talk with that server at all."""
        federation = self._settings.config.federation
        if not federation.enabled or _is_one_of(server_name, federation.deny_servers):
            return False
        return federation.allow_servers is None or _is_one_of(server_name, federation.allow_servers)

    async def ask(
        self,
        destination: ServerName,
        method: str,
        uri: str,
        content: Mapping[str, Any] | bytes | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        insist: bool = True,
    ) -> dict[str, Any]:
        """The JSON object of a 2xx answer; ``uri`` from ``build_uri``; bytes as content are canonical JSON already."""
        response = await self.ask_raw(
            destination, method, uri, content, timeout_s=timeout_s, max_bytes=max_bytes, insist=insist
        )
        return _object(response)

    async def ask_raw(
        self,
        destination: ServerName,
        method: str,
        uri: str,
        content: Mapping[str, Any] | bytes | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        insist: bool = True,
        receive: Callable[[bytes], None] | None = None,
    ) -> PeerResponse:
        """The same with the body as it came: for answers too large to be parsed at once, and for media."""
        body = None if content is None else content if isinstance(content, bytes) else _canonical(content)
        self._check(destination, insist)
        authorization = build(
            self._signer, method=method, uri=uri, destination=destination, canonical_body=body
        )
        request = PeerRequest(destination, method, uri, authorization, body, timeout_s, max_bytes)
        return await self._send(request, receive)

    async def ask_unsigned(self, need: NeedPeer) -> dict[str, Any] | None:
        """The answer to a flow that asks for keys, with which signatures begin."""
        body = None if need.content is None else _canonical(need.content)
        try:
            self._check(need.destination, need.insist)
            request = PeerRequest(
                need.destination, need.method, need.uri, None, body, need.timeout_s, need.max_bytes
            )
            return _object(await self._send(request, None))
        except (RemoteError, Unreachable):
            return None

    def _check(self, destination: ServerName, insist: bool) -> None:
        if destination.lower() == self._signer.server_name.lower():
            raise Unreachable("this server does not ask itself")
        if not self.allows(destination):
            raise Unreachable(f"{destination} is not a server that this one may talk with")
        if not insist and self._health.is_down(destination):
            raise Unreachable(f"{destination} did not answer lately")

    async def _send(self, request: PeerRequest, receive: Callable[[bytes], None] | None) -> PeerResponse:
        try:
            response = await self._transport.send(request, receive)
        except AnswerTooLarge:
            # It is there. Else anybody who asks for a large file could have it taken for down.
            self._health.succeeded(request.destination)
            raise
        except Unreachable:
            self._health.failed(request.destination)
            raise
        if 200 <= response.status < 300:
            self._health.succeeded(request.destination)
            return response
        content = _error_content(response)
        if response.status in _NOBODY_THERE and "errcode" not in content:
            self._health.failed(request.destination)
        else:
            self._health.succeeded(request.destination)
        raise _remote_error(response, content)


def _is_one_of(server_name: str, names: Sequence[str]) -> bool:
    """Capitals make another server of a name, but not another host."""
    name = server_name.lower()
    return any(name == one.lower() for one in names)


def _canonical(content: Mapping[str, Any]) -> bytes:
    # Lenient: what we pass on may hold an event of an old room, with a float.
    return encode_checked(dict(content), strict=False)


def _object(response: PeerResponse) -> dict[str, Any]:
    try:
        return loads_object(response.body)
    except Malformed as error:
        raise RemoteError(error.errcode, 502, f"The answer is unreadable: {error.message}") from None


def _error_content(response: PeerResponse) -> dict[str, Any]:
    """The standard error response, as far as there is one."""
    if len(response.body) > MAX_ERROR_BYTES:
        return {}
    try:
        content = loads_object(response.body)
    except Malformed:
        return {}
    if type(content.get("errcode")) is not str:
        content.pop("errcode", None)
    return content


def _remote_error(response: PeerResponse, content: Mapping[str, Any]) -> RemoteError:
    """# spec: client-server-api#standard-error-response"""
    message = content.get("error")
    return RemoteError(
        _printable(content.get("errcode", "M_UNKNOWN"))[:255] or "M_UNKNOWN",
        response.status,
        _printable(message) if type(message) is str else "",
        content,
        _retry_after_ms(response, content),
    )


def _printable(text: str) -> str:
    return "".join(character for character in text[:MAX_TEXT] if character.isprintable())


def _retry_after_ms(response: PeerResponse, content: Mapping[str, Any]) -> int | None:
    """# spec: client-server-api#rate-limiting"""
    header = response.headers.get("retry-after", "")
    if header.isascii() and header.isdigit() and len(header) <= 9:
        return min(int(header) * 1000, MAX_RETRY_AFTER_MS)
    value = content.get("retry_after_ms")
    return min(value, MAX_RETRY_AFTER_MS) if type(value) is int and value >= 0 else None
