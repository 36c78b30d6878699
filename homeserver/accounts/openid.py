"""Proofs of identity for services of other people: a token that says who its user is, and nothing else.

1. Such a token opens nothing here: it is kept apart from access tokens.
2. It is over after an hour, and with the account.
spec: client-server-api#openid
"""

from __future__ import annotations

from typing import Any, Final

from homeserver.accounts.types import Requester
from homeserver.db.threads import Database
from homeserver.http.errors import forbidden, unknown_token
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.store.openid import find_openid_owner, store_openid_token
from homeserver.store.tokens import hash_token
from homeserver.store.work import Worker

LIFETIME_S: Final = 3600


class OpenIds:
    """Makes tokens and recognises them."""

    def __init__(
        self, server_name: str, database: Database, worker: Worker, clock: Clock, entropy: Entropy
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._worker = worker
        self._clock = clock
        self._entropy = entropy

    async def make(self, requester: Requester, user_id: str) -> dict[str, Any]:
        """A token for the requester, as a service takes it."""
        # spec: client-server-api#post_matrixclientv3useruseridopenidrequest_token
        if user_id != requester.user_id:
            raise forbidden("A token can only be had for oneself")
        token = f"chaoso_{self._entropy.token(32)}"
        now_ms = self._clock.now_ms()
        await self._worker.work(
            store_openid_token, hash_token(token), requester.user_nid, now_ms + LIFETIME_S * 1000, now_ms
        )
        return {
            "access_token": token,
            "token_type": "Bearer",
            "matrix_server_name": self._server_name,
            "expires_in": LIFETIME_S,
        }

    async def owner(self, token: str) -> str:
        """Whose token it is; 401 M_UNKNOWN_TOKEN where it is nobody's, or over."""
        # spec: server-server-api#get_matrixfederationv1openiduserinfo
        owner = await self._database.read(find_openid_owner, hash_token(token), self._clock.now_ms())
        if owner is None:
            error = unknown_token()
            error.error = "Access token unknown or expired"
            raise error
        return owner
