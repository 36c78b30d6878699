"""Response: what a handler answers with, and the one place where a handler's value becomes one.

spec: client-server-api#api-standards
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import msgspec

JSON = b"application/json"
EMPTY_JSON = b"{}"


class BrokenOff(Exception):  # noqa: N818 (a fact, and no error of ours)
    """Raised by a body of which no more can be had; why is told where that is known. The connection is broken off."""


@dataclass(slots=True)
class FileRange:
    """`length` bytes of an open file from `offset`; the edge reads it slice by slice and closes it at the end."""

    file: BinaryIO
    offset: int
    length: int


BodyProducer = AsyncIterator[bytes] | FileRange


@dataclass(slots=True)
class Response:
    """One answer. The edge itself adds the CORS headers, Content-Length or chunked framing, and Connection.

    `headers` must not repeat those, and must not hold Content-Type: that is `content_type` (None for no such header).
    For an AsyncIterator body `length` may say how many bytes will come; without it the body is sent in chunks.
    """

    status: int = 200
    body: bytes | BodyProducer = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    content_type: bytes | None = JSON
    length: int | None = None


def to_response(value: Any) -> Response:
    """A handler's value: a Response as it is, bytes as JSON that is already encoded, None as `{}`, all else to JSON."""
    if type(value) is Response:
        return value
    if type(value) is bytes:
        return Response(200, value)
    if value is None:
        return Response(200, EMPTY_JSON)
    return Response(200, msgspec.json.encode(value))


def json_response(
    value: Any, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> Response:
    """JSON with another status or with headers."""
    return Response(status, msgspec.json.encode(value), headers if headers is not None else [])


def redirect(location: bytes, status: int = 302) -> Response:
    return Response(status, b"", [(b"Location", location)], content_type=None)
