"""SmtpMailer: sends mail through a mail server, over Twisted's SMTP client.

MUSTs: 1. with `tls` nothing is told (neither password nor letter) before an encrypted connection whose certificate is for
the mail server's name; 2. everything is bounded: an attempt's time, how many are made at once and in all, how many
letters wait; 3. what a log may show holds neither password nor letter.
spec: RFC 5321, RFC 3207 (STARTTLS), RFC 8314 (TLS from the first byte, on port 465)
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet._sslverify import IOpenSSLTrustRoot
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.protocol import connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.mail.smtp import (
    SUCCESS,
    CramMD5ClientAuthenticator,
    ESMTPClient,
    LOGINAuthenticator,
    PLAINAuthenticator,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from homeserver.config.schema import Email
from homeserver.http.deadline import cut_off
from homeserver.http.mail import Letter, MailNotSentError, compose
from homeserver.http.transport import Unreachable
from homeserver.runtime.clock import Clock, sleep
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log

TLS_PORT: Final = 465
ATTEMPT_S: Final = 30.0
WAITS_S: Final = (3.0, 15.0)
"""Between the attempts: three in all, as greylisting and a mail server's restart ask for more than one."""
AT_ONCE: Final = 2
MAX_WAITING: Final = 500
MAX_REPLY_LINES: Final = 100
_UNKNOWN_COMMAND: Final = (500, 502)


class SmtpMailer:
    """A mailer. `name` is what this machine calls itself."""

    def __init__(
        self,
        config: Email,
        name: str,
        reactor: Any,
        clock: Clock,
        entropy: Entropy,
        log: Log,
        ca_file: Path | None = None,
    ) -> None:
        self._config = config
        self._name = name.partition(":")[0].encode("ascii")
        self._reactor = reactor
        self._clock = clock
        self._entropy = entropy
        self._log = log
        self._trust: Any = _Trust(ca_file)
        self._turns = DeferredSemaphore(AT_ONCE)
        self._present = 0

    async def send(self, to: str, subject: str, text: str, html: str) -> None:
        """See `Mailer`."""
        if self._present >= MAX_WAITING:
            raise MailNotSentError("too many letters wait for the mail server", permanent=False)
        letter = compose(
            self._config.sender,
            to,
            subject,
            text,
            html,
            now_s=self._clock.seconds(),
            unique=self._entropy.id(24),
        )
        self._present += 1
        try:
            await self._deliver(letter)
        finally:
            self._present -= 1

    @property
    def present(self) -> int:
        """How many letters are under way or wait."""
        return self._present

    async def _deliver(self, letter: Letter) -> None:
        for wait_s in (*WAITS_S, None):
            try:
                # Who waits before another attempt keeps nobody from making one.
                await self._turns.acquire()
                try:
                    await self._attempt(letter)
                finally:
                    self._turns.release()
                return
            except MailNotSentError as error:
                self._log.warning(
                    "mail not sent", problem=str(error), again_in_s=None if error.permanent else wait_s
                )
                if error.permanent or wait_s is None:
                    raise
                await sleep(self._clock, wait_s)

    async def _attempt(self, letter: Letter) -> None:
        try:
            await cut_off(self._clock, ATTEMPT_S, Deferred.fromCoroutine(self._exchange(letter)))
        except Unreachable as error:
            raise MailNotSentError(str(error), permanent=False) from None

    async def _exchange(self, letter: Letter) -> None:
        config = self._config
        host = config.smtp_host
        endpoint: Any = HostnameEndpoint(self._reactor, host, config.smtp_port, timeout=ATTEMPT_S)
        options: Any = optionsForClientTLS(host, trustRoot=self._trust)
        if config.tls and config.smtp_port == TLS_PORT:
            endpoint = wrapClientTLS(options, endpoint)
        delivery = _Delivery(letter, config, self._name, options if config.tls else None)
        try:
            await connectProtocol(endpoint, delivery)
        except (CancelledError, ConnectingCancelledError):
            raise CancelledError from None
        except Exception as error:  # noqa: BLE001 (whatever a name or an address may lead to)
            raise MailNotSentError(f"{host} cannot be reached: {error}", permanent=False) from None
        await delivery.done


@implementer(IOpenSSLTrustRoot)
class _Trust:
    """The system's authorities, and those of a file."""

    def __init__(self, ca_file: Path | None) -> None:
        self._ca_file = ca_file

    def _addCACertsToContext(self, context: SSL.Context) -> None:  # noqa: N802 (Twisted's name)
        context.set_default_verify_paths()
        if self._ca_file is not None:
            context.load_verify_locations(str(self._ca_file))


class _Delivery(ESMTPClient):
    """One connection that hands over one letter; `done` fires when it has been taken."""

    # It would remember the last lines, the password among them, to put them into the texts of errors.
    debug = False
    transport: Any
    heloFallback = False  # noqa: N815 (Twisted's names, here and below)

    def __init__(self, letter: Letter, config: Email, name: bytes, tls: Any) -> None:
        password = None if config.password is None else config.password.encode()
        ESMTPClient.__init__(self, password, tls, name)
        self.requireTransportSecurity = config.tls
        self.requireAuthentication = config.username is not None
        self._letter: Letter | None = letter
        self._body = letter.data
        self._to = letter.to
        self.done: Deferred[None] = Deferred(self._cancel)
        if config.username is not None:
            user = config.username.encode()
            kinds = (CramMD5ClientAuthenticator, LOGINAuthenticator, PLAINAuthenticator)
            for kind in kinds:
                self.registerAuthenticator(kind(user))  # type: ignore[no-untyped-call]

    def _cancel(self, done: Deferred[None]) -> None:
        # First this, as the end of the connection would tell of a failure that may be tried again.
        done.errback(CancelledError())
        self.transport.abortConnection()

    def lineReceived(self, line: bytes) -> None:  # noqa: N802
        if len(self.resp) >= MAX_REPLY_LINES:
            self._fail("the mail server talks without end", permanent=False)
            self.transport.abortConnection()
            return
        ESMTPClient.lineReceived(self, line)

    def esmtpState_starttls(self, code: int, resp: bytes) -> None:  # noqa: N802
        # Whatever came already was not encrypted, and would be taken for what is. spec: RFC 3207#section-4.2
        if self.clearLineBuffer():  # type: ignore[no-untyped-call]
            self._fail("the mail server talks before the encryption is there", permanent=False)
            self.transport.abortConnection()
            return
        ESMTPClient.esmtpState_starttls(self, code, resp)

    def esmtpEHLORequired(self, code: int = -1, resp: Any = None) -> None:  # noqa: N802
        # A server that does not know EHLO may know HELO. spec: RFC 5321#section-3.2
        # (Twisted's own way back is also taken where a server says "come back later", and knows no end.)
        needs_more = self.requireAuthentication or (self.requireTransportSecurity and not self._tlsMode)
        if code in _UNKNOWN_COMMAND and not needs_more:
            self.smtpState_helo(code, resp)  # type: ignore[no-untyped-call]
            self._failresponse = self._greeting_refused
        else:
            self._greeting_refused(code, resp)

    def _greeting_refused(self, code: int, resp: Any) -> None:
        self._refused(code, resp)
        self._disconnectFromServer()  # type: ignore[no-untyped-call]

    def getMailFrom(self) -> str | None:  # noqa: N802
        letter, self._letter = self._letter, None
        return None if letter is None else letter.sender

    def getMailTo(self) -> list[str]:  # noqa: N802
        return [self._to]

    def getMailData(self) -> BytesIO:  # noqa: N802
        return BytesIO(self._body)

    def sentMail(self, code: int, resp: Any, numOk: int, addresses: Any, log: Any) -> None:  # noqa: N802, N803, ARG002
        if numOk and code in SUCCESS:
            if not self.done.called:
                self.done.callback(None)
            return
        # Where the only recipient was refused, the reason stands there.
        reply = addresses[0][2] if addresses and not numOk else resp
        self._refused(code, reply)

    def sendError(self, exc: Any) -> None:  # noqa: N802
        self._refused(int(getattr(exc, "code", -1) or -1), getattr(exc, "resp", None) or type(exc).__name__)
        ESMTPClient.sendError(self, exc)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        ESMTPClient.connectionLost(self, reason)
        self._fail(f"the connection ended: {reason.getErrorMessage()}", permanent=False)

    def _refused(self, code: int, reply: Any) -> None:
        text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
        self._fail(f"{code} {text}", permanent=500 <= code < 600)

    def _fail(self, problem: str, *, permanent: bool) -> None:
        if not self.done.called:
            shown = "".join(character if character.isprintable() else " " for character in problem[:300])
            self.done.errback(MailNotSentError(shown, permanent=permanent))
