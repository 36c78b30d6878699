"""HttpHarness: API tests call routes through the real router and gates, without sockets and without bytes on a wire.

Everything that the router does happens (matching, authentication, limits, conversion, rendering of errors); what the
connection does (framing, pipelining, timeouts) has its own tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as TaskClock

from homeserver.http.errors import too_large
from homeserver.http.outgoing import chunks_of
from homeserver.http.render import Renderer
from homeserver.http.request import Headers, Request
from homeserver.http.response import Response
from homeserver.http.router import ALL_GROUPS, Router
from homeserver.runtime.clock import TwistedClock

Query = Mapping[str, str | int | bool | list[str]]
# Shown every answer of every harness in this process; the runner puts the specification's witness here.
witnesses: list[Callable[[Request, Answer], None]] = []


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: unpacks as `status, headers, json`."""

    status: int
    headers: dict[str, str]
    body: bytes
    json: Any = field(default=None)

    def __iter__(self) -> Any:
        return iter((self.status, self.headers, self.json))

    @property
    def errcode(self) -> str | None:
        return self.json.get("errcode") if isinstance(self.json, dict) else None


class BytesUpload:
    """A `body_stream` that has everything already, in pieces of `piece` bytes."""

    def __init__(self, data: bytes, maximum: int, piece: int = 65_536) -> None:
        self._data = data
        self._maximum = maximum
        self._piece = piece
        self._read = 0

    async def read_chunk(self) -> bytes | None:
        chunk = self._data[self._read : self._read + self._piece]
        self._read += len(chunk)
        if self._read > self._maximum:
            raise too_large()
        return chunk or None


class HttpHarness:
    """Calls a router. `call` gives a Deferred of an Answer; `now` the Answer itself, of what does not have to wait.

    `is_heard` says whether anybody can get an answer: what a process says that died before is nobody's to judge.
    """

    def __init__(
        self,
        router: Router,
        *,
        serve: frozenset[str] = ALL_GROUPS,
        client_ip: str = "192.0.2.1",
        is_heard: Callable[[], bool] = lambda: True,
    ) -> None:
        self.router = router
        self._is_heard = is_heard
        self.serve = serve
        self.client_ip = client_ip

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = None,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        client_ip: str | None = None,
    ) -> Deferred[Answer]:
        """`path` is already percent-encoded (see `path_of`); a body that is not bytes is sent as JSON."""
        request = self.request(method, path, body, token, query, headers, client_ip)
        answer = self.router.dispatch(request)
        waiting: Deferred[Response] = Deferred()
        if isinstance(answer, Deferred):
            waiting = answer
        else:
            waiting.callback(answer)

        def collect(response: Response) -> Deferred[Answer]:
            return Deferred.fromCoroutine(_collect(response))

        def show(collected: Answer) -> Answer:
            for witness in witnesses if self._is_heard() else ():
                witness(request, collected)
            return collected

        return waiting.addCallback(collect).addCallback(show)

    def now(self, method: str, path: str, *args: Any, **kwargs: Any) -> Answer:
        """The answer to a call that needs nothing but what is already there."""
        answers: list[Any] = []
        call = self.call(method, path, *args, **kwargs)
        call.addBoth(answers.append)
        if not answers:
            call.cancel()
            raise AssertionError(f"{method} {path} is still waiting")
        if not isinstance(answers[0], Answer):
            answers[0].raiseException()
        answer: Answer = answers[0]
        return answer

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = None,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        client_ip: str | None = None,
    ) -> Request:
        """The request as the connection would build it."""
        fields = Headers()
        for name, value in (headers or {}).items():
            fields.add(name.lower().encode("ascii"), value.encode("utf-8"))
        if token is not None:
            fields.add(b"authorization", b"Bearer " + token.encode("ascii"))
        target = path
        if query:
            pairs = {name: _query_value(value) for name, value in query.items()}
            target += ("&" if "?" in path else "?") + urlencode(pairs, doseq=True)
        data = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        raw_target = target.encode("ascii")
        match = self.router.resolve(method, raw_target.partition(b"?")[0], self.serve)
        request = Request(
            method,
            raw_target,
            fields,
            match=match,
            serve=self.serve,
            client_ip=client_ip or self.client_ip,
        )
        if match.route.stream:
            request.body_stream = BytesUpload(data, match.route.max_body)
        else:
            request.body = data
        return request


def path_of(template: str, **parameters: str) -> str:
    """Fill a path template, percent-encoding every value: `path_of("/rooms/{room}/send", room="!a:b")`."""
    return template.format(**{name: quote(value, safe="") for name, value in parameters.items()})


def _query_value(value: str | int | bool | list[str]) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value


async def _collect(response: Response) -> Answer:
    """Read the whole body, and let the real renderer check and write the headers."""
    body = b"".join([chunk async for chunk in chunks_of(response)])
    head = Renderer(TwistedClock(TaskClock())).head(response, length=len(body), close=False)
    headers: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, separator, value = line.partition(": ")
        if separator:
            headers[name.lower()] = value
    is_json = headers.get("content-type", "").startswith("application/json") and body
    return Answer(response.status, headers, body, msgspec.json.decode(body) if is_json else None)
