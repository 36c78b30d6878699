"""Passwords: Argon2id in a thread, and what a new password must be like.

Contract:
1. A password is never stored, logged or compared other than through its hash.
2. Checking one takes as long for a user who does not exist.
3. At most `parallel` hashes are computed at a time (each takes the memory of its cost), and at most `waiting` wait.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import nacl.pwhash
from nacl.exceptions import CryptoError
from twisted.internet.defer import DeferredSemaphore

from homeserver.accounts.text import MAX_PASSWORD_LENGTH
from homeserver.config.schema import Passwords
from homeserver.http.errors import MatrixError, limit_exceeded
from homeserver.runtime.entropy import Entropy

RunInThread = Callable[..., Awaitable[Any]]
"""Runs a function with arguments in another thread (or, in tests, at once)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Argon2id's rounds and bytes; the defaults are the least that is recommended for servers (OWASP)."""

    rounds: int = 2
    memory_bytes: int = 19 * 1024 * 1024


class PasswordHasher:
    """Hashes and checks passwords. A hash is text in the usual form, `$argon2id$v=19$m=…,t=…,p=1$salt$hash`."""

    def __init__(
        self,
        run_in_thread: RunInThread,
        entropy: Entropy,
        *,
        cost: Cost | None = None,
        parallel: int = 2,
        waiting: int = 200,
    ) -> None:
        self._run_in_thread = run_in_thread
        self._entropy = entropy
        self._cost = cost or Cost()
        self._turns = DeferredSemaphore(parallel)
        self._most = parallel + waiting
        self._present = 0
        # Nobody's hash: a check against it costs what every check costs, and fails.
        self._nobody = _phc(self._cost, bytes(16), bytes(32))

    async def hash(self, password: str) -> str:
        """The text to store."""
        salt = self._entropy.bytes(nacl.pwhash.argon2id.SALTBYTES)
        text: str = await self._in_turn(_hash, self._cost, password, salt)
        return text

    async def check(self, password: str, stored: str | None) -> bool:
        """Whether it is the password of the stored hash; None (no such user, no password) is never right."""
        if len(password) > MAX_PASSWORD_LENGTH:
            return False
        right: bool = await self._in_turn(_verify, password, self._nobody if stored is None else stored)
        return right and stored is not None

    async def _in_turn(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._present >= self._most:
            raise limit_exceeded(1000)
        self._present += 1
        try:
            await self._turns.acquire()
            try:
                return await self._run_in_thread(function, *args)
            finally:
                self._turns.release()
        finally:
            self._present -= 1


def _hash(cost: Cost, password: str, salt: bytes) -> str:
    # The salt is given, and the text built here, so that a simulation with its own entropy can be replayed.
    raw = nacl.pwhash.argon2id.kdf(
        32, password.encode(), salt, opslimit=cost.rounds, memlimit=cost.memory_bytes
    )
    return _phc(cost, salt, raw)


def _phc(cost: Cost, salt: bytes, raw: bytes) -> str:
    texts = [b64encode(part).rstrip(b"=").decode("ascii") for part in (salt, raw)]
    return f"$argon2id$v=19$m={cost.memory_bytes // 1024},t={cost.rounds},p=1${texts[0]}${texts[1]}"


def _verify(password: str, stored: str) -> bool:
    try:
        return nacl.pwhash.verify(stored.encode("ascii"), password.encode())
    except CryptoError:
        return False  # another password, or a hash that we did not make


def check_new_password(password: str, policy: Passwords) -> None:
    """Refuse a password that the configuration calls weak."""
    # spec: client-server-api#password-management
    weakness = _weakness(password, policy)
    if weakness is not None:
        raise MatrixError(400, "M_WEAK_PASSWORD", weakness)


def _weakness(password: str, policy: Passwords) -> str | None:
    if len(password) > MAX_PASSWORD_LENGTH:
        return f"The password is longer than {MAX_PASSWORD_LENGTH} characters"
    if len(password) < policy.minimum_length:
        return f"The password is shorter than {policy.minimum_length} characters"
    if policy.require_digit and not any(character.isdigit() for character in password):
        return "The password needs a digit"
    if policy.require_symbol and all(character.isalnum() for character in password):
        return "The password needs a character that is no letter or digit"
    if policy.require_uppercase and not any(character.isupper() for character in password):
        return "The password needs an upper-case letter"
    if policy.require_lowercase and not any(character.islower() for character in password):
        return "The password needs a lower-case letter"
    return None
