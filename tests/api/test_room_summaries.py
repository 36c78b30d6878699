"""Rooms at a glance, one at a time: here, and as other servers tell of them."""

from __future__ import annotations

from typing import Any

from tests.api.test_spaces import SpacesCase
from tests.support.databases import on_each_database
from tests.support.http import Query, path_of


@on_each_database
class RoomSummaries(SpacesCase):
    """# spec: client-server-api#get_matrixclientv1room_summaryroomidoralias"""

    def summary(self, where: str, token: str | None = None, **query: Any) -> tuple[int, Any]:
        path = path_of("/_matrix/client/v1/room_summary/{where}", where=where)
        wanted: Query = query
        return self.call(self.a, "GET", path, None, token, wanted)

    def test_here(self) -> None:
        room_id = self.make("room", room_alias_name="r")
        for where in (room_id, "#r:a.example"):
            status, found = self.summary(where, self.alice)
            self.assertEqual(
                (200, room_id, "room", "join"), (status, found["room_id"], found["name"], found["membership"])
            )
        carol = self.a.register("carol")
        self.assertEqual("leave", self.summary(room_id, carol)[1]["membership"])
        # Strangers see what is open, and are told of no membership.
        self.assertNotIn("membership", self.summary("#r:a.example")[1])
        private = self.make("private", preset="private_chat")
        self.refused(self.summary(private), 404, "M_NOT_FOUND")
        self.refused(self.summary(private, carol), 404, "M_NOT_FOUND")
        self.assertEqual(200, self.summary(private, self.alice)[0])
        self.refused(self.summary("#none:a.example", self.alice), 404, "M_NOT_FOUND")
        self.refused(self.summary("nonsense", self.alice), 400, "M_INVALID_PARAM")

    def test_where_clients_asked_before_it_was_stable(self) -> None:
        """matrix-js-sdk 42 asks at the oldest path, then at the one after it, and never at the stable one."""
        self.make("room", room_alias_name="r")
        stable = self.summary("#r:a.example", self.alice)
        self.assertEqual(200, stable[0])
        for template in ("summary/{where}", "rooms/{where}/summary"):
            path = path_of(f"/_matrix/client/unstable/im.nheko.summary/{template}", where="#r:a.example")
            old = {"im.nheko.summary.room_version": stable[1]["room_version"]}
            self.assertEqual((200, {**stable[1], **old}), self.call(self.a, "GET", path, None, self.alice))
            self.refused(self.call(self.a, "GET", path.replace("%23r", "%23none"), None), 404, "M_NOT_FOUND")

    def test_elsewhere(self) -> None:
        room_id = self.make("room", self.b, room_alias_name="r")
        status, found = self.summary("#r:b.example", self.alice)
        self.assertEqual((200, room_id, "leave"), (status, found["room_id"], found["membership"]))
        self.assertNotIn("children_state", found)
        self.net.advance(120)
        self.assertEqual(200, self.summary(room_id, self.alice, via=["nobody.example", "b.example"])[0])
        hidden = self.make("hidden", self.b, preset="private_chat")
        self.refused(self.summary(hidden, self.alice, via=["b.example"]), 404, "M_NOT_FOUND")
        self.refused(self.summary(room_id, self.alice, via=["no server"]), 400, "M_INVALID_PARAM")
        # Nobody is asked for somebody who has not logged in.
        asked = len(self.net.requests)
        self.refused(self.summary("#r:b.example"), 404, "M_NOT_FOUND")
        self.refused(self.summary(room_id, via=["b.example"]), 404, "M_NOT_FOUND")
        self.assertEqual(asked, len(self.net.requests))
