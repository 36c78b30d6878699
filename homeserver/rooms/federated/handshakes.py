"""The driver of ``federation.flows.handshake``: asks, signs, and hears what other servers say.

# spec: server-server-api#joining-rooms
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from federation.errors import Malformed, RemoteError
from federation.event import Event, stored_bytes
from federation.flows.handshake import (
    Accepted,
    Failed,
    Need,
    NeedAccepted,
    NeedSigned,
    NeedTemplate,
    Refused,
    Silent,
    Wish,
    handshake,
)
from federation.ids import ServerName
from federation.signing import Signer, hash_and_sign_event
from federation.versions import ROOM_VERSIONS
from homeserver.http.errors import MatrixError, forbidden, limit_exceeded, not_found, passed_on
from homeserver.http.transport import AnswerTooLarge, Unreachable, build_uri
from homeserver.peers.types import PeerClient
from homeserver.runtime.clock import Clock, sleep
from homeserver.runtime.drive import drive
from homeserver.runtime.entropy import Entropy

PREFIX = "/_matrix/federation/v1"
TEMPLATE_BYTES = 256 * 1024
# Servers are asked one after the other for so long. Whoever is being asked then is the last: others of ours wait for this.
ASK_FOR_S = 240.0
RETRY_AFTER_MS = 5_000
# How long a server has for what it was told, and for what that stands on, before it is asked for another template.
CATCH_UP_S = (0.0, 0.5, 2.0)
_MESSAGE_LONGEST = 500
# What a refusal says of our own request is no business of the client's.
# spec: server-server-api#put_matrixfederationv2send_joinroomideventid
_OURS = frozenset(
    ("M_MISSING_PARAM", "M_INVALID_PARAM", "M_BAD_JSON", "M_NOT_JSON", "M_UNRECOGNIZED", "M_UNAUTHORIZED")
)

Accept = Callable[[NeedAccepted], Awaitable[Any]]
"""Sends the event to the server; gives what it answered, Refused or Silent."""
CatchUp = Callable[[ServerName, Mapping[str, Any]], Awaitable[bool]]
"""Sees a template, and tells the server what it has not heard yet; whether another template is to be asked for."""


class Handshakes:
    """Runs handshakes; each server is asked once in each."""

    def __init__(self, client: PeerClient, signer: Signer, clock: Clock, entropy: Entropy) -> None:
        self._client = client
        self._signer = signer
        self._clock = clock
        self._entropy = entropy

    def able(self, servers: Sequence[ServerName]) -> list[ServerName]:
        """Those of some servers that can be asked, each once."""
        own = self._signer.server_name
        return [one for one in dict.fromkeys(servers) if one != own and self._client.allows(one)]

    async def run(
        self, wish: Wish, servers: Sequence[ServerName], accept: Accept, catch_up: CatchUp | None = None
    ) -> Accepted:
        """Ask servers in turn; raises the ``MatrixError`` for the client where none of them does it."""
        outcome = await self.attempt(wish, servers, accept, catch_up)
        if isinstance(outcome, Failed):
            raise to_client(outcome, wish.membership)
        return outcome

    async def attempt(
        self, wish: Wish, servers: Sequence[ServerName], accept: Accept, catch_up: CatchUp | None = None
    ) -> Accepted | Failed:
        """Ask servers in turn; what came of it."""
        ends_s = self._clock.monotonic() + ASK_FOR_S

        async def answer(need: Need) -> Any:
            if isinstance(need, NeedTemplate):
                if self._clock.monotonic() >= ends_s:
                    return Silent(need.server, "it was not asked: others took too long")
                return await self._fresh_template(need, catch_up)
            if isinstance(need, NeedSigned):
                return self._sign(need)
            return await accept(need)

        return await drive(handshake(wish, self.able(servers)), answer)

    async def _fresh_template(self, need: NeedTemplate, catch_up: CatchUp | None) -> Any:
        template = await self._template(need)
        if catch_up is None:
            return template
        for wait_s in CATCH_UP_S:
            if isinstance(template, (Refused, Silent)) or not await catch_up(need.server, template):
                break
            await sleep(self._clock, wait_s)
            template = await self._template(need)
        return template

    async def _template(self, need: NeedTemplate) -> Any:
        wish = need.wish
        query: dict[str, Any] = {}
        if wish.membership != "leave":
            query["ver"] = [wish.rules.version] if wish.rules is not None else list(ROOM_VERSIONS)
        uri = build_uri(PREFIX, f"make_{wish.membership}", wish.room_id, wish.user_id, query=query)
        return await self.ask(need.server, "GET", uri, max_bytes=TEMPLATE_BYTES)

    def _sign(self, need: NeedSigned) -> dict[str, Any] | None:
        # spec: server-server-api#joining-rooms (unused since, and still required of what is handed over)
        fields = {
            **need.fields,
            "origin": self._signer.server_name,
            "origin_server_ts": self._clock.now_ms(),
        }
        if not need.rules.event_ids_are_hashes:
            fields["event_id"] = f"${self._entropy.token(24)}:{self._signer.server_name}"
        try:
            return hash_and_sign_event(fields, need.rules, self._signer)
        except Malformed:
            return None

    async def ask(
        self,
        server: ServerName,
        method: str,
        uri: str,
        content: Mapping[str, Any] | bytes | None = None,
        **limits: Any,
    ) -> dict[str, Any] | Refused | Silent:
        """One request, as flows want it answered."""
        answer: dict[str, Any] | Refused | Silent = await heard(
            server, self._client.ask(server, method, uri, content, **limits)
        )
        return answer

    async def send_leave(self, need: NeedAccepted) -> dict[str, Any] | Refused | Silent:
        """Have a server take the leave of a user of ours."""
        uri = build_uri("/_matrix/federation/v2", "send_leave", need.wish.room_id, need.event.event_id)
        return await self.ask(need.server, "PUT", uri, stored_bytes(need.event))

    async def tell(self, server: ServerName, event: Event) -> None:
        """Send an event of ours ahead of what else waits for a server; it may come twice."""
        # spec: server-server-api#put_matrixfederationv1sendtxnid
        content = {
            "origin": self._signer.server_name,
            "origin_server_ts": self._clock.now_ms(),
            "pdus": [event.json],
        }
        await self.ask(server, "PUT", build_uri(PREFIX, "send", self._entropy.token(12)), content)

    async def ask_or_raise(
        self, server: ServerName, method: str, uri: str, content: Mapping[str, Any] | bytes | None = None
    ) -> dict[str, Any]:
        """One request; raises the ``MatrixError`` for the client."""
        answer = await self.ask(server, method, uri, content)
        if isinstance(answer, (Refused, Silent)):
            raise to_client(Failed((answer,)))
        return answer


async def heard(server: ServerName, asked: Awaitable[Any]) -> Any:
    """What a server answered, or how it did not."""
    try:
        return await asked
    except Unreachable as error:
        return Silent(server, str(error), isinstance(error, AnswerTooLarge))
    except RemoteError as error:
        return Refused(server, error.status, error.errcode, error.message, error.content)


def to_client(failed: Failed, membership: str = "") -> MatrixError:
    """What the client is told when nobody did it; ``membership``: what the user wanted to be."""
    refusal = failed.refusal()
    if refusal is None:
        if not failed.said:
            return not_found("No server is known that is in the room")
        return MatrixError(502, "M_UNKNOWN", "No server that is in the room could be reached")
    message = f"{refusal.server}: {refusal.message}"[:_MESSAGE_LONGEST]
    if refusal.errcode == "M_UNRECOGNIZED" and membership == "knock":
        # spec: client-server-api#post_matrixclientv3knockroomidoralias (it is there, and not set up for that)
        return forbidden(f"{refusal.server} does not know how to take a knock")
    if refusal.status == 404:
        return not_found(message)
    if refusal.status == 429:
        return limit_exceeded(RETRY_AFTER_MS)
    if refusal.errcode == "M_INCOMPATIBLE_ROOM_VERSION":
        version = refusal.content.get("room_version")
        return MatrixError(400, refusal.errcode, message, room_version=str(version)[:255])
    if not 400 <= refusal.status < 500 or refusal.errcode in _OURS or refusal.status == 401:
        return MatrixError(502, "M_UNKNOWN", message)
    return MatrixError(400 if refusal.status == 400 else 403, passed_on(refusal.errcode), message)
