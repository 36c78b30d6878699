"""Access, refresh, login and registration tokens. Only hashes of the first three are stored.

A device holds one line of tokens. The login makes generation 0; using the refresh token of generation *n* makes
generation *n+1*, and drops whatever else the device held besides generation *n*: an older one because the use of
*n* proves that the client has it, a newer one because the client asks again and so never got it. The first use of an
access token of *n+1* drops that of *n*, and replaces its refresh token. That is the whole rule of refreshing, with
nothing to link together.

But two processes of one app may come with the same refresh token at once, the second when the first has used what it
got. For that, a token's use within ``REPEAT_MS`` of its first one gives the same pair again, and changes nothing; only
afterwards does the use of one that was replaced tell of a thief. The pair is derived from the old refresh token with a
seed that its row keeps: so nobody who reads the database can make it, and it need not be stored for anybody to tell it.
spec: client-server-api#refreshing-access-tokens
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from hmac import digest
from typing import Final, NamedTuple

from sqlalchemy import BindParameter, and_, bindparam, delete, exists, insert, or_, select, update

from homeserver.config.schema import Sessions
from homeserver.db.schema.accounts import (
    access_tokens,
    accounts,
    devices,
    login_tokens,
    refresh_tokens,
    registration_tokens,
)
from homeserver.db.schema.rooms import user_ids
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.runtime.entropy import Entropy
from homeserver.store.changes import Kind

REFRESH_PREFIX: Final = "chaosr_"
SEED_LENGTH: Final = 32
# Longer than two processes of an app, or its second attempt, are apart; shorter than the shortest life of an access token.
REPEAT_MS: Final = 10_000
_REPLACED: Final = 0  # in the place of when a refresh token is over

_DEVICE: BindParameter[int] = bindparam("device_nid")
_GENERATION: BindParameter[int] = bindparam("generation")

_INSERT_ACCESS = rows(access_tokens, "hash", "user_nid", "device_nid", "generation", "expires_ts_ms")
_INSERT_REFRESH = rows(refresh_tokens, "hash", "user_nid", "device_nid", "generation", "expires_ts_ms")
_HOLDER = statement(
    select(
        access_tokens.c.user_nid,
        access_tokens.c.device_nid,
        access_tokens.c.generation,
        access_tokens.c.expires_ts_ms,
        user_ids.c.user_id,
        devices.c.device_id,
        accounts.c.admin,
        accounts.c.guest,
        accounts.c.suspended,
        accounts.c.locked,
        accounts.c.rate_per_second,
        accounts.c.rate_burst,
    )
    .select_from(access_tokens)
    .join(user_ids, user_ids.c.nid == access_tokens.c.user_nid)
    .join(accounts, accounts.c.user_nid == access_tokens.c.user_nid)
    .outerjoin(devices, devices.c.nid == access_tokens.c.device_nid)
    .where(and_(access_tokens.c.hash == bindparam("hash"), accounts.c.deactivated == 0))
)
_OLDER_REFRESH = and_(
    refresh_tokens.c.device_nid == _DEVICE,
    refresh_tokens.c.generation < _GENERATION,
    or_(refresh_tokens.c.expires_ts_ms.is_(None), refresh_tokens.c.expires_ts_ms != _REPLACED),
)
_HAS_OLDER = statement(
    select(1).where(
        or_(
            exists().where(_OLDER_REFRESH),
            exists().where(
                and_(access_tokens.c.device_nid == _DEVICE, access_tokens.c.generation < _GENERATION)
            ),
        )
    )
)
_ACCESS_EXISTS = statement(select(1).where(access_tokens.c.hash == bindparam("hash")))
_DROP_OLDER_ACCESS = statement(
    delete(access_tokens).where(
        and_(access_tokens.c.device_nid == _DEVICE, access_tokens.c.generation < _GENERATION)
    )
)
_REPLACE_OLDER_REFRESH = statement(
    update(refresh_tokens).where(_OLDER_REFRESH).values(expires_ts_ms=_REPLACED)
)
_DROP_OTHER_ACCESS = statement(
    delete(access_tokens).where(
        and_(access_tokens.c.device_nid == _DEVICE, access_tokens.c.generation != _GENERATION)
    )
)
_DROP_OTHER_REFRESH = statement(
    delete(refresh_tokens).where(
        and_(refresh_tokens.c.device_nid == _DEVICE, refresh_tokens.c.generation != _GENERATION)
    )
)
_REFRESH = statement(
    select(
        refresh_tokens.c.user_nid,
        refresh_tokens.c.device_nid,
        refresh_tokens.c.generation,
        refresh_tokens.c.expires_ts_ms,
        refresh_tokens.c.used_ts_ms,
        refresh_tokens.c.seed,
        accounts.c.locked,
    )
    .join(accounts, accounts.c.user_nid == refresh_tokens.c.user_nid)
    .where(and_(refresh_tokens.c.hash == bindparam("hash"), accounts.c.deactivated == 0))
    .with_for_update(of=refresh_tokens)  # another process may come with the same one
)
_NOTE_USE = statement(
    update(refresh_tokens)
    .where(refresh_tokens.c.hash == bindparam("the_hash"))
    .values(used_ts_ms=bindparam("now_ms"), seed=bindparam("the_seed"))
)
_ACCESS_EXPIRY = statement(
    select(access_tokens.c.expires_ts_ms).where(
        and_(access_tokens.c.device_nid == _DEVICE, access_tokens.c.generation == _GENERATION)
    )
)
_REFRESH_DEVICE = statement(
    select(refresh_tokens.c.user_nid, devices.c.device_id)
    .select_from(refresh_tokens.join(devices, devices.c.nid == refresh_tokens.c.device_nid))
    .where(
        and_(
            refresh_tokens.c.hash == bindparam("hash"),
            or_(refresh_tokens.c.expires_ts_ms.is_(None), refresh_tokens.c.expires_ts_ms != _REPLACED),
        )
    )
)
_DROP_DEVICE_ACCESS = statement(delete(access_tokens).where(access_tokens.c.device_nid == _DEVICE))
_DROP_DEVICE_REFRESH = statement(delete(refresh_tokens).where(refresh_tokens.c.device_nid == _DEVICE))
_DROP_ACCESS = statement(delete(access_tokens).where(access_tokens.c.hash == bindparam("hash")))
_USER: BindParameter[int] = bindparam("user_nid")
_KEPT: BindParameter[int] = bindparam("kept")
_DROP_USER_ACCESS = statement(
    delete(access_tokens).where(access_tokens.c.user_nid == _USER, access_tokens.c.device_nid != _KEPT)
)
_DROP_USER_REFRESH = statement(
    delete(refresh_tokens).where(refresh_tokens.c.user_nid == _USER, refresh_tokens.c.device_nid != _KEPT)
)
_DROP_USER_LOGIN = statement(delete(login_tokens).where(login_tokens.c.user_nid == _USER))

_INSERT_LOGIN = rows(login_tokens, "hash", "user_nid", "expires_ts_ms")
_SWEEP_LOGIN = statement(delete(login_tokens).where(login_tokens.c.expires_ts_ms <= bindparam("now_ms")))
_TAKE_LOGIN = statement(
    delete(login_tokens)
    .where(login_tokens.c.hash == bindparam("hash"))
    .returning(login_tokens.c.user_nid, login_tokens.c.expires_ts_ms)
)

_RT = registration_tokens.c
_INSERT_REGISTRATION = statement(
    insert(registration_tokens).values(
        token=bindparam("token"),
        uses_allowed=bindparam("uses_allowed"),
        completed=0,
        expires_ts_ms=bindparam("expires_ts_ms"),
    )
)
_REGISTRATION = statement(
    select(_RT.token, _RT.uses_allowed, _RT.completed, _RT.expires_ts_ms).where(
        _RT.token == bindparam("token")
    )
)
_ALL_REGISTRATION = statement(
    select(_RT.token, _RT.uses_allowed, _RT.completed, _RT.expires_ts_ms).order_by(_RT.token)
)
_CHANGE_REGISTRATION = statement(
    update(registration_tokens)
    .where(_RT.token == bindparam("the_token"))
    .values(uses_allowed=bindparam("new_uses"), expires_ts_ms=bindparam("new_expiry"))
    .returning(_RT.token)
)
_DROP_REGISTRATION = statement(
    delete(registration_tokens).where(_RT.token == bindparam("the_token")).returning(_RT.token)
)
_USE_REGISTRATION = statement(
    update(registration_tokens)
    .where(
        and_(
            _RT.token == bindparam("the_token"),
            or_(_RT.uses_allowed.is_(None), _RT.completed < _RT.uses_allowed),
            or_(_RT.expires_ts_ms.is_(None), _RT.expires_ts_ms > bindparam("now_ms")),
        )
    )
    .values(completed=_RT.completed + 1)
    .returning(_RT.completed)
)


def hash_token(token: str) -> bytes:
    """A token carries 128 bits or more of entropy: a fast hash without salt is enough to hide it."""
    return sha256(token.encode("utf-8", "replace")).digest()


class Holder(NamedTuple):
    """Whose access token it is."""

    user_nid: int
    device_nid: int
    generation: int
    expires_ts_ms: int | None
    user_id: str
    device_id: str | None
    admin: int
    guest: int
    suspended: int
    locked: int
    rate_per_second: int | None
    rate_burst: int | None


@dataclass(frozen=True, slots=True)
class NewTokens:
    """Hashes of tokens to be stored for a device."""

    access_hash: bytes
    access_expires_ts_ms: int | None
    refresh_hash: bytes | None = None
    refresh_expires_ts_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """New tokens of a device that refreshes them: in clear, as its client is told once, and as they are stored."""

    access_token: str
    refresh_token: str
    lifetime_s: int
    stored: NewTokens


def draw_access_token(entropy: Entropy) -> str:
    """One that nobody can guess."""
    return f"chaos_{entropy.token(32)}"


def draw_tokens(entropy: Entropy, config: Sessions, now_ms: int, family: str = "") -> Drawn:
    """A pair that lives as long as the configuration says. ``family``: what the refresh token begins with."""
    access_token = draw_access_token(entropy)
    refresh_token = f"{REFRESH_PREFIX}{family}{entropy.token(32)}"
    stored = hash_pair(access_token, refresh_token, config, now_ms)
    return Drawn(access_token, refresh_token, config.access_token_lifetime_s, stored)


def derive_pair(refresh_token: str, seed: bytes, family: str = "") -> tuple[str, str]:
    """The access and the refresh token that follow a refresh token. Who has not both it and the seed cannot guess them."""
    access = _derive(refresh_token, b"access", seed)
    return f"chaos_{access}", f"{REFRESH_PREFIX}{family}{_derive(refresh_token, b'refresh', seed)}"


def _derive(refresh_token: str, kind: bytes, seed: bytes) -> str:
    code = digest(refresh_token.encode("utf-8", "replace"), kind + seed, "sha256")
    return urlsafe_b64encode(code).rstrip(b"=").decode("ascii")


def hash_pair(access_token: str, refresh_token: str, config: Sessions, now_ms: int) -> NewTokens:
    """What is stored of a pair, which lives as long as the configuration says."""
    life_s = config.refresh_token_lifetime_s
    return NewTokens(
        hash_token(access_token),
        now_ms + config.access_token_lifetime_s * 1000,
        hash_token(refresh_token),
        None if life_s is None else now_ms + life_s * 1000,
    )


class _Held(NamedTuple):
    """A refresh token as it is stored."""

    user_nid: int
    device_nid: int
    generation: int
    expires_ts_ms: int | None
    used_ts_ms: int | None
    seed: bytes | None
    locked: int


class Used(NamedTuple):
    """The use of a refresh token: what its successors are derived with, and when the access token among them is over."""

    device_nid: int
    seed: bytes
    access_expires_ts_ms: int


class RegistrationToken(NamedTuple):
    """Something like an invitation to register: how often it may be used, and until when."""

    token: str
    uses_allowed: int | None
    completed: int
    expires_ts_ms: int | None

    def is_valid(self, now_ms: int) -> bool:
        """Whether it can be used once more now."""
        if self.expires_ts_ms is not None and self.expires_ts_ms <= now_ms:
            return False
        return self.uses_allowed is None or self.completed < self.uses_allowed


class RefreshRefusedError(Exception):
    """The refresh token is unknown, or over (``expired``: its device is still there)."""

    def __init__(self, *, expired: bool) -> None:
        super().__init__(expired)
        self.expired = expired


class AccountLockedError(Exception):
    """The account gets no tokens while it is locked."""


class RegistrationTokenRefusedError(Exception):
    """The registration token is unknown, used up or over."""


# --- access tokens -----------------------------------------------------------------------------------


def load_holder(tx: Tx, token_hash: bytes) -> tuple[Holder, bool] | None:
    """The holder of an access token, and whether its use makes older tokens of the device obsolete."""
    row = tx.one(_HOLDER, hash=token_hash)
    if row is None:
        return None
    holder = Holder(*row)
    if holder.generation == 0:
        return holder, False
    older = tx.value(_HAS_OLDER, device_nid=holder.device_nid, generation=holder.generation)
    return holder, older is not None


def store_tokens(tx: Tx, user_nid: int, device_nid: int, tokens: NewTokens, generation: int = 0) -> None:
    """Give tokens to a device, beside those that it has."""
    access = (tokens.access_hash, user_nid, device_nid, generation, tokens.access_expires_ts_ms)
    tx.insert(_INSERT_ACCESS, [access])
    if tokens.refresh_hash is not None:
        refresh = (tokens.refresh_hash, user_nid, device_nid, generation, tokens.refresh_expires_ts_ms)
        tx.insert(_INSERT_REFRESH, [refresh])


def drop_older_tokens(
    tx: WriteTx, token_hash: bytes, user_nid: int, device_nid: int, generation: int
) -> None:
    """An access token was seen in use, so the client has it: the generations before it end."""
    if tx.value(_ACCESS_EXISTS, hash=token_hash) is None:
        return  # revoked in the meantime: what is left is not its to end
    tx.run(_DROP_OLDER_ACCESS, device_nid=device_nid, generation=generation)
    tx.run(_REPLACE_OLDER_REFRESH, device_nid=device_nid, generation=generation)
    tx.claim(Kind.DEVICES, -user_nid, device_nid)


def rotate_tokens(
    tx: WriteTx,
    refresh_hash: bytes,
    seed: bytes,
    tokens: NewTokens,
    now_ms: int,
    *,
    even_locked: bool = False,
) -> Used:
    """Use a refresh token. ``tokens`` was derived with ``seed``; what is found of a use just before is told instead.

    Raises RefreshRefusedError or AccountLockedError.
    """
    row = tx.one(_REFRESH, hash=refresh_hash)
    if row is None:
        raise RefreshRefusedError(expired=False)
    held = _Held(*row)
    before = _find_use(tx, held, now_ms)
    if held.expires_ts_ms == _REPLACED and before is None:
        raise RefreshRefusedError(expired=False)
    if held.expires_ts_ms and held.expires_ts_ms <= now_ms:
        raise RefreshRefusedError(expired=True)
    if held.locked and not even_locked:
        raise AccountLockedError
    if before is not None:
        return before
    device_nid, generation = held.device_nid, held.generation
    tx.run(_DROP_OTHER_ACCESS, device_nid=device_nid, generation=generation)
    tx.run(_DROP_OTHER_REFRESH, device_nid=device_nid, generation=generation)
    tx.run(_NOTE_USE, the_hash=refresh_hash, the_seed=seed, now_ms=now_ms)
    store_tokens(tx, held.user_nid, device_nid, tokens, generation + 1)
    tx.claim(Kind.DEVICES, -held.user_nid, device_nid)
    return Used(device_nid, seed, tokens.access_expires_ts_ms or now_ms)


def _find_use(tx: Tx, held: _Held, now_ms: int) -> Used | None:
    """The use of a refresh token that this one repeats."""
    if held.seed is None or held.used_ts_ms is None or now_ms >= held.used_ts_ms + REPEAT_MS:
        return None
    expires_ts_ms = tx.value(_ACCESS_EXPIRY, device_nid=held.device_nid, generation=held.generation + 1)
    return None if expires_ts_ms is None else Used(held.device_nid, held.seed, expires_ts_ms)


def find_refresh_device(tx: Tx, refresh_hash: bytes) -> tuple[int, str] | None:
    """The user and the device that a refresh token belongs to, which nothing has replaced."""
    row = tx.one(_REFRESH_DEVICE, hash=refresh_hash)
    return None if row is None else (row[0], row[1])


def drop_access_token(tx: WriteTx, token_hash: bytes, user_nid: int) -> None:
    """For a token that belongs to no device."""
    tx.run(_DROP_ACCESS, hash=token_hash)
    tx.claim(Kind.DEVICES, -user_nid)


def drop_device_tokens(tx: Tx, device_nids: Sequence[int]) -> None:
    """The caller claims the change."""
    for device_nid in device_nids:
        tx.run(_DROP_DEVICE_ACCESS, device_nid=device_nid)
        tx.run(_DROP_DEVICE_REFRESH, device_nid=device_nid)


def drop_user_tokens(tx: Tx, user_nid: int, keep_device_nid: int = 0) -> None:
    """Every token of a user, but perhaps those of one device; the caller claims the change."""
    kept = keep_device_nid or -1  # 0 is what a token of no device has
    tx.run(_DROP_USER_ACCESS, user_nid=user_nid, kept=kept)
    tx.run(_DROP_USER_REFRESH, user_nid=user_nid, kept=kept)
    tx.run(_DROP_USER_LOGIN, user_nid=user_nid)


# --- login tokens ------------------------------------------------------------------------------------


def store_login_token(tx: WriteTx, token_hash: bytes, user_nid: int, expires_ts_ms: int, now_ms: int) -> None:
    """Keep a login token, and forget those that are over."""
    tx.run(_SWEEP_LOGIN, now_ms=now_ms)
    tx.insert(_INSERT_LOGIN, [(token_hash, user_nid, expires_ts_ms)])


def take_login_token(tx: WriteTx, token_hash: bytes, now_ms: int) -> int | None:
    """The user of a login token, which is gone with that; None for one that is unknown or over."""
    row = tx.one(_TAKE_LOGIN, hash=token_hash)
    return None if row is None or row[1] <= now_ms else row[0]


# --- registration tokens -----------------------------------------------------------------------------


def create_registration_token(
    tx: WriteTx, token: str, uses_allowed: int | None = None, expires_ts_ms: int | None = None
) -> None:
    """A new registration token; IntegrityViolation where it exists."""
    tx.run(_INSERT_REGISTRATION, token=token, uses_allowed=uses_allowed, expires_ts_ms=expires_ts_ms)


def load_registration_token(tx: Tx, token: str) -> RegistrationToken | None:
    """One registration token, valid or not."""
    row = tx.one(_REGISTRATION, token=token)
    return None if row is None else RegistrationToken(*row)


def list_registration_tokens(tx: Tx) -> list[RegistrationToken]:
    """Every registration token."""
    return [RegistrationToken(*row) for row in tx.all(_ALL_REGISTRATION)]


def change_registration_token(
    tx: Tx, token: str, uses_allowed: int | None, expires_ts_ms: int | None
) -> bool:
    """How often it may be used in all, and until when; whether there is such a token."""
    return (
        tx.value(_CHANGE_REGISTRATION, the_token=token, new_uses=uses_allowed, new_expiry=expires_ts_ms)
        is not None
    )


def drop_registration_token(tx: Tx, token: str) -> bool:
    """Nobody registers with it any more; whether there was such a token."""
    return tx.value(_DROP_REGISTRATION, the_token=token) is not None


def use_registration_token(tx: Tx, token: str, now_ms: int) -> None:
    """Count one registration, in its own transaction. Raises RegistrationTokenRefusedError."""
    if tx.value(_USE_REGISTRATION, the_token=token, now_ms=now_ms) is None:
        raise RegistrationTokenRefusedError
