"""A ``PeerClient`` whose other side is a script: for tests of what asks other servers, and of lying ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
from twisted.internet.defer import Deferred

from federation.errors import RemoteError
from federation.ids import ServerName
from homeserver.http.transport import DEFAULT_MAX_BYTES, DEFAULT_TIMEOUT_S, AnswerTooLarge, PeerResponse


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it left."""

    destination: str
    method: str
    uri: str
    content: Any
    timeout_s: float
    max_bytes: int


@dataclass(slots=True)
class Raw:
    """An answer that is not JSON: its body in pieces."""

    pieces: list[bytes]
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


Reply: TypeAlias = dict[str, Any] | Raw | Exception
Script: TypeAlias = Callable[[Asked], Reply | Awaitable[Reply]]


class ScriptedPeers:
    """Answers what the script says; ``asked`` is all that was asked for."""

    def __init__(self, script: Script, denied: frozenset[str] = frozenset()) -> None:
        self.script = script
        self.denied = denied
        self.asked: list[Asked] = []

    async def _reply(self, asked: Asked) -> dict[str, Any] | Raw:
        self.asked.append(asked)
        reply = self.script(asked)
        if isinstance(reply, Awaitable):
            reply = await reply
        if isinstance(reply, Exception):
            raise reply
        return reply

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
        reply = await self._reply(Asked(destination, method, uri, content, timeout_s, max_bytes))
        assert isinstance(reply, dict)
        # As it comes from the wire, and nobody else's object.
        result: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(reply))
        return result

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
        reply = await self._reply(Asked(destination, method, uri, content, timeout_s, max_bytes))
        assert isinstance(reply, Raw)
        return deliver(reply, max_bytes, receive)

    def allows(self, server_name: str) -> bool:
        return server_name not in self.denied


def deliver(reply: Raw, max_bytes: int, receive: Callable[[bytes], None] | None) -> PeerResponse:
    """What a transport does with an answer."""
    if receive is None or reply.status // 100 != 2:
        return PeerResponse(reply.status, b"".join(reply.pieces), reply.headers)
    size = 0
    for piece in reply.pieces:
        size += len(piece)
        if size > max_bytes:
            raise AnswerTooLarge("the answer is too large")
        receive(piece)
    return PeerResponse(reply.status, b"", reply.headers)


def refusal(status: int, errcode: str = "M_UNKNOWN") -> RemoteError:
    """An answer that is an error."""
    return RemoteError(errcode, status, "no")


def later() -> Deferred[Any]:
    """A reply that comes when the test says so."""
    return Deferred()
