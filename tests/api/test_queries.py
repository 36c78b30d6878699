"""Aliases, profiles and room directories across servers. spec: server-server-api#querying-for-information"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from homeserver.http.transport import PeerRequest
from homeserver.peers import queries
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.federation import NetServer, TestNet
from tests.support.http import Query, path_of

V3 = "/_matrix/client/v3"
FEDERATION = "/_matrix/federation/v1"
BOB = "@bob:b.example"


class QueriesCase(DatabaseCase):
    """Alice is on a, bob on b; s is a stranger with a key."""

    def setUp(self) -> None:
        self.net = TestNet(self)
        self.a = self.net.server("a.example", database=self.new_database())
        self.b = self.net.server("b.example", database=self.new_database())
        self.s = self.net.stranger("s.example")
        self.alice = self.a.register("alice")
        self.bob = self.b.register("bob")

    def call(
        self,
        server: NetServer,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = None,
        query: Query | None = None,
    ) -> tuple[int, Any]:
        answer = self.net.wait(server.http.call(method, path, body, token, query))
        return answer.status, answer.json

    def ok(self, *args: Any, **kwargs: Any) -> Any:
        status, json = self.call(*args, **kwargs)
        self.assertEqual(200, status, json)
        return json

    def refused(self, answer: tuple[int, Any], status: int, errcode: str) -> None:
        self.assertEqual((status, errcode), (answer[0], answer[1].get("errcode")), answer)

    def create(self, server: NetServer, token: str, **body: Any) -> str:
        room_id: str = self.ok(server, "POST", f"{V3}/createRoom", body, token)["room_id"]
        return room_id

    def ask(self, path: str, method: str = "GET", content: Any = None) -> tuple[int, Any]:
        """What b tells the stranger."""
        return self.s.ask("b.example", method, f"{FEDERATION}{path}", content)


def say(content: Any, _: PeerRequest) -> tuple[int, Any]:
    """What a stranger answers, whatever it is asked."""
    return 200, content


@on_each_database
class AliasQueries(QueriesCase):
    def resolve(self, alias: str) -> tuple[int, Any]:
        return self.call(self.a, "GET", path_of(V3 + "/directory/room/{alias}", alias=alias))

    def test_served(self) -> None:
        room_id = self.create(self.b, self.bob, room_alias_name="r", preset="public_chat")
        self.assertEqual(
            (200, {"room_id": room_id, "servers": ["b.example"]}),
            self.ask("/query/directory?room_alias=%23r%3Ab.example"),
        )
        for query, status, errcode in (
            ("", 400, "M_MISSING_PARAM"),
            ("?room_alias=nonsense", 400, "M_INVALID_PARAM"),
            ("?room_alias=%23r%00%3Ab.example", 400, "M_INVALID_PARAM"),
            ("?room_alias=%23none%3Ab.example", 404, "M_NOT_FOUND"),
            ("?room_alias=%23r%3Aother.example", 404, "M_NOT_FOUND"),
        ):
            self.refused(self.ask(f"/query/directory{query}"), status, errcode)
        unsigned = self.call(self.b, "GET", f"{FEDERATION}/query/directory?room_alias=%23r%3Ab.example")
        self.assertEqual(401, unsigned[0])

    def test_a_room_that_everybody_has_left(self) -> None:
        room_id = self.create(self.b, self.bob, room_alias_name="r")
        self.ok(self.b, "POST", path_of(V3 + "/rooms/{room}/leave", room=room_id), {}, self.bob)
        self.assertEqual(
            (200, {"room_id": room_id, "servers": []}),
            self.ask("/query/directory?room_alias=%23r%3Ab.example"),
        )

    def test_asked(self) -> None:
        room_id = self.create(self.b, self.bob, room_alias_name="r")
        for _ in range(2):
            expected = {"room_id": room_id, "servers": ["b.example"]}
            self.assertEqual((200, expected), self.resolve("#r:b.example"))
        self.assertEqual(1, len(self.net.sent("/query/directory")))
        self.refused(self.resolve("#none:b.example"), 404, "M_NOT_FOUND")
        self.refused(self.resolve("#r:nobody.example"), 502, "M_UNKNOWN")
        self.refused(self.resolve("#none:a.example"), 404, "M_NOT_FOUND")
        self.assertEqual([], self.net.sent("/query/directory", destination="a.example"))

    def test_what_a_server_makes_up(self) -> None:
        lies: tuple[Any, ...] = (
            [],
            {"room_id": "x"},
            {"servers": []},
            {"room_id": {"a": 1}},
            b"<html>",
            b'{"a":1e999}',
        )
        for lie in lies:
            self.s.answers["GET", f"{FEDERATION}/query/directory"] = partial(say, lie)
            self.refused(self.resolve("#r:s.example"), 502, "M_UNKNOWN")

    def test_canonical_aliases_of_other_servers(self) -> None:
        room_id = self.create(self.a, self.alice)
        path = path_of(V3 + "/rooms/{room}/state/m.room.canonical_alias/", room=room_id)
        told: dict[str, Any] = {"room_id": room_id, "servers": []}
        self.s.answers["GET", f"{FEDERATION}/query/directory"] = partial(say, told)
        for alias in ("#none:b.example", "#r:nobody.example"):
            answer = self.call(self.a, "PUT", path, {"alias": alias}, self.alice)
            self.refused(answer, 400, "M_BAD_ALIAS")
        self.ok(self.a, "PUT", path, {"alias": "#r:s.example"}, self.alice)
        # It is there already, so nobody is asked again.
        asked = len(self.net.sent("/query/directory"))
        self.ok(self.a, "PUT", path, {"alt_aliases": ["#r:s.example"]}, self.alice)
        self.assertEqual(asked, len(self.net.sent("/query/directory")))
        told["room_id"] = "!other:s.example"
        answer = self.call(self.a, "PUT", path, {"alias": "#q:s.example"}, self.alice)
        self.refused(answer, 400, "M_BAD_ALIAS")
        many = [f"#{number}:s.example" for number in range(21)]
        answer = self.call(self.a, "PUT", path, {"alt_aliases": many}, self.alice)
        self.refused(answer, 400, "M_INVALID_PARAM")


@on_each_database
class ProfileQueries(QueriesCase):
    def setUp(self) -> None:
        super().setUp()
        for field, value in (("displayname", "Bob"), ("org.example.pet", {"kind": "cat"})):
            self.ok(self.b, "PUT", f"{V3}/profile/{BOB}/{field}", {field: value}, self.bob)

    def test_served(self) -> None:
        whole = {"displayname": "Bob", "org.example.pet": {"kind": "cat"}}
        self.assertEqual((200, whole), self.ask("/query/profile?user_id=%40bob%3Ab.example"))
        one = self.ask("/query/profile?user_id=%40bob%3Ab.example&field=displayname")
        self.assertEqual((200, {"displayname": "Bob"}), one)
        for query, status, errcode in (
            ("", 400, "M_MISSING_PARAM"),
            ("?user_id=bob", 400, "M_INVALID_PARAM"),
            ("?user_id=%40none%3Ab.example", 404, "M_NOT_FOUND"),
            ("?user_id=%40bob%3Aa.example", 404, "M_NOT_FOUND"),
            ("?user_id=%40bob%3Ab.example&field=avatar_url", 404, "M_NOT_FOUND"),
        ):
            self.refused(self.ask(f"/query/profile{query}"), status, errcode)

    def test_other_queries(self) -> None:
        for path, status in (("/query/client_keys", 404), ("/query/", 404), ("/query", 404)):
            self.refused(self.ask(path), status, "M_UNRECOGNIZED")
        self.refused(self.ask("/query/profile", "POST", {}), 405, "M_UNRECOGNIZED")

    def test_asked(self) -> None:
        path = f"{V3}/profile/{BOB}"
        self.assertEqual("Bob", self.ok(self.a, "GET", path)["displayname"])
        self.assertEqual({"displayname": "Bob"}, self.ok(self.a, "GET", f"{path}/displayname"))
        self.refused(self.call(self.a, "GET", f"{path}/avatar_url"), 404, "M_NOT_FOUND")
        self.assertEqual(1, len(self.net.sent("/query/profile")))
        # What has changed there is seen here after a while.
        self.ok(self.b, "PUT", f"{path}/displayname", {"displayname": "Robert"}, self.bob)
        self.net.advance(120)
        self.assertEqual({"displayname": "Robert"}, self.ok(self.a, "GET", f"{path}/displayname"))
        self.refused(self.call(self.a, "GET", f"{V3}/profile/@none:b.example"), 404, "M_NOT_FOUND")
        self.refused(self.call(self.a, "GET", f"{V3}/profile/@bob:nobody.example"), 502, "M_UNKNOWN")
        self.refused(
            self.call(self.a, "PUT", f"{path}/displayname", {"displayname": "x"}, self.alice),
            403,
            "M_FORBIDDEN",
        )

    def test_a_server_that_does_not_answer(self) -> None:
        self.s.answers["GET", f"{FEDERATION}/query"] = None
        for number in range(100):
            path = path_of(V3 + "/profile/{user}", user=f"@u{number}:s.example")
            self.a.http.call("GET", path, client_ip=f"10.0.0.{number}")
            path = path_of(V3 + "/directory/room/{alias}", alias=f"#r{number}:s.example")
            self.a.http.call("GET", path, client_ip=f"10.0.1.{number}")
        # Others are asked at once.
        self.assertEqual("Bob", self.ok(self.a, "GET", f"{V3}/profile/{BOB}")["displayname"])
        self.create(self.b, self.bob, room_alias_name="r")
        self.ok(self.a, "GET", path_of(V3 + "/directory/room/{alias}", alias="#r:b.example"))

    def test_not_too_much_for_one_address(self) -> None:
        self.s.answers["GET", f"{FEDERATION}/query"] = None
        alias = path_of(V3 + "/directory/room/{alias}", alias="#r:s.example")
        for number in range(queries.EACH_ASKER):
            self.a.http.call("GET", path_of(V3 + "/profile/{user}/displayname", user=f"@u{number}:s.example"))
        room_id = self.create(self.b, self.bob, room_alias_name="r", preset="public_chat")
        elsewhere = path_of(V3 + "/directory/room/{alias}", alias="#r:b.example")
        for path in (f"{V3}/profile/{BOB}", f"{V3}/profile/{BOB}/displayname", elsewhere, alias):
            self.refused(self.call(self.a, "GET", path), 429, "M_LIMIT_EXCEEDED")
        # What is ours, and somebody who is known, from the same address.
        self.ok(self.a, "GET", f"{V3}/profile/@alice:a.example")
        self.ok(self.a, "GET", f"{V3}/profile/{BOB}/displayname", None, self.alice)
        path = path_of(V3 + "/join/{alias}", alias="#r:b.example")
        self.assertEqual(room_id, self.ok(self.a, "POST", path, {}, self.alice)["room_id"])

    def test_not_too_much_for_one_user_whichever_way_they_ask(self) -> None:
        self.s.answers["GET", f"{FEDERATION}/query"] = None
        self.s.answers["GET", f"{FEDERATION}/query/directory"] = None
        mine = self.create(self.a, self.alice)
        names = iter(range(1000))
        ways: list[tuple[str, Any, Any]] = [
            ("POST", lambda alias: path_of(V3 + "/join/{alias}", alias=alias), {}),
            ("GET", lambda alias: path_of("/_matrix/client/v1/room_summary/{alias}", alias=alias), None),
        ]
        for _ in range(queries.EACH_ASKER):
            method, path, body = ways[next(names) % 2]
            self.a.http.call(method, path(f"#r{next(names)}:s.example"), body, self.alice)
        for method, path, body in ways:
            answer = self.call(self.a, method, path("#more:s.example"), body, self.alice)
            self.refused(answer, 429, "M_LIMIT_EXCEEDED")
        canonical = path_of(V3 + "/rooms/{room}/state/m.room.canonical_alias", room=mine)
        sent = len(self.net.sent(f"{FEDERATION}/query/directory"))
        answer = self.call(self.a, "PUT", canonical, {"alt_aliases": ["#new:s.example"]}, self.alice)
        self.refused(answer, 400, "M_BAD_ALIAS")
        self.assertEqual(sent, len(self.net.sent(f"{FEDERATION}/query/directory")))

    def test_a_server_that_does_not_tell(self) -> None:
        forbidden = {"errcode": "M_FORBIDDEN", "error": "no"}
        self.s.answers["GET", f"{FEDERATION}/query/profile"] = lambda _: (403, forbidden)
        self.refused(self.call(self.a, "GET", f"{V3}/profile/@x:s.example"), 403, "M_FORBIDDEN")


@on_each_database
class DirectoryQueries(QueriesCase):
    def setUp(self) -> None:
        super().setUp()
        self.rooms = [
            self.create(self.b, self.bob, name=name, visibility="public", preset="public_chat")
            for name in ("First", "Second", "Third")
        ]
        self.create(self.b, self.bob, name="Hidden")

    def names(self, page: Any) -> list[str]:
        return [room["name"] for room in page["chunk"]]

    def test_served(self) -> None:
        status, page = self.ask("/publicRooms")
        self.assertEqual((200, ["First", "Second", "Third"]), (status, self.names(page)))
        _, page = self.ask("/publicRooms?limit=2")
        self.assertEqual(["First", "Second"], self.names(page))
        _, page = self.ask(f"/publicRooms?limit=2&since={page['next_batch']}")
        self.assertEqual(["Third"], self.names(page))
        wanted = {"filter": {"generic_search_term": "sec"}}
        self.assertEqual(["Second"], self.names(self.ask("/publicRooms", "POST", wanted)[1]))
        network = self.ask("/publicRooms?third_party_instance_id=irc")
        self.assertEqual((200, {"chunk": [], "total_room_count_estimate": 0}), network)
        for answer, errcode in (
            (self.ask("/publicRooms?limit=-1"), "M_INVALID_PARAM"),
            (self.ask("/publicRooms?since=nonsense"), "M_INVALID_PARAM"),
            (self.ask("/publicRooms?third_party_instance_id=a&include_all_networks=true"), "M_INVALID_PARAM"),
            (self.ask("/publicRooms", "POST", {"limit": "many"}), "M_BAD_JSON"),
            (self.ask("/publicRooms", "POST", {"limit": -1}), "M_INVALID_PARAM"),
            (
                self.ask("/publicRooms", "POST", {"filter": {"generic_search_term": "x" * 501}}),
                "M_INVALID_PARAM",
            ),
        ):
            self.refused(answer, 400, errcode)
        self.assertEqual(401, self.call(self.b, "GET", f"{FEDERATION}/publicRooms", None, self.bob)[0])

    def test_not_shown_to_others(self) -> None:
        config = self.b.app.services.settings.config
        self.b.app.reload(replace(config, public_rooms=replace(config.public_rooms, over_federation=False)))
        self.refused(self.ask("/publicRooms"), 403, "M_FORBIDDEN")
        self.refused(self.ask("/publicRooms", "POST", {}), 403, "M_FORBIDDEN")
        answer = self.call(self.a, "GET", f"{V3}/publicRooms", None, self.alice, {"server": "b.example"})
        self.refused(answer, 403, "M_FORBIDDEN")

    def test_asked(self) -> None:
        there: Query = {"server": "b.example"}
        page = self.ok(self.a, "GET", f"{V3}/publicRooms", None, self.alice, {**there, "limit": 2})
        self.assertEqual(["First", "Second"], self.names(page))
        page = self.ok(
            self.a,
            "GET",
            f"{V3}/publicRooms",
            None,
            self.alice,
            {**there, "limit": 2, "since": page["next_batch"]},
        )
        self.assertEqual(["Third"], self.names(page))
        body = {"filter": {"generic_search_term": "SEC", "room_types": [None]}, "limit": 5}
        for _ in range(2):
            page = self.ok(self.a, "POST", f"{V3}/publicRooms", body, self.alice, there)
            self.assertEqual(["Second"], self.names(page))
        sent = self.net.sent("/publicRooms")
        self.assertEqual(["GET", "GET", "POST"], [one.request.method for one in sent])
        self.assertEqual(body, sent[-1].json)
        # Our own is not asked for over the network.
        self.assertEqual(
            [], self.ok(self.a, "POST", f"{V3}/publicRooms", {}, self.alice, {"server": "a.example"})["chunk"]
        )
        self.assertEqual(3, len(self.net.sent("/publicRooms")))

    def test_asked_in_vain(self) -> None:
        for server, status, errcode in (
            ("nobody.example", 502, "M_UNKNOWN"),
            ("s.example", 404, "M_NOT_FOUND"),
            ("no server", 400, "M_INVALID_PARAM"),
        ):
            for method, body in (("GET", None), ("POST", {})):
                answer = self.call(self.a, method, f"{V3}/publicRooms", body, self.alice, {"server": server})
                self.refused(answer, status, errcode)
        # What is malformed is not passed on.
        answer = self.call(
            self.a, "POST", f"{V3}/publicRooms", {"limit": -1}, self.alice, {"server": "b.example"}
        )
        self.refused(answer, 400, "M_INVALID_PARAM")
        self.assertEqual([], self.net.sent("/publicRooms", destination="b.example"))
