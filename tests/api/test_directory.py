"""Aliases and the published room directory. spec: client-server-api#published-room-directory"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from federation.ids import RoomId
from homeserver.config.schema import PublicRooms
from homeserver.http.errors import MatrixError
from homeserver.rooms.aliases import Aliases
from tests.api.rooms import V3, RoomsCase
from tests.support.app import SERVER_NAME, TestApp, test_config
from tests.support.databases import on_each_database


def alias_of(name: str) -> str:
    return f"#{name}:{SERVER_NAME}"


class AliasesCase(RoomsCase):
    def path(self, name: str) -> str:
        return f"{V3}/directory/room/{quote(alias_of(name))}"

    def put(self, token: str, name: str, room_id: Any) -> tuple[int, Any]:
        return self.app.call("PUT", self.path(name), {"room_id": room_id}, token)

    def delete(self, token: str, name: str) -> tuple[int, Any]:
        return self.app.call("DELETE", self.path(name), None, token)

    def get(self, name: str) -> tuple[int, Any]:
        return self.app.call("GET", self.path(name))

    def canonical(self, room_id: str) -> Any:
        return self.state(room_id, "m.room.canonical_alias")


@on_each_database
class MakingAliases(AliasesCase):
    def test_members_make_and_remove_aliases(self) -> None:
        room_id = self.create(preset="public_chat")
        self.ok(self.bob, f"/join/{room_id}")
        self.assertEqual((200, {}), self.put(self.bob, "one", room_id))
        self.assertEqual((200, {"room_id": room_id, "servers": [SERVER_NAME]}), self.get("one"))
        self.assert_refused(self.put(self.alice, "one", room_id), 409, "M_UNKNOWN")
        self.assertEqual((200, {}), self.put(self.alice, "two", room_id))
        found = self.app.ok("GET", f"{V3}/rooms/{room_id}/aliases", None, self.bob)
        self.assertEqual({"aliases": [alias_of("one"), alias_of("two")]}, found)
        self.assertEqual((200, {}), self.delete(self.bob, "one"))
        self.assert_refused(self.get("one"), 404, "M_NOT_FOUND")
        self.assert_refused(self.delete(self.bob, "one"), 404, "M_NOT_FOUND")

    def test_refusals(self) -> None:
        room_id = self.create(preset="public_chat")
        self.assert_refused(self.put(self.bob, "one", room_id), 403, "M_FORBIDDEN")
        self.assert_refused(self.put(self.bob, "one", f"!no:{SERVER_NAME}"), 403, "M_FORBIDDEN")
        self.assert_refused(self.put(self.alice, "one", "room"), 400, "M_INVALID_PARAM")
        self.assert_refused(self.put(self.alice, "one", 1), 400, "M_BAD_JSON")
        elsewhere = self.app.call(
            "PUT", f"{V3}/directory/room/%23a:else.example", {"room_id": room_id}, self.alice
        )
        self.assert_refused(elsewhere, 400, "M_INVALID_PARAM")
        for name in ("%23a", "a:b", "%23:" + SERVER_NAME):
            self.assert_refused(self.app.call("GET", f"{V3}/directory/room/{name}"), 400, "M_INVALID_PARAM")
        self.assert_refused(self.app.call("GET", f"{V3}/directory/room/%23a:else.example"), 502, "M_UNKNOWN")

    def test_only_its_maker_and_the_powerful_remove_an_alias(self) -> None:
        room_id = self.create(preset="public_chat")
        self.ok(self.bob, f"/join/{room_id}")
        self.put(self.alice, "one", room_id)
        self.put(self.bob, "two", room_id)
        self.assert_refused(self.delete(self.bob, "one"), 403, "M_FORBIDDEN")
        self.assertEqual((200, {}), self.delete(self.alice, "two"))

    def test_a_removed_alias_leaves_the_canonical_alias_event(self) -> None:
        room_id = self.create(preset="public_chat", room_alias_name="one")
        self.put(self.alice, "two", room_id)
        content = {"alias": alias_of("one"), "alt_aliases": [alias_of("two")], "x": 1}
        self.put_state(self.alice, room_id, "m.room.canonical_alias", content)
        self.delete(self.alice, "two")
        self.assertEqual({"alias": alias_of("one"), "alt_aliases": [], "x": 1}, self.canonical(room_id))
        self.delete(self.alice, "one")
        self.assertEqual({"alt_aliases": [], "x": 1}, self.canonical(room_id))

    def test_without_the_power_the_alias_goes_and_the_event_stays(self) -> None:
        room_id = self.create(preset="public_chat")
        self.ok(self.bob, f"/join/{room_id}")
        self.put(self.bob, "one", room_id)
        self.put_state(self.alice, room_id, "m.room.canonical_alias", {"alias": alias_of("one")})
        self.assertEqual((200, {}), self.delete(self.bob, "one"))
        self.assertEqual({"alias": alias_of("one")}, self.canonical(room_id))

    def test_strangers_see_aliases_of_world_readable_rooms_alone(self) -> None:
        room_id = self.create(preset="public_chat", room_alias_name="one")
        path = f"{V3}/rooms/{room_id}/aliases"
        self.assert_refused(self.app.call("GET", path, None, self.bob), 403, "M_FORBIDDEN")
        visibility = {"history_visibility": "world_readable"}
        self.put_state(self.alice, room_id, "m.room.history_visibility", visibility)
        self.assertEqual({"aliases": [alias_of("one")]}, self.app.ok("GET", path, None, self.bob))
        unknown = self.app.call("GET", f"{V3}/rooms/!a:b/aliases", None, self.bob)
        self.assert_refused(unknown, 403, "M_FORBIDDEN")


class CanonicalAlias(AliasesCase):
    def check(self, room_id: str, content: Any) -> str | None:
        core = self.app.app.core
        aliases = Aliases(SERVER_NAME, core.rooms, core.committer, core.index, core.servers)
        try:
            self.app.wait(
                Deferred.fromCoroutine(
                    aliases.check_canonical_alias(RoomId(room_id), f"@alice:{SERVER_NAME}", content)
                )
            )
        except MatrixError as error:
            self.assertEqual(400, error.status)
            return error.errcode
        return None

    def test_new_aliases_must_lead_here(self) -> None:
        room_id, other = self.create(room_alias_name="one"), self.create(room_alias_name="two")
        self.assertIsNone(self.check(room_id, {"alias": alias_of("one"), "alt_aliases": [alias_of("one")]}))
        self.assertIsNone(self.check(room_id, {"alias": None}))
        self.assertIsNone(self.check(room_id, {"alias": ""}))
        self.assertIsNone(self.check(room_id, {}))
        for name in ("two", "none"):
            self.assertEqual("M_BAD_ALIAS", self.check(room_id, {"alias": alias_of(name)}))
            self.assertEqual("M_BAD_ALIAS", self.check(room_id, {"alt_aliases": [alias_of(name)]}))
        self.assertIsNone(self.check(other, {"alias": alias_of("two")}))

    def test_malformed_ones(self) -> None:
        room_id = self.create()
        malformed: tuple[dict[str, Any], ...] = (
            {"alias": "one"},
            {"alias": 1},
            {"alias": {}},
            {"alt_aliases": "x"},
            {"alt_aliases": ["#a"]},
            {"alt_aliases": [1]},
            {"alt_aliases": [alias_of("a")] * 1001},
        )
        for content in malformed:
            self.assertEqual("M_INVALID_PARAM", self.check(room_id, content), content)

    def test_what_was_listed_before_is_not_looked_at(self) -> None:
        room_id = self.create(room_alias_name="one")
        self.put_state(
            self.alice, room_id, "m.room.canonical_alias", {"alt_aliases": ["junk", alias_of("gone")]}
        )
        self.assertIsNone(
            self.check(room_id, {"alias": alias_of("one"), "alt_aliases": ["junk", alias_of("gone")]})
        )


@on_each_database
class Published(RoomsCase):
    def put(self, token: str, room_id: str, body: Any = None) -> tuple[int, Any]:
        return self.app.call("PUT", f"{V3}/directory/list/room/{room_id}", body, token)

    def visibility(self, room_id: str) -> str:
        found: str = self.app.ok("GET", f"{V3}/directory/list/room/{room_id}")["visibility"]
        return found

    def test_in_and_out(self) -> None:
        room_id = self.create(preset="public_chat")
        self.assertEqual((200, {}), self.put(self.alice, room_id))
        self.assertEqual("public", self.visibility(room_id))
        self.assertEqual((200, {}), self.put(self.alice, room_id, {"visibility": "public"}))
        self.assertEqual((200, {}), self.put(self.alice, room_id, {"visibility": "private"}))
        self.assertEqual("private", self.visibility(room_id))

    def test_refusals(self) -> None:
        room_id = self.create(preset="public_chat")
        self.ok(self.bob, f"/join/{room_id}")
        self.assert_refused(self.put(self.bob, room_id), 403, "M_FORBIDDEN")
        self.assert_refused(self.put(self.alice, room_id, {"visibility": "secret"}), 400, "M_BAD_JSON")
        self.assert_refused(self.put(self.alice, f"!no:{SERVER_NAME}"), 404, "M_NOT_FOUND")
        unknown = self.app.call("GET", f"{V3}/directory/list/room/!no:{SERVER_NAME}")
        self.assert_refused(unknown, 404, "M_NOT_FOUND")


@on_each_database
class PublicRoomsList(RoomsCase):
    def listed(self, token: str | None = None, **body: Any) -> Any:
        return self.app.ok("POST", f"{V3}/publicRooms", body, token or self.alice)

    def ids(self, **body: Any) -> list[str]:
        return [one["room_id"] for one in self.listed(**body)["chunk"]]

    def publish(self, **body: Any) -> str:
        return self.create(visibility="public", **body)

    def test_what_is_shown(self) -> None:
        room_id = self.publish(
            name="Cheese",
            topic="All of it",
            room_alias_name="cheese",
            creation_content={"type": "m.space"},
            initial_state=[
                {"type": "m.room.avatar", "content": {"url": "mxc://a/b"}},
                {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}},
                {"type": "m.room.guest_access", "content": {"guest_access": "can_join"}},
            ],
        )
        expected = {
            "room_id": room_id,
            "num_joined_members": 1,
            "world_readable": True,
            "guest_can_join": True,
            "canonical_alias": alias_of("cheese"),
            "name": "Cheese",
            "topic": "All of it",
            "avatar_url": "mxc://a/b",
            "join_rule": "public",
            "room_type": "m.space",
        }
        self.assertEqual({"chunk": [expected], "total_room_count_estimate": 1}, self.listed())

    def test_it_follows_what_happens(self) -> None:
        first, second = self.publish(name="a"), self.publish(name="b")
        self.assertEqual([first, second], self.ids())
        self.ok(self.bob, f"/join/{second}")
        self.assertEqual([second, first], self.ids())
        self.put_state(self.alice, first, "m.room.name", {"name": "c"})
        self.assertEqual({"b", "c"}, {one["name"] for one in self.listed()["chunk"]})
        self.app.ok("PUT", f"{V3}/directory/list/room/{second}", {"visibility": "private"}, self.alice)
        self.assertEqual([first], self.ids())
        third = self.publish(name="d")
        self.assertEqual([first, third], self.ids())
        self.app.restart()
        self.assertEqual([first, third], self.ids())

    def test_a_room_in_which_nobody_is_left(self) -> None:
        """Nobody could join it, nor has anybody the power to take it out."""
        left, other = self.publish(name="a"), self.publish(name="b")
        self.assertEqual([left, other], self.ids())
        self.ok(self.alice, f"/rooms/{left}/leave")
        self.assertEqual([other], self.ids())
        self.assertEqual(1, self.listed()["total_room_count_estimate"])
        self.app.restart()
        self.assertEqual([other], self.ids())

    def test_nothing_is_read_while_nothing_changes(self) -> None:
        self.publish(name="a")
        self.listed()
        seen: list[str] = []
        self.app.engine.hook = seen.append
        self.listed()
        self.assertEqual([], seen)

    def test_search(self) -> None:
        cheese = self.publish(name="Cheese", topic="Brie")
        wine = self.publish(name="Wine", room_alias_name="rot")
        for term, expected in (
            ("CHEESE", [cheese]),
            ("bri", [cheese]),
            ("#rot", [wine]),
            (wine, [wine]),
            ("e", [cheese, wine]),
            ("beer", []),
            ("", [cheese, wine]),
        ):
            self.assertEqual(expected, self.ids(filter={"generic_search_term": term}), term)

    def test_room_types(self) -> None:
        space, room = self.publish(creation_content={"type": "m.space"}), self.publish()
        for types, expected in (
            (["m.space"], [space]),
            ([None], [room]),
            ([None, "m.space"], [space, room]),
            ([], []),
            (["org.other"], []),
        ):
            self.assertEqual(expected, self.ids(filter={"room_types": types}), types)

    def test_pages_both_ways(self) -> None:
        rooms = [self.publish(name=str(number)) for number in range(5)]
        first = self.listed(limit=2)
        self.assertNotIn("prev_batch", first)
        second = self.listed(limit=2, since=first["next_batch"])
        third = self.listed(limit=2, since=second["next_batch"])
        self.assertNotIn("next_batch", third)
        pages = [[one["room_id"] for one in page["chunk"]] for page in (first, second, third)]
        self.assertEqual([rooms[:2], rooms[2:4], rooms[4:]], pages)
        back = self.listed(limit=2, since=third["prev_batch"])
        self.assertEqual(second["chunk"], back["chunk"])
        self.assertEqual(first["chunk"], self.listed(limit=2, since=back["prev_batch"])["chunk"])
        self.assertEqual(first, self.listed(limit=2, since=""))
        query = {"limit": "2", "since": first["next_batch"]}
        self.assertEqual(second, self.app.ok("GET", f"{V3}/publicRooms", None, self.bob, query))

    def test_a_page_beyond_the_end_leads_back(self) -> None:
        rooms = [self.publish(name=str(number)) for number in range(2)]
        last = self.listed(limit=1)["next_batch"]
        self.app.ok("PUT", f"{V3}/directory/list/room/{rooms[1]}", {"visibility": "private"}, self.alice)
        page = self.listed(limit=1, since=last)
        self.assertEqual([], page["chunk"])
        self.assertEqual(
            [rooms[0]], [one["room_id"] for one in self.listed(since=page["prev_batch"])["chunk"]]
        )

    def test_networks(self) -> None:
        self.publish()
        self.assertEqual([], self.ids(third_party_instance_id="irc"))
        self.assertEqual(1, len(self.ids(include_all_networks=True)))
        body = {"third_party_instance_id": "irc", "include_all_networks": True}
        self.assert_refused(self.post(self.alice, "/publicRooms", body), 400, "M_INVALID_PARAM")

    def test_refusals(self) -> None:
        for body, errcode in (
            ({"limit": "x"}, "M_BAD_JSON"),
            ({"limit": -1}, "M_INVALID_PARAM"),
            ({"since": "x"}, "M_INVALID_PARAM"),
            ({"since": "f" + "1" * 40 + "_1"}, "M_INVALID_PARAM"),
            ({"filter": []}, "M_BAD_JSON"),
            ({"filter": {"room_types": [1]}}, "M_BAD_JSON"),
            ({"filter": {"generic_search_term": "x" * 501}}, "M_INVALID_PARAM"),
        ):
            self.assert_refused(self.post(self.alice, "/publicRooms", body), 400, errcode)
        elsewhere = self.app.call("GET", f"{V3}/publicRooms", None, self.alice, {"server": "else.example"})
        self.assert_refused(elsewhere, 502, "M_UNKNOWN")
        malformed = self.app.call("POST", f"{V3}/publicRooms", {}, self.alice, {"server": "a b"})
        self.assert_refused(malformed, 400, "M_INVALID_PARAM")
        own = self.app.call("GET", f"{V3}/publicRooms", None, self.alice, {"server": SERVER_NAME})
        self.assertEqual(200, own[0])

    def test_a_login_is_needed(self) -> None:
        self.assert_refused(self.app.call("GET", f"{V3}/publicRooms"), 401, "M_MISSING_TOKEN")
        self.assert_refused(self.app.call("POST", f"{V3}/publicRooms", {}), 401, "M_MISSING_TOKEN")

    def test_hostile_state_is_left_out(self) -> None:
        state = [
            {"type": "m.room.name", "content": {"name": {"a": 1}}},
            {
                "type": "m.room.topic",
                "content": {"topic": "plain", "m.topic": {"m.text": [{"mimetype": 1}, 2]}},
            },
            {"type": "m.room.avatar", "content": {"url": 7}},
            {"type": "m.room.canonical_alias", "content": {"alias": ["x"]}},
            {"type": "m.room.join_rules", "content": {"join_rule": 4}},
        ]
        room_id = self.publish(initial_state=state)
        expected = {
            "room_id": room_id,
            "num_joined_members": 1,
            "world_readable": False,
            "guest_can_join": False,
            "topic": "plain",
            "join_rule": "invite",
        }
        self.assertEqual([expected], self.listed()["chunk"])


class OpenList(RoomsCase):
    def make_app(self) -> TestApp:
        return TestApp(self, config=test_config(public_rooms=PublicRooms(without_auth=True)))

    def test_anybody_may_look(self) -> None:
        room_id = self.create(visibility="public")
        found = self.app.ok("GET", f"{V3}/publicRooms")
        self.assertEqual([room_id], [one["room_id"] for one in found["chunk"]])
