"""Discovery: where clients and other servers find this server. spec: client-server-api#well-known-uris"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import msgspec

from federation.flows.discovery import DEFAULT_PORT, split_name
from homeserver.config.schema import Config, Support
from homeserver.http.errors import not_found
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route

HTTPS_PORT = 443
_CONTACT_KEYS = ("role", "matrix_id", "email_address")

# spec-declined: GET /.well-known/matrix/policy_server: this is no policy server, and speaks for none


class WellKnownApi:
    """The three documents, made once. `extra_client` adds to that of the clients (call relays, account pages)."""

    def __init__(self, config: Config, extra_client: Mapping[str, Any] = MappingProxyType({})) -> None:
        document = {"m.homeserver": {"base_url": config.base_url}, **extra_client, **config.client_well_known}
        self._client = msgspec.json.encode(
            {key: value for key, value in document.items() if value is not None}
        )
        server = _server(config)
        self._server = None if server is None else msgspec.json.encode({"m.server": server})
        support = _support(config.support)
        self._support = None if support is None else msgspec.json.encode(support)

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/.well-known/matrix/client",
                handler=self.client,
                auth=Auth.NONE,
                spec="client-server-api#getwell-knownmatrixclient",
            ),
            Route(
                method="GET",
                template="/.well-known/matrix/server",
                handler=self.server,
                auth=Auth.NONE,
                spec="server-server-api#getwell-knownmatrixserver",
            ),
            Route(
                method="GET",
                template="/.well-known/matrix/support",
                handler=self.support,
                auth=Auth.NONE,
                spec="client-server-api#getwell-knownmatrixsupport",
            ),
        ]

    async def client(self, _: Request) -> bytes:
        return self._client

    async def server(self, _: Request) -> bytes:
        if self._server is None:
            raise not_found("This server is not delegated")
        return self._server

    async def support(self, _: Request) -> bytes:
        if self._support is None:
            raise not_found("No contact is known")
        return self._support


def _support(support: Support) -> dict[str, Any] | None:
    """Whom to ask, if the administrator says it. Keys without a value are left out: they are texts or absent."""
    # spec: client-server-api#getwell-knownmatrixsupport
    document: dict[str, Any] = {}
    if support.contacts:
        document["contacts"] = [
            {key: value for key in _CONTACT_KEYS if (value := getattr(contact, key)) is not None}
            for contact in support.contacts
        ]
    if support.support_page is not None:
        document["support_page"] = support.support_page
    return document or None


def _server(config: Config) -> str | None:
    """Where other servers go, as far as the configuration tells; None: to the name itself, port 8448.

    A listener with TLS is taken to be reached directly, one without to have a proxy in front, at the public address.
    """
    # spec: server-server-api#resolving-server-names
    if not config.federation.enabled:
        return None
    own_host = split_name(config.parsed_server_name)[0]
    serving = [listener for listener in config.listeners if "federation" in listener.serve]
    direct = [listener.port for listener in serving if listener.tls is not None]
    host, port = own_host, HTTPS_PORT
    if config.public_url is not None:
        parts = urlsplit(config.public_url)
        if parts.scheme != "https" or parts.hostname is None:
            # Others insist on HTTPS.
            return None
        host, port = parts.hostname, parts.port or HTTPS_PORT
        is_proxied = len(direct) < len(serving)
        if not is_proxied and port not in direct:
            if not direct:
                return None
            port = DEFAULT_PORT if DEFAULT_PORT in direct else direct[0]
    elif port not in direct or DEFAULT_PORT in direct:
        return None
    if (host, port) == (own_host, DEFAULT_PORT):
        return None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
