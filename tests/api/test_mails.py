"""Mail about what was not read. spec: client-server-api#post_matrixclientv3pushersset"""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from homeserver.push import counts, entries
from homeserver.push import mails as module
from homeserver.store.threepids import Threepid, put_threepid
from tests.api.pushing import PushCase, user
from tests.support.databases import on_each_database

MINUTE_S = 60.0
HOUR_S = 3600.0
ADDRESS = "bob@example.org"


class MailCase(PushCase):
    """Bob gets mail."""

    def setUp(self) -> None:
        super().setUp()
        core = self.app.app.core
        user_nid = core.interner.known_user(user("bob"))
        assert user_nid is not None
        now_ms = int(self.app.time.seconds() * 1000)
        verified = Threepid("email", ADDRESS, now_ms, now_ms)
        self.app.wait(core.committer.work(put_threepid, user_nid, verified))
        mail = {"kind": "email", "app_id": "m.email"}
        self.set_pusher(pushkey=ADDRESS, changes=mail)


@on_each_database
class Mails(MailCase):
    def test_after_some_minutes(self) -> None:
        self.state("m.room.name", {"name": "Tom & <i>Jerry</i>"})
        self.send(body="see <b>you</b>\nthere")
        self.wait_for(9 * MINUTE_S)
        self.send(body="later")
        self.assertEqual([], self.mailer.sent)
        self.wait_for(2 * MINUTE_S)
        (mail,) = self.mailer.sent
        self.assertEqual(ADDRESS, mail.to)
        self.assertEqual(
            "[test.example] 2 messages that you have not read in Tom & <i>Jerry</i>", mail.subject
        )
        self.assertIn("alice: see <b>you</b> there\n", mail.text)
        self.assertIn("alice</strong> see &lt;b&gt;you&lt;/b&gt; there<", mail.html)
        self.assertIn("Tom &amp; &lt;i&gt;Jerry&lt;/i&gt;</a>", mail.html)
        self.assertIn("https://matrix.to/#/", mail.text)
        self.assertIn(user("bob"), mail.text)
        self.wait_for(HOUR_S)
        self.assertEqual(1, len(self.mailer.sent))

    def test_not_what_is_read_or_redacted(self) -> None:
        event_id = self.send()
        self.read("bob", event_id)
        gone = self.send()
        self.ok("alice", "PUT", f"/rooms/{self.room_id}/redact/{gone}/x", {})
        self.wait_for(HOUR_S)
        self.assertEqual([], self.mailer.sent)

    def test_not_what_is_answered(self) -> None:
        root, other = self.send(body="a root"), self.send(body="another")

        def within(event_id: str) -> dict[str, object]:
            return {"m.relates_to": {"rel_type": "m.thread", "event_id": event_id}}

        self.send(body="within", content=within(root))
        self.send(body="elsewhere", content=within(other))
        # An answer is one to its own part of the room, and a name of one's own or a reaction is none.
        self.send("bob", content=within(root))
        self.state("m.room.member", {"membership": "join", "displayname": "B"}, "bob", user("bob"))
        react = {"m.relates_to": {"rel_type": "m.annotation", "event_id": other, "key": "!"}}
        self.send("bob", type_="m.reaction", content=react)
        self.wait_for(11 * MINUTE_S)
        (mail,) = self.mailer.sent
        self.assertIn("3 messages", mail.subject)
        self.assertNotIn("within", mail.text)
        for restarted in (False, True):
            self.send(body="to be answered")
            self.send("bob")
            self.send(body="not answered", content=within(root))
            if restarted:
                self.restart()
            self.wait_for(2 * HOUR_S)
            mail = self.mailer.sent.pop()
            self.assertNotIn("to be answered", mail.text)
            self.assertIn("not answered", mail.text)
            self.send("bob", content=within(root))
        self.send(body="the last")
        self.send("bob")
        self.wait_for(24 * HOUR_S)
        self.assertEqual(1, len(self.mailer.sent))

    def test_not_an_invite_that_is_accepted(self) -> None:
        room_id = self.make_room("alice", preset="private_chat", invite=[user("bob")])
        self.settle()
        self.wait_for(2 * MINUTE_S)
        self.ok("bob", "POST", f"/join/{room_id}", {})
        self.wait_for(HOUR_S)
        self.assertEqual([], self.mailer.sent)
        self.send(room_id=room_id, body="welcome")
        self.wait_for(HOUR_S)
        self.assertIn("welcome", self.mailer.sent.pop().text)
        # Who comes back has nothing to read of what was there before.
        for accepts in (False, True):
            self.read("bob", self.send(room_id=room_id, body="read"), room_id=room_id)
            self.send(room_id=room_id, body="before")
            self.ok("bob", "POST", f"/rooms/{room_id}/leave", {})
            self.ok("alice", "POST", f"/rooms/{room_id}/invite", {"user_id": user("bob")})
            if accepts:
                self.ok("bob", "POST", f"/join/{room_id}", {})
            self.wait_for(24 * HOUR_S)
            if accepts:
                self.assertEqual([], self.mailer.sent)
            else:
                (mail,) = self.mailer.sent
                self.assertNotIn("messages", mail.subject)
                self.assertIn("alice: invites you", mail.text)
                self.mailer.sent.clear()
                self.ok("bob", "POST", f"/join/{room_id}", {})

    def test_what_is_too_long_ago_to_be_counted(self) -> None:
        self.patch(counts, "MOST", 3)
        self.patch(entries, "MOST", 3)
        for _ in range(6):
            self.send()
        self.wait_for(11 * MINUTE_S)
        self.assertIn("6 messages", self.mailer.sent[0].subject)

    def test_ever_less_often(self) -> None:
        for minutes, count in ((11, 1), (20, 1), (11, 2), (60, 2), (31, 3)):
            self.send()
            self.wait_for(minutes * MINUTE_S)
            self.assertEqual(count, len(self.mailer.sent), minutes)
        # Who reads is there, and is told as quickly as at first.
        self.read("bob", self.send())
        self.wait_for(HOUR_S)
        self.send()
        self.wait_for(11 * MINUTE_S)
        self.assertEqual(4, len(self.mailer.sent))

    def test_over_a_restart(self) -> None:
        self.send()
        self.wait_for(5 * MINUTE_S)
        self.restart()
        self.assertEqual([], self.mailer.sent)
        self.wait_for(6 * MINUTE_S)
        self.assertEqual(1, len(self.mailer.sent))
        self.restart()
        self.wait_for(2 * HOUR_S)
        self.assertEqual(1, len(self.mailer.sent))

    def test_a_mail_server_that_is_away(self) -> None:
        self.mailer.broken = True
        self.send()
        self.wait_for(2 * HOUR_S)
        self.mailer.broken = False
        self.wait_for(HOUR_S)
        self.assertEqual(1, len(self.mailer.sent))
        self.mailer.broken = True
        self.send()
        self.wait_for(100 * HOUR_S, 200)
        self.mailer.broken = False
        self.wait_for(24 * HOUR_S)
        self.assertEqual(1, len(self.mailer.sent))  # by then it is no news

    def test_no_more(self) -> None:
        self.send(body="x " * 5_000)
        for number in range(module.OWED_MOST + 10):
            self.send(body=f"number {number}")
        self.wait_for(11 * MINUTE_S)
        (mail,) = self.mailer.sent
        self.assertLess(len(mail.text), 3_000)
        self.assertIn("and 45 more", mail.text)
        parts = urlsplit(mail.text.splitlines()[-1])
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        for broken in (
            {"token": "x"},
            {"address": "other@example.org"},
            {"user": user("carol")},
            {"token": "é"},
        ):
            for method in ("GET", "POST"):
                answer = self.app.answer(method, parts.path, None, None, {**query, **broken})
                self.assertEqual(404, answer.status)
        self.assertEqual(404, self.app.answer("GET", parts.path).status)
        # To look is not to end.
        answer = self.app.answer("GET", parts.path, None, None, query)
        self.assertEqual(200, answer.status)
        self.assertIn(b"<form", answer.body)
        self.assertEqual([ADDRESS], self.pushers())
        self.assertEqual(200, self.app.answer("POST", parts.path, None, None, query).status)
        self.assertEqual([], self.pushers())
        self.send()
        self.wait_for(HOUR_S)
        self.assertEqual(1, len(self.mailer.sent))
        self.assertEqual(200, self.app.answer("POST", parts.path, None, None, query).status)

    def test_an_invite_and_what_is_encrypted(self) -> None:
        self.make_room("alice", preset="private_chat", name="Cellar", invite=[user("bob")])
        self.send(type_="m.room.encrypted", content={"algorithm": "m.megolm.v1.aes-sha2"})
        self.settle()
        self.wait_for(11 * MINUTE_S)
        (mail,) = self.mailer.sent
        self.assertIn("alice: invites you", mail.text)
        self.assertIn("alice: an encrypted message", mail.text)
        self.assertIn("in 2 rooms", mail.subject)

    def test_it_outlasts_the_device(self) -> None:
        self.ok("bob", "POST", "/logout", {})
        self.send()
        self.wait_for(11 * MINUTE_S)
        self.assertEqual(1, len(self.mailer.sent))
