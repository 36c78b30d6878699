"""Accepting a third-party invite: who proves to own the invited address gets an invite for their account.

The proof was signed by an identity server, with a key that the offer in the room names. A server that is in the room
makes the invite itself, in the name of the user who made the offer: of this one event nobody asks for the sender's
signature. Another one has that user's server make it (``exchange.py``). No identity server is asked whether a key is
still valid, so an offer that wants that is not taken.
spec: client-server-api#third-party-invites, server-server-api#third-party-invites
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from federation.builder import Draft
from federation.ids import RoomId, UserId, parse_user_id
from homeserver.http.errors import bad_json, forbidden
from homeserver.rooms.admission import relay_others
from homeserver.rooms.turn import Turn


@dataclass(frozen=True, slots=True)
class Proof:
    """What the identity server signed, and the two parts of it that are asked for by name."""

    signed: Mapping[str, Any]
    sender_id: UserId
    token: str


def parse_proof(signed: Mapping[str, Any]) -> Proof:
    """The proof in a request's ``third_party_signed``; refuses (400) what has not its form."""
    sender_id, token = signed.get("sender"), signed.get("token")
    if (
        not isinstance(sender_id, str)
        or not isinstance(token, str)
        or not isinstance(signed.get("mxid"), str)
    ):
        raise bad_json("third_party_signed must have a sender, an mxid and a token")
    if not isinstance(signed.get("signatures"), dict):
        raise bad_json("third_party_signed must have signatures")
    return Proof(signed, parse_user_id(sender_id), token)


async def accept_offer(turn: Turn, room_id: RoomId, user_id: UserId, proof: Proof) -> None:
    """Place the invite. That the proof is for this user, and validly signed, is for the authorisation rules."""
    placed = await turn.place(await draft_invite(turn, room_id, user_id, proof))
    relay_others(turn, placed.nid, placed.event)


async def draft_invite(turn: Turn, room_id: RoomId, user_id: UserId, proof: Proof) -> Draft:
    """The invite that a proof makes; refuses (403) where the room has no such offer."""
    offer = await turn.state("m.room.third_party_invite", proof.token)
    if offer is None or offer.sender != proof.sender_id:
        raise forbidden("The room has no such third-party invite")
    if _wants_validity(offer.content):
        raise forbidden("The validity of the invite's key cannot be checked")
    name = offer.content.get("display_name")
    content = {
        "membership": "invite",
        "third_party_invite": {
            "display_name": name if isinstance(name, str) else "",
            "signed": dict(proof.signed),
        },
    }
    return Draft(room_id, "m.room.member", proof.sender_id, content, user_id)


def _wants_validity(content: Mapping[str, Any]) -> bool:
    keys = content.get("public_keys")
    entries = [content, *(keys if isinstance(keys, list) else ())]
    return any(isinstance(entry, dict) and entry.get("key_validity_url") for entry in entries)
