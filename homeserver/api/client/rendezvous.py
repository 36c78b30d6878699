"""Rendezvous for sign-in by QR code, in the two forms that clients speak.

Nobody needs an account here: a new device has none yet, and it may be the one that shows the code. Whoever knows an id may
read and write; the limits are those of logging in.
# spec: proposals/4388#insecure-rendezvous-session, proposals/4108 (2024)
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from homeserver.http.errors import MatrixError, forbidden, invalid_param, missing_param, not_found, too_large
from homeserver.http.render import http_date
from homeserver.http.request import Request
from homeserver.http.response import Response, json_response
from homeserver.http.route import Auth, Route
from homeserver.oauth.rendezvous import (
    MAX_PAYLOAD_BYTES,
    ConcurrentWriteError,
    NoRendezvousError,
    PayloadTooLargeError,
    Rendezvous,
    Rendezvouses,
)
from homeserver.runtime.clock import Clock

FEATURES: Final = {"org.matrix.msc4108": True, "io.element.msc4388": True}
_MSC4388: Final = "/_matrix/client/unstable/io.element.msc4388/rendezvous"
_MSC4108: Final = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous"
# In JSON each byte may take six, and there is a token beside them.
_MAX_JSON_BYTES: Final = 8 * MAX_PAYLOAD_BYTES

_TEXT: Final = b"text/plain"
_MEDIA_TYPE: Final = re.compile(rb"text/plain[ \t]*(?:;.*)?", re.IGNORECASE)
# COMPAT(proxies that compress answers, always): they make an ETag a weak one, and the client sends it back so.
_ENTITY_TAG: Final = re.compile(rb'(?:W/)?"([\x21\x23-\x7e]*)"')


class _Payload(msgspec.Struct, frozen=True):
    data: str


class _Sent(msgspec.Struct, frozen=True):
    sequence_token: str
    data: str


class RendezvousApi:
    """JSON, with a token that tells versions apart. spec: proposals/4388#insecure-rendezvous-session"""

    def __init__(self, rendezvouses: Rendezvouses, clock: Clock) -> None:
        self._rendezvouses = rendezvouses
        self._clock = clock

    def routes(self) -> list[Route]:
        spec = "proposals/4388#insecure-rendezvous-session"
        one, limit = f"{_MSC4388}/{{rendezvous_id}}", _MAX_JSON_BYTES
        return [
            Route(
                method="GET",
                template=_MSC4388,
                handler=self.discover,
                auth=Auth.OPTIONAL,
                limit="read",
                spec=spec,
                suspended_may=True,
            ),
            Route(
                method="POST",
                template=_MSC4388,
                handler=self.create,
                auth=Auth.OPTIONAL,
                limit="login",
                max_body=limit,
                spec=spec,
                suspended_may=True,
            ),
            Route(method="GET", template=one, handler=self.receive, auth=Auth.NONE, limit="read", spec=spec),
            Route(
                method="PUT",
                template=one,
                handler=self.send,
                auth=Auth.NONE,
                limit="write",
                max_body=limit,
                spec=spec,
            ),
            Route(
                method="DELETE", template=one, handler=self.cancel, auth=Auth.NONE, limit="write", spec=spec
            ),
        ]

    async def discover(self, _: Request) -> dict[str, Any]:
        return {"create_available": True}

    async def create(self, request: Request) -> Response:
        payload = request.json(_Payload).data.encode()
        begun = _begin(self._rendezvouses, payload)
        return _told({"id": begun.id, "sequence_token": begun.version, "expires_in_ms": self._left_ms(begun)})

    async def receive(self, request: Request, rendezvous_id: str) -> Response:
        _refuse_navigation(request)
        current = _look(self._rendezvouses, rendezvous_id)
        return _told(
            {
                "data": current.payload.decode(),
                "sequence_token": current.version,
                "expires_in_ms": self._left_ms(current),
            }
        )

    async def send(self, request: Request, rendezvous_id: str) -> Response:
        sent = request.json(_Sent)
        try:
            written = self._rendezvouses.write(
                rendezvous_id, sent.sequence_token, sent.data.encode(), may_repeat=True
            )
        except ConcurrentWriteError:
            # spec: proposals/4388#m_concurrent_write-errcode
            raise MatrixError(
                409, "IO_ELEMENT_MSC4388_CONCURRENT_WRITE", "The data was changed meanwhile"
            ) from None
        except NoRendezvousError:
            raise _none() from None
        except PayloadTooLargeError:
            raise too_large() from None
        return _told({"sequence_token": written.version})

    async def cancel(self, _: Request, rendezvous_id: str) -> Response:
        _end(self._rendezvouses, rendezvous_id)
        return _told({})

    def _left_ms(self, one: Rendezvous) -> int:
        return max(0, one.expires_ts_ms - self._clock.now_ms())


class ETagRendezvousApi:
    """Plain text, with the headers of HTTP for versions. ``base_url``: where clients reach this server.

    COMPAT(matrix-js-sdk up to 43, matrix-rust-sdk up to 0.19): what came before the other form, and what all of them speak.
    """

    # spec: proposals/4108 (2024, "Rendezvous session")
    def __init__(self, rendezvouses: Rendezvouses, base_url: str) -> None:
        self._rendezvouses = rendezvouses
        self._base_url = base_url

    def routes(self) -> list[Route]:
        spec = "proposals/4108"
        one, limit = f"{_MSC4108}/{{rendezvous_id}}", MAX_PAYLOAD_BYTES
        return [
            Route(
                method="POST",
                template=_MSC4108,
                handler=self.create,
                auth=Auth.NONE,
                limit="login",
                max_body=limit,
                spec=spec,
            ),
            Route(method="GET", template=one, handler=self.receive, auth=Auth.NONE, limit="read", spec=spec),
            Route(
                method="PUT",
                template=one,
                handler=self.send,
                auth=Auth.NONE,
                limit="write",
                max_body=limit,
                spec=spec,
            ),
            Route(
                method="DELETE", template=one, handler=self.cancel, auth=Auth.NONE, limit="write", spec=spec
            ),
        ]

    async def create(self, request: Request) -> Response:
        _require_text(request)
        begun = _begin(self._rendezvouses, request.body)
        return json_response({"url": f"{self._base_url}{_MSC4108}/{begun.id}"}, 201, _headers(begun))

    async def receive(self, request: Request, rendezvous_id: str) -> Response:
        _refuse_navigation(request)
        current = _look(self._rendezvouses, rendezvous_id)
        seen = b",".join(request.headers.get_all(b"if-none-match"))
        if current.version.encode() in _ENTITY_TAG.findall(seen):
            return Response(304, headers=_headers(current), content_type=None)
        return Response(200, current.payload, _headers(current), _TEXT)

    async def send(self, request: Request, rendezvous_id: str) -> Response:
        _require_text(request)
        version = _expected_version(request)
        try:
            written = self._rendezvouses.write(rendezvous_id, version, request.body)
        except ConcurrentWriteError as error:
            # spec: proposals/4108 (2024, "Unstable prefix")
            raise MatrixError(
                412,
                "M_UNKNOWN",
                "The data was changed meanwhile",
                headers=_headers(error.current),
                **{"org.matrix.msc4108.errcode": "M_CONCURRENT_WRITE"},
            ) from None
        except NoRendezvousError:
            raise _none() from None
        return Response(202, headers=_headers(written), content_type=None)

    async def cancel(self, _: Request, rendezvous_id: str) -> Response:
        _end(self._rendezvouses, rendezvous_id)
        return Response(204, content_type=None)


def _begin(rendezvouses: Rendezvouses, payload: bytes) -> Rendezvous:
    try:
        return rendezvouses.begin(payload)
    except PayloadTooLargeError:
        raise too_large() from None


def _look(rendezvouses: Rendezvouses, rendezvous_id: str) -> Rendezvous:
    try:
        return rendezvouses.look(rendezvous_id)
    except NoRendezvousError:
        raise _none() from None


def _end(rendezvouses: Rendezvouses, rendezvous_id: str) -> None:
    try:
        rendezvouses.end(rendezvous_id)
    except NoRendezvousError:
        raise _none() from None


def _none() -> MatrixError:
    return not_found("There is no such rendezvous (any more)")


def _refuse_navigation(request: Request) -> None:
    """What strangers put here is for programs: no browser shows it as a page of this server."""
    # spec: proposals/4388#unsafe-content
    if request.headers.get(b"sec-fetch-mode") == b"navigate":
        raise forbidden("This is nothing to look at in a browser")


def _told(value: dict[str, Any]) -> Response:
    return json_response(value, headers=[(b"Cache-Control", b"no-store")])


def _headers(one: Rendezvous) -> list[tuple[bytes, bytes]]:
    """What every answer about a rendezvous says, and web pages may read."""
    return [
        (b"ETag", b'"%b"' % one.version.encode()),
        (b"Expires", http_date(one.expires_ts_ms // 1000)),
        (b"Last-Modified", http_date(one.changed_ts_ms // 1000)),
        (b"Cache-Control", b"no-store"),
        (b"Pragma", b"no-cache"),
        (b"Access-Control-Expose-Headers", b"ETag"),
        (b"X-Content-Type-Options", b"nosniff"),
    ]


def _require_text(request: Request) -> None:
    content_type = request.headers.get(b"content-type")
    if content_type is None:
        raise missing_param("Content-Type is missing")
    if _MEDIA_TYPE.fullmatch(content_type) is None:
        raise invalid_param("Content-Type must be text/plain")


def _expected_version(request: Request) -> str:
    expected = request.headers.get_all(b"if-match")
    if not expected:
        raise missing_param("If-Match is missing")
    found = _ENTITY_TAG.fullmatch(expected[0]) if len(expected) == 1 else None
    if found is None:
        raise invalid_param("If-Match must be one ETag")
    return found[1].decode("ascii")
