"""Path parameters: from one percent-decoded segment to a typed value, or the specified refusal.

spec: appendices#common-identifier-format
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from federation import ids
from homeserver.http.errors import invalid_param

Converter = Callable[[str], Any]

MAX_SEGMENT_LENGTH = 2048
MAX_TXN_ID_BYTES = 255


def _text(value: str) -> str:
    if len(value) > MAX_SEGMENT_LENGTH:
        raise invalid_param("A path parameter is too long")
    return value


def _integer(value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise invalid_param("A path parameter must be an integer")
    return int(value)


def _device_id(value: str) -> str:
    # spec: appendices#opaque-identifiers (device IDs of old clients do not keep to that grammar: only the size binds)
    if len(value) > 255:
        raise invalid_param("The device ID is too long")
    return value


def _txn_id(value: str) -> str:
    # It is the key of what was answered: PostgreSQL's indexes hold rows of 2,704 bytes.
    if len(value.encode()) > MAX_TXN_ID_BYTES:
        raise invalid_param("The transaction ID is too long")
    return value


# Identifiers are refused by `federation.errors.Malformed`, which the router renders like a MatrixError.
CONVERT: Final[Mapping[str, Converter]] = MappingProxyType(
    {
        "str": _text,
        "text": _text,
        "path": _text,
        "int": _integer,
        "device_id": _device_id,
        "txn_id": _txn_id,
        "room_id": ids.parse_room_id,
        "user_id": ids.parse_user_id,
        # Of somebody who may be in a room, whatever the name. spec: appendices#historical-user-ids
        "member_id": ids.parse_user_id_historical,
        "event_id": ids.parse_event_id,
        "room_alias": ids.parse_room_alias,
        "room_id_or_alias": ids.parse_room_id_or_alias,
        "server_name": ids.parse_server_name,
    }
)
MAY_BE_EMPTY: Final = frozenset({"text", "path"})
