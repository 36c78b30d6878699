"""``TestNet``: several whole servers in one process, on one clock, with a network between them that obeys the test.

    net = TestNet(self)
    a, b = net.server("a.example"), net.server("b.example")     # each a TestApp
    token = a.register("alice")
    net.settle()                                                # until nothing is under way
    net.advance(60)                                             # let time pass, timer by timer
    net.down("b.example"); net.up("b.example")
    evil = net.stranger("evil.example")                         # no server: a key, and what the test makes of it
    status, json = evil.ask("b.example", "PUT", "/_matrix/federation/v1/send/1", {...})
    evil.answers["GET", "/_matrix/federation/v1/event/"] = lambda request: (200, {...})

Requests are signed, carried to the other's router and verified there, keys are fetched through the same network. What
travels can be looked at (``net.requests``), changed, answered or lost: see ``tamper`` and ``tamper_answers``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from federation.canonical import encode_checked
from federation.ids import ServerName, parse_server_name
from federation.keyring import VerifyKey, build_key_response
from federation.signing import SigningKey
from federation.xmatrix import build
from homeserver.app import ExtraRoutes
from homeserver.config.registrations import AppserviceRegistration
from homeserver.http.transport import AnswerTooLarge, PeerRequest, PeerResponse, Unreachable
from homeserver.runtime.clock import DelayedCall, TwistedClock
from tests.support.app import TestApp, new_time, test_config, test_key
from tests.support.http import Answer

T = TypeVar("T")

MAX_TURNS = 100_000
WEEK_MS = 7 * 24 * 3600 * 1000

Tamper = Callable[[ServerName, PeerRequest], "PeerRequest | PeerResponse | Exception | None"]
TamperAnswer = Callable[[ServerName, PeerRequest, PeerResponse], "PeerResponse | Exception | None"]
Answerer = Callable[[PeerRequest], "tuple[int, Any] | None"]
"""Gives a status and JSON (or bytes, sent as they are), or None for never an answer."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request that was on its way."""

    origin: ServerName
    request: PeerRequest

    @property
    def path(self) -> str:
        return self.request.uri.partition("?")[0]

    @property
    def json(self) -> Any:
        return None if self.request.body is None else msgspec.json.decode(self.request.body)


class Wire:
    """One server's end of the network: implements ``homeserver.http.transport.Transport``."""

    def __init__(self, net: TestNet, origin: ServerName) -> None:
        self._net = net
        self.origin = origin

    def send(
        self, request: PeerRequest, receive: Callable[[bytes], None] | None = None
    ) -> Deferred[PeerResponse]:
        return self._net.carry(self.origin, request, receive)


class NetServer(TestApp):
    """A TestApp that can be reached by the others."""

    __test__ = False

    def __init__(self, net: TestNet, name: ServerName, case: TestCase, **options: Any) -> None:
        super().__init__(case, time=net.time, transport=Wire(net, name), **options)
        self.name = name
        self.app.begin()

    def restart(self) -> None:
        """Another process on the same database: nothing in memory is kept."""
        super().restart()
        self.app.begin()


class Stranger:
    """Something that has a signing key and a place on the network, and is no server of ours: for lies."""

    def __init__(self, net: TestNet, name: ServerName, key: SigningKey) -> None:
        self.net = net
        self.name = name
        self.key = key
        # By method and the beginning of the path, the longest first; set None to be silent there.
        self.answers: dict[tuple[str, str], Answerer | None] = {
            ("GET", "/_matrix/key/v2/server"): lambda _: (200, self.key_response())
        }

    def key_response(self, valid_ms: int = WEEK_MS) -> dict[str, Any]:
        """What an honest server would publish."""
        return build_key_response([self.key], [], self.net.now_ms + valid_ms)

    def authorization(
        self, destination: str, method: str, uri: str, content: Any = None, key: SigningKey | None = None
    ) -> str:
        """The X-Matrix header of a request."""
        return build(
            key or self.key,
            method=method,
            uri=uri,
            destination=ServerName(destination),
            canonical_body=_body(content),
        )

    def start(
        self,
        destination: str,
        method: str,
        uri: str,
        content: Any = None,
        *,
        authorization: str | None = None,
    ) -> Deferred[PeerResponse]:
        """Begin a signed request (or one with the header given)."""
        if authorization is None:
            authorization = self.authorization(destination, method, uri, content)
        request = PeerRequest(ServerName(destination), method, uri, authorization, _body(content), 120.0)
        return self.net.carry(self.name, request, None)

    def ask(
        self,
        destination: str,
        method: str,
        uri: str,
        content: Any = None,
        *,
        authorization: str | None = None,
    ) -> tuple[int, Any]:
        """A signed request's status and JSON."""
        response = self.net.wait(self.start(destination, method, uri, content, authorization=authorization))
        return response.status, msgspec.json.decode(response.body) if response.body else None

    def answer(self, request: PeerRequest) -> PeerResponse | None:
        """What it says to a request; None for nothing, ever."""
        path = request.uri.partition("?")[0]
        fitting = [
            (prefix, answerer)
            for (method, prefix), answerer in self.answers.items()
            if method == request.method and path.startswith(prefix)
        ]
        if not fitting:
            return PeerResponse(404, b'{"errcode":"M_UNRECOGNIZED","error":"a stranger"}')
        answerer = max(fitting, key=lambda one: len(one[0]))[1]
        answered = None if answerer is None else answerer(request)
        if answered is None:
            return None
        status, content = answered
        body = content if isinstance(content, bytes) else msgspec.json.encode(content)
        return PeerResponse(status, body)


class TestNet:
    """See the module."""

    __test__ = False

    def __init__(self, case: TestCase) -> None:
        self.case = case
        self.time = new_time()
        self._clock = TwistedClock(self.time)
        self.servers: dict[ServerName, NetServer] = {}
        self.strangers: dict[ServerName, Stranger] = {}
        self.requests: list[Sent] = []
        self._down: set[str] = set()
        self._cut: set[tuple[str, str]] = set()
        self._tampers: list[Tamper] = []
        self._answer_tampers: list[TamperAnswer] = []

    # --- who is there --------------------------------------------------------------------------------

    def server(
        self,
        name: str,
        *,
        database: str = "sqlite::memory:",
        extra_routes: Sequence[ExtraRoutes] = (),
        old_keys: Sequence[VerifyKey] = (),
        http: Any = None,
        appservice_http: Any = None,
        registrations: Sequence[AppserviceRegistration] = (),
        **config: Any,
    ) -> NetServer:
        """A server; ``config`` are fields of ``Config``."""
        parsed = parse_server_name(name)
        number = len(self.servers) + len(self.strangers) + 2
        server = NetServer(
            self,
            parsed,
            self.case,
            database=database,
            config=test_config(server_name=name, **{"data_dir": Path(self.case.mktemp()), **config}),
            seed=number,
            signing_keys=(test_key(name, seed=number),),
            extra_routes=extra_routes,
            old_keys=old_keys,
            http=http,
            appservice_http=appservice_http,
            registrations=registrations,
        )
        self.servers[parsed] = server
        return server

    def stranger(self, name: str) -> Stranger:
        """A name on the network that does what the test says."""
        parsed = parse_server_name(name)
        number = len(self.servers) + len(self.strangers) + 2
        stranger = Stranger(self, parsed, test_key(name, seed=number))
        self.strangers[parsed] = stranger
        return stranger

    # --- the network ---------------------------------------------------------------------------------

    def down(self, *names: str) -> None:
        """Requests to and from these fail, at once."""
        self._down.update(names)

    def up(self, *names: str) -> None:
        self._down.difference_update(names)

    def part(self, one: str, other: str) -> None:
        """These two do not reach each other."""
        self._cut |= {(one, other), (other, one)}

    def heal(self) -> None:
        """Everybody reaches everybody."""
        self._cut.clear()
        self._down.clear()

    def tamper(self, change: Tamper) -> None:
        """See each request before it arrives: give another, an answer in its place, an exception; None leaves it."""
        self._tampers.append(change)

    def tamper_answers(self, change: TamperAnswer) -> None:
        """The same for answers, which have arrived: the other server has done what it was asked for."""
        self._answer_tampers.append(change)

    def untamper(self) -> None:
        """An honest network again."""
        self._tampers.clear()
        self._answer_tampers.clear()

    def sent(self, path: str = "", origin: str | None = None, destination: str | None = None) -> list[Sent]:
        """The requests so far whose path holds this, by origin and destination."""
        return [
            one
            for one in self.requests
            if path in one.path
            and origin in (None, one.origin)
            and destination in (None, one.request.destination)
        ]

    def carry(
        self, origin: ServerName, request: PeerRequest, receive: Callable[[bytes], None] | None
    ) -> Deferred[PeerResponse]:
        """Bring a request to its destination, in a turn of its own, and the answer back."""
        result: Deferred[PeerResponse] = Deferred()
        timer: DelayedCall = self._clock.callLater(request.timeout_s, self._fail, result, "it took too long")

        def stop_timer(outcome: T) -> T:
            if timer.active():
                timer.cancel()
            return outcome

        result.addBoth(stop_timer)
        self.time.callLater(0, self._arrive, origin, request, receive, result)
        return result

    def _fail(self, result: Deferred[PeerResponse], why: str) -> None:
        if not result.called:
            result.errback(Unreachable(why))

    def _arrive(
        self,
        origin: ServerName,
        request: PeerRequest,
        receive: Callable[[bytes], None] | None,
        result: Deferred[PeerResponse],
    ) -> None:
        self.requests.append(Sent(origin, request))
        destination = request.destination
        if {origin, destination} & self._down or (origin, destination) in self._cut:
            self._fail(result, f"{destination} is not reached")
            return
        for change in self._tampers:
            changed = change(origin, request)
            if isinstance(changed, Exception):
                self._fail(result, str(changed))
                return
            if isinstance(changed, PeerResponse):
                self._deliver(request, receive, result, changed)
                return
            request = changed or request
        if destination in self.strangers:
            answer = self.strangers[destination].answer(request)
            if answer is not None:
                self._deliver(request, receive, result, answer)
        elif destination in self.servers:
            self._call(origin, request).addCallbacks(
                lambda answer: self._answered(origin, request, receive, result, answer),
                lambda failure: None if result.called else result.errback(failure),
            )
        else:
            self._fail(result, f"there is no {destination}")

    def _call(self, origin: ServerName, request: PeerRequest) -> Deferred[Answer]:
        headers = {} if request.authorization is None else {"Authorization": request.authorization}
        return self.servers[request.destination].http.call(
            request.method, request.uri, request.body, headers=headers, client_ip=_address(origin)
        )

    def _answered(
        self,
        origin: ServerName,
        request: PeerRequest,
        receive: Callable[[bytes], None] | None,
        result: Deferred[PeerResponse],
        answer: Answer,
    ) -> None:
        response = PeerResponse(answer.status, answer.body, answer.headers)
        for change in self._answer_tampers:
            changed = change(origin, request, response)
            if isinstance(changed, Exception):
                self._fail(result, str(changed))
                return
            response = changed or response
        # In a turn of its own, so that nobody's code runs inside another server's.
        self.time.callLater(0, self._deliver, request, receive, result, response)

    def _deliver(
        self,
        request: PeerRequest,
        receive: Callable[[bytes], None] | None,
        result: Deferred[PeerResponse],
        response: PeerResponse,
    ) -> None:
        if result.called:
            return
        if len(response.body) > request.max_bytes:
            result.errback(AnswerTooLarge("the answer is too large"))
            return
        if receive is not None and 200 <= response.status < 300:
            for start in range(0, len(response.body), 1000):
                receive(response.body[start : start + 1000])
            response = replace(response, body=b"")
        result.callback(response)

    # --- time ----------------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        return int(self.time.seconds() * 1000)

    def settle(self) -> None:
        """Let everything happen that is due now."""
        for _ in range(MAX_TURNS):
            if self._next_s() > self.time.seconds():
                return
            self.time.advance(0)
        raise AssertionError("the servers do not come to rest")

    def advance(self, seconds: float) -> None:
        """Let time pass: from timer to timer, each at its own moment."""
        end_s = self.time.seconds() + seconds
        for _ in range(MAX_TURNS):
            self.settle()
            now_s = self.time.seconds()
            next_s = self._next_s()
            if next_s > end_s:
                break
            self.time.advance(max(0.0, next_s - now_s))
        else:
            raise AssertionError("too many timers")
        self.time.advance(max(0.0, end_s - self.time.seconds()))
        self.settle()

    def leap(self, seconds: float) -> None:
        """Let days pass as a machine that slept would see it: every timer that came due fires at the end."""
        self.settle()
        self.time.advance(seconds)
        self.settle()

    def _next_s(self) -> float:
        """When the next timer is due."""
        calls: Any = self.time.getDelayedCalls()
        return min((call.getTime() for call in calls), default=math.inf)

    def wait(self, waiting: Deferred[T], limit_s: float = 120) -> T:
        """The result, after as much time as it takes."""
        results: list[Any] = []
        waiting.addBoth(results.append)
        self.settle()
        end_s = self.time.seconds() + limit_s
        while not results and self.time.seconds() < end_s:
            self.advance(0.5)
        if not results:
            raise AssertionError("still waiting")
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def until(self, condition: Callable[[], bool], limit_s: float = 120) -> None:
        """Let time pass until something is so."""
        self.settle()
        end_s = self.time.seconds() + limit_s
        while not condition():
            if self.time.seconds() >= end_s:
                raise AssertionError("it did not come to pass")
            self.advance(0.5)


def _body(content: Any) -> bytes | None:
    if content is None or isinstance(content, bytes):
        return content
    return encode_checked(dict(content) if isinstance(content, Mapping) else content, strict=False)


def _address(origin: ServerName) -> str:
    """An address for each origin, so that limits by address tell them apart."""
    return f"198.51.100.{sum(origin.encode()) % 250 + 1}"
