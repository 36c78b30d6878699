"""The user directory: who is found, and by whom."""

from __future__ import annotations

from typing import Any

from tests.api.talk import V3, TalkCase, user
from tests.support.databases import on_each_database


@on_each_database
class UserDirectory(TalkCase):
    """alice searches."""

    def setUp(self) -> None:
        super().setUp()
        self.app.app.begin()
        self.app.advance(0)
        self.add("carol")

    def find(self, name: str, term: str, **fields: Any) -> list[str]:
        body = {"search_term": term, **fields}
        answer = self.app.ok("POST", f"{V3}/user_directory/search", body, self.tokens[name])
        return [one["user_id"] for one in answer["results"]]

    def test_names(self) -> None:
        room_id = self.make_room()
        self.join("bob", room_id, displayname="Röbert Builder", avatar_url="mxc://a.example/b")
        for term in ("b", "bob", "BO", "robert", "build rob", "@bob:test.example", "@bob"):
            self.assertEqual([user("bob")], self.find("alice", term), term)
        for term in ("", "ob", "\x00", '"', "bob*x", "'", "builders", "x" * 10_000):
            self.assertEqual([], self.find("alice", term), term[:20])
        answer = self.app.ok(
            "POST", f"{V3}/user_directory/search", {"search_term": "bob"}, self.tokens["alice"]
        )
        person = {"user_id": user("bob"), "display_name": "Röbert Builder", "avatar_url": "mxc://a.example/b"}
        self.assertEqual({"results": [person], "limited": False}, answer)
        self.join("bob", room_id, displayname="Other")
        self.assertEqual([], self.find("alice", "robert"))

    def test_who_is_seen(self) -> None:
        public, closed = self.make_room(), self.make_room(join_rule="invite", visibility="shared")
        self.assertEqual([user("alice")], self.find("carol", "alice"))
        self.set_state("alice", public, "m.room.join_rules", {"join_rule": "invite"})
        self.assertEqual([], self.find("carol", "alice"))
        self.set_state("alice", closed, "m.room.history_visibility", {"history_visibility": "world_readable"})
        self.assertEqual([user("alice")], self.find("carol", "alice"))
        self.set_state("alice", closed, "m.room.history_visibility", {"history_visibility": "shared"})
        self.set_state("alice", public, "m.room.member", {"membership": "invite"}, user("bob"))
        self.assertEqual([], self.find("alice", "bob"), "invited is not there")
        self.join("bob", public)
        self.assertEqual([user("alice")], self.find("bob", "alice"))
        self.leave("bob", public)
        self.assertEqual([], self.find("bob", "alice"))
        self.assertEqual([], self.find("alice", "bob"))

    def test_limits_and_ignored(self) -> None:
        room_id = self.make_room(joined=("bob", "carol"))
        self.assertEqual(
            [user("bob"), user("carol")], sorted(self.find("alice", "test.example")), "not herself"
        )
        status, json = self.app.call(
            "POST",
            f"{V3}/user_directory/search",
            {"search_term": "test.example", "limit": 1},
            self.tokens["alice"],
        )
        self.assertEqual((200, 1, True), (status, len(json["results"]), json["limited"]))
        path = f"{V3}/user/{user('alice')}/account_data/m.ignored_user_list"
        ignored: dict[str, Any] = {"ignored_users": {user("bob"): {}}}
        self.app.ok("PUT", path, ignored, self.tokens["alice"])
        self.assertEqual([], self.find("alice", "bob"))
        self.assertEqual([user("bob")], self.find("carol", "bob"))
        self.assertEqual([], self.texts_of(room_id))

    def texts_of(self, room_id: str) -> list[Any]:
        """Memberships are not found as messages."""
        room_events = {"search_term": "bob", "filter": {"rooms": [room_id]}}
        body = {"search_categories": {"room_events": room_events}}
        found: list[Any] = self.app.ok("POST", f"{V3}/search", body, self.tokens["carol"])[
            "search_categories"
        ]["room_events"]["results"]
        return found

    def test_wrong_requests(self) -> None:
        wrong: list[Any] = [
            {},
            {"search_term": 1},
            {"search_term": "x", "limit": -1},
            {"search_term": "x", "limit": "1"},
        ]
        for body in wrong:
            status, json = self.app.call("POST", f"{V3}/user_directory/search", body, self.tokens["alice"])
            self.assertEqual((400, "M_BAD_JSON"), (status, json["errcode"]))
        status, json = self.app.call("POST", f"{V3}/user_directory/search", {"search_term": "x"})
        self.assertEqual((401, "M_MISSING_TOKEN"), (status, json["errcode"]))
