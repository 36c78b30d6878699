"""Keys: our own, and those of others as a notary. spec: server-server-api#retrieving-server-keys

Asked without a signature, since signatures begin here. So whoever asks is counted by address, and what one question
may make us do is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from federation.canonical import loads_object
from federation.ids import ServerName, parse_server_name
from federation.keyring import notarise
from homeserver.http.errors import bad_json, invalid_param
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.peers.keyring import KeyRing
from homeserver.peers.own_keys import OwnKeys
from homeserver.runtime.tasks import all_of

# LIMIT(each of them may have to be asked, while somebody waits whom we do not know)
MAX_SERVERS = 100
MAX_TS_MS = 2**53 - 1


class KeysApi:
    """Publishes keys, and notarises those of others."""

    def __init__(self, own: OwnKeys, keys: KeyRing, now_ms: Callable[[], int]) -> None:
        self._own = own
        self._keys = keys
        self._now_ms = now_ms

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/key/v2/server",
                handler=self.get_server,
                auth=Auth.NONE,
                limit="federation",
                serve="federation",
                spec="server-server-api#get_matrixkeyv2server",
            ),
            # Of before v1.6, with the key that was wanted: it was always ignored. COMPAT(Synapse, 2026)
            Route(
                method="GET",
                template="/_matrix/key/v2/server/{key_id:text}",
                handler=self.get_server,
                auth=Auth.NONE,
                limit="federation",
                serve="federation",
                spec="server-server-api#get_matrixkeyv2server",
            ),
            Route(
                method="GET",
                template="/_matrix/key/v2/query/{server_name:server_name}",
                handler=self.get_query,
                auth=Auth.NONE,
                limit="federation",
                serve="federation",
                spec="server-server-api#get_matrixkeyv2queryservername",
            ),
            Route(
                method="POST",
                template="/_matrix/key/v2/query",
                handler=self.post_query,
                auth=Auth.NONE,
                limit="federation",
                serve="federation",
                spec="server-server-api#post_matrixkeyv2query",
            ),
        ]

    async def get_server(self, _: Request, key_id: str = "") -> bytes:  # noqa: ARG002
        return self._own.answer()

    async def get_query(self, request: Request, server_name: ServerName) -> dict[str, Any]:
        until_ts_ms = request.int_arg("minimum_valid_until_ts", self._now_ms(), maximum=MAX_TS_MS, clamp=True)
        return await self._answer({server_name: until_ts_ms})

    async def post_query(self, request: Request) -> dict[str, Any]:
        criteria = request.json().get("server_keys")
        if type(criteria) is not dict:
            raise bad_json("server_keys must be an object")
        if len(criteria) > MAX_SERVERS:
            raise invalid_param(f"Not more than {MAX_SERVERS} servers at once")
        return await self._answer(
            {parse_server_name(name): self._latest(wanted) for name, wanted in criteria.items()}
        )

    def _latest(self, wanted: Any) -> int:
        """Until when the answer about one server should be good: as long as the most demanding key."""
        if type(wanted) is not dict:
            raise bad_json("What is wanted of a server must be an object")
        latest = 0
        for criteria in wanted.values():
            if type(criteria) is not dict:
                raise bad_json("What is wanted of a key must be an object")
            until_ts_ms = criteria.get("minimum_valid_until_ts", self._now_ms())
            if type(until_ts_ms) is not int or not 0 <= until_ts_ms <= MAX_TS_MS:
                raise bad_json("minimum_valid_until_ts must be a timestamp")
            latest = max(latest, until_ts_ms)
        return latest if wanted else self._now_ms()

    async def _answer(self, wanted: Mapping[ServerName, int]) -> dict[str, Any]:
        asked = [Deferred.fromCoroutine(self._signed(name, ts_ms)) for name, ts_ms in wanted.items()]
        return {"server_keys": [answer for answer in await all_of(asked) if answer is not None]}

    async def _signed(self, server_name: ServerName, until_ts_ms: int) -> dict[str, Any] | None:
        if server_name == self._own.server_name:
            return dict(self._own.response())
        answer = await self._keys.signed_answer(server_name, until_ts_ms)
        return None if answer is None else notarise(loads_object(answer), self._own.signer)
