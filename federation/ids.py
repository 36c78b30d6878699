"""Parse the identifiers of Matrix. Every function is linear in its input and bounded to 255 bytes.

Parsing returns the same string under a narrower type, so an id that went through here can be used unchecked.
Identifiers are compared byte for byte; nothing is case-folded.

# spec: appendices#identifier-grammar
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NewType, TypeGuard

from federation.errors import Malformed

ServerName = NewType("ServerName", str)
UserId = NewType("UserId", str)
RoomId = NewType("RoomId", str)
EventId = NewType("EventId", str)
RoomAlias = NewType("RoomAlias", str)
DeviceId = NewType("DeviceId", str)
KeyId = NewType("KeyId", str)

MAX_ID_BYTES: Final = 255
# An id is at least a sigil, a colon and one more character; a server name alone must leave room for a sigil,
# a localpart and a colon, but the specification only says "should" (230), so the id limit applies.
_SERVER_NAME: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9A-Za-z.\-]{1,255}))(?::([0-9]{1,5}))?")
_QUAD: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_COMMON_NAME: Final = re.compile(r"[0-9A-Za-z\-]{1,63}(?:\.[0-9A-Za-z\-]{1,63})*")
_NEW_LOCALPART: Final = re.compile(r"[a-z0-9._=\-/+]+")
_USER_LOCALPART: Final = re.compile(r"[\x21-\x39\x3b-\x7e]+")
_HASH: Final = re.compile(r"[A-Za-z0-9_\-]{43}")


def _refuse(kind: str) -> Malformed:
    return Malformed(f"Not a valid {kind}", errcode="M_INVALID_PARAM")


def _check_text(value: str, kind: str) -> None:
    """Bound the size and refuse what no identifier may contain: NUL and lone surrogates."""
    if type(value) is not str or len(value) > MAX_ID_BYTES or "\x00" in value:
        raise _refuse(kind)
    if not value.isascii():
        try:
            size = len(value.encode("utf-8"))
        except UnicodeEncodeError:
            raise _refuse(kind) from None
        if size > MAX_ID_BYTES:
            raise _refuse(kind)


@lru_cache(maxsize=4_096)
def _is_server_name(value: str) -> bool:
    # Remembered: every event names a few servers, mostly the same. What is asked is at most as long as an id.
    match = _SERVER_NAME.fullmatch(value)
    if match is None or not _fits_grammar(match):
        return False
    _, name, port = match.groups()
    # LIMIT(a name whose labels are empty or over 63 bytes cannot be looked up in the DNS at all)
    is_common = name is None or _COMMON_NAME.fullmatch(name) is not None
    return is_common and (port is None or int(port) <= 65535)


def _fits_grammar(match: re.Match[str]) -> bool:
    """Whether what has the form of a server name is one. # spec: appendices#server-name"""
    literal, name, _ = match.groups()
    if literal is None:
        return _QUAD.fullmatch(name) is None or all(int(part) <= 255 for part in name.split("."))
    try:
        ipaddress.IPv6Address(literal)
    except ValueError:
        return False
    return True


def parse_server_name(value: str) -> ServerName:
    """# spec: appendices#server-name"""
    _check_text(value, "server name")
    if not _is_server_name(value):
        raise _refuse("server name")
    return ServerName(value)


def _split(value: str, sigil: str, kind: str) -> tuple[str, str]:
    """The localpart and the validated domain of `<sigil>localpart:domain`."""
    _check_text(value, kind)
    localpart, colon, domain = value.partition(":")
    if not colon or localpart[:1] != sigil or not _is_server_name(domain):
        raise _refuse(kind)
    return localpart[1:], domain


def parse_user_id(value: str) -> UserId:
    """A user id that may appear outside events: printable ASCII in the localpart, which is not empty.

    # spec: appendices#historical-user-ids
    """
    localpart, _ = _split(value, "@", "user id")
    if _USER_LOCALPART.fullmatch(localpart) is None:
        raise _refuse("user id")
    return UserId(value)


def parse_user_id_historical(value: str) -> UserId:
    """A user id as events may carry it: any localpart without ':' and NUL, even an empty one."""
    _split(value, "@", "user id")
    return UserId(value)


def is_user_id(value: Any) -> bool:
    """Whether events may name such a user: by the grammar alone, even where no such server could ever be reached.

    What is valid in a room must be so at all its servers, and the others ask no more than this.

    # spec: appendices#historical-user-ids
    """
    try:
        _check_text(value, "user id")
    except Malformed:
        return False
    match = _SERVER_NAME.fullmatch(value.partition(":")[2])
    return value[:1] == "@" and match is not None and _fits_grammar(match)


def may_stand_alone(value: str) -> bool:
    """Whether clients may be told this name outside of an event: what events name as a member may be no user id at all.

    # spec: appendices#historical-user-ids
    """
    return parses(parse_user_id, value)


def parses(parse: Callable[[Any], object], value: Any) -> bool:
    """Whether content from anywhere is what a function of this module would make of it."""
    try:
        parse(value)
    except Malformed:
        return False
    return True


def parse_room_id(value: str) -> RoomId:
    """Either `!opaque:domain` or, from room version 12, `!` and the hash of the create event."""
    if type(value) is str and ":" not in value:
        if value[:1] != "!" or _HASH.fullmatch(value, 1) is None:
            raise _refuse("room id")
        return RoomId(value)
    _split(value, "!", "room id")
    return RoomId(value)


def parse_event_id(value: str) -> EventId:
    """Opaque after the sigil: the room version decides the rest."""
    _check_text(value, "event id")
    if len(value) < 2 or value[0] != "$":
        raise _refuse("event id")
    return EventId(value)


def parse_event_id_with_domain(value: str) -> EventId:
    """The explicit ids of room versions 1 and 2, `$opaque:domain`."""
    _split(value, "$", "event id")
    return EventId(value)


def parse_room_alias(value: str) -> RoomAlias:
    """# spec: appendices#room-aliases"""
    localpart, _ = _split(value, "#", "room alias")
    if not localpart:
        raise _refuse("room alias")
    return RoomAlias(value)


def is_room_alias(value: Any) -> bool:
    """Whether content from anywhere is a room alias, for those who would leave out what is none."""
    return parses(parse_room_alias, value)


def is_content_uri(value: Any) -> TypeGuard[str]:
    """Whether it is the address of media. # spec: client-server-api#matrix-content-mxc-uris"""
    return type(value) is str and value.startswith("mxc://")


def parse_room_id_or_alias(value: str) -> RoomId | RoomAlias:
    """For the endpoints that take either."""
    return parse_room_alias(value) if value[:1] == "#" else parse_room_id(value)


def domain_of(identifier: str) -> ServerName:
    """The domain of an already parsed id. Domain-less ids (rooms of version 12) have none: Malformed."""
    domain = identifier.partition(":")[2]
    if not domain:
        raise Malformed("The identifier has no domain", errcode="M_INVALID_PARAM")
    return ServerName(domain)


def localpart_of(identifier: str) -> str:
    """What stands between the sigil and the domain of an already parsed id."""
    return identifier.partition(":")[0][1:]


def is_valid_old_localpart(localpart: str) -> bool:
    """Whether an account may have been called this before there was a rule: printable ASCII. Its length is not looked at.

    # spec: appendices#historical-user-ids
    """
    return _USER_LOCALPART.fullmatch(localpart) is not None


def is_valid_new_localpart(localpart: str) -> bool:
    """Whether a new account may be called this. The caller also checks the length of the whole user id."""
    return len(localpart) <= MAX_ID_BYTES and _NEW_LOCALPART.fullmatch(localpart) is not None
