"""The keys of other servers: parse and verify published keys, decide which are valid when, merge answers.

Pure: fetching and storing is the caller's. All times are milliseconds.

# spec: server-server-api#retrieving-server-keys
# spec: rooms/v5#signing-key-validity-period
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from federation.errors import Malformed
from federation.event import Event
from federation.hashes import decode_base64, unpadded
from federation.ids import KeyId, ServerName, parse_server_name
from federation.signing import PUBLIC_KEY_BYTES, Signer, sign_json, verify_json
from federation.versions import RoomRules

MAX_VALIDITY_MS: Final = 7 * 24 * 3600 * 1000
MAX_KEYS: Final = 256
MAX_RESPONSES: Final = 256
_MAX_TS: Final = 2**63 - 1
_KEY_ID: Final = re.compile(r"ed25519:[A-Za-z0-9_]{1,128}")


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """One public key of a server, and for how long it counts."""

    key_id: KeyId
    public_key: bytes
    valid_until_ts_ms: int
    """For a current key the capped valid_until_ts; for an old key when it expired."""
    expired: bool = False
    """Listed under old_verify_keys: good for events up to that time, never for requests."""

    def is_valid_for_event(self, origin_server_ts_ms: int, rules: RoomRules) -> bool:
        # The published end of validity is to be ignored in old room versions; a known expiry never is.
        if self.expired or rules.enforce_key_validity:
            return origin_server_ts_ms <= self.valid_until_ts_ms
        return True

    def is_valid_for_request(self, now_ms: int) -> bool:
        return not self.expired and now_ms <= self.valid_until_ts_ms


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """What is known of one server's keys."""

    server_name: ServerName
    keys: Mapping[KeyId, VerifyKey]
    fetched_ts_ms: int
    valid_until_ts_ms: int

    def for_event(self, event: Event) -> dict[KeyId, bytes]:
        return self.for_event_at(event.origin_server_ts, event.rules)

    def for_event_at(self, origin_server_ts_ms: int, rules: RoomRules) -> dict[KeyId, bytes]:
        if len(self.keys) == 1:
            # As nearly all servers have it, and thousands of events ask.
            (key,) = self.keys.values()
            return {key.key_id: key.public_key} if key.is_valid_for_event(origin_server_ts_ms, rules) else {}
        return {
            key_id: key.public_key
            for key_id, key in self.keys.items()
            if key.is_valid_for_event(origin_server_ts_ms, rules)
        }

    def for_requests(self, now_ms: int) -> dict[KeyId, bytes]:
        return {
            key_id: key.public_key for key_id, key in self.keys.items() if key.is_valid_for_request(now_ms)
        }

    def refresh_after_ts_ms(self) -> int:
        """Half of the lifetime, as for an intermediate notary server. # spec: server-server-api#publishing-keys"""
        return (self.fetched_ts_ms + self.valid_until_ts_ms) // 2


def is_key_id(text: str) -> bool:
    """Whether a server can publish an Ed25519 key by that name."""
    return _KEY_ID.fullmatch(text) is not None


def _timestamp(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_TS:
        raise Malformed(f"{name} must be a timestamp")
    return value


def _public_key(entry: Any) -> bytes:
    if type(entry) is not dict:
        raise Malformed("Key must be an object")
    public_key = decode_base64(entry.get("key", ""))
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise Malformed("Ed25519 public keys have 32 bytes")
    return public_key


def _entries(response: Mapping[str, Any], name: str) -> dict[KeyId, Any]:
    """The Ed25519 entries of a key map; other algorithms are none of ours."""
    entries = response.get(name, {})
    if type(entries) is not dict or len(entries) > MAX_KEYS:
        raise Malformed(f"{name} must be an object of at most {MAX_KEYS} keys")
    return {KeyId(key_id): entry for key_id, entry in entries.items() if is_key_id(key_id)}


def parse_key_response(response: Any, server_name: ServerName, now_ms: int) -> ServerKeys:
    """The answer of `GET /_matrix/key/v2/server` of that server. Raises Malformed unless it signed it itself."""
    if type(response) is not dict or response.get("server_name") != server_name:
        raise Malformed("Key response is not about the server that was asked for")
    valid_until_ts_ms = min(
        _timestamp(response.get("valid_until_ts"), "valid_until_ts"), now_ms + MAX_VALIDITY_MS
    )
    keys: dict[KeyId, VerifyKey] = {}
    for key_id, entry in _entries(response, "old_verify_keys").items():
        expired_ts_ms = _timestamp(entry.get("expired_ts") if type(entry) is dict else None, "expired_ts")
        keys[key_id] = VerifyKey(key_id, _public_key(entry), expired_ts_ms, expired=True)
    current = {key_id: _public_key(entry) for key_id, entry in _entries(response, "verify_keys").items()}
    for key_id, public_key in current.items():
        keys[key_id] = VerifyKey(key_id, public_key, valid_until_ts_ms)
    if not verify_json(response, server_name, current):
        raise Malformed("Key response is not signed by the server's own keys")
    return ServerKeys(server_name, keys, now_ms, valid_until_ts_ms)


def parse_notary_response(
    response: Any, notary: ServerName, notary_keys: Mapping[KeyId, bytes], now_ms: int
) -> tuple[ServerKeys, ...]:
    """The keys in the answer of a notary's `POST /_matrix/key/v2/query`. Entries not signed by it are left out."""
    return tuple(keys for keys, _ in parse_notary_entries(response, notary, notary_keys, now_ms))


def parse_notary_entries(
    response: Any, notary: ServerName, notary_keys: Mapping[KeyId, bytes], now_ms: int
) -> list[tuple[ServerKeys, dict[str, Any]]]:
    """The same with the signed objects themselves.

    # spec: server-server-api#querying-keys-through-another-server
    """
    entries = response.get("server_keys") if type(response) is dict else None
    if type(entries) is not list or len(entries) > MAX_RESPONSES:
        raise Malformed("server_keys must be a bounded list")
    results: list[tuple[ServerKeys, dict[str, Any]]] = []
    for entry in entries:
        try:
            if type(entry) is dict and verify_json(entry, notary, notary_keys):
                server_name = parse_server_name(entry.get("server_name", ""))
                results.append((parse_key_response(entry, server_name, now_ms), entry))
        except Malformed:
            continue
    return results


def merge(old: ServerKeys | None, new: ServerKeys) -> ServerKeys:
    """What is known after a further answer, which may be older than the last one (a notary's cache).

    Keys that are no longer listed stay known as they were. An expiry, once published, stands; otherwise the
    longest validity that the server ever signed for a key does.
    """
    if old is None:
        return new
    if old.server_name != new.server_name:
        raise ValueError("keys of different servers")
    keys = dict(old.keys)
    for key_id, key in new.keys.items():
        known = keys.get(key_id)
        keys[key_id] = key if known is None else _merge_key(known, key)
    if len(keys) > MAX_KEYS:
        newest = sorted(keys.values(), key=lambda key: (key.valid_until_ts_ms, key.key_id), reverse=True)
        keys = {key.key_id: key for key in newest[:MAX_KEYS]}
    return ServerKeys(new.server_name, keys, new.fetched_ts_ms, new.valid_until_ts_ms)


def _merge_key(old: VerifyKey, new: VerifyKey) -> VerifyKey:
    if old.public_key != new.public_key:
        # A key id that was used twice: believe the server's latest word.
        return new
    if old.expired == new.expired:
        pick = min if new.expired else max
        return pick(old, new, key=lambda key: key.valid_until_ts_ms)
    return new if new.expired else old


def is_sufficient(
    known: ServerKeys | None, key_ids: Sequence[KeyId], origin_server_ts_ms: int, rules: RoomRules
) -> bool:
    """Whether one of these keys is known and valid for such an event, so that nothing need be fetched."""
    if known is None:
        return False
    found = (known.keys[key_id] for key_id in key_ids if key_id in known.keys)
    return any(key.is_valid_for_event(origin_server_ts_ms, rules) for key in found)


def build_key_response(
    signing_keys: Sequence[Signer], old_keys: Sequence[VerifyKey], valid_until_ts_ms: int
) -> dict[str, Any]:
    """Our own answer to `GET /_matrix/key/v2/server`, signed with each of the current keys."""
    if not signing_keys:
        raise ValueError("a server has at least one signing key")
    response: dict[str, Any] = {
        "server_name": signing_keys[0].server_name,
        "valid_until_ts": valid_until_ts_ms,
        "verify_keys": {key.key_id: {"key": unpadded(key.public_key)} for key in signing_keys},
        "old_verify_keys": {
            key.key_id: {"key": unpadded(key.public_key), "expired_ts": key.valid_until_ts_ms}
            for key in old_keys
        },
    }
    for key in signing_keys:
        response = sign_json(response, key)
    return response


def notarise(response: Mapping[str, Any], signer: Signer) -> dict[str, Any]:
    """Another server's key response with our signature added, as a notary returns it.

    Of its signatures only the server's own were looked at, and only those go on.
    """
    signatures = response.get("signatures")
    kept = {
        name: by_key
        for name, by_key in (signatures.items() if type(signatures) is dict else ())
        if name == response.get("server_name") and type(by_key) is dict
    }
    return sign_json({**response, "signatures": kept}, signer)
