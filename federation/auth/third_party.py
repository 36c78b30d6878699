"""Whether a third-party invitation is signed by a key that the room offered for it.

The signature is over `third_party_invite.signed` of the invitation; the keys are in the `m.room.third_party_invite`
event. Any signature may fit any key: neither names the other.

Spec anchors: rooms/v12#authorisation-rules rule 5.4.1.7, server-server-api#third-party-invites.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any, Final

from nacl.bindings import crypto_sign_BYTES, crypto_sign_open, crypto_sign_PUBLICKEYBYTES
from nacl.exceptions import BadSignatureError

from federation.canonical import encode_checked
from federation.errors import Malformed

# LIMIT(one event could otherwise ask for some 100,000 signature checks: hundreds of keys times hundreds of signatures)
MAX_KEYS: Final = 16
MAX_SIGNATURES: Final = 8


def is_signed_by_any(signed: Mapping[str, Any], offer_content: Mapping[str, Any]) -> bool:
    """Whether any ed25519 signature of `signed` verifies with any public key of the offer."""
    return any(True for _ in keys_that_signed(signed, offer_content))


def keys_that_signed(signed: Mapping[str, Any], offer_content: Mapping[str, Any]) -> Iterator[bytes]:
    """The public keys of the offer with which an ed25519 signature of `signed` verifies, of those that count."""
    signatures = _first(_signatures(signed.get("signatures")), MAX_SIGNATURES)
    keys = _first(_public_keys(offer_content), MAX_KEYS)
    if not signatures or not keys:
        return
    body = {name: value for name, value in signed.items() if name not in ("signatures", "unsigned")}
    try:
        message = encode_checked(body, strict=False)
    except Malformed:
        return
    for key in keys:
        if any(_verifies(signature, message, key) for signature in signatures):
            yield key


def _verifies(signature: bytes, message: bytes, key: bytes) -> bool:
    try:
        crypto_sign_open(signature + message, key)
    except BadSignatureError:
        return False
    return True


def _signatures(by_server: object) -> Iterator[bytes]:
    if not isinstance(by_server, dict):
        return
    for server_name in sorted(by_server):
        by_key = by_server[server_name]
        if not isinstance(by_key, dict):
            continue
        for key_id in sorted(by_key):
            signature = decode(by_key[key_id]) if key_id.startswith("ed25519:") else None
            if signature is not None and len(signature) == crypto_sign_BYTES:
                yield signature


def _public_keys(content: Mapping[str, Any]) -> Iterator[bytes]:
    listed = content.get("public_keys")
    candidates = [content.get("public_key")]
    if isinstance(listed, list):
        candidates.extend(entry.get("public_key") for entry in listed if isinstance(entry, dict))
    for candidate in candidates:
        key = decode(candidate)
        if key is not None and len(key) == crypto_sign_PUBLICKEYBYTES:
            yield key


def decode(text: object) -> bytes | None:
    """Base64 of either alphabet, padded or not; None for anything else."""
    if not isinstance(text, str):
        return None
    text = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _first(values: Iterator[bytes], limit: int) -> list[bytes]:
    """The first `limit` distinct values, in order."""
    found: dict[bytes, None] = {}
    for value in values:
        found.setdefault(value)
        if len(found) == limit:
            break
    return list(found)
