"""Administrators list, make and change accounts: docs/admin-api.md."""

from __future__ import annotations

from typing import Any

from homeserver.store.check import check_db
from homeserver.store.users import load_account
from tests.api.administration import AdminCase
from tests.api.talk import V3, user
from tests.support.databases import on_each_database

USERS = "/v2/users"


class UserCase(AdminCase):
    def names(self, path: str = USERS, /, **query: Any) -> list[str]:
        found = self.does("GET", path, None, query)["users"]
        return [one["name"].partition(":")[0][1:] for one in found]

    def whoami(self, name: str) -> int:
        return self.app.call("GET", f"{V3}/account/whoami", None, self.tokens[name])[0]

    def log_in(self, name: str, password: str) -> int:
        identifier = {"type": "m.id.user", "user": name}
        body = {"type": "m.login.password", "identifier": identifier, "password": password}
        return self.app.call("POST", f"{V3}/login", body)[0]


@on_each_database
class Lists(UserCase):
    def test_who_there_is(self) -> None:
        self.assertEqual(["alice", "bob", "root"], self.names())
        found = self.does("GET", USERS)
        self.assertEqual(3, found["total"])
        self.assertNotIn("next_token", found)
        alice = found["users"][0]
        created = alice.pop("creation_ts")
        self.assertGreater(created, 10**12)
        alice.pop("last_seen_ts")
        expected = {
            "name": user("alice"),
            "is_guest": False,
            "admin": False,
            "user_type": None,
            "deactivated": False,
            "erased": False,
            "shadow_banned": False,
            "displayname": "alice",
            "avatar_url": None,
            "locked": False,
            "suspended": False,
        }
        self.assertEqual(expected, alice)

    def test_pages(self) -> None:
        first = self.does("GET", USERS, None, {"limit": 2})
        self.assertEqual(("2", 3), (first["next_token"], first["total"]))
        self.assertEqual(["root"], self.names(USERS, limit=2, **{"from": first["next_token"]}))
        self.assertEqual([], self.names(USERS, **{"from": 9}))
        self.assertEqual(["root", "bob", "alice"], self.names(dir="b"))

    def test_by_name(self) -> None:
        self.app.ok(
            "PUT",
            f"{V3}/profile/{user('bob')}/displayname",
            {"displayname": 'Bo "The%_!" Äx'},
            self.tokens["bob"],
        )
        self.assertEqual(["alice"], self.names(name="LIC"))
        self.assertEqual(["bob"], self.names(name='"the%_!" '))
        self.assertEqual(["bob"], self.names(name="Äx"))
        # What is a wildcard elsewhere is a character here.
        self.assertEqual(["bob"], self.names(name="%"))
        self.assertEqual(["bob"], self.names(name="_!"))
        # The server's name is part of user ids, and of no localpart.
        self.assertEqual([], self.names(name="example"))
        self.assertEqual(3, len(self.names(user_id="example")))
        self.assertEqual(["alice"], self.names(user_id="@ALI"))
        # With a name, the user id is not looked at.
        self.assertEqual(["bob"], self.names(name="bob", user_id="alice"))

    def test_by_kind(self) -> None:
        guest = self.app.ok("POST", f"{V3}/register", {}, query={"kind": "guest"})["user_id"]
        guest_name = guest[1:].partition(":")[0]
        self.assertIn(guest_name, self.names())
        self.assertEqual(["alice", "bob", "root"], self.names(guests="false"))
        self.assertEqual(["root"], self.names(admins="true"))
        self.assertNotIn("root", self.names(admins="false"))
        self.does("POST", f"/v1/deactivate/{guest}", {})
        self.assertEqual(["alice", "bob", "root"], self.names())
        self.assertEqual(4, len(self.names(deactivated="true")))
        self.assertEqual(4, len(self.names("/v3/users")))
        self.assertEqual([guest_name], self.names("/v3/users", deactivated="true"))
        self.assertEqual(3, len(self.names("/v3/users", deactivated="false")))
        self.does("PUT", f"{USERS}/{user('bob')}", {"locked": True, "user_type": "bot"})
        self.assertEqual(["alice", "root"], self.names())
        self.assertEqual(["alice", "bob", "root"], self.names(locked="true"))
        self.assertEqual(["alice", "root"], self.names(locked="true", not_user_type="bot"))
        self.assertEqual(["bob"], self.names(locked="true", not_user_type=""))

    def test_every_order(self) -> None:
        for order_by in (
            "name",
            "is_guest",
            "admin",
            "user_type",
            "deactivated",
            "shadow_banned",
            "displayname",
            "avatar_url",
            "creation_ts",
            "last_seen_ts",
        ):
            for direction in ("f", "b"):
                self.assertEqual(3, len(self.names(order_by=order_by, dir=direction)), order_by)
        self.assertEqual("root", self.names(order_by="admin", dir="b")[0])
        self.assertEqual(["bob", "alice"], self.names(order_by="displayname", dir="b")[1:])
        for wrong in ({"order_by": "password"}, {"dir": "x"}, {"limit": "x"}, {"guests": "maybe"}):
            self.refuses(400, "M_INVALID_PARAM", "GET", USERS, None, wrong)

    def test_one(self) -> None:
        found = self.does("GET", f"{USERS}/{user('alice')}")
        self.assertEqual((user("alice"), [], []), (found["name"], found["threepids"], found["external_ids"]))
        self.assertIsInstance(found["last_seen_ts"], int)
        self.refuses(404, "M_NOT_FOUND", "GET", f"{USERS}/{user('nobody')}")
        self.refuses(400, "M_INVALID_PARAM", "GET", f"{USERS}/@x:elsewhere.org")

    def test_nobody_else(self) -> None:
        for method, path, body in (
            ("GET", USERS, None),
            ("GET", "/v3/users", None),
            ("GET", f"{USERS}/{user('bob')}", None),
            ("PUT", f"{USERS}/{user('bob')}", {"admin": True}),
            ("PUT", f"{USERS}/{user('new')}", {"password": "pw"}),
        ):
            self.assert_refused(self.ask(method, path, body, who="alice"), 403, "M_FORBIDDEN")
        self.assertEqual(["alice", "bob", "root"], self.names())


@on_each_database
class Changes(UserCase):
    def test_a_new_account(self) -> None:
        body = {
            "password": "correct horse",
            "displayname": "The New One",
            "avatar_url": "mxc://test.example/abc",
            "threepids": [{"medium": "email", "address": "New@example.org"}],
            "external_ids": [],
            "user_type": "bot",
            "admin": True,
        }
        status, made = self.ask("PUT", f"{USERS}/{user('new')}", body)
        self.assertEqual(201, status, made)
        self.assertEqual(
            ("The New One", "mxc://test.example/abc", "bot", True),
            (made["displayname"], made["avatar_url"], made["user_type"], made["admin"]),
        )
        self.assertEqual(["new@example.org"], [one["address"] for one in made["threepids"]])
        self.assertEqual(200, self.log_in("new", "correct horse"))
        status, plain = self.ask("PUT", f"{USERS}/{user('plain')}", {})
        self.assertEqual((201, "plain"), (status, plain["displayname"]))
        status, nameless = self.ask("PUT", f"{USERS}/{user('nameless')}", {"displayname": ""})
        self.assertEqual((201, None), (status, nameless["displayname"]))

    def test_no_account_of_what_is_wrong(self) -> None:
        self.does("PUT", f"{USERS}/{user('bob')}", {"threepids": [{"medium": "email", "address": "b@x.org"}]})
        path = f"{USERS}/{user('new')}"
        for body, errcode in (
            ({"avatar_url": "http://x"}, "M_INVALID_PARAM"),
            ({"user_type": "cat"}, "M_INVALID_PARAM"),
            ({"threepids": [{"medium": "fax", "address": "1"}]}, "M_INVALID_PARAM"),
            ({"threepids": [{"medium": "email", "address": "no address"}]}, "M_INVALID_PARAM"),
            ({"threepids": [{"medium": "msisdn", "address": "+49"}]}, "M_INVALID_PARAM"),
            ({"threepids": [{"medium": "email", "address": "B@x.org"}]}, "M_THREEPID_IN_USE"),
            ({"external_ids": [{"auth_provider": "x", "external_id": "y"}]}, "M_INVALID_PARAM"),
            ({"password": "a\0b"}, "M_INVALID_PARAM"),
            ({"password": "x" * 513}, "M_TOO_LARGE"),
            ({"password": 1}, "M_BAD_JSON"),
            ({"admin": "yes"}, "M_BAD_JSON"),
        ):
            self.refuses(400, errcode, "PUT", path, body)
        self.refuses(400, "M_INVALID_USERNAME", "PUT", f"{USERS}/@New:test.example", {})
        self.refuses(400, "M_INVALID_PARAM", "PUT", f"{USERS}/@x:elsewhere.org", {})
        self.refuses(404, "M_NOT_FOUND", "GET", path)

    def test_name_and_picture(self) -> None:
        self.app.app.begin()
        room_id = self.make_room(joined=("bob",))
        path = f"{USERS}/{user('bob')}"
        found = self.does("PUT", path, {"displayname": "Robert", "avatar_url": "mxc://test.example/x"})
        self.assertEqual(("Robert", "mxc://test.example/x"), (found["displayname"], found["avatar_url"]))
        self.app.advance(1)
        state = self.does("GET", f"/v1/rooms/{room_id}/state", None, {"type": "m.room.member"})["state"]
        (content,) = [one["content"] for one in state if one["state_key"] == user("bob")]
        self.assertEqual("Robert", content["displayname"])
        found = self.does("PUT", path, {"displayname": "", "avatar_url": ""})
        self.assertEqual((None, None), (found["displayname"], found["avatar_url"]))

    def test_a_password(self) -> None:
        path = f"{USERS}/{user('bob')}"
        self.does("PUT", path, {"password": "another horse", "logout_devices": False})
        self.assertEqual(200, self.whoami("bob"))
        self.assertEqual(
            (403, 200), (self.log_in("bob", "correct horse"), self.log_in("bob", "another horse"))
        )
        self.does("PUT", path, {"password": "third horse"})
        self.assertEqual(401, self.whoami("bob"))

    def test_addresses_are_replaced(self) -> None:
        path = f"{USERS}/{user('bob')}"

        def put(*addresses: str) -> list[str]:
            body = {"threepids": [{"medium": "email", "address": one} for one in addresses]}
            return [one["address"] for one in self.does("PUT", path, body)["threepids"]]

        self.assertEqual(["a@x.org", "b@x.org"], put("a@x.org", "B@x.org", "b@X.org"))
        self.assertEqual(["b@x.org", "c@x.org"], sorted(put("b@x.org", "c@x.org")))
        # Without the field they stay.
        self.assertEqual(2, len(self.does("PUT", path, {"admin": False})["threepids"]))
        self.assertEqual([], put())
        self.does(
            "PUT", f"{USERS}/{user('alice')}", {"threepids": [{"medium": "email", "address": "a@x.org"}]}
        )
        taken = [{"medium": "email", "address": "a@x.org"}]
        body = {"threepids": taken, "admin": True, "displayname": "Changed"}
        self.refuses(400, "M_THREEPID_IN_USE", "PUT", path, body)
        # All of it, or nothing.
        found = self.does("GET", path)
        self.assertEqual((False, "bob"), (found["admin"], found["displayname"]))

    def test_flags(self) -> None:
        path = f"{USERS}/{user('bob')}"
        self.assertTrue(self.does("PUT", path, {"locked": True})["locked"])
        self.assertEqual(401, self.whoami("bob"))
        self.assertFalse(self.does("PUT", path, {"locked": False})["locked"])
        self.assertEqual(200, self.whoami("bob"))
        self.assertEqual("bot", self.does("PUT", path, {"user_type": "bot"})["user_type"])
        self.assertEqual("bot", self.does("PUT", path, {"admin": True})["user_type"])
        self.assertIsNone(self.does("PUT", path, {"user_type": None})["user_type"])
        self.assertTrue(self.does("PUT", path, {"deactivated": False})["admin"])

    def test_the_end_of_an_account(self) -> None:
        path = f"{USERS}/{user('bob')}"
        found = self.does("PUT", path, {"deactivated": True})
        self.assertEqual((True, False, None), (found["deactivated"], found["erased"], found["displayname"]))
        self.assertEqual(401, self.whoami("bob"))
        # It is for good.
        self.refuses(400, "M_INVALID_PARAM", "PUT", path, {"deactivated": False, "password": "x"})
        self.refuses(400, "M_INVALID_PARAM", "PUT", path, {"displayname": "x"})
        self.assertTrue(self.does("PUT", path, {"deactivated": True})["deactivated"])

    def test_nobody_puts_themselves_out(self) -> None:
        path = f"{USERS}/{user('root')}"
        for body in ({"admin": False}, {"deactivated": True}, {"locked": True}):
            self.refuses(403, "M_FORBIDDEN", "PUT", path, body)
        self.does("PUT", path, {"admin": True, "displayname": "Root"})


@on_each_database
class Actions(UserCase):
    def test_deactivating(self) -> None:
        room_id = self.make_room(joined=("bob",))
        self.refuses(404, "M_NOT_FOUND", "POST", f"/v1/deactivate/{user('nobody')}", {})
        self.refuses(400, "M_BAD_JSON", "POST", f"/v1/deactivate/{user('bob')}", {"erase": "yes"})
        self.refuses(403, "M_FORBIDDEN", "POST", f"/v1/deactivate/{user('root')}", {})
        found = self.does("POST", f"/v1/deactivate/{user('bob')}", {"erase": True})
        self.assertEqual({"id_server_unbind_result": "success"}, found)
        self.app.advance(1)
        self.assertEqual(401, self.whoami("bob"))
        shown = self.does("GET", f"{USERS}/{user('bob')}")
        self.assertEqual((True, True), (shown["deactivated"], shown["erased"]))
        self.assertEqual(
            [user("alice")], sorted(self.ok("alice", f"{V3}/rooms/{room_id}/joined_members")["joined"])
        )
        address = [{"medium": "email", "address": "a@x.org"}]
        self.does("PUT", f"{USERS}/{user('alice')}", {"threepids": address})
        # Nobody knows at which identity server she may have bound it.
        found = self.does("POST", f"/v1/deactivate/{user('alice')}", b"")
        self.assertEqual({"id_server_unbind_result": "no-support"}, found)
        self.assertFalse(self.does("GET", f"{USERS}/{user('alice')}")["erased"])

    def test_suspending(self) -> None:
        path = f"/v1/suspend/{user('bob')}"
        room_id = self.make_room(joined=("bob",))
        self.assertEqual({f"user_{user('bob')}_suspended": True}, self.does("PUT", path, {"suspend": True}))
        self.assertTrue(self.does("GET", f"{USERS}/{user('bob')}")["suspended"])
        self.assert_refused(
            self.send("bob", room_id, {"msgtype": "m.text", "body": "x"}), 403, "M_USER_SUSPENDED"
        )
        self.does("PUT", path, {"suspend": False})
        self.assertEqual(200, self.send("bob", room_id, {"msgtype": "m.text", "body": "x"})[0])
        # Another administrator too, but not oneself.
        self.make_admin("alice")
        self.does("PUT", f"/v1/suspend/{user('alice')}", {"suspend": True})
        self.refuses(403, "M_FORBIDDEN", "PUT", f"/v1/suspend/{user('root')}", {"suspend": True})
        for body in ({}, {"suspend": 1}, {"suspended": True}):
            self.refuses(400, "M_BAD_JSON", "PUT", path, body)
        self.does("POST", f"/v1/deactivate/{user('bob')}", {})
        self.refuses(404, "M_NOT_FOUND", "PUT", path, {"suspend": True})

    def test_a_forgotten_password(self) -> None:
        path = f"/v1/reset_password/{user('bob')}"
        self.does("POST", path, {"new_password": "second", "logout_devices": False})
        self.assertEqual((200, 200), (self.whoami("bob"), self.log_in("bob", "second")))
        self.does("POST", path, {"new_password": "third"})
        self.assertEqual((401, 200), (self.whoami("bob"), self.log_in("bob", "third")))
        self.refuses(400, "M_BAD_JSON", "POST", path, {})
        self.refuses(400, "M_TOO_LARGE", "POST", path, {"new_password": "x" * 513})
        self.refuses(
            404, "M_NOT_FOUND", "POST", f"/v1/reset_password/{user('nobody')}", {"new_password": "x"}
        )

    def test_guests_have_no_password(self) -> None:
        guest = self.app.ok("POST", f"{V3}/register", {}, query={"kind": "guest"})
        user_id, token = guest["user_id"], guest["access_token"]
        self.refuses(
            400, "M_INVALID_PARAM", "POST", f"/v1/reset_password/{user_id}", {"new_password": "second"}
        )
        self.refuses(
            400,
            "M_INVALID_PARAM",
            "PUT",
            f"{USERS}/{user_id}",
            {"password": "second", "displayname": "Guest"},
        )
        self.assertEqual(403, self.log_in(user_id, "second"))
        self.assertEqual(200, self.app.call("GET", f"{V3}/account/whoami", None, token)[0])
        self.assertIsNone(self.does("GET", f"{USERS}/{user_id}")["displayname"])
        self.assertEqual([], self.app.wait(self.app.database.read(check_db)))

    def test_rooms(self) -> None:
        room_id, other_id = self.make_room(joined=("bob",)), self.make_room(joined=("bob",))
        self.leave("bob", other_id)
        path = f"/v1/users/{user('bob')}"
        self.assertEqual({"joined_rooms": [room_id], "total": 1}, self.does("GET", f"{path}/joined_rooms"))
        found = self.does("GET", f"{path}/memberships")["memberships"]
        self.assertEqual({room_id: "join", other_id: "leave"}, found)
        nothing = {"joined_rooms": [], "total": 0}
        self.assertEqual(nothing, self.does("GET", f"/v1/users/{user('root')}/joined_rooms"))
        self.assertEqual(nothing, self.does("GET", "/v1/users/@x:elsewhere.org/joined_rooms"))
        self.refuses(404, "M_NOT_FOUND", "GET", f"/v1/users/{user('nobody')}/joined_rooms")

    def test_a_name(self) -> None:
        path = "/v1/username_available"
        self.assertEqual({"available": True}, self.does("GET", path, None, {"username": "new"}))
        self.refuses(400, "M_USER_IN_USE", "GET", path, None, {"username": "bob"})
        self.refuses(400, "M_INVALID_USERNAME", "GET", path, None, {"username": "ü"})
        self.refuses(400, "M_MISSING_PARAM", "GET", path)

    def test_acting_as_somebody(self) -> None:
        path = f"/v1/users/{user('bob')}/login"
        token = self.does("POST", path, {})["access_token"]
        self.assertEqual(user("bob"), self.app.ok("GET", f"{V3}/account/whoami", token=token)["user_id"])
        devices = self.app.ok("GET", f"{V3}/devices", token=self.tokens["bob"])["devices"]
        self.assertEqual(1, len(devices))
        self.app.ok("POST", f"{V3}/logout", {}, token)
        self.assertEqual(401, self.app.call("GET", f"{V3}/account/whoami", None, token)[0])
        self.assertEqual(200, self.whoami("bob"))
        soon = int(self.app.time.rightNow * 1000) + 5_000
        token = self.does("POST", path, {"valid_until_ms": soon})["access_token"]
        self.app.ok("GET", f"{V3}/account/whoami", token=token)
        self.app.advance(6)
        self.assertEqual(401, self.app.call("GET", f"{V3}/account/whoami", None, token)[0])
        for never in (soon, 2**53, 2**63):
            self.refuses(400, "M_INVALID_PARAM", "POST", path, {"valid_until_ms": never})
        self.refuses(403, "M_FORBIDDEN", "POST", f"/v1/users/{user('root')}/login", {})
        # Whoever logs out everywhere ends it, also where there is no device.
        self.app.ok("POST", f"{V3}/logout/all", {}, self.tokens["bob"])
        token = self.does("POST", path, {})["access_token"]
        self.app.ok("GET", f"{V3}/account/whoami", token=token)
        self.app.ok("POST", f"{V3}/logout/all", {}, token)
        self.assertEqual(401, self.app.call("GET", f"{V3}/account/whoami", None, token)[0])
        # It is no administrator's token unless the user is one, and ends with the account.
        token = self.does("POST", path, b"")["access_token"]
        self.assertEqual(403, self.app.call("GET", "/_synapse/admin/v2/users", None, token)[0])
        self.does("POST", f"/v1/deactivate/{user('bob')}", {})
        self.assertEqual(401, self.app.call("GET", f"{V3}/account/whoami", None, token)[0])
        self.refuses(400, "M_INVALID_PARAM", "POST", path, {})

    def test_devices(self) -> None:
        path = f"{USERS}/{user('bob')}/devices"
        found = self.does("GET", path)
        self.assertEqual(1, found["total"])
        device = found["devices"][0]
        device_id = device["device_id"]
        self.assertEqual(
            {"device_id", "last_seen_ip", "last_seen_ts", "last_seen_user_agent", "user_id", "dehydrated"},
            set(device),
        )
        self.assertEqual(device, self.does("GET", f"{path}/{device_id}"))
        self.assertEqual({}, self.does("PUT", f"{path}/{device_id}", {"display_name": "Telephone"}))
        self.assertEqual({}, self.does("PUT", f"{path}/{device_id}", {}))
        self.assertEqual("Telephone", self.does("GET", f"{path}/{device_id}")["display_name"])
        for _ in range(2):
            self.assertEqual((201, {}), self.ask("POST", path, {"device_id": "MADE"}))
        self.assertEqual(2, self.does("GET", path)["total"])
        self.assertEqual({}, self.does("DELETE", f"{path}/MADE"))
        self.refuses(404, "M_NOT_FOUND", "GET", f"{path}/MADE")
        body = {"devices": [device_id, "NONE", "a\0b"]}
        self.assertEqual({}, self.does("POST", f"{USERS}/{user('bob')}/delete_devices", body))
        self.assertEqual({"devices": [], "total": 0}, self.does("GET", path))
        self.assertEqual(401, self.whoami("bob"))
        for body in ({}, {"devices": ["x"] * 1001}, {"devices": [1]}):
            self.refuses(400, "M_BAD_JSON", "POST", f"{USERS}/{user('bob')}/delete_devices", body)
        self.refuses(404, "M_NOT_FOUND", "GET", f"{USERS}/{user('nobody')}/devices")
        self.does("POST", f"/v1/deactivate/{user('bob')}", {})
        self.refuses(404, "M_NOT_FOUND", "POST", path, {"device_id": "LATE"})

    def test_nobody_else(self) -> None:
        bob = user("bob")
        for method, path, body in (
            ("POST", f"/v1/deactivate/{bob}", {}),
            ("PUT", f"/v1/suspend/{bob}", {"suspend": True}),
            ("POST", f"/v1/reset_password/{bob}", {"new_password": "x"}),
            ("GET", f"/v1/users/{bob}/joined_rooms", None),
            ("GET", f"/v1/users/{bob}/memberships", None),
            ("GET", f"/v1/users/{bob}/override_ratelimit", None),
            ("POST", f"/v1/users/{bob}/override_ratelimit", {}),
            ("DELETE", f"/v1/users/{bob}/override_ratelimit", None),
            ("POST", f"/v1/users/{bob}/login", {}),
            ("GET", "/v1/username_available?username=x", None),
            ("GET", f"{USERS}/{bob}/devices", None),
            ("POST", f"{USERS}/{bob}/devices", {"device_id": "X"}),
            ("GET", f"{USERS}/{bob}/devices/X", None),
            ("PUT", f"{USERS}/{bob}/devices/X", {}),
            ("DELETE", f"{USERS}/{bob}/devices/X", None),
            ("POST", f"{USERS}/{bob}/delete_devices", {"devices": []}),
        ):
            self.assert_refused(self.ask(method, path, body, who="alice"), 403, "M_FORBIDDEN")
            answer = self.app.call(method, f"/_synapse/admin{path}", body)
            self.assert_refused(answer, 401, "M_MISSING_TOKEN")
        self.assertEqual(200, self.whoami("bob"))
        nid = self.wait(self.app.app.core.interner.find_user(bob))
        account = self.app.wait(self.app.database.read(load_account, nid))
        assert account is not None
        self.assertFalse(account.suspended)

    def test_there_is_no_shadow_banning(self) -> None:
        self.refuses(404, "M_UNRECOGNIZED", "POST", f"/v1/users/{user('bob')}/shadow_ban", {})
