"""Checks of single configuration texts. Each returns nothing or raises ValueError with one clear line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from federation.errors import Malformed
from federation.flows.discovery import is_address
from federation.ids import parse_server_name, parse_user_id
from federation.versions import ROOM_VERSIONS
from homeserver.http.mail import bare_address

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_.\-]{0,254}")
_EMAIL_ADDRESS = re.compile(r"[^\s@<>\"]{1,64}@[^\s@<>\"]{1,255}")
_HOST = re.compile(r"[A-Za-z0-9._:%\-]{1,255}")
_LIKE_ADDRESS = re.compile(r"[0-9.]+|.*[:%].*")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_KEY_PREFIX = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}(?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}){0,7}/?")
# What goes into a signature's scope, where slashes and commas have a meaning.
_PLAIN_NAME = re.compile(r"[!-+\-.0-~]{1,128}")


_JSON_MOST_BYTES = 64 * 1024


def check_json(value: object) -> None:
    """Dates and the like are plain YAML, and no JSON."""
    try:
        # Only what is JSON already comes back as it was.
        if msgspec.json.decode(encoded := msgspec.json.encode(value)) == value:
            if len(encoded) <= _JSON_MOST_BYTES:
                return
            raise ValueError(f"must not be larger than {_JSON_MOST_BYTES} bytes")
    except (TypeError, UnicodeEncodeError, RecursionError, msgspec.MsgspecError):
        pass
    raise ValueError(
        "must hold only texts, numbers, true, false, null, lists and mappings with texts as keys"
    )


def check_client_well_known(value: Mapping[str, Any]) -> None:
    if "m.homeserver" in value:
        raise ValueError("must not have m.homeserver: it is made of public_url")


def check_server_name(text: str) -> None:
    """spec: appendices#server-name"""
    try:
        parse_server_name(text)
    except Malformed as error:
        raise ValueError(
            f"{text[:80]!r} is not a server name like chat.example.org or 10.0.0.1:8448"
        ) from error


def check_room_version(text: str) -> None:
    """spec: rooms"""
    if text not in ROOM_VERSIONS:
        raise ValueError(f"{text[:40]!r} is none of {', '.join(ROOM_VERSIONS)}")


def check_http_url(text: str) -> None:
    parts = _split(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL like https://chat.example.org")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("must be a URL without user, query or fragment")


def check_bucket(text: str) -> None:
    if not _BUCKET.fullmatch(text):
        raise ValueError("must be the name of a bucket: 3 to 63 letters, digits, dots and hyphens")


def check_key_prefix(text: str) -> None:
    if text and not _KEY_PREFIX.fullmatch(text):
        raise ValueError("must be names between slashes, like chat/media: letters, digits and ._-")


def check_plain_name(text: str) -> None:
    if not _PLAIN_NAME.fullmatch(text):
        raise ValueError("must be one word")


def check_database(text: str) -> None:
    if text == "sqlite":
        return
    parts = _split(text)
    # The text may hold a password, so it is never part of the message.
    if parts.scheme != "postgresql":
        raise ValueError("must be sqlite or postgresql://user:password@host/database")
    if not parts.path.strip("/"):
        raise ValueError("names no database: postgresql://user:password@host/database")


def check_redis_url(text: str) -> None:
    parts = _split(text)
    if parts.scheme not in ("redis", "rediss", "unix") or not (parts.hostname or parts.path):
        raise ValueError("must be a URL like redis://host:6379/0")


def check_bind(text: str) -> None:
    # What looks like an address has to be one; a name is looked up when the listener opens.
    if not _HOST.fullmatch(text) or (_LIKE_ADDRESS.fullmatch(text) and not is_address(text)):
        raise ValueError("must be an address like 127.0.0.1, 0.0.0.0 or ::, without a port")


def check_turn_uri(text: str) -> None:
    if not text.startswith(("turn:", "turns:", "stun:", "stuns:")):
        raise ValueError("must start with turn:, turns:, stun: or stuns:")


def check_identifier(text: str) -> None:
    """spec: appendices#common-namespaced-identifier-grammar"""
    if not _IDENTIFIER.fullmatch(text):
        raise ValueError("must be a name like m.role.admin or com.example.press")


def check_user_id(text: str) -> None:
    """spec: appendices#user-identifiers"""
    try:
        parse_user_id(text)
    except Malformed as error:
        raise ValueError(f"{text[:80]!r} is not a user like @name:chat.example.org") from error


def check_email_address(text: str) -> None:
    if len(text) > 254 or not _EMAIL_ADDRESS.fullmatch(text):
        raise ValueError("must be an address like help@example.org")


def check_mail_sender(text: str) -> None:
    bare_address(text)


def check_page_url(text: str) -> None:
    parts = _split(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("must be a URL like https://chat.example.org/help")


def check_not_empty(text: str) -> None:
    if not text.strip():
        raise ValueError("must not be empty")


class _Parts:
    """The parts of a URL; a bad port or bracket is an ordinary ValueError without the text in it."""

    __slots__ = ("fragment", "hostname", "path", "query", "scheme", "username")

    def __init__(self, text: str) -> None:
        parts = urlsplit(text)
        _ = parts.port  # raises on a port that is no number or out of range
        self.scheme, self.hostname, self.path = parts.scheme, parts.hostname, parts.path
        self.query, self.fragment, self.username = parts.query, parts.fragment, parts.username


def _split(text: str) -> _Parts:
    if any(character.isspace() for character in text):
        raise ValueError("must not contain spaces")
    try:
        return _Parts(text)
    except ValueError as error:
        raise ValueError("is not a well-formed URL") from error
