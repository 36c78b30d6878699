"""A server that lies: what it sends and answers is changed on the way, signed by its own key where it has to be.

It withholds events, breaks signatures and hashes, answers with garbage, and claims what is not so. Whatever it does, the
others must stay sound and agree among themselves; nobody demands anything of the liar itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from federation.canonical import encode_checked
from federation.signing import SigningKey
from federation.xmatrix import build
from homeserver.http.transport import PeerRequest, PeerResponse
from tests.sim.draws import Draws

_LISTS = ("pdus", "auth_chain", "state", "events", "pdu_ids", "auth_chain_ids")
_STATES = ("/state/", "/state_ids/", "/event_auth/", "/send_join/", "/event/")
_GARBAGE = (
    b"{}",
    b"[]",
    b"",
    b"<html>",
    b'{"pdus":17,"auth_chain":{},"state":null,"events":"x","pdu_ids":[3],"auth_chain_ids":[{}]}',
    b'{"pdus":[{}],"auth_chain":[[]],"state":[null],"event":{},"events":[{"type":1}]}',
    b'{"room_version":"999","event":{"prev_events":[],"auth_events":[],"depth":-1}}',
    b'{"a":' * 200 + b"1" + b"}" * 200,
    b'{"pdus":[' + b'{"depth":1e999},' * 3 + b"{}]}",
)


class LyingServer:
    """See the module. `lies` is how often it lies, in percent."""

    def __init__(self, draws: Draws, key: SigningKey, lies: int, note: Callable[..., None]) -> None:
        self._draws = draws
        self._key = key
        self.lies = lies
        # Whether somebody was told a wrong state: then even honest servers may differ for ever.
        self.could_fork = False
        self._note = note

    def change_request(self, request: PeerRequest) -> PeerRequest:
        """A transaction without some of its events, or with broken ones."""
        if request.body is None or "/send/" not in request.uri or not self._draws.chance(self.lies):
            return request
        content = msgspec.json.decode(request.body)
        pdus = content.get("pdus", [])
        lie = self._draws.below(4)
        if lie == 0:
            content["pdus"] = [pdu for pdu in pdus if not self._draws.chance(50)]
        elif lie == 1:
            content["pdus"] = [self._break(pdu) for pdu in pdus]
        elif lie == 2:
            content["pdus"] = list(reversed(pdus))
        else:
            content["edus"] = [*content.get("edus", []), *self._wild_edus()]
        self._note("lies in a transaction", lie, len(pdus))
        return self._sign(request, content)

    def change_answer(self, request: PeerRequest, response: PeerResponse) -> PeerResponse:
        """Garbage, nothing, or half the truth; its keys are always true, or nothing of it would be believed."""
        if "/key/" in request.uri or response.status != 200 or not self._draws.chance(self.lies):
            return response
        lie = self._draws.below(3)
        self._note("lies in an answer", lie, request.uri.partition("?")[0])
        if lie == 0:
            return PeerResponse(200, self._draws.pick(_GARBAGE), response.headers)
        if lie == 1:
            return PeerResponse(self._draws.pick((404, 403, 500, 200)), b'{"errcode":"M_NOT_FOUND"}')
        content = msgspec.json.decode(response.body)
        if isinstance(content, dict):
            self.could_fork |= any(name in request.uri for name in _STATES)
            for name in _LISTS:
                if isinstance(content.get(name), list):
                    content[name] = self._mangle(content[name])
        return PeerResponse(200, msgspec.json.encode(content), response.headers)

    def _mangle(self, items: list[Any]) -> list[Any]:
        kept = [item for item in items if not self._draws.chance(30)]
        return [
            self._break(item) if isinstance(item, dict) and self._draws.chance(30) else item for item in kept
        ]

    def _break(self, pdu: dict[str, Any]) -> dict[str, Any]:
        changed = dict(pdu)
        lie = self._draws.below(7)
        if lie == 0:
            changed["signatures"] = {name: {} for name in pdu.get("signatures", {})}
        elif lie == 1:
            changed["content"] = {**pdu.get("content", {}), "body": "changed on the way"}
        elif lie == 2:
            changed["hashes"] = {"sha256": "A" * 43}
        elif lie == 3:
            changed["sender"] = "@forged:" + self._key.server_name
        elif lie == 4:
            changed["depth"] = 2**53 - 1
        elif lie == 5:
            changed["prev_events"] = ["$" + "A" * 43]
        else:
            changed["auth_events"] = []
        return changed

    def _wild_edus(self) -> list[Any]:
        return [
            {"edu_type": "m.typing", "content": {"room_id": "!a:b", "user_id": "@a:b", "typing": True}},
            {"edu_type": "m.receipt", "content": {"!a:b": {"m.read": {"@a:b": {"event_ids": ["$x"]}}}}},
            {"edu_type": "m.presence", "content": {"push": [{"user_id": "@a:b", "presence": "wild"}]}},
            {"edu_type": "m.direct_to_device", "content": {"messages": {"@user0:s0.sim": {"*": 3}}}},
            {"edu_type": "m.device_list_update", "content": {"user_id": "@a:b", "stream_id": -1}},
            {"edu_type": "m.unknown", "content": {}},
            {"edu_type": 7},
            "nothing",
        ]

    def _sign(self, request: PeerRequest, content: Any) -> PeerRequest:
        body = encode_checked(content, strict=False)
        authorization = build(
            self._key,
            method=request.method,
            uri=request.uri,
            destination=request.destination,
            canonical_body=body,
        )
        return PeerRequest(
            request.destination,
            request.method,
            request.uri,
            authorization,
            body,
            request.timeout_s,
            request.max_bytes,
        )
