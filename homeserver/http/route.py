"""Route: one row of the endpoint table, and Match: what a path and a method lead to.

Handler modules list their `Route`s; `router.Router` builds the trie of them and runs them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, Protocol

from homeserver.http.errors import MatrixError
from homeserver.http.response import Response

Handler = Callable[..., Awaitable[Any]]
Parameter = tuple[str, Callable[[str], Any]]
"""The name that the handler knows a path parameter by, and its converter."""
ListenerGroup = Literal["client", "federation", "web", "health", "metrics"]

DEFAULT_MAX_BODY: Final = 262_144
CONVERTERS: Final = frozenset(
    {
        "str",
        "text",
        "int",
        "path",
        "room_id",
        "user_id",
        "member_id",
        "event_id",
        "room_alias",
        "room_id_or_alias",
        "server_name",
        "device_id",
        "txn_id",
    }
)

_PARAMETER = re.compile(r"\{([a-z][a-z0-9_]*)(?::([a-z_]+))?\}")


class Auth(Enum):
    """Who may call a route; the authenticator given to the router decides it."""

    NONE = "none"
    OPTIONAL = "optional"
    USER = "user"
    GUEST_OK = "guest_ok"
    ADMIN = "admin"
    APPSERVICE = "appservice"
    FEDERATION = "federation"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """An endpoint. `handler(request, **path_params)`; the parameters are named in the template.

    Template parameters: `{name}` or `{name:converter}`; a parameter is one whole segment. Converters: str (not
    empty), text (may be empty: `/state/{event_type}/{state_key:text}`), int, the identifiers, and path (the rest,
    last only, may be empty).
    """

    method: str
    template: str
    handler: Handler
    spec: str
    """The anchor in the specification, or in our own documentation."""
    auth: Auth = Auth.USER
    limit: str = ""
    """The rate-limit class; empty for none (`federation` for routes with Auth.FEDERATION)."""
    max_body: int = DEFAULT_MAX_BODY
    stream: bool = False
    """The handler starts when the headers are there and reads `request.body_stream` itself."""
    body_timeout_s: float = 60.0
    """For the whole body; for stream=True the longest time in which nothing of note arrives."""
    serve: ListenerGroup = "client"
    cancel_on_disconnect: bool = False
    """Cancel the handler when the client goes away: long polls. Others finish what they began."""
    suspended_may: bool = False
    """A suspended account may call it; what it may GET it may in any case."""
    locked_may: bool = False
    """A locked account may call it."""
    refuse: Callable[[MatrixError], Response] = MatrixError.to_response
    """How a refusal is told, the router's own too: to clients as the standard error (or as OAuth 2.0 has it), to people as a page."""
    upgrade: bool = False
    """A GET that may ask for `Upgrade`: the server's upgrade hook takes the connection over."""

    def segments(self) -> list[str | tuple[str, str]]:
        """The template's segments: literals as str, parameters as (name, converter)."""
        if not self.template.startswith("/"):
            raise ValueError(f"route template must start with a slash: {self.template}")
        parsed: list[str | tuple[str, str]] = []
        for segment in self.template[1:].split("/"):
            found = _PARAMETER.fullmatch(segment)
            if found is not None:
                parsed.append((found[1], found[2] or "str"))
            elif "{" in segment or "}" in segment:
                raise ValueError(f"a parameter must be a whole segment: {self.template}")
            else:
                parsed.append(segment)
        for index, part in enumerate(parsed):
            if isinstance(part, tuple) and part[1] not in CONVERTERS:
                raise ValueError(f"unknown converter {part[1]} in {self.template}")
            if isinstance(part, tuple) and part[1] == "path" and index != len(parsed) - 1:
                raise ValueError(f"a path parameter must be the last one: {self.template}")
        return parsed


class Match:
    """The route, and the percent-decoded values of its path parameters with what converts them.

    Without a fitting route `route` is one of the router's own, whose handler refuses with the right error.
    (A plain class: one is made per request, and a frozen dataclass takes three times as long.)
    """

    __slots__ = ("parameters", "route", "values")

    def __init__(
        self, route: Route, parameters: tuple[Parameter, ...] = (), values: tuple[str, ...] = ()
    ) -> None:
        self.route = route
        self.parameters = parameters
        self.values = values


class HasRoutes(Protocol):
    """One area of the API."""

    def routes(self) -> list[Route]:
        """Its endpoints."""
