"""Guests: accounts for who looks around, and what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.config.schema import Registration
from homeserver.http.errors import MatrixError
from homeserver.rooms import guests as departures
from homeserver.rooms.turn import Turn
from homeserver.store.users import set_standing
from tests.support.app import TestApp, test_config
from tests.support.databases import DatabaseCase, on_each_database

V3 = "/_matrix/client/v3"


class GuestCase(DatabaseCase):
    def setUp(self) -> None:
        registration = Registration(mode="open", guests=True)
        self.config = test_config(data_dir=Path(self.mktemp()), registration=registration)
        self.app = TestApp(self, self.new_database(), self.config)
        self.alice = self.app.register("alice")

    def guest(self, body: Any = None) -> tuple[str, str]:
        """The user id and token of a new guest."""
        answer = self.app.ok("POST", f"{V3}/register", body or {}, query={"kind": "guest"})
        return answer["user_id"], answer["access_token"]

    def room(self, access: str | None = "can_join") -> str:
        state = [] if access is None else [
            {"type": "m.room.guest_access", "state_key": "", "content": {"guest_access": access}}
        ]  # fmt: skip
        body = {"preset": "public_chat", "initial_state": state}
        room_id: str = self.app.ok("POST", f"{V3}/createRoom", body, self.alice)["room_id"]
        return room_id

    def says(self, expected: tuple[int, str], found: tuple[int, Any]) -> None:
        self.assertEqual(expected, (found[0], found[1].get("errcode")))

    def membership(self, room_id: str, user_id: str) -> str:
        path = f"{V3}/rooms/{room_id}/state/m.room.member/{user_id}"
        found: str = self.app.ok("GET", path, token=self.alice)["membership"]
        return found


@on_each_database
class Registering(GuestCase):
    def test_guests_upload_nothing(self) -> None:
        _, token = self.guest()
        for path in ("/_matrix/media/v1/create", "/_matrix/media/v3/upload"):
            self.says((403, "M_GUEST_ACCESS_FORBIDDEN"), self.app.call("POST", path, None, token))

    def test_a_guest(self) -> None:
        user_id, token = self.guest(
            {"initial_device_display_name": "Web", "username": "ignored", "device_id": "X"}
        )
        found = self.app.ok("GET", f"{V3}/account/whoami", token=token)
        self.assertEqual((found["user_id"], found["is_guest"]), (user_id, True))
        self.assertNotIn("ignored", user_id)
        self.assertNotEqual(found["device_id"], "X")
        devices = self.app.ok("GET", f"{V3}/devices", token=token)["devices"]
        self.assertEqual(devices[0]["display_name"], "Web")

    def test_where_they_are_not_admitted(self) -> None:
        self.app.app.reload(replace(self.config, registration=Registration(mode="open")))
        found = self.app.call("POST", f"{V3}/register", {}, query={"kind": "guest"})
        self.says((403, "M_GUEST_ACCESS_FORBIDDEN"), found)

    def test_where_registration_is_closed(self) -> None:
        self.app.app.reload(replace(self.config, registration=Registration(mode="closed", guests=True)))
        self.guest()

    def test_hostile(self) -> None:
        for kind in ("", "admin", "Guest"):
            found = self.app.call("POST", f"{V3}/register", {}, query={"kind": kind})
            self.says((400, "M_INVALID_PARAM"), found)
        for body in ({"initial_device_display_name": 1}, {"initial_device_display_name": "\0"}):
            status, _ = self.app.call("POST", f"{V3}/register", body, query={"kind": "guest"})
            self.assertEqual(status, 400)

    def test_becoming_a_user(self) -> None:
        user_id, token = self.guest()
        room_id = self.room()
        self.app.ok("POST", f"{V3}/join/{room_id}", {}, token)
        localpart = user_id[1:].partition(":")[0]
        body = {
            "username": localpart,
            "password": "correct horse",
            "guest_access_token": token,
            "auth": {"type": "m.login.dummy"},
        }
        for wrong, expected in (
            ({"guest_access_token": "nonsense"}, (403, "M_FORBIDDEN")),
            ({"guest_access_token": self.alice}, (403, "M_FORBIDDEN")),
            ({"username": "other"}, (400, "M_INVALID_USERNAME")),
            ({"guest_access_token": None}, (400, "M_USER_IN_USE")),
        ):
            self.says(expected, self.app.call("POST", f"{V3}/register", {**body, **wrong}))
        answer = self.app.ok("POST", f"{V3}/register", body)
        self.assertEqual(answer["user_id"], user_id)
        for one in (answer["access_token"], token):
            self.assertFalse(self.app.ok("GET", f"{V3}/account/whoami", token=one)["is_guest"])
        self.app.ok("POST", f"{V3}/createRoom", {}, answer["access_token"])
        self.assertEqual(self.membership(room_id, user_id), "join")
        self.says((403, "M_FORBIDDEN"), self.app.call("POST", f"{V3}/register", body))
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": localpart},
            "password": "correct horse",
        }
        self.app.ok("POST", f"{V3}/login", login)
        # No guest any more, so nobody to be put out.
        self.forbid(room_id)
        self.assertEqual(self.membership(room_id, user_id), "join")

    def test_a_locked_guest_stays_what_they_are(self) -> None:
        # spec: client-server-api#account-locking
        user_id, token = self.guest()
        core = self.app.app.core
        user_nid = self.app.wait(Deferred.fromCoroutine(core.interner.user(user_id)))
        self.app.wait(core.committer.work(set_standing, user_nid, suspended=None, locked=True))
        body = {
            "username": user_id[1:].partition(":")[0],
            "password": "correct horse",
            "guest_access_token": token,
            "auth": {"type": "m.login.dummy"},
        }
        self.says((401, "M_USER_LOCKED"), self.app.call("POST", f"{V3}/register", body))

    def forbid(self, room_id: str) -> None:
        path = f"{V3}/rooms/{room_id}/state/m.room.guest_access"
        self.app.ok("PUT", path, {"guest_access": "forbidden"}, self.alice)
        self.app.advance(0)


@on_each_database
class Doing(GuestCase):
    def test_what_guests_may_do(self) -> None:
        user_id, token = self.guest()
        room_id = self.room()
        room = f"{V3}/rooms/{room_id}"
        self.app.ok("POST", f"{V3}/join/{room_id}", {}, token)
        sent = self.app.ok("PUT", f"{room}/send/m.room.message/1", {"body": "hi", "msgtype": "m.text"}, token)
        for path in (
            f"{room}/state",
            f"{room}/context/{sent['event_id']}",
            f"{room}/event/{sent['event_id']}",
            f"{room}/state/m.room.create/",
            f"{room}/messages?dir=b",
            f"{room}/members",
            f"{room}/initialSync",
            f"{V3}/sync",
            f"{V3}/devices",
        ):
            self.assertEqual(self.app.call("GET", path, token=token)[0], 200, path)
        self.app.ok("POST", f"{V3}/keys/query", {"device_keys": {}}, token)
        self.app.ok("POST", f"{V3}/keys/claim", {"one_time_keys": {}}, token)
        self.app.ok("PUT", f"{V3}/sendToDevice/m.x/1", {"messages": {}}, token)
        self.app.ok("PUT", f"{V3}/profile/{user_id}/displayname", {"displayname": "Visitor"}, token)
        self.app.ok("DELETE", f"{V3}/profile/{user_id}/displayname", None, token)
        self.app.ok("POST", f"{room}/leave", {}, token)

    def test_what_they_may_not(self) -> None:
        user_id, token = self.guest()
        room_id = self.room()
        for method, path, body in (
            ("POST", f"{V3}/createRoom", {}),
            ("POST", f"{V3}/rooms/{room_id}/invite", {"user_id": "@alice:test.example"}),
            ("POST", f"{V3}/knock/{room_id}", {}),
            ("PUT", f"{V3}/profile/{user_id}/avatar_url", {"avatar_url": "mxc://a/b"}),
            ("DELETE", f"{V3}/profile/{user_id}/avatar_url", None),
            ("POST", "/_matrix/media/v3/upload", {}),
            ("POST", f"{V3}/account/password", {"new_password": "x"}),
            ("POST", f"{V3}/account/deactivate", {}),
            ("GET", f"{V3}/account/3pid", None),
            ("GET", f"{V3}/capabilities", None),
        ):
            self.says((403, "M_GUEST_ACCESS_FORBIDDEN"), self.app.call(method, path, body, token))

    def test_rooms_that_do_not_admit_them(self) -> None:
        _, token = self.guest()
        for access in (None, "forbidden", "nonsense"):
            found = self.app.call("POST", f"{V3}/join/{self.room(access)}", {}, token)
            self.says((403, "M_GUEST_ACCESS_FORBIDDEN"), found)
        found = self.app.call("POST", f"{V3}/join/!x:elsewhere.example?via=elsewhere.example", {}, token)
        self.says((403, "M_GUEST_ACCESS_FORBIDDEN"), found)


@on_each_database
class PuttingOut(GuestCase):
    def setUp(self) -> None:
        super().setUp()
        self.user_id, self.token = self.guest()
        self.room_id = self.room()
        self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, self.token)
        self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, self.app.register("bob"))

    def set(self, content: Any) -> None:
        path = f"{V3}/rooms/{self.room_id}/state/m.room.guest_access"
        self.app.ok("PUT", path, content, self.alice)
        self.app.advance(0)

    def test_guests_leave_and_users_stay(self) -> None:
        self.set({"guest_access": "can_join", "x": 1})
        self.assertEqual(self.membership(self.room_id, self.user_id), "join")
        for content in ({"guest_access": "forbidden"}, {}):
            self.set(content)
            self.assertEqual(self.membership(self.room_id, self.user_id), "leave")
            self.assertEqual(self.membership(self.room_id, "@bob:test.example"), "join")
            self.set({"guest_access": "can_join"})
            self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, self.token)

    def test_what_was_redacted_admits_nobody(self) -> None:
        # spec: client-server-api#redactions (as though its properties were not specified)
        room = f"{V3}/rooms/{self.room_id}"
        path = f"{room}/state/m.room.guest_access"
        event_id = self.app.ok("GET", path, None, self.alice, {"format": "event"})["event_id"]
        self.app.ok("PUT", f"{room}/redact/{event_id}/t", {}, self.alice)
        self.app.advance(0)
        self.assertEqual(self.membership(self.room_id, self.user_id), "leave")
        found = self.app.call("POST", f"{V3}/join/{self.room_id}", {}, self.token)
        self.says((403, "M_GUEST_ACCESS_FORBIDDEN"), found)

    def test_what_is_refused_for_now_is_tried_again(self) -> None:
        put_out, refusals = departures._leave, [MatrixError(502, "M_UNKNOWN", "The policy server is away")]

        async def refuse_once(turn: Turn, **who: Any) -> None:
            if refusals:
                raise refusals.pop()
            await put_out(turn, **who)

        self.patch(departures, "_leave", refuse_once)
        self.set({"guest_access": "forbidden"})
        self.assertEqual(self.membership(self.room_id, self.user_id), "join")
        # Whatever changes meanwhile, one task does the room.
        for number in range(3):
            self.set({"guest_access": "forbidden", "n": number})
        tasks = self.app.app.services.tasks.names()
        self.assertEqual(1, tasks.count("guests of a room"))
        self.app.advance(1)
        self.assertEqual(self.membership(self.room_id, self.user_id), "leave")
        self.app.log.entries.clear()

    def test_a_restart_goes_on(self) -> None:
        guests = self.app.app.services.people.guests
        self.patch(guests, "_begin", lambda _: None)
        self.set({"guest_access": "forbidden"})
        self.assertEqual(self.membership(self.room_id, self.user_id), "join")
        self.app.restart()
        self.app.app.services.people.guests.start()
        self.app.advance(0)
        self.assertEqual(self.membership(self.room_id, self.user_id), "leave")
