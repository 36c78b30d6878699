"""What somebody who is invited is told of the room, and of its end. spec: client-server-api#stripped-state"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec
from twisted.internet.defer import Deferred

from tests.federation.people import V3, B, NetCase
from tests.support.databases import on_each_database

BOB = f"@bob:{B}"


@on_each_database
class InviteState(NetCase):
    """alice of a invites bob of b."""

    def test_while_the_state_is_being_stored(self) -> None:
        room_id = self.create(self.a, self.alice, name="Room")
        room = f"{V3}/rooms/{quote(room_id)}"
        slip = self.ok(
            self.a, self.alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.topic", {"topic": "a slip"}
        )
        self.ok(self.a, self.alice, "PUT", f"/rooms/{quote(room_id)}/redact/{quote(slip['event_id'])}/1", {})
        waiting: list[tuple[Deferred[Any], Any]] = []
        write: Any = self.a.database.write

        def later(*unit: Any) -> Deferred[Any]:
            waiting.append((Deferred(), unit))
            return waiting[-1][0]

        self.patch(self.a.database, "write", later)
        calls = [
            self.a.start("PUT", f"{room}/state/m.room.name", {"name": "New name"}, self.alice),
            self.a.start(
                "PUT", f"{room}/state/m.room.member/{quote(BOB)}", {"membership": "invite"}, self.alice
            ),
        ]
        self.net.settle()
        self.patch(self.a.database, "write", write)
        for result, unit in waiting:
            write(*unit).chainDeferred(result)
        self.assertEqual([200] * 2, [self.net.wait(one).status for one in calls])
        (sent,) = self.net.sent("/invite/")
        told = msgspec.json.decode(sent.request.body or b"")["invite_room_state"]
        found = {one["type"]: one["content"] for one in told}
        self.assertEqual(({"name": "New name"}, {}), (found["m.room.name"], found["m.room.topic"]))

    def test_filters_of_what_was_rejected(self) -> None:
        room_id = self.create(self.a, self.alice)
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": BOB})
        since = self.sync(self.b, self.bob)["next_batch"]
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(room_id)}/leave", {})

        def told(**filter_: Any) -> tuple[list[Any], list[Any]]:
            wanted = {
                "since": since,
                "use_state_after": "true",
                "filter": msgspec.json.encode(filter_).decode(),
            }
            # Whatever is told of it: that it has ended is.
            room = self.sync(self.b, self.bob, **wanted)["rooms"]["leave"][room_id]
            return room["timeline"]["events"], room["state_after"]["events"]

        timeline, state = told()
        self.assertEqual((1, timeline), (len(timeline), state))
        for unwanted in ({"types": ["m.room.message"]}, {"not_senders": [BOB]}, {"not_rooms": [room_id]}):
            self.assertEqual(([], state), told(room={"timeline": unwanted}))
            self.assertEqual((timeline, []), told(room={"state": unwanted}))
        self.assertEqual(([{"sender": BOB}], [{"sender": BOB}]), told(event_fields=["sender"]))
