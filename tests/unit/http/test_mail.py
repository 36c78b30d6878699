"""Letters, and handing them to a mail server over real sockets."""

from __future__ import annotations

import email
from email.policy import default
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as TaskClock
from twisted.trial.unittest import TestCase

from homeserver.config.schema import Email
from homeserver.http import smtp
from homeserver.http.mail import MailNotSentError, bare_address, compose, is_mail_address
from homeserver.http.smtp import SmtpMailer
from homeserver.http.tls import server_context
from homeserver.runtime.clock import TwistedClock
from homeserver.runtime.entropy import SeededEntropy
from homeserver.runtime.log import MemoryLog
from tests.interop.authority import Authority
from tests.support.mail import MailServer

reactor: Any = installed_reactor


def letter(
    to: str = "alice@example.org", subject: str = "Hello", text: str = "Hi\n", html: str = "<p>Hi"
) -> Any:
    return compose(
        "CHAOS <chat@example.org>", to, subject, text, html, now_s=1_700_000_000.0, unique="u" * 24
    )


class Letters(TestCase):
    def test_a_letter_has_both_forms(self) -> None:
        made = letter(subject="Grüße", text="Zeile\n.punkt\n" + "x" * 200, html="<p>Grüße</p>")
        self.assertEqual((made.sender, made.to), ("chat@example.org", "alice@example.org"))
        parsed: Any = email.message_from_bytes(made.data, policy=default)
        self.assertEqual(parsed["From"], "CHAOS <chat@example.org>")
        self.assertEqual(parsed["Subject"], "Grüße")
        self.assertEqual(parsed["Message-ID"], f"<{'u' * 24}@example.org>")
        self.assertIn("14 Nov 2023", parsed["Date"])
        plain, html = parsed.iter_parts()
        self.assertEqual(plain.get_content(), "Zeile\n.punkt\n" + "x" * 200 + "\n")
        self.assertEqual(html.get_content().strip(), "<p>Grüße</p>")
        self.assertEqual(
            made.data, letter(subject="Grüße", text="Zeile\n.punkt\n" + "x" * 200, html="<p>Grüße</p>").data
        )

    def test_no_line_begins_with_a_dot_or_holds_a_carriage_return(self) -> None:
        made = letter(text=".\r\n.\nQUIT\r\n.\r\n" * 3000, html=".\n")
        self.assertNotIn(b"\r", made.data)
        self.assertFalse(
            [line for line in made.data.split(b"\n") if line.startswith(b".") or len(line) > 998]
        )

    def test_a_subject_stays_one_header(self) -> None:
        for evil in (
            "a\r\nBcc: x@example.org",
            "a\nBcc: x@example.org",
            "a\x00b\u2028c\x85d",
            "\ud800",
            "x" * 5000,
        ):
            parsed: Any = email.message_from_bytes(letter(subject=evil).data, policy=default)
            self.assertIsNone(parsed["Bcc"])
            self.assertEqual(parsed["To"], "alice@example.org")
            self.assertLessEqual(len(parsed["Subject"]), 200)

    def test_texts_of_any_sort(self) -> None:
        for evil in ("\ud800\0", "--=_" + "u" * 24 + "--\n", "From x\n"):
            parsed: Any = email.message_from_bytes(letter(text=evil, html=evil).data, policy=default)
            self.assertEqual(len(list(parsed.iter_parts())), 2)

    def test_addresses(self) -> None:
        for good in ("a@b.c", "first.last+tag@example.org", "o'neil@localhost", "a@xn--bcher-kva.example"):
            self.assertTrue(is_mail_address(good), good)
        for bad in (
            "", "a", "@b", "a@", "a@b@c", "a b@c", "a@b c", "a@b\n", "a\r\nb@c", "<a@b>", "a@b, c@d", "a@b>c", "A <a@b>",
            '"a"@b', "a@[127.0.0.1]", ".a@b", "a.@b", "a..b@c", "é@b", "a@é", "a@-b", "a@b..c", "x" * 65 + "@b",
            "a@" + "b." * 130 + "c", "a(c)@b", "a\0@b",
        ):  # fmt: skip
            self.assertFalse(is_mail_address(bad), bad)
            with self.assertRaises(MailNotSentError) as caught:
                letter(to=bad)
            self.assertTrue(caught.exception.permanent)

    def test_whom_mail_comes_from(self) -> None:
        self.assertEqual(bare_address("Chat <chat@example.org>"), "chat@example.org")
        for bad in ("", "Chat", "Chat <>", "chat@example.org\nBcc: x@y", "a@b, c@d"):
            with self.assertRaises(ValueError):
                bare_address(bad)


class Sending(TestCase):
    """A mail server on loopback; our clock stands still."""

    timeout = 30

    def setUp(self) -> None:
        self.authority = Authority(Path(self.mktemp()))
        self.time = TaskClock()
        self.log = MemoryLog()
        self.turns = 0

    def listen(self, server: MailServer) -> int:
        if server.implicit:
            port = reactor.listenSSL(0, server, server.tls, interface="127.0.0.1")
        else:
            port = reactor.listenTCP(0, server, interface="127.0.0.1")
        self.addCleanup(self._close, server, port)
        return int(port.getHost().port)

    async def _close_all(self, server: MailServer, port: Any) -> None:
        await port.stopListening()
        while server.sessions:
            server.sessions[0].transport.abortConnection()
            await self.turn()

    def _close(self, server: MailServer, port: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(self._close_all(server, port))

    def turn(self) -> Deferred[None]:
        self.turns += 1
        self.assertLess(self.turns, 5_000, "nothing happens any more")
        waiting: Deferred[None] = Deferred()
        reactor.callLater(0.001, waiting.callback, None)
        return waiting

    def certified(self, name: str = "127.0.0.1") -> Any:
        return server_context(*self.authority.certify(name))

    def mailer(self, port: int, *, trusted: bool = True, **options: Any) -> SmtpMailer:
        config = Email("127.0.0.1", "CHAOS <chat@example.org>", port, **options)
        ca_file = self.authority.ca_file if trusted else None
        clock = TwistedClock(self.time)
        return SmtpMailer(
            config, "chat.example.org:8448", reactor, clock, SeededEntropy(1), self.log, ca_file
        )

    async def send(self, mailer: SmtpMailer, waits: int = 0) -> None:
        """Send, letting the pauses between ``waits`` attempts pass as soon as they have begun."""
        sending = Deferred.fromCoroutine(
            mailer.send("alice@example.org", "Hi", "." * 3 + "\ntext", "<b>text</b>")
        )
        failed = 0
        while not sending.called:
            await self.turn()
            if len(self.log.entries) > failed:
                failed += 1
                if failed <= waits:
                    self.time.advance(20)
        await sending
        self.assertEqual(failed, waits)

    async def refused(self, mailer: SmtpMailer, waits: int = 0) -> MailNotSentError:
        with self.assertRaises(MailNotSentError) as caught:
            await self.send(mailer, waits)
        self.assertEqual(mailer.present, 0)
        return caught.exception

    async def test_without_encryption_where_so_configured(self) -> None:
        server = MailServer()
        await self.send(self.mailer(self.listen(server), tls=False))
        self.assertEqual(server.heard[0], (False, b"EHLO chat.example.org"))
        self.assertIn((False, b"MAIL FROM:<chat@example.org>"), server.heard)
        self.assertIn((False, b"RCPT TO:<alice@example.org>"), server.heard)
        parsed: Any = email.message_from_bytes(server.letters[0], policy=default)
        self.assertEqual(next(parsed.iter_parts()).get_content().splitlines(), ["...", "text"])

    async def test_a_long_letter_arrives_whole(self) -> None:
        server = MailServer()
        text = "".join(f".{'.' * (number % 90)}\n" for number in range(3000))
        mailer = self.mailer(self.listen(server), tls=False)
        await mailer.send("alice@example.org", "Hi", text, text)
        parsed: Any = email.message_from_bytes(server.letters[0], policy=default)
        # (Not assertEqual: the difference of two long texts takes minutes.)
        found = [part.get_content().replace("\r\n", "\n") for part in parsed.iter_parts()]
        self.assertTrue(found == [text, text])

    async def test_by_starttls_with_each_way_to_log_in(self) -> None:
        for kind in (b"PLAIN", b"LOGIN", b"PLAIN LOGIN"):
            server = MailServer(self.certified(), auth=kind)
            await self.send(self.mailer(self.listen(server), username="chaos", password="s3cret"))
            self.assertEqual(len(server.letters), 1)
            self.assertEqual(
                [line for secure, line in server.heard if not secure], [b"EHLO chat.example.org", b"STARTTLS"]
            )

    async def test_encrypted_from_the_first_byte(self) -> None:
        server = MailServer(self.certified(), implicit=True)
        port = self.listen(server)
        self.patch(smtp, "TLS_PORT", port)
        await self.send(self.mailer(port))
        self.assertEqual(len(server.letters), 1)

    async def test_no_encryption_no_mail(self) -> None:
        server = MailServer(auth=b"PLAIN")
        problem = await self.refused(self.mailer(self.listen(server), username="chaos", password="s3cret"))
        self.assertTrue(problem.permanent)
        self.assertEqual(
            [line for _, line in server.heard if line[:4] != b"QUIT"], [b"EHLO chat.example.org"]
        )

    async def test_a_certificate_that_is_not_good(self) -> None:
        for tls, trusted in ((self.certified("other.example"), True), (self.certified(), False)):
            self.log.entries.clear()
            server = MailServer(tls, auth=b"PLAIN")
            mailer = self.mailer(self.listen(server), trusted=trusted, username="chaos", password="s3cret")
            problem = await self.refused(mailer, waits=3)
            self.assertFalse(problem.permanent)
            self.assertEqual({line for _, line in server.heard}, {b"EHLO chat.example.org", b"STARTTLS"})

    async def test_what_comes_before_the_encryption_is_not_listened_to(self) -> None:
        server = MailServer(self.certified())
        server.injected = b"250-mail.example\r\n250 AUTH PLAIN\r\n"
        await self.refused(self.mailer(self.listen(server)), waits=3)
        self.assertEqual(server.letters, [])

    async def test_a_wrong_password_is_not_tried_again_nor_told(self) -> None:
        server = MailServer(self.certified(), auth=b"PLAIN")
        problem = await self.refused(
            self.mailer(self.listen(server), username="chaos", password="wr0ng"), waits=1
        )
        self.assertTrue(problem.permanent)
        self.assertIn("535", str(problem))
        self.assertNotIn("wr0ng", repr(self.log.entries))
        self.assertNotIn("AHd", repr(self.log.entries))

    async def test_refusals(self) -> None:
        for command in (b"MAIL", b"RCPT", b"DATA", b"."):
            self.log.entries.clear()
            server = MailServer()
            server.script[command] = [b"550 no such person here"]
            problem = await self.refused(self.mailer(self.listen(server), tls=False), waits=1)
            self.assertTrue(problem.permanent, command)
            self.assertIn("no such person", str(problem))
            self.assertEqual(server.letters, [])

    async def test_a_server_that_knows_only_the_old_greeting(self) -> None:
        server = MailServer()
        server.script[b"EHLO"] = [b"500 what?"]
        await self.send(self.mailer(self.listen(server), tls=False))
        self.assertIn((False, b"HELO chat.example.org"), server.heard)
        self.assertEqual(len(server.letters), 1)
        self.log.entries.clear()
        server.script[b"EHLO"], server.script[b"HELO"] = [b"502 what?"], [b"500 what?"]
        problem = await self.refused(self.mailer(self.listen(server), tls=False), waits=1)
        self.assertTrue(problem.permanent)

    async def test_where_more_is_asked_for_the_old_greeting_is_not_enough(self) -> None:
        for wishes in ({"username": "chaos", "password": "secret", "tls": False}, {"tls": True}):
            self.log.entries.clear()
            server = MailServer()
            server.script[b"EHLO"] = [b"500 what?"]
            problem = await self.refused(self.mailer(self.listen(server), **wishes), waits=1)
            self.assertTrue(problem.permanent)
            self.assertNotIn(b"HELO chat.example.org", [line for _, line in server.heard])
            self.assertEqual(server.letters, [])

    async def test_later_is_tried_again(self) -> None:
        for command in (b"MAIL", b"RCPT", b"DATA", b".", b"EHLO"):
            self.log.entries.clear()
            server = MailServer()
            server.script[command] = [b"451 come back", b"451 come back"]
            await self.send(self.mailer(self.listen(server), tls=False), waits=2)
            self.assertEqual(len(server.letters), 1, command)

    async def test_three_attempts(self) -> None:
        server = MailServer()
        server.script[b"MAIL"] = [b"451 come back"] * 5
        problem = await self.refused(self.mailer(self.listen(server), tls=False), waits=3)
        self.assertFalse(problem.permanent)
        self.assertEqual(len(server.script[b"MAIL"]), 2)

    async def test_talk_without_end(self) -> None:
        server = MailServer()
        server.script[b"EHLO"] = [b"250-x\r\n" * 200_000 + b"250 x"] * 3
        await self.refused(self.mailer(self.listen(server), tls=False), waits=3)

    async def test_nonsense(self) -> None:
        for nonsense in (b"hello?", b"9" * 70_000, b"\xff\xfe", b"250"):
            self.log.entries.clear()
            server = MailServer()
            server.script[b"EHLO"] = [nonsense] * 3
            server.script[b"MAIL"] = [b"500 \xff\x00"] * 3
            await self.refused(
                self.mailer(self.listen(server), tls=False), waits=1 if nonsense == b"250" else 3
            )

    async def test_nobody_listens(self) -> None:
        port = reactor.listenTCP(0, MailServer(), interface="127.0.0.1")
        number = port.getHost().port
        await port.stopListening()
        await self.refused(self.mailer(number, tls=False), waits=3)

    async def test_silence_ends(self) -> None:
        server = MailServer()
        self.patch(server, "script", {b"EHLO": [b"0", b"0", b"0"]})
        mailer = self.mailer(self.listen(server), tls=False)
        sending = Deferred.fromCoroutine(mailer.send("alice@example.org", "Hi", "text", "text"))
        for _ in range(3):
            known = len(server.heard)
            while len(server.heard) == known:
                await self.turn()
            self.time.advance(smtp.ATTEMPT_S)
            self.time.advance(20)
        with self.assertRaises(MailNotSentError):
            await sending

    async def test_so_many_and_no_more(self) -> None:
        self.patch(smtp, "MAX_WAITING", 3)
        server = MailServer()
        server.script[b"EHLO"] = [b"0"] * 9
        mailer = self.mailer(self.listen(server), tls=False)
        waiting = [Deferred.fromCoroutine(mailer.send("alice@example.org", "Hi", "t", "t")) for _ in range(3)]
        with self.assertRaises(MailNotSentError):
            await mailer.send("alice@example.org", "Hi", "t", "t")
        for one in waiting:
            one.addErrback(lambda _: None)
        while len(server.heard) < smtp.AT_ONCE:
            await self.turn()
        for one in reversed(waiting):
            one.cancel()
        self.assertEqual(mailer.present, 0)
