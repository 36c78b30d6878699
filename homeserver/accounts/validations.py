"""Proving that a mail address is one's own: a letter with a link, and the page behind it.

Contract:
1. A letter goes out once for each `send_attempt`; only the newest one's link is good, for a day.
2. A proof serves the purpose for which it was asked, once; one for a new account may serve an account that there is.
3. Where addresses are hidden, the answer does not tell whether an address has an account: the letter does.
4. Whoever answers the client does not wait for the mail server.
5. Whoever asks, a mailbox gets no more letters than the configuration says, whatever the secret and the attempt.
spec: client-server-api#post_matrixclientv3registeremailrequesttoken, identity-service-api#email-associations
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlencode, urlsplit

from homeserver.accounts.letters import about_no_account, about_own_account, with_link
from homeserver.accounts.uia import StageRefusedError
from homeserver.accounts.users import threepid_in_use
from homeserver.config.schema import Config
from homeserver.db.threads import Database
from homeserver.http.errors import MatrixError, invalid_param, limit_exceeded, missing_param
from homeserver.http.mail import Mailer, MailNotSentError, is_mail_address
from homeserver.http.ratelimit import RateLimiter
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log
from homeserver.store import validations
from homeserver.store.threepids import EMAIL, find_owner
from homeserver.store.tokens import hash_token
from homeserver.store.validations import Purpose, TooManyValidationsError, Validation
from homeserver.store.work import Worker

STAGE: Final = "m.login.email.identity"
PATH: Final = "/_chaos/validate_email"
LIFETIME_MS: Final = 24 * 3600 * 1000
MAX_NEXT_LINK: Final = 2048
_SECRET: Final = re.compile(r"[0-9a-zA-Z.=_-]{1,255}")


class Spawner(Protocol):
    """The part of a task group that this module needs."""

    def spawn(self, name: str, work: Coroutine[Any, Any, object]) -> object: ...


class Validations:
    """See the module. `mailer` None: no mail can be sent, so nothing can be proved."""

    def __init__(
        self,
        config: Callable[[], Config],
        database: Database,
        worker: Worker,
        mailer: Mailer | None,
        limiter: RateLimiter,
        tasks: Spawner,
        clock: Clock,
        entropy: Entropy,
        log: Log,
    ) -> None:
        self._config = config
        self._database = database
        self._worker = worker
        self._mailer = mailer
        self._limiter = limiter
        self._tasks = tasks
        self._clock = clock
        self._entropy = entropy
        self._log = log

    @property
    def possible(self) -> bool:
        """Whether mail can be sent."""
        return self._mailer is not None

    async def begin(
        self, purpose: Purpose, email: str, client_secret: str, send_attempt: int, next_link: str | None
    ) -> str:
        """Send a letter, unless this attempt had one; the id of the attempt."""
        if self._mailer is None:
            raise MatrixError(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED", "This server sends no mail")
        address = check_address(email)
        check_secret(client_secret)
        check_next_link(next_link)
        self._limiter.check("register", f"mail {address}")
        owner = await self._database.read(find_owner, EMAIL, address)
        token, sid, now_ms = self._entropy.token(32), self._entropy.id(24), self._clock.now_ms()
        refused = (owner is None) == (purpose is Purpose.PASSWORD)
        if refused and not self._is_hidden():
            if purpose is Purpose.PASSWORD:
                raise MatrixError(400, "M_THREEPID_NOT_FOUND", "No account has this address")
            raise threepid_in_use()
        wanted = Validation(
            sid,
            purpose,
            address,
            client_secret,
            send_attempt,
            hash_token(token),
            0,
            next_link,
            None,
            now_ms + LIFETIME_MS,
        )
        if await self._database.read(validations.is_letter_due, wanted, now_ms):
            # Before anything is stored: a letter that is not sent does not end the link of the one before.
            self._limiter.check("letters", _mailbox(address))
        try:
            sid, is_new = await self._worker.work(validations.begin, wanted, now_ms)
        except TooManyValidationsError:
            raise limit_exceeded(LIFETIME_MS) from None
        if is_new:
            config = self._config()
            if not refused:
                query = urlencode({"sid": sid, "client_secret": client_secret, "token": token})
                link = f"{config.base_url}{PATH}?{query}"
                letter = with_link(purpose, config.server_name, link)
            elif purpose is Purpose.PASSWORD:
                letter = about_no_account(config.server_name)
            else:
                letter = about_own_account(config.server_name)
            self._tasks.spawn("send a letter", self._send(self._mailer, address, letter))
        return sid

    async def begin_on_page(self, purpose: Purpose, email: str) -> dict[str, str]:
        """The same for a page of ours: what its next form must hold, so that it is known whose attempt it is."""
        secret = self._entropy.token(24)
        sid = await self.begin(purpose, email, secret, 1, None)
        return {"sid": sid, "client_secret": secret}

    def _is_hidden(self) -> bool:
        email = self._config().email
        return email is not None and email.hide_accounts

    async def _send(self, mailer: Mailer, address: str, letter: tuple[str, str, str]) -> None:
        try:
            await mailer.send(address, *letter)
        except MailNotSentError as error:
            # To whom stays out of the log: addresses are nobody's business there.
            self._log.warning("no letter to verify an address", problem=str(error))

    async def find(self, sid: str, client_secret: str) -> Validation | None:
        """An attempt, validated or not, for who knows its secret."""
        if not is_sid(sid) or not _SECRET.fullmatch(client_secret):
            return None
        return await self._database.read(validations.find, sid, client_secret, self._clock.now_ms())

    async def submit(self, sid: str, client_secret: str, token: str) -> Validation | None:
        """Prove it by the token of the letter; None where it is not that."""
        if not is_sid(sid) or not _SECRET.fullmatch(client_secret):
            return None
        now_ms = self._clock.now_ms()
        return await self._worker.work(
            validations.submit, sid, client_secret, hash_token(token), now_ms, now_ms + LIFETIME_MS
        )

    async def proven(self, purpose: Purpose, sid: Any, client_secret: Any) -> Validation | None:
        """The validated attempt for a purpose."""
        if not isinstance(sid, str) or not isinstance(client_secret, str):
            return None
        found = await self.find(sid, client_secret)
        if found is None or found.purpose != purpose or found.validated_ts_ms is None:
            return None
        return found

    def stage(self, purpose: Purpose, count: Callable[[], None] | None = None) -> AddressStage:
        """The stage of interactive authentication that asks for such a proof; its result is the proof.

        ``count``: called when there is one. What it raises leaves the session and the proof as they are, to try again.
        """
        return AddressStage(self, purpose, count)


@dataclass(frozen=True, slots=True)
class AddressStage:
    """See :meth:`Validations.stage`."""

    # spec: client-server-api#email-based-identity--homeserver
    validations: Validations
    purpose: Purpose
    count: Callable[[], None] | None = None

    async def __call__(self, auth: dict[str, Any]) -> Validation:
        creds = auth.get("threepid_creds", auth.get("threepidCreds"))
        if not isinstance(creds, dict):
            raise missing_param("threepid_creds is missing")
        found = await self.validations.proven(self.purpose, creds.get("sid"), creds.get("client_secret"))
        if found is None:
            raise StageRefusedError("M_THREEPID_AUTH_FAILED", "The address is not confirmed (yet)")
        if self.count is not None:
            self.count()
        return found


def is_sid(text: str) -> bool:
    """Whether it has the form of an attempt's id."""
    return _SECRET.fullmatch(text) is not None


def check_secret(client_secret: str) -> None:
    """Refuse what is no client secret."""
    if not _SECRET.fullmatch(client_secret):
        raise invalid_param("client_secret must be 1 to 255 characters of 0-9, a-z, A-Z and .=_-")


def check_address(email: str) -> str:
    """The address as it is stored: capitals make no other address."""
    address = email.strip().lower()
    if not is_mail_address(address):
        raise invalid_param("This is not an e-mail address")
    return address


def _mailbox(address: str) -> str:
    """Where letters to an address arrive: with most providers, what follows a plus is the reader's own affair."""
    name, _, domain = address.rpartition("@")
    return f"{name.partition('+')[0] or name}@{domain}"


def check_next_link(next_link: str | None) -> None:
    """Refuse what is no address of the web. Nobody is sent there unasked: the page shows it as a link."""
    if next_link is None:
        return
    try:
        parts = urlsplit(next_link)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        good = False
    if not good or len(next_link) > MAX_NEXT_LINK or not next_link.isascii() or not next_link.isprintable():
        raise invalid_param("next_link must be an address of the web")
