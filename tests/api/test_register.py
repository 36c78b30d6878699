"""Making accounts. spec: client-server-api#legacy-account-registration"""

from __future__ import annotations

import hmac
import re
from dataclasses import replace
from hashlib import sha1
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred

from homeserver.config.schema import Email, Passwords, RateLimit, RateLimits, Registration, RegistrationMode
from tests.support.accounts import PASSWORD, WorldCase, now
from tests.support.app import TestApp, test_config
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.http import Answer
from tests.support.mail import FakeMailer

REGISTER = "/v3/register"
DUMMY = {"type": "m.login.dummy"}


@on_each_database
class OpenRegistration(WorldCase):
    def setUp(self) -> None:
        self.world = self.make()

    def test_in_one_request(self) -> None:
        status, _, answer = self.world.register(
            "alice", device_id="PHONE", initial_device_display_name="Phone"
        )
        self.assertEqual(200, status)
        self.assertEqual("@alice:home.example", answer["user_id"])
        self.assertEqual("home.example", answer["home_server"])
        self.assertEqual("PHONE", answer["device_id"])
        self.assertNotIn("refresh_token", answer)
        self.assertNotIn("expires_in_ms", answer)
        whoami = self.world.call("GET", "/v3/account/whoami", token=answer["access_token"]).json
        self.assertEqual({"user_id": "@alice:home.example", "device_id": "PHONE", "is_guest": False}, whoami)

    def test_in_two_requests(self) -> None:
        asked = self.world.call("POST", REGISTER, {})
        self.assertEqual(401, asked.status)
        self.assertEqual([{"stages": ["m.login.dummy"]}], asked.json["flows"])
        self.assertEqual({"session", "flows", "params"}, set(asked.json))
        answer = self.world.register("bob", auth={**DUMMY, "session": asked.json["session"]})
        self.assertEqual(200, answer.status)

    def test_the_second_request_may_be_the_confirmation_alone(self) -> None:
        """Element for Android (before X) sends the name and the password once, and from then on what it confirms."""
        wish = {"username": "carol", "password": PASSWORD, "device_id": "PHONE"}
        asked = self.world.call("POST", REGISTER, wish)
        self.assertEqual(401, asked.status)
        auth = {**DUMMY, "session": asked.json["session"]}
        answer = self.world.call("POST", REGISTER, {"auth": auth})
        self.assertEqual(200, answer.status, answer.json)
        self.assertEqual(("@carol:home.example", "PHONE"), (answer.json["user_id"], answer.json["device_id"]))
        self.assertEqual(200, self.world.login("carol").status)

    def test_what_comes_again_counts_and_not_what_is_remembered(self) -> None:
        asked = self.world.call("POST", REGISTER, {"username": "dave", "password": "a first password"})
        auth = {**DUMMY, "session": asked.json["session"]}
        answer = self.world.call("POST", REGISTER, {"username": "erin", "password": PASSWORD, "auth": auth})
        self.assertEqual("@erin:home.example", answer.json["user_id"])
        self.assertEqual(200, self.world.login("erin").status)

    def test_what_is_long_is_not_remembered(self) -> None:
        wish = {"username": "frank", "password": PASSWORD, "x": "y" * 3000}
        auth = {**DUMMY, "session": self.world.call("POST", REGISTER, wish).json["session"]}
        answer = self.world.call("POST", REGISTER, {"auth": auth})
        self.assertEqual((400, "M_MISSING_PARAM"), (answer.status, answer.errcode))

    def test_an_absent_body_asks_for_the_flows(self) -> None:
        self.assertEqual(401, self.world.call("POST", REGISTER).status)

    def test_names_are_folded_and_kept_as_display_name(self) -> None:
        self.assertEqual("@alice:home.example", self.world.register("Alice").json["user_id"])
        self.assertEqual("M_USER_IN_USE", self.world.register("aLICE").errcode)
        profile = self.world.call("GET", "/v3/profile/@alice:home.example").json
        self.assertEqual({"displayname": "Alice"}, profile)

    def test_bad_names_are_refused_before_the_confirmation(self) -> None:
        for username in ("", "has space", "colon:colon", "ünder", "a" * 250, "nul\0", "@alice"):
            answer = self.world.call("POST", REGISTER, {"username": username, "password": PASSWORD})
            self.assertEqual((400, "M_INVALID_USERNAME"), (answer.status, answer.errcode), username)

    def test_a_taken_name_is_refused_before_the_confirmation(self) -> None:
        self.world.register("alice")
        answer = self.world.call("POST", REGISTER, {"username": "alice", "password": PASSWORD})
        self.assertEqual((400, "M_USER_IN_USE"), (answer.status, answer.errcode))

    def test_a_name_is_drawn_for_who_gives_none(self) -> None:
        answer = self.world.call("POST", REGISTER, {"password": PASSWORD, "auth": DUMMY})
        self.assertEqual(200, answer.status)
        self.assertRegex(answer.json["user_id"], r"^@[a-z0-9]{12}:home\.example$")

    def test_without_a_password(self) -> None:
        answer = self.world.call("POST", REGISTER, {"username": "alice", "auth": DUMMY})
        self.assertEqual((400, "M_MISSING_PARAM"), (answer.status, answer.errcode))

    def test_without_login(self) -> None:
        answer = self.world.register("alice", inhibit_login=True)
        self.assertEqual({"user_id": "@alice:home.example", "home_server": "home.example"}, answer.json)
        self.assertEqual(200, self.world.login("alice").status)

    def test_with_refresh_token(self) -> None:
        answer = self.world.register("alice", refresh_token=True).json
        self.assertEqual(300_000, answer["expires_in_ms"])
        self.assertIn("refresh_token", answer)

    def test_guests_are_refused(self) -> None:
        answer = self.world.call("POST", REGISTER, {}, query={"kind": "guest"})
        self.assertEqual((403, "M_GUEST_ACCESS_FORBIDDEN"), (answer.status, answer.errcode))
        self.assertEqual(400, self.world.call("POST", REGISTER, {}, query={"kind": "ghost"}).status)

    def test_wrong_types_are_refused(self) -> None:
        for field, value in (
            ("username", 5),
            ("password", ["x"]),
            ("device_id", {}),
            ("inhibit_login", "yes"),
        ):
            answer = self.world.call("POST", REGISTER, {field: value})
            self.assertEqual((400, "M_BAD_JSON"), (answer.status, answer.errcode), field)
        for auth in ("x", 5, {"type": 5}, {"type": "m.login.dummy", "session": 5}):
            answer = self.world.register("alice", auth=auth)
            self.assertEqual((400, "M_BAD_JSON"), (answer.status, answer.errcode), auth)

    def test_texts_are_bounded(self) -> None:
        self.assertEqual("M_TOO_LARGE", self.world.register("alice", device_id="D" * 256).errcode)
        self.assertEqual("M_INVALID_PARAM", self.world.register("alice", device_id="D\0").errcode)
        self.assertEqual("M_WEAK_PASSWORD", self.world.register("alice", password="p" * 513).errcode)
        self.assertEqual(
            "M_TOO_LARGE", self.world.register("a", initial_device_display_name="D" * 256).errcode
        )

    def test_availability(self) -> None:
        def ask(username: str) -> tuple[int, Any]:
            answer = self.world.call("GET", "/v3/register/available", query={"username": username})
            return answer.status, answer.json.get("errcode", answer.json)

        self.assertEqual((200, {"available": True}), ask("alice"))
        self.world.register("alice")
        self.assertEqual((400, "M_USER_IN_USE"), ask("ALICE"))
        self.assertEqual((400, "M_INVALID_USERNAME"), ask("a b"))
        self.assertEqual("M_MISSING_PARAM", self.world.call("GET", "/v3/register/available").errcode)

    def test_the_name_of_a_deactivated_account_stays_taken(self) -> None:
        self.world.register("alice")
        now(self.world.accounts.deactivate("@alice:home.example", erase=True))
        self.assertEqual("M_USER_IN_USE", self.world.register("alice").errcode)

    def test_a_session_serves_once(self) -> None:
        session = self.world.call("POST", REGISTER, {}).json["session"]
        self.assertEqual(200, self.world.register("alice", auth={**DUMMY, "session": session}).status)
        again = self.world.register("bob", auth={**DUMMY, "session": session})
        self.assertEqual((401, "M_UNKNOWN"), (again.status, again.errcode))
        self.assertNotEqual(session, again.json["session"])

    def test_an_unknown_stage_is_refused(self) -> None:
        answer = self.world.register("alice", auth={"type": "m.login.recaptcha"})
        self.assertEqual((401, "M_UNRECOGNIZED"), (answer.status, answer.errcode))
        self.assertIn("flows", answer.json)

    def test_sessions_are_bounded(self) -> None:
        for _ in range(120):
            self.world.call("POST", REGISTER, {})
        self.assertEqual(50, self.world.interactive.size)
        self.world.time.advance(1000)
        session = self.world.call("POST", REGISTER, {}).json["session"]
        self.assertEqual(1, self.world.interactive.size)
        self.world.time.advance(901)
        over = self.world.register("alice", auth={**DUMMY, "session": session})
        self.assertEqual((401, "M_UNKNOWN"), (over.status, over.errcode))


@on_each_database
class OtherModes(WorldCase):
    def test_closed(self) -> None:
        world = self.make(registration=Registration(mode="closed"))
        for call in (
            world.register("alice"),
            world.call("GET", "/v3/register/available", query={"username": "alice"}),
            world.call("GET", "/v1/register/m.login.registration_token/validity", query={"token": "x"}),
        ):
            self.assertEqual((403, "M_FORBIDDEN"), (call.status, call.errcode))

    def test_reopened_while_running(self) -> None:
        world = self.make(registration=Registration(mode="closed"))
        self.assertEqual(403, world.register("alice").status)
        world.config = replace(world.config, registration=Registration(mode="open"))
        self.assertEqual(200, world.register("alice").status)

    def test_weak_passwords(self) -> None:
        policy = Passwords(
            8, require_digit=True, require_symbol=True, require_uppercase=True, require_lowercase=True
        )
        world = self.make(passwords=policy)
        for password in ("Aa1!", "Abcdefg!", "Abcdefg1", "abcdef1!", "ABCDEF1!"):
            answer = world.call("POST", REGISTER, {"username": "alice", "password": password})
            self.assertEqual((400, "M_WEAK_PASSWORD"), (answer.status, answer.errcode), password)
        self.assertEqual(200, world.register("alice", password="Abcdef1!").status)

    def test_attempts_are_limited_by_address(self) -> None:
        limits = RateLimits(enabled=True, register=RateLimit(0.1, 2))
        world = self.make(rate_limits=limits)
        self.assertEqual(401, world.call("POST", REGISTER, {}).status)
        self.assertEqual([200, 200, 429], [world.register(name).status for name in ("a", "b", "c")])
        # Of IPv6 a customer has a whole network.
        ips = [f"2001:db8:1:{net}::{host}" for net, host in ((1, 1), (1, 2), (1, 3), (2, 1))]
        body = {"password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        statuses = [world.call("POST", REGISTER, body, client_ip=ip).status for ip in ips]
        self.assertEqual([200, 200, 429, 200], statuses)


@on_each_database
class RegistrationTokens(WorldCase):
    def setUp(self) -> None:
        self.world = self.make(registration=Registration(mode="token"))

    def attempt(self, username: str, token: Any) -> Any:
        auth = {"type": "m.login.registration_token", "token": token}
        return self.world.register(username, auth=auth)

    def is_valid(self, token: str) -> bool:
        path = "/v1/register/m.login.registration_token/validity"
        answer = self.world.call("GET", path, query={"token": token})
        self.assertEqual(200, answer.status)
        valid: bool = answer.json["valid"]
        return valid

    def test_uses(self) -> None:
        token = now(self.world.accounts.create_registration_token("two-uses", uses_allowed=2))
        self.assertEqual("two-uses", token)
        self.assertTrue(self.is_valid(token))
        self.assertEqual([200, 200], [self.attempt(name, token).status for name in ("a", "b")])
        refused = self.attempt("c", token)
        self.assertEqual((401, "M_FORBIDDEN"), (refused.status, refused.errcode))
        self.assertFalse(self.is_valid(token))

    def test_end_of_time(self) -> None:
        ends = self.world.clock.now_ms() + 1000
        token = now(self.world.accounts.create_registration_token(expires_ts_ms=ends))
        self.assertEqual(16, len(token))
        self.assertTrue(self.is_valid(token))
        self.world.time.advance(1)
        self.assertFalse(self.is_valid(token))
        self.assertEqual(401, self.attempt("a", token).status)

    def test_nonsense(self) -> None:
        for token in ("unknown", "", "nul\0", "x" * 100):
            self.assertEqual(
                (401, "M_FORBIDDEN"), (self.attempt("a", token).status, self.attempt("a", token).errcode)
            )
        self.assertFalse(self.is_valid("unknown"))
        self.assertEqual("M_MISSING_PARAM", self.attempt("a", None).errcode)
        self.assertEqual("M_BAD_JSON", self.attempt("a", 5).errcode)
        self.assertEqual("M_UNRECOGNIZED", self.world.register("a").errcode)

    def test_a_token_is_used_up_while_others_register(self) -> None:
        """The count is taken with the account, in one transaction: a race leaves neither too many."""
        now(self.world.accounts.create_registration_token("once", uses_allowed=1))
        first = self.world.interactive

        async def slow_confirm(*args: Any, **kwargs: Any) -> dict[str, Any]:
            return {"m.login.registration_token": "once"}

        first.confirm = slow_confirm  # type: ignore[method-assign]
        self.assertEqual(200, self.world.register("a").status)
        late = self.world.register("b")
        self.assertEqual((403, "M_FORBIDDEN"), (late.status, late.errcode))
        self.assertIsNone(now(self.world.accounts.find("@b:home.example")))

    def test_tokens_are_listed_and_not_made_twice(self) -> None:
        now(self.world.accounts.create_registration_token("one"))
        with self.assertRaisesRegex(Exception, "already"):
            now(self.world.accounts.create_registration_token("one"))
        with self.assertRaisesRegex(Exception, "1 to 64"):
            now(self.world.accounts.create_registration_token("spa ce"))
        listed = now(self.world.accounts.list_registration_tokens())
        self.assertEqual([("one", None, 0, None)], [tuple(token) for token in listed])


@on_each_database
class Waiting(DatabaseCase):
    """Clients ask every other second whether somebody has opened the letter, or filled a page in."""

    def make(self, mode: RegistrationMode) -> None:
        config = test_config(
            data_dir=Path(self.mktemp()),
            email=Email("mail.example", "chat@test.example"),
            registration=Registration(mode=mode),
            rate_limits=RateLimits(register=RateLimit(0.01, 3)),
        )
        self.mailer = FakeMailer()
        self.app = TestApp(self, self.new_database(), config, mailer=self.mailer)
        asked = self.register(None)
        self.assertEqual(401, asked.status)
        self.session = asked.json["session"]

    def register(self, auth: Any, name: str = "carol") -> Answer:
        body = {"username": name, "password": PASSWORD, "auth": auth}
        return self.app.answer(
            "POST", f"/_matrix/client{REGISTER}", {one: body[one] for one in body if body[one]}
        )

    def letter(self) -> dict[str, Any]:
        """The stage of a letter that was asked for."""
        body = {"client_secret": "s3cret", "email": "carol@example.org", "send_attempt": 1}
        sid = self.app.ok("POST", f"/_matrix/client{REGISTER}/email/requestToken", body)["sid"]
        creds = {"sid": sid, "client_secret": "s3cret"}
        return {"type": "m.login.email.identity", "threepid_creds": creds, "session": self.session}

    def open_letter(self) -> None:
        link = re.search(r"https?://\S+", self.mailer.sent[-1].text)
        assert link is not None
        parts = urlsplit(link[0])
        self.assertEqual(200, self.app.answer("POST", f"{parts.path}?{parts.query}").status)

    def test_does_not_count(self) -> None:
        self.make("token")
        accounts = self.app.app.services.accounts
        self.app.wait(Deferred.fromCoroutine(accounts.create_registration_token("let-me-in")))
        for auth in ({"session": self.session}, self.letter()):
            self.assertEqual([401] * 10, [self.register(auth).status for _ in range(10)])
        auth = {"type": "m.login.registration_token", "token": "guess", "session": self.session}
        self.assertEqual("M_FORBIDDEN", self.register(auth).errcode)
        self.assertEqual(200, self.register({**auth, "token": "let-me-in"}).status)
        # The letter and both attempts counted.
        self.assertEqual("M_LIMIT_EXCEEDED", self.register({**auth, "token": "other"}, "dave").errcode)

    def test_an_account_by_a_letter_counts(self) -> None:
        self.make("open")
        auth = self.letter()
        self.assertEqual([401] * 10, [self.register(auth).status for _ in range(10)])
        self.open_letter()
        self.assertEqual(200, self.register(auth).status)
        statuses = [self.register(DUMMY, name).status for name in ("dave", "erin")]
        self.assertEqual([200, 429], statuses)

    def test_who_has_to_wait_goes_on(self) -> None:
        self.make("open")
        auth = self.letter()
        self.open_letter()
        statuses = [self.register(DUMMY, name).status for name in ("dave", "erin", "frank")]
        self.assertEqual([200, 200, 429], statuses)
        self.assertEqual("M_LIMIT_EXCEEDED", self.register(auth).errcode)
        self.app.advance(100)
        self.assertEqual(200, self.register(auth).status)

    def test_beside_a_token_only_that_counts(self) -> None:
        self.make("token")
        accounts = self.app.app.services.accounts
        self.app.wait(Deferred.fromCoroutine(accounts.create_registration_token("let-me-in")))
        letter = self.letter()
        self.open_letter()
        self.assertEqual(401, self.register(letter).status)
        auth = {"type": "m.login.registration_token", "token": "let-me-in", "session": self.session}
        statuses = [self.register({**auth, "token": token}).status for token in ("guess", "let-me-in")]
        self.assertEqual([401, 200], statuses)


@on_each_database
class SharedSecret(WorldCase):
    PATH = "/_synapse/admin/v1/register"

    def setUp(self) -> None:
        self.world = self.make()

    def send(self, **changes: Any) -> Any:
        nonce = self.world.call("GET", self.PATH).json["nonce"]
        body = {"nonce": nonce, "username": "root", "password": "pw", "admin": True, **changes}
        parts = [body["nonce"], body["username"], body["password"], "admin" if body["admin"] else "notadmin"]
        if body.get("user_type"):
            parts.append(body["user_type"])
        code = hmac.new(b"sesame", "\0".join(parts).encode(), sha1).hexdigest()
        return self.world.call("POST", self.PATH, {"mac": code, **body})

    def test_an_administrator(self) -> None:
        answer = self.send(displayname="The Root")
        self.assertEqual(200, answer.status)
        self.assertEqual({"user_id", "home_server", "access_token", "device_id"}, set(answer.json))
        account = now(self.world.accounts.find("@root:home.example"))
        self.assertEqual(1, account.admin)
        profile = self.world.call("GET", "/v3/profile/@root:home.example").json
        self.assertEqual({"displayname": "The Root"}, profile)
        self.assertEqual(200, self.world.login("root", "pw").status)

    def test_a_bot(self) -> None:
        self.assertEqual(200, self.send(username="bot", admin=False, user_type="bot").status)
        account = now(self.world.accounts.find("@bot:home.example"))
        self.assertEqual((0, "bot"), (account.admin, account.user_type))
        self.assertEqual(400, self.send(username="bot2", user_type="cat").status)

    def test_a_nonce_serves_once_and_for_a_minute(self) -> None:
        nonce = self.world.call("GET", self.PATH).json["nonce"]
        self.assertEqual(200, self.send(nonce=nonce).status)
        again = self.send(nonce=nonce, username="other")
        self.assertEqual((400, "M_UNKNOWN"), (again.status, again.errcode))
        old = self.world.call("GET", self.PATH).json["nonce"]
        self.world.time.advance(61)
        self.assertEqual(400, self.send(nonce=old, username="other").status)

    def test_a_wrong_code(self) -> None:
        for code in ("", "0" * 40, "ü"):
            answer = self.send(mac=code)
            self.assertEqual((403, "M_FORBIDDEN"), (answer.status, answer.errcode))

    def test_missing_parts(self) -> None:
        for name in ("nonce", "username", "password", "mac"):
            body = {"nonce": "n", "username": "u", "password": "p", "mac": "m"}
            del body[name]
            answer = self.world.call("POST", self.PATH, body)
            self.assertEqual((400, "M_MISSING_PARAM"), (answer.status, answer.errcode), name)

    def test_a_taken_name(self) -> None:
        self.world.register("root")
        self.assertEqual("M_USER_IN_USE", self.send().errcode)

    def test_without_a_secret(self) -> None:
        world = self.make(registration=Registration(mode="open"))
        self.assertEqual(400, world.call("GET", self.PATH).status)
        self.assertEqual(400, world.call("POST", self.PATH, {}).status)
