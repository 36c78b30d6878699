"""History that only a server has whose users have all left the room."""

from __future__ import annotations

from urllib.parse import quote

from tests.federation.people import A, NetCase
from tests.support.databases import on_each_database


@on_each_database
class HistoryOfDeparted(NetCase):
    """alice of a made the room, and has left it to bob of b."""

    def test_who_was_there_is_asked_too(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        said = [self.say(self.a, self.alice, room_id, f"before {number}") for number in range(3)]
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/leave", {})
        self.net.settle()
        path, query = f"/rooms/{quote(room_id)}/messages", {"dir": "b", "limit": 50}
        self.ok(self.b, self.bob, "GET", path, None, query)
        self.net.advance(60)
        page = self.ok(self.b, self.bob, "GET", path, None, query)
        found = [event["event_id"] for event in page["chunk"] if event["type"] == "m.room.message"]
        self.assertEqual(said[::-1], found)
