"""History that was missed stands where it was said, once it is fetched.

# spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from typing import Any
from unittest import TestCase
from urllib.parse import quote

from homeserver.http.transport import Unreachable
from homeserver.rooms.reads.pagination import PAST_WAIT_S
from homeserver.store import past
from tests.federation.people import A, B
from tests.federation.test_gaps import LosingCase
from tests.support.databases import on_each_database

# More than is asked for at once where events are missing.
MANY = 600


class HoleCase(LosingCase):
    def miss(self, name: str = "lost") -> list[str]:
        """Alice says so much that bob's server does not hear of, and then one thing that it hears: all but that."""
        self.lose(A)
        texts = [f"{name} {number}" for number in range(MANY)]
        for text in texts:
            self.say(self.a, self.alice, self.room_id, text)
        self.net.settle()
        self.net.untamper()
        self.say(self.a, self.alice, self.room_id, f"{name}, and found")
        self.net.settle()
        return texts

    def cut(self) -> None:
        """Bob's server reaches nobody."""
        self.net.tamper(lambda sender, _: Unreachable("cut") if sender == B else None)

    def room_of(self, answer: Any) -> Any:
        return answer["rooms"]["join"][self.room_id]

    def bodies(self, events: list[Any]) -> list[str]:
        return [one["content"]["body"] for one in events if one["type"] == "m.room.message"]

    def page(self, start: str | None, limit: int = 100) -> tuple[list[Any], str | None]:
        query: dict[str, str | int] = {"dir": "b", "limit": limit}
        if start is not None:
            query["from"] = start
        path = f"/rooms/{quote(self.room_id)}/messages"
        answer = self.ok(self.b, self.bob, "GET", path, None, query)
        return answer["chunk"], answer.get("end")

    def back_to(self, text: str, start: str | None) -> list[str]:
        """What bob reads on his way back to a message, newest first."""
        found: list[str] = []
        for _ in range(MANY):
            chunk, start = self.page(start)
            found += self.bodies(chunk)
            if text in found or start is None:
                break
        return found


@on_each_database
class Holes(HoleCase):
    def setUp(self) -> None:
        super().setUp()
        self.say(self.a, self.alice, self.room_id, "before")
        self.net.settle()
        self.since = self.sync(self.b, self.bob)["next_batch"]

    def test_what_was_missed_stands_where_it_was_said(self) -> None:
        missed = self.miss()
        answer = self.sync(self.b, self.bob, since=self.since)
        room = self.room_of(answer)
        timeline = room["timeline"]
        newest = self.bodies(timeline["events"])
        self.assertEqual("lost, and found", newest[-1])
        self.assertNotIn("before", newest)
        self.assertTrue(timeline["limited"])
        counts = room["unread_notifications"]
        found = self.back_to("before", timeline["prev_batch"])
        self.assertEqual([*missed, "before"], [*reversed(found[:-1]), *newest[:-1], found[-1]])
        self.assertNotIn("rooms", self.sync(self.b, self.bob, since=answer["next_batch"]))
        # Nobody is told of it as news, and it is no more unread than it was.
        for _ in range(2):
            whole = self.room_of(self.sync(self.b, self.bob))
            self.assertEqual(counts, whole["unread_notifications"])
            self.assertEqual(newest, self.bodies(whole["timeline"]["events"])[-len(newest) :])
            self.assertTrue(whole["timeline"]["limited"])
            self.b.restart()
        # And again, from what is here by now.
        self.cut()
        self.assertEqual(found, self.back_to("before", timeline["prev_batch"]))

    def test_an_old_token_does_not_go_across(self) -> None:
        """A client that was away hears of the hole, even when it is filled by then."""
        self.miss()
        self.back_to("before", None)
        timeline = self.room_of(self.sync(self.b, self.bob, since=self.since))["timeline"]
        self.assertTrue(timeline["limited"])
        self.assertNotIn("before", self.bodies(timeline["events"]))
        self.assertEqual("lost, and found", self.bodies(timeline["events"])[-1])

    def test_where_nobody_fills_it_readers_go_across(self) -> None:
        missed = self.miss()
        self.cut()
        path = f"/_matrix/client/v3/rooms/{quote(self.room_id)}/messages"
        asked = self.b.start("GET", path, None, self.bob, {"dir": "b", "limit": 1000})
        self.net.advance(PAST_WAIT_S + 1)
        *known, last = self.bodies(self.net.wait(asked).json["chunk"])
        self.assertEqual("before", last)
        self.assertEqual(["lost, and found", *missed[: -len(known) : -1]], known)
        self.assertLess(len(known), MANY)
        self.net.untamper()
        self.net.advance(60)
        found = self.back_to("before", None)
        self.assertEqual(["before", *missed, "lost, and found"], found[::-1])

    def test_surroundings(self) -> None:
        missed = self.miss()
        chunk, _ = self.page(None, 1)
        path = f"/rooms/{quote(self.room_id)}/context/{quote(chunk[0]['event_id'])}"
        context = self.ok(self.b, self.bob, "GET", path, None, {"limit": 100})
        before = self.bodies(context["events_before"])
        self.assertEqual(missed[: -len(before) - 1 : -1], before)
        self.assertEqual(50, len(before))
        found = self.back_to("before", context["start"])
        self.assertEqual(["before", *missed[: -len(before)]], found[::-1])

    def test_a_second_hole_above_the_first(self) -> None:
        first = self.miss()
        second = self.miss("again")
        found = self.back_to("before", None)
        self.assertEqual(["before", *first, "lost, and found", *second, "again, and found"], found[::-1])

    def test_while_bob_was_out_of_the_room(self) -> None:
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(self.room_id)}/leave", {})
        self.net.settle()
        said = [f"meanwhile {number}" for number in range(30)]
        for text in said:
            self.say(self.a, self.alice, self.room_id, text)
        self.assertEqual(200, self.join(self.b, self.bob, self.room_id, A).status)
        self.net.settle()
        self.assertEqual(["before", *said], self.back_to("before", None)[::-1])

    def test_in_sliding_sync(self) -> None:
        self.miss()
        body = {"lists": {"all": {"range": [0, 5], "timeline_limit": 50, "required_state": {}}}}
        path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
        answer = self.b.call("POST", path, body, self.bob)[1]
        room = answer["rooms"][self.room_id]
        self.assertTrue(room["limited"])
        newest = self.bodies(room["timeline"])
        self.assertNotIn("before", newest)
        chunk, _ = self.page(room["prev_batch"], 1)
        self.assertEqual([f"lost {MANY - len(newest)}"], self.bodies(chunk))


class _Positions:
    """A database that says which positions are taken."""

    def __init__(self, lowest: int | None, oldest: int) -> None:
        self._answers = {past._LOWEST: lowest, past._OLDEST: oldest}

    def value(self, query: Any, **_: Any) -> int | None:
        return self._answers[query]


class FullHole(TestCase):
    def test_what_finds_it_full_goes_below_everything(self) -> None:
        top = 5 * past.HOLE
        tx: Any = _Positions(top - past.HOLE + 2, -7)
        lowest: dict[int, int] = {}
        taken = [past._take(tx, 1, top, lowest) for _ in range(4)]
        bottom = top - past.HOLE
        self.assertEqual([(bottom + 1, top), (bottom, top), (-8, 0), (-9, 0)], taken)
        empty: Any = _Positions(None, 3)
        self.assertEqual((top - 1, top), past._take(empty, 1, top, {}))
        self.assertEqual((-1, 0), past._take(empty, 1, 0, {}))
