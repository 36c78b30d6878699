"""No other servers: what a server that does not federate knows of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from federation.ids import ServerName
from homeserver.http.transport import DEFAULT_MAX_BYTES, DEFAULT_TIMEOUT_S, PeerResponse, Unreachable


class Alone:
    """A ``PeerClient`` that allows nobody."""

    async def ask(
        self,
        destination: ServerName,
        method: str,  # noqa: ARG002
        uri: str,  # noqa: ARG002
        content: Mapping[str, Any] | bytes | None = None,  # noqa: ARG002
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,  # noqa: ARG002
        max_bytes: int = DEFAULT_MAX_BYTES,  # noqa: ARG002
        insist: bool = True,  # noqa: ARG002
    ) -> dict[str, Any]:
        raise Unreachable(f"{destination}: this server does not federate")

    async def ask_raw(
        self,
        destination: ServerName,
        method: str,  # noqa: ARG002
        uri: str,  # noqa: ARG002
        content: Mapping[str, Any] | bytes | None = None,  # noqa: ARG002
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,  # noqa: ARG002
        max_bytes: int = DEFAULT_MAX_BYTES,  # noqa: ARG002
        insist: bool = True,  # noqa: ARG002
        receive: Callable[[bytes], None] | None = None,  # noqa: ARG002
    ) -> PeerResponse:
        raise Unreachable(f"{destination}: this server does not federate")

    def allows(self, server_name: str) -> bool:  # noqa: ARG002
        return False
