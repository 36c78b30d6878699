"""Administrators suspend and lock accounts, and look from where they were used."""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.http.route import Route
from tests.support.app import TestApp
from tests.support.databases import DatabaseCase, on_each_database

V3 = "/_matrix/client/v3"
ALICE = "@alice:test.example"
ROOT = "@root:test.example"

LOCKED_MAY = """\
POST v3/logout
POST v3/logout/all"""
SUSPENDED_MAY = """\
POST unstable/keys/device_signing/upload
POST unstable/keys/signatures/upload
DELETE unstable/org.matrix.msc3391/user/{}/account_data/{}
DELETE unstable/org.matrix.msc3391/user/{}/rooms/{}/account_data/{}
DELETE unstable/org.matrix.msc3814.v1/dehydrated_device
PUT unstable/org.matrix.msc3814.v1/dehydrated_device
POST unstable/org.matrix.msc3814.v1/dehydrated_device/{}/events
POST unstable/org.matrix.msc4140/delayed_events/{}
POST unstable/org.matrix.msc4140/delayed_events/{}/cancel
POST unstable/org.matrix.msc4140/delayed_events/{}/restart
POST unstable/org.matrix.msc4140/delayed_events/{}/send
POST unstable/org.matrix.simplified_msc3575/sync
POST v1/login/get_token
POST v3/account/3pid
POST v3/account/3pid/add
POST v3/account/deactivate
POST v3/account/password
POST v3/delete_devices
DELETE v3/devices/{}
PUT v3/devices/{}
POST v3/keys/claim
POST v3/keys/device_signing/upload
POST v3/keys/query
POST v3/keys/signatures/upload
POST v3/keys/upload
POST v3/publicRooms
POST v3/pushers/set
DELETE v3/pushrules/global/{}/{}
PUT v3/pushrules/global/{}/{}
PUT v3/pushrules/global/{}/{}/actions
PUT v3/pushrules/global/{}/{}/enabled
DELETE v3/room_keys/keys
PUT v3/room_keys/keys
DELETE v3/room_keys/keys/{}
PUT v3/room_keys/keys/{}
DELETE v3/room_keys/keys/{}/{}
PUT v3/room_keys/keys/{}/{}
POST v3/room_keys/version
DELETE v3/room_keys/version/{}
PUT v3/room_keys/version/{}
POST v3/rooms/{}/forget
POST v3/rooms/{}/leave
POST v3/rooms/{}/read_markers
POST v3/rooms/{}/receipt/{}/{}
PUT v3/rooms/{}/redact/{}/{}
POST v3/rooms/{}/report
POST v3/rooms/{}/report/{}
PUT v3/rooms/{}/send/{}/{}
POST v3/search
PUT v3/sendToDevice/{}/{}
PUT v3/user/{}/account_data/{}
POST v3/user/{}/filter
PUT v3/user/{}/rooms/{}/account_data/{}
DELETE v3/user/{}/rooms/{}/tags/{}
PUT v3/user/{}/rooms/{}/tags/{}
POST v3/user_directory/search
POST v3/users/{}/report
POST v4/sync"""


class Case(DatabaseCase):
    def setUp(self) -> None:
        self.app = TestApp(self, self.new_database())
        self.alice = self.app.register("alice", device_id="PHONE")
        self.root = self.admin("root")

    def admin(self, name: str) -> str:
        token = self.app.register(name)
        accounts = self.app.app.services.accounts
        self.app.wait(Deferred.fromCoroutine(accounts.set_admin(f"@{name}:test.example", True)))
        return token

    def put(self, what: str, body: Any, user_id: str = ALICE, token: str | None = None) -> tuple[int, Any]:
        return self.app.call("PUT", f"/_matrix/client/v1/admin/{what}/{user_id}", body, token or self.root)

    def get(self, what: str, user_id: str = ALICE, token: str | None = None) -> tuple[int, Any]:
        return self.app.call("GET", f"/_matrix/client/v1/admin/{what}/{user_id}", None, token or self.root)

    def says(self, expected: tuple[int, str], found: tuple[int, Any]) -> None:
        self.assertEqual(expected, (found[0], found[1].get("errcode")))


@on_each_database
class Administrators(Case):
    def test_set_and_look(self) -> None:
        for what, name in (("suspend", "suspended"), ("lock", "locked")):
            self.assertEqual(self.get(what), (200, {name: False}))
            self.assertEqual(self.put(what, {name: True}), (200, {name: True}))
            self.assertEqual(self.get(what), (200, {name: True}))
            self.assertEqual(self.put(what, {name: False}), (200, {name: False}))
            self.assertEqual(self.get(what), (200, {name: False}))

    def test_who_may(self) -> None:
        other = self.admin("other")
        ended = self.app.register("ended")
        auth = {
            "type": "m.login.password",
            "password": "correct horse",
            "identifier": {"type": "m.id.user", "user": "ended"},
        }
        self.app.ok("POST", f"{V3}/account/deactivate", {"auth": auth}, ended)
        for what, name in (("suspend", "suspended"), ("lock", "locked")):
            body = {name: True}
            # A stranger learns nothing of who exists.
            for user_id in (ALICE, "@nobody:test.example", "@x:other.example"):
                self.says((403, "M_FORBIDDEN"), self.put(what, body, user_id, self.alice))
                self.says((403, "M_FORBIDDEN"), self.get(what, user_id, self.alice))
            self.says((403, "M_FORBIDDEN"), self.put(what, body, ROOT))
            self.says((403, "M_FORBIDDEN"), self.put(what, body, "@other:test.example"))
            self.says((403, "M_FORBIDDEN"), self.get(what, ROOT, other))
            for user_id in ("@nobody:test.example", "@ended:test.example"):
                self.says((404, "M_NOT_FOUND"), self.put(what, body, user_id))
                self.says((404, "M_NOT_FOUND"), self.get(what, user_id))
            self.says((400, "M_INVALID_PARAM"), self.put(what, body, "@x:other.example"))
            self.says((400, "M_INVALID_PARAM"), self.get(what, "@x:other.example"))
            for wrong in ({}, {name: 1}, {name: None}, {name: "true"}):
                self.says((400, "M_BAD_JSON"), self.put(what, wrong))
            self.says((400, "M_INVALID_PARAM"), self.put(what, body, "alice"))

    def test_capability(self) -> None:
        mine = self.app.ok("GET", f"{V3}/capabilities", token=self.root)["capabilities"]
        self.assertEqual(mine["m.account_moderation"], {"suspend": True, "lock": True})
        theirs = self.app.ok("GET", f"{V3}/capabilities", token=self.alice)["capabilities"]
        self.assertNotIn("m.account_moderation", theirs)

    def test_whois(self) -> None:
        self.app.ok("GET", f"{V3}/account/whoami", token=self.alice)
        expected = {"ip": "192.0.2.1", "last_seen": 1_700_000_000_000}
        # At once from what memory knows, and later from the database.
        for token, wait_s in ((self.alice, 0), (self.root, 10)):
            self.app.advance(wait_s)
            found = self.app.ok("GET", f"{V3}/admin/whois/{ALICE}", token=token)
            connections = found["devices"]["PHONE"]["sessions"][0]["connections"]
            self.assertEqual(found["user_id"], ALICE)
            self.assertEqual({**connections[0], **expected}, connections[0])
            self.assertIsInstance(connections[0]["user_agent"], str)
        self.says((403, "M_FORBIDDEN"), self.app.call("GET", f"{V3}/admin/whois/{ROOT}", token=self.alice))
        for user_id, expected_error in (
            ("@nobody:test.example", (404, "M_NOT_FOUND")),
            ("@x:other.example", (400, "M_INVALID_PARAM")),
        ):
            self.says(expected_error, self.app.call("GET", f"{V3}/admin/whois/{user_id}", token=self.root))


@on_each_database
class Locked(Case):
    def test_nothing_goes_but_logging_out(self) -> None:
        refresh = self.app.ok(
            "POST",
            f"{V3}/login",
            {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": "alice"},
                "password": "correct horse",
                "refresh_token": True,
            },
        )
        self.put("lock", {"locked": True})
        for method, path, body in (
            ("GET", f"{V3}/sync", None),
            ("GET", f"{V3}/account/whoami", None),
            ("POST", f"{V3}/createRoom", {}),
            ("GET", "/_matrix/client/versions", None),
        ):
            status, answer = self.app.call(method, path, body, self.alice)
            self.assertEqual(
                (401, "M_USER_LOCKED", True), (status, answer["errcode"], answer["soft_logout"]), path
            )
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": "correct horse",
        }
        self.says((401, "M_USER_LOCKED"), self.app.call("POST", f"{V3}/login", login))
        again = {"refresh_token": refresh["refresh_token"]}
        self.says((401, "M_USER_LOCKED"), self.app.call("POST", f"{V3}/refresh", again))
        self.put("lock", {"locked": False})
        # The tokens outlast the lock.
        self.assertEqual(self.app.ok("GET", f"{V3}/account/whoami", token=self.alice)["user_id"], ALICE)
        self.app.ok("POST", f"{V3}/refresh", again)
        self.app.ok("POST", f"{V3}/login", login)
        self.put("lock", {"locked": True})
        self.app.ok("POST", f"{V3}/logout", {}, self.alice)
        self.says((401, "M_UNKNOWN_TOKEN"), self.app.call("GET", f"{V3}/account/whoami", token=self.alice))

    def test_it_outlasts_a_restart(self) -> None:
        self.put("lock", {"locked": True})
        self.app.restart()
        self.says((401, "M_USER_LOCKED"), self.app.call("GET", f"{V3}/sync", token=self.alice))


@on_each_database
class Suspended(Case):
    def setUp(self) -> None:
        super().setUp()
        self.room = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)["room_id"]
        self.app.ok("POST", f"{V3}/join/{self.room}", {}, self.root)
        self.mine = self.send("a", self.alice)
        self.theirs = self.send("b", self.root)
        self.put("suspend", {"suspended": True})

    def send(self, txn: str, token: str) -> str:
        body = {"body": txn, "msgtype": "m.text"}
        event_id: str = self.app.ok("PUT", f"{V3}/rooms/{self.room}/send/m.room.message/{txn}", body, token)[
            "event_id"
        ]
        return event_id

    def test_what_may_not_be_done(self) -> None:
        room = f"{V3}/rooms/{self.room}"
        for method, path, body in (
            ("PUT", f"{room}/send/m.room.message/1", {"body": "x"}),
            ("PUT", f"{room}/send/m.reaction/2", {}),
            ("PUT", f"{room}/state/m.room.topic", {"topic": "x"}),
            ("PUT", f"{room}/typing/{ALICE}", {"typing": True}),
            ("POST", f"{V3}/createRoom", {}),
            ("POST", f"{V3}/join/{self.room}", {}),
            ("POST", f"{V3}/knock/{self.room}", {}),
            ("POST", f"{room}/invite", {"user_id": ROOT}),
            ("POST", f"{room}/kick", {"user_id": ROOT}),
            ("PUT", f"{V3}/profile/{ALICE}/displayname", {"displayname": "x"}),
            ("PUT", f"{V3}/directory/room/%23x:test.example", {"room_id": self.room}),
            ("POST", "/_matrix/media/v3/upload", {}),
            ("PUT", f"{room}/redact/{self.theirs}/3", {}),
            ("PUT", f"{room}/send/m.room.redaction/4", {"redacts": self.theirs}),
        ):
            found = self.app.call(method, path, body, self.alice)
            self.says((403, "M_USER_SUSPENDED"), found)

    def test_what_may_be_done(self) -> None:
        room = f"{V3}/rooms/{self.room}"
        synced = self.app.ok("GET", f"{V3}/sync", token=self.alice)
        self.assertIn(self.room, synced["rooms"]["join"])
        self.app.ok("GET", f"{room}/messages", token=self.alice, query={"dir": "b"})
        self.app.ok("POST", f"{room}/receipt/m.read/{self.theirs}", {}, self.alice)
        self.app.ok("POST", f"{V3}/keys/query", {"device_keys": {}}, self.alice)
        self.app.ok("PUT", f"{V3}/sendToDevice/m.x/1", {"messages": {}}, self.alice)
        self.app.ok("PUT", f"{V3}/user/{ALICE}/account_data/m.x", {}, self.alice)
        backup = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {}}
        self.app.ok("POST", f"{V3}/room_keys/version", backup, self.alice)
        self.app.ok("PUT", f"{V3}/room_keys/keys", {"rooms": {}}, self.alice, {"version": "1"})
        msc3391 = "/_matrix/client/unstable/org.matrix.msc3391"
        self.app.ok("DELETE", f"{msc3391}/user/{ALICE}/account_data/m.x", None, self.alice)
        self.app.ok("PUT", f"{room}/redact/{self.mine}/5", {}, self.alice)
        self.app.ok("POST", f"{room}/leave", {}, self.alice)
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": "correct horse",
        }
        self.app.ok("POST", f"{V3}/login", login)
        self.app.ok("POST", f"{V3}/logout", {}, self.alice)

    def test_no_longer(self) -> None:
        self.put("suspend", {"suspended": False})
        self.send("c", self.alice)

    def test_a_redaction_by_send(self) -> None:
        path = f"{V3}/rooms/{self.room}/send/m.room.redaction/6"
        self.app.ok("PUT", path, {"redacts": self.mine}, self.alice)


class Endpoints(DatabaseCase):
    """What each route says of itself, seen together: whoever adds one must decide to change this."""

    def test_what_the_suspended_and_the_locked_may(self) -> None:
        routes = TestApp(self).app.router.routes
        suspended = {_endpoint(route) for route in routes if route.suspended_may and route.method != "GET"}
        locked = {_endpoint(route) for route in routes if route.locked_may}
        self.assertEqual(set(LOCKED_MAY.split("\n")), locked)
        self.assertEqual(set(SUSPENDED_MAY.split("\n")) | locked, suspended)


def _endpoint(route: Route) -> str:
    """Method and path, with nameless parameters."""
    path = re.sub(r"\{[^}]*\}", "{}", route.template).removeprefix("/_matrix/client/")
    return f"{route.method} {path}"
