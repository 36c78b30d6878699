"""How OAuth 2.0 is asked and answers: forms in, JSON out, refusals in its own words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from homeserver.http.errors import MatrixError
from homeserver.http.request import Request, parse_query
from homeserver.http.response import Response, json_response
from homeserver.oauth.types import OAuthError

# Tokens are for who asked, and for no store on the way. spec: RFC 6749 section 5.1
NO_STORE: Final = ((b"Cache-Control", b"no-store"), (b"Pragma", b"no-cache"))
_FORM: Final = b"application/x-www-form-urlencoded"


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
