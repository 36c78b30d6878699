"""Renderer: the head of an answer as bytes, with the CORS headers and the date on every one.

spec: client-server-api#web-browser-clients, RFC 9110 section 6.6.1 (Date)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

from homeserver.http.response import Response
from homeserver.runtime.clock import Clock

CORS_METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS")
# The last two are what web pages send to a rendezvous. spec: proposals/4108 (2024, "CORS")
_CORS_HEADERS = ("X-Requested-With", "Content-Type", "Authorization", "If-Match", "If-None-Match")
_MAX_PREFIXES = 512
_FORBIDDEN_IN_VALUE = re.compile(rb"[\x00\r\n]")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BODILESS = frozenset({204, 304})


def http_date(ts_s: int) -> bytes:
    """A time in seconds since 1970 as headers write it. RFC 9110 section 5.6.7"""
    return formatdate(ts_s, usegmt=True).encode("ascii")


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b"Status"


class Renderer:
    """Renders heads. What does not change between answers is rendered once."""

    __slots__ = ("_clock", "_cors", "_date", "_date_s", "_prefixes")

    def __init__(self, clock: Clock, methods: Iterable[str] = ()) -> None:
        """`methods` of the route table; those beyond the specification's are added to its list, as it asks."""
        extra = sorted(set(methods) - set(CORS_METHODS) - {"HEAD"})
        self._cors = (
            b"Access-Control-Allow-Origin: *\r\n"
            b"Access-Control-Allow-Methods: " + ", ".join((*CORS_METHODS, *extra)).encode("ascii") + b"\r\n"
            b"Access-Control-Allow-Headers: " + ", ".join(_CORS_HEADERS).encode("ascii") + b"\r\n"
        )
        self._prefixes: dict[tuple[int, bytes | None], bytes] = {}
        self._clock = clock
        self._date, self._date_s = b"", -1

    def head(self, response: Response, *, length: int | None, close: bool, old_client: bool = False) -> bytes:
        """Status line and headers. `length` None means chunked, or (for an HTTP/1.0 client) until the close.

        Raises ValueError when a header would break out of its line.
        """
        key = (response.status, response.content_type)
        prefix = self._prefixes.get(key)
        if prefix is None:
            prefix = self._prefix(*key)
        if length is not None and not (
            response.headers or close or old_client or response.status in BODILESS
        ):
            return b"%b%bContent-Length: %d\r\n\r\n" % (prefix, self._dated(), length)
        parts = [prefix, self._dated()]
        for name, value in response.headers:
            if _NAME.fullmatch(name) is None or _FORBIDDEN_IN_VALUE.search(value) is not None:
                raise ValueError(f"not a valid header field: {name!r}")
            parts.append(b"%b: %b\r\n" % (name, value))
        if response.status not in BODILESS:
            if length is not None:
                parts.append(b"Content-Length: %d\r\n" % length)
            elif not old_client:
                parts.append(b"Transfer-Encoding: chunked\r\n")
        if close:
            parts.append(b"Connection: close\r\n")
        elif old_client:
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def _dated(self) -> bytes:
        """The date, which is another once a second."""
        now_s = int(self._clock.seconds())
        if now_s != self._date_s:
            self._date, self._date_s = b"Date: %b\r\n" % http_date(now_s), now_s
        return self._date

    def _prefix(self, status: int, content_type: bytes | None) -> bytes:
        if not 200 <= status <= 599:
            raise ValueError(f"not a status of a final answer: {status}")
        prefix = b"HTTP/1.1 %d %b\r\n" % (status, _reason(status)) + self._cors
        if content_type is not None:
            if _FORBIDDEN_IN_VALUE.search(content_type) is not None:
                raise ValueError("not a valid content type")
            prefix += b"Content-Type: %b\r\n" % content_type
        # Content types of uploads are the users' choice: hence the bound.
        if len(self._prefixes) < _MAX_PREFIXES:
            self._prefixes[(status, content_type)] = prefix
        return prefix
