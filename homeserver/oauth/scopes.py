"""What apps ask for: so far, always the whole account and one device.

# spec: client-server-api#scope
"""

from __future__ import annotations

from typing import Final

from homeserver.oauth.types import Scope

# COMPAT(matrix-js-sdk up to now, and Element X before 2026): the names from before they were specified.
_PREFIXES: Final = ("urn:matrix:client:", "urn:matrix:org.matrix.msc2967.client:")
_OPENID: Final = "openid"
_DEVICE_ID_LENGTH_MOST: Final = 255
_TOKENS_MOST: Final = 20
# spec: RFC 6749 section 3.3
_ALLOWED: Final = frozenset(chr(code) for code in (0x21, *range(0x23, 0x5C), *range(0x5D, 0x7F)))


def parse_scope(text: str) -> Scope | str:
    """What is asked for; or why it cannot be granted. What is not known here is left out of it."""
    tokens = text.split(" ")
    if len(tokens) > _TOKENS_MOST or not all(tokens):
        return "scope is not a list of tokens"
    if not all(_ALLOWED.issuperset(token) for token in tokens):
        return "scope holds characters that no scope has"
    kept: list[str] = []
    device_ids: set[str] = set()
    is_whole = False
    for token in tokens:
        prefix = next((one for one in _PREFIXES if token.startswith(one)), None)
        rest = token[len(prefix) :] if prefix is not None else ""
        if rest == "api:*":
            is_whole = True
        elif rest.startswith("device:"):
            device_ids.add(rest[len("device:") :])
        elif token != _OPENID:
            continue
        kept.append(token)
    if not is_whole:
        return "scope lacks urn:matrix:client:api:*"
    if len(device_ids) != 1:
        return "scope must hold urn:matrix:client:device: once"
    (device_id,) = device_ids
    if not 1 <= len(device_id) <= _DEVICE_ID_LENGTH_MOST:
        return "scope holds a device ID that is too short or too long"
    return Scope(" ".join(dict.fromkeys(kept)), device_id, _OPENID in kept)
