"""Browsers in which somebody is signed in: to let apps in, and to look after their account.

Such a session opens nothing but these pages: it is no access token. It ends by itself, with the end of all logins, with a
new password and with the account. Everything that a page does takes a form token, which only our own pages hold.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Final

from homeserver.db.threads import Database
from homeserver.db.tx import Tx, WriteTx
from homeserver.http.request import Request
from homeserver.oauth.types import SignedIn
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.store.oauth_sessions import Browser, drop_browser, find_browser, store_browser
from homeserver.store.tokens import hash_token
from homeserver.store.users import Account, check_unchanged, load_account
from homeserver.store.work import Worker

LIFETIME_S: Final = 14 * 86_400
_TOKEN_LENGTH_MOST: Final = 100
_COOKIES_MOST: Final = 50


class Browsers:
    """See the module. ``base_url``: where the server is; at https the cookie is for nothing else."""

    def __init__(
        self, base_url: str, database: Database, worker: Worker, clock: Clock, entropy: Entropy
    ) -> None:
        self._is_secure = base_url.startswith("https:")
        self._name = "__Host-chaos-account" if self._is_secure else "chaos-account"
        self._database = database
        self._worker = worker
        self._clock = clock
        self._entropy = entropy

    async def find(self, request: Request) -> SignedIn | None:
        """Who uses the browser that asks."""
        token = self._token(request)
        if token is None:
            return None
        found = await self._database.read(_find, hash_token(token), self._clock.now_ms())
        if found is None:
            return None
        browser, account = found
        return SignedIn(account, browser.begun_ts_ms, _form_token(token))

    async def begin(self, account: Account) -> tuple[bytes, bytes]:
        """Sign somebody in who has proven who they are: the header that the answer must have.

        ``account``: as it was then. Raises ProofOverError.
        """
        token = self._entropy.token(32)
        await self._worker.work(_store_browser, account, hash_token(token), self._clock.now_ms())
        return self._cookie(token, LIFETIME_S)

    async def end(self, request: Request) -> tuple[bytes, bytes]:
        """Sign out; with the header that the answer must have."""
        token = self._token(request)
        if token is not None:
            await self._worker.work(drop_browser, hash_token(token))
        return self._cookie("", 0)

    def _token(self, request: Request) -> str | None:
        """What the cookie of ours says."""
        pairs = b";".join(request.headers.get_all(b"cookie")).split(b";", _COOKIES_MOST)
        wanted = self._name.encode()
        for pair in pairs:
            name, _, value = pair.strip().partition(b"=")
            if name == wanted and 0 < len(value) <= _TOKEN_LENGTH_MOST:
                return value.decode("latin-1")
        return None

    def _cookie(self, token: str, lifetime_s: int) -> tuple[bytes, bytes]:
        # Lax: an app leads the browser here from elsewhere. Forms are safe by their token.
        secure = "; Secure" if self._is_secure else ""
        text = f"{self._name}={token}; Path=/; Max-Age={lifetime_s}; HttpOnly; SameSite=Lax{secure}"
        return b"Set-Cookie", text.encode()


def _find(tx: Tx, token_hash: bytes, now_ms: int) -> tuple[Browser, Account] | None:
    """Both in one unit: with a new password the session ends, so its account must not be read with that."""
    browser = find_browser(tx, token_hash, now_ms)
    account = None if browser is None else load_account(tx, browser.user_nid)
    return None if browser is None or account is None else (browser, account)


def _store_browser(tx: WriteTx, account: Account, token_hash: bytes, now_ms: int) -> None:
    check_unchanged(tx, account)
    store_browser(tx, token_hash, account.user_nid, now_ms, now_ms + LIFETIME_S * 1000)


def _form_token(token: str) -> str:
    digest = sha256(b"form:" + token.encode("utf-8", "replace")).digest()
    return urlsafe_b64encode(digest[:18]).decode()
