"""Traps between the parts of federation: each was sprung once, when somebody read them as a whole."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from federation.event import Event
from homeserver.rooms.arrivals import FORKS_MOST
from homeserver.rooms.turn import Turn
from tests.api.receiving import ReceiveCase
from tests.api.rooms import ALICE, V3
from tests.support.databases import on_each_database
from tests.support.peer import FEDERATION, random_id

STATE_IDS = ("GET", f"{FEDERATION}/state_ids/")
MISSING = ("POST", f"{FEDERATION}/get_missing_events/")


@on_each_database
class Gaps(ReceiveCase):
    """What is refused or told before its parents must not keep them from counting."""

    def setUp(self) -> None:
        super().setUp()
        self.enter()
        self.mallory = self.peer.user()

        self.before = sorted(self.room.state.values())
        self.auth = [
            self.room.state[key]
            for key in (("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", self.mallory))
        ]
        # Mallory leaves, and keeps that to himself for now; what the room was before it he tells.
        self.leave = self.room.make("m.room.member", {"membership": "leave"}, state_key=self.mallory)
        chain = self.room.auth_chain(self.before)
        self.peer.answers[STATE_IDS] = {"pdu_ids": self.before, "auth_chain_ids": chain}
        self.peer.answers[MISSING] = {"events": []}

    def assert_gone(self) -> None:
        """The leave counts when it comes, and goes on counting."""
        self.assert_taken(self.peer.push(self.app, self.leave), self.leave)
        for _ in range(2):
            self.assertEqual("leave", self.state("m.room.member", self.mallory)["membership"])
            self.app.restart()

    def test_a_refused_event_does_not_hide_its_parent(self) -> None:
        parents = [self.leave.event_id]
        refused = self.room.make("m.room.topic", {"topic": "!"}, state_key="", prev=parents, auth=self.auth)
        self.peer.push(self.app, refused)
        for _ in range(6):
            self.settle(700.0)
        self.assertEqual(0, self.staged())
        # Who reads back now must not fetch what the refused event names as if it were history.
        self.assertNotIn(refused.event_id, self.timeline())
        self.assert_gone()

    def test_nor_does_one_that_is_taken(self) -> None:
        made_up = sorted(random_id(str(number)) for number in range(200))[:15]
        self.assertLess(made_up[-1], self.leave.event_id)
        parents = [*made_up, self.leave.event_id]
        trap = self.room.make("m.room.message", {"body": "x"}, prev=parents, auth=self.auth)
        self.peer.push(self.app, trap)
        self.settle()
        self.assertEqual(0, self.staged())
        self.assert_gone()


@on_each_database
class Forks(ReceiveCase):
    """Who puts event after event beside all others makes everything in the room dear."""

    def extremities(self) -> int:
        async def job(turn: Turn) -> int:
            return len(turn.head.extremities)

        return self.run_job(job)

    def run_job(self, job: Any) -> Any:
        async def run() -> Any:
            return await (await self.app.app.core.rooms.find(self.room_id)).run(job)

        return self.app.wait(Deferred.fromCoroutine(run()))

    def fork(self, count: int, head: list[Any]) -> list[Event]:
        """Mallory renames himself again and again, each time as if for the first time."""
        found = []
        for start in range(0, count, 50):
            events = [
                self.room.make(
                    "m.room.member",
                    {"membership": "join", "displayname": str(number)},
                    state_key=self.peer.user(),
                    prev=head,
                )
                for number in range(start, min(start + 50, count))
            ]
            self.assertEqual(200, self.peer.push(self.app, *events)[0])
            found += events
        return found

    def test_one_server_makes_no_forks_without_end(self) -> None:
        self.enter()
        head = list(self.room.head)
        forks = self.fork(FORKS_MOST + 30, head)
        self.assertEqual(FORKS_MOST, self.extremities())
        # Others are none the worse, nor is who joins forks.
        honest = self.new_peer("honest.example")
        joined = self.room.join(honest.user("ann"), prev=head, signer=honest.key)
        self.assert_taken(honest.push(self.app, joined), joined)
        self.assertEqual(FORKS_MOST + 1, self.extremities())
        self.assertIn(joined.event_id, self.timeline())
        for one in forks[:10]:
            self.room.learn(one)
        merge = self.room.say("one again", prev=[one.event_id for one in forks[:10]])
        self.assert_taken(self.peer.push(self.app, merge), merge)
        self.assertEqual(FORKS_MOST + 1 - 9, self.extremities())
        self.assertEqual(merge.event_id, self.timeline()[-1])

    def test_what_is_refused_on_some_of_many_forks_leaves_nothing_behind(self) -> None:
        bob = self.app.register("bob")
        self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, bob)
        self.enter()
        levels = {"users": {ALICE: 100, self.peer.user(): 100}}
        path = f"{V3}/rooms/{self.room_id}/state/m.room.power_levels/"
        self.app.ok("PUT", path, levels, self.alice)
        self.peer.follow(self.app, self.room_id)
        head = list(self.room.head)
        levels["users"]["@bob:test.example"] = 50
        raised = self.room.add("m.room.power_levels", levels, state_key="", prev=head)
        others = [self.room.say(str(number), prev=head) for number in range(20)]
        self.assert_taken(self.peer.push(self.app, raised, *others), raised, *others)

        async def level(turn: Turn) -> Any:
            event = await turn.state("m.room.power_levels")
            assert event is not None
            return event.content["users"].get("@bob:test.example")

        self.assertEqual(50, self.run_job(level))
        # An event names twenty others at most, and of these twenty nobody knows that bob may do this.
        path = f"{V3}/rooms/{self.room_id}/state/m.room.topic/"
        self.assertEqual(403, self.app.call("PUT", path, {"topic": "bob's"}, bob)[0])
        self.assertEqual(50, self.run_job(level))


@on_each_database
class Staged(ReceiveCase):
    """An event waits under its id, whoever was the first to send something of that id."""

    def test_made_up_signatures_do_not_keep_the_real_ones_out(self) -> None:
        self.enter()
        honest = self.new_peer("honest.example")
        joined = self.room.join(honest.user("ann"), signer=honest.key)
        self.assert_taken(honest.push(self.app, joined), joined)
        parent = self.room.say("first", sender=honest.user("ann"), signer=honest.key)
        event = self.room.say("second", sender=honest.user("ann"), signer=honest.key)
        made_up = {**event.json, "signatures": {honest.server_name: {"ed25519:none": "A" * 86}}}
        del self.room.events[parent.event_id]  # nobody gives it yet
        self.peer.answers[MISSING] = {"events": []}
        self.peer.answers[STATE_IDS] = {}
        self.assert_taken(self.peer.push(self.app, made_up), event)
        self.assert_taken(honest.push(self.app, event), event)
        self.assert_taken(honest.push(self.app, parent), parent)
        for _ in range(3):
            self.settle(60.0)
        self.assertEqual(0, self.staged())
        self.assertEqual([parent.event_id, event.event_id], self.timeline()[-2:])
