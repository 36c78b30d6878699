"""The user directory: who is found, and by whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import select, update

from homeserver.config.schema import UserDirectory as SearchSettings
from homeserver.db.schema.accounts import accounts
from homeserver.db.schema.rooms import user_ids
from homeserver.db.statements import statement
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
        self.assertEqual([user("alice")], self.find("carol", "ali"))
        self.set_state("alice", public, "m.room.join_rules", {"join_rule": "invite"})
        self.assertEqual([], self.find("carol", "ali"))
        self.set_state("alice", closed, "m.room.history_visibility", {"history_visibility": "world_readable"})
        self.assertEqual([user("alice")], self.find("carol", "ali"))
        self.set_state("alice", closed, "m.room.history_visibility", {"history_visibility": "shared"})
        self.set_state("alice", public, "m.room.member", {"membership": "invite"}, user("bob"))
        self.assertEqual([], self.find("alice", "bo"), "invited is not there")
        self.join("bob", public)
        self.assertEqual([user("alice")], self.find("bob", "ali"))
        self.leave("bob", public)
        self.assertEqual([], self.find("bob", "ali"))
        self.assertEqual([], self.find("alice", "bo"))

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

    def test_by_their_whole_name(self) -> None:
        """Somebody of this server, who is in no room at all."""
        self.app.ok(
            "PUT", f"{V3}/profile/{user('bob')}/displayname", {"displayname": "Röbert"}, self.tokens["bob"]
        )
        for term in ("bob", " Bob ", "@bob", user("bob"), user("bob").upper()):
            self.assertEqual([user("bob")], self.find("alice", term), term)
        for term in (
            "bo",
            "bobb",
            "robert",
            "@bob:",
            "@bob:else.example",
            "alice",
            "@alice",
            "@nobody",
            "bo b",
        ):
            self.assertEqual([], self.find("alice", term), term)
        answer = self.app.ok(
            "POST", f"{V3}/user_directory/search", {"search_term": "bob"}, self.tokens["alice"]
        )
        self.assertEqual([{"user_id": user("bob"), "display_name": "Röbert"}], answer["results"])
        # As the rooms show them where there is one, and before others of that name.
        room_id = self.make_room(joined=("carol",))
        self.join("bob", room_id, displayname="Builder")
        self.join("carol", room_id, displayname="Bob")
        self.assertEqual([user("bob"), user("carol")], self.find("alice", "bob"))
        answer = self.app.ok(
            "POST", f"{V3}/user_directory/search", {"search_term": "bob"}, self.tokens["alice"]
        )
        self.assertEqual("Builder", answer["results"][0]["display_name"])

    def test_who_cannot_answer_is_not_found(self) -> None:
        self.app.app.reload(replace(self.app.config, user_directory=SearchSettings(search_all_users=True)))
        self.assertEqual([user("bob")], self.find("alice", "bob"))
        for column in ("deactivated", "guest", "locked"):
            self.mark("bob", column, 1)
            self.assertEqual([], self.find("alice", "bob"), column)
            self.assertEqual([], self.find("alice", "bo"), column)
            self.mark("bob", column, 0)
        self.mark("bob", "suspended", 1)
        self.assertEqual([user("bob")], self.find("alice", "bob"))
        self.mark("bob", "appservice_id", "bridge")
        self.assertEqual(([user("bob")], []), (self.find("alice", "bob"), self.find("alice", "bo")))

    def mark(self, name: str, column: str, value: Any) -> None:
        of_user = select(user_ids.c.nid).where(user_ids.c.user_id == user(name)).scalar_subquery()
        change = statement(update(accounts).where(accounts.c.user_nid == of_user).values({column: value}))
        self.app.wait(self.app.database.write(lambda tx: tx.run(change)))

    def test_everybody(self) -> None:
        """Where the configuration says so."""
        self.app.ok(
            "PUT", f"{V3}/profile/{user('bob')}/displayname", {"displayname": "Röbert B"}, self.tokens["bob"]
        )
        self.assertEqual([], self.find("alice", "robert"))
        self.app.app.reload(replace(self.app.config, user_directory=SearchSettings(search_all_users=True)))
        for term in ("b", "rob", "robert b", "b robert", "bob test.ex", "@bob:test"):
            self.assertEqual([user("bob")], self.find("alice", term), term)
        for term in ("", "obert", "roberta", "bob carol"):
            self.assertEqual([], self.find("alice", term), term)
        self.assertEqual([user("bob"), user("carol")], sorted(self.find("alice", "test.example")))
        self.assertEqual(1, len(self.find("alice", "test.example", limit=1)))
        # By what their profile says, not by what one of their rooms shows that others are not in.
        room_id = self.make_room(join_rule="invite", visibility="shared")
        self.set_state("alice", room_id, "m.room.member", {"membership": "invite"}, user("bob"))
        self.join("bob", room_id, displayname="Secret")
        self.assertEqual([], self.find("carol", "secret"))
        self.assertEqual([user("bob")], self.find("alice", "secret"))

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
