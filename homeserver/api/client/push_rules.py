"""Push rules. spec: client-server-api#push-rules-api"""

from __future__ import annotations

from typing import Any

import msgspec

from homeserver.http.errors import bad_json, missing_param
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Handler, Route
from homeserver.push.service import PushRules

_ALL = "/_matrix/client/v3/pushrules"
_RULE = _ALL + "/global/{kind}/{rule_id}"
_SPEC = "client-server-api#{method}_matrixclientv3pushrules{rest}"


class PushRulesApi:
    def __init__(self, rules: PushRules) -> None:
        self._rules = rules

    def routes(self) -> list[Route]:
        return [
            _route("GET", _ALL + "/", self.get_all, ""),
            _route("GET", _ALL + "/global/", self.get_global, "global"),
            _route("GET", _RULE, self.get, "globalkindruleid"),
            _route("PUT", _RULE, self.put, "globalkindruleid"),
            _route("DELETE", _RULE, self.delete, "globalkindruleid"),
            _route("GET", _RULE + "/enabled", self.get_enabled, "globalkindruleidenabled"),
            _route("PUT", _RULE + "/enabled", self.put_enabled, "globalkindruleidenabled"),
            _route("GET", _RULE + "/actions", self.get_actions, "globalkindruleidactions"),
            _route("PUT", _RULE + "/actions", self.put_actions, "globalkindruleidactions"),
        ]

    async def get_all(self, request: Request) -> bytes:
        return (await self._rules.load(request.requester)).to_json()

    async def get_global(self, request: Request) -> bytes:
        return msgspec.json.encode((await self._rules.load(request.requester)).kinds)

    async def get(self, request: Request, kind: str, rule_id: str) -> dict[str, Any]:
        return (await self._rules.load(request.requester)).find(kind, rule_id)

    async def put(self, request: Request, kind: str, rule_id: str) -> bytes:
        body, before, after = request.json(), request.arg("before"), request.arg("after")
        await self._rules.edit(request.requester, lambda rules: rules.put(kind, rule_id, body, before, after))
        return EMPTY_JSON

    async def delete(self, request: Request, kind: str, rule_id: str) -> bytes:
        await self._rules.edit(request.requester, lambda rules: rules.drop(kind, rule_id))
        return EMPTY_JSON

    async def get_enabled(self, request: Request, kind: str, rule_id: str) -> dict[str, Any]:
        rule = (await self._rules.load(request.requester)).find(kind, rule_id)
        return {"enabled": rule["enabled"]}

    async def put_enabled(self, request: Request, kind: str, rule_id: str) -> bytes:
        enabled = request.json().get("enabled")
        if enabled is None:
            raise missing_param("The body has no enabled")
        if not isinstance(enabled, bool):
            raise bad_json("enabled must be a boolean")
        await self._rules.edit(request.requester, lambda rules: rules.set_enabled(kind, rule_id, enabled))
        return EMPTY_JSON

    async def get_actions(self, request: Request, kind: str, rule_id: str) -> dict[str, Any]:
        rule = (await self._rules.load(request.requester)).find(kind, rule_id)
        return {"actions": rule["actions"]}

    async def put_actions(self, request: Request, kind: str, rule_id: str) -> bytes:
        actions = request.json().get("actions")
        await self._rules.edit(request.requester, lambda rules: rules.set_actions(kind, rule_id, actions))
        return EMPTY_JSON


def _route(method: str, template: str, handler: Handler, rest: str) -> Route:
    return Route(
        method=method,
        template=template,
        handler=handler,
        limit="read" if method == "GET" else "write",
        max_body=65_536,
        spec=_SPEC.format(method=method.lower(), rest=rest),
        suspended_may=True,
    )
