"""Inviting users of other servers: their server signs the invite before it takes its place in the room.

# spec: server-server-api#inviting-to-a-room
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from federation.builder import Draft
from federation.errors import Malformed, RemoteError
from federation.event import Event, parse_untrusted, stored_bytes
from federation.ids import domain_of
from homeserver.http.errors import MatrixError, forbidden, too_large
from homeserver.http.transport import PeerResponse, Unreachable, build_uri
from homeserver.peers.types import EventKeys, PeerClient
from homeserver.rooms.actor import RoomActor
from homeserver.rooms.federated.admission import Admission, load_stripped
from homeserver.rooms.federated.signed import co_signed
from homeserver.rooms.federated.templates import compose
from homeserver.rooms.turn import RoomTools, Turn

ANSWER_BYTES = 256 * 1024
_MESSAGE_LONGEST = 500
_CREATE = ("m.room.create", "")
_PASSED_ON = frozenset(("M_FORBIDDEN", "M_INVITE_BLOCKED"))
_encode = msgspec.json.Encoder().encode


class ServerAwayError(MatrixError):
    """The invited user's server cannot be reached: the next of its users need not be tried at once."""


class RemoteInvites:
    """See the module."""

    def __init__(self, tools: RoomTools, admission: Admission, client: PeerClient, keys: EventKeys) -> None:
        self._tools = tools
        self._admission = admission
        self._client = client
        self._keys = keys

    async def invite(self, actor: RoomActor, draft: Draft) -> str:
        """Invite, with the consent of the invited user's server; the event id.

        Raises ``MatrixError`` where the room refuses it (403), and where the server does, or gives no answer (502).
        """
        assert draft.state_key is not None

        async def make(turn: Turn) -> tuple[Event, list[bytes]]:
            # spec: client-server-api#mroomcreate (an invite that could never be taken up)
            create = await turn.state(*_CREATE)
            if create is not None and create.content.get("m.federate") is False:
                raise forbidden("This room is not for users of other servers")
            named = replace(draft, origin=self._tools.signer.server_name)
            event, _ = await compose(turn, self._tools, named)
            return event, await load_stripped(turn, self._tools, draft.sender)

        event, stripped = await actor.run(make)
        event = await self._admission.approved(actor, event, is_ours=True)
        signed = await self._signed_off(event, stripped)
        await actor.run(lambda turn: self._admission.place(turn, signed))
        return event.event_id

    async def _signed_off(self, event: Event, stripped: list[bytes]) -> Event:
        """The event with the signature of the invited user's server, as it may go to all others."""
        server = domain_of(event.state_key or "")
        data = await self._ask(event, stripped)
        try:
            returned = parse_untrusted(data, event.rules)
            if returned.event_id != event.event_id:
                raise _no_sense(server)
            signed = await co_signed(event, returned.json["signatures"], [server], self._keys)
        except Malformed as error:
            if error.errcode == "M_TOO_LARGE":
                raise too_large(f"{error.message} with the signature of {server}") from error
            raise _no_sense(server) from error
        if signed is None:
            raise _no_sense(server)
        return signed

    async def _ask(self, event: Event, stripped: list[bytes]) -> dict[str, Any]:
        server, rules, pdu = domain_of(event.state_key or ""), event.rules, stored_bytes(event)
        state = b",".join(stripped)
        try:
            try:
                body = b'{"event":%b,"invite_room_state":[%b],"room_version":%b}' % (
                    pdu,
                    state,
                    _encode(rules.version),
                )
                response = await self._put("v2", event, body)
                answer = _decode(response.body)
            except RemoteError as error:
                # COMPAT(servers without the second version of the endpoint, which the specification still speaks of)
                if error.status not in (400, 404) or rules.event_ids_are_hashes:
                    raise
                body = pdu[:-1] + b',"unsigned":{"invite_room_state":[%b]}}' % state
                response = await self._put("v1", event, body)
                pair = _decode(response.body)
                answer = pair[1] if isinstance(pair, list) and len(pair) == 2 else None
        except Unreachable as error:
            raise ServerAwayError(502, "M_UNKNOWN", f"{server} cannot be reached") from error
        except RemoteError as error:
            raise _to_client(error, server) from error
        found = answer.get("event") if isinstance(answer, dict) else None
        if not isinstance(found, dict):
            raise _no_sense(server)
        return found

    async def _put(self, version: str, event: Event, body: bytes) -> PeerResponse:
        uri = build_uri(f"/_matrix/federation/{version}", "invite", event.room_id, event.event_id)
        return await self._client.ask_raw(
            domain_of(event.state_key or ""), "PUT", uri, body, max_bytes=ANSWER_BYTES
        )


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _no_sense(server: str) -> MatrixError:
    return MatrixError(502, "M_UNKNOWN", f"{server} gave no answer that makes sense")


def _to_client(error: RemoteError, server: str) -> MatrixError:
    message = f"{server}: {error.message}"[:_MESSAGE_LONGEST]
    if error.errcode == "M_INCOMPATIBLE_ROOM_VERSION":
        # spec: client-server-api#post_matrixclientv3roomsroomidinvite
        return MatrixError(400, "M_UNSUPPORTED_ROOM_VERSION", message)
    if error.status == 413:
        return too_large(message)
    if error.status in (401, 403, 404):
        refused = forbidden(message)
        if error.errcode in _PASSED_ON:
            refused.errcode = error.errcode
        return refused
    return MatrixError(502, "M_UNKNOWN", message)
