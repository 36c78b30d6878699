"""Logins: giving devices their tokens, refreshing and ending them.

spec: client-server-api#refreshing-access-tokens
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from homeserver.accounts.types import Requester
from homeserver.config.schema import Sessions as SessionsConfig
from homeserver.db.threads import Database
from homeserver.db.tx import WriteTx
from homeserver.http.errors import UserLimitReachedError, forbidden, unknown_token, user_locked
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.store import devices, tokens
from homeserver.store.ids import Interner
from homeserver.store.oauth import refresh_legacy
from homeserver.store.tokens import (
    SEED_LENGTH,
    NewTokens,
    RefreshRefusedError,
    derive_pair,
    draw_access_token,
    draw_tokens,
    hash_pair,
    hash_token,
)
from homeserver.store.users import Account, ProofOverError, check_unchanged, load_account
from homeserver.store.work import Worker

LOGIN_TOKEN_LIFETIME_MS = 120_000
"""spec: client-server-api#post_matrixclientv1loginget_token (the recommended two minutes)"""


@dataclass(frozen=True, slots=True)
class Grant:
    """A device with its new tokens, in clear: as they are told to the client, once."""

    device_id: str
    access_token: str
    refresh_token: str | None
    expires_in_ms: int | None

    def to_json(self) -> dict[str, Any]:
        """The fields that the answers of register and login share."""
        found: dict[str, Any] = {"access_token": self.access_token, "device_id": self.device_id}
        if self.refresh_token is not None:
            found["refresh_token"] = self.refresh_token
        if self.expires_in_ms is not None:
            found["expires_in_ms"] = self.expires_in_ms
        return found


@dataclass(frozen=True, slots=True)
class DeviceWish:
    """What a client says about the device that it logs in."""

    device_id: str | None = None
    display_name: str | None = None
    refreshable: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A login that is still to be stored, by `store.devices.log_in` or together with the account itself."""

    login: devices.Login
    tokens: NewTokens
    grant: Grant


class Sessions:
    """Makes and ends logins."""

    def __init__(
        self,
        database: Database,
        worker: Worker,
        interner: Interner,
        clock: Clock,
        entropy: Entropy,
        config: SessionsConfig,
    ) -> None:
        self._database = database
        self._worker = worker
        self._interner = interner
        self._clock = clock
        self._entropy = entropy
        self._config = config

    def prepare(self, user_nid: int, wish: DeviceWish) -> Prepared:
        """Draw the tokens of a login, and an id for the device if the client has none."""
        now_ms = self._clock.now_ms()
        device_id = wish.device_id or self._entropy.id(10, string.ascii_uppercase)
        new, access_token, refresh_token, expires_in_ms = self._draw(now_ms, wish.refreshable)
        login = devices.Login(user_nid, device_id, self._interner.take_nid(), wish.display_name, now_ms)
        return Prepared(login, new, Grant(device_id, access_token, refresh_token, expires_in_ms))

    def _draw(self, now_ms: int, refreshable: bool) -> tuple[NewTokens, str, str | None, int | None]:
        if not refreshable:
            # A client that cannot refresh would be logged out: its tokens last until they are revoked.
            access_token = draw_access_token(self._entropy)
            return NewTokens(hash_token(access_token), None), access_token, None, None
        drawn = draw_tokens(self._entropy, self._config, now_ms)
        return drawn.stored, drawn.access_token, drawn.refresh_token, drawn.lifetime_s * 1000

    async def log_in(self, account: Account, wish: DeviceWish) -> Grant:
        """Log a device in; one that the user has already loses the tokens that it had.

        ``account``: as it was when somebody proved that it is theirs.
        """
        prepared = self.prepare(account.user_nid, wish)
        with proof_is_good(), _device_refused():
            await self._worker.work(_log_in, account, prepared.login, prepared.tokens)
        return prepared.grant

    async def log_in_as(self, user_nid: int, expires_ts_ms: int | None) -> str:
        """A token for an administrator who acts as a user: of no device, so that nobody sees one; it ends by itself
        or, as every token of the user, with their ``/logout/all``."""
        access_token = draw_access_token(self._entropy)
        new = NewTokens(hash_token(access_token), expires_ts_ms)
        await self._worker.work(_store_lone_token, user_nid, new)
        return access_token

    async def put_device(
        self, user_nid: int, device_id: str, display_name: str | None, *, keep_name: bool
    ) -> bool:
        """Make a device that nobody is logged in with, or rename one (not with ``keep_name``); whether it is new."""
        now_ms = self._clock.now_ms()
        device = devices.Login(user_nid, device_id, self._interner.take_nid(), display_name, now_ms)
        with _device_refused():
            return await self._worker.work(devices.put_device, device, keep_name=keep_name)

    async def refresh(self, refresh_token: str) -> Grant:
        """Exchange a refresh token for a new pair."""
        # spec: client-server-api#post_matrixclientv3refresh
        now_ms = self._clock.now_ms()
        seed = self._entropy.bytes(SEED_LENGTH)
        new = hash_pair(*derive_pair(refresh_token, seed), self._config, now_ms)
        try:
            used = await self._worker.work(refresh_legacy, hash_token(refresh_token), seed, new, now_ms)
        except RefreshRefusedError as refused:
            raise unknown_token(soft_logout=refused.expired) from None
        except tokens.AccountLockedError:
            raise user_locked() from None
        access_token, next_token = derive_pair(refresh_token, used.seed)
        return Grant("", access_token, next_token, used.access_expires_ts_ms - now_ms)

    async def log_out(self, requester: Requester) -> None:
        """End one login: its device goes too."""
        if requester.device_id is not None:
            await self._worker.work(devices.drop_devices, requester.user_nid, [requester.device_id])
        else:
            await self._worker.work(tokens.drop_access_token, requester.token_hash, requester.user_nid)

    async def log_out_all(self, requester: Requester) -> None:
        """End every login of the user."""
        await self._worker.work(devices.drop_all_devices, requester.user_nid)

    async def make_login_token(self, account: Account) -> str:
        """A token with which another client logs in as the same user, once and soon.

        ``account``: as it was when somebody proved that it is theirs.
        """
        # spec: client-server-api#post_matrixclientv1loginget_token
        token = f"chaosl_{self._entropy.token(32)}"
        now_ms = self._clock.now_ms()
        expires_ts_ms = now_ms + LOGIN_TOKEN_LIFETIME_MS
        with proof_is_good():
            await self._worker.work(_store_login_token, account, hash_token(token), expires_ts_ms, now_ms)
        return token

    async def take_login_token(self, token: str) -> Account | None:
        """The account of a login token, as it was when that was used up: what ends logins later ends what comes of it."""
        return await self._worker.work(_take_login_token, hash_token(token), self._clock.now_ms())


def _log_in(tx: WriteTx, account: Account, login: devices.Login, new: NewTokens) -> None:
    check_unchanged(tx, account)
    devices.log_in(tx, login, new)


def _store_lone_token(tx: WriteTx, user_nid: int, new: NewTokens) -> None:
    tokens.store_tokens(tx, user_nid, 0, new)


def _store_login_token(
    tx: WriteTx, account: Account, token_hash: bytes, expires_ts_ms: int, now_ms: int
) -> None:
    check_unchanged(tx, account)
    tokens.store_login_token(tx, token_hash, account.user_nid, expires_ts_ms, now_ms)


def _take_login_token(tx: WriteTx, token_hash: bytes, now_ms: int) -> Account | None:
    user_nid = tokens.take_login_token(tx, token_hash, now_ms)
    return None if user_nid is None else load_account(tx, user_nid)


@contextmanager
def proof_is_good() -> Iterator[None]:
    """What is refused because of what happened since somebody proved that an account is theirs."""
    try:
        yield
    except ProofOverError:
        raise forbidden("The password was changed, or the account ended, just now") from None


@contextmanager
def _device_refused() -> Iterator[None]:
    """What the tables refuse of a new device, as the client is told it."""
    try:
        yield
    except devices.TooManyDevicesError:
        raise UserLimitReachedError("This account has too many devices: log some out") from None
    except devices.DeviceIdTakenError:
        raise forbidden("The device ID is the public key of a cross-signing key") from None
