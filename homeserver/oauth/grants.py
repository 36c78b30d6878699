"""Grants: somebody lets an app in, and the app gets its tokens for that, once.

# spec: client-server-api#grant-types
# spec: RFC 6749, RFC 7636, RFC 8628
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final

from homeserver.config.schema import Sessions as SessionsConfig
from homeserver.db.errors import IntegrityViolation
from homeserver.db.threads import Database
from homeserver.db.tx import WriteTx
from homeserver.oauth.clients import Clients
from homeserver.oauth.id_tokens import IdTokens
from homeserver.oauth.scopes import parse_scope
from homeserver.oauth.types import DEVICE_CODE, AuthorizationRequest, Client, DeviceRequest, OAuthError, Scope
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.store import oauth
from homeserver.store.devices import DeviceIdTakenError, TooManyDevicesError
from homeserver.store.ids import Interner
from homeserver.store.oauth import CodeRow, DeviceCodeRow, Exchanged, Opening, Verdict
from homeserver.store.tokens import (
    REFRESH_PREFIX,
    SEED_LENGTH,
    NewTokens,
    derive_pair,
    draw_tokens,
    hash_pair,
    hash_token,
)
from homeserver.store.users import Account, check_unchanged
from homeserver.store.work import Worker

# An app exchanges its code at once; RFC 6749 recommends ten minutes at most.
CODE_LIFETIME_MS: Final = 300_000
DEVICE_CODE_LIFETIME_S: Final = 1200
POLL_INTERVAL_S: Final = 5
# LIMIT(polls that are remembered, to tell who comes too often)
_POLLS_MOST: Final = 10_000
# What people type: no vowels, so no words; no characters that look like others.
USER_CODE_ALPHABET: Final = "BCDFGHJKLMNPQRSTVWXZ"
USER_CODE_LENGTH: Final = 8
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)
_FAMILY_LENGTH: Final = 22  # of 16 bytes in base64
_TOKEN_LENGTH_MOST: Final = 200


class Grants:
    """See the module. ``link``: the page where somebody enters what a device shows."""

    def __init__(
        self,
        link: str,
        clients: Clients,
        id_tokens: IdTokens,
        database: Database,
        worker: Worker,
        interner: Interner,
        clock: Clock,
        entropy: Entropy,
        config: SessionsConfig,
    ) -> None:
        self._link = link
        self._clients = clients
        self._id_tokens = id_tokens
        self._database = database
        self._worker = worker
        self._interner = interner
        self._clock = clock
        self._entropy = entropy
        self._config = config
        self._polls: dict[bytes, float] = {}  # when a device asked last, oldest first

    # --- somebody lets an app in ---------------------------------------------------------------------

    async def allow(self, request: AuthorizationRequest, account: Account) -> str:
        """The code that the browser takes back to the app.

        ``account``: as it was when the browser's session was good. Raises ProofOverError.
        """
        code = self._entropy.token(32)
        now_ms = self._clock.now_ms()
        row = CodeRow(
            request.client.client_id,
            account.user_nid,
            request.redirect_uri,
            request.scope.text,
            request.challenge,
            request.nonce,
            now_ms + CODE_LIFETIME_MS,
            0,
        )
        await self._worker.work(_store_code, account, hash_token(code), row, now_ms)
        return code

    async def begin_device(self, client_id: str, scope: str) -> dict[str, Any]:
        """A device without a browser asks to be let in. Raises OAuthError."""
        # spec: client-server-api#device-authorisation-flow
        client = await self._client(client_id)
        if DEVICE_CODE not in client.grant_types:
            raise OAuthError("unauthorized_client", "The app registered without this grant")
        wanted = parse_scope(scope)
        if isinstance(wanted, str):
            raise OAuthError("invalid_scope", wanted)
        device_code = self._entropy.token(32)
        now_ms = self._clock.now_ms()
        row = DeviceCodeRow(client_id, wanted.text, now_ms + DEVICE_CODE_LIFETIME_S * 1000, 0, 0)
        while True:
            user_code = self._entropy.id(USER_CODE_LENGTH, USER_CODE_ALPHABET)
            try:
                await self._worker.work(
                    oauth.store_device_code, hash_token(device_code), user_code, row, now_ms
                )
                break
            except IntegrityViolation:
                continue  # somebody else is just reading this one
        shown = f"{user_code[:4]}-{user_code[4:]}"
        return {
            "device_code": device_code,
            "user_code": shown,
            "verification_uri": self._link,
            "verification_uri_complete": f"{self._link}?user_code={shown}",
            "expires_in": DEVICE_CODE_LIFETIME_S,
            "interval": POLL_INTERVAL_S,
        }

    async def find_device_request(self, typed: str) -> DeviceRequest | None:
        """What a code stands for that somebody has typed, however they wrote it; None where it is not good."""
        code = normal_user_code(typed)
        row = None if code is None else await self._database.read(oauth.find_user_code, code)
        if code is None or row is None or row.verdict or row.expires_ts_ms <= self._clock.now_ms():
            return None
        client, scope = await self._clients.find(row.client_id), parse_scope(row.scope)
        if client is None or isinstance(scope, str):
            return None
        return DeviceRequest(code, client, scope)

    async def decide_device(self, user_code: str, account: Account, *, allowed: bool) -> bool:
        """Let a device in or not; False where it was decided meanwhile, or is over.

        ``account``: as for ``allow``. Raises ProofOverError.
        """
        verdict = Verdict.ALLOWED if allowed else Verdict.REFUSED
        return await self._worker.work(_decide, account, user_code, verdict, self._clock.now_ms())

    # --- the app gets its tokens ---------------------------------------------------------------------

    async def exchange(self, said: Mapping[str, str]) -> dict[str, Any]:
        """The answer to a token request. Raises OAuthError."""
        kind = _required(said, "grant_type")
        if kind == "authorization_code":
            return await self._exchange_code(said)
        if kind == "refresh_token":
            return await self._refresh(said)
        if kind == DEVICE_CODE:
            return await self._exchange_device_code(said)
        raise OAuthError("unsupported_grant_type", "This grant is not supported here")

    async def _exchange_code(self, said: Mapping[str, str]) -> dict[str, Any]:
        code_hash = hash_token(_required(said, "code"))
        client = await self._client(_required(said, "client_id"))
        row = await self._database.read(oauth.find_code, code_hash)
        if row is None or row.client_id != client.client_id:
            raise _invalid("The code is not good, or was for another app")
        if said.get("redirect_uri", row.redirect_uri) != row.redirect_uri:
            raise _invalid("redirect_uri is not that of the authorization request")
        verifier = _required(said, "code_verifier")
        if _VERIFIER.fullmatch(verifier) is None or not compare_digest(_challenge(verifier), row.challenge):
            raise _invalid("code_verifier does not fit")
        scope, opening, answer = self._open(client, row.scope)
        with _device_refused():
            made = await self._worker.work(oauth.exchange_code, code_hash, client.client_id, opening)
        if made is None:
            raise _invalid("The code is over, or was used")
        return await self._answer(made, scope, answer)

    async def _exchange_device_code(self, said: Mapping[str, str]) -> dict[str, Any]:
        code_hash = hash_token(_required(said, "device_code"))
        client = await self._client(_required(said, "client_id"))
        row = await self._database.read(oauth.find_device_code, code_hash)
        if row is None or row.client_id != client.client_id:
            raise _invalid("The device code is not good, or was for another app")
        if row.expires_ts_ms <= self._clock.now_ms():
            raise OAuthError("expired_token", "The device code is over")
        if row.verdict == Verdict.REFUSED:
            await self._worker.work(oauth.drop_device_code, code_hash)
            raise OAuthError("access_denied", "The request was refused")
        if row.verdict == Verdict.NONE:
            raise self._pending(code_hash)
        scope, opening, answer = self._open(client, row.scope)
        with _device_refused():
            made = await self._worker.work(oauth.exchange_device_code, code_hash, client.client_id, opening)
        if made is None:
            raise _invalid("The device code is over, or was used")
        return await self._answer(made, scope, answer)

    def _pending(self, code_hash: bytes) -> OAuthError:
        now_s = self._clock.monotonic()
        before_s = self._polls.pop(code_hash, None)
        self._polls[code_hash] = now_s
        while len(self._polls) > _POLLS_MOST:
            del self._polls[next(iter(self._polls))]
        if before_s is not None and now_s - before_s < POLL_INTERVAL_S - 1:
            return OAuthError("slow_down", f"Ask every {POLL_INTERVAL_S} seconds at most")
        return OAuthError("authorization_pending", "Nobody has decided yet")

    async def _refresh(self, said: Mapping[str, str]) -> dict[str, Any]:
        # spec: client-server-api#refresh-token-grant
        token = _required(said, "refresh_token")
        client_id = _required(said, "client_id")
        family = _family(token)
        if family is None:
            raise _invalid("The refresh token is not good")
        now_ms, seed = self._clock.now_ms(), self._entropy.bytes(SEED_LENGTH)
        new = hash_pair(*derive_pair(token, seed, family), self._config, now_ms)
        done = await self._worker.work(
            oauth.refresh, hash_token(token), hash_token(family), client_id, seed, new, now_ms
        )
        if done is None:
            raise _invalid("The refresh token is not good (any more)")
        session, used = done
        access_token, refresh_token = derive_pair(token, used.seed, family)
        answer = _told(access_token, refresh_token, -(-(used.access_expires_ts_ms - now_ms) // 1000))
        answer["scope"] = session.scope
        return answer

    async def revoke(self, token: str) -> None:
        """End the login of a token, whoever asks: who has it may do anything with it."""
        # spec: client-server-api#token-revocation
        await self._worker.work(oauth.revoke, hash_token(token))

    async def _client(self, client_id: str) -> Client:
        client = await self._clients.find(client_id)
        if client is None:
            raise OAuthError("invalid_client", "The app is not registered (any more)", 401)
        return client

    def _open(self, client: Client, scope: str) -> tuple[Scope, Opening, dict[str, Any]]:
        """Read what was granted, and draw the tokens of a login."""
        wanted = parse_scope(scope)
        if isinstance(wanted, str):
            raise OAuthError("invalid_scope", wanted)
        family = self._entropy.token(16)
        new, answer = self._draw(family)
        opening = Opening(
            wanted.device_id,
            self._interner.take_nid(),
            client.name,
            new,
            hash_token(family),
            self._clock.now_ms(),
        )
        return wanted, opening, answer

    def _draw(self, family: str) -> tuple[NewTokens, dict[str, Any]]:
        """New tokens, as hashes and in clear. All refresh tokens of a login begin alike: an old one is known by that."""
        drawn = draw_tokens(self._entropy, self._config, self._clock.now_ms(), family)
        return drawn.stored, _told(drawn.access_token, drawn.refresh_token, drawn.lifetime_s)

    async def _answer(self, made: Exchanged, scope: Scope, answer: dict[str, Any]) -> dict[str, Any]:
        answer["scope"] = scope.text
        if scope.wants_id_token:
            user_id = (await self._interner.user_names([made.user_nid]))[made.user_nid]
            answer["id_token"] = await self._id_tokens.make(user_id, made.client_id, made.nonce)
        return answer


# What ends every login ends what was allowed and is not used yet; it would miss what is only stored then.


def _store_code(tx: WriteTx, account: Account, code_hash: bytes, row: CodeRow, now_ms: int) -> None:
    check_unchanged(tx, account)
    oauth.store_code(tx, code_hash, row, now_ms)


def _decide(tx: WriteTx, account: Account, user_code: str, verdict: Verdict, now_ms: int) -> bool:
    check_unchanged(tx, account)
    return oauth.decide(tx, user_code, account.user_nid, verdict, now_ms)


def normal_user_code(typed: str) -> str | None:
    """A user code as it is stored; None where it cannot be one."""
    # spec: RFC 8628 section 6.1
    code = "".join(char for char in typed[:64].upper() if char in USER_CODE_ALPHABET)
    return code if len(code) == USER_CODE_LENGTH else None


def _told(access_token: str, refresh_token: str, lifetime_s: int) -> dict[str, Any]:
    return {
        "access_token": access_token,
        "token_type": "Bearer",
        "expires_in": lifetime_s,
        "refresh_token": refresh_token,
    }


def _challenge(verifier: str) -> str:
    return urlsafe_b64encode(sha256(verifier.encode()).digest()).decode().rstrip("=")


def _family(token: str) -> str | None:
    start = len(REFRESH_PREFIX)
    if not token.startswith(REFRESH_PREFIX) or not start + _FAMILY_LENGTH < len(token) <= _TOKEN_LENGTH_MOST:
        return None
    return token[start : start + _FAMILY_LENGTH]


def _required(said: Mapping[str, str], name: str) -> str:
    value = said.get(name)
    if not value:
        raise OAuthError("invalid_request", f"{name} is missing")
    if "\0" in value or len(value) > 4096:
        raise OAuthError("invalid_request", f"{name} is not good")
    return value


def _invalid(why: str) -> OAuthError:
    return OAuthError("invalid_grant", why)


@contextmanager
def _device_refused() -> Iterator[None]:
    """What the tables refuse of a new device."""
    try:
        yield
    except TooManyDevicesError:
        raise OAuthError("access_denied", "The account has too many devices: log some out") from None
    except DeviceIdTakenError:
        raise OAuthError("invalid_scope", "The device ID is the public key of a cross-signing key") from None
