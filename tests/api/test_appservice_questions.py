"""What application services are asked: pings, users and aliases that are not there yet, networks and their rooms."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from homeserver.appservices.courier import PING_TIMEOUT_S, QUERY_TIMEOUT_S
from homeserver.config.registrations import AppserviceRegistration
from homeserver.http.client import HttpResponse
from homeserver.http.deadline import cut_off
from homeserver.runtime.clock import TwistedClock
from homeserver.store import directory
from tests.api.test_appservice_transactions import V3, BridgeCase
from tests.support.app import SERVER_NAME
from tests.support.appservices import AS_TOKEN, HS_TOKEN, Asked, registration
from tests.support.databases import on_each_database

NICK = {"userid": "@_bridge_n:a", "protocol": "irc", "fields": {"nick": "n"}}
PING = "/_matrix/client/v1/appservice/bridge/ping"


class Questions(BridgeCase):
    def refused(self, answer: Any, status: int, errcode: str) -> None:
        self.assertEqual((status, errcode), (answer[0], answer[1].get("errcode")), answer)


class Pings(Questions):
    def registrations(self) -> list[AppserviceRegistration]:
        return [registration(), registration("deaf", url=None)]

    def ping(self, path: str = PING, token: str = AS_TOKEN, body: Any = None) -> Any:
        return self.app.call("POST", path, {"transaction_id": "meow"} if body is None else body, token)

    def test_answered(self) -> None:
        status, json = self.ping()
        self.assertEqual((200, {"duration_ms": 1}), (status, json))
        asked = self.http.asked[-1]
        self.assertEqual(("POST", "/_matrix/app/v1/ping"), (asked.method, asked.path))
        self.assertEqual(f"Bearer {HS_TOKEN}", asked.headers["Authorization"])
        self.assertEqual({"transaction_id": "meow"}, asked.body)
        self.ping(body={})
        self.assertEqual({}, self.http.asked[-1].body)
        old = PING.replace("/v1/", "/unstable/fi.mau.msc2659/")
        self.assertEqual(200, self.ping(old)[0])

    def test_who_may(self) -> None:
        self.refused(self.ping(token=self.alice), 403, "M_FORBIDDEN")
        self.refused(self.ping(token="nonsense"), 401, "M_UNKNOWN_TOKEN")
        self.refused(self.ping(token="as-token-of-deaf"), 403, "M_FORBIDDEN")
        deaf = PING.replace("/bridge/", "/deaf/")
        self.refused(self.ping(deaf), 403, "M_FORBIDDEN")
        self.refused(self.ping(deaf, "as-token-of-deaf"), 400, "M_URL_NOT_SET")
        self.refused(self.ping(body={"transaction_id": 5}), 400, "M_BAD_JSON")

    def test_failures(self) -> None:
        self.http.answer = lambda _: (403, {"errcode": "M_FORBIDDEN"})
        status, json = self.ping()
        self.assertEqual((502, "M_BAD_STATUS", 403), (status, json["errcode"], json["status"]))
        self.assertEqual('{"errcode": "M_FORBIDDEN"}', json["body"])
        self.http.answer = lambda _: None
        self.refused(self.ping(), 502, "M_CONNECTION_FAILED")

    def test_no_answer_in_time(self) -> None:
        hangs: Deferred[HttpResponse] = Deferred()
        self.http.answer = lambda _: cut_off(TwistedClock(self.app.time), PING_TIMEOUT_S, hangs)
        answer = self.app.start("POST", PING, {}, AS_TOKEN)
        self.settle()
        self.settle(PING_TIMEOUT_S)
        got = self.app.wait(answer)
        self.assertEqual((504, "M_CONNECTION_TIMEOUT"), (got.status, got.errcode))

    def test_wakes_who_failed(self) -> None:
        room_id = self.portal()
        self.http.answer = lambda _: None
        self.say(room_id, "one")
        for _ in range(12):
            self.settle(400)
        self.http.answer = lambda _: (200, {})
        self.forget()
        self.ping()
        self.settle(3)
        self.assertEqual(["one"], self.told())


@on_each_database
class Absent(Questions):
    """The bridge makes what somebody asks for."""

    def make(self, asked: Asked) -> Any:
        if asked.path.startswith("/_matrix/app/v1/users/@_bridge_new"):
            self.make_ghost("_bridge_new")
            return 200, {}
        if asked.path.startswith("/_matrix/app/v1/rooms/#_bridge_new"):
            body = {"preset": "public_chat", "room_alias_name": "_bridge_new"}
            self.room_id = self.app.ok("POST", f"{V3}/createRoom", body, AS_TOKEN)["room_id"]
            return 200, {}
        return (200, {}) if "/transactions/" in asked.path else (404, {"errcode": "COM.EXAMPLE_NOT_FOUND"})

    def setUp(self) -> None:
        super().setUp()
        self.room_id = ""
        self.http.answer = self.make

    def asked(self) -> list[str]:
        return [one.path.rpartition("/")[2] for one in self.http.asked if one.method == "GET"]

    def profile(self, name: str) -> Any:
        return self.app.call("GET", f"{V3}/profile/@{name}:{SERVER_NAME}", None, self.alice)

    def test_user(self) -> None:
        self.assertEqual("_bridge_new", self.profile("_bridge_new")[1]["displayname"])
        self.refused(self.profile("_bridge_nobody"), 404, "M_NOT_FOUND")
        self.refused(self.profile("stranger"), 404, "M_NOT_FOUND")
        self.profile("_bridge_bob")
        names = [f"@_bridge_{name}:{SERVER_NAME}" for name in ("new", "nobody")]
        self.assertEqual(names, self.asked())

    def test_invite(self) -> None:
        room = self.app.ok("POST", f"{V3}/createRoom", {}, self.alice)["room_id"]
        user_id = f"@_bridge_new:{SERVER_NAME}"
        self.app.ok("POST", f"{V3}/rooms/{room}/invite", {"user_id": user_id}, self.alice)
        self.as_ghost("POST", f"{V3}/join/{room}", {}, user_id)

    def test_alias(self) -> None:
        alias = quote(f"#_bridge_new:{SERVER_NAME}")
        found = self.app.ok("GET", f"{V3}/directory/room/{alias}")
        self.assertEqual(self.room_id, found["room_id"])
        joined = self.app.ok("POST", f"{V3}/join/{alias}", {}, self.alice)
        self.assertEqual(self.room_id, joined["room_id"])
        for name in ("_bridge_none", "stranger"):
            missing = quote(f"#{name}:{SERVER_NAME}")
            self.refused(self.app.call("GET", f"{V3}/directory/room/{missing}"), 404, "M_NOT_FOUND")
        names = [f"#_bridge_{name}:{SERVER_NAME}" for name in ("new", "none")]
        self.assertEqual(names, self.asked())

    def test_nobody_waits_for_one_that_is_down(self) -> None:
        self.http.answer = lambda _: None
        self.refused(self.profile("_bridge_new"), 408, "M_UNKNOWN")
        tried = len(self.http.asked)
        self.assertEqual(2, tried, "several times, before it counts as down")
        self.refused(self.profile("_bridge_new"), 408, "M_UNKNOWN")
        self.assertEqual(tried, len(self.http.asked))
        self.refused(self.profile("stranger"), 404, "M_NOT_FOUND")
        self.http.answer = self.make
        self.settle(31)
        self.assertEqual(200, self.profile("_bridge_new")[0])

    def test_aliases_and_invites_of_one_that_is_down(self) -> None:
        self.http.answer = lambda _: None
        alias = quote(f"#_bridge_new:{SERVER_NAME}")
        self.refused(self.app.call("GET", f"{V3}/directory/room/{alias}"), 408, "M_UNKNOWN")
        self.refused(self.app.call("POST", f"{V3}/join/{alias}", {}, self.alice), 408, "M_UNKNOWN")
        # It learns of the invite when it is back, and makes the user then.
        body = {"invite": [f"@_bridge_new:{SERVER_NAME}"]}
        self.app.ok("POST", f"{V3}/createRoom", body, self.alice)


PROTOCOL = {
    "user_fields": ["network", "nickname"],
    "location_fields": ["network", "channel"],
    "icon": "mxc://example.org/icon",
    "field_types": {"network": {"regexp": ".*", "placeholder": "net"}},
}


class Lookups(Questions):
    def registrations(self) -> list[AppserviceRegistration]:
        return [
            registration(protocols=("irc",)),
            registration("other", protocols=("irc", "broken")),
        ]

    def network(self, asked: Asked) -> Any:
        name = "bridge" if asked.headers["Authorization"].endswith(HS_TOKEN) else "other"
        path = asked.path.removeprefix("/_matrix/app/v1")
        if path == "/thirdparty/protocol/irc":
            instance = {"network_id": f"net-{name}", "desc": name, "fields": {"network": name}}
            return 200, {**PROTOCOL, "instances": [instance, {"network_id": 5}, "junk"]}
        if path in ("/thirdparty/location/irc", "/thirdparty/location"):
            self.query = asked.query
            if name == "other":
                return 200, {"not": "a list"}
            return 200, [{"alias": "#_bridge_x:a", "protocol": "irc", "fields": {}}, {"alias": 5}, 7]
        if path in ("/thirdparty/user/irc", "/thirdparty/user"):
            self.query = asked.query
            is_known = "n" in asked.query or asked.query.get("userid") == ["@_bridge_n:a"]
            return (200, [NICK] if is_known else []) if name == "bridge" else (500, {})
        return 200, ["junk"]

    def setUp(self) -> None:
        super().setUp()
        self.http.answer = self.network

    def get(self, path: str, **query: Any) -> Any:
        return self.app.call("GET", f"{V3}/thirdparty/{path}", None, self.alice, query)

    def test_protocols(self) -> None:
        found = self.get("protocols")[1]
        self.assertEqual(["irc"], list(found))
        self.assertEqual(PROTOCOL["icon"], found["irc"]["icon"])
        instances = [(one["network_id"], one["instance_id"]) for one in found["irc"]["instances"]]
        self.assertEqual([("net-bridge", "bridge|net-bridge"), ("net-other", "other|net-other")], instances)
        self.assertEqual(found["irc"], self.get("protocol/irc")[1])
        self.refused(self.get("protocol/broken"), 404, "M_NOT_FOUND")
        self.refused(self.get("protocol/unknown"), 404, "M_NOT_FOUND")
        asked = len(self.http.asked)
        self.get("protocols")
        self.assertEqual(asked, len(self.http.asked), "it is remembered for a while")

    def test_locations_and_users(self) -> None:
        found = self.get("location/irc", channel="#x", access_token="secret")[1]
        self.assertEqual([{"alias": "#_bridge_x:a", "protocol": "irc", "fields": {}}], found)
        self.assertEqual({"channel": ["#x"]}, self.query)
        self.assertEqual(found, self.get("location", alias="#_bridge_x:a")[1])
        self.assertEqual({"alias": ["#_bridge_x:a"]}, self.query)
        self.assertEqual((200, [NICK]), self.get("user/irc", n="n", access_token="secret"))
        self.assertEqual({"n": ["n"]}, self.query)
        self.assertEqual((200, [NICK]), self.get("user", userid="@_bridge_n:a"))
        self.assertEqual({"userid": ["@_bridge_n:a"]}, self.query)
        # A network's fields may have any name; only of application services some say for whom they ask.
        names = {"user_id": f"@_bridge_bob:{SERVER_NAME}", "device_id": "D"}
        self.get("location/irc", channel="#x", **names)
        self.assertEqual({"channel": ["#x"], **{name: [value] for name, value in names.items()}}, self.query)
        del names["device_id"]
        self.app.ok("GET", f"{V3}/thirdparty/location/irc", None, AS_TOKEN, {"channel": "#x", **names})
        self.assertEqual({"channel": ["#x"]}, self.query)
        for path in ("user/irc", "user?userid=@x:a", "location/unknown"):
            self.refused(self.get(path), 404, "M_NOT_FOUND")
        self.refused(self.get("user"), 400, "M_MISSING_PARAM")
        self.refused(self.app.call("GET", f"{V3}/thirdparty/protocols"), 401, "M_MISSING_TOKEN")

    def test_one_that_is_down(self) -> None:
        self.http.answer = lambda _: None
        self.assertEqual((200, {}), self.get("protocols"))
        self.refused(self.get("location/irc"), 404, "M_NOT_FOUND")
        # Its silence is not remembered as long as what it says.
        self.http.answer = self.network
        self.app.advance(31)
        self.assertEqual(["irc"], list(self.get("protocols")[1]))

    def test_one_that_hangs(self) -> None:
        clock = TwistedClock(self.app.time)
        self.http.answer = lambda _: cut_off(clock, QUERY_TIMEOUT_S, Deferred())
        answer = self.app.start("GET", f"{V3}/thirdparty/protocols", None, self.alice)
        self.settle()
        # All protocols are asked for at once, and that nobody answered is remembered from then on.
        self.settle(QUERY_TIMEOUT_S)
        self.assertTrue(answer.called)
        asked = len(self.http.asked)
        self.assertEqual((200, {}), self.get("protocols"))
        self.assertEqual(asked, len(self.http.asked))


@on_each_database
class Listings(Questions):
    """Rooms in the directories of networks."""

    def list(
        self, room_id: str, visibility: Any = "public", token: str = AS_TOKEN, network: str = "irc"
    ) -> Any:
        path = f"{V3}/directory/list/appservice/{network}/{quote(room_id)}"
        return self.app.call("PUT", path, {"visibility": visibility}, token)

    def rooms(self, **body: Any) -> set[str]:
        found = self.app.ok("POST", f"{V3}/publicRooms", body, self.alice)
        return {one["room_id"] for one in found["chunk"]}

    def test_lists(self) -> None:
        plain = self.app.ok(
            "POST", f"{V3}/createRoom", {"preset": "public_chat", "visibility": "public"}, self.alice
        )["room_id"]
        listed = self.portal(name="in the network")
        self.assertEqual({plain}, self.rooms())
        self.assertEqual((200, {}), self.list(listed))
        self.assertEqual((200, {}), self.list(listed))
        for _ in range(2):
            self.assertEqual({plain}, self.rooms())
            self.assertEqual({listed}, self.rooms(third_party_instance_id="bridge|irc"))
            self.assertEqual({plain, listed}, self.rooms(include_all_networks=True))
            self.assertEqual(set(), self.rooms(third_party_instance_id="bridge|other"))
            self.restart()
        both = {"include_all_networks": True, "third_party_instance_id": "bridge|irc"}
        self.refused(self.app.call("POST", f"{V3}/publicRooms", both, self.alice), 400, "M_INVALID_PARAM")
        self.list(listed, "private")
        self.assertEqual(set(), self.rooms(third_party_instance_id="bridge|irc"))
        self.assertEqual({plain}, self.rooms(include_all_networks=True))

    def test_refused(self) -> None:
        room_id = self.portal()
        self.refused(self.list(room_id, token=self.alice), 403, "M_FORBIDDEN")
        self.refused(self.list(room_id, "nonsense"), 400, "M_BAD_JSON")
        self.refused(self.list("!none:x.example"), 404, "M_NOT_FOUND")
        self.refused(self.list(room_id, network="x" * 300), 400, "M_INVALID_PARAM")

    def test_so_many(self) -> None:
        self.patch(directory, "LISTED_MOST", 1)
        first, second = self.portal(), self.portal()
        self.assertEqual((200, {}), self.list(first))
        answer = self.list(second)
        self.refused(answer, 403, "M_USER_LIMIT_EXCEEDED")
        self.assertIn("info_uri", answer[1])
        self.assertEqual((200, {}), self.list(first, "private"))
        self.assertEqual((200, {}), self.list(second))
