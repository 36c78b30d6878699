"""Mail in tests: a mailer that keeps letters, and a small mail server for real sockets."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from homeserver.http.mail import MailNotSentError


@dataclass(frozen=True, slots=True)
class Sent:
    """A letter that was sent."""

    to: str
    subject: str
    text: str
    html: str


class FakeMailer:
    """A mailer that keeps what it is given; ``broken``: it takes nothing."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.broken = False

    async def send(self, to: str, subject: str, text: str, html: str) -> None:
        if self.broken:
            raise MailNotSentError("the fake is broken", permanent=False)
        self.sent.append(Sent(to, subject, text, html))


class _Session(LineReceiver):
    factory: Any
    transport: Any

    def connectionMade(self) -> None:
        self.factory.sessions.append(self)
        self.is_secure = hasattr(self.transport, "getPeerCertificate") and self.factory.implicit
        self.letter: list[bytes] | None = None
        self.login: list[bytes] | None = None
        self.say(b"220 mail.example at your service")

    def say(self, *lines: bytes) -> None:
        for line in lines:
            self.sendLine(line)

    def lineReceived(self, line: bytes) -> None:
        if self.letter is not None:
            self._take(line)
            return
        if self.login is not None:
            self._log_in(line)
            return
        self.factory.heard.append((self.is_secure, line))
        word = line.split(b" ")[0].split(b":")[0].upper()
        scripted = self.factory.script.get(word)
        if scripted:
            self.say(scripted.pop(0))
            return
        getattr(self, f"do_{word.decode().lower()}")(line)

    def do_ehlo(self, _: bytes) -> None:
        offers = [b"mail.example"]
        if self.factory.tls is not None and not self.is_secure:
            offers.append(b"STARTTLS")
        if self.factory.auth:
            offers.append(b"AUTH " + self.factory.auth)
        self.say(*(b"250-" + offer for offer in offers[:-1]), b"250 " + offers[-1])

    def do_helo(self, _: bytes) -> None:
        self.say(b"250 mail.example")

    def do_starttls(self, _: bytes) -> None:
        self.transport.write(b"220 go ahead\r\n" + self.factory.injected)
        self.transport.startTLS(self.factory.tls)
        self.is_secure = True

    def do_auth(self, line: bytes) -> None:
        words = line.split(b" ")
        if words[1] == b"PLAIN":
            self._judge(base64.b64decode(words[2]).split(b"\0")[1:])
            return
        self.login = []
        self.say(b"334 " + base64.b64encode(b"Username:"))

    def _log_in(self, line: bytes) -> None:
        assert self.login is not None
        self.login.append(base64.b64decode(line))
        if len(self.login) < 2:
            self.say(b"334 " + base64.b64encode(b"Password:"))
            return
        found, self.login = self.login, None
        self._judge(found)

    def _judge(self, found: list[bytes]) -> None:
        right = found == [b"chaos", b"s3cret"]
        self.say(b"235 welcome" if right else b"535 who are you?")

    def do_mail(self, _: bytes) -> None:
        self.say(b"250 ok")

    do_rcpt = do_rset = do_mail

    def do_data(self, _: bytes) -> None:
        self.letter = []
        self.say(b"354 go on")

    def do_quit(self, _: bytes) -> None:
        self.say(b"221 bye")
        self.transport.loseConnection()

    def _take(self, line: bytes) -> None:
        assert self.letter is not None
        if line == b".":
            letter, self.letter = self.letter, None
            scripted = self.factory.script.get(b".")
            if scripted:
                self.say(scripted.pop(0))
                return
            self.factory.letters.append(b"\r\n".join(letter) + b"\r\n")
            self.say(b"250 taken")
        else:
            self.letter.append(line.removeprefix(b"."))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.sessions.remove(self)


class MailServer(Factory):
    """``script``: by command, the replies given instead of the usual ones, once each."""

    protocol = _Session

    def __init__(self, tls: Any = None, *, implicit: bool = False, auth: bytes = b"") -> None:
        self.tls = tls
        self.implicit = implicit
        self.auth = auth
        self.injected = b""
        self.script: dict[bytes, list[bytes]] = {}
        self.heard: list[tuple[bool, bytes]] = []
        self.letters: list[bytes] = []
        self.sessions: list[_Session] = []
