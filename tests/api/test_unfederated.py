"""Rooms that are for the users of one server: others are told of none of them, as they could not come in.

# spec: server-server-api#get_matrixfederationv1hierarchyroomid
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.api.peers import PeerCase
from tests.api.rooms import V3
from tests.support.databases import on_each_database


@on_each_database
class Unfederated(PeerCase):
    def make(self, *, federate: bool, **body: Any) -> str:
        content = {"m.federate": federate, **body.pop("creation_content", {})}
        return self.create(preset="public_chat", visibility="public", creation_content=content, **body)

    def rooms(self, content: Any = None) -> set[str]:
        answer = self.answer_of("publicRooms", content=content)
        self.assertEqual(len(answer["chunk"]), answer["total_room_count_estimate"])
        return {room["room_id"] for room in answer["chunk"]}

    def test_hierarchy(self) -> None:
        readable = {
            "type": "m.room.history_visibility",
            "state_key": "",
            "content": {"history_visibility": "world_readable"},
        }
        closed = [
            self.make(federate=False, room_version="11"),
            self.make(federate=False, initial_state=[readable]),
        ]
        opened = self.make(federate=True)
        space = self.make(federate=True, creation_content={"type": "m.space"})
        for child in (*closed, opened):
            path = f"{V3}/rooms/{quote(space)}/state/m.space.child/{quote(child)}"
            self.app.ok("PUT", path, {"via": ["test.example"]}, self.alice)
        told = self.answer_of(f"hierarchy/{quote(space)}")
        self.assertEqual([opened], [child["room_id"] for child in told["children"]])
        self.assertEqual(set(closed), set(told["inaccessible_children"]))
        for room_id in closed:
            self.assertEqual(404, self.ask(f"hierarchy/{quote(room_id)}")[0])
            # Users of this server see it as ever.
            found = self.app.ok(
                "GET", f"/_matrix/client/v1/rooms/{quote(room_id)}/hierarchy", None, self.alice
            )
            self.assertEqual(room_id, found["rooms"][0]["room_id"])

    def test_the_directory(self) -> None:
        opened, closed = self.make(federate=True, name="Open"), self.make(federate=False, name="Closed")
        for content in (None, {}, {"filter": {"generic_search_term": "o"}}, {"include_all_networks": True}):
            self.assertEqual({opened}, self.rooms(content))
        self.assertEqual(
            {opened}, {one["room_id"] for one in self.answer_of("publicRooms", limit=1)["chunk"]}
        )
        shown = self.app.ok("GET", f"{V3}/publicRooms", None, self.alice)["chunk"]
        self.assertEqual({opened, closed}, {room["room_id"] for room in shown})
