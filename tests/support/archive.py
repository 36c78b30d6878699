"""Archive: a notary, a stranger that vouches for the keys it was shown, whatever their server says later."""

from __future__ import annotations

from typing import Any

import msgspec

from federation.keyring import notarise
from homeserver.http.transport import PeerRequest
from tests.support.federation import Stranger, TestNet

QUERY = "/_matrix/key/v2/query"


class Archive:
    """Answers key by key, from all that servers ever told it."""

    def __init__(self, net: TestNet, name: str = "notary.example") -> None:
        self.stranger = net.stranger(name)
        self.name = name
        self.queries: list[dict[str, set[str]]] = []
        """What it was asked for: key ids by server."""
        self._shown: dict[tuple[str, str], dict[str, Any]] = {}
        self.speak()

    def speak(self) -> None:
        self.stranger.answers["POST", QUERY] = self._answer

    def fall_silent(self) -> None:
        self.stranger.answers["POST", QUERY] = None

    def show(self, stranger: Stranger) -> None:
        """Let it see what a server publishes now."""
        response = stranger.key_response()
        self._shown.update({(stranger.name, key_id): response for key_id in response["verify_keys"]})

    def _answer(self, request: PeerRequest) -> tuple[int, Any]:
        asked = msgspec.json.decode(request.body or b"{}")["server_keys"]
        self.queries.append({name: set(criteria) for name, criteria in asked.items()})
        found = [
            self._shown[name, key_id]
            for name, criteria in asked.items()
            for key_id in criteria
            if (name, key_id) in self._shown
        ]
        return 200, {"server_keys": [notarise(one, self.stranger.key) for one in found]}
