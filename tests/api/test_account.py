"""The requester's own account and devices. spec: client-server-api#legacy-account-management"""

from __future__ import annotations

from typing import Any

from homeserver.store.changes import Kind
from tests.support.accounts import PASSWORD, WorldCase, now
from tests.support.databases import on_each_database

NEW = "battery staple"
CHANGE = "/v3/account/password"


@on_each_database
class Passwords(WorldCase):
    def setUp(self) -> None:
        self.world = self.make()
        self.token = self.world.token_of("alice", device_id="PHONE")
        self.other = self.world.login("alice", device_id="LAPTOP").json["access_token"]

    def test_change(self) -> None:
        answer = self.world.confirm("POST", CHANGE, {"new_password": NEW}, self.token, "alice")
        self.assertEqual((200, {}), (answer.status, answer.json))
        self.assertEqual(403, self.world.login("alice", PASSWORD).status)
        self.assertEqual(200, self.world.login("alice", NEW).status)
        self.assertTrue(self.world.works(self.token))
        self.assertFalse(self.world.works(self.other))

    def test_a_change_leaves_no_other_way_in(self) -> None:
        got = self.world.confirm("POST", "/v1/login/get_token", {}, self.other, "alice").json["login_token"]
        self.assertEqual(
            200, self.world.confirm("POST", CHANGE, {"new_password": NEW}, self.token, "alice").status
        )
        used = self.world.call("POST", "/v3/login", {"type": "m.login.token", "token": got})
        self.assertEqual((403, "M_FORBIDDEN"), (used.status, used.errcode))
        self.assertTrue(self.world.works(self.token))

    def test_change_without_logging_others_out(self) -> None:
        body = {"new_password": NEW, "logout_devices": False}
        self.assertEqual(
            200, self.world.confirm("POST", CHANGE, body, self.token, "@alice:home.example").status
        )
        self.assertTrue(self.world.works(self.other))

    def test_the_first_answer_says_what_is_needed(self) -> None:
        asked = self.world.call("POST", CHANGE, {"new_password": NEW}, self.token)
        self.assertEqual(401, asked.status)
        self.assertEqual([{"stages": ["m.login.password"]}], asked.json["flows"])
        self.assertNotIn("errcode", asked.json)

    def test_a_wrong_password_may_be_tried_again_in_the_session(self) -> None:
        refused = self.world.confirm("POST", CHANGE, {"new_password": NEW}, self.token, "alice", "wrong")
        self.assertEqual((401, "M_FORBIDDEN"), (refused.status, refused.errcode))
        auth = {
            "type": "m.login.password",
            "user": "alice",
            "password": PASSWORD,
            "session": refused.json["session"],
        }
        answer = self.world.call("POST", CHANGE, {"new_password": NEW, "auth": auth}, self.token)
        self.assertEqual(200, answer.status)

    def test_somebody_else_cannot_confirm(self) -> None:
        self.world.register("bob")
        answer = self.world.confirm("POST", CHANGE, {"new_password": NEW}, self.token, "bob")
        self.assertEqual((401, "M_FORBIDDEN"), (answer.status, answer.errcode))

    def test_a_session_belongs_to_one_request_of_one_user(self) -> None:
        session = self.world.call("POST", CHANGE, {"new_password": NEW}, self.token).json["session"]
        bob = self.world.token_of("bob")
        auth = {"type": "m.login.password", "user": "bob", "password": PASSWORD, "session": session}
        stolen = self.world.call("POST", CHANGE, {"new_password": NEW, "auth": auth}, bob)
        self.assertEqual((403, "M_FORBIDDEN"), (stolen.status, stolen.errcode))
        auth = {**auth, "user": "alice"}
        elsewhere = self.world.call("POST", "/v3/account/deactivate", {"auth": auth}, self.token)
        self.assertEqual((403, "M_FORBIDDEN"), (elsewhere.status, elsewhere.errcode))

    def test_without_a_new_password(self) -> None:
        self.assertEqual(
            "M_MISSING_PARAM", self.world.confirm("POST", CHANGE, {}, self.token, "alice").errcode
        )
        answer = self.world.call("POST", CHANGE, {"new_password": ""}, self.token)
        self.assertEqual("M_WEAK_PASSWORD", answer.errcode)

    def test_without_a_token(self) -> None:
        answer = self.world.call("POST", CHANGE, {"new_password": NEW})
        self.assertEqual((401, "M_MISSING_TOKEN"), (answer.status, answer.errcode))


@on_each_database
class Deactivation(WorldCase):
    def setUp(self) -> None:
        self.world = self.make()
        self.token = self.world.token_of("alice", refresh_token=True)

    def test_everything_ends(self) -> None:
        self.world.call("PUT", "/v3/user/@alice:home.example/account_data/x", {"a": 1}, self.token)
        answer = self.world.confirm("POST", "/v3/account/deactivate", {"erase": True}, self.token, "alice")
        self.assertEqual((200, {"id_server_unbind_result": "success"}), (answer.status, answer.json))
        self.assertFalse(self.world.works(self.token))
        self.assertEqual(403, self.world.login("alice").status)
        self.assertEqual(404, self.world.call("GET", "/v3/profile/@alice:home.example").status)
        account = now(self.world.accounts.find("@alice:home.example"))
        self.assertEqual((1, 1, None), (account.deactivated, account.erased, account.password_hash))
        self.assertFalse(now(self.world.accounts.is_local_account("@alice:home.example")))
        told = [change.payload for change in self.world.changes if change.kind == Kind.ACCOUNT]
        self.assertEqual([(account.user_nid, "created"), (account.user_nid, "deactivated")],
                         [(one.user_nid, one.what) for one in told])  # fmt: skip

    def test_an_absent_body_asks(self) -> None:
        self.assertEqual(401, self.world.call("POST", "/v3/account/deactivate", token=self.token).status)
        self.assertTrue(self.world.works(self.token))

    def test_no_addresses(self) -> None:
        self.assertEqual({"threepids": []}, self.world.call("GET", "/v3/account/3pid", token=self.token).json)


@on_each_database
class Administration(WorldCase):
    """What the command line does."""

    def test_users(self) -> None:
        world = self.make()
        self.assertEqual("@root:home.example", now(world.accounts.create_user("root", "pw", admin=True)))
        now(world.accounts.create_user("zoe", None))
        listed = now(world.accounts.list_users())
        self.assertEqual(
            [("@root:home.example", 1), ("@zoe:home.example", 0)], [(a.user_id, a.admin) for a in listed]
        )
        self.assertEqual(
            ["@zoe:home.example"], [a.user_id for a in now(world.accounts.list_users("@root:home.example"))]
        )
        self.assertEqual(403, world.login("zoe", "").status)
        now(world.accounts.set_password("@zoe:home.example", "secret"))
        token = world.login("zoe", "secret").json["access_token"]
        self.assertTrue(world.works(token))
        now(world.accounts.set_admin("@zoe:home.example", True))
        self.assertTrue(now(world.accounts.find("@zoe:home.example")).admin)
        self.assertTrue(now(world.accounts.is_local_account("@zoe:home.example")))
        self.assertFalse(now(world.accounts.is_local_account("@zoe:other.example")))
        self.assertFalse(now(world.accounts.is_local_account("@nobody:home.example")))

    def test_refusals(self) -> None:
        world = self.make()
        now(world.accounts.create_user("root", "pw"))
        for call, errcode in (
            (world.accounts.create_user("root", "pw"), "M_USER_IN_USE"),
            (world.accounts.create_user("ro ot", "pw"), "M_INVALID_USERNAME"),
            (world.accounts.set_password("@nobody:home.example", "pw"), "M_NOT_FOUND"),
            (world.accounts.set_admin("@nobody:home.example", True), "M_NOT_FOUND"),
        ):
            with self.assertRaisesRegex(Exception, errcode):
                now(call)
        now(world.accounts.deactivate("@root:home.example", erase=False))
        with self.assertRaisesRegex(Exception, "M_NOT_FOUND"):
            now(world.accounts.set_password("@root:home.example", "pw"))


@on_each_database
class DeviceManagement(WorldCase):
    def setUp(self) -> None:
        self.world = self.make()
        self.token = self.world.token_of("alice", device_id="PHONE", initial_device_display_name="Phone")
        self.other = self.world.login("alice", device_id="a/b ü").json["access_token"]

    def get(self, path: str, token: str | None = None) -> Any:
        return self.world.call("GET", path, token=token or self.token)

    def test_listing(self) -> None:
        devices = self.get("/v3/devices").json["devices"]
        self.assertEqual(["PHONE", "a/b ü"], [device["device_id"] for device in devices])
        phone = self.get("/v3/devices/PHONE").json
        self.assertEqual(("PHONE", "Phone"), (phone["device_id"], phone["display_name"]))
        self.assertEqual("a/b ü", self.get("/v3/devices/a%2Fb%20%C3%BC").json["device_id"])

    def test_last_seen_is_written_later_and_once_a_minute(self) -> None:
        expected = {"last_seen_ip": "192.0.2.1", "last_seen_ts": 1_700_000_000_000}
        for wait_s in (0, 10):
            self.world.time.advance(wait_s)
            phone, other = self.get("/v3/devices").json["devices"]
            self.assertEqual({**phone, **expected}, phone)
            self.assertEqual({"device_id": "a/b ü"}, other, "it was not used yet")
            self.assertEqual(phone, self.get("/v3/devices/PHONE").json)
        self.get("/v3/devices/PHONE")
        self.world.time.advance(10)
        self.assertEqual(1_700_000_000_000, self.get("/v3/devices/PHONE").json["last_seen_ts"])
        self.world.time.advance(60)
        self.get("/v3/devices/PHONE")
        self.world.time.advance(5)
        self.assertEqual(1_700_000_080_000, self.get("/v3/devices/PHONE").json["last_seen_ts"])

    def test_the_program_is_told_to_the_owner_of_the_device(self) -> None:
        """spec: proposals/3852. Element tells devices of one name apart by it."""
        field, agent = (
            "org.matrix.msc3852.last_seen_user_agent",
            "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0",
        )
        said = {"User-Agent": agent}
        phone, other = self.world.call("GET", "/v3/devices", token=self.token, headers=said).json["devices"]
        self.assertEqual(agent, phone[field])
        self.assertNotIn(field, other, "it was not used yet")
        phone, other = self.get("/v3/devices", self.other).json["devices"]
        self.assertEqual((agent, 1_700_000_000_000), (phone[field], other["last_seen_ts"]))
        self.assertNotIn(field, other, "its program does not say what it is")

    def test_unknown(self) -> None:
        bob = self.world.token_of("bob")
        for answer in (
            self.get("/v3/devices/NONE"),
            self.get("/v3/devices/PHONE", bob),
            self.world.call("PUT", "/v3/devices/NONE", {"display_name": "x"}, self.token),
            self.world.call("PUT", "/v3/devices/NONE", {}, self.token),
        ):
            self.assertEqual((404, "M_NOT_FOUND"), (answer.status, answer.errcode))

    def test_renaming(self) -> None:
        def rename(body: Any) -> Any:
            return self.world.call("PUT", "/v3/devices/PHONE", body, self.token)

        self.assertEqual((200, {}), (rename({"display_name": "New"}).status, rename({}).json))
        self.assertEqual("New", self.get("/v3/devices/PHONE").json["display_name"])
        rename({"display_name": None})
        self.assertNotIn("display_name", self.get("/v3/devices/PHONE").json)
        self.assertEqual("M_BAD_JSON", rename({"display_name": 5}).errcode)
        self.assertEqual("M_TOO_LARGE", rename({"display_name": "x" * 256}).errcode)
        self.assertEqual("M_INVALID_PARAM", rename({"display_name": "\0"}).errcode)

    def test_deleting(self) -> None:
        path = "/v3/devices/a%2Fb%20%C3%BC"
        self.assertTrue(self.world.works(self.other))
        self.assertEqual(200, self.world.confirm("DELETE", path, {}, self.token, "alice").status)
        self.assertFalse(self.world.works(self.other))
        self.assertEqual(404, self.get(path).status)
        self.assertEqual(200, self.world.confirm("DELETE", path, {}, self.token, "alice").status)

    def test_deleting_many(self) -> None:
        body = {"devices": ["a/b ü", "NONE", "\0"]}
        self.assertEqual(
            200, self.world.confirm("POST", "/v3/delete_devices", body, self.token, "alice").status
        )
        self.assertFalse(self.world.works(self.other))
        self.assertTrue(self.world.works(self.token))
        call = self.world.call
        self.assertEqual("M_MISSING_PARAM", call("POST", "/v3/delete_devices", {}, self.token).errcode)
        self.assertEqual(
            "M_BAD_JSON", call("POST", "/v3/delete_devices", {"devices": [5]}, self.token).errcode
        )

    def test_what_was_confirmed_is_what_is_deleted(self) -> None:
        """The body may change until a stage is complete, and not after it."""
        asked = self.world.call("POST", "/v3/delete_devices", {"devices": ["NONE"]}, self.token).json
        session = self.world.interactive._sessions[asked["session"]]
        session.results["m.login.password"] = None
        session.body_hash = b"of another body"
        body = {"devices": ["PHONE"], "auth": {"session": asked["session"]}}
        answer = self.world.call("POST", "/v3/delete_devices", body, self.token)
        self.assertEqual((403, "M_FORBIDDEN"), (answer.status, answer.errcode))
        self.assertTrue(self.world.works(self.token))
