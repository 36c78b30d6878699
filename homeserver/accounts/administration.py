"""Accounts as administrators see and change them. Nobody asks here whether the requester is one: the endpoint does.

What one call changes of an account is stored in one transaction, but for its name and picture, which come first: they go
the way of every profile, and rooms are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from federation.ids import UserId
from homeserver.accounts.identity_servers import canonical
from homeserver.accounts.passwords import PasswordHasher
from homeserver.accounts.profiles import Profiles, check_value
from homeserver.accounts.sessions import Sessions
from homeserver.accounts.text import MAX_PASSWORD_LENGTH, check_text
from homeserver.accounts.threepids import Threepids
from homeserver.accounts.types import stand_in
from homeserver.accounts.users import Accounts, guest_has_no_password, threepid_in_use
from homeserver.accounts.validations import check_address
from homeserver.db.threads import Database
from homeserver.db.tx import Tx, WriteTx
from homeserver.http.errors import MatrixError, invalid_param, not_found
from homeserver.runtime.clock import Clock
from homeserver.store import users
from homeserver.store.threepids import (
    EMAIL,
    Threepid,
    ThreepidInUseError,
    TooManyThreepidsError,
    find_owner,
    load_threepids,
    replace_threepids,
)
from homeserver.store.user_listing import (
    ListedUser,
    UsersWanted,
    load_listed_user,
    load_listed_users,
)
from homeserver.store.users import Account, NewAccount, Rate
from homeserver.store.work import Worker

USER_TYPES: Final = frozenset({"bot", "support"})
_MSISDN: Final = "msisdn"
_MAX_ADDRESS: Final = 255


class Shown(NamedTuple):
    """An account with its addresses."""

    user: ListedUser
    threepids: Sequence[Threepid]


@dataclass(frozen=True, slots=True)
class AccountWishes:
    """What is to be so; ``UNSET`` and None leave it as it is, where None is no value of its own."""

    password: str | None = None
    log_out: bool = True
    admin: bool | None = None
    locked: bool | None = None
    deactivate: bool = False
    user_type: str | msgspec.UnsetType | None = msgspec.UNSET
    threepids: Sequence[tuple[str, str]] | None = None
    profile: dict[str, str] = field(default_factory=dict)
    """Fields of the profile; an empty value: it has none."""


class AccountDesk:
    """See the module."""

    def __init__(
        self,
        database: Database,
        worker: Worker,
        accounts: Accounts,
        hasher: PasswordHasher,
        profiles: Profiles,
        threepids: Threepids,
        sessions: Sessions,
        clock: Clock,
    ) -> None:
        self._database = database
        self._worker = worker
        self.accounts = accounts
        self._hasher = hasher
        self._profiles = profiles
        self._threepids = threepids
        self._sessions = sessions
        self._clock = clock

    # --- looking -------------------------------------------------------------------------------------

    async def page(self, wanted: UsersWanted, skip: int, most: int) -> tuple[list[ListedUser], int]:
        """A page of the accounts, and how many there are in all."""
        return await self._database.read(load_listed_users, self.accounts.server_name, wanted, skip, most)

    async def show(self, account: Account) -> Shown:
        """An account with its addresses."""
        user, threepids = await self._database.read(_load_shown, account.user_nid)
        if user is None:
            raise not_found("User not found")
        return Shown(user, threepids)

    # --- changing ------------------------------------------------------------------------------------

    async def make(self, user_id: str, wishes: AccountWishes) -> None:
        """A new account. What is wrong with the wishes is said before there is one."""
        localpart = user_id[1:].partition(":")[0]
        if self.accounts.check_username(localpart) != user_id:
            raise MatrixError(400, "M_INVALID_USERNAME", "User names have no capital letters")
        threepids = self._check(wishes)
        hashed = await self._hash(wishes.password)
        account = NewAccount(
            0,
            hashed,
            self._clock.now_ms(),
            admin=bool(wishes.admin),
            user_type=None if isinstance(wishes.user_type, msgspec.UnsetType) else wishes.user_type,
            display_name=wishes.profile.get("displayname", localpart) or None,
        )
        await self.accounts.check_free(user_id)
        await self._check_free(threepids)
        await self.accounts.register(user_id, account, None)
        made = await self.accounts.find(user_id)
        assert made is not None
        rest = {name: value for name, value in wishes.profile.items() if name != "displayname"}
        await self._set_profile(made, rest)
        await self._change(made, wishes, None, threepids)

    async def change(self, account: Account, wishes: AccountWishes) -> None:
        """Change an account."""
        if account.deactivated and (wishes.password is not None or wishes.profile or wishes.threepids):
            raise invalid_param("The account is deactivated")
        if account.guest and wishes.password is not None:
            raise guest_has_no_password()
        threepids = self._check(wishes)
        await self._check_free(threepids, account.user_nid)
        hashed = await self._hash(wishes.password)
        if not wishes.deactivate:
            await self._set_profile(account, wishes.profile)
        await self._change(account, wishes, hashed, threepids)

    async def deactivate(self, account: Account, *, erase: bool) -> str:
        """End an account for good; what became of its addresses at identity servers."""
        addresses = await self.accounts.deactivate(account.user_id, erase=erase)
        return await self._threepids.forget_all(account.user_nid, account.user_id, addresses)

    async def set_standing(
        self, account: Account, *, suspended: bool | None = None, locked: bool | None = None
    ) -> None:
        """Suspend or lock an account, or no longer; None leaves it as it is."""
        done = await self._worker.work(
            users.set_standing, account.user_nid, suspended=suspended, locked=locked
        )
        if not done:
            raise not_found("This account is deactivated")

    async def log_in_as(self, account: Account, expires_ts_ms: int | None) -> str:
        """A token with which an administrator acts as a user."""
        if account.deactivated:
            raise invalid_param("The account is deactivated")
        if expires_ts_ms is not None and expires_ts_ms <= self._clock.now_ms():
            raise invalid_param("valid_until_ms is over")
        return await self._sessions.log_in_as(account.user_nid, expires_ts_ms)

    async def rate(self, account: Account) -> Rate | None:
        """What the user may do instead of what the configuration says; None: nothing of the kind."""
        return await self._database.read(users.load_rate, account.user_nid)

    async def set_rate(self, account: Account, rate: Rate | None) -> None:
        """Let a user do as much as this, or (None) what the configuration says."""
        await self._worker.work(users.set_rate, account.user_nid, rate)

    # --- the parts -----------------------------------------------------------------------------------

    def _check(self, wishes: AccountWishes) -> list[Threepid] | None:
        for name, value in wishes.profile.items():
            if value:
                check_value(name, value)
        if wishes.password is not None:
            check_text(wishes.password, "password", MAX_PASSWORD_LENGTH)
        if wishes.user_type and wishes.user_type not in USER_TYPES:
            raise invalid_param("Invalid user type")
        if wishes.threepids is None:
            return None
        now_ms = self._clock.now_ms()
        found = dict.fromkeys(_checked(medium, address) for medium, address in wishes.threepids)
        return [Threepid(medium, address, now_ms, now_ms) for medium, address in found]

    async def _check_free(self, threepids: Sequence[Threepid] | None, user_nid: int | None = None) -> None:
        """Refuse addresses of others before anything is changed; the transaction decides once more."""
        for one in threepids or ():
            if await self._database.read(find_owner, one.medium, one.address) not in (None, user_nid):
                raise threepid_in_use()

    async def _hash(self, password: str | None) -> str | None:
        return None if password is None else await self._hasher.hash(password)

    async def _set_profile(self, account: Account, profile: dict[str, str]) -> None:
        requester, user_id = stand_in(account.user_id, account.user_nid), UserId(account.user_id)
        for name, value in profile.items():
            await self._profiles.put(requester, user_id, name, {name: value})

    async def _change(
        self, account: Account, wishes: AccountWishes, hashed: str | None, threepids: list[Threepid] | None
    ) -> None:
        try:
            await self._worker.work(_write, account, wishes, hashed, threepids)
        except ThreepidInUseError:
            raise threepid_in_use() from None
        except TooManyThreepidsError:
            raise invalid_param("An account cannot have so many addresses") from None
        if wishes.deactivate:
            await self._threepids.forget_all(account.user_nid, account.user_id)


def _checked(medium: str, address: str) -> tuple[str, str]:
    if medium == EMAIL:
        return medium, check_address(address)
    if medium != _MSISDN or not address.isdigit() or not address.isascii() or len(address) > _MAX_ADDRESS:
        raise invalid_param("An address is of email or msisdn; a telephone number is made of digits")
    return medium, canonical(medium, address)


def _load_shown(tx: Tx, user_nid: int) -> tuple[ListedUser | None, list[Threepid]]:
    return load_listed_user(tx, user_nid), load_threepids(tx, user_nid)


def _write(
    tx: WriteTx,
    account: Account,
    wishes: AccountWishes,
    hashed: str | None,
    threepids: list[Threepid] | None,
) -> None:
    user_nid = account.user_nid
    if hashed is not None:
        users.set_password(tx, user_nid, hashed, log_out=wishes.log_out)
    if wishes.admin is not None and wishes.admin != bool(account.admin):
        users.set_admin(tx, user_nid, wishes.admin)
    if wishes.locked is not None and wishes.locked != bool(account.locked):
        users.set_standing(tx, user_nid, suspended=None, locked=wishes.locked)
    if not isinstance(wishes.user_type, msgspec.UnsetType):
        users.set_user_type(tx, user_nid, wishes.user_type)
    if threepids is not None:
        replace_threepids(tx, user_nid, threepids)
    if wishes.deactivate and not account.deactivated:
        users.deactivate_account(tx, user_nid, erase=False)
