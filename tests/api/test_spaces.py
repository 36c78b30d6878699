"""Spaces and summaries of rooms: on one server, across servers, and where servers lie.

spec: client-server-api#spaces, server-server-api#spaces
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from federation.builder import Draft
from federation.ids import RoomId, UserId
from homeserver.http.transport import PeerRequest
from homeserver.rooms.reads import room_views
from homeserver.rooms.reads.spaces import ASKS, ASKS_EACH, TOKEN_LIFETIME_S
from tests.api.test_queries import FEDERATION, V3, QueriesCase
from tests.support.counting import count
from tests.support.databases import on_each_database
from tests.support.federation import NetServer
from tests.support.http import path_of

SPACE = {"creation_content": {"type": "m.space"}}
HIERARCHY = f"{FEDERATION}/hierarchy"


class SpacesCase(QueriesCase):
    def make(self, name: str, server: NetServer | None = None, **body: Any) -> str:
        """A room, by alice on a; public unless the body says otherwise."""
        where = server or self.a
        token = self.alice if where is self.a else self.bob
        return self.create(where, token, **{"name": name, "preset": "public_chat", **body})

    def space(self, name: str, server: NetServer | None = None, **body: Any) -> str:
        return self.make(name, server, **SPACE, **body)

    def link(
        self,
        space_id: str,
        *children: str,
        via: Sequence[str] = ("a.example",),
        server: NetServer | None = None,
        **content: Any,
    ) -> None:
        where = server or self.a
        token = self.alice if where is self.a else self.bob
        for child_id in children:
            path = path_of(V3 + "/rooms/{room}/state/m.space.child/{child}", room=space_id, child=child_id)
            self.ok(where, "PUT", path, {"via": list(via), **content}, token)
            # A moment each, so that their order is that of the links.
            self.net.advance(0.01)

    def page(
        self, room_id: str, token: str | None = None, server: NetServer | None = None, **query: Any
    ) -> tuple[int, Any]:
        where = server or self.a
        path = path_of("/_matrix/client/v1/rooms/{room}/hierarchy", room=room_id)
        return self.call(
            where, "GET", path, None, token or (self.alice if where is self.a else self.bob), query
        )

    def names(self, room_id: str, token: str | None = None, **query: Any) -> list[str]:
        """Every page's rooms by name."""
        names: list[str] = []
        start: dict[str, Any] = {}
        for _ in range(50):
            status, page = self.page(room_id, token, **query, **start)
            self.assertEqual(200, status, page)
            names += [room.get("name", "?") for room in page["rooms"]]
            if "next_batch" not in page:
                return names
            start = {"from": page["next_batch"]}
        raise AssertionError("the walk does not end")

    def place(
        self,
        server: NetServer,
        room_id: str,
        sender: str,
        content: dict[str, Any],
        state_key: str,
        kind: str = "m.room.member",
    ) -> None:
        """An event past the endpoints."""
        actor = server.app.core.rooms.known(room_id)
        assert actor is not None
        draft = Draft(RoomId(room_id), kind, UserId(sender), content, state_key)
        self.net.wait(actor.run(lambda turn: turn.place(draft)))

    def tell(self, room_id: str, **query: Any) -> tuple[int, Any]:
        """What a tells the stranger."""
        tail = "?suggested_only=true" if query.get("suggested_only") else ""
        return self.s.ask("a.example", "GET", path_of(HIERARCHY + "/{room}", room=room_id) + tail)


@on_each_database
class Walking(SpacesCase):
    """On one server."""

    def test_depth_first(self) -> None:
        top, inner, deep = self.space("top"), self.space("inner"), self.space("deep")
        one, two, three, four = (self.make(name) for name in ("one", "two", "three", "four"))
        self.link(top, one, inner, two)
        self.link(inner, three, deep)
        self.link(deep, four)
        everything = ["top", "one", "inner", "three", "deep", "four", "two"]
        self.assertEqual(everything, self.names(top))
        for limit in (1, 2, 3, 7, 1_000):
            self.assertEqual(everything, self.names(top, limit=limit))
        self.assertEqual(["top"], self.names(top, max_depth=0))
        self.assertEqual(["top", "one", "inner", "two"], self.names(top, max_depth=1, limit=3))
        self.assertEqual(["inner", "three", "deep", "four"], self.names(inner))
        self.assertEqual(["one"], self.names(one))

    def test_each_space_has_its_children(self) -> None:
        """However many those have that are looked at with it."""
        self.patch(room_views, "CHILDREN_MOST", 4)
        top, subs = self.space("top"), [self.space(name) for name in ("one", "two", "three")]
        self.link(top, *subs)
        for sub in subs:
            self.link(sub, *(f"!{sub[1:9]}{number}:nobody.example" for number in range(3)))
        page = self.page(top, max_depth=1)[1]
        told = {room["name"]: len(room["children_state"]) for room in page["rooms"]}
        self.assertEqual({"top": 3, "one": 3, "two": 3, "three": 3}, told)

    def test_what_it_says_of_rooms(self) -> None:
        top = self.space("top", topic="All", room_alias_name="top")
        room = self.make(
            "room",
            initial_state=[
                {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}},
                {"type": "m.room.avatar", "content": {"url": "mxc://a.example/x"}},
            ],
        )
        self.link(top, room, suggested=True, order="a")
        rooms = self.page(top)[1]["rooms"]
        (child,) = rooms[0].pop("children_state")
        self.assertEqual([], rooms[1].pop("children_state"))
        version = rooms[0].pop("room_version")
        expected = {
            "room_id": top,
            "name": "top",
            "topic": "All",
            "canonical_alias": "#top:a.example",
            "num_joined_members": 1,
            "world_readable": False,
            "guest_can_join": False,
            "join_rule": "public",
            "room_type": "m.space",
        }
        self.assertEqual(expected, rooms[0])
        self.assertEqual(
            {
                "room_id": room,
                "name": "room",
                "avatar_url": "mxc://a.example/x",
                "encryption": "m.megolm.v1.aes-sha2",
                "num_joined_members": 1,
                "world_readable": False,
                "guest_can_join": False,
                "join_rule": "public",
                "room_version": version,
            },
            rooms[1],
        )
        ts_ms = child.pop("origin_server_ts")
        self.assertLess(0, ts_ms)
        content = {"via": ["a.example"], "suggested": True, "order": "a"}
        self.assertEqual(
            {"type": "m.space.child", "state_key": room, "content": content, "sender": "@alice:a.example"},
            child,
        )

    def test_order_and_suggestions(self) -> None:
        top = self.space("top")
        one, two, three = (self.make(name) for name in ("one", "two", "three"))
        self.link(top, one)
        self.link(top, two, order="b", suggested=True)
        self.link(top, three, order="a")
        self.assertEqual(["top", "three", "two", "one"], self.names(top))
        self.assertEqual(["top", "two"], self.names(top, suggested_only=True))
        self.assertEqual(1, len(self.page(top, suggested_only=True)[1]["rooms"][0]["children_state"]))

    def test_loops_and_what_is_no_child(self) -> None:
        top, inner = self.space("top"), self.space("inner")
        room, gone, plain = self.make("room"), self.make("gone"), self.make("plain")
        self.link(top, top, inner, room)
        self.link(inner, top, inner, room)
        self.link(top, gone)
        self.link(top, gone, via=())
        self.link(plain, room)  # in a room that is no space
        self.assertEqual(["top", "inner", "room"], self.names(top))
        self.assertEqual(["plain"], self.names(plain))
        self.assertEqual([], self.page(plain)[1]["rooms"][0]["children_state"])

    def test_a_child_that_was_redacted(self) -> None:
        top, room = self.space("top"), self.make("room")
        path = path_of(V3 + "/rooms/{room}/state/m.space.child/{child}", room=top, child=room)
        event_id = self.ok(self.a, "PUT", path, {"via": ["a.example"]}, self.alice)["event_id"]
        self.assertEqual(["top", "room"], self.names(top))
        redact = path_of(V3 + "/rooms/{room}/redact/{event}/t", room=top, event=event_id)
        self.ok(self.a, "PUT", redact, {}, self.alice)
        self.assertEqual(["top"], self.names(top))

    def test_what_one_may_see(self) -> None:
        carol = self.a.register("carol")
        top = self.space("top")
        private: dict[str, Any] = {"preset": "private_chat"}
        rule = lambda content: [{"type": "m.room.join_rules", "content": content}]  # noqa: E731
        rooms = {
            "invited": self.make("invited", **private),
            "hidden": self.make("hidden", **private),
            "joined": self.make("joined", **private),
            "readable": self.make(
                "readable",
                **private,
                initial_state=[
                    {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}
                ],
            ),
            "knockable": self.make("knockable", **private, initial_state=rule({"join_rule": "knock"})),
            "old knock": self.make(
                "old knock", **private, room_version="6", initial_state=rule({"join_rule": "knock"})
            ),
            "banned": self.make("banned"),
        }
        allow = lambda name: [{"type": "m.room_membership", "room_id": rooms[name]}]  # noqa: E731
        for name, content in (
            ("for members", {"join_rule": "restricted", "allow": allow("joined")}),
            ("for others", {"join_rule": "restricted", "allow": allow("hidden")}),
            ("for both", {"join_rule": "knock_restricted", "allow": allow("hidden")}),
        ):
            rooms[name] = self.make(name, **private, initial_state=rule(content))
        self.link(top, *rooms.values())
        for name, what in (("invited", "invite"), ("joined", "invite"), ("banned", "ban")):
            path = path_of(V3 + "/rooms/{room}/" + what, room=rooms[name])
            self.ok(self.a, "POST", path, {"user_id": "@carol:a.example"}, self.alice)
        self.ok(self.a, "POST", path_of(V3 + "/join/{room}", room=rooms["joined"]), {}, carol)
        expected = ["top", "invited", "joined", "readable", "knockable", "for members", "for both"]
        self.assertEqual(expected, self.names(top, carol))
        self.assertEqual(["top", *rooms], self.names(top))
        # The same of single rooms, and of their hierarchy.
        for name, room_id in rooms.items():
            status = self.call(
                self.a, "GET", path_of("/_matrix/client/v1/room_summary/{room}", room=room_id), None, carol
            )[0]
            self.assertEqual(200 if name in expected else 404, status, name)
            answer = self.page(room_id, carol)
            if name in expected:
                self.assertEqual(200, answer[0], name)
            else:
                self.refused(answer, 403, "M_FORBIDDEN")
        self.assertEqual(
            [rooms["joined"]],
            next(
                room["allowed_room_ids"]
                for room in self.page(top, carol)[1]["rooms"]
                if room["name"] == "for members"
            ),
        )

    def test_tokens(self) -> None:
        top = self.space("top")
        self.link(top, *(self.make(str(number)) for number in range(4)))
        token = self.page(top, limit=2)[1]["next_batch"]
        first = self.page(top, limit=2, **{"from": token})[1]
        # The same token again gives the same again: an answer may be lost.
        again = self.page(top, limit=2, **{"from": token})[1]
        self.assertEqual(first["rooms"], again["rooms"])
        # An empty one is none.
        empty: dict[str, Any] = {"from": ""}
        start = self.page(top, limit=2, **empty)[1]
        self.assertEqual(self.page(top, limit=2)[1]["rooms"], start["rooms"])
        bob = self.a.register("bob")
        for room_id, who, query in (
            (top, None, {"from": "nonsense"}),
            (top, None, {"from": token, "suggested_only": True}),
            (top, None, {"from": token, "max_depth": 3}),
            (top, bob, {"from": token}),
            (self.space("other"), None, {"from": token}),
        ):
            self.refused(self.page(room_id, who, **query), 400, "M_INVALID_PARAM")
        self.net.advance(TOKEN_LIFETIME_S)
        self.refused(self.page(top, **{"from": token}), 400, "M_INVALID_PARAM")

    def test_malformed(self) -> None:
        top = self.space("top")
        for query in (
            {"limit": 0},
            {"limit": -1},
            {"limit": "x"},
            {"max_depth": -1},
            {"suggested_only": "maybe"},
        ):
            self.refused(self.page(top, **query), 400, "M_INVALID_PARAM")
        self.refused(self.page("!none:a.example"), 403, "M_FORBIDDEN")
        self.assertEqual(
            401, self.call(self.a, "GET", path_of("/_matrix/client/v1/rooms/{room}/hierarchy", room=top))[0]
        )


@on_each_database
class Telling(SpacesCase):
    """What other servers are told."""

    def test_a_space(self) -> None:
        top, inner = self.space("top"), self.space("inner")
        one, two, private = self.make("one"), self.make("two"), self.make("private", preset="private_chat")
        self.link(top, one, inner, private, "!far:far.example")
        self.link(inner, two, suggested=True)
        self.link(top, two, suggested=True)
        status, told = self.tell(top)
        self.assertEqual(200, status)
        self.assertEqual("top", told["room"]["name"])
        self.assertEqual(5, len(told["room"]["children_state"]))
        self.assertEqual(["one", "inner", "two"], [room["name"] for room in told["children"]])
        self.assertEqual([0, 1, 0], [len(room["children_state"]) for room in told["children"]])
        # Of what is only known elsewhere nothing is said.
        self.assertEqual([private], told["inaccessible_children"])
        suggested = self.tell(top, suggested_only=True)[1]
        self.assertEqual(["two"], [room["name"] for room in suggested["children"]])
        self.assertEqual(
            ([], 1), (suggested["inaccessible_children"], len(suggested["room"]["children_state"]))
        )

    def test_what_it_costs(self) -> None:
        """As many reads for many children as for few, met before or not."""
        spaces = []
        for number in (2, 40):
            spaces.append(space := self.space("space"))
            self.link(
                space, *(f"!far{one}of{number}:far.example" for one in range(number)), via=["far.example"]
            )
            for kind in ("public_chat", "private_chat"):
                self.link(space, *(self.make("room", preset=kind) for _ in range(number // 2)))
        self.tell(spaces[0])
        self.a.restart()
        self.tell(spaces[0])
        costs = [len(count(self.a, partial(self.tell, space)).statements) for space in spaces]
        # Two rooms of the first were looked up before.
        self.assertEqual((costs[1], True), (costs[0] + 1, costs[1] < 20), costs)

    def test_refused(self) -> None:
        private = self.space("private", preset="private_chat")
        for room_id in ("!none:a.example", private):
            self.refused(self.tell(room_id), 404, "M_NOT_FOUND")
        self.refused(self.s.ask("a.example", "GET", f"{HIERARCHY}/nonsense"), 400, "M_INVALID_PARAM")
        self.refused(
            self.s.ask(
                "a.example", "GET", path_of(HIERARCHY + "/{room}", room=private) + "?suggested_only=7"
            ),
            400,
            "M_INVALID_PARAM",
        )
        self.assertEqual(
            401, self.call(self.a, "GET", path_of(HIERARCHY + "/{room}", room=private), None, self.alice)[0]
        )
        # A room that everybody here has left is not known here any more.
        left = self.space("left")
        self.assertEqual(200, self.tell(left)[0])
        self.ok(self.a, "POST", path_of(V3 + "/rooms/{room}/leave", room=left), {}, self.alice)
        self.refused(self.tell(left), 404, "M_NOT_FOUND")

    def test_who_could_come_in(self) -> None:
        """An invitation, a member, a member of a room that lets in, and a server that is shut out."""
        private = self.make("private", preset="private_chat")
        restricted = self.make(
            "restricted",
            preset="private_chat",
            initial_state=[
                {
                    "type": "m.room.join_rules",
                    "content": {
                        "join_rule": "restricted",
                        "allow": [{"type": "m.room_membership", "room_id": private}],
                    },
                }
            ],
        )
        self.refused(self.tell(private), 404, "M_NOT_FOUND")
        self.refused(self.tell(restricted), 404, "M_NOT_FOUND")
        # Another server whose name ends alike is somebody else.
        for user_id, status in (
            ("@eve:not-s.example", 404),
            ("@eve:s.example:8448", 404),
            ("@eve:s.example", 200),
        ):
            self.place(self.a, private, "@alice:a.example", {"membership": "invite"}, user_id)
            self.assertEqual(status, self.tell(private)[0], user_id)
        self.refused(self.tell(restricted), 404, "M_NOT_FOUND")
        self.place(self.a, private, "@eve:s.example", {"membership": "join"}, "@eve:s.example")
        self.assertEqual((200, 200), (self.tell(private)[0], self.tell(restricted)[0]))
        public = self.make("public")
        self.assertEqual(200, self.tell(public)[0])
        acl = {"allow": ["*"], "deny": ["s.example"]}
        self.place(self.a, public, "@alice:a.example", acl, "", "m.room.server_acl")
        self.refused(self.tell(public), 404, "M_NOT_FOUND")


@on_each_database
class Asking(SpacesCase):
    """Rooms of other servers in our users' spaces."""

    def test_a_space_of_another_server(self) -> None:
        top, theirs = self.space("top"), self.space("theirs", self.b)
        one, two = self.make("one", self.b), self.make("two", self.b)
        hidden = self.make("hidden", self.b, preset="private_chat")
        ours = self.make("ours")
        deep = self.space("deep", self.b)
        self.link(deep, two, via=["b.example"], server=self.b)
        self.link(theirs, one, hidden, deep, via=["b.example"], server=self.b)
        self.link(theirs, ours, via=["a.example"], server=self.b)
        self.link(top, theirs, via=["b.example"])
        expected = ["top", "theirs", "one", "deep", "two", "ours"]
        self.assertEqual(expected, self.names(top))
        # One question for each of the two spaces, kept for the next walk.
        self.assertEqual(2, len(self.net.sent(HIERARCHY)))
        self.assertEqual(expected, self.names(top, limit=1))
        self.assertEqual(2, len(self.net.sent(HIERARCHY)))
        self.net.advance(120)
        self.assertEqual(["top", "theirs"], self.names(top, max_depth=1))
        self.assertEqual(3, len(self.net.sent(HIERARCHY)))

    def test_a_space_elsewhere_that_somebody_is_invited_to(self) -> None:
        for version in ("11", "12"):
            wanted = {"preset": "private_chat", "room_version": version}
            theirs = self.space(f"theirs {version}", self.b, **wanted)
            inside = self.make(f"inside {version}", self.b)
            self.link(theirs, inside, via=["b.example"], server=self.b)
            self.refused(self.page(theirs), 403, "M_FORBIDDEN")
            body = {"user_id": "@alice:a.example"}
            self.ok(self.b, "POST", path_of(V3 + "/rooms/{room}/invite", room=theirs), body, self.bob)
            self.net.advance(120)
            # The id of a room of version 12 names no server: the invite does.
            self.assertEqual([f"theirs {version}", f"inside {version}"], self.names(theirs))
            summary = path_of("/_matrix/client/v1/room_summary/{room}", room=theirs)
            found = self.ok(self.a, "GET", summary, None, self.alice)
            self.assertEqual((f"theirs {version}", "invite"), (found["name"], found["membership"]))

    def test_servers_one_after_the_other(self) -> None:
        top, theirs = self.space("top"), self.make("theirs", self.b)
        self.net.stranger("silent.example")
        self.link(
            top, theirs, via=["a.example", "nobody.example", "s.example", "b.example", "silent.example"]
        )
        self.assertEqual(["top", "theirs"], self.names(top))
        asked = [one.request.destination for one in self.net.sent(HIERARCHY)]
        self.assertEqual(["nobody.example", "s.example", "b.example"], asked)

    def test_not_too_many_at_once(self) -> None:
        top = self.space("top")
        vias = [f"s{number}.example" for number in range(5)]
        self.link(top, *(f"!{number}:s.example" for number in range(10)), via=vias)
        self.link(top, self.make("last"))
        status, page = self.page(top)
        self.assertEqual((200, ["top"]), (status, [room["name"] for room in page["rooms"]]))
        self.assertLessEqual(len(self.net.sent(HIERARCHY)), ASKS)
        self.assertEqual(["top", "last"], self.names(top))

    def test_lies(self) -> None:
        top = self.space("top")
        secret = self.make("secret", preset="private_chat")
        room_id = "!room:s.example"
        self.link(top, room_id, via=["s.example"])
        for number, (answer, names) in enumerate(_lies(room_id, top, secret)):
            self.s.answers["GET", HIERARCHY] = partial(_answer, answer, room_id)
            self.assertEqual(names, self.names(top), number)
            self.net.advance(120)
        carol = self.a.register("carol")
        self.assertEqual(["top", "s"], self.names(top, carol))

    def test_a_space_without_end(self) -> None:
        """Every room that is asked for has two others in it."""
        top = self.space("top")
        self.link(top, "!r:s.example", via=["s.example"])

        def answer(request: PeerRequest) -> tuple[int, Any]:
            name = request.uri.rpartition("%21")[2].partition("%3A")[0]
            children = [
                {
                    "type": "m.space.child",
                    "state_key": f"!{name}{end}:s.example",
                    "content": {"via": ["s.example"]},
                    "sender": "@e:s.example",
                    "origin_server_ts": 1,
                }
                for end in "ab"
            ]
            room = {
                "room_id": f"!{name}:s.example",
                "num_joined_members": 1,
                "world_readable": True,
                "guest_can_join": False,
                "room_type": "m.space",
                "children_state": children,
            }
            return 200, {"room": room, "children": [], "inaccessible_children": []}

        self.s.answers["GET", HIERARCHY] = answer
        status, page = self.page(top, limit=100)
        self.assertEqual((200, 1 + ASKS - ASKS_EACH + 1), (status, len(page["rooms"])))
        for _ in range(5):
            status, page = self.page(top, limit=100, **{"from": page["next_batch"]})
            self.assertEqual((200, ASKS - ASKS_EACH + 1), (status, len(page["rooms"])))


def _lies(room_id: str, top: str, secret: str) -> tuple[tuple[Any, list[str]], ...]:
    """Answers of a server about its room, and the names of the rooms that alice then sees."""
    good: dict[str, Any] = {
        "room_id": room_id,
        "num_joined_members": 1,
        "world_readable": False,
        "guest_can_join": False,
        "name": "s",
    }
    child: dict[str, Any] = {
        "type": "m.space.child",
        "state_key": "!x:s.example",
        "content": {"via": ["s.example"]},
        "sender": "@e:s.example",
        "origin_server_ts": 1,
    }
    space: dict[str, Any] = {**good, "room_type": "m.space"}
    wrong = {"type": "x", "content": [], "sender": "e", "origin_server_ts": "1", "state_key": "x"}
    junk = [5, {}, *({**child, name: value} for name, value in wrong.items())]
    return (
        ([], ["top"]),
        ({}, ["top"]),
        ({"room": None}, ["top"]),
        ({"room": {**good, "room_id": "!other:s.example"}}, ["top"]),
        ({"room": good}, ["top", "s"]),
        ({"room": good, "children": "many", "inaccessible_children": {"a": 1}}, ["top", "s"]),
        ({"room": {**good, "join_rule": "invite"}}, ["top"]),
        ({"room": {**good, "join_rule": 5}}, ["top", "s"]),
        ({"room": {**good, "join_rule": "restricted", "allowed_room_ids": [top]}}, ["top", "s"]),
        (
            {"room": {**good, "join_rule": "restricted", "allowed_room_ids": [5, "x", secret]}},
            ["top", "s"],
        ),
        ({"room": {**good, "join_rule": "restricted", "allowed_room_ids": "all"}}, ["top"]),
        ({"room": {**good, "children_state": [child]}}, ["top", "s"]),
        ({"room": {**space, "children_state": junk}}, ["top", "s"]),
        (
            {
                "room": {**space, "children_state": [child]},
                "children": [{**good, "room_id": "!x:s.example", "name": "x"}],
            },
            ["top", "s", "x"],
        ),
        (
            {
                "room": {**space, "children_state": [child]},
                "inaccessible_children": ["!x:s.example", 5],
            },
            ["top", "s"],
        ),
        # What we know ourselves is not theirs to tell.
        (
            {
                "room": {**space, "children_state": [{**child, "state_key": secret}]},
                "children": [{**good, "room_id": secret, "name": "evil"}],
            },
            ["top", "s", "secret"],
        ),
    )


def _answer(content: Any, room_id: str, request: PeerRequest) -> tuple[int, Any]:
    if room_id.partition(":")[0].removeprefix("!") in request.uri:
        return 200, content
    return 404, {"errcode": "M_NOT_FOUND", "error": "no"}
