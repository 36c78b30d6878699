"""Addresses: verified by mail, added, used to log in and to set a new password, bound and unbound."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from twisted.internet.defer import Deferred

from homeserver.accounts.passwords import PasswordHasher
from homeserver.config.schema import Email, RateLimit, RateLimits
from homeserver.http.errors import limit_exceeded
from homeserver.store.users import set_standing
from tests.support.accounts import during_the_check
from tests.support.app import TestApp, test_config
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.identity import FakeIdentityServer
from tests.support.mail import FakeMailer

V3 = "/_matrix/client/v3"
ALICE = "@alice:test.example"
PAGE = "/_chaos/validate_email"


class MailCase(DatabaseCase):
    hide = False
    limits = RateLimits(enabled=False)

    def setUp(self) -> None:
        self.mailer, self.identity = FakeMailer(), FakeIdentityServer()
        email = Email("mail.example", "chat@test.example", hide_accounts=self.hide)
        self.config = test_config(data_dir=Path(self.mktemp()), email=email, rate_limits=self.limits)
        self.app = TestApp(self, self.new_database(), self.config, mailer=self.mailer, http=self.identity)
        self.alice = self.app.register("alice")

    def ask(self, what: str, email: str = "alice@example.org", **fields: Any) -> tuple[int, Any]:
        body = {"client_secret": "s3cret", "email": email, "send_attempt": 1, **fields}
        return self.app.call("POST", f"{V3}/{what}/email/requestToken", body)

    def sid(self, what: str, email: str = "alice@example.org", **fields: Any) -> str:
        status, answer = self.ask(what, email, **fields)
        self.assertEqual(status, 200, answer)
        found: str = answer["sid"]
        return found

    def link(self) -> tuple[str, dict[str, str]]:
        """The page and the arguments of the newest letter's link."""
        url = re.search(r"https://\S+", self.mailer.sent[-1].text)
        assert url is not None
        self.assertIn(url[0].replace("&", "&amp;"), self.mailer.sent[-1].html)
        parts = urlsplit(url[0])
        return parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}

    def confirm(self) -> None:
        path, query = self.link()
        self.assertEqual(self.app.answer("POST", path, query=query).status, 200)

    def proven(self, what: str, email: str = "alice@example.org", **fields: Any) -> dict[str, str]:
        sid = self.sid(what, email, **fields)
        self.confirm()
        return {"sid": sid, "client_secret": fields.get("client_secret", "s3cret")}

    def auth(self, name: str = "alice") -> dict[str, Any]:
        return {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": name},
            "password": "correct horse",
        }

    def add(self, creds: dict[str, str], token: str | None = None, name: str = "alice") -> tuple[int, Any]:
        body = {**creds, "auth": self.auth(name)}
        return self.app.call("POST", f"{V3}/account/3pid/add", body, token or self.alice)

    def have(self, email: str = "alice@example.org") -> None:
        """Give alice an address."""
        status, answer = self.add(
            self.proven("account/3pid", email, client_secret="h" + email.split("@", maxsplit=1)[0])
        )
        self.assertEqual(status, 200, answer)

    def says(self, expected: tuple[int, str], found: tuple[int, Any]) -> None:
        self.assertEqual(expected, (found[0], found[1].get("errcode")))

    def threepids(self, token: str | None = None) -> list[str]:
        found = self.app.ok("GET", f"{V3}/account/3pid", token=token or self.alice)["threepids"]
        return [one["address"] for one in found]


@on_each_database
class Letters(MailCase):
    def test_one_letter_for_each_attempt(self) -> None:
        first = self.sid("account/3pid")
        self.assertEqual(self.mailer.sent[0].to, "alice@example.org")
        self.assertEqual(self.sid("account/3pid"), first)
        self.assertEqual(self.sid("account/3pid", send_attempt=0), first)
        self.assertEqual(len(self.mailer.sent), 1)
        old = self.link()
        self.assertEqual(self.sid("account/3pid", send_attempt=2), first)
        self.assertEqual(len(self.mailer.sent), 2)
        self.assertEqual(self.app.answer("POST", old[0], query=old[1]).status, 404)
        self.confirm()
        # Another secret is another attempt, another purpose too.
        self.assertNotEqual(self.sid("account/3pid", client_secret="other"), first)
        self.assertNotEqual(self.sid("register"), first)
        self.assertEqual(len(self.mailer.sent), 4)

    def test_what_is_refused(self) -> None:
        for wrong in ("", "a", "a@b@c", "a@b\r\nBcc: c@d", "a\0@b.c", "x" * 300 + "@b.c", "é@b.c"):
            self.says((400, "M_INVALID_PARAM"), self.ask("register", wrong))
        for secret in ("", "a b", "ü", "x" * 256, "a\n"):
            self.says((400, "M_INVALID_PARAM"), self.ask("register", client_secret=secret))
        for link in (
            "javascript:alert(1)",
            "ftp://a.b",
            "//a.b",
            "https://",
            "https://a:b@c.d",
            "https://a.b/\0",
            "https://a.b/" + "x" * 3000,
            "https://[a",
        ):
            self.says((400, "M_INVALID_PARAM"), self.ask("register", next_link=link))
        for fields in ({"send_attempt": "1"}, {"email": 1}, {"client_secret": None}, {"next_link": 5}):
            self.says((400, "M_BAD_JSON"), self.ask("register", **fields))
        self.assertEqual(self.mailer.sent, [])
        for number in (2**62, -(2**62), 2**70):
            status, _ = self.ask("register", f"n{number}@b.c", send_attempt=number)
            self.assertIn(status, (200, 400))

    def test_phones(self) -> None:
        for what in ("register", "account/3pid", "account/password"):
            body = {"client_secret": "a", "country": "GB", "phone_number": "1", "send_attempt": 1}
            answer = self.app.call("POST", f"{V3}/{what}/msisdn/requestToken", body)
            self.says((400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"), answer)

    def test_the_page(self) -> None:
        self.sid("account/3pid", next_link="https://app.example/x?a=1&b=<")
        path, query = self.link()
        page = self.app.answer("GET", path, query=query)
        self.assertEqual(page.status, 200)
        self.assertIn(b"alice@example.org", page.body)
        self.says((403, "M_THREEPID_AUTH_FAILED"), self.add({"sid": query["sid"], "client_secret": "s3cret"}))
        done = self.app.answer("POST", path, query=query)
        self.assertIn(b'href="https://app.example/x?a=1&amp;b=&lt;"', done.body)
        self.assertIn(b"app.example</a>", done.body)
        self.assertEqual(self.app.answer("POST", path, query=query).status, 200)

    def test_wrong_links(self) -> None:
        self.sid("account/3pid")
        path, query = self.link()
        for changed in (
            {"token": "x"},
            {"token": ""},
            {"sid": "x"},
            {"sid": ""},
            {"client_secret": "x"},
            {"sid": "ü" * 999},
        ):
            self.assertEqual(self.app.answer("POST", path, query={**query, **changed}).status, 404)
        self.assertEqual(self.app.answer("GET", path, query={**query, "sid": "x"}).status, 404)
        self.assertEqual(self.app.answer("GET", path).status, 404)

    def test_guessing_ends(self) -> None:
        self.sid("account/3pid")
        path, query = self.link()
        for _ in range(20):
            self.app.answer("POST", path, query={**query, "token": "x"})
        self.assertEqual(self.app.answer("POST", path, query=query).status, 404)

    def test_links_end(self) -> None:
        self.sid("account/3pid")
        path, query = self.link()
        self.app.advance(24 * 3600)
        self.assertEqual(self.app.answer("POST", path, query=query).status, 404)
        creds = self.proven("account/3pid", client_secret="again")
        self.app.advance(24 * 3600)
        self.says((403, "M_THREEPID_AUTH_FAILED"), self.add(creds))

    def test_a_mail_server_that_is_down(self) -> None:
        self.mailer.broken = True
        self.sid("account/3pid")
        self.mailer.broken = False
        self.sid("account/3pid", send_attempt=2)
        self.confirm()

    def test_without_mail(self) -> None:
        app = TestApp(self)
        body = {"client_secret": "s", "email": "a@b.c", "send_attempt": 1}
        for what in ("register", "account/3pid", "account/password"):
            found = app.call("POST", f"{V3}/{what}/email/requestToken", body)
            self.says((400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"), found)
        self.says((401, "M_MISSING_TOKEN"), app.call("POST", f"{V3}/account/password", {"new_password": "x"}))
        token = app.register("alice")
        capabilities = app.ok("GET", f"{V3}/capabilities", token=token)["capabilities"]
        self.assertEqual(capabilities["m.3pid_changes"], {"enabled": False})


@on_each_database
class Floods(MailCase):
    """What somebody gets whose address strangers type in."""

    limits = RateLimits(register=RateLimit(1000, 1000), letters=RateLimit(0.001, 3))

    def test_one_attempt_after_the_other(self) -> None:
        first = self.sid("register")
        for number in (2, 3):
            self.assertEqual(self.sid("register", send_attempt=number), first)
        self.says((429, "M_LIMIT_EXCEEDED"), self.ask("register", send_attempt=4))
        self.assertEqual(len(self.mailer.sent), 3)
        # What was sent stays good, and may be asked for again, as no letter is written for that.
        self.assertEqual(self.sid("register", send_attempt=3), first)
        self.confirm()
        self.sid("register", "bob@example.org")
        self.app.advance(1000)
        self.sid("register", client_secret="other")
        self.says((429, "M_LIMIT_EXCEEDED"), self.ask("register", client_secret="other", send_attempt=2))
        self.assertEqual(len(self.mailer.sent), 5)

    def test_one_mailbox(self) -> None:
        self.sid("register")
        self.sid("account/3pid", client_secret="other")
        self.sid("register", "ALICE+third@example.org")
        for what, address in (
            ("register", "alice+fourth@example.org"),
            ("account/3pid", "alice@example.org"),
            ("register", "Alice+@example.org"),
        ):
            self.says((429, "M_LIMIT_EXCEEDED"), self.ask(what, address, client_secret="more"))
        self.sid("register", "alice@example.com")
        # A name that begins so is a name of its own.
        for number in range(4):
            self.sid("register", f"+{number}@example.org")


@on_each_database
class Adding(MailCase):
    def test_add_and_delete(self) -> None:
        self.assertEqual(self.threepids(), [])
        creds = self.proven("account/3pid", "Alice@Example.org")
        self.assertEqual(self.add(creds), (200, {}))
        found = self.app.ok("GET", f"{V3}/account/3pid", token=self.alice)["threepids"]
        self.assertEqual(
            found,
            [
                {
                    "medium": "email",
                    "address": "alice@example.org",
                    "validated_at": 1_700_000_000_000,
                    "added_at": 1_700_000_000_000,
                }
            ],
        )
        # A proof is good once.
        self.says((403, "M_THREEPID_AUTH_FAILED"), self.add(creds))
        body = {"medium": "email", "address": "ALICE@example.org"}
        deleted = self.app.ok("POST", f"{V3}/account/3pid/delete", body, self.alice)
        self.assertEqual(deleted, {"id_server_unbind_result": "no-support"})
        self.assertEqual(self.threepids(), [])
        capabilities = self.app.ok("GET", f"{V3}/capabilities", token=self.alice)["capabilities"]
        self.assertEqual(capabilities["m.3pid_changes"], {"enabled": True})

    def test_it_needs_a_password_and_a_proof(self) -> None:
        creds = self.proven("account/3pid")
        status, answer = self.app.call("POST", f"{V3}/account/3pid/add", creds, self.alice)
        self.assertEqual(
            (status, [["m.login.password"]]), (401, [flow["stages"] for flow in answer["flows"]])
        )
        for wrong in ({"sid": "x"}, {"client_secret": "x"}, {"sid": "\0"}, {"sid": "x" * 9999}):
            self.says((403, "M_THREEPID_AUTH_FAILED"), self.add({**creds, **wrong}))
        for bad in ({}, {"sid": 1, "client_secret": "x"}):
            found = self.app.call("POST", f"{V3}/account/3pid/add", bad, self.alice)
            self.says((400, "M_BAD_JSON"), found)
        # Proofs for other purposes are no good.
        self.have("known@example.org")
        other = self.proven("account/password", "known@example.org")
        self.says((403, "M_THREEPID_AUTH_FAILED"), self.add(other))

    def test_by_the_letter_for_new_accounts(self) -> None:
        closed = replace(self.config, registration=replace(self.config.registration, mode="closed"))
        self.app.app.reload(closed)
        creds = {"sid": self.sid("register"), "client_secret": "s3cret"}
        self.assertIn("add this address to one", self.mailer.sent[-1].text)
        self.says((403, "M_THREEPID_AUTH_FAILED"), self.add(creds))
        self.confirm()
        self.says((401, "M_MISSING_TOKEN"), self.app.call("POST", f"{V3}/account/3pid/add", creds))
        self.assertEqual(self.add(creds), (200, {}))
        self.assertEqual(self.threepids(), ["alice@example.org"])
        body = {"medium": "email", "address": "alice@example.org"}
        self.app.ok("POST", f"{V3}/account/3pid/delete", body, self.alice)
        self.says((403, "M_THREEPID_AUTH_FAILED"), self.add(creds))

    def test_by_a_password_that_is_over(self) -> None:
        creds, services = self.proven("account/3pid"), self.app.app.services
        during_the_check(
            self, services.hasher, lambda: services.accounts.set_password(ALICE, "new", log_out=False)
        )
        self.says((403, "M_FORBIDDEN"), self.add(creds))
        self.assertEqual([], self.threepids())

    def test_the_deprecated_way(self) -> None:
        path = f"{V3}/account/3pid"
        creds = self.proven("account/3pid")
        unknown = {
            "three_pid_creds": {
                "sid": "x",
                "client_secret": "y",
                "id_server": "id.example",
                "id_access_token": "z",
            }
        }
        auth = self.auth()
        self.says(
            (403, "M_THREEPID_AUTH_FAILED"),
            self.app.call("POST", path, {**unknown, "auth": auth}, self.alice),
        )
        self.app.ok("POST", path, {"three_pid_creds": creds, "auth": auth}, self.alice)
        self.assertEqual(self.threepids(), ["alice@example.org"])

    def test_a_token_alone_adds_no_address(self) -> None:
        # Whose address it is sets the password: so a stolen token must not be enough, in the old form neither.
        path = f"{V3}/account/3pid"
        for where, body in (
            (path, {"three_pid_creds": self.proven("account/3pid")}),
            (f"{path}/add", self.proven("account/3pid")),
        ):
            status, answer = self.app.call("POST", where, body, self.alice)
            self.assertEqual((401, [{"stages": ["m.login.password"]}]), (status, answer["flows"]))
        self.assertEqual(self.threepids(), [])

    def test_an_address_has_one_owner(self) -> None:
        bob = self.app.register("bob")
        theirs = self.proven("account/3pid", client_secret="bob")
        self.have()
        self.says((400, "M_THREEPID_IN_USE"), self.ask("account/3pid"))
        self.says((400, "M_THREEPID_IN_USE"), self.ask("register"))
        self.says((400, "M_THREEPID_IN_USE"), self.add(theirs, bob, "bob"))
        self.assertEqual(self.threepids(bob), [])

    def test_so_many_and_no_more(self) -> None:
        from homeserver.store import threepids

        self.patch(threepids, "MAX_PER_USER", 1)
        self.have("a@b.c")
        status, answer = self.add(self.proven("account/3pid", "d@e.f"))
        self.assertEqual((status, answer["errcode"]), (403, "M_USER_LIMIT_EXCEEDED"))
        self.assertEqual(answer["info_uri"], "https://test.example/_chaos/limits")

    def test_mail_pushers_end_with_the_address(self) -> None:
        self.have()
        pusher = {
            "app_display_name": "x", "app_id": "m.email", "data": {}, "device_display_name": "x", "kind": "email", "lang": "en",
            "pushkey": "alice@example.org",
        }  # fmt: skip
        self.app.ok("POST", f"{V3}/pushers/set", pusher, self.alice)
        self.app.ok(
            "POST",
            f"{V3}/account/3pid/delete",
            {"medium": "email", "address": "alice@example.org"},
            self.alice,
        )
        self.assertEqual(self.app.ok("GET", f"{V3}/pushers", token=self.alice)["pushers"], [])
        self.says(
            (400, "M_THREEPID_NOT_FOUND"), self.app.call("POST", f"{V3}/pushers/set", pusher, self.alice)
        )

    def test_hostile_removals(self) -> None:
        for body, errcode in (
            ({"medium": "email", "address": "\0"}, "M_INVALID_PARAM"),
            ({"medium": "email", "address": "x" * 5000}, "M_TOO_LARGE"),
            ({"medium": "pigeon", "address": "x"}, "M_BAD_JSON"),
            ({"address": "x"}, "M_BAD_JSON"),
            ({"medium": "email", "address": "x", "id_server": "a b/c"}, "M_INVALID_PARAM"),
        ):
            for what in ("delete", "unbind"):
                found = self.app.call("POST", f"{V3}/account/3pid/{what}", body, self.alice)
                self.says((400, errcode), found)

    def test_the_account_ends(self) -> None:
        self.have()
        auth = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": "correct horse",
        }
        self.app.ok("POST", f"{V3}/account/deactivate", {"auth": auth}, self.alice)
        self.assertEqual(self.ask("account/3pid")[0], 200)


@on_each_database
class Using(MailCase):
    def test_logging_in(self) -> None:
        self.have()
        body = {"type": "m.login.password", "password": "correct horse"}
        for identifier in (
            {"type": "m.id.thirdparty", "medium": "email", "address": "Alice@example.ORG"},
            {"medium": "email", "address": "alice@example.org"},
        ):
            answer = self.app.ok("POST", f"{V3}/login", {**body, "identifier": identifier})
            self.assertEqual(answer["user_id"], ALICE)
        self.app.ok("POST", f"{V3}/login", {**body, "medium": "email", "address": "alice@example.org"})
        for identifier in (
            {"type": "m.id.thirdparty", "medium": "email", "address": "bob@example.org"},
            {"type": "m.id.thirdparty", "medium": "msisdn", "address": "alice@example.org"},
            {"type": "m.id.thirdparty", "medium": "email", "address": "\0"},
            {"type": "m.id.phone", "country": "GB", "phone": "123"},
        ):
            self.says(
                (403, "M_FORBIDDEN"), self.app.call("POST", f"{V3}/login", {**body, "identifier": identifier})
            )
        malformed: tuple[tuple[dict[str, Any], str], ...] = (
            ({"type": "m.id.thirdparty", "medium": "email"}, "M_MISSING_PARAM"),
            ({"type": "m.id.thirdparty", "medium": "email", "address": 1}, "M_BAD_JSON"),
        )
        for wrong, errcode in malformed:
            found = self.app.call("POST", f"{V3}/login", {**body, "identifier": wrong})
            self.says((400, errcode), found)

    def reset(self, creds: dict[str, str], token: str | None = None, **fields: Any) -> tuple[int, Any]:
        body = {"new_password": "battery staple", **fields}
        _, asked = self.app.call("POST", f"{V3}/account/password", body, token)
        auth = {"type": "m.login.email.identity", "threepid_creds": creds, "session": asked["session"]}
        return self.app.call("POST", f"{V3}/account/password", {**body, "auth": auth}, token)

    def login(self, password: str) -> int:
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": password,
        }
        return self.app.call("POST", f"{V3}/login", body)[0]

    def test_a_forgotten_password(self) -> None:
        self.have()
        self.says((400, "M_THREEPID_NOT_FOUND"), self.ask("account/password", "nobody@example.org"))
        sid = self.sid("account/password")
        creds = {"sid": sid, "client_secret": "s3cret"}
        self.says((401, "M_THREEPID_AUTH_FAILED"), self.reset(creds))
        self.assertEqual(self.login("battery staple"), 403)
        self.confirm()
        self.assertEqual(self.reset(creds), (200, {}))
        self.assertEqual((self.login("battery staple"), self.login("correct horse")), (200, 403))
        # The other logins have ended, and so has the proof.
        self.says((401, "M_UNKNOWN_TOKEN"), self.app.call("GET", f"{V3}/account/whoami", token=self.alice))
        self.says((401, "M_THREEPID_AUTH_FAILED"), self.reset(creds))

    def test_a_letter_is_good_until_it_has_served(self) -> None:
        self.have()
        creds = self.proven("account/password")
        self.says((400, "M_INVALID_PARAM"), self.reset(creds, new_password="a\0b"))
        self.says((400, "M_MISSING_PARAM"), self.reset(creds, new_password=None))

        async def refuse(*_: Any) -> str:
            raise limit_exceeded(1000)

        busy = self.patch(PasswordHasher, "hash", refuse)
        self.says((429, "M_LIMIT_EXCEEDED"), self.reset(creds))
        busy.restore()
        self.assertEqual((self.login("battery staple"), self.login("correct horse")), (403, 200))
        self.assertEqual(self.reset(creds), (200, {}))
        self.assertEqual((self.login("battery staple"), self.login("correct horse")), (200, 403))

    def test_two_at_once_with_one_letter(self) -> None:
        self.have()
        creds = self.proven("account/password")
        compute, held = PasswordHasher.hash, []

        async def wait(hasher: PasswordHasher, password: str) -> str:
            held.append(Deferred[None]())
            await held[-1]
            return await compute(hasher, password)

        waiting = self.patch(PasswordHasher, "hash", wait)
        answers = []
        for password in ("battery staple", "second thought"):
            _, asked = self.app.call("POST", f"{V3}/account/password", {"new_password": password})
            auth = {"type": "m.login.email.identity", "threepid_creds": creds, "session": asked["session"]}
            body = {"new_password": password, "auth": auth}
            answers.append(self.app.start("POST", f"{V3}/account/password", body))
        self.app.advance(0)
        for one in held:
            one.callback(None)
        found = [self.app.wait(answer) for answer in answers]
        waiting.restore()
        self.assertEqual([200, 403], [one.status for one in found])
        self.assertEqual((self.login("battery staple"), self.login("second thought")), (200, 403))

    def test_of_a_locked_account(self) -> None:
        # spec: client-server-api#account-locking (nothing but logging out)
        self.have()
        creds = self.proven("account/password")
        core = self.app.app.core
        user_nid = self.app.wait(Deferred.fromCoroutine(core.interner.user(ALICE)))
        self.app.wait(core.committer.work(set_standing, user_nid, suspended=None, locked=True))
        self.says((401, "M_USER_LOCKED"), self.reset(creds))
        self.app.wait(core.committer.work(set_standing, user_nid, suspended=None, locked=False))
        self.app.ok("GET", f"{V3}/account/whoami", token=self.alice)
        self.assertEqual((self.login("battery staple"), self.login("correct horse")), (403, 200))

    def test_confirming_with_an_address(self) -> None:
        # spec: client-server-api#password-based (403 for an address that is not known)
        self.have()
        password = {"type": "m.login.password", "password": "correct horse"}
        by_mail = {"type": "m.id.thirdparty", "medium": "email"}
        bob = self.app.register("bob")
        for token, address in ((self.alice, "nobody@example.org"), (bob, "alice@example.org")):
            auth = {**password, "identifier": {**by_mail, "address": address}}
            refused = self.app.call("DELETE", f"{V3}/devices/X", {"auth": auth}, token)
            # What is somebody else's is refused alike: nobody learns whose addresses are known.
            self.says((403, "M_FORBIDDEN"), refused)
            self.assertNotIn("flows", refused[1])
        auth = {**password, "identifier": {**by_mail, "address": "alice@example.org"}}
        self.app.ok("DELETE", f"{V3}/devices/X", {"auth": auth}, self.alice)

    def test_logged_in(self) -> None:
        self.have()
        bob = self.app.register("bob")
        creds = self.proven("account/password")
        self.says((403, "M_FORBIDDEN"), self.reset(creds, bob))
        self.assertEqual(self.reset(creds, self.alice, logout_devices=False), (200, {}))
        self.app.ok("GET", f"{V3}/account/whoami", token=self.alice)

    def test_the_first_answer_without_a_token(self) -> None:
        status, answer = self.app.call("POST", f"{V3}/account/password", {"new_password": "battery staple"})
        self.assertEqual((status, answer["flows"]), (401, [{"stages": ["m.login.email.identity"]}]))
        wrong: tuple[Any, ...] = (None, 5, [], {"sid": 1})
        for creds in wrong:
            auth = {"type": "m.login.email.identity", "threepid_creds": creds, "session": answer["session"]}
            found = self.app.call(
                "POST", f"{V3}/account/password", {"new_password": "battery staple", "auth": auth}
            )
            self.assertIn(found[0], (400, 401))

    def test_registering_with_an_address(self) -> None:
        body = {"username": "carol", "password": "correct horse"}
        _, asked = self.app.call("POST", f"{V3}/register", body)
        self.assertEqual(
            [flow["stages"] for flow in asked["flows"]], [["m.login.dummy"], ["m.login.email.identity"]]
        )
        creds = self.proven("register", "carol@example.org")
        auth = {"type": "m.login.email.identity", "threepid_creds": creds, "session": asked["session"]}
        token = self.app.ok("POST", f"{V3}/register", {**body, "auth": auth})["access_token"]
        self.assertEqual(self.threepids(token), ["carol@example.org"])
        # The proof is used up, and the address taken.
        self.says((400, "M_THREEPID_IN_USE"), self.ask("register", "carol@example.org"))

    def test_registering_with_an_address_that_was_taken_meanwhile(self) -> None:
        creds = self.proven("register")
        self.have()
        _, asked = self.app.call("POST", f"{V3}/register", {"username": "carol", "password": "correct horse"})
        auth = {"type": "m.login.email.identity", "threepid_creds": creds, "session": asked["session"]}
        body = {"username": "carol", "password": "correct horse", "auth": auth}
        self.says((400, "M_THREEPID_IN_USE"), self.app.call("POST", f"{V3}/register", body))
        self.app.register("carol")

    def test_by_token_and_address(self) -> None:
        registration = replace(self.config.registration, mode="token")
        self.app.app.reload(replace(self.config, registration=registration))
        _, asked = self.app.call("POST", f"{V3}/register", {"username": "carol", "password": "correct horse"})
        stages = [flow["stages"] for flow in asked["flows"]]
        self.assertEqual(
            stages,
            [["m.login.registration_token"], ["m.login.email.identity", "m.login.registration_token"]],
        )
        creds, session = self.proven("register"), asked["session"]
        letter = {"type": "m.login.email.identity", "threepid_creds": creds, "session": session}
        self.assertEqual(401, self.app.call("POST", f"{V3}/register", {"auth": letter})[0])
        # A proof that serves for something else before it is all said is no good any more.
        self.assertEqual(self.add(creds), (200, {}))
        body = {"medium": "email", "address": "alice@example.org"}
        self.app.ok("POST", f"{V3}/account/3pid/delete", body, self.alice)
        accounts = self.app.app.services.accounts
        self.app.wait(Deferred.fromCoroutine(accounts.create_registration_token("sesame")))
        auth = {"type": "m.login.registration_token", "token": "sesame", "session": session}
        self.says((403, "M_THREEPID_AUTH_FAILED"), self.app.call("POST", f"{V3}/register", {"auth": auth}))


@on_each_database
class Hidden(MailCase):
    hide = True

    def test_answers_do_not_tell(self) -> None:
        self.have()
        for what in ("register", "account/3pid"):
            self.sid(what, client_secret=what.replace("/", "."))
            self.assertIn("belongs to your account already", self.mailer.sent[-1].text)
            self.assertNotIn("https://", self.mailer.sent[-1].text)
        self.sid("account/password", "nobody@example.org")
        self.assertIn("no account there has this address", self.mailer.sent[-1].text)
        self.assertNotIn("https://", self.mailer.sent[-1].html)
