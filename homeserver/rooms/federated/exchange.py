"""Third-party invites between servers: the server of whoever made the offer makes the invite of it.

# spec: server-server-api#third-party-invites
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from federation.builder import Draft
from federation.errors import Malformed
from federation.ids import RoomId, ServerName, UserId, domain_of, parse_room_id, parse_user_id
from homeserver.http.errors import MatrixError, forbidden, invalid_param
from homeserver.http.transport import build_uri
from homeserver.rooms.blocks import RoomBlocks
from homeserver.rooms.federated.admission import Admission, check_acl
from homeserver.rooms.federated.handshakes import PREFIX, Handshakes
from homeserver.rooms.federated.remote_invites import RemoteInvites
from homeserver.rooms.third_party import Proof, accept_offer, draft_invite, parse_proof, redeem
from homeserver.rooms.turn import Turn
from homeserver.runtime.log import Log

# LIMIT(invites of one address that are looked at)
INVITES_MOST = 50


class Exchange:
    """See the module."""

    def __init__(
        self,
        admission: Admission,
        invites: RemoteInvites,
        handshakes: Handshakes,
        blocks: RoomBlocks,
        server_name: str,
        is_valid: Callable[[str, str], Awaitable[bool]],
        log: Log,
    ) -> None:
        self.is_valid = is_valid  # asks an address whether a key is still good

        self._admission = admission
        self._invites = invites
        self._handshakes = handshakes
        self._blocks = blocks
        self._server_name = server_name
        self._log = log

    # --- asked by the invited user's server ----------------------------------------------------------

    async def exchange(self, origin: ServerName, room_id: RoomId, wanted: Mapping[str, Any]) -> None:
        """Make the invite of an offer that a user of ours made in a room, and have the user's server sign it."""
        # spec: server-server-api#put_matrixfederationv1exchange_third_party_inviteroomid
        content = wanted.get("content")
        third_party = content.get("third_party_invite") if isinstance(content, dict) else None
        signed = third_party.get("signed") if isinstance(third_party, dict) else None
        if (
            wanted.get("type") != "m.room.member"
            or wanted.get("room_id") != room_id
            or not isinstance(content, dict)
            or content.get("membership") != "invite"
            or not isinstance(signed, dict)
        ):
            raise invalid_param("Not an invite that redeems a third-party invite")
        user_id = parse_user_id(wanted.get("state_key", ""))
        sender_id = parse_user_id(wanted.get("sender", ""))
        proof = parse_proof({"sender": sender_id, **signed})
        if proof.sender_id != sender_id or domain_of(sender_id) != self._server_name:
            raise forbidden("The third-party invite was made on another server")
        if domain_of(user_id) != origin:
            raise forbidden("The invited user is not of your server")
        actor = await self._admission.resident(room_id)

        async def draft(proof: Proof) -> Draft:
            async def job(turn: Turn) -> Draft:
                await check_acl(turn, origin)
                self._blocks.check_nid(turn.head.room_nid)
                return await draft_invite(turn, room_id, user_id, proof)

            return await actor.run(job)

        # As the identity server signed it: the sender stands beside it.
        bare = Proof(signed, sender_id, proof.token)
        await self._invites.invite(actor, await redeem(self.is_valid, bare, draft))

    # --- asked by an identity server -----------------------------------------------------------------

    async def bound(self, user_id: UserId, invites: list[Any]) -> None:
        """An address was found to be a user's: take up the offers that were made to it. What cannot be is passed over."""
        # spec: server-server-api#put_matrixfederationv13pidonbind
        if domain_of(user_id) != self._server_name:
            raise invalid_param("The user is not of this server")
        for invite in invites[:INVITES_MOST]:
            try:
                room_id, sender_id = parse_room_id(invite["room_id"]), parse_user_id(invite["sender"])
                if not isinstance(invite["signed"], dict):
                    continue
                proof = parse_proof({"sender": sender_id, **invite["signed"]})
                await self.accept(user_id, room_id, Proof(invite["signed"], sender_id, proof.token))
            except (KeyError, TypeError, Malformed, MatrixError) as error:
                self._log.info("third-party invite not taken up", user_id=user_id, reason=str(error))

    # --- for users of ours ---------------------------------------------------------------------------

    async def accept(self, user_id: UserId, room_id: RoomId, proof: Proof) -> None:
        """Turn an offer into an invite: here where this server is in the room, else at the server of who made it."""
        try:
            actor = await self._admission.resident(room_id)
        except MatrixError as error:
            if error.status != 404:
                raise
            await self._ask(user_id, room_id, proof)
            return

        async def accept(proof: Proof) -> None:
            async def job(turn: Turn) -> None:
                self._blocks.check_nid(turn.head.room_nid)
                await accept_offer(turn, room_id, user_id, proof)

            await actor.run(job)

        await redeem(self.is_valid, proof, accept)

    async def _ask(self, user_id: UserId, room_id: RoomId, proof: Proof) -> None:
        content = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": proof.sender_id,
            "state_key": user_id,
            "content": {
                "membership": "invite",
                "third_party_invite": {"display_name": "", "signed": dict(proof.signed)},
            },
        }
        uri = build_uri(PREFIX, "exchange_third_party_invite", room_id)
        await self._handshakes.ask_or_raise(domain_of(proof.sender_id), "PUT", uri, content)
