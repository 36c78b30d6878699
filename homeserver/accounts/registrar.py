"""Registering: what everybody who makes an account for themselves goes through, by an app or on a page.

Contract:
1. A name is refused before anything is asked of anybody: it must be well-formed, of no application service, and free.
2. A registration token and a proof of an address are used up in the transaction that makes the account.
spec: client-server-api#legacy-account-registration
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from homeserver.accounts.passwords import PasswordHasher, check_new_password
from homeserver.accounts.sessions import DeviceWish, Grant
from homeserver.accounts.users import Accounts
from homeserver.config.schema import Config, RegistrationMode
from homeserver.http.errors import forbidden
from homeserver.runtime.clock import Clock
from homeserver.store.tokens import RegistrationTokenRefusedError
from homeserver.store.users import NewAccount
from homeserver.store.validations import Validation


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Somebody whose name, password and proofs were checked."""

    user_id: str
    username: str  # as it was written: they are called so at first
    password: str
    registration_token: str | None = None
    proof: Validation | None = None


class Registrar:
    """See the module. ``config`` is asked each time: registration may be opened or closed while the server runs.

    ``check_unreserved`` gives a user id back, unless it belongs to an application service.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        accounts: Accounts,
        hasher: PasswordHasher,
        clock: Clock,
        check_unreserved: Callable[[str], str],
    ) -> None:
        self._config = config
        self._accounts = accounts
        self._hasher = hasher
        self._clock = clock
        self._check_unreserved = check_unreserved

    @property
    def mode(self) -> RegistrationMode:
        """Who may register."""
        return self._config().registration.mode

    def check_open(self) -> None:
        """Refuse where nobody may."""
        if self.mode == "closed":
            raise forbidden("Registration is closed on this server")

    def check_password(self, password: str) -> None:
        """Refuse a password that the configuration calls weak."""
        check_new_password(password, self._config().passwords)

    async def check_name(self, username: str) -> str:
        """The user id that somebody of this name gets; refuses names that are not to be had."""
        user_id = self._check_unreserved(self._accounts.check_username(username))
        await self._accounts.check_free(user_id)
        return user_id

    def draw_name(self) -> tuple[str, str]:
        """A user id and a name for somebody who gave none."""
        username = self._accounts.draw_username()
        return self._check_unreserved(self._accounts.check_username(username)), username

    async def is_token_valid(self, token: str) -> bool:
        """Whether somebody could register with a registration token now."""
        return await self._accounts.is_registration_token_valid(token)

    async def register(
        self, newcomer: Newcomer, wish: DeviceWish | None, *, was_guest: bool = False
    ) -> Grant | None:
        """Make the account, and log its first device in if there is a wish."""
        account = NewAccount(
            0,  # the number comes with the binding of the name
            await self._hasher.hash(newcomer.password),
            self._clock.now_ms(),
            display_name=newcomer.username,
            registration_token=newcomer.registration_token,
            proof=newcomer.proof,
        )
        try:
            return await self._accounts.register(newcomer.user_id, account, wish, was_guest=was_guest)
        except RegistrationTokenRefusedError:
            raise forbidden("The registration token was used up meanwhile") from None
