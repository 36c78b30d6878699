"""Administrators list and block rooms, and give power in them: docs/admin-api.md."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.api.administration import AdminCase
from tests.api.talk import V3, user
from tests.support.databases import on_each_database

ROOMS = "/v1/rooms"


class RoomCase(AdminCase):
    def create(self, **fields: Any) -> str:
        room_id: str = self.app.ok("POST", f"{V3}/createRoom", fields, self.tokens["alice"])["room_id"]
        self.app.advance(1)
        return room_id

    def state(self, room_id: str, event_type: str, state_key: str = "") -> Any:
        found = self.does("GET", f"{ROOMS}/{room_id}/state", None, {"type": event_type})["state"]
        return next((one["content"] for one in found if one["state_key"] == state_key), None)

    def membership(self, room_id: str, name: str) -> str | None:
        content = self.state(room_id, "m.room.member", user(name))
        word: str | None = None if content is None else content["membership"]
        return word


@on_each_database
class Lists(RoomCase):
    def names(self, **query: Any) -> list[str | None]:
        return [room["name"] for room in self.does("GET", ROOMS, None, query)["rooms"]]

    def test_none(self) -> None:
        self.assertEqual({"rooms": [], "offset": 0, "total_rooms": 0}, self.does("GET", ROOMS))

    def test_what_is_said_of_each(self) -> None:
        encryption = {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        room_id = self.create(
            name="Public",
            topic="Things",
            visibility="public",
            room_alias_name="public",
            room_version="11",
            creation_content={"m.federate": False, "type": "m.space"},
            initial_state=[encryption],
        )
        self.join("bob", room_id)
        found = self.does("GET", ROOMS)
        (room,) = found["rooms"]
        count = room.pop("state_events")
        self.assertGreaterEqual(count, 9)
        expected = {
            "room_id": room_id,
            "name": "Public",
            "canonical_alias": "#public:test.example",
            "joined_members": 2,
            "joined_local_members": 2,
            "version": "11",
            "creator": user("alice"),
            "encryption": "m.megolm.v1.aes-sha2",
            "federatable": False,
            "public": True,
            "join_rules": "public",
            "guest_access": "forbidden",
            "history_visibility": "shared",
            "room_type": "m.space",
        }
        self.assertEqual(expected, room | {"guest_access": "forbidden"})
        whole = self.does("GET", f"{ROOMS}/{room_id}")
        self.assertEqual(
            (2, "Things", None, False, False, None),
            (
                whole["joined_local_devices"],
                whole["topic"],
                whole["avatar"],
                whole["forgotten"],
                whole["tombstoned"],
                whole["replacement_room"],
            ),
        )
        members = self.does("GET", f"{ROOMS}/{room_id}/members")
        self.assertEqual({"members": [user("alice"), user("bob")], "total": 2}, members)

    def test_what_events_say_wrongly(self) -> None:
        room_id = self.make_room()
        self.set_state("alice", room_id, "m.room.name", {"name": ["x"]})
        self.set_state("alice", room_id, "m.room.tombstone", {"replacement_room": 5})
        whole = self.does("GET", f"{ROOMS}/{room_id}")
        self.assertEqual((None, True, None), (whole["name"], whole["tombstoned"], whole["replacement_room"]))

    def test_who_has_forgotten_it(self) -> None:
        room_id = self.make_room()
        self.leave("alice", room_id)
        self.assertFalse(self.does("GET", f"{ROOMS}/{room_id}")["forgotten"])
        self.app.ok("POST", self.path(room_id, "forget"), {}, self.tokens["alice"])
        whole = self.does("GET", f"{ROOMS}/{room_id}")
        self.assertEqual((True, 0), (whole["forgotten"], whole["joined_members"]))

    def test_unknown(self) -> None:
        for path in (f"{ROOMS}/!none:x.org", f"{ROOMS}/!none:x.org/members"):
            self.refuses(404, "M_NOT_FOUND", "GET", path)
        self.refuses(400, "M_INVALID_PARAM", "GET", f"{ROOMS}/none")

    def test_pages_and_orders(self) -> None:
        for name in ("b", "C", "a"):
            self.create(name=name)
        self.assertEqual(["a", "b", "C"], self.names())
        self.assertEqual(["C", "b", "a"], self.names(dir="b"))
        first = self.does("GET", ROOMS, None, {"limit": 2})
        self.assertEqual((0, 3, 2), (first["offset"], first["total_rooms"], first["next_batch"]))
        self.assertNotIn("prev_batch", first)
        last = self.does("GET", ROOMS, None, {"limit": 2, "from": 2})
        self.assertEqual((["C"], 0), ([room["name"] for room in last["rooms"]], last["prev_batch"]))
        self.assertNotIn("next_batch", last)
        for order_by in (
            "alphabetical",
            "size",
            "canonical_alias",
            "joined_members",
            "joined_local_members",
            "version",
            "creator",
            "encryption",
            "federatable",
            "public",
            "join_rules",
            "guest_access",
            "history_visibility",
            "state_events",
        ):
            for direction in ("f", "b"):
                self.assertEqual(3, len(self.names(order_by=order_by, dir=direction)), order_by)
        wrong: list[Any] = [
            {"order_by": "x"},
            {"dir": "x"},
            {"search_term": ""},
            {"limit": "x"},
            {"from": -1},
        ]
        for query in wrong:
            self.refuses(400, "M_INVALID_PARAM", "GET", ROOMS, None, query)

    def test_the_largest_first(self) -> None:
        small = self.create(name="small", visibility="public", room_version="9")
        large = self.create(name="large", visibility="public", room_version="10")
        self.join("bob", large)
        for order_by in ("size", "joined_members", "joined_local_members", "state_events", "version"):
            self.assertEqual(["large", "small"], self.names(order_by=order_by), order_by)
            self.assertEqual(["small", "large"], self.names(order_by=order_by, dir="b"), order_by)
        self.assertNotEqual(small, large)

    def test_some(self) -> None:
        alias_id = self.create(name="Cats", room_alias_name="felines", visibility="public")
        self.create(name="Dogs")
        empty_id = self.create(name="Empty")
        self.leave("alice", empty_id)
        self.assertEqual(["Cats"], self.names(search_term="CAT"))
        self.assertEqual(["Cats"], self.names(search_term="feli"))
        self.assertEqual(["Cats"], self.names(search_term=alias_id))
        self.assertEqual([], self.names(search_term="example"))
        self.assertEqual(["Cats"], self.names(public_rooms="true"))
        self.assertEqual(["Dogs", "Empty"], self.names(public_rooms="false"))
        self.assertEqual(["Empty"], self.names(empty_rooms="true"))
        self.assertEqual(["Cats", "Dogs"], self.names(empty_rooms="false"))

    def test_nobody_else(self) -> None:
        room_id = self.make_room()
        for method, path, body in (
            ("GET", ROOMS, None),
            ("GET", f"{ROOMS}/{room_id}", None),
            ("GET", f"{ROOMS}/{room_id}/members", None),
            ("GET", f"{ROOMS}/{room_id}/block", None),
            ("PUT", f"{ROOMS}/{room_id}/block", {"block": True}),
            ("POST", f"{ROOMS}/{room_id}/make_room_admin", {}),
            ("POST", f"/v1/join/{room_id}", {"user_id": user("bob")}),
        ):
            self.assert_refused(self.ask(method, path, body, who="alice"), 403, "M_FORBIDDEN")
        self.assertEqual({"block": False}, self.does("GET", f"{ROOMS}/{room_id}/block"))


@on_each_database
class Blocks(RoomCase):
    def block(self, room_id: str, block: bool = True) -> None:
        found = self.does("PUT", f"{ROOMS}/{room_id}/block", {"block": block})
        self.assertEqual({"block": block}, found)

    def test_said(self) -> None:
        path = f"{ROOMS}/!unknown:x.org/block"
        self.assertEqual({"block": False}, self.does("GET", path))
        for _ in range(2):
            self.block("!unknown:x.org")
        self.assertEqual({"block": True, "user_id": user("root")}, self.does("GET", path))
        self.app.restart()
        self.assertEqual({"block": True, "user_id": user("root")}, self.does("GET", path))
        for _ in range(2):
            self.block("!unknown:x.org", False)
        self.assertEqual({"block": False}, self.does("GET", path))
        for body in ({}, {"block": 1}, {"block": None}):
            self.refuses(400, "M_BAD_JSON", "PUT", path, body)

    def test_nobody_comes_in(self) -> None:
        room_id = self.create(preset="public_chat", room_alias_name="blocked")
        self.block(room_id)
        bob, path = self.tokens["bob"], self.path(room_id, "join")
        member = self.path(room_id, "state", "m.room.member", user("bob"))
        for method, where, body, token in (
            ("POST", path, {}, bob),
            ("POST", f"{V3}/join/{quote('#blocked:test.example')}", {}, bob),
            ("PUT", member, {"membership": "join"}, bob),
            ("POST", f"{V3}/knock/{room_id}", {}, bob),
            ("POST", self.path(room_id, "invite"), {"user_id": user("bob")}, self.tokens["alice"]),
            ("PUT", member, {"membership": "invite"}, self.tokens["alice"]),
        ):
            answer = self.app.call(method, where, body, token)
            self.assert_refused(answer, 403, "M_FORBIDDEN")
            self.assertIn("blocked", answer[1]["error"], (method, where))
        self.assertIsNone(self.membership(room_id, "bob"))
        # Whoever is in it stays, and may say so again.
        self.app.ok("POST", path, {}, self.tokens["alice"])
        self.say("alice", room_id, "still here")
        self.block(room_id, False)
        self.app.ok("POST", path, {}, bob)

    def test_a_room_of_another_server(self) -> None:
        self.block("!far:x.org")
        answer = self.app.call("POST", f"{V3}/join/!far:x.org", {}, self.tokens["bob"], {"via": "x.org"})
        self.assert_refused(answer, 403, "M_FORBIDDEN")
        self.assertIn("blocked", answer[1]["error"])


@on_each_database
class Power(RoomCase):
    def make_admin(self, name: str, room: str | None = None) -> None:
        if room is None:
            super().make_admin(name)
            return
        body = {"user_id": user(name)} if name else {}
        self.assertEqual({}, self.does("POST", f"{ROOMS}/{quote(room)}/make_room_admin", body))

    def levels(self, room_id: str) -> Any:
        return self.state(room_id, "m.room.power_levels")["users"]

    def test_a_member(self) -> None:
        room_id = self.create(preset="public_chat", room_version="11", room_alias_name="power")
        self.join("bob", room_id)
        self.make_admin("bob", room_id)
        self.assertEqual({user("alice"): 100, user("bob"): 100}, self.levels(room_id))
        # By an alias; anybody may join, so the administrator is not invited.
        self.make_admin("", "#power:test.example")
        self.assertEqual(100, self.levels(room_id)[user("root")])
        self.assertIsNone(self.membership(room_id, "root"))

    def test_who_is_not_in_the_room(self) -> None:
        room_id = self.create(preset="private_chat", room_version="11")
        self.make_admin("", room_id)
        self.assertEqual(100, self.levels(room_id)[user("root")])
        self.assertEqual("invite", self.membership(room_id, "root"))
        self.app.ok("POST", self.path(room_id, "join"), {}, self.tokens["root"])
        # Again: nothing changes by it.
        before = self.does("GET", f"{ROOMS}/{room_id}")["state_events"]
        self.make_admin("", room_id)
        self.assertEqual(before, self.does("GET", f"{ROOMS}/{room_id}")["state_events"])
        self.assertEqual("join", self.membership(room_id, "root"))

    def test_where_creators_have_power(self) -> None:
        room_id = self.create(preset="private_chat", room_version="12")
        self.make_admin("bob", room_id)
        # Enough for everything that there is to do there.
        content = self.state(room_id, "m.room.power_levels")
        self.assertGreaterEqual(content["users"][user("bob")], max([100, *content["events"].values()]))
        self.assertNotIn(user("alice"), content["users"])
        self.make_admin("alice", room_id)
        self.assertNotIn(user("alice"), self.levels(room_id))

    def test_a_room_without_levels(self) -> None:
        room_id = self.make_room()
        self.app.ok("POST", f"{V3}/createRoom", {}, self.tokens["bob"])
        self.join("bob", room_id)
        self.make_admin("bob", room_id)
        self.assertEqual({user("alice"): 100, user("bob"): 100}, self.levels(room_id))

    def test_where_nobody_has_the_power(self) -> None:
        room_id = self.create(preset="public_chat", room_version="11")
        self.join("bob", room_id)
        self.leave("alice", room_id)
        path = f"{ROOMS}/{room_id}/make_room_admin"
        self.refuses(400, "M_INVALID_PARAM", "POST", path, {})
        self.leave("bob", room_id)
        self.refuses(400, "M_INVALID_PARAM", "POST", path, {})
        self.refuses(404, "M_NOT_FOUND", "POST", f"{ROOMS}/!none:x.org/make_room_admin", {})
        self.refuses(400, "M_BAD_JSON", "POST", path, {"user_id": 1})
        self.refuses(400, "M_INVALID_PARAM", "POST", path, {"user_id": "bob"})


@on_each_database
class BringingIn(RoomCase):
    def bring(self, room: str, name: str = "bob") -> Any:
        return self.does("POST", f"/v1/join/{quote(room)}", {"user_id": user(name)})

    def test_an_open_room(self) -> None:
        room_id = self.create(preset="public_chat", room_alias_name="open")
        self.assertEqual({"room_id": room_id}, self.bring("#open:test.example"))
        self.assertEqual("join", self.membership(room_id, "bob"))
        self.assertEqual({"room_id": room_id}, self.bring(room_id))

    def test_a_closed_one(self) -> None:
        room_id = self.create(preset="private_chat", invite=[user("root")])
        path, body = f"/v1/join/{room_id}", {"user_id": user("bob")}
        # The administrator must be in it to invite somebody.
        self.refuses(403, "M_FORBIDDEN", "POST", path, body)
        self.app.ok("POST", self.path(room_id, "join"), {}, self.tokens["root"])
        self.bring(room_id)
        self.assertEqual("join", self.membership(room_id, "bob"))

    def test_who_cannot_be_brought(self) -> None:
        room_id = self.create(preset="public_chat")
        path = f"/v1/join/{room_id}"
        self.refuses(404, "M_NOT_FOUND", "POST", path, {"user_id": user("nobody")})
        self.refuses(400, "M_INVALID_PARAM", "POST", path, {"user_id": "@x:elsewhere.org"})
        self.refuses(400, "M_BAD_JSON", "POST", path, {})
        self.refuses(
            404, "M_NOT_FOUND", "POST", f"/v1/join/{quote('#none:test.example')}", {"user_id": user("bob")}
        )
        self.does("POST", f"/v1/deactivate/{user('bob')}", {})
        self.refuses(400, "M_INVALID_PARAM", "POST", path, {"user_id": user("bob")})
