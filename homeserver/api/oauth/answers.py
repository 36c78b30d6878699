"""How OAuth 2.0 is asked and answers: forms in, JSON out, refusals in its own words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from homeserver.http.errors import MatrixError
from homeserver.http.request import Request, parse_query
from homeserver.http.response import EMPTY_JSON, Response, json_response
from homeserver.oauth.types import OAuthError

# Tokens are for who asked, and for no store on the way. spec: RFC 6749 section 5.1
NO_STORE: Final = ((b"Cache-Control", b"no-store"), (b"Pragma", b"no-cache"))
_FORM: Final = b"application/x-www-form-urlencoded"
# Client errors that are none for long.
_PASSING: Final = frozenset((408, 429))
_RETRY_AFTER: Final = (b"Retry-After", b"5")


def read_form(request: Request) -> dict[str, str]:
    """The parameters of a form. Raises OAuthError."""
    kind = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != _FORM:
        raise OAuthError("invalid_request", "The body must be application/x-www-form-urlencoded")
    try:
        said = parse_query(request.body)
    except MatrixError as error:
        raise OAuthError("invalid_request", "The body is no form") from error
    if any(len(values) > 1 for values in said.values()):
        # spec: RFC 6749 section 3.2
        raise OAuthError("invalid_request", "A parameter is there twice")
    return {name: values[0] for name, values in said.items()}


async def answered(make: Callable[[], Awaitable[Any]], status: int = 200) -> Response:
    """The answer that something makes, or its refusal."""
    try:
        return json_response(await make(), status, list(NO_STORE))
    except OAuthError as error:
        return json_response(error.to_json(), error.status, list(NO_STORE))


def refusal(error: MatrixError) -> Response:
    """What is refused before an endpoint is asked, or because it could not answer.

    At a 4xx, and some apps at JSON with an ``error`` whatever the status is, an app takes its login for ended and forgets
    its keys. So what only has to be waited for is a 5xx that says nothing.
    """
    # spec: client-server-api#refresh-token-grant
    status = 503 if error.status in _PASSING else error.status
    if status >= 500:
        headers = [*NO_STORE, *(error.headers or (_RETRY_AFTER,))]
        # COMPAT(Element Web, always): while it waits for a device it gives up at a body that is not JSON; elsewhere it
        # may take what is called JSON for an error of Matrix.
        return Response(status, EMPTY_JSON, headers, content_type=None)
    told = OAuthError("invalid_request", error.error)
    return json_response(told.to_json(), status, [*NO_STORE, *error.headers])
