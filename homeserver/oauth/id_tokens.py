"""Id tokens: signed words on who logged in, for the apps that ask for them (``openid``).

They open nothing here, and nobody need trust them who has the access token; but some apps do not go on without one.

# spec: OpenID Connect Core 1.0 sections 2 and 3.1.3
"""

from __future__ import annotations

from typing import Any, Final

from joserfc import jwt
from joserfc.jwk import RSAKey

from homeserver.db.threads import Database
from homeserver.runtime.clock import Clock
from homeserver.store.oauth_clients import load_signing_key, put_signing_key
from homeserver.store.work import Worker

ALGORITHM: Final = "RS256"
LIFETIME_S: Final = 3600
_BITS: Final = 2048


class IdTokens:
    """Signs with one key, which is made when it is first needed and kept in the database."""

    def __init__(self, issuer: str, database: Database, worker: Worker, clock: Clock) -> None:
        self._issuer = issuer
        self._database = database
        self._worker = worker
        self._clock = clock
        self._key: RSAKey | None = None

    async def make(self, user_id: str, client_id: str, nonce: str | None) -> str:
        """A token for one login."""
        key = await self._find_key()
        now_s = self._clock.now_ms() // 1000
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "sub": user_id,
            "aud": client_id,
            "iat": now_s,
            "exp": now_s + LIFETIME_S,
            **({} if nonce is None else {"nonce": nonce}),
        }
        return jwt.encode({"alg": ALGORITHM, "kid": key.kid}, claims, key)

    async def public_keys(self) -> dict[str, Any]:
        """With what the tokens are verified, as a JSON Web Key Set."""
        key = await self._find_key()
        return {"keys": [{**key.as_dict(private=False), "use": "sig", "alg": ALGORITHM}]}

    async def _find_key(self) -> RSAKey:
        if self._key is None:
            found = await self._database.read(load_signing_key)
            if found is None:
                new = RSAKey.generate_key(_BITS, {"use": "sig"}, private=True)
                pem = new.as_pem(private=True).decode()
                found = await self._worker.work(put_signing_key, new.thumbprint(), pem, self._clock.now_ms())
            kid, pem = found
            self._key = RSAKey.import_key(pem, {"use": "sig", "kid": kid})
        return self._key
