"""Accepting a third-party invite: who proves to own the invited address gets an invite for their account.

The proof was signed by an identity server, with a key that the offer in the room names. A server that is in the room
makes the invite itself, in the name of the user who made the offer: of this one event nobody asks for the sender's
signature. Another one has that user's server make it (``exchange.py``). Where the offer names an address that tells whether
a key is still valid, it is asked about the key that signed, outside the turn (``redeem``).
spec: client-server-api#third-party-invites, server-server-api#third-party-invites
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, TypeAlias, TypeVar

from federation.auth.third_party import decode, keys_that_signed
from federation.builder import Draft
from federation.ids import RoomId, UserId, parse_user_id
from homeserver.http.errors import bad_json, forbidden
from homeserver.rooms.federated.admission import relay_others
from homeserver.rooms.turn import Turn

T = TypeVar("T")
Key: TypeAlias = tuple[str, str]
"""A public key in base64, and the address that says whether it is still valid."""
# LIMIT(each may have to be asked about)
KEYS_MOST: Final = 20


@dataclass(frozen=True, slots=True)
class Proof:
    """What the identity server signed, and the two parts of it that are asked for by name."""

    signed: Mapping[str, Any]
    sender_id: UserId
    token: str
    checked: frozenset[Key] = frozenset()
    """The keys of which it is known that they are still valid."""


class ValidityNeededError(Exception):
    """A turn needs to know whether these keys are still valid, which takes the network."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        super().__init__(keys)
        self.keys = keys


async def redeem(
    is_valid: Callable[[str, str], Awaitable[bool]], proof: Proof, run: Callable[[Proof], Awaitable[T]]
) -> T:
    """Do something with a proof, once more when the validity of its keys is known; refuses (403) invalid ones.

    ``is_valid(url, public_key)`` asks.
    """
    # spec: server-server-api#third-party-invites (the key_validity_url is asked by who makes the invite, and nobody later)
    try:
        return await run(proof)
    except ValidityNeededError as needed:
        for public_key, url in needed.keys:
            if not await is_valid(url, public_key):
                raise forbidden("The key of the third-party invite is not valid any more") from None
        checked = frozenset(needed.keys)
    return await run(replace(proof, checked=checked))


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
    relay_others(turn, placed.nid, placed.event, made_here=True)


async def draft_invite(turn: Turn, room_id: RoomId, user_id: UserId, proof: Proof) -> Draft:
    """The invite that a proof makes; refuses (403) where the room has no such offer."""
    offer = await turn.state("m.room.third_party_invite", proof.token)
    # Redacted, it holds no keys for any server.
    said = await turn.content("m.room.third_party_invite", proof.token)
    if offer is None or not said or offer.sender != proof.sender_id:
        raise forbidden("The room has no such third-party invite")
    unsure = _keys_to_check(said, proof)
    if not proof.checked.issuperset(unsure):
        raise ValidityNeededError(unsure)
    name = said.get("display_name")
    content = {
        "membership": "invite",
        "third_party_invite": {
            "display_name": name if isinstance(name, str) else "",
            "signed": dict(proof.signed),
        },
    }
    return Draft(room_id, "m.room.member", proof.sender_id, content, user_id)


def _keys_to_check(content: Mapping[str, Any], proof: Proof) -> tuple[Key, ...]:
    """The offer's keys that signed the proof, as far as it says where to ask about them."""
    # By the rule that lets the invite in: a key that it takes and this does not would be asked about by nobody.
    signing = set(keys_that_signed(proof.signed, content))
    keys = content.get("public_keys")
    entries = [content, *(keys if isinstance(keys, list) else ())]
    named = [
        (entry.get("public_key"), entry.get("key_validity_url"))
        for entry in entries
        if isinstance(entry, dict)
    ]
    found = dict.fromkeys(
        (public_key, url)
        for public_key, url in named
        if isinstance(public_key, str) and isinstance(url, str) and url and decode(public_key) in signing
    )
    return tuple(islice(found, KEYS_MOST))
