"""Account data that is deleted (MSC3391)."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from homeserver.store import account_data as store
from tests.api.rooms import ALICE, BOB, V3, RoomsCase
from tests.support.databases import on_each_database

UNSTABLE = "/_matrix/client/unstable/org.matrix.msc3391"
TYPE = "org.example.x"


@on_each_database
class Deletion(RoomsCase):
    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.create(preset="public_chat")
        self.places = (f"/user/{ALICE}", f"/user/{ALICE}/rooms/{self.room_id}")

    def put(self, place: str, content: Any, type_: str = TYPE) -> None:
        self.app.ok("PUT", f"{V3}{place}/account_data/{type_}", content, self.alice)

    def get(self, place: str, type_: str = TYPE) -> tuple[int, Any]:
        return self.app.call("GET", f"{V3}{place}/account_data/{type_}", None, self.alice)

    def delete(self, place: str, type_: str = TYPE, token: str = "") -> tuple[int, Any]:
        return self.app.call("DELETE", f"{UNSTABLE}{place}/account_data/{type_}", None, token or self.alice)

    def told(self, since: str | None = None) -> tuple[list[Any], str]:
        """What a sync says of the type, for the account and for the room."""
        query: Any = {"timeout": 0} if since is None else {"timeout": 0, "since": since}
        answer = self.app.ok("GET", f"{V3}/sync", None, self.alice, query)
        room = answer.get("rooms", {}).get("join", {}).get(self.room_id, {})
        found = [
            [one["content"] for one in part.get("account_data", {}).get("events", []) if one["type"] == TYPE]
            for part in (answer, room)
        ]
        return found, answer["next_batch"]

    def test_by_both_ways(self) -> None:
        for way in (self.delete, lambda place: self.put(place, {})):
            for place in self.places:
                self.put(place, {"x": 1})
            found, since = self.told()
            self.assertEqual([[{"x": 1}]] * 2, found)
            for place in self.places:
                way(place)
                self.assert_refused(self.get(place), 404, "M_NOT_FOUND")
            # Those who knew it hear of it; a new client never does.
            found, after = self.told(since)
            self.assertEqual([[{}]] * 2, found)
            self.assertEqual([[], []], self.told(after)[0])
            self.assertEqual([[], []], self.told()[0])
            self.app.restart()
            self.assertEqual([[{}]] * 2, self.told(since)[0])
            self.assertEqual([[], []], self.told()[0])

    def test_of_what_is_not_there(self) -> None:
        since = self.told()[1]
        for place in self.places:
            self.assertEqual((200, {}), self.delete(place))
            self.put(place, {"x": 1})
            self.assertEqual((200, {}), self.delete(place))
            self.assertEqual((200, {}), self.delete(place))
        found, since = self.told(since)
        self.assertEqual([[{}]] * 2, found)
        # A client that writes an empty one waits for the echo of it, whatever was there.
        for place in self.places:
            self.put(place, {})
        self.assertEqual([[{}]] * 2, self.told(since)[0])

    def test_kept_again(self) -> None:
        for place in self.places:
            self.put(place, {"x": 1})
            self.delete(place)
            self.put(place, {"x": 2})
            self.assertEqual((200, {"x": 2}), self.get(place))
        self.assertEqual([[{"x": 2}]] * 2, self.told()[0])

    def test_one_who_comes_back_to_a_room_hears_of_it(self) -> None:
        place = self.places[1]
        self.ok(self.bob, f"/join/{self.room_id}")
        self.put(place, {"x": 1})
        since = self.told()[1]
        self.ok(self.alice, f"/rooms/{self.room_id}/leave")
        since = self.told(since)[1]
        self.delete(place)
        since = self.told(since)[1]
        self.ok(self.alice, f"/join/{self.room_id}")
        self.assertEqual([{}], self.told(since)[0][1])

    def test_refused(self) -> None:
        for place in self.places:
            for type_ in ("m.push_rules", "m.fully_read"):
                self.assert_refused(self.delete(place, type_), 405, "M_BAD_JSON")
            self.assert_refused(self.delete(place, token=self.bob), 403, "M_FORBIDDEN")
            self.assertEqual(401, self.app.call("DELETE", f"{UNSTABLE}{place}/account_data/x")[0])
        answer = self.delete(f"/user/{ALICE}/rooms/!unknown:test.example")
        self.assert_refused(answer, 404, "M_NOT_FOUND")
        self.assert_refused(self.delete(f"/user/{BOB}"), 403, "M_FORBIDDEN")

    def test_what_is_deleted_takes_no_room_for_ever(self) -> None:
        with patch.object(store, "MAX_ROWS_PER_USER", 4):
            for number in range(20):
                self.put(self.places[0], {"x": 1}, f"org.example.{number}")
                self.delete(self.places[0], f"org.example.{number}")
            for number in range(4):
                self.put(self.places[0], {"x": 1}, f"org.example.{number}")
            path = f"{V3}{self.places[0]}/account_data/one.more"
            self.assert_refused(
                self.app.call("PUT", path, {"x": 1}, self.alice), 403, "M_USER_LIMIT_EXCEEDED"
            )

    def test_clients_are_told(self) -> None:
        features = self.app.ok("GET", "/_matrix/client/versions")["unstable_features"]
        self.assertIs(True, features["org.matrix.msc3391"])
        self.assertIs(True, features["org.matrix.msc3814"])
