"""The shapes of keys: what a client or another server may say, and no more of it than that.

Pure. Clients are refused with the specified error; of another server's answer the parts that are wrong are left out.
Whether a device signed its own keys is for other clients to find out: they must not trust us with it anyway.

# spec: client-server-api#key-algorithms
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from federation.canonical import encode_checked
from federation.errors import Malformed
from federation.hashes import decode_base64
from federation.signing import PUBLIC_KEY_BYTES
from homeserver.http.errors import MatrixError, bad_json, forbidden, invalid_param, too_large
from homeserver.store.cross_signing import SigningKey
from homeserver.store.one_time_keys import NewKey

# LIMIT(honest device keys take one kilobyte, with many signatures some more)
MAX_KEYS_BYTES = 32 * 1024
MAX_ONE_TIME_KEY_BYTES = 4 * 1024
MAX_NAME = 255
_PUBLIC_KEY = re.compile(r"[A-Za-z0-9+/]{43}")


def invalid_signature(error: str) -> MatrixError:
    """A signature that is missing or wrong."""
    return MatrixError(400, "M_INVALID_SIGNATURE", error)


def to_text(value: Mapping[str, Any], most: int, what: str) -> str:
    """Canonical JSON, at most so many bytes. NUL is escaped in it, so that every database holds it."""
    try:
        text = encode_checked(value)
    except Malformed as error:
        raise bad_json(f"{what}: {error.message}") from None
    if len(text) > most:
        raise too_large(f"{what} takes more than {most} bytes")
    return text.decode()


def is_name(value: str) -> bool:
    """Whether something may name a device, an algorithm or a key."""
    return 0 < len(value) <= MAX_NAME and "\0" not in value


def is_signatures(value: Any) -> bool:
    """A mapping of users to a mapping of key ids to signatures."""
    return isinstance(value, dict) and all(
        isinstance(by_key, dict) and all(isinstance(one, str) for one in by_key.values())
        for by_key in value.values()
    )


# --- device keys -----------------------------------------------------------------------------------------------------


def check_device_keys(value: Any, user_id: str, device_id: str) -> str:
    """The identity keys of a device as they are stored. Raises MatrixError."""
    for name, own in (("user_id", user_id), ("device_id", device_id)):
        if isinstance(value, dict) and value.get(name) != own:
            raise invalid_param(f"device_keys: {name} is another one")
    problem = _device_keys_problem(value, device_id)
    if problem:
        raise bad_json(f"device_keys: {problem}")
    return to_text(_kept(value, user_id), MAX_KEYS_BYTES, "device_keys")


def _device_keys_problem(value: Any, device_id: str) -> str:
    if not isinstance(value, dict):
        return "must be an object"
    algorithms, keys = value.get("algorithms"), value.get("keys")
    if not isinstance(algorithms, list) or not all(isinstance(one, str) for one in algorithms):
        return "algorithms must be a list of strings"
    if not isinstance(keys, dict) or not all(isinstance(one, str) for one in keys.values()):
        return "keys must be strings by name"
    if any(not name.endswith(f":{device_id}") for name in keys):
        return "the keys' names must end in the device's ID"
    if not is_signatures(value.get("signatures")):
        return "signatures must be strings by user and key"
    return ""


def foreign_device_keys(value: Any, user_id: str, device_id: str) -> str | None:
    """As :func:`check_device_keys`, of another server; None where it is no such thing."""
    if not isinstance(value, dict) or not is_name(device_id):
        return None
    try:
        return check_device_keys(_kept(value, user_id), user_id, device_id)
    except MatrixError:
        return None


def _kept(value: Mapping[str, Any], user_id: str) -> dict[str, Any]:
    """A key with what its owner signed: who else knows them is shown to nobody."""
    # spec: client-server-api#key-and-signature-security
    found = {name: field for name, field in value.items() if name != "unsigned"}
    signatures = found.get("signatures")
    if isinstance(signatures, dict):
        found["signatures"] = {name: one for name, one in signatures.items() if name == user_id}
    return found


# --- one-time keys ---------------------------------------------------------------------------------------------------


def check_one_time_keys(value: Any, what: str) -> list[NewKey]:
    """One-time or fallback keys as a client uploads them. Raises MatrixError."""
    if not isinstance(value, dict):
        raise bad_json(f"{what} must be an object")
    found: list[NewKey] = []
    for name, key in value.items():
        algorithm, colon, key_id = name.partition(":")
        if not colon or not is_name(algorithm) or not is_name(key_id):
            raise invalid_param(f"{what}: a name is not of the form <algorithm>:<key_id>")
        if not is_one_time_key(key):
            raise invalid_param(f"{what}: {name} is not a key")
        found.append(NewKey(algorithm, key_id, _key_text(key, f"{what}: {name}")))
    return found


def is_one_time_key(value: Any) -> bool:
    """A plain public key, or a signed one."""
    if isinstance(value, str):
        return True
    return (
        isinstance(value, dict)
        and isinstance(value.get("key"), str)
        and is_signatures(value.get("signatures"))
    )


def _key_text(key: Any, what: str) -> str:
    # As one value, so that a plain string is bounded and checked by the same hand.
    return to_text({"": key}, MAX_ONE_TIME_KEY_BYTES, what)[4:-1]


def foreign_one_time_key(value: Any) -> Any:
    """A claimed key of another server; None where it is no such thing."""
    if not is_one_time_key(value):
        return None
    try:
        _key_text(value, "key")
    except MatrixError:
        return None
    return value


# --- cross-signing keys ----------------------------------------------------------------------------------------------


def check_signing_key(value: Any, user_id: str, usage: str, user_nid: int) -> SigningKey:
    """A cross-signing key. Raises MatrixError."""
    what = f"{usage}_key"
    if not isinstance(value, dict):
        raise bad_json(f"{what} must be an object")
    if value.get("user_id") != user_id:
        raise forbidden(f"{what}: user_id is not the user's")
    usages = value.get("usage")
    if not isinstance(usages, list) or usage not in usages:
        raise invalid_param(f"{what}: usage must contain {usage}")
    public_key = public_key_of(value)
    if public_key is None:
        raise invalid_param(f"{what}: keys must be one Ed25519 key, named after itself")
    signatures = value.get("signatures")
    if signatures is not None and not is_signatures(signatures):
        raise invalid_param(f"{what}: signatures must be strings by user and key")
    kept = _kept(value, user_id)
    return SigningKey(user_nid, usage, public_key, to_text(kept, MAX_KEYS_BYTES, what))


def public_key_of(value: Mapping[str, Any]) -> str | None:
    """The public key (unpadded base64) that a cross-signing key is named after; None where it is not well formed."""
    keys = value.get("keys")
    if not isinstance(keys, dict) or len(keys) != 1:
        return None
    [(name, public_key)] = keys.items()
    if not isinstance(public_key, str) or _PUBLIC_KEY.fullmatch(public_key) is None:
        return None
    try:
        size = len(decode_base64(public_key))
    except Malformed:
        return None
    return public_key if name == f"ed25519:{public_key}" and size == PUBLIC_KEY_BYTES else None


def foreign_signing_key(value: Any, user_id: str, usage: str, user_nid: int) -> SigningKey | None:
    """As :func:`check_signing_key`, of another server; None where it is no such thing."""
    if not isinstance(value, dict):
        return None
    try:
        return check_signing_key(_kept(value, user_id), user_id, usage, user_nid)
    except MatrixError:
        return None


def ed25519_key_of_device(keys: Mapping[str, Any], device_id: str) -> bytes | None:
    """The key with which a device signs."""
    text = keys["keys"].get(f"ed25519:{device_id}")
    try:
        return decode_base64(text) if isinstance(text, str) else None
    except Malformed:
        return None
