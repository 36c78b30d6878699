"""Router: from a request to its answer, through every gate, in one function.

MUSTs: 1. `dispatch` never raises and its Deferred never fails; 2. a handler that never waits costs no Deferred;
3. every refusal is the standard error response; 4. an exception of ours is a 500 with an id, and the log has the rest.
spec: client-server-api#common-error-codes
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from ipaddress import IPv6Address
from types import CoroutineType, coroutine
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred

from federation.errors import Malformed
from homeserver.http.converters import CONVERT, MAY_BE_EMPTY
from homeserver.http.errors import ClientGone, MatrixError, too_large, unrecognized, wrong_method
from homeserver.http.ratelimit import RateLimiter
from homeserver.http.request import Request, decode_component
from homeserver.http.response import Response, to_response
from homeserver.http.route import Auth, Match, Parameter, Route

__all__ = ["Auth", "FailureLog", "Match", "Route", "Router"]

Authenticate = Callable[[Request, Auth], Any]
"""Gives the requester, or a coroutine or Deferred of it, or raises MatrixError; not called for Auth.NONE."""
Translate = Callable[[Exception], MatrixError | None]
"""What lower layers raise and is not our fault (a database that is gone), as the answer for the client."""
RateKey = Callable[[Request], str | None]
"""Whom a rate limit counts; None for somebody who is exempt."""

# COMPAT(bots and bridges written before v1.1 of the specification, which named the version of these endpoints r0)
_HAD_R0 = (["_matrix", "client"], ["_matrix", "media"])
# What counts the requests of a server where their route names no class of its own.
FEDERATION_LIMIT = "federation"
ALL_GROUPS: frozenset[str] = frozenset({"client", "federation", "web", "health", "metrics"})


class FailureLog(Protocol):
    """Records an exception of ours, with its traceback."""

    def __call__(self, error_id: str, request: Request, error: BaseException) -> None: ...


def default_rate_key(request: Request) -> str | None:
    """The user where there is one, else the address; requesters may carry `rate_limited = False`."""
    requester = request.requester
    if requester is None:
        return address_key(request.client_ip)
    if not getattr(requester, "rate_limited", True):
        return None
    return getattr(requester, "user_id", None) or address_key(request.client_ip)


def address_key(address: str) -> str:
    """IPv6 by its /64: that is what one customer is given, so single addresses of it would be no limit at all."""
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or IPv6Address(int(parsed) >> 64 << 64))


def no_translation(_: Exception) -> MatrixError | None:
    """Every exception but the errors of the specification is a fault of ours."""
    return None


class _Node:
    """One place in the trie of path segments."""

    __slots__ = ("literals", "parameter", "rest", "routes")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.routes: dict[str, _Leaf] = {}
        self.rest: dict[str, _Leaf] = {}


class _Leaf:
    """A route with its parameters prepared."""

    __slots__ = ("may_be_empty", "parameters", "route")

    def __init__(self, route: Route, names: Sequence[tuple[str, str]]) -> None:
        self.route = route
        self.parameters: tuple[Parameter, ...] = tuple((name, CONVERT[kind]) for name, kind in names)
        self.may_be_empty = tuple(kind in MAY_BE_EMPTY for _, kind in names)

    def fits(self, values: tuple[str, ...], serve: frozenset[str]) -> bool:
        """Served by this listener, and no empty segment where a value must be."""
        if self.route.serve not in serve:
            return False
        return all(value or empty for value, empty in zip(values, self.may_be_empty, strict=True))


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
        translate: Translate = no_translation,
    ) -> None:
        self.routes = tuple(routes)
        self._authenticate = authenticate
        self._ratelimit = ratelimit
        self._new_error_id = new_error_id
        self._log_failure = log_failure
        self._rate_key = rate_key
        self._translate = translate
        self._root = _Node()
        for route in self.routes:
            self._add(route)

    # --- the table ---

    def _add(self, route: Route) -> None:
        node = self._root
        names: list[tuple[str, str]] = []
        is_rest = False
        for part in route.segments():
            if isinstance(part, str):
                node = node.literals.setdefault(part, _Node())
                continue
            names.append(part)
            is_rest = part[1] == "path"
            if is_rest:
                break
            if node.parameter is None:
                node.parameter = _Node()
            node = node.parameter
        table = node.rest if is_rest else node.routes
        if route.method in table:
            raise ValueError(f"two routes for {route.method} {route.template}")
        table[route.method] = _Leaf(route, names)

    def resolve(self, method: str, raw_path: bytes, serve: frozenset[str]) -> Match:
        """The route of a path; never raises. Known before the body is read, for its limits."""
        # Splitting comes before decoding, so that a %2F stays inside its segment.
        segments = raw_path.decode("latin-1").split("/")
        if b"%" in raw_path or not raw_path.isascii() or b"\0" in raw_path:
            try:
                segments = [decode_component(part, "path") for part in raw_path.split(b"/")]
            except MatrixError as error:
                return Match(_refusal(error))
        # Nearly every request finds its route on the straight way: literals first, and no turning back.
        node: _Node | None = self._root
        values: list[str] = []
        for segment in segments[1:]:
            following = node.literals.get(segment) if node is not None else None
            if following is None and node is not None:
                following = node.parameter
                values.append(segment)
            if following is None:
                break
            node = following
        else:
            leaf = node.routes.get(method) if node is not None else None
            if leaf is not None and leaf.route.serve in serve and "" not in values and not segments[0]:
                return Match(leaf.route, leaf.parameters, tuple(values))
        return self._resolve_thoroughly(method, segments, serve)

    def _resolve_thoroughly(self, method: str, segments: list[str], serve: frozenset[str]) -> Match:
        """With empty values, HEAD, ways that part again; and the refusals."""
        if segments[0] or len(segments) < 2:
            return Match(_refusal(unrecognized()))
        if segments[3:4] == ["r0"] and segments[1:3] in _HAD_R0:
            segments = [*segments[:3], "v3", *segments[4:]]
        allowed: set[str] = set()
        for table, values in self._candidates(self._root, segments, 1, ()):
            leaf = table.get(method)
            if leaf is None and method == "HEAD":
                leaf = table.get("GET")
            if leaf is not None and leaf.fits(values, serve):
                return Match(leaf.route, leaf.parameters, values)
            allowed.update(name for name, other in table.items() if other.fits(values, serve))
        if allowed:
            return Match(_refusal(wrong_method(sorted(allowed | {"OPTIONS"}))))
        return Match(_refusal(unrecognized()))

    def _candidates(
        self, node: _Node, segments: list[str], index: int, values: tuple[str, ...]
    ) -> Generator[tuple[dict[str, _Leaf], tuple[str, ...]]]:
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
            refusal = error
        except Malformed as error:
            refusal = MatrixError(error.status, error.errcode, str(error))
        except (ClientGone, CancelledError):
            # Nobody reads this answer: the connection is gone, or the server is stopping hard.
            refusal = MatrixError(503, "M_UNKNOWN", "The request was given up")
        except Exception as error:  # noqa: BLE001 (this is where our bugs become a 500 and a log entry)
            refusal = self._translate(error) or self._fault(request, error)
        return request.match.route.refuse(refusal)

    def _fault(self, request: Request, error: Exception) -> MatrixError:
        error_id = self._new_error_id()
        self._log_failure(error_id, request, error)
        return MatrixError(500, "M_UNKNOWN", f"Internal server error ({error_id})")

    async def _run(self, request: Request) -> Response:
        """Listener group (in resolve), authentication, rate limit, path parameters, body, handler: in this order."""
        match = request.match
        route = match.route
        if route.auth is not Auth.NONE:
            requester = self._authenticate(request, route.auth)
            # A cached token is answered at once; isawaitable would cost more than that look-up.
            if type(requester) is CoroutineType or isinstance(requester, Deferred):
                requester = await requester
            request.requester = requester
        limit = route.limit or (FEDERATION_LIMIT if route.auth is Auth.FEDERATION else "")
        if limit:
            key = self._rate_key(request)
            if key is not None:
                self._ratelimit.check(limit, key, getattr(request.requester, "rate", None))
        if len(request.body) > route.max_body:
            raise too_large()
        if not match.values:
            return to_response(await route.handler(request))
        parameters = {
            name: convert(value)
            for (name, convert), value in zip(match.parameters, match.values, strict=True)
        }
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
        except BaseException as error:  # noqa: BLE001 (passed on, whatever it is)
            failure: BaseException | None = error
        else:
            failure = None
        try:
            awaited = running.send(value) if failure is None else running.throw(failure)
        except StopIteration as done:
            response: Response = done.value
            return response
