"""Names in bodies that hold a NUL: hardly anything is called so, and PostgreSQL cannot be asked for it as it is."""

from __future__ import annotations

from typing import Any

from tests.api.talk import V3
from tests.api.test_relations import V1, RelatingCase
from tests.support.databases import on_each_database

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"


@on_each_database
class NamesWithNul(RelatingCase):
    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.make_room(joined=("bob",))
        self.root = self.say("alice", self.room_id, "root")
        self.relate("alice", self.room_id, "m.thread", self.root)

    def test_somebody_who_is_ignored(self) -> None:
        path = f"{V3}/user/@bob:test.example/account_data/m.ignored_user_list"
        body: dict[str, Any] = {"ignored_users": {"\0": {}, "@a\0b:test.example": {}}}
        self.app.ok("PUT", path, body, self.tokens["bob"])
        threads = self.ok("bob", f"{V1}/rooms/{self.room_id}/threads")
        self.assertEqual([self.root], self.ids(threads))
        self.assertEqual(1, self.bundle("bob", self.room_id, self.root)["m.thread"]["count"])
        self.page("bob", self.room_id)
        self.ok("bob", f"{V3}/sync")

    def test_wishes_of_a_sliding_sync(self) -> None:
        pairs = [["\0", "\0"], ["m.room.member", "\0"], ["m.room.create", ""]]
        wish: dict[str, Any] = {"timeline_limit": 1, "required_state": pairs}
        subscriptions = {self.room_id: wish, "\0": wish, "!a\0b:test.example": wish}
        lists = {"all": {"ranges": [[0, 9]], **wish}}
        for body in ({"room_subscriptions": subscriptions}, {"lists": lists}):
            answer = self.app.ok("POST", SLIDING, body, self.tokens["bob"])
            self.assertEqual([self.room_id], list(answer["rooms"]))
            state = answer["rooms"][self.room_id]["required_state"]
            self.assertEqual(["m.room.create"], [event["type"] for event in state])
