"""Authorization requests: what a browser was sent here with by an app, checked before anybody is asked anything.

1. Whose request it is, its address says, and that must be one that the app registered. Where it is not, nothing is sent
   back: the browser would be led wherever somebody likes (``RequestRefusedError``).
2. What else is wrong is told to the app, at its address (``SentBackError``).

# spec: client-server-api#authorisation-code-flow
# spec: RFC 6749 section 4.1.2.1, RFC 9700
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import urlencode

from homeserver.oauth.clients import Clients
from homeserver.oauth.scopes import parse_scope
from homeserver.oauth.types import (
    AuthorizationRequest,
    Client,
    RequestRefusedError,
    ResponseMode,
    Scope,
    SentBackError,
)
from homeserver.oauth.uris import is_same

_MODES: Final[Mapping[str, ResponseMode]] = {"query": "query", "fragment": "fragment"}
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_VALUE_LENGTH_MOST: Final = 2048
_ONCE: Final = (
    "response_type",
    "client_id",
    "redirect_uri",
    "scope",
    "state",
    "code_challenge",
    "response_mode",
)


class AuthorizationRequests:
    """See the module."""

    def __init__(self, clients: Clients, issuer: str) -> None:
        self._clients = clients
        self._issuer = issuer

    async def parse(self, args: Mapping[str, Sequence[str]]) -> AuthorizationRequest:
        """The request that a query makes. Raises RequestRefusedError and SentBackError."""
        client, redirect_uri = await self._whose(args)
        mode = _MODES.get(_first(args, "response_mode") or "query")
        request = AuthorizationRequest(
            client,
            redirect_uri,
            Scope("", ""),
            "",
            mode or "query",
            _first(args, "state"),
            _first(args, "nonce"),
            _first(args, "login_hint"),
            # `create` and `login` are the pages' (`api/account/gate.py`).
            "none" in (_first(args, "prompt") or "").split(" "),
        )
        if request.state is not None and len(request.state) > _VALUE_LENGTH_MOST:
            request = replace(request, state=None)
            raise self.sent_back(request, "invalid_request", "state is too long")
        if any(len(args.get(name, ())) > 1 for name in _ONCE):
            raise self.sent_back(request, "invalid_request", "A parameter is there twice")
        if mode is None:
            raise self.sent_back(request, "invalid_request", "response_mode must be query or fragment")
        if _first(args, "request") is not None or _first(args, "request_uri") is not None:
            raise self.sent_back(request, "request_not_supported", "Requests are made by parameters alone")
        return self._complete(request, args)

    async def _whose(self, args: Mapping[str, Sequence[str]]) -> tuple[Client, str]:
        client_id = _first(args, "client_id")
        client = None if client_id is None else await self._clients.find(client_id)
        if client is None or len(args["client_id"]) > 1:
            raise RequestRefusedError(
                "The app is not known here. Begin again in the app: it will introduce itself."
            )
        asked = _first(args, "redirect_uri")
        if asked is None and len(client.redirect_uris) == 1:
            return client, client.redirect_uris[0]
        if asked is None or len(args["redirect_uri"]) > 1:
            raise RequestRefusedError("The app does not say where to go back to.")
        if not any(is_same(asked, one) for one in client.redirect_uris):
            raise RequestRefusedError("The app asks to go back to an address that is not its own.")
        return client, asked

    def _complete(
        self, request: AuthorizationRequest, args: Mapping[str, Sequence[str]]
    ) -> AuthorizationRequest:
        kind = _first(args, "response_type")
        if kind is None:
            raise self.sent_back(request, "invalid_request", "response_type is missing")
        if kind != "code":
            raise self.sent_back(request, "unsupported_response_type", "response_type must be code")
        if "authorization_code" not in request.client.grant_types:
            raise self.sent_back(request, "unauthorized_client", "The app registered without this grant")
        scope = parse_scope(_first(args, "scope") or "")
        if isinstance(scope, str):
            raise self.sent_back(request, "invalid_scope", scope)
        # spec: client-server-api#authorisation-code-grant (S256 is a must)
        if _first(args, "code_challenge_method") != "S256":
            raise self.sent_back(request, "invalid_request", "code_challenge_method must be S256")
        challenge = _first(args, "code_challenge") or ""
        if _CHALLENGE.fullmatch(challenge) is None:
            raise self.sent_back(request, "invalid_request", "code_challenge is no SHA-256 in base64url")
        if request.nonce is not None and len(request.nonce) > _VALUE_LENGTH_MOST:
            raise self.sent_back(request, "invalid_request", "nonce is too long")
        return replace(request, scope=scope, challenge=challenge)

    def answer(self, request: AuthorizationRequest, **values: str) -> str:
        """Where the browser goes with an answer."""
        # spec: RFC 9207 (`iss`: so that no app takes the answer of one server for that of another)
        told = {**values, **({} if request.state is None else {"state": request.state}), "iss": self._issuer}
        if request.mode == "fragment":
            return f"{request.redirect_uri}#{urlencode(told)}"
        return f"{request.redirect_uri}{'&' if '?' in request.redirect_uri else '?'}{urlencode(told)}"

    def sent_back(self, request: AuthorizationRequest, error: str, description: str) -> SentBackError:
        """To be raised: the app is told what is wrong."""
        return SentBackError(self.answer(request, error=error, error_description=description))


def _first(args: Mapping[str, Sequence[str]], name: str) -> str | None:
    """A value, where it is there and not empty. spec: RFC 6749 section 3.1"""
    values = args.get(name)
    return values[0] if values and values[0] and "\0" not in values[0] else None
