"""Traps between the parts of federation: each was sprung once, when somebody read them as a whole."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from twisted.internet.defer import Deferred

from federation.event import Event
from federation.keyring import build_key_response
from homeserver.rooms import arrivals
from homeserver.rooms.arrivals import FORKS_MOST
from homeserver.rooms.federated.filling import WAITS_S
from homeserver.rooms.turn import Turn
from tests.api.receiving import ReceiveCase
from tests.api.rooms import ALICE, V3
from tests.support.databases import on_each_database
from tests.support.peer import FEDERATION, FakePeer, random_id

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

    def test_what_is_refused_as_one_too_many_does_not_stick(self) -> None:
        self.patch(arrivals, "FORKS_MOST", 2)
        self.enter()
        forks = self.fork(2, list(self.room.head))
        now_ms = int(self.app.time.rightNow * 1000)
        sticky: dict[str, Any] = {"msc4354_sticky": {"duration_ms": 3_600_000}}
        third = self.room.make("m.room.message", {"body": "x"}, ts=now_ms, **sticky)
        self.peer.push(self.app, third)
        for one in forks:
            self.room.learn(one)
        again = self.room.join(prev=[one.event_id for one in forks])
        self.assert_taken(self.peer.push(self.app, again), again)
        self.app.restart()
        self.app.app.begin()
        self.settle()
        self.assertNotIn(third.event_id, self.timeline())
        room = self.app.ok("GET", f"{V3}/sync", token=self.alice)["rooms"]["join"][self.room_id]
        self.assertNotIn("msc4354_sticky", room)

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

    def setUp(self) -> None:
        super().setUp()
        self.enter()
        self.honest = self.new_peer("honest.example")
        ann = self.honest.user("ann")
        joined = self.room.join(ann, signer=self.honest.key)
        self.assert_taken(self.honest.push(self.app, joined), joined)
        self.parent = self.room.say("first", sender=ann, signer=self.honest.key)
        self.event = self.room.say("second", sender=ann, signer=self.honest.key)
        self.made_up = self.forged("ed25519:none")
        # What is signed is what redaction leaves, so this one has the same id, and its signature holds.
        self.altered = {**self.event.json, "content": {"msgtype": "m.text", "body": "altered"}}
        del self.room.events[self.parent.event_id]  # nobody gives it yet
        for peer in (self.peer, self.honest):
            peer.answers[MISSING] = {"events": []}
            peer.answers[STATE_IDS] = {}

    def forged(self, key_id: str) -> dict[str, Any]:
        """A copy of the event with a made-up signature."""
        return {**self.event.json, "signatures": {self.honest.server_name: {key_id: "A" * 86}}}

    def assert_whole(self) -> None:
        """Both events are shown, as their author wrote them, and nothing waits."""
        self.assertEqual(0, self.staged())
        self.assertEqual([self.parent.event_id, self.event.event_id], self.timeline()[-2:])
        path = f"{V3}/rooms/{self.room_id}/event/{self.event.event_id}"
        self.assertEqual("second", self.app.ok("GET", path, None, self.alice)["content"].get("body"))

    def give_parent(self) -> None:
        self.assert_taken(self.honest.push(self.app, self.parent), self.parent)
        for _ in range(3):
            self.settle(60.0)

    def hold(self) -> Deferred[Any]:
        """The peer takes its time for what is missing."""
        held: Deferred[Any] = Deferred()
        self.peer.answers[MISSING] = held
        return held

    # --- signatures ----------------------------------------------------------------------------------

    def test_made_up_signatures_do_not_keep_the_real_ones_out(self) -> None:
        self.assert_taken(self.peer.push(self.app, self.made_up), self.event)
        self.assert_taken(self.honest.push(self.app, self.event), self.event)
        self.give_parent()
        self.assert_whole()

    def test_nor_does_what_is_found_out_about_them_meanwhile(self) -> None:
        """A round that judged the bad copy ends when the good one has taken its place."""
        keys = [self.honest.key, FakePeer("honest.example", "two").key]
        self.honest.answers["GET", "/_matrix/key/"] = build_key_response(keys, [], 2**51)
        self.settle(3600.0)  # else who was just asked for keys is not asked again
        held = self.hold()
        slow = self.room.say("slow")
        answer = self.peer.push(self.app, self.forged("ed25519:two"), slow)
        self.assert_taken(answer, self.event, slow)
        self.settle()
        self.assertEqual(1, len(self.asked("get_missing_events")))
        self.assert_taken(self.honest.push(self.app, self.event), self.event)
        held.callback({"events": []})
        self.settle()
        self.assertEqual(2, self.staged())
        del self.peer.answers[MISSING]
        self.give_parent()
        self.assertIn(self.event.event_id, self.timeline())
        self.assertEqual(0, self.staged())

    def test_nor_does_the_time_that_these_waited_count(self) -> None:
        self.assert_taken(self.peer.push(self.app, self.made_up), self.event)
        self.settle()
        for wait_s in WAITS_S[:-1]:
            self.settle(wait_s + 1)
        self.assert_taken(self.honest.push(self.app, self.event), self.event)
        self.settle(WAITS_S[-1] + 1)
        self.assertEqual(1, self.staged())
        self.give_parent()
        self.assert_whole()

    # --- content -------------------------------------------------------------------------------------

    def test_an_altered_copy_takes_no_whole_ones_place(self) -> None:
        self.assert_taken(self.honest.push(self.app, self.event), self.event)
        self.assert_taken(self.peer.push(self.app, self.altered), self.event)
        self.settle()
        self.app.restart()
        self.app.app.begin()
        self.assert_taken(self.peer.push(self.app, self.altered), self.event)
        self.give_parent()
        self.assert_whole()

    def test_nor_when_it_comes_with_what_was_missing(self) -> None:
        self.assert_taken(self.honest.push(self.app, self.event), self.event)
        answer = self.peer.push(self.app, self.parent, self.altered)
        self.assert_taken(answer, self.parent, self.event)
        self.settle(20.0)
        self.assert_whole()

    def test_nor_when_it_is_told_as_what_was_missing(self) -> None:
        self.assert_taken(self.honest.push(self.app, self.event), self.event)
        self.settle()
        later = self.room.say("later")
        self.peer.answers[MISSING] = {"events": [self.parent.json, self.altered]}
        self.assert_taken(self.peer.push(self.app, later), later)
        self.settle(20.0)
        self.assertEqual(0, self.staged())
        self.assertEqual(later.event_id, self.timeline()[-1])
        path = f"{V3}/rooms/{self.room_id}/event/{self.event.event_id}"
        self.assertEqual("second", self.app.ok("GET", path, None, self.alice)["content"].get("body"))

    def tell_altered_state(self) -> tuple[Event, Event]:
        """Ann takes a name, which waits for its parent; the peer says something, and gives an altered copy of that name
        as part of the state before it. Both events."""
        ann = self.honest.user("ann")
        content = {"membership": "join", "displayname": "Ann"}
        named = self.room.add("m.room.member", content, sender=ann, state_key=ann, signer=self.honest.key)
        hidden, later = self.room.say("hidden"), self.room.say("later")
        told = self.room.state_ids_answer(later.event_id)
        self.assertIn(named.event_id, told["pdu_ids"])
        altered = {**named.json, "content": {**content, "displayname": "altered"}}
        for one in (named, hidden):
            del self.room.events[one.event_id]
        self.peer.answers["GET", f"{FEDERATION}/event/{named.event_id}"] = self.peer.transaction([altered])
        self.peer.answers[STATE_IDS] = lambda request: told if later.event_id in unquote(request.uri) else {}
        self.assert_taken(self.honest.push(self.app, self.event, named), self.event, named)
        self.settle()
        self.assert_taken(self.peer.push(self.app, later), later)
        self.settle()
        self.assertEqual(1, len(self.asked(f"/event/{named.event_id}")))
        return named, later

    def test_nor_when_it_is_told_as_part_of_a_state(self) -> None:
        named, later = self.tell_altered_state()
        self.assertEqual(3, self.staged())
        self.give_parent()
        self.assertEqual(0, self.staged())
        shown = self.timeline()
        self.assertEqual(
            {self.parent.event_id, self.event.event_id, named.event_id, later.event_id}, {*shown[-4:]}
        )
        self.assertEqual("Ann", self.state("m.room.member", self.honest.user("ann")).get("displayname"))

    def test_what_stands_on_such_a_state_waits_no_longer_than_the_whole_copy(self) -> None:
        _, later = self.tell_altered_state()
        for wait_s in WAITS_S:
            self.assertNotIn(later.event_id, self.timeline())
            self.settle(wait_s + 1)
        self.assertEqual(0, self.staged())
        self.assertEqual(later.event_id, self.timeline()[-1])

    def test_a_whole_copy_takes_an_altered_ones_place(self) -> None:
        self.assert_taken(self.peer.push(self.app, self.altered), self.event)
        self.assert_taken(self.honest.push(self.app, self.event), self.event)
        self.give_parent()
        self.assert_whole()

    def test_and_does_so_while_that_one_is_being_placed(self) -> None:
        held = self.hold()
        self.assert_taken(self.peer.push(self.app, self.altered), self.event)
        self.settle()
        self.assertEqual(1, len(self.asked("get_missing_events")))
        self.assert_taken(self.honest.push(self.app, self.event), self.event)
        held.callback({"events": [self.parent.json]})
        self.settle(20.0)
        self.assert_whole()
