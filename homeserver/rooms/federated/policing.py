"""Policy servers of rooms: their signatures, asked for before our events go out and when others' lack them.

Never within a turn: ``Turn.place`` raises ``SignatureNeeded`` with the event that it built, the actor asks here while
the room goes on, and the job runs again with the signed event, which takes its place like one from elsewhere.

# spec: server-server-api#policy-servers
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from federation.errors import Malformed, RemoteError
from federation.event import Event, stored_bytes
from federation.policy import (
    POLICY_EVENT_TYPE,
    PolicyServer,
    has_valid_signature,
    is_exempt,
    parse_policy,
    parse_sign_response,
)
from federation.signing import with_signatures
from federation.verdict import Accept
from homeserver.db.errors import DatabaseUnavailable
from homeserver.http.errors import MatrixError, forbidden, limit_exceeded, passed_on, too_large
from homeserver.http.transport import Unreachable
from homeserver.peers.types import PeerClient
from homeserver.rooms.arrivals import Arrival, Placed, arrive
from homeserver.rooms.turn import SignatureNeeded, Turn
from homeserver.store.placement import ClientTransaction, Placement

# spec-asked: POST /_matrix/policy/v1/sign: whoever serves it is a policy server, which this is not
_SIGN: Final = "/_matrix/policy/v1/sign"
_TIMEOUT_S: Final = 10.0
_MAX_BYTES: Final = 64 * 1024
_RETRY_AFTER_MS: Final = 5_000
# Codes for what is wrong with the question, and not with the event.
_OURS: Final = frozenset(
    ("M_BAD_JSON", "M_NOT_JSON", "M_MISSING_PARAM", "M_INVALID_PARAM", "M_UNKNOWN", "M_UNAUTHORIZED")
)


class Policing:
    """Implements ``turn.Policing`` over the network."""

    def __init__(self, client: PeerClient, shares: Callable[[str, int], Awaitable[bool]]) -> None:
        self._client = client
        self._shares = shares

    async def server_of(self, turn: Turn) -> PolicyServer | None:
        """The policy server of a room, where it has one that is in the room."""
        # spec: server-server-api#determining-if-a-policy-server-is-enabled-in-a-room
        content = await turn.content(POLICY_EVENT_TYPE)
        policy = parse_policy(dict(content)) if content is not None else None
        if policy is None or not await self._shares(policy.server_name, turn.head.room_nid):
            return None
        return policy

    async def place(self, turn: Turn, event: Event, transaction: ClientTransaction | None) -> Placement:
        """Place an event of ours that was signed meanwhile; the room may have moved on since it was built."""
        (arrived,) = await arrive(turn, [Arrival(event)])
        if not isinstance(arrived, Placed):
            raise DatabaseUnavailable("a signed event has no place where it was built")
        if not isinstance(arrived.verdict, Accept):
            raise forbidden(arrived.verdict.reason)
        placed = turn.placements[-1]
        placed.transaction = transaction
        return placed

    # --- asking, outside of turns --------------------------------------------------------------------

    async def sign(self, needed: SignatureNeeded) -> Event:
        """Our event with the signature. Raises MatrixError with what the policy server says, for the client."""
        # spec: server-server-api#validating-policy-server-signatures
        server = needed.server
        try:
            return await self._ask(needed.event, server)
        except RemoteError as error:
            raise _refusal(error, server) from error
        except Unreachable as error:
            raise MatrixError(
                502, "M_UNKNOWN", f"The policy server {server.server_name} cannot be reached"
            ) from error
        except Malformed as error:
            if error.errcode == "M_TOO_LARGE":
                raise too_large(f"{error.message} with the signature of the policy server") from error
            raise forbidden(error.message) from error

    async def try_to_sign(self, event: Event, server: PolicyServer) -> Event | None:
        """Another's event with the signature, or as it is where it is refused or has no room for one.

        None: ask again later.
        """
        try:
            return await self._ask(event, server)
        except Unreachable:
            return None
        except RemoteError as error:
            return None if _refusal(error, server).passes else event
        except Malformed:
            return event

    async def approved(self, event: Event, server: PolicyServer | None, *, is_ours: bool) -> Event:
        """An event on its way through a handshake, with the signature; without it only what is another's.

        Raises like ``sign``, of an event that is ours.
        """
        if server is None or not lacks_signature(event, server):
            return event
        if is_ours:
            return await self.sign(SignatureNeeded(event, server))
        return await self.try_to_sign(event, server) or event

    async def _ask(self, event: Event, server: PolicyServer) -> Event:
        answer = await self._client.ask(
            server.server_name,
            "POST",
            _SIGN,
            stored_bytes(event),
            timeout_s=_TIMEOUT_S,
            max_bytes=_MAX_BYTES,
        )
        signed = with_signatures(event, parse_sign_response(answer, server))
        if not has_valid_signature(signed, server):
            raise Malformed(f"The signature of the policy server {server.server_name} is not valid")
        return signed


def _refusal(error: RemoteError, server: PolicyServer) -> MatrixError:
    """What the client is told: what the policy server said of the event, as it said it."""
    # spec: server-server-api#validating-policy-server-signatures
    if error.errcode == "M_LIMIT_EXCEEDED" or error.status == 429:
        return limit_exceeded(error.retry_after_ms or _RETRY_AFTER_MS)
    if error.status >= 500:
        return MatrixError(502, "M_UNKNOWN", f"The policy server {server.server_name} cannot answer now")
    refused = forbidden(error.message or f"The policy server {server.server_name} refuses this")
    if (
        error.status in (400, 403)
        and error.errcode not in _OURS
        and passed_on(error.errcode) == error.errcode
    ):
        refused.errcode, refused.extra = error.errcode, dict(error.content)
    return refused


def lacks_signature(event: Event, server: PolicyServer | None) -> bool:
    """Whether an event is to be put before the policy server."""
    return server is not None and not is_exempt(event) and not has_valid_signature(event, server)
