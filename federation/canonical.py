"""Canonical JSON: the one byte form of a value that is hashed and signed. And a guarded JSON parser.

`encode` trusts its argument; `encode_checked` does not. Strict means the grammar of the appendices (room version
6 and later, and everything that is not an event); lenient admits floats and large integers, which old rooms hold.

# spec: appendices#canonical-json
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

from federation.errors import Malformed, NotCanonical

MAX_INTEGER: Final = 2**53 - 1
MIN_INTEGER: Final = -MAX_INTEGER
# LIMIT(deeper values have no use, and recursive consumers, ours and the clients', must survive them)
MAX_DEPTH: Final = 200
# LIMIT(an event travels inside of others' bodies, deeper by some levels: what is an event here must pass there)
MAX_EVENT_DEPTH: Final = MAX_DEPTH - 10
# LIMIT(empty lists by the million cost a microsecond and a hundred bytes each; fifty events cannot hold so many)
MAX_CONTAINERS: Final = 1_200_000
# Possessive, and content with a string that does not end: so it goes over any text once.
_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+', re.DOTALL)

_ENCODER: Final = msgspec.json.Encoder(order="deterministic")
_DECODER: Final = msgspec.json.Decoder()

# msgspec sorts keys by their UTF-8 bytes, which is code point order, and writes strings and integers as canonical
# JSON wants them. Floats it writes in its own way, hence the slow path of `encode_lenient`.
encode = _ENCODER.encode
"""Encode a value that holds only str keys, str, int, bool, None, list and dict: checked or built by ourselves."""


def check_value(value: Any, *, strict: bool = True, max_depth: int = MAX_DEPTH) -> bool:
    """Refuse what canonical JSON cannot hold. Return whether the value is free of floats.

    Works level by level, so neither depth nor a wide value can exhaust the stack.
    """
    plain = True
    level: list[Any] = [(value,)]
    depth = -1
    while level:
        depth += 1
        if depth > max_depth:
            raise Malformed("JSON is nested too deeply")
        below: list[Any] = []
        for container in level:
            for item in container.values() if type(container) is dict else container:
                kind = type(item)
                if kind is str or kind is bool or item is None:
                    continue
                if kind is dict or kind is list:
                    if item:
                        below.append(item)
                elif kind is int:
                    if strict and not MIN_INTEGER <= item <= MAX_INTEGER:
                        raise NotCanonical("JSON integer out of range")
                elif kind is float:
                    if strict or item != item or item in (float("inf"), float("-inf")):
                        raise NotCanonical("JSON number is not an integer")
                    plain = False
                else:
                    raise Malformed(f"Value of type {kind.__name__} has no JSON form")
        level = below
    return plain


def _encode_with_floats(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.encode("utf-8")


def encode_checked(value: Any, *, strict: bool = True, max_depth: int = MAX_DEPTH) -> bytes:
    """Check, then encode. Raises Malformed."""
    plain = check_value(value, strict=strict, max_depth=max_depth)
    try:
        return encode(value) if plain else _encode_with_floats(value)
    except UnicodeEncodeError:
        raise Malformed("JSON string holds a lone surrogate") from None
    except (TypeError, RecursionError) as error:
        raise Malformed(f"Value has no JSON form: {error}") from None


def encode_by_rules(value: Any, *, strict: bool) -> bytes:
    """Encode a value that was checked before: at once where floats are excluded, with care where not."""
    return encode(value) if strict else encode_checked(value, strict=False)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Malformed("JSON object has a duplicate key")
    return result


def loads_untrusted(
    data: bytes,
    *,
    max_depth: int = MAX_DEPTH,
    max_bytes: int | None = None,
    refuse_duplicate_keys: bool = False,
) -> Any:
    """Parse JSON from outside. Not JSON: M_NOT_JSON; too deep or complex: M_BAD_JSON; too long: M_TOO_LARGE.

    Of duplicate keys the last wins, unless they are to be refused (slower): either way there is one reading.
    """
    if max_bytes is not None and len(data) > max_bytes:
        raise Malformed("Body is too large", errcode="M_TOO_LARGE", status=413)
    brackets = _count_brackets(data)
    if brackets > MAX_CONTAINERS and _count_brackets(_STRINGS.sub(b"", data)) > MAX_CONTAINERS:
        raise Malformed("JSON is too complex")
    try:
        value = _DECODER.decode(data)
        if refuse_duplicate_keys:
            value = json.loads(data, object_pairs_hook=_no_duplicates)
    except RecursionError:
        raise Malformed("JSON is nested too deeply") from None
    except Malformed:
        raise
    except (msgspec.DecodeError, UnicodeError, ValueError):
        raise Malformed("Content is not JSON", errcode="M_NOT_JSON") from None
    # Fewer opening brackets than the limit: the depth is fine without looking.
    if brackets > max_depth:
        _check_depth(value, max_depth)
    return value


def _count_brackets(data: bytes) -> int:
    return data.count(b"{") + data.count(b"[")


def _check_depth(value: Any, max_depth: int) -> None:
    level: list[Any] = [value]
    depth = 0
    while level:
        if depth > max_depth:
            raise Malformed("JSON is nested too deeply")
        depth += 1
        below: list[Any] = []
        for container in level:
            if type(container) is dict:
                below.extend(item for item in container.values() if type(item) in (dict, list))
            elif type(container) is list:
                below.extend(item for item in container if type(item) in (dict, list))
        level = below


def loads_object(data: bytes, *, max_depth: int = MAX_DEPTH, max_bytes: int | None = None) -> dict[str, Any]:
    """`loads_untrusted` for bodies that must be an object."""
    value = loads_untrusted(data, max_depth=max_depth, max_bytes=max_bytes)
    if type(value) is not dict:
        raise Malformed("Content must be a JSON object")
    return value
