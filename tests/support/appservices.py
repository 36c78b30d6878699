"""Application services for tests: registrations, and somebody at the other end of their addresses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from twisted.internet.defer import Deferred, fail, succeed

from homeserver.config.registrations import AppserviceRegistration, Namespace, Pattern
from homeserver.http.client import HttpLimits, HttpResponse
from homeserver.http.transport import Unreachable
from tests.support.app import SERVER_NAME

AS_TOKEN = "as-token-of-the-bridge"
HS_TOKEN = "hs-token-of-the-bridge"
URL = "http://bridge.test:29300"


def registration(name: str = "bridge", **changes: Any) -> AppserviceRegistration:
    """A bridge with ghosts ``@_bridge_…`` and aliases ``#_bridge_…``, all of them its own."""
    spaces = {
        "users": (Namespace(Pattern(f"@_{name}_.*:{SERVER_NAME}"), True),),
        "aliases": (Namespace(Pattern(f"#_{name}_.*:{SERVER_NAME}"), True),),
    }
    tokens = {"as_token": AS_TOKEN, "hs_token": HS_TOKEN} if name == "bridge" else {}
    fields: dict[str, Any] = {
        "id": name,
        "url": URL if name == "bridge" else f"http://{name}.test",
        "as_token": f"as-token-of-{name}",
        "hs_token": f"hs-token-of-{name}",
        "sender_localpart": f"_{name}bot",
        **tokens,
        **spaces,
        **changes,
    }
    return AppserviceRegistration(**fields)


@dataclass(slots=True)
class Asked:
    """One request that came to an application service."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    body: Any


@dataclass(slots=True)
class FakeAppservices:
    """Stands in for ``HttpClient``: every address leads here. ``answer`` may be replaced; None is no answer at all."""

    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked], tuple[int, Any] | Deferred[HttpResponse] | None] = lambda _: (200, {})

    def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        limits: HttpLimits | None = None,
        **_: Any,
    ) -> Deferred[HttpResponse]:
        parts = urlsplit(url)
        one = Asked(
            method,
            unquote(parts.path),
            parse_qs(parts.query),
            dict(headers or {}),
            json.loads(body) if body else None,
        )
        self.asked.append(one)
        answered = self.answer(one)
        if answered is None:
            return fail(Unreachable("nobody is there"))
        if isinstance(answered, Deferred):
            return answered
        status, content = answered
        return succeed(HttpResponse(url, status, json.dumps(content).encode()))

    def silence(self, _: Asked) -> None:
        """An ``answer``: none."""

    def hold(self, answer: Deferred[HttpResponse]) -> Callable[[Asked], Deferred[HttpResponse]]:
        """An ``answer``: one that comes later."""
        return lambda _: answer

    def ok(self) -> HttpResponse:
        """An answer for who was kept waiting."""
        return HttpResponse(URL, 200, b"{}")

    def transactions(self) -> list[Any]:
        """The bodies of all transactions that came, retries included."""
        return [one.body for one in self.asked if "/transactions/" in one.path]

    def events(self) -> list[Any]:
        """The events of all transactions, in order; of a transaction that came again, once."""
        seen: dict[str, Any] = {}
        for one in self.asked:
            if "/transactions/" in one.path:
                seen[one.path.rpartition("/")[2]] = one.body
        return [event for body in seen.values() for event in body["events"]]
