"""Credentials for relays (TURN): made for each request, checked by the relay alone, over by themselves.

The relay shares a secret with us. A name is the moment at which it ends and who it was made for, and the password
proves that we made it; coturn calls that ``use-auth-secret``.

# spec: client-server-api#get_matrixclientv3voipturnserver
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from homeserver.config.schema import Turn
from homeserver.runtime.clock import Clock


class TurnCredentials:
    """``settings`` is asked each time, as the configuration may be reloaded."""

    def __init__(self, settings: Callable[[], Turn], clock: Clock) -> None:
        self._settings = settings
        self._clock = clock

    def make(self, user_id: str) -> dict[str, Any]:
        """What a client gives to the relays; nothing where there are none."""
        turn = self._settings()
        if not turn.uris or turn.shared_secret is None:
            # COMPAT(every client): an empty list of addresses makes browsers refuse the whole configuration of a call.
            return {}
        username = f"{self._clock.now_ms() // 1000 + turn.lifetime_s}:{user_id}"
        digest = hmac.digest(turn.shared_secret.encode(), username.encode(), "sha1")
        return {
            "username": username,
            "password": b64encode(digest).decode("ascii"),
            "uris": list(turn.uris),
            "ttl": turn.lifetime_s,
        }
