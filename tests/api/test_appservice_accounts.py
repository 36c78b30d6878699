"""Application services act as their users: registration, login, masquerade, devices, names of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from sqlalchemy import select
from twisted.internet.defer import Deferred

from homeserver.config.registrations import Namespace, Pattern
from homeserver.config.schema import RateLimit, RateLimits
from homeserver.config.schema import Registration as RegistrationConfig
from homeserver.db.schema.rooms import client_transactions
from homeserver.db.statements import statement
from homeserver.store.users import load_accounts, set_standing
from homeserver.stream.chores import SWEEP_EVERY_S, TRANSACTIONS_KEPT_S
from tests.api.media import UPLOAD, Arriving
from tests.support.app import SERVER_NAME, TestApp, test_config
from tests.support.appservices import AS_TOKEN, FakeAppservices, registration
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.keys import CrossKeys, KeyDevice

V3 = "/_matrix/client/v3"
GHOST = f"@_bridge_bob:{SERVER_NAME}"
BOT = f"@_bridgebot:{SERVER_NAME}"
TYPE = "m.login.application_service"
_TRANSACTIONS = statement(select(client_transactions.c.txn_key))


@on_each_database
class Ghosts(DatabaseCase):
    """One bridge, and another that has its own names."""

    def setUp(self) -> None:
        self.http = FakeAppservices()
        self.app = TestApp(
            self,
            self.new_database(),
            registrations=[registration(), registration("other")],
            appservice_http=self.http,
        )

    def register(self, username: str = "_bridge_bob", token: str | None = AS_TOKEN, **fields: Any) -> Any:
        body = {"type": TYPE, "username": username, **fields}
        return self.app.call("POST", f"{V3}/register", body, token, {"kind": "user"})

    def as_ghost(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        return self.app.call(method, path, body, AS_TOKEN, {"user_id": GHOST, **query})

    def refused(self, answer: Any, status: int, errcode: str) -> None:
        self.assertEqual((status, errcode), (answer[0], answer[1].get("errcode")), answer)

    # --- accounts ------------------------------------------------------------------------------------

    def test_register(self) -> None:
        status, json = self.register(inhibit_login=True)
        self.assertEqual((200, {"user_id": GHOST, "home_server": SERVER_NAME}), (status, json))
        self.refused(self.register(), 400, "M_USER_IN_USE")
        logged_in = self.register("_bridge_eve", device_id="DEV")[1]
        self.assertEqual("DEV", logged_in["device_id"])
        whoami = self.app.ok("GET", f"{V3}/account/whoami", None, logged_in["access_token"])
        self.assertEqual(f"@_bridge_eve:{SERVER_NAME}", whoami["user_id"])

    def test_names_of_other_networks(self) -> None:
        # Nicknames of IRC have brackets and bars; some bridges do not escape them.
        for name in ("_bridge_w[x]|y^`{z}", "_bridge_Eve"):
            user_id = f"@{name}:{SERVER_NAME}"
            answer = self.register(name, inhibit_login=True)
            self.assertEqual((200, {"user_id": user_id, "home_server": SERVER_NAME}), answer)
            path = f"{V3}/profile/{quote(user_id)}/displayname"
            self.app.ok("PUT", path, {"displayname": "W"}, AS_TOKEN, {"user_id": user_id})
            self.assertEqual({"displayname": "W"}, self.app.ok("GET", path))
            whoami = self.app.ok("GET", f"{V3}/account/whoami", None, AS_TOKEN, {"user_id": user_id})
            self.assertEqual(user_id, whoami["user_id"])
            self.refused(self.register(name), 400, "M_USER_IN_USE")

    def test_register_refused(self) -> None:
        self.refused(self.register(token=None), 401, "M_MISSING_TOKEN")
        self.refused(self.register(token="wrong"), 401, "M_UNKNOWN_TOKEN")
        self.refused(self.register(token=self.app.register("alice")), 401, "M_UNKNOWN_TOKEN")
        self.refused(self.register("carol"), 400, "M_EXCLUSIVE")
        self.refused(self.register("_other_carol"), 400, "M_EXCLUSIVE")
        for name in ("_bridge_\u00e4", "_bridge_a b", "_bridge_a:b", "_bridge_\0", "_bridge_" + "x" * 250):
            self.refused(self.register(name), 400, "M_INVALID_USERNAME")
        self.refused(
            self.app.call("POST", f"{V3}/register", {"type": TYPE}, AS_TOKEN), 400, "M_MISSING_PARAM"
        )
        self.refused(self.app.call("POST", f"{V3}/register", {"type": 5}, AS_TOKEN), 400, "M_BAD_JSON")
        self.refused(self.register("_bridge_x", device_id=["x"]), 400, "M_BAD_JSON")

    def test_people_keep_out(self) -> None:
        body = {"username": "_bridge_mallory", "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        self.refused(self.app.call("POST", f"{V3}/register", body), 400, "M_EXCLUSIVE")
        path = f"{V3}/register/available"
        self.refused(self.app.call("GET", path, query={"username": "_other_x"}), 400, "M_EXCLUSIVE")
        self.refused(self.app.call("GET", path, query={"username": "_bridgebot"}), 400, "M_EXCLUSIVE")
        self.assertEqual({"available": True}, self.app.ok("GET", path, query={"username": "free"}))

    def test_a_name_or_picture_that_is_not_there_is_no_error(self) -> None:
        """mautrix-go looks what a ghost's picture is before it gives it its first one."""
        self.register(inhibit_login=True)
        path = f"{V3}/profile/{GHOST}"
        self.assertEqual((200, {}), self.as_ghost("GET", f"{path}/avatar_url"))
        self.refused(self.as_ghost("GET", f"{path}/m.tz"), 404, "M_NOT_FOUND")
        nobody = f"{V3}/profile/@_bridge_nobody:{SERVER_NAME}/avatar_url"
        self.refused(self.as_ghost("GET", nobody), 404, "M_NOT_FOUND")
        # spec: client-server-api#get_matrixclientv3profileuseridkeyname
        for token in (None, self.app.register("alice")):
            self.refused(self.app.call("GET", f"{path}/avatar_url", None, token), 404, "M_NOT_FOUND")

    def test_login_of_the_sender_that_has_not_spoken_yet(self) -> None:
        for name in ("_bridgebot", f"@_bridgebot:{SERVER_NAME}"):
            body = {"type": TYPE, "identifier": {"type": "m.id.user", "user": name}}
            grant = self.app.ok("POST", f"{V3}/login", body, AS_TOKEN)
            self.assertEqual(f"@_bridgebot:{SERVER_NAME}", grant["user_id"])

    def test_login(self) -> None:
        self.register(inhibit_login=True)
        flows = self.app.ok("GET", f"{V3}/login")["flows"]
        self.assertIn({"type": TYPE}, flows)
        body: dict[str, Any] = {"type": TYPE, "identifier": {"type": "m.id.user", "user": "_bridge_bob"}}
        grant = self.app.ok("POST", f"{V3}/login", {**body, "device_id": "D"}, AS_TOKEN)
        self.assertEqual((GHOST, "D"), (grant["user_id"], grant["device_id"]))
        self.app.ok("GET", f"{V3}/account/whoami", None, grant["access_token"])
        self.refused(self.app.call("POST", f"{V3}/login", body), 401, "M_MISSING_TOKEN")
        # spec: application-service-api#server-admin-style-permissions
        for token in ("nobody", self.app.register("alice"), grant["access_token"]):
            self.refused(self.app.call("POST", f"{V3}/login", body, token), 401, "M_UNKNOWN_TOKEN")
        for name, status, errcode in (("alice", 400, "M_EXCLUSIVE"), ("_bridge_new", 403, "M_FORBIDDEN")):
            body["identifier"]["user"] = name
            self.refused(self.app.call("POST", f"{V3}/login", body, AS_TOKEN), status, errcode)

    def test_who_is_deactivated_cannot_log_in(self) -> None:
        self.register(inhibit_login=True)
        self.app.wait(Deferred.fromCoroutine(self.app.app.services.accounts.deactivate(GHOST, erase=False)))
        body = {"type": TYPE, "identifier": {"type": "m.id.user", "user": GHOST}}
        self.refused(self.app.call("POST", f"{V3}/login", body, AS_TOKEN), 403, "M_USER_DEACTIVATED")

    def test_no_password_ever_fits(self) -> None:
        self.register(inhibit_login=True)
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": GHOST},
            "password": "",
        }
        self.refused(self.app.call("POST", f"{V3}/login", body), 403, "M_FORBIDDEN")

    # --- masquerade ----------------------------------------------------------------------------------

    def test_who_is_in_a_room_of_any_of_its_users(self) -> None:
        # spec: client-server-api#get_matrixclientv3roomsroomidjoined_members
        self.register(inhibit_login=True)
        room_id = self.as_ghost("POST", f"{V3}/createRoom", {})[1]["room_id"]
        path = f"{V3}/rooms/{quote(room_id)}/joined_members"
        for user_id in (BOT, GHOST):
            found = self.app.ok("GET", path, None, AS_TOKEN, {"user_id": user_id})
            self.assertEqual([GHOST], list(found["joined"]))
        self.refused(self.app.call("GET", path, None, "as-token-of-other"), 403, "M_FORBIDDEN")
        self.refused(self.app.call("GET", path, None, self.app.register("alice")), 403, "M_FORBIDDEN")
        unknown = f"{V3}/rooms/!none:x.example/joined_members"
        self.refused(self.app.call("GET", unknown, None, AS_TOKEN), 403, "M_FORBIDDEN")
        self.as_ghost("POST", f"{V3}/rooms/{quote(room_id)}/leave", {})
        for user_id in (BOT, GHOST):
            answer = self.app.call("GET", path, None, AS_TOKEN, {"user_id": user_id})
            self.refused(answer, 403, "M_FORBIDDEN")

    def test_who_it_is(self) -> None:
        whoami = f"{V3}/account/whoami"
        self.refused(self.as_ghost("GET", whoami), 403, "M_FORBIDDEN")  # not registered yet
        self.assertEqual(BOT, self.app.ok("GET", whoami, None, AS_TOKEN)["user_id"])
        self.register(inhibit_login=True)
        for _ in range(2):  # the second time from memory
            self.assertEqual({"user_id": GHOST, "is_guest": False}, self.as_ghost("GET", whoami)[1])
        alice = self.app.register("alice")
        self.assertEqual(f"@alice:{SERVER_NAME}", self.app.ok("GET", whoami, None, alice)["user_id"])
        for stranger in (f"@alice:{SERVER_NAME}", "@_bridge_bob:elsewhere.example", "nonsense", "@" * 5000):
            answer = self.app.call("GET", whoami, None, AS_TOKEN, {"user_id": stranger})
            self.refused(answer, 403, "M_FORBIDDEN")
        # What a user says of who they are is not asked.
        answer = self.app.ok("GET", whoami, None, alice, {"user_id": GHOST})
        self.assertEqual(f"@alice:{SERVER_NAME}", answer["user_id"])

    def test_gone_accounts(self) -> None:
        self.register(inhibit_login=True)
        whoami = f"{V3}/account/whoami"
        self.assertEqual(200, self.as_ghost("GET", whoami)[0])
        ending = self.app.app.services.accounts.deactivate(GHOST, erase=False)
        self.app.wait(Deferred.fromCoroutine(ending))
        self.refused(self.as_ghost("GET", whoami), 403, "M_USER_DEACTIVATED")

    def test_gone_while_it_uploads(self) -> None:
        self.register(inhibit_login=True)
        request = self.app.http.request("POST", UPLOAD, b"", AS_TOKEN, {"user_id": GHOST})
        body = Arriving()
        request.body_stream = body  # type: ignore[assignment]
        answer = self.app.app.router.dispatch(request)
        assert isinstance(answer, Deferred)
        self.app.wait(Deferred.fromCoroutine(self.app.app.services.accounts.deactivate(GHOST, erase=False)))
        body.asked.callback(b"late")
        body.asked.callback(None)
        found = self.app.wait(answer)
        assert isinstance(found.body, bytes)
        self.refused((found.status, json.loads(found.body)), 403, "M_USER_DEACTIVATED")

    def test_locked_and_suspended(self) -> None:
        self.register(inhibit_login=True)
        whoami = f"{V3}/account/whoami"
        self.assertEqual(200, self.as_ghost("GET", whoami)[0])
        self.stand(locked=True, suspended=False)
        self.refused(self.as_ghost("GET", f"{V3}/sync"), 401, "M_USER_LOCKED")
        self.stand(locked=False, suspended=True)
        self.refused(self.as_ghost("POST", f"{V3}/createRoom", {}), 403, "M_USER_SUSPENDED")
        self.stand(locked=False, suspended=False)
        self.assertEqual(200, self.as_ghost("POST", f"{V3}/createRoom", {})[0])

    def stand(self, *, locked: bool, suspended: bool) -> None:
        user_nid = self.app.wait(self.app.database.read(load_accounts, [GHOST]))[GHOST].user_nid
        worker = self.app.app.core.committer
        self.app.wait(worker.work(set_standing, user_nid, suspended=suspended, locked=locked))

    def test_devices(self) -> None:
        self.register(inhibit_login=True)
        whoami, device = f"{V3}/account/whoami", f"{V3}/devices/PHONE"
        self.refused(self.as_ghost("GET", whoami, device_id="PHONE"), 400, "M_UNKNOWN_DEVICE")
        self.assertEqual(201, self.as_ghost("PUT", device, {"display_name": "Bridge"})[0])
        self.assertEqual(200, self.as_ghost("PUT", device, {})[0])
        self.assertEqual("Bridge", self.as_ghost("GET", device)[1]["display_name"])
        self.assertEqual(200, self.as_ghost("PUT", device, {"display_name": "Renamed"})[0])
        self.assertEqual("Renamed", self.as_ghost("GET", device)[1]["display_name"])
        self.assertEqual("PHONE", self.as_ghost("GET", whoami, device_id="PHONE")[1]["device_id"])
        old = {"org.matrix.msc3202.device_id": "PHONE"}
        self.assertEqual("PHONE", self.as_ghost("GET", whoami, **old)[1]["device_id"])
        self.assertEqual(200, self.as_ghost("DELETE", device, {})[0])
        self.refused(self.as_ghost("GET", whoami, device_id="PHONE"), 400, "M_UNKNOWN_DEVICE")
        self.assertEqual(201, self.as_ghost("PUT", device, {})[0])
        many = self.as_ghost("POST", f"{V3}/delete_devices", {"devices": ["PHONE", "NONE"]})
        self.assertEqual(200, many[0])
        self.assertEqual([], self.as_ghost("GET", f"{V3}/devices")[1]["devices"])
        # A person makes no device so, and confirms what they delete.
        alice = self.app.register("alice")
        self.refused(self.app.call("PUT", device, {}, alice), 404, "M_NOT_FOUND")

    def test_keys(self) -> None:
        self.register(inhibit_login=True)
        self.as_ghost("PUT", f"{V3}/devices/PHONE", {})
        keys = KeyDevice(GHOST, "PHONE")
        body = {"device_keys": keys.keys()}
        self.assertEqual(200, self.as_ghost("POST", f"{V3}/keys/upload", body, device_id="PHONE")[0])
        found = self.app.ok("POST", f"{V3}/keys/query", {"device_keys": {GHOST: []}}, AS_TOKEN)
        self.assertIn("PHONE", found["device_keys"][GHOST])
        # Cross-signing keys are set, and set anew, without a word about a password.
        for seed in ("first", "second"):
            upload = CrossKeys(GHOST, seed).body()
            answer = self.as_ghost("POST", f"{V3}/keys/device_signing/upload", upload)
            self.assertEqual(200, answer[0], answer)

    def test_what_needs_no_device(self) -> None:
        """Messages to devices may come from nobody's in particular; each request is one all the same."""
        self.register(inhibit_login=True)
        alice = self.app.register("alice")
        body = {"messages": {f"@alice:{SERVER_NAME}": {"*": {"n": 1}}}}
        path = f"{V3}/sendToDevice/m.test/t1"
        for _ in range(2):
            self.assertEqual((200, {}), self.as_ghost("PUT", path, body))
        self.assertEqual((200, {}), self.app.call("PUT", path, body, AS_TOKEN))
        self.app.restart()
        self.assertEqual((200, {}), self.as_ghost("PUT", path, body))
        told = self.app.ok("GET", f"{V3}/sync", None, alice)["to_device"]["events"]
        self.assertEqual([GHOST, BOT], [one["sender"] for one in told])
        self.refused(self.as_ghost("POST", f"{V3}/keys/upload", {}), 403, "M_FORBIDDEN")

    # --- names ---------------------------------------------------------------------------------------

    def test_aliases(self) -> None:
        alice = self.app.register("alice")
        room_id = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, alice)["room_id"]
        reserved = f"{V3}/directory/room/%23_bridge_x:{SERVER_NAME}"
        self.refused(self.app.call("PUT", reserved, {"room_id": room_id}, alice), 400, "M_EXCLUSIVE")
        body = {"preset": "public_chat", "room_alias_name": "_bridge_x"}
        self.refused(self.app.call("POST", f"{V3}/createRoom", body, alice), 400, "M_EXCLUSIVE")
        theirs = self.app.ok("POST", f"{V3}/createRoom", {**body, "visibility": "public"}, AS_TOKEN)[
            "room_id"
        ]
        self.assertEqual(theirs, self.app.ok("GET", reserved)["room_id"])
        self.refused(self.app.call("DELETE", reserved, None, alice), 400, "M_EXCLUSIVE")
        # It manages its names, whoever is in the room; its others are as everybody.
        own = f"{V3}/directory/room/%23_bridge_y:{SERVER_NAME}"
        self.app.ok("PUT", own, {"room_id": room_id}, AS_TOKEN)
        self.assertEqual(room_id, self.app.ok("GET", own)["room_id"])
        self.app.ok("DELETE", own, None, AS_TOKEN)
        unknown = {"room_id": f"!none:{SERVER_NAME}"}
        self.refused(self.app.call("PUT", own, unknown, AS_TOKEN), 403, "M_FORBIDDEN")
        outside = {"preset": "public_chat", "room_alias_name": "plain"}
        self.refused(self.app.call("POST", f"{V3}/createRoom", outside, AS_TOKEN), 400, "M_EXCLUSIVE")
        self.app.ok("DELETE", reserved, None, AS_TOKEN)

    # --- time ----------------------------------------------------------------------------------------

    def test_timestamps(self) -> None:
        self.register(inhibit_login=True)
        room_id = self.as_ghost("POST", f"{V3}/createRoom", {"preset": "public_chat"})[1]["room_id"]
        alice = self.app.register("alice")
        self.app.ok("POST", f"{V3}/join/{room_id}", {}, alice)

        def time_of(event_id: str) -> int:
            event = self.app.ok("GET", f"{V3}/rooms/{room_id}/event/{event_id}", None, alice)
            return int(event["origin_server_ts"])

        send, text = f"{V3}/rooms/{room_id}/send/m.room.message", {"msgtype": "m.text", "body": "then"}
        sent = self.as_ghost("PUT", f"{send}/1", text, ts=1234)[1]["event_id"]
        self.assertEqual(1234, time_of(sent))
        topic = self.as_ghost("PUT", f"{V3}/rooms/{room_id}/state/m.room.topic", {"topic": "t"}, ts=0)
        self.assertEqual(0, time_of(topic[1]["event_id"]))
        member = f"{V3}/rooms/{room_id}/state/m.room.member/@alice:{SERVER_NAME}"
        kick = self.as_ghost("PUT", member, {"membership": "leave"}, ts=99)[1]["event_id"]
        self.app.ok("POST", f"{V3}/join/{room_id}", {}, alice)
        self.assertEqual(99, time_of(kick))
        own = self.app.ok("PUT", f"{send}/2", text, alice, {"ts": 5})["event_id"]
        self.assertNotEqual(5, time_of(own))
        later = f"/_matrix/client/unstable/org.matrix.msc4140/rooms/{room_id}/delayed_event/m.room.topic/3"
        body = {"delay_ms": 1000, "state_key": "", "content": {"topic": "later"}}
        self.as_ghost("PUT", later, body, ts=777)
        for _ in range(20):
            self.app.advance(1)
        state = self.app.ok("GET", f"{V3}/rooms/{room_id}/state", None, alice)
        told = {event["type"]: event for event in state}["m.room.topic"]
        self.assertEqual(("later", 777), (told["content"]["topic"], told["origin_server_ts"]))
        for wrong in ("soon", "-1", str(2**53)):
            self.refused(self.as_ghost("PUT", f"{send}/w{wrong}", text, ts=wrong), 400, "M_INVALID_PARAM")

    def test_transaction_ids_are_kept_by_the_time_of_the_server(self) -> None:
        self.register(inhibit_login=True)
        room_id = self.as_ghost("POST", f"{V3}/createRoom", {"preset": "public_chat"})[1]["room_id"]
        self.app.app.begin()

        def send(txn_id: str, said_at_ms: int) -> Any:
            path = f"{V3}/rooms/{room_id}/send/m.room.message/{txn_id}"
            return self.as_ghost("PUT", path, {"msgtype": "m.text", "body": txn_id}, ts=said_at_ms)[1]

        def kept() -> list[str]:
            return self.app.wait(self.app.database.read(lambda tx: tx.column(_TRANSACTIONS)))

        delayed = f"/_matrix/client/unstable/org.matrix.msc4140/rooms/{room_id}/delayed_event/m.x/later"
        self.as_ghost("PUT", delayed, {"delay_ms": 1000, "content": {}}, ts=1000)
        past, future = send("past", 1000), send("future", 2**50)
        for _ in range(4):
            self.app.advance(SWEEP_EVERY_S / 2)
        self.assertEqual(3, len(kept()))
        self.app.restart()
        self.assertEqual((past, future), (send("past", 1000), send("future", 2**50)))
        found = self.as_ghost("GET", f"{V3}/rooms/{room_id}/messages", dir="b", limit=100)[1]["chunk"]
        self.assertEqual(2, sum(event["type"] == "m.room.message" for event in found))
        self.app.app.begin()
        self.app.advance(TRANSACTIONS_KEPT_S)
        for _ in range(2):
            self.app.advance(SWEEP_EVERY_S)
        self.assertEqual([], kept())


@on_each_database
class Limits(DatabaseCase):
    """Rate limits are for people."""

    def app_with(self, **changes: Any) -> TestApp:
        tight = RateLimit(per_second=0.001, burst=1)
        limits = replace(RateLimits(), write=tight, read=tight, login=tight)
        return TestApp(
            self,
            self.new_database(),
            test_config(rate_limits=limits, registration=RegistrationConfig(mode="closed")),
            registrations=[registration(**changes)],
        )

    def whoami(self, app: TestApp, user_id: str) -> list[int]:
        query = {"user_id": user_id}
        return [app.call("GET", f"{V3}/account/whoami", None, AS_TOKEN, query)[0] for _ in range(3)]

    def make(self, app: TestApp, name: str) -> None:
        body = {"type": TYPE, "username": name, "inhibit_login": True}
        self.assertEqual(200, app.call("POST", f"{V3}/register", body, AS_TOKEN)[0])

    def test_free(self) -> None:
        app = self.app_with(rate_limited=False)
        for number in range(5):  # neither a limit of addresses nor a closed registration holds them
            self.make(app, f"_bridge_{number}")
        self.assertEqual([200, 200, 200], self.whoami(app, f"@_bridge_1:{SERVER_NAME}"))

    def with_own_tokens(self, app: TestApp, name: str) -> list[int]:
        self.make(app, name)
        body = {"type": TYPE, "identifier": {"type": "m.id.user", "user": name}}
        token = app.ok("POST", f"{V3}/login", body, AS_TOKEN)["access_token"]
        return [app.call("GET", f"{V3}/account/whoami", None, token)[0] for _ in range(3)]

    def test_tokens_of_their_own(self) -> None:
        """With them the same holds as with the application service's."""
        app = self.app_with(rate_limited=False)
        self.assertEqual([200, 200, 200], self.with_own_tokens(app, "_bridge_bob"))
        app = self.app_with(rate_limited=True)
        self.assertEqual([200, 429, 429], self.with_own_tokens(app, "_bridge_bob"))
        self.assertEqual([200, 200, 200], self.with_own_tokens(app, "_bridgebot"))

    def test_limited(self) -> None:
        app = self.app_with(rate_limited=True)
        self.make(app, "_bridge_bob")
        self.assertEqual([200, 429, 429], self.whoami(app, GHOST))
        self.assertEqual([200, 200, 200], self.whoami(app, BOT))


class DoublePuppets(DatabaseCase):
    """A registration for everybody, not exclusive, acts as the people who are there."""

    def test_acts_as_people(self) -> None:
        everybody = (Namespace(Pattern(f"@.*:{SERVER_NAME}"), False),)
        app = TestApp(self, registrations=[registration(url=None, users=everybody)])
        app.register("alice")  # nothing is reserved
        user_id = f"@alice:{SERVER_NAME}"
        room = app.ok("POST", f"{V3}/createRoom", {}, AS_TOKEN, {"user_id": user_id})
        self.assertTrue(room["room_id"].startswith("!"))
