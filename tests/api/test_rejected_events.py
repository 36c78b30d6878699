"""What the rules of a room refuse is stored, as other events may stand on it, and shown to no client.

spec: server-server-api#rejection
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from federation.event import Event
from homeserver.store.events import find_row
from tests.api.receiving import ReceiveCase
from tests.api.rooms import V3
from tests.support.databases import on_each_database


@on_each_database
class Rejected(ReceiveCase):
    def setUp(self) -> None:
        super().setUp()
        self.enter()
        # Nobody but alice may name the room.
        self.event = self.room.add(
            "m.room.name", {"name": "Mallory's"}, state_key="", sender=self.peer.user()
        )
        self.assert_refused(self.peer.push(self.app, self.event), self.event, "")
        self.said = self.room.say("hello")  # which stands on it
        self.assert_taken(self.peer.push(self.app, self.said), self.said)

    def get(self, part: str, event: Event) -> Any:
        path = f"{V3}/rooms/{quote(self.room_id)}/{part}/{quote(event.event_id)}"
        return self.app.answer("GET", path, token=self.alice)

    def test_it_is_rejected(self) -> None:
        row = self.app.wait(self.app.database.read(find_row, self.event.event_id))
        assert row is not None
        self.assertIsNotNone(row.rejected_reason)

    def test_by_its_id(self) -> None:
        answer = self.get("event", self.event)
        self.assertEqual((404, "M_NOT_FOUND"), (answer.status, answer.errcode))
        self.assertEqual("hello", self.get("event", self.said).json["content"]["body"])

    def test_its_context(self) -> None:
        answer = self.get("context", self.event)
        self.assertEqual((404, "M_NOT_FOUND"), (answer.status, answer.errcode))
        around = self.get("context", self.said).json
        told = [around["event"], *around["events_before"], *around["events_after"], *around["state"]]
        self.assertNotIn(self.event.event_id, {event["event_id"] for event in told})
