"""Sign and verify JSON objects and events with Ed25519, and say which servers must have signed an event.

Verification takes keys that the key ring already found valid for the purpose; it never asks for any.

# spec: appendices#signing-json
# spec: server-server-api#signing-events
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

from federation.canonical import encode_by_rules, encode_checked
from federation.errors import Malformed
from federation.event import Event, check_size, stored_bytes
from federation.hashes import check_content_hash, content_hash, decode_base64, redacted_bytes, unpadded
from federation.ids import KeyId, ServerName, domain_of, parse_user_id_historical
from federation.redaction import redact_content
from federation.verdict import ACCEPT, Drop, Verdict
from federation.versions import RoomRules

SEED_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_KEY_VERSION: Final = re.compile(r"[A-Za-z0-9_]{1,128}")

Signatures = Mapping[str, Mapping[str, str]]


class Signer(Protocol):
    """Signs for one server with one key. May live in another process, hence a protocol."""

    @property
    def server_name(self) -> ServerName: ...

    @property
    def key_id(self) -> KeyId: ...

    @property
    def public_key(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key held in memory. Never printed: the secret is left out of the representation."""

    server_name: ServerName
    key_id: KeyId
    public_key: bytes
    _secret: bytes = field(repr=False)

    @classmethod
    def from_seed(cls, server_name: ServerName, key_version: str, seed: bytes) -> SigningKey:
        if _KEY_VERSION.fullmatch(key_version) is None:
            raise Malformed("Signing key version has characters other than A-Z a-z 0-9 _")
        if len(seed) != SEED_BYTES:
            raise Malformed("Signing key must have a seed of 32 bytes")
        public_key, secret = crypto_sign_seed_keypair(seed)
        return cls(server_name, KeyId(f"ed25519:{key_version}"), public_key, secret)

    @classmethod
    def from_text(cls, server_name: ServerName, text: str) -> SigningKey:
        """Read `ed25519 <version> <unpadded base64 seed>`; of several lines the first key counts."""
        for line in text.splitlines():
            words = line.split()
            if not words:
                continue
            if len(words) != 3 or words[0] != "ed25519":
                raise Malformed("Signing key file must hold lines of the form: ed25519 VERSION SEED")
            return cls.from_seed(server_name, words[1], decode_base64(words[2]))
        raise Malformed("Signing key file is empty")

    def to_text(self) -> str:
        return f"ed25519 {self.key_id.partition(':')[2]} {unpadded(self._secret[:SEED_BYTES])}\n"

    def sign(self, message: bytes) -> bytes:
        return crypto_sign(message, self._secret)[:SIGNATURE_BYTES]


def verify_bytes(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the Ed25519 signature over the message is good. Wrong sizes are simply not good."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except CryptoError:
        return False
    return True


def signature_key_ids(signatures: Any, entity: str) -> tuple[KeyId, ...]:
    """The Ed25519 key ids under which the entity claims to have signed."""
    by_key = signatures.get(entity) if type(signatures) is dict else None
    if type(by_key) is not dict:
        return ()
    return tuple([KeyId(key_id) for key_id in by_key if key_id.startswith("ed25519:")])


def _check_entity(signatures: Any, entity: str, keys: Mapping[KeyId, bytes], message: bytes) -> str | None:
    """None when every signature by a known key is good and there is at least one; else what is wrong."""
    checked = 0
    for key_id in signature_key_ids(signatures, entity):
        public_key = keys.get(key_id)
        if public_key is None:
            continue
        try:
            signature = decode_base64(signatures[entity][key_id])
        except Malformed:
            return f"signature of {entity} with {key_id} is not base64"
        if not verify_bytes(public_key, message, signature):
            return f"signature of {entity} with {key_id} does not match"
        checked += 1
    return None if checked else f"no signature of {entity} with a known valid key"


def _signed_part(value: Mapping[str, Any]) -> bytes:
    part = {key: item for key, item in value.items() if key not in ("signatures", "unsigned")}
    # Lenient: what another server signed may hold a float (an old room's event inside a transaction).
    return encode_checked(part, strict=False)


def sign_json(value: Mapping[str, Any], signer: Signer) -> dict[str, Any]:
    """A copy of the object with the signer's signature beside those that it already has."""
    signature = unpadded(signer.sign(_signed_part(value)))
    signed = dict(value)
    signed["signatures"] = _with_signature(value.get("signatures"), signer, signature)
    return signed


def _with_signature(signatures: Any, signer: Signer, signature: str) -> dict[str, dict[str, str]]:
    return merge_signatures(signatures or {}, {signer.server_name: {signer.key_id: signature}})


def merge_signatures(old: Signatures, new: Signatures) -> dict[str, dict[str, str]]:
    """Both sets of signatures; the new ones win where both have the same entity and key."""
    merged = {entity: dict(by_key) for entity, by_key in old.items()}
    for entity, by_key in new.items():
        merged.setdefault(entity, {}).update(by_key)
    return merged


def verify_json(value: Mapping[str, Any], entity: str, keys: Mapping[KeyId, bytes]) -> bool:
    """Whether the entity (a server, or a user for cross-signing) signed the object with one of the keys.

    # spec: appendices#checking-for-a-signature
    """
    try:
        message = _signed_part(value)
    except Malformed:
        return False
    return _check_entity(value.get("signatures"), entity, keys, message) is None


def sign_event(event_json: Mapping[str, Any], rules: RoomRules, signer: Signer) -> dict[str, Any]:
    """A copy of a hashed event with one more signature (co-signing an invite or a restricted join).

    Raises Malformed (M_TOO_LARGE) where that makes it larger than others take.
    """
    signed = _sign_event(event_json, rules, signer)
    check_size(encode_by_rules(signed, strict=rules.strict_canonical_json))
    return signed


def _sign_event(event_json: Mapping[str, Any], rules: RoomRules, signer: Signer) -> dict[str, Any]:
    signature = unpadded(signer.sign(redacted_bytes(dict(event_json), rules)))
    signed = dict(event_json)
    signed["signatures"] = _with_signature(event_json.get("signatures"), signer, signature)
    return signed


def hash_and_sign_event(event_json: Mapping[str, Any], rules: RoomRules, signer: Signer) -> dict[str, Any]:
    """An event with its hash and our signature. Nothing of it is checked: `event.parse_untrusted` does that.

    # spec: server-server-api#adding-hashes-and-signatures-to-outgoing-events
    """
    hashed = dict(event_json)
    hashed["hashes"] = {"sha256": content_hash(hashed, strict=rules.strict_canonical_json)}
    return _sign_event(hashed, rules, signer)


def with_signatures(event: Event, signatures: Signatures) -> Event:
    """The same event carrying further signatures, which neither its hashes nor its id cover.

    Its size they do count for: raises Malformed (M_TOO_LARGE) where others would not take it with them.
    """
    merged = merge_signatures(event.json.get("signatures", {}), signatures)
    signed = replace(event, json={**event.json, "signatures": merged})
    check_size(stored_bytes(signed))
    return signed


def is_third_party_invite(event: Event) -> bool:
    """An invite that redeems a third-party invite, and does so too in the form that check 3 leaves of it.

    Otherwise anybody could take the exemption from its sender's signature by a key of the content that no author hashed:
    check 3 takes the key away, and what goes on to the authorisation rules is an ordinary invite by that sender.

    # spec: server-server-api#third-party-invites
    """
    if (
        event.type != "m.room.member"
        or event.content.get("membership") != "invite"
        or "third_party_invite" not in event.content
    ):
        return False
    left = redact_content(event.type, event.content, event.rules.redaction)
    return "third_party_invite" in left or check_content_hash(event.json, event.rules)


def required_signers(event: Event) -> frozenset[ServerName]:
    """The servers without whose valid signature the event is dropped.

    The authorising user of a restricted join whose id is no user id names no server: the authorisation rules
    reject such an event.

    # spec: server-server-api#validating-hashes-and-signatures-on-received-events
    """
    servers: set[ServerName] = set()
    if not is_third_party_invite(event):
        servers.add(domain_of(event.sender))
    if not event.rules.event_ids_are_hashes:
        servers.add(domain_of(event.event_id))
    if event.rules.restricted_join and event.type == "m.room.member":
        authoriser = event.content.get("join_authorised_via_users_server")
        if type(authoriser) is str:
            with suppress(Malformed):
                servers.add(domain_of(parse_user_id_historical(authoriser)))
    return frozenset(servers)


def verify_event_signatures(
    event: Event,
    required: Collection[ServerName],
    keys: Mapping[ServerName, Mapping[KeyId, bytes]],
    signed: bytes | None = None,
) -> Verdict:
    """Accept or Drop. `keys` holds, by server, the keys that are valid for this event (see keyring.py).

    `signed`: what its signatures cover, where it is at hand.
    """
    message = redacted_bytes(event.json, event.rules) if signed is None else signed
    signatures = event.json.get("signatures")
    for server_name in sorted(required):
        problem = _check_entity(signatures, server_name, keys.get(server_name, {}), message)
        if problem is not None:
            return Drop(problem)
    return ACCEPT
