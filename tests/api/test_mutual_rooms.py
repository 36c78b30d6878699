"""Rooms that one shares with somebody. spec: client-server-api#get_matrixclientv1mutual_rooms"""

from __future__ import annotations

from typing import Any

from homeserver.rooms.reads import mutual
from tests.api.talk import TalkCase, user
from tests.support.app import SERVER_NAME
from tests.support.databases import on_each_database

STABLE = "/_matrix/client/v1/mutual_rooms"
UNSTABLE = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"


@on_each_database
class MutualRoomsTests(TalkCase):
    """See the module."""

    def ask(self, name: str = "alice", path: str = STABLE, **query: Any) -> tuple[int, Any]:
        return self.get(name, path, **query)

    def test_shared(self) -> None:
        both = [self.make_room(joined=("bob",)) for _ in range(2)]
        self.make_room()
        left = self.make_room(joined=("bob",))
        self.leave("bob", left)
        answer = {"joined": both, "count": 2}
        for path in (STABLE, UNSTABLE):
            self.assertEqual((200, answer), self.ask(path=path, user_id=user("bob")))
        self.assertEqual((200, answer), self.ask("bob", user_id=user("alice")))

    def test_nobody(self) -> None:
        self.make_room(joined=("bob",))
        for unknown in ("@nobody:elsewhere.org", user("nobody")):
            self.assertEqual((200, {"joined": [], "count": 0}), self.ask(user_id=unknown))

    def test_pages(self) -> None:
        self.patch(mutual, "PAGE_MOST", 2)
        rooms = [self.make_room(joined=("bob",)) for _ in range(5)]
        for path, given, taken in (
            (STABLE, "next_batch", "from"),
            (UNSTABLE, "next_batch_token", "batch_token"),
        ):
            found: list[str] = []
            query: dict[str, str] = {}
            while True:
                status, json = self.ask(path=path, user_id=user("bob"), **query)
                self.assertEqual((200, 5), (status, json["count"]))
                self.assertLessEqual(len(json["joined"]), 2)
                found += json["joined"]
                if given not in json:
                    break
                query = {taken: json[given]}
            self.assertEqual(rooms, found)

    def test_an_empty_token_is_none(self) -> None:
        """mautrix-go sends it for the first page."""
        room_id = self.make_room(joined=("bob",))
        for path, name in ((STABLE, "from"), (UNSTABLE, "from"), (UNSTABLE, "batch_token")):
            found = self.ask(path=path, user_id=user("bob"), **{name: ""})
            self.assertEqual((200, {"joined": [room_id], "count": 1}), found)

    def test_refused(self) -> None:
        for query in (
            {},
            {"user_id": user("alice")},
            {"user_id": "bob"},
            {"user_id": ""},
            {"user_id": f"@Upper case:{SERVER_NAME}"},
            {"user_id": user("bob"), "from": "x"},
            {"user_id": user("bob"), "from": "-1"},
            {"user_id": user("bob"), "from": "9" * 30},
            {"user_id": user("bob"), "from": "²"},
        ):
            self.assert_refused(self.ask(**query), 400, "M_INVALID_PARAM")
        twice = f"{STABLE}?user_id={user('bob')}&user_id={user('alice')}"
        self.assert_refused(self.ask(path=twice), 400, "M_INVALID_PARAM")
        self.assertEqual(401, self.app.call("GET", STABLE, query={"user_id": user("bob")})[0])

    def test_advertised(self) -> None:
        features = self.app.ok("GET", "/_matrix/client/versions")["unstable_features"]
        self.assertTrue(features["uk.half-shot.msc2666.query_mutual_rooms"])
        self.assertTrue(features["uk.half-shot.msc2666.query_mutual_rooms.stable"])
