"""Logging in and out, refreshing, login tokens. spec: client-server-api#legacy-login"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial import unittest

from homeserver.accounts.passwords import Cost, PasswordHasher
from homeserver.config.schema import RateLimit, RateLimits, Sessions
from homeserver.http.errors import MatrixError
from homeserver.runtime.entropy import SeededEntropy
from homeserver.store.users import set_standing
from tests.support.accounts import PASSWORD, WorldCase, during_the_check, now, run_at_once
from tests.support.databases import on_each_database

LOGIN = "/v3/login"


@on_each_database
class Login(WorldCase):
    def setUp(self) -> None:
        self.world = self.make()
        self.world.register("alice", inhibit_login=True)

    def send(self, **body: Any) -> Any:
        return self.world.call("POST", LOGIN, body)

    def test_flows(self) -> None:
        flows = self.world.call("GET", LOGIN).json["flows"]
        self.assertEqual(
            [{"type": "m.login.password"}, {"type": "m.login.token", "get_login_token": True}], flows
        )

    def test_every_way_to_name_oneself(self) -> None:
        for name in ("alice", "@alice:home.example", "ALICE", "@Alice:home.example"):
            answer = self.world.login(name)
            self.assertEqual((200, "@alice:home.example"), (answer.status, answer.json["user_id"]), name)
        old = self.send(type="m.login.password", user="alice", password=PASSWORD)
        self.assertEqual(200, old.status)

    def test_the_answer(self) -> None:
        answer = self.world.login("alice", device_id="PHONE").json
        self.assertEqual({"user_id", "access_token", "device_id", "home_server"}, set(answer))
        self.assertEqual("PHONE", answer["device_id"])
        self.assertTrue(answer["access_token"].startswith("chaos_"))

    def test_the_public_address_is_told_if_there_is_one(self) -> None:
        world = self.make(public_url="https://chat.home.example/")
        world.register("alice")
        told = world.login("alice").json["well_known"]
        self.assertEqual({"m.homeserver": {"base_url": "https://chat.home.example"}}, told)

    def test_refusals(self) -> None:
        user = {"type": "m.id.user", "user": "alice"}
        for name, password in (("alice", "wrong"), ("nobody", PASSWORD), ("@alice:other.example", PASSWORD),
                               ("", PASSWORD), ("a\0", PASSWORD), ("alice", "x" * 600), ("alice", "")):  # fmt: skip
            answer = self.world.login(name, password)
            self.assertEqual((403, "M_FORBIDDEN"), (answer.status, answer.errcode), name)
        for body, status, errcode in (
            ({}, 400, "M_MISSING_PARAM"),
            ({"type": "m.login.magic"}, 400, "M_UNKNOWN"),
            ({"type": 5}, 400, "M_BAD_JSON"),
            ({"type": "m.login.password"}, 400, "M_MISSING_PARAM"),
            ({"type": "m.login.password", "password": PASSWORD}, 400, "M_MISSING_PARAM"),
            ({"type": "m.login.password", "identifier": user}, 400, "M_MISSING_PARAM"),
            ({"type": "m.login.password", "identifier": user, "password": 5}, 400, "M_BAD_JSON"),
            ({"type": "m.login.password", "identifier": "alice", "password": "x"}, 400, "M_BAD_JSON"),
            ({"type": "m.login.password", "identifier": {"type": "m.id.user"}, "password": "x"}, 400, "M_MISSING_PARAM"),
            ({"type": "m.login.password", "identifier": {"type": "m.id.x"}, "password": "x"}, 400, "M_UNKNOWN"),
            ({"type": "m.login.password", "identifier": {"type": "m.id.user", "user": []}, "password": "x"},
             400, "M_BAD_JSON"),
            ({"type": "m.login.password", "identifier": {"type": "m.id.thirdparty", "medium": "email",
              "address": "a@b.c"}, "password": "x"}, 403, "M_FORBIDDEN"),
            ({"type": "m.login.password", "identifier": {"type": "m.id.phone", "country": "GB", "phone": "1"},
              "password": "x"}, 403, "M_FORBIDDEN"),
            ({"type": "m.login.password", "medium": "email", "address": "a@b.c", "password": "x"}, 403, "M_FORBIDDEN"),
            ({"type": "m.login.token"}, 400, "M_MISSING_PARAM"),
            ({"type": "m.login.token", "token": 5}, 400, "M_BAD_JSON"),
            ({"type": "m.login.token", "token": "unknown"}, 403, "M_FORBIDDEN"),
        ):  # fmt: skip
            answer = self.send(**body)
            self.assertEqual((status, errcode), (answer.status, answer.errcode), body)
        self.assertEqual("M_NOT_JSON", self.world.call("POST", LOGIN, b"{").errcode)
        self.assertEqual("M_BAD_JSON", self.world.call("POST", LOGIN, []).errcode)

    def test_deactivated(self) -> None:
        now(self.world.accounts.deactivate("@alice:home.example", erase=False))
        answer = self.world.login("alice")
        self.assertEqual((403, "M_FORBIDDEN"), (answer.status, answer.errcode))

    def test_a_device_that_logs_in_again_loses_its_old_tokens(self) -> None:
        first = self.world.login("alice", device_id="PHONE", refresh_token=True).json
        other = self.world.login("alice", device_id="LAPTOP").json["access_token"]
        self.assertTrue(self.world.works(first["access_token"]))
        second = self.world.login("alice", device_id="PHONE", initial_device_display_name="ignored").json
        self.assertFalse(self.world.works(first["access_token"]))
        self.assertTrue(self.world.works(second["access_token"]))
        self.assertTrue(self.world.works(other))
        refused = self.world.call("POST", "/v3/refresh", {"refresh_token": first["refresh_token"]})
        self.assertEqual((401, "M_UNKNOWN_TOKEN"), (refused.status, refused.errcode))
        device = self.world.call("GET", "/v3/devices/PHONE", token=second["access_token"]).json
        self.assertNotIn("display_name", device)

    def test_attempts_are_limited_by_account_and_address(self) -> None:
        world = self.make(rate_limits=RateLimits(enabled=True, login=RateLimit(0.1, 3)))
        now(world.accounts.create_user("alice", PASSWORD))
        now(world.accounts.create_user("bob", PASSWORD))
        identifier = {"type": "m.id.user", "user": "alice"}
        body = {"type": "m.login.password", "identifier": identifier, "password": "guess"}
        statuses = [world.call("POST", LOGIN, body, client_ip=f"192.0.2.{n}").status for n in range(4)]
        self.assertEqual([403, 403, 403, 429], statuses)
        for _ in range(3):
            world.call("POST", LOGIN, {}, client_ip="198.51.100.1")
        bob = {**body, "identifier": {"type": "m.id.user", "user": "bob"}}
        limited = world.call("POST", LOGIN, bob, client_ip="198.51.100.1")
        self.assertEqual((429, "M_LIMIT_EXCEEDED"), (limited.status, limited.errcode))
        self.assertEqual(403, world.call("POST", LOGIN, bob, client_ip="198.51.100.2").status)

    def test_the_limit_counts_what_is_asked_for(self) -> None:
        # Whether an address or a name has an account, and whose it is, must not show.
        world = self.make(rate_limits=RateLimits(enabled=True, login=RateLimit(0.1, 2)))
        now(world.accounts.create_user("alice", PASSWORD))
        asked: dict[str, list[dict[str, str]]] = {
            "alice": [{"user": name} for name in ("alice", "@Alice:home.example", "ALICE")],
            "nobody": [{"user": name} for name in ("nobody", "@Nobody:home.example", "NOBODY")],
            "address": [
                {"medium": "email", "address": one} for one in ("a@b.example", " A@b.example", "a@B.example")
            ],
        }
        ips = iter(range(1, 250))
        for name, identifiers in asked.items():
            statuses = []
            for one in identifiers:
                kind = "m.id.thirdparty" if "medium" in one else "m.id.user"
                body = {"type": "m.login.password", "identifier": {"type": kind, **one}, "password": "guess"}
                statuses.append(world.call("POST", LOGIN, body, client_ip=f"192.0.2.{next(ips)}").status)
            self.assertEqual([403, 403, 429], statuses, name)


@on_each_database
class LoginTokens(WorldCase):
    def setUp(self) -> None:
        self.world = self.make()
        self.token = self.world.token_of("alice")

    def make_token(self) -> str:
        answer = self.world.confirm("POST", "/v1/login/get_token", {}, self.token, "alice")
        self.assertEqual(200, answer.status)
        self.assertEqual(120_000, answer.json["expires_in_ms"])
        token: str = answer.json["login_token"]
        return token

    def use(self, token: str) -> Any:
        return self.world.call("POST", LOGIN, {"type": "m.login.token", "token": token})

    def test_once(self) -> None:
        token = self.make_token()
        answer = self.use(token)
        self.assertEqual("@alice:home.example", answer.json["user_id"])
        self.assertTrue(self.world.works(answer.json["access_token"]))
        self.assertEqual(403, self.use(token).status)

    def test_for_two_minutes(self) -> None:
        token = self.make_token()
        self.world.time.advance(121)
        self.assertEqual(403, self.use(token).status)

    def test_ends_with_the_account(self) -> None:
        token = self.make_token()
        now(self.world.accounts.deactivate("@alice:home.example", erase=False))
        self.assertEqual(403, self.use(token).status)

    def test_asks_every_time(self) -> None:
        self.make_token()
        self.assertEqual(401, self.world.call("POST", "/v1/login/get_token", {}, self.token).status)


@on_each_database
class Meanwhile(WorldCase):
    """To check a password takes time: what ends every login just then ends the one that comes of it too."""

    def setUp(self) -> None:
        self.world = self.make()
        self.token = self.world.token_of("alice")

    def renew(self) -> Awaitable[Any]:
        return self.world.accounts.set_password("@alice:home.example", "battery staple")

    def during(self, act: Callable[[], Awaitable[Any]]) -> None:
        during_the_check(self, self.world.hasher, act)

    def test_a_new_password(self) -> None:
        self.during(self.renew)
        refused = self.world.login("alice")
        self.assertEqual((403, "M_FORBIDDEN"), (refused.status, refused.errcode))
        token = self.world.login("alice", "battery staple").json["access_token"]
        self.assertEqual(1, len(self.world.call("GET", "/v3/devices", token=token).json["devices"]))

    def test_the_end_of_the_account(self) -> None:
        self.during(lambda: self.world.accounts.deactivate("@alice:home.example", erase=False))
        refused = self.world.login("alice")
        self.assertEqual((403, "M_FORBIDDEN"), (refused.status, refused.errcode))

    def test_the_same_password_with_another_salt_is_a_new_one(self) -> None:
        self.during(lambda: self.world.accounts.set_password("@alice:home.example", PASSWORD))
        self.assertEqual(403, self.world.login("alice").status)
        self.assertEqual(200, self.world.login("alice").status)

    def test_only_what_is_over_is_refused(self) -> None:
        self.during(lambda: self.world.accounts.set_admin("@alice:home.example", True))
        self.assertEqual(200, self.world.login("alice").status)

    def test_a_token_for_another_client(self) -> None:
        self.during(self.renew)
        refused = self.world.confirm("POST", "/v1/login/get_token", {}, self.token, "alice")
        self.assertEqual((403, "M_FORBIDDEN"), (refused.status, refused.errcode))

    def test_a_token_that_was_just_used_up(self) -> None:
        token = self.world.confirm("POST", "/v1/login/get_token", {}, self.token, "alice").json["login_token"]
        real = self.world.sessions.take_login_token

        async def take(token: str) -> Any:
            taken = await real(token)
            await self.renew()
            return taken

        self.patch(self.world.sessions, "take_login_token", take)
        refused = self.world.call("POST", LOGIN, {"type": "m.login.token", "token": token})
        self.assertEqual((403, "M_FORBIDDEN"), (refused.status, refused.errcode))

    def test_the_old_password_sets_no_other(self) -> None:
        self.during(self.renew)
        wish = {"new_password": "of a thief"}
        refused = self.world.confirm("POST", "/v3/account/password", wish, self.token, "alice")
        self.assertEqual((403, "M_FORBIDDEN"), (refused.status, refused.errcode))
        self.assertEqual(403, self.world.login("alice", "of a thief").status)
        self.assertEqual(200, self.world.login("alice", "battery staple").status)

    def test_the_old_password_ends_no_account(self) -> None:
        self.during(self.renew)
        refused = self.world.confirm("POST", "/v3/account/deactivate", {}, self.token, "alice")
        self.assertEqual((403, "M_FORBIDDEN"), (refused.status, refused.errcode))
        self.assertEqual(200, self.world.login("alice", "battery staple").status)


@on_each_database
class Refreshing(WorldCase):
    def setUp(self) -> None:
        self.world = self.make()
        self.first = self.world.register("alice", refresh_token=True).json

    def refresh(self, token: str) -> Any:
        return self.world.call("POST", "/v3/refresh", {"refresh_token": token})

    def test_an_access_token_ends(self) -> None:
        self.assertTrue(self.world.works(self.first["access_token"]))
        self.world.time.advance(300)
        for _ in range(2):  # the first time from memory, the second time too
            answer = self.world.call("GET", "/v3/account/whoami", token=self.first["access_token"])
            self.assertEqual((401, "M_UNKNOWN_TOKEN"), (answer.status, answer.errcode))
            self.assertIs(True, answer.json["soft_logout"])
        second = self.refresh(self.first["refresh_token"]).json
        self.assertEqual({"access_token", "refresh_token", "expires_in_ms"}, set(second))
        whoami = self.world.call("GET", "/v3/account/whoami", token=second["access_token"]).json
        self.assertEqual(self.first["device_id"], whoami["device_id"])

    def test_the_old_pair_lives_until_the_new_access_token_is_used(self) -> None:
        second = self.refresh(self.first["refresh_token"]).json
        self.assertTrue(self.world.works(self.first["access_token"]))
        self.assertTrue(self.world.works(second["access_token"]))
        self.assertFalse(self.world.works(self.first["access_token"]))
        self.world.time.advance(10)
        refused = self.refresh(self.first["refresh_token"])
        self.assertEqual((401, "M_UNKNOWN_TOKEN"), (refused.status, refused.errcode))
        self.assertNotIn("soft_logout", refused.json)
        self.assertTrue(self.world.works(second["access_token"]))
        self.assertEqual(200, self.refresh(second["refresh_token"]).status)

    def test_the_old_pair_lives_until_the_new_refresh_token_is_used(self) -> None:
        second = self.refresh(self.first["refresh_token"]).json
        third = self.refresh(second["refresh_token"]).json
        self.assertEqual(401, self.refresh(self.first["refresh_token"]).status)
        self.assertFalse(self.world.works(self.first["access_token"]))
        self.assertTrue(self.world.works(third["access_token"]))

    def test_two_that_come_at_once_get_the_same(self) -> None:
        """Two processes of one app: the second comes with the old token when the first uses the new one."""
        second = self.refresh(self.first["refresh_token"]).json
        self.assertTrue(self.world.works(second["access_token"]))
        self.world.time.advance(9)
        again = self.refresh(self.first["refresh_token"]).json
        self.assertEqual({**second, "expires_in_ms": second["expires_in_ms"] - 9000}, again)
        self.assertTrue(self.world.works(again["access_token"]))
        self.assertFalse(self.world.works(self.first["access_token"]))
        third = self.refresh(second["refresh_token"]).json
        self.assertEqual(third["refresh_token"], self.refresh(again["refresh_token"]).json["refresh_token"])

    def test_while_the_account_is_locked_nobody_gets_the_same(self) -> None:
        self.refresh(self.first["refresh_token"])
        user_nid = now(self.world.interner.user("@alice:home.example"))
        now(self.world.worker.work(set_standing, user_nid, suspended=None, locked=True))
        refused = self.refresh(self.first["refresh_token"])
        self.assertEqual((401, "M_USER_LOCKED"), (refused.status, refused.errcode))

    def test_a_client_that_missed_the_answer_asks_again(self) -> None:
        missed = self.refresh(self.first["refresh_token"]).json
        self.world.time.advance(10)
        second = self.refresh(self.first["refresh_token"]).json
        self.assertFalse(self.world.works(missed["access_token"]))
        self.assertEqual(401, self.refresh(missed["refresh_token"]).status)
        self.assertTrue(self.world.works(second["access_token"]))

    def test_refusals(self) -> None:
        unknown = self.refresh("nonsense")
        self.assertEqual((401, "M_UNKNOWN_TOKEN"), (unknown.status, unknown.errcode))
        self.assertNotIn("soft_logout", unknown.json)
        self.assertEqual("M_MISSING_PARAM", self.world.call("POST", "/v3/refresh", {}).errcode)
        self.assertEqual("M_BAD_JSON", self.world.call("POST", "/v3/refresh", {"refresh_token": 5}).errcode)
        # An access token is no refresh token, nor the other way round.
        self.assertEqual(401, self.refresh(self.first["access_token"]).status)
        self.assertFalse(self.world.works(self.first["refresh_token"]))

    def test_a_refresh_token_may_end(self) -> None:
        world = self.make(sessions=Sessions(300, 3600))
        token = world.register("alice", refresh_token=True).json["refresh_token"]
        world.time.advance(3600)
        answer = world.call("POST", "/v3/refresh", {"refresh_token": token})
        self.assertEqual((401, True), (answer.status, answer.json["soft_logout"]))

    def test_logging_out_ends_both(self) -> None:
        self.world.call("POST", "/v3/logout", token=self.first["access_token"])
        self.assertEqual(401, self.refresh(self.first["refresh_token"]).status)


@on_each_database
class Logout(WorldCase):
    def setUp(self) -> None:
        self.world = self.make()
        self.phone = self.world.token_of("alice", device_id="PHONE")
        self.laptop = self.world.login("alice", device_id="LAPTOP").json["access_token"]

    def test_one(self) -> None:
        self.assertEqual({}, self.world.call("POST", "/v3/logout", {}, self.phone).json)
        answer = self.world.call("GET", "/v3/account/whoami", token=self.phone)
        self.assertEqual((401, "M_UNKNOWN_TOKEN"), (answer.status, answer.errcode))
        self.assertNotIn("soft_logout", answer.json)
        devices = self.world.call("GET", "/v3/devices", token=self.laptop).json["devices"]
        self.assertEqual(["LAPTOP"], [device["device_id"] for device in devices])

    def test_all(self) -> None:
        bob = self.world.token_of("bob")
        self.world.call("POST", "/v3/logout/all", {}, self.phone)
        self.assertFalse(self.world.works(self.phone))
        self.assertFalse(self.world.works(self.laptop))
        self.assertTrue(self.world.works(bob))


class Hashing(unittest.TestCase):
    def make(self, run: Any = run_at_once, **options: Any) -> PasswordHasher:
        return PasswordHasher(run, SeededEntropy(1), cost=Cost(1, 8192), **options)

    def test_round_trip(self) -> None:
        hasher = self.make()
        stored = now(hasher.hash("pässword\0x"))
        self.assertTrue(stored.startswith("$argon2id$v=19$m=8,t=1,p=1$"))
        self.assertTrue(now(hasher.check("pässword\0x", stored)))
        self.assertFalse(now(hasher.check("pässword", stored)))
        self.assertNotEqual(stored, now(hasher.hash("pässword\0x")))

    def test_no_hash_and_nonsense_match_nothing(self) -> None:
        hasher = self.make()
        for stored in (None, "", "plain", "$argon2id$v=19$m=8,t=1,p=1$x$y", "$2b$12$abc"):
            self.assertFalse(now(hasher.check("plain", stored)))

    def test_few_at_a_time_and_few_waiting(self) -> None:
        running: list[Deferred[Any]] = []

        def run(function: Any, *args: Any) -> Deferred[Any]:
            running.append(Deferred())
            return running[-1]

        hasher = self.make(run, parallel=2, waiting=1)
        results = [Deferred.fromCoroutine(hasher.check("x", None)) for _ in range(4)]
        self.assertEqual(2, len(running))
        self.assertEqual(429, self.failureResultOf(results[3], MatrixError).value.status)
        running[0].callback(False)
        self.assertEqual(3, len(running))
        self.assertIs(False, self.successResultOf(results[0]))
        for waiting in running[1:]:
            waiting.callback(False)
        self.assertIs(False, self.successResultOf(results[2]))
