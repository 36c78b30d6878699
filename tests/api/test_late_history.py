"""An event of before our join that comes late becomes one of the room's newest, until history says what came after it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from federation.event import Event
from homeserver.rooms.arrivals import Placed
from homeserver.rooms.federated.backfill import FETCH_S, PAGE
from homeserver.rooms.turn import Turn
from homeserver.store.changes import first_kept, trim_changes
from homeserver.store.events import find_rows
from tests.api.peers import JoinedCase
from tests.api.rooms import V3
from tests.support.databases import on_each_database
from tests.support.peer_rooms import PeerRoom

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
NAME = {"name": "the room"}


@on_each_database
class LateHistory(JoinedCase):
    """The creator of a room named it, and lost the power to: a state of before that must not take the name away."""

    def prepare(self, between: int = 2) -> PeerRoom:
        """A room in which something is said that comes late, and so much after it before alice comes in."""
        room = self.peer.create("11")
        self.stale = room.say("nobody of yours was there")
        self.named = room.add("m.room.name", NAME, state_key="")
        for number in range(between):
            room.say(str(number))
        self.weakened = room.add("m.room.power_levels", {"users": {}}, state_key="")
        return room

    def enter(self, room: PeerRoom) -> None:
        self.room_id = self.adopt(room)
        assert isinstance(self.entered, Placed)
        self.join_nid = self.entered.nid

    def name(self) -> Any:
        return self.state(self.room_id, "m.room.name")

    def newest(self) -> set[int]:
        """The room's newest events."""

        async def look() -> set[int]:
            actor = await self.app.app.core.rooms.find(self.room_id)

            async def job(turn: Turn) -> set[int]:
                return {one.nid for one in turn.head.extremities}

            return await actor.run(job)

        return self.app.wait(Deferred.fromCoroutine(look()))

    def push(self, event: Event) -> None:
        answer = self.peer.push(self.app, event)
        self.assertEqual((200, {"pdus": {event.event_id: {}}}), answer)
        self.app.advance(0)

    def sync(self, **query: str) -> Any:
        return self.app.ok("GET", f"{V3}/sync", None, self.alice, query)

    def come_and_be_overtaken(self, between: int) -> None:
        self.enter(self.prepare(between))
        self.assertEqual(NAME, self.name())
        self.push(self.stale)
        self.assertIsNone(self.name(), "as long as nobody knows what came after it")
        since = self.sync()["next_batch"]
        self.pages(self.room_id)
        self.assertEqual({self.join_nid}, self.newest())
        self.assertEqual(NAME, self.name())
        told = self.sync(since=since)["rooms"]["join"][self.room_id]
        self.assertEqual(["m.room.name"], [event["type"] for event in told["state"]["events"]])

    def test_its_state_does_not_win_over_what_came_after_it(self) -> None:
        self.come_and_be_overtaken(2)

    def test_it_is_told_when_the_log_no_longer_knows_it_and_the_server_started_again(self) -> None:
        """Nothing in the timeline says that the state moved."""
        self.enter(self.prepare())
        self.push(self.stale)
        name = [["m.room.name", ""]]
        body = {"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": name}}}
        since, pos = self.sync()["next_batch"], self.app.ok("POST", SLIDING, body, self.alice)["pos"]
        self.pages(self.room_id)
        self.assertEqual(NAME, self.name())
        self.app.wait(self.app.app.core.committer.work(trim_changes, 0))
        self.assertEqual(0, self.app.wait(self.app.database.read(first_kept)))
        self.app.restart()
        told = self.sync(since=since)["rooms"]["join"][self.room_id]
        self.assertEqual(["m.room.name"], [event["type"] for event in told["state"]["events"]])
        shown = self.app.ok("POST", SLIDING, body, self.alice, {"pos": pos})["rooms"][self.room_id]
        self.assertEqual(NAME["name"], shown["name"])
        self.assertEqual([NAME], [event["content"] for event in shown["required_state"]])

    def test_by_way_of_several_pages(self) -> None:
        self.come_and_be_overtaken(2 * PAGE + 20)

    def test_when_all_after_it_is_here_before(self) -> None:
        self.enter(self.prepare(PAGE - 2))
        self.page(self.room_id)
        self.app.advance(FETCH_S)
        rows = self.app.wait(self.app.database.read(find_rows, [self.named.event_id, self.stale.event_id]))
        self.assertEqual({self.named.event_id}, rows.keys())
        self.push(self.stale)
        self.assertEqual({self.join_nid}, self.newest())
        self.assertEqual(NAME, self.name())

    def test_by_way_of_branches(self) -> None:
        room = self.prepare()
        lower, upper = (
            room.say(text, prev=[room.head[0]], depth=depth) for text, depth in (("low", 10), ("high", 90))
        )
        room.say("both", prev=[lower.event_id, upper.event_id])
        self.enter(room)
        self.push(self.stale)
        self.pages(self.room_id)
        self.assertEqual({self.join_nid}, self.newest())
        self.assertEqual(NAME, self.name())

    def test_a_state_that_was_told_must_agree(self) -> None:
        """Else who tells a state of before they were banned, and fills the gap then, would decide all by what they told."""
        room = self.prepare()
        for event_id, state in room.after.items():
            if event_id == self.weakened.event_id:
                del state["m.room.name", ""]
        self.enter(room)
        self.push(self.stale)
        both = self.newest()
        self.assertEqual(2, len(both))
        self.pages(self.room_id)
        self.assertEqual(both, self.newest())
