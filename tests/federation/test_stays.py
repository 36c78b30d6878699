"""A room that is left before its join was whole, and joined again: what lies between the stays is judged by all that was.

spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from homeserver.store import room_answers
from homeserver.store.partial import EARLIER_MOST, load_partial_joins
from tests.federation.people import A, C
from tests.federation.test_partial import PartialCase
from tests.support.databases import on_each_database
from tests.support.federation import NetServer


@on_each_database
class Stays(PartialCase):
    def history(self, server: NetServer, token: str, room_id: str) -> list[Any]:
        """All that a client sees of a room, the newest first."""
        found: list[Any] = []
        query: dict[str, Any] = {"dir": "b", "limit": 4}
        for _ in range(20):
            page = self.ok(server, token, "GET", f"/rooms/{quote(room_id)}/messages", None, query)
            found += page["chunk"]
            if "end" not in page:
                break
            query["from"] = page["end"]
        return found

    def leave(self, server: NetServer, token: str, room_id: str) -> None:
        self.ok(server, token, "POST", f"/rooms/{quote(room_id)}/leave", {})
        self.net.settle()

    def pending(self) -> int:
        """The joins that are not complete."""
        return len(self.c.wait(self.c.database.read(load_partial_joins)))

    def part_ways(self, version: str) -> str:
        """carol comes before members are known, and leaves; bob leaves and comes back while she is away."""
        room_id = self.make(room_version=version)
        self.say(self.c, self.carol, room_id, "hello")
        self.leave(self.c, self.carol, room_id)
        self.leave(self.b, self.bob, room_id)
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.say(self.b, self.bob, room_id, "back")
        self.net.settle()
        return room_id

    def assert_same_history(self, room_id: str) -> None:
        told = self.history(self.a, self.alice, room_id)
        here = self.history(self.c, self.carol, room_id)
        self.assertEqual([one["event_id"] for one in told], [one["event_id"] for one in here])
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob), (self.c, self.carol))

    def test_what_happened_between_two_stays(self) -> None:
        for version in ("1", "6", "12"):
            room_id = self.part_ways(version)
            self.held = False
            self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
            self.net.settle()
            self.assert_same_history(room_id)
            self.say(self.b, self.bob, room_id, "still here")
            self.net.advance(60)
            self.assert_same_history(room_id)
            self.assertEqual(0, self.pending())
            self.held = True

    def test_history_is_read_before_the_first_stay_is_whole(self) -> None:
        for version in ("1", "6", "12"):
            room_id = self.part_ways(version)
            self.patch(room_answers, "FEW_MEMBERS", 100)
            self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
            self.net.settle()
            self.assertEqual(1, self.pending())
            # Nobody waits for what the first one lacks.
            self.assertTrue(self.progress(room_id)["finished"])
            self.ok(self.c, self.carol, "GET", f"/rooms/{quote(room_id)}/joined_members")
            self.assert_same_history(room_id)
            self.say(self.b, self.bob, room_id, "still here")
            self.net.settle()
            self.assert_same_history(room_id)
            self.release()
            self.assertEqual(0, self.pending())
            self.assert_same_history(room_id)
            self.patch(room_answers, "FEW_MEMBERS", 0)
            self.held = True

    def test_two_joins_that_are_not_whole(self) -> None:
        room_id = self.part_ways("10")
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.net.settle()
        self.assertEqual(2, self.pending())
        self.assertFalse(self.progress(room_id)["finished"])
        self.release()
        self.assertEqual(0, self.pending())
        self.assertTrue(self.progress(room_id)["finished"])
        self.assert_same_history(room_id)

    def test_a_restart_between_two_stays(self) -> None:
        room_id = self.part_ways("10")
        self.c.restart()
        self.net.settle()
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.c.restart()
        self.net.settle()
        self.assertEqual(2, self.pending())
        self.release()
        self.assertEqual(0, self.pending())
        self.assert_same_history(room_id)

    def test_so_many_stays_are_made_whole_and_no_more(self) -> None:
        room_id = self.make(room_version="10")
        for _ in range(EARLIER_MOST + 3):
            self.leave(self.c, self.carol, room_id)
            self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
            self.net.settle()
        self.assertEqual(EARLIER_MOST + 1, self.pending())
        before = len(self.net.sent("/state/", C))
        self.release()
        self.assertEqual(EARLIER_MOST + 1, len(self.net.sent("/state/", C)) - before)
        self.assertEqual(0, self.pending())
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob), (self.c, self.carol))

    def test_the_end_of_an_earlier_stay_is_no_end_of_the_room(self) -> None:
        room_id = self.part_ways("10")
        self.held = False
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.net.advance(60)
        self.assertEqual(0, self.pending())
        self.say(self.c, self.carol, room_id, "on top")
        self.net.settle()
        sent = self.net.sent("/send/", C)[-1].json["pdus"][-1]
        self.assertEqual("on top", sent["content"]["body"])
        self.assertEqual(1, len(sent["prev_events"]))
