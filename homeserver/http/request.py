"""Request: one parsed request, as every handler sees it.

MUSTs: 1. all that comes from outside is bounded (count, size, depth) and decoded strictly; 2. a bad value is a
MatrixError with the specified code, never another exception; 3. nothing is parsed that the handler does not ask for.
spec: client-server-api#api-standards
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, overload
from urllib.parse import unquote_to_bytes

import msgspec

from homeserver.http.errors import bad_json, invalid_param, missing_param, not_json
from homeserver.http.route import Match, Route

T = TypeVar("T")

MAX_QUERY_ARGUMENTS = 200
MAX_JSON_DEPTH = 100
MAX_ACCESS_TOKEN_LENGTH = 4096

_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
# The end of the input also ends a string: so that no start is ever tried in vain, which would be quadratic.
_JSON_STRING = re.compile(rb'"(?:[^"\\]+|\\.)*(?:"|\\?\Z)', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


class BodyStream(Protocol):
    """The body of a route with stream=True, piece by piece; the sender is held back while nobody reads."""

    async def read_chunk(self) -> bytes | None:
        """The next bytes, or None at the end. Raises MatrixError (too large, too slow) or ClientGone."""
        ...


class Headers(dict[bytes, bytes]):
    """Header fields by lower-case name: `get` gives the first of a name, `get_all` every one in order."""

    __slots__ = ("repeated",)

    def __init__(self, fields: Mapping[bytes, bytes] | None = None) -> None:
        super().__init__(fields or ())
        self.repeated: list[tuple[bytes, bytes]] | None = None

    def add(self, name: bytes, value: bytes) -> None:
        """One more field; the name must be lower-case already."""
        if name not in self:
            self[name] = value
        elif self.repeated is None:
            self.repeated = [(name, value)]
        else:
            self.repeated.append((name, value))

    def get_all(self, name: bytes) -> list[bytes]:
        found = [self[name]] if name in self else []
        if self.repeated is not None:
            found.extend(value for key, value in self.repeated if key == name)
        return found


class Request:
    """One request. Handlers read it; the edge and the gates fill it in, and nobody else writes to it."""

    __slots__ = (
        "_query",
        "body",
        "body_stream",
        "client_ip",
        "content",
        "headers",
        "match",
        "method",
        "raw_path",
        "raw_query",
        "requester",
        "serve",
        "target",
    )

    def __init__(
        self,
        method: str,
        target: bytes,
        headers: Headers,
        *,
        match: Match,
        serve: frozenset[str],
        client_ip: str,
        body: bytes = b"",
        body_stream: BodyStream | None = None,
    ) -> None:
        self.method = method
        # Exactly as it was sent: a federation signature covers these bytes.
        self.target = target
        self.raw_path, _, self.raw_query = target.partition(b"?")
        self.headers = headers
        self.match = match
        self.serve = serve
        self.client_ip = client_ip
        self.body = body
        self.body_stream = body_stream
        self.requester: Any = None
        # The parsed body, where a gate had to parse it (a signature covers the value); None where nobody has.
        self.content: Any = None
        self._query: dict[str, list[str]] | None = None

    @property
    def route(self) -> Route:
        return self.match.route

    @property
    def path(self) -> str:
        """The path as it was sent, percent-encoded."""
        return self.raw_path.decode("latin-1")

    @property
    def user_agent(self) -> str:
        return self.headers.get(b"user-agent", b"")[:1024].decode("utf-8", "replace")

    @property
    def query(self) -> dict[str, list[str]]:
        """Every query argument, decoded on first use."""
        if self._query is None:
            self._query = parse_query(self.raw_query) if self.raw_query else {}
        return self._query

    @overload
    def arg(self, name: str) -> str | None: ...
    @overload
    def arg(self, name: str, default: str) -> str: ...
    @overload
    def arg(self, name: str, default: None) -> str | None: ...
    def arg(self, name: str, default: str | None = None) -> str | None:
        """The first value of a query argument."""
        values = self.query.get(name)
        return values[0] if values else default

    def required_arg(self, name: str) -> str:
        values = self.query.get(name)
        if not values:
            raise missing_param(f"Missing query parameter {name}")
        return values[0]

    def int_arg(
        self, name: str, default: int, minimum: int = 0, maximum: int = 2**53 - 1, *, clamp: bool = False
    ) -> int:
        """An integer argument within bounds; with `clamp` a value above the maximum becomes the maximum."""
        text = self.arg(name)
        if text is None:
            return default
        if _INTEGER.fullmatch(text) is None:
            raise invalid_param(f"Query parameter {name} must be an integer")
        value = int(text)
        if value > maximum and clamp:
            return maximum
        if not minimum <= value <= maximum:
            raise invalid_param(f"Query parameter {name} must be between {minimum} and {maximum}")
        return value

    def bool_arg(self, name: str, default: bool = False) -> bool:
        text = self.arg(name)
        if text is None:
            return default
        if text == "true":
            return True
        if text == "false":
            return False
        raise invalid_param(f"Query parameter {name} must be true or false")

    @overload
    def json(self, *, allow_empty: bool = False) -> dict[str, Any]: ...
    @overload
    def json(self, type: type[T], allow_empty: bool = False) -> T: ...
    def json(self, type: Any = dict, allow_empty: bool = False) -> Any:  # noqa: A002
        """The body as a dict, or checked against a msgspec type; with `allow_empty` no body means `{}`."""
        if self.content is not None:
            return convert_json(self.content, type)
        return decode_json(self.body if self.body or not allow_empty else b"{}", type)

    def access_token(self) -> str | None:
        """The token of the Authorization header, else of the query string (for old clients)."""
        # spec: client-server-api#using-access-tokens
        value = self.headers.get(b"authorization")
        if value is not None:
            if value[:7] == b"Bearer ":
                return _token(value[7:].strip())
            scheme, _, token = value.partition(b" ")
            if scheme.lower() != b"bearer":
                return None
            return _token(token.strip())
        if b"access_token" in self.raw_query:
            text = self.arg("access_token")
            return None if text is None else _token(text.encode("utf-8"))
        return None


def _token(value: bytes) -> str | None:
    """A token is printable ASCII; whatever else was sent cannot be one that we gave out, so it stays unknown."""
    if not value:
        return None
    return value[:MAX_ACCESS_TOKEN_LENGTH].decode("ascii", "replace")


def decode_component(raw: bytes, what: str, *, plus: bool = False) -> str:
    """Percent-decode one path segment or query component; it must be UTF-8 without NUL."""
    if plus and b"+" in raw:
        raw = raw.replace(b"+", b" ")
    if b"%" in raw:
        raw = unquote_to_bytes(raw)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise invalid_param(f"The {what} is not valid UTF-8") from None
    # No identifier or option holds a NUL, and PostgreSQL cannot store one.
    if "\0" in text:
        raise invalid_param(f"The {what} contains a NUL")
    return text


def parse_query(raw: bytes) -> dict[str, list[str]]:
    """`a=1&b=2` to lists by name, in order; a bounded number of arguments."""
    parts = raw.split(b"&")
    if len(parts) > MAX_QUERY_ARGUMENTS:
        raise invalid_param("Too many query parameters")
    arguments: dict[str, list[str]] = {}
    for part in parts:
        if not part:
            continue
        name, _, value = part.partition(b"=")
        key = decode_component(name, "query string", plus=True)
        arguments.setdefault(key, []).append(decode_component(value, "query string", plus=True))
    return arguments


def decode_json(body: bytes, type: Any = dict) -> Any:  # noqa: A002
    """Decode hostile JSON into `type`: M_NOT_JSON when it is not JSON, M_BAD_JSON when it has the wrong shape."""
    # Counting is nearly free and enough for every honest body; only a bracket-rich one is looked at closely.
    if body.count(b"[") + body.count(b"{") > MAX_JSON_DEPTH and json_depth(body) > MAX_JSON_DEPTH:
        raise bad_json("The JSON is nested too deeply")
    try:
        return msgspec.json.decode(body, type=type)
    except msgspec.ValidationError as error:
        # The wrong shape is noticed before the rest is read, which may yet turn out not to be JSON.
        if _is_json(body):
            raise bad_json(str(error)) from None
        raise not_json() from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise not_json() from None
    except RecursionError:
        raise bad_json("The JSON is nested too deeply") from None


def convert_json(value: Any, type: Any = dict) -> Any:  # noqa: A002
    """The same check for a value that is parsed already: M_BAD_JSON when it has the wrong shape."""
    if type is dict and isinstance(value, dict):
        return value
    try:
        return msgspec.convert(value, type=type)
    except msgspec.ValidationError as error:
        raise bad_json(str(error)) from None


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except msgspec.ValidationError:
        # A number beyond every range, say.
        return True
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def json_depth(body: bytes) -> int:
    """How deep brackets nest outside strings, in linear time and without recursion."""
    depth = deepest = 0
    for bracket in _BRACKETS.findall(_JSON_STRING.sub(b"", body)):
        if bracket in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest
