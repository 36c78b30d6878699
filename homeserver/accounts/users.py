"""Accounts: making, finding, changing and ending them. The API and the command line both come here.

spec: client-server-api#legacy-account-registration
"""

from __future__ import annotations

import string
from dataclasses import replace

from federation.ids import domain_of, is_valid_new_localpart, is_valid_old_localpart
from homeserver.accounts.passwords import PasswordHasher
from homeserver.accounts.sessions import DeviceWish, Grant, Sessions, proof_is_good
from homeserver.accounts.text import MAX_PASSWORD_LENGTH, check_text
from homeserver.db.errors import IntegrityViolation
from homeserver.db.threads import Database
from homeserver.http.errors import MatrixError, forbidden, invalid_param, not_found
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import READABLE, Entropy
from homeserver.store import tokens, users
from homeserver.store.ids import Interner
from homeserver.store.threepids import EMAIL, ThreepidInUseError, find_owner
from homeserver.store.tokens import hash_token
from homeserver.store.users import Account, NewAccount, UserInUseError
from homeserver.store.validations import ProofUsedUpError, Validation
from homeserver.store.work import Worker

MAX_REGISTRATION_TOKEN_LENGTH = 64
MAX_ADDRESS = 1000
_TOKEN_CHARACTERS = frozenset(string.ascii_letters + string.digits + "._~-")


class Accounts:
    """The accounts of this server."""

    def __init__(
        self,
        server_name: str,
        database: Database,
        worker: Worker,
        interner: Interner,
        clock: Clock,
        entropy: Entropy,
        hasher: PasswordHasher,
        sessions: Sessions,
    ) -> None:
        self.server_name = server_name
        self._database = database
        self._worker = worker
        self._interner = interner
        self._clock = clock
        self._entropy = entropy
        self._hasher = hasher
        self._sessions = sessions

    # --- names -----------------------------------------------------------------------------------

    def check_username(self, username: str) -> str:
        """The user id that a new account of this name gets. Letters are folded to lower case."""
        # spec: appendices#user-identifiers
        localpart = username.lower()
        is_valid = is_valid_new_localpart(localpart)
        return self._user_id(localpart, "the characters a-z, 0-9 and ._=-/+", is_valid=is_valid)

    def check_ghost_name(self, username: str) -> str:
        """The user id that a user of an application service gets: as it is written, brackets and capitals too.

        Names of other networks are full of them, and the bridge goes on to use exactly what it has asked for.
        """
        # spec: appendices#historical-user-ids
        is_valid = is_valid_old_localpart(username)
        return self._user_id(username, "printable ASCII without :", is_valid=is_valid)

    def _user_id(self, localpart: str, allowed: str, *, is_valid: bool) -> str:
        user_id = f"@{localpart}:{self.server_name}"
        if not is_valid or len(user_id) > 255:
            raise MatrixError(400, "M_INVALID_USERNAME", f"A user name is made of {allowed}, and not long")
        return user_id

    async def check_free(self, user_id: str) -> None:
        """Refuse a user id that is taken, by an account of today or of the past."""
        if await self.find(user_id) is not None:
            raise _user_in_use()

    async def find(self, user_id: str) -> Account | None:
        """An account, deactivated or not."""
        return (await self._database.read(users.load_accounts, [user_id])).get(user_id)

    async def find_by_nid(self, user_nid: int) -> Account | None:
        """An account by its number."""
        return await self._database.read(users.load_account, user_nid)

    async def find_for_login(self, name: str) -> Account | None:
        """The account that somebody means by a user id or a localpart: as written, else in lower case."""
        # spec: client-server-api#matrix-user-id
        if name.startswith("@"):
            localpart, _, domain = name[1:].partition(":")
            if domain != self.server_name:
                return None
        else:
            localpart = name
        if not localpart or len(localpart) > 255 or "\0" in localpart:
            return None
        exact = f"@{localpart}:{self.server_name}"
        folded = f"@{localpart.lower()}:{self.server_name}"
        found = await self._database.read(users.load_accounts, [exact, folded])
        return found.get(exact) or found.get(folded)

    async def find_by_address(self, medium: str, address: str) -> Account | None:
        """The account that has an address."""
        # spec: client-server-api#third-party-id
        if medium != EMAIL or "\0" in address or len(address) > MAX_ADDRESS:
            return None
        owner = await self._database.read(find_owner, medium, address.strip().lower())
        return None if owner is None else await self.find_by_nid(owner)

    async def find_guest(self, token: str) -> Account | None:
        """The guest who has an access token."""
        found = await self._database.read(tokens.load_holder, hash_token(token))
        return await self.find_by_nid(found[0].user_nid) if found is not None and found[0].guest else None

    async def is_local_account(self, user_id: str) -> bool:
        """Whether the (parsed) user id is of somebody who can still log in here."""
        if domain_of(user_id) != self.server_name:
            return False
        account = await self.find(user_id)
        return account is not None and not account.deactivated

    # --- making ----------------------------------------------------------------------------------

    async def register(
        self, user_id: str, account: NewAccount, wish: DeviceWish | None, *, was_guest: bool = False
    ) -> Grant | None:
        """Make the account (its `user_nid` is filled in here) and log its first device in, if there is a wish.

        ``was_guest``: make it of the guest's account of this name.
        """
        user_nid = await self._interner.user(user_id)
        account = replace(account, user_nid=user_nid)
        make = users.upgrade_guest if was_guest else users.create_account
        prepared = None if wish is None else self._sessions.prepare(user_nid, wish)
        try:
            if prepared is None:
                await self._worker.work(make, account)
                return None
            await self._worker.work(make, account, prepared.login, prepared.tokens)
        except ProofUsedUpError:
            raise MatrixError(403, "M_THREEPID_AUTH_FAILED", "The letter was used already") from None
        except ThreepidInUseError:
            raise threepid_in_use() from None
        except (UserInUseError, IntegrityViolation):
            raise _user_in_use() from None
        return prepared.grant

    async def create_user(
        self, localpart: str, password: str | None, admin: bool = False, *, display_name: str | None = None
    ) -> str:
        """An account without the ceremony, for administrators; returns the user id."""
        user_id = self.check_username(localpart)
        await self.check_free(user_id)
        hashed = None if password is None else await self._hash(password)
        account = NewAccount(
            0, hashed, self._clock.now_ms(), admin=admin, display_name=display_name or localpart
        )
        await self.register(user_id, account, None)
        return user_id

    def draw_username(self) -> str:
        """A name for somebody who gave none."""
        return self._entropy.id(12, string.ascii_lowercase + string.digits)

    # --- changing --------------------------------------------------------------------------------

    async def set_password(
        self,
        user_id: str,
        password: str,
        *,
        log_out: bool = True,
        keep_device_nid: int = 0,
        proof: Validation | None = None,
        proven: Account | None = None,
    ) -> Account:
        """A new password; by default every login but perhaps one ends with it. The account as it is with that.

        ``proof``: of an address of the account, which is used up in the transaction that changes the password.
        ``proven``: the account as it was when somebody proved by the old password that it is theirs.
        """
        hashed = await self._hash(password)
        account = await self._require(user_id)
        if account.guest:
            raise guest_has_no_password()
        try:
            with proof_is_good():
                changed = await self._worker.work(
                    users.set_password,
                    account.user_nid,
                    hashed,
                    log_out=log_out,
                    keep_device_nid=keep_device_nid,
                    proof=proof,
                    proven=proven,
                )
        except ProofUsedUpError:
            raise forbidden("The letter was used already") from None
        if not changed:
            raise not_found("This account is deactivated")
        return account._replace(password_hash=hashed)

    async def set_admin(self, user_id: str, admin: bool) -> None:
        """Make somebody an administrator of the server, or no longer one."""
        account = await self._require(user_id)
        await self._worker.work(users.set_admin, account.user_nid, admin)

    async def deactivate(
        self, user_id: str, *, erase: bool, proven: Account | None = None
    ) -> list[tuple[str, str]]:
        """End an account for good; its name stays taken. Media and addresses that it had until now.

        ``proven``: as for ``set_password``.
        """
        account = await self._require(user_id)
        with proof_is_good():
            return await self._worker.work(
                users.deactivate_account, account.user_nid, erase=erase, proven=proven
            )

    async def list_users(self, after: str = "", most: int = 100) -> list[Account]:
        """A page of the accounts in the order of their ids; the next one begins after the last id."""
        return await self._database.read(users.list_accounts, after, most)

    async def _require(self, user_id: str) -> Account:
        account = await self.find(user_id)
        if account is None:
            raise not_found(f"There is no account {user_id}")
        return account

    async def _hash(self, password: str) -> str:
        return await self._hasher.hash(check_text(password, "password", MAX_PASSWORD_LENGTH))

    # --- registration tokens ---------------------------------------------------------------------

    async def create_registration_token(
        self,
        token: str | None = None,
        uses_allowed: int | None = None,
        expires_ts_ms: int | None = None,
        length: int = 16,
    ) -> str:
        """A token with which people may register; drawn, of that length, if none is given."""
        # spec: client-server-api#token-authenticated-registration
        token = self._entropy.id(length, READABLE) if token is None else token
        if not 0 < len(token) <= MAX_REGISTRATION_TOKEN_LENGTH or not _TOKEN_CHARACTERS.issuperset(token):
            raise invalid_param("A registration token has 1 to 64 characters of A-Z, a-z, 0-9 and ._~-")
        try:
            await self._worker.work(tokens.create_registration_token, token, uses_allowed, expires_ts_ms)
        except IntegrityViolation:
            raise invalid_param("There is such a registration token already") from None
        return token

    async def list_registration_tokens(self) -> list[tokens.RegistrationToken]:
        """Every registration token."""
        return await self._database.read(tokens.list_registration_tokens)

    async def find_registration_token(self, token: str) -> tokens.RegistrationToken:
        """One registration token, valid or not; 404 where there is none."""
        found = await self._database.read(tokens.load_registration_token, token)
        if found is None:
            raise _no_such_token(token)
        return found

    async def change_registration_token(
        self, token: str, uses_allowed: int | None, expires_ts_ms: int | None
    ) -> None:
        """How often it may be used in all, and until when; None: without end."""
        if not await self._worker.work(tokens.change_registration_token, token, uses_allowed, expires_ts_ms):
            raise _no_such_token(token)

    async def drop_registration_token(self, token: str) -> None:
        """Nobody registers with it any more."""
        if not await self._worker.work(tokens.drop_registration_token, token):
            raise _no_such_token(token)

    def is_usable(self, token: tokens.RegistrationToken) -> bool:
        """Whether somebody could register with it now."""
        return token.is_valid(self._clock.now_ms())

    async def is_registration_token_valid(self, token: str) -> bool:
        """Whether somebody could register with it now."""
        if not 0 < len(token) <= MAX_REGISTRATION_TOKEN_LENGTH or not _TOKEN_CHARACTERS.issuperset(token):
            return False
        found = await self._database.read(tokens.load_registration_token, token)
        return found is not None and found.is_valid(self._clock.now_ms())


def _no_such_token(token: str) -> MatrixError:
    return not_found(f"No such registration token: {token[:MAX_REGISTRATION_TOKEN_LENGTH]}")


def guest_has_no_password() -> MatrixError:
    """A guest logs in by nothing but the token that they were given; a password comes with a whole account."""
    return invalid_param("A guest has no password")


def threepid_in_use() -> MatrixError:
    """The address belongs to somebody."""
    return MatrixError(400, "M_THREEPID_IN_USE", "This address belongs to an account already")


def _user_in_use() -> MatrixError:
    return MatrixError(400, "M_USER_IN_USE", "This user name is taken")
