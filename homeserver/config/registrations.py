"""AppserviceRegistration files of application services: parsed and checked once, at the start.

A file is written by the bridge that it is for, so keys that we do not know are passed over. Every problem is one line
that names the file and the key; tokens never appear in it.

Namespaces are regular expressions of whoever wrote the file, matched against names that anybody may choose: so they run
on RE2, whose time is linear in the text, whatever the expression. It has no look-around and no back references.

# spec: application-service-api#registration
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import re2

from federation.errors import Malformed
from federation.ids import parse_user_id
from homeserver.config import checks
from homeserver.config.load import MAX_FILE_BYTES, ConfigError, parse_document
from homeserver.config.schema import Config

MAX_NAMESPACES = 1_000
MAX_PATTERN = 4_096
MAX_PROTOCOLS = 100
MAX_NAME = 255
MAX_TOKEN = 4_096
# LIMIT(memory of one compiled expression; beyond it RE2 refuses the expression)
_PATTERN_BYTES = 1024 * 1024


class Pattern:
    """One expression. Like everybody who reads these files it is held against the beginning of a name, and no further."""

    __slots__ = ("_compiled", "text")

    def __init__(self, text: str) -> None:
        """Raises ValueError."""
        options = re2.Options()
        options.max_mem = _PATTERN_BYTES
        options.log_errors = False
        try:
            self._compiled = re2.compile(text, options)
        except re2.error as error:
            detail = error.args[0] if error.args else error
            detail = detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
            raise ValueError(f"not an expression that can be used: {detail}") from None
        self.text = text

    def matches(self, name: str) -> bool:
        """Whether the name begins with what the expression describes."""
        return self._compiled.match(name) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


@dataclass(frozen=True, slots=True)
class Namespace:
    """Names that an application service is interested in; ``exclusive``: nobody else may make such names."""

    pattern: Pattern
    exclusive: bool


@dataclass(frozen=True, slots=True)
class AppserviceRegistration:
    """One application service, as its file says."""

    id: str
    url: str | None  # without a slash at the end; None: nothing is sent there
    as_token: str
    hs_token: str
    sender_localpart: str
    users: tuple[Namespace, ...] = ()
    aliases: tuple[Namespace, ...] = ()
    rooms: tuple[Namespace, ...] = ()
    rate_limited: bool = True
    protocols: tuple[str, ...] = ()
    receive_ephemeral: bool = False
    push_ephemeral: bool = False  # the same under the name that it had before it was specified
    encryption: bool = False  # MSC3202: it is told of device lists and of keys that are left

    @property
    def wants_ephemeral(self) -> bool:
        return self.receive_ephemeral or self.push_ephemeral


def load_registrations(config: Config) -> tuple[AppserviceRegistration, ...]:
    """Every registration that the configuration names. Raises ConfigError with all that is wrong."""
    found: list[AppserviceRegistration] = []
    problems: list[str] = []
    for path in config.appservices:
        try:
            found.append(_read(path, config.server_name))
        except ConfigError as error:
            problems += error.problems
    # spec: application-service-api#registration (ids and tokens must be unique, and the server must enforce it)
    for what, value_of in _UNIQUE.items():
        holders: dict[str, AppserviceRegistration] = {}
        for one in found:
            first = holders.setdefault(value_of(one), one)
            if first is not one:
                problems.append(f"appservices: {first.id} and {one.id} have the same {what}")
    if problems:
        raise ConfigError(problems)
    return tuple(found)


_UNIQUE: Mapping[str, Callable[[AppserviceRegistration], str]] = {
    "id": lambda one: one.id,
    "as_token": lambda one: one.as_token,
    "hs_token": lambda one: one.hs_token,
    "sender_localpart": lambda one: one.sender_localpart,
}


def _read(path: Path, server_name: str) -> AppserviceRegistration:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"appservices: {path}: {error.strerror or error}"]) from error
    return parse_registration(raw, server_name, str(path))


def parse_registration(raw: bytes, server_name: str, name: str) -> AppserviceRegistration:
    """One file's text. Raises ConfigError."""
    return _Reader(parse_document(raw, name), server_name, name).read()


class _Reader:
    """Takes a document apart, and notes what is wrong with it."""

    __slots__ = ("_document", "_name", "_problems", "_server_name")

    def __init__(self, document: Mapping[Any, Any], server_name: str, name: str) -> None:
        self._document = document
        self._server_name = server_name
        self._name = name
        self._problems: list[str] = []

    def read(self) -> AppserviceRegistration:
        spaces = self._namespaces()
        result = AppserviceRegistration(
            id=self._text("id", MAX_NAME),
            url=self._url(),
            as_token=self._token("as_token"),
            hs_token=self._token("hs_token"),
            sender_localpart=self._sender(),
            users=self._namespace_list(spaces, "users"),
            aliases=self._namespace_list(spaces, "aliases"),
            rooms=self._namespace_list(spaces, "rooms"),
            rate_limited=self._flag("rate_limited", True),
            protocols=self._protocols(),
            receive_ephemeral=self._flag("receive_ephemeral"),
            push_ephemeral=self._flag("de.sorunome.msc2409.push_ephemeral"),
            encryption=self._flag("org.matrix.msc3202"),
        )
        # Devices are managed by every application service (v1.17), so this says nothing more; yet it has a shape.
        self._flag("io.element.msc4190")
        if self._problems:
            raise ConfigError(self._problems)
        return result

    def _wrong(self, key: str, what: str) -> None:
        self._problems.append(f"{self._name}: {key}: {what}")

    def _text(self, key: str, most: int) -> str:
        value = self._document.get(key)
        if value is None:
            self._wrong(key, "required")
        elif not isinstance(value, str):
            self._wrong(key, "must be text; put it into quotes")
        elif not 0 < len(value) <= most or not value.isprintable():
            self._wrong(key, f"must be 1 to {most} printable characters")
        else:
            return value
        return ""

    def _token(self, key: str) -> str:
        value = self._text(key, MAX_TOKEN)
        if value and not (value.isascii() and " " not in value):
            self._wrong(key, "must be ASCII without spaces, as it stands in a header")
        return value

    def _sender(self) -> str:
        localpart = self._text("sender_localpart", MAX_NAME)
        if localpart:
            try:
                parse_user_id(f"@{localpart}:{self._server_name}")
            except Malformed:
                self._wrong("sender_localpart", f"{localpart[:80]!r} makes no user id")
        return localpart

    def _url(self) -> str | None:
        if "url" not in self._document:
            self._wrong("url", "required; null where nothing is to be sent")
        value = self._document.get("url")
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            self._wrong("url", "must be text or null")
            return None
        try:
            checks.check_http_url(value)
        except ValueError as error:
            self._wrong("url", str(error))
        return value.rstrip("/")

    def _flag(self, key: str, default: bool = False) -> bool:
        value = self._document.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._wrong(key, "must be true or false")
            return default
        return value

    def _protocols(self) -> tuple[str, ...]:
        value = self._document.get("protocols")
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > MAX_PROTOCOLS:
            self._wrong("protocols", f"must be a list of at most {MAX_PROTOCOLS} names")
            return ()
        for one in value:
            if not isinstance(one, str) or not 0 < len(one) <= MAX_NAME or not one.isprintable():
                self._wrong("protocols", "must be names")
                return ()
        return tuple(dict.fromkeys(value))

    # --- namespaces --------------------------------------------------------------------------------------

    def _namespaces(self) -> Mapping[Any, Any]:
        value = self._document.get("namespaces")
        if isinstance(value, dict):
            return value
        self._wrong("namespaces", "required" if value is None else "must hold users, aliases and rooms")
        return {}

    def _namespace_list(self, spaces: Mapping[Any, Any], key: str) -> tuple[Namespace, ...]:
        value: Any = spaces.get(key)
        where = f"namespaces.{key}"
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > MAX_NAMESPACES:
            self._wrong(where, f"must be a list of at most {MAX_NAMESPACES} items")
            return ()
        found = [self._namespace(item, f"{where}[{place}]") for place, item in enumerate(value)]
        return tuple([one for one in found if one is not None])

    def _namespace(self, item: Any, where: str) -> Namespace | None:
        if not isinstance(item, dict):
            self._wrong(where, "must hold exclusive and regex")
            return None
        text, exclusive = item.get("regex"), item.get("exclusive")
        if not isinstance(exclusive, bool):
            self._wrong(f"{where}.exclusive", "must be true or false")
            return None
        if not isinstance(text, str) or not 0 < len(text) <= MAX_PATTERN:
            self._wrong(f"{where}.regex", f"must be text of at most {MAX_PATTERN} characters")
            return None
        try:
            return Namespace(Pattern(text), exclusive)
        except ValueError as error:
            self._wrong(f"{where}.regex", str(error))
            return None


def any_matches(namespaces: Sequence[Namespace], name: str, *, exclusive: bool = False) -> bool:
    """Whether one of the namespaces (``exclusive``: one of those that are) has the name."""
    return any((one.exclusive or not exclusive) and one.pattern.matches(name) for one in namespaces)
