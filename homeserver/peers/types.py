"""What the other domains know of other servers.

Implemented in ``homeserver.peers`` and given to constructors by the composition root.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from federation.flows.keys import Wanted
from federation.ids import KeyId, RoomId, ServerName
from federation.keyring import ServerKeys
from federation.versions import RoomRules
from homeserver.http.transport import DEFAULT_MAX_BYTES, DEFAULT_TIMEOUT_S, PeerResponse


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sent a signed request: the requester of routes with ``Auth.FEDERATION``."""

    origin: ServerName

    @property
    def user_id(self) -> str:
        """What rate limits count by: the server."""
        return self.origin


class PeerClient(Protocol):
    """Signed requests to other servers.

    Each raises ``federation.errors.RemoteError`` for an answer that is an error (with its ``errcode`` and ``status``)
    and ``homeserver.http.transport.Unreachable`` where there was none, where federation with that server is not
    allowed, or where it is known to be down and ``insist`` is False.
    """

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

    def allows(self, server_name: str) -> bool:
        """Whether the configuration lets us talk with that server at all."""


class Keys(Protocol):
    """The public keys of other servers, and our own."""

    def known(self, server_name: ServerName) -> Mapping[KeyId, bytes] | None:
        """Every key of a server that is in memory and good for requests now; None where it must be asked for."""

    async def for_request(self, server_name: ServerName, key_id: KeyId) -> Mapping[KeyId, bytes]:
        """Keys that may have signed a request of a moment ago; fetched where need be. Empty: there are none."""


class EventKeys(Protocol):
    """The public keys that count for events, which may be old."""

    def known_for_event(
        self, server_name: ServerName, key_ids: Sequence[KeyId], ts_ms: int, rules: RoomRules
    ) -> Mapping[KeyId, bytes] | None:
        """Keys in memory that count for such an event, one of these among them; None where they must be asked for."""

    async def for_event(
        self, server_name: ServerName, key_ids: Sequence[KeyId], ts_ms: int, rules: RoomRules, *, fetch: bool
    ) -> Mapping[KeyId, bytes]:
        """Keys that count for such an event; with ``fetch`` none of these is missing that can be had."""

    async def stored(self, server_names: Sequence[ServerName]) -> Mapping[ServerName, ServerKeys]:
        """Every key of many servers that was ever seen, as far as they are here; nobody is asked."""

    async def fetch_many(self, wanted: Sequence[Wanted], *, patience_s: float = 30.0) -> Sequence[Wanted]:
        """Have the keys of many servers at hand, as far as they can be had in that time: for the events of a join.

        What lacks and may be had later: its server, or a notary, did not answer.
        """


@dataclass(frozen=True, slots=True)
class RemoteSpace:
    """What another server tells of a room and, where it is a space, of its children. Checked, and of known members."""

    room: Mapping[str, Any]  # a summary with its ``children_state``
    children: Mapping[str, Mapping[str, Any]]  # summaries by room id
    closed: frozenset[str]  # children that are open to nobody here


class AskSpace(Protocol):
    """Asks one server about a room; None where it does not tell."""

    def __call__(
        self, server_name: ServerName, room_id: RoomId, /, *, suggested_only: bool
    ) -> Awaitable[RemoteSpace | None]: ...
