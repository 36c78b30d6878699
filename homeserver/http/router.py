"""Router: from a request to its answer, through every gate, in one function.

MUSTs: 1. `dispatch` never raises and its Deferred never fails; 2. a handler that never waits costs no Deferred;
3. every refusal is the standard error response; 4. an exception of ours is a 500 with an id, and the log has the rest.
spec: client-server-api#common-error-codes
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from inspect import isawaitable
from types import coroutine
from typing import Any, Protocol

from federation.errors import Malformed
from twisted.internet.defer import CancelledError, Deferred

from homeserver.http.converters import CONVERT, MAY_BE_EMPTY
from homeserver.http.errors import ClientGone, MatrixError, too_large, unrecognized, wrong_method
from homeserver.http.ratelimit import RateLimiter
from homeserver.http.request import Request, decode_component
from homeserver.http.response import Response, to_response
from homeserver.http.route import Auth, Match, Route

__all__ = ["Auth", "FailureLog", "Match", "Route", "Router"]

Authenticate = Callable[[Request, Auth], Any]
"""Gives the requester, or an awaitable of it, or raises MatrixError; not called for Auth.NONE."""
RateKey = Callable[[Request], str | None]
"""Whom a rate limit counts; None for somebody who is exempt."""

ALL_GROUPS: frozenset[str] = frozenset({"client", "federation", "web", "health", "metrics"})


class FailureLog(Protocol):
    """Records an exception of ours, with its traceback."""

    def __call__(self, error_id: str, request: Request, error: BaseException) -> None: ...


def default_rate_key(request: Request) -> str | None:
    """The user where there is one, else the address; requesters may carry `rate_limited = False`."""
    requester = request.requester
    if requester is None:
        return request.client_ip
    if not getattr(requester, "rate_limited", True):
        return None
    return getattr(requester, "user_id", None) or request.client_ip


class _Node:
    """One place in the trie of path segments."""

    __slots__ = ("literals", "parameter", "rest", "routes")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.routes: dict[str, Route] = {}
        self.rest: dict[str, Route] = {}


_Parameters = tuple[tuple[str, str], ...]


class Router:
    """The route table and the gates before the handlers."""

    def __init__(
        self,
        routes: Iterable[Route],
        *,
        authenticate: Authenticate,
        ratelimit: RateLimiter,
        new_error_id: Callable[[], str],
        log_failure: FailureLog,
        rate_key: RateKey = default_rate_key,
    ) -> None:
        self.routes = tuple(routes)
        self._authenticate = authenticate
        self._ratelimit = ratelimit
        self._new_error_id = new_error_id
        self._log_failure = log_failure
        self._rate_key = rate_key
        self._root = _Node()
        self._static: dict[bytes, _Node] = {}
        self._parameters: dict[Route, _Parameters] = {}
        for route in self.routes:
            self._add(route)

    # --- the table ---

    def _add(self, route: Route) -> None:
        node = self._root
        names: list[tuple[str, str]] = []
        last = ""
        for part in route.segments():
            if isinstance(part, str):
                node = node.literals.setdefault(part, _Node())
                continue
            names.append(part)
            last = part[1]
            if last == "path":
                break
            if node.parameter is None:
                node.parameter = _Node()
            node = node.parameter
        table = node.rest if last == "path" else node.routes
        if route.method in table:
            raise ValueError(f"two routes for {route.method} {route.template}")
        table[route.method] = route
        self._parameters[route] = tuple(names)
        if not names:
            self._static[route.template.encode("ascii")] = node

    def resolve(self, method: str, raw_path: bytes, serve: frozenset[str]) -> Match:
        """The route of a path; never raises. Known before the body is read, for its limits."""
        node = self._static.get(raw_path)
        if node is not None:
            route = node.routes.get(method)
            if route is not None and route.serve in serve:
                return Match(route)
        try:
            segments = [decode_component(part, "path") for part in raw_path[1:].split(b"/")]
        except MatrixError as error:
            return Match(_refusal(error))
        if not raw_path.startswith(b"/"):
            return Match(_refusal(unrecognized()))
        allowed: set[str] = set()
        for table, values in self._candidates(self._root, segments, 0, ()):
            found = self._choose(table, method, values, serve, allowed)
            if found is not None:
                return found
        if allowed:
            return Match(_refusal(wrong_method(sorted(allowed | {"OPTIONS"}))))
        return Match(_refusal(unrecognized()))

    def _candidates(
        self, node: _Node, segments: list[str], index: int, values: tuple[str, ...]
    ) -> Generator[tuple[dict[str, Route], tuple[str, ...]]]:
        """Every leaf that the segments lead to, literals first; the depth is that of the table, not of the path."""
        if index == len(segments):
            if node.routes:
                yield node.routes, values
            return
        segment = segments[index]
        literal = node.literals.get(segment)
        if literal is not None:
            yield from self._candidates(literal, segments, index + 1, values)
        if node.parameter is not None:
            yield from self._candidates(node.parameter, segments, index + 1, (*values, segment))
        if node.rest:
            yield node.rest, (*values, "/".join(segments[index:]))

    def _choose(
        self,
        table: Mapping[str, Route],
        method: str,
        values: tuple[str, ...],
        serve: frozenset[str],
        allowed: set[str],
    ) -> Match | None:
        """The table's route for the method, if this listener serves it; else its methods go to `allowed`."""
        route = table.get(method)
        if route is None and method == "HEAD":
            route = table.get("GET")
        if route is not None and route.serve in serve and self._fits(route, values):
            names = self._parameters[route]
            return Match(route, {name: value for (name, _), value in zip(names, values, strict=True)})
        for other in table.values():
            if other.serve in serve and self._fits(other, values):
                allowed.add(other.method)
        return None

    def _fits(self, route: Route, values: tuple[str, ...]) -> bool:
        """An empty segment is no value, except for the converters that say so."""
        if all(values):
            return True
        names = self._parameters[route]
        return all(value or kind in MAY_BE_EMPTY for (_, kind), value in zip(names, values, strict=True))

    # --- the gates ---

    def dispatch(self, request: Request) -> Response | Deferred[Response]:
        """The answer, at once where the handler did not wait. Never raises; the Deferred never fails."""
        running = self._answer(request)
        try:
            awaited = running.send(None)
        except StopIteration as done:
            response: Response = done.value
            return response
        return Deferred.fromCoroutine(_continue(running, awaited))

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._run(request)
        except MatrixError as error:
            return error.to_response()
        except Malformed as error:
            return MatrixError(error.status, error.errcode, str(error)).to_response()
        except (ClientGone, CancelledError):
            # Nobody reads this answer: the connection is gone, or the server is stopping hard.
            return MatrixError(503, "M_UNKNOWN", "The request was given up").to_response()
        except Exception as error:
            error_id = self._new_error_id()
            self._log_failure(error_id, request, error)
            return MatrixError(500, "M_UNKNOWN", f"Internal server error ({error_id})").to_response()

    async def _run(self, request: Request) -> Response:
        """Listener group (in resolve), authentication, rate limit, path parameters, body, handler: in this order."""
        match = request.match
        route = match.route
        if route.auth is not Auth.NONE:
            requester = self._authenticate(request, route.auth)
            if isawaitable(requester):
                requester = await requester
            request.requester = requester
        if route.limit:
            key = self._rate_key(request)
            if key is not None:
                self._ratelimit.check(route.limit, key)
        if len(request.body) > route.max_body:
            raise too_large()
        if not match.values:
            return to_response(await route.handler(request))
        parameters = {name: CONVERT[kind](match.values[name]) for name, kind in self._parameters[route]}
        return to_response(await route.handler(request, **parameters))


def _refusal(error: MatrixError) -> Route:
    """A route for what is no route: its handler raises the error, and a body is only read to be thrown away."""

    async def refuse(_: Request) -> Awaitable[None]:
        raise error

    return Route(
        method="GET", template="", handler=refuse, auth=Auth.NONE, max_body=65_536,
        spec="client-server-api#common-error-codes",
    )  # fmt: skip


@coroutine
def _continue(running: Coroutine[Any, Any, Response], awaited: Any) -> Generator[Any, Any, Response]:
    """Go on with a coroutine that has already been started, as `yield from` would from the middle."""
    value: Any = None
    while True:
        try:
            value = yield awaited
        except GeneratorExit:
            running.close()
            raise
        except BaseException as error:
            failure: BaseException | None = error
        else:
            failure = None
        try:
            awaited = running.send(value) if failure is None else running.throw(failure)
        except StopIteration as done:
            response: Response = done.value
            return response
