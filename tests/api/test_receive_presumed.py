"""What stands on top of a room is taken for new without a look, and the commit makes sure of that."""

from __future__ import annotations

import msgspec
from twisted.internet.defer import Deferred

from federation.event import Event
from homeserver.rooms.arrivals import store_outliers
from homeserver.rooms.federated.receive import CAREFUL_S
from homeserver.rooms.turn import Turn
from tests.api.receiving import ReceiveCase
from tests.support.counting import count
from tests.support.databases import on_each_database
from tests.support.peer import FEDERATION

LOOK = "look"


class PresumingCase(ReceiveCase):
    """Mallory has just spoken."""

    def setUp(self) -> None:
        super().setUp()
        self.enter()
        self.take(self.room.say("warm"))
        self.failures = 0
        self.watch()

    def watch(self) -> None:
        """Count batches that are rolled back."""
        self.app.app.core.committer.observe_failure = self.note_failure

    def note_failure(self) -> None:
        self.failures += 1

    def take(self, *events: Event) -> list[str]:
        """Push events that are taken; what was read meanwhile."""
        counted = count(self.app, lambda: self.assert_taken(self.peer.push(self.app, *events), *events))
        return [name for name, _ in counted.units]

    def store_outlier(self, event: Event) -> None:
        async def job(turn: Turn) -> None:
            await store_outliers(turn, [event])

        async def run() -> None:
            await (await self.app.app.core.rooms.find(event.room_id)).run(job)

        self.app.wait(Deferred.fromCoroutine(run()))


@on_each_database
class Presumed(PresumingCase):
    def test_a_chain_on_top_of_the_room_is_not_looked_for(self) -> None:
        said = [self.room.say(str(number)) for number in range(3)]
        self.assertEqual([], self.take(*said))
        self.assertEqual([one.event_id for one in said], self.timeline()[-3:])
        self.assertEqual(0, self.failures)

    def test_a_fork_and_what_is_here_already_are_looked_for(self) -> None:
        fork = list(self.room.head)
        first, second = self.room.say("first"), self.room.say("second", prev=fork)
        self.assertEqual([], self.take(first))
        self.assertIn(LOOK, self.take(second))
        self.assertIn(LOOK, self.take(first))
        self.assertEqual(0, self.failures)

    def test_a_transaction_that_comes_again_is_answered_from_memory(self) -> None:
        uri = f"{FEDERATION}/send/again"
        said = self.room.say("once")
        first = self.peer.call(self.app, "PUT", uri, self.peer.transaction([said]))
        other = self.room.make("m.room.message", {"body": "twice"})
        self.assertEqual(first, self.peer.call(self.app, "PUT", uri, self.peer.transaction([other])))
        self.assertEqual((said.event_id, 0), (self.timeline()[-1], self.failures))
        self.assertEqual([], self.take(self.room.say("believed")))

    def test_one_with_refused_events_that_comes_again_after_a_restart(self) -> None:
        uri = f"{FEDERATION}/send/again"
        once, refused = (self.room.say("once"), self.room.make("m.room.name", {"name": "mine"}, state_key=""))
        first = self.peer.call(self.app, "PUT", uri, self.peer.transaction([once, refused]))
        self.assertIn("error", first[1]["pdus"][refused.event_id])
        self.app.restart()
        self.watch()
        warm = self.room.say("warm")
        self.take(warm)
        other = self.room.make("m.room.message", {"body": "twice"})
        worse = self.room.make("m.room.name", {"name": "mine again"}, state_key="")
        again = self.peer.transaction([other, worse])
        self.assertEqual(first, self.peer.call(self.app, "PUT", uri, again))
        self.assertEqual((warm.event_id, 0), (self.timeline()[-1], self.failures))

    def test_a_refused_event_that_comes_again_is_looked_for(self) -> None:
        bad = self.room.make("m.room.name", {"name": "mine"}, state_key="")
        for _ in range(2):
            answer = self.peer.push(self.app, bad)
            self.assertEqual(200, answer[0], answer)
        self.assertEqual(0, self.failures)
        good = self.room.say("good")
        self.assertEqual([], self.take(good))
        self.assertEqual(good.event_id, self.timeline()[-1])

    def test_of_a_chain_with_a_refused_event_the_rest_is_taken(self) -> None:
        first = self.room.say("first")
        bad = self.room.make("m.room.name", {"name": "mine"}, state_key="")
        answer = self.peer.push(self.app, first, bad)
        self.assertEqual({}, answer[1]["pdus"][first.event_id])
        self.assert_refused(answer, bad, "")
        self.assertEqual(
            (first.event_id, None, 0), (self.timeline()[-1], self.state("m.room.name"), self.failures)
        )

    def test_an_event_that_was_stored_without_a_place_gets_it(self) -> None:
        said = self.room.say("known by name")
        self.store_outlier(said)
        self.assertIn(LOOK, self.take(said))
        self.assertEqual(said.event_id, self.timeline()[-1])
        self.assertEqual(self.timeline().count(said.event_id), 1)

    def test_of_two_rooms_one_is_wrong_and_the_other_is_stored(self) -> None:
        other = self.new_peer("bob.example")
        joined = self.room.join(other.user(), signer=other.key)
        self.peer.push(self.app, joined)
        self.settle()
        said = self.room.say("once")
        uri = f"{FEDERATION}/send/again"
        first = self.peer.call(self.app, "PUT", uri, self.peer.transaction([said]))
        mine = self.room.make("m.room.message", {"body": "twice"})
        theirs = self.room.make(
            "m.room.message", {"body": "on the same"}, sender=other.user(), signer=other.key
        )
        # Both stand on the head, and the second on what the first one leaves; the first one is undone.
        waiting = [
            self.peer.start(self.app, "PUT", uri, self.peer.transaction([mine])),
            other.start(self.app, "PUT", f"{FEDERATION}/send/bobs", other.transaction([theirs])),
        ]
        answers = [self.app.wait(one) for one in waiting]
        self.assertEqual([200, 200], [one.status for one in answers])
        self.assertEqual(first[1], msgspec.json.decode(answers[0].body))
        self.assertEqual(theirs.event_id, self.timeline()[-1])
        self.assertNotIn(mine.event_id, self.timeline())


@on_each_database
class PresumedInOldRooms(PresumingCase):
    """Where servers choose the ids of their events."""

    version = "1"

    def test_a_redaction_that_came_first(self) -> None:
        later = "$later:peer.example"
        early = self.room.add("m.room.redaction", {}, redacts=later)
        self.take(early)
        target = self.room.say("spoken too late", event_id=later)
        self.assertEqual(later, target.event_id)
        self.take(target)
        path = f"/_matrix/client/v3/rooms/{self.room_id}/event/{later}"
        self.assertEqual({}, self.app.ok("GET", path, None, self.alice)["content"])

    def test_who_was_presumed_wrongly_is_looked_at_for_a_while(self) -> None:
        later = "$later:peer.example"
        self.take(self.room.add("m.room.redaction", {}, redacts=later))
        self.take(self.room.say("spoken too late", event_id=later))
        self.assertEqual(1, self.failures)
        # Whoever does that for long makes no commit fail a second time.
        self.assertIn(LOOK, self.take(self.room.say("looked for")))
        self.app.advance(CAREFUL_S + 1)
        self.settle()
        self.take(self.room.say("the room is warm again"))
        self.assertEqual([], self.take(self.room.say("believed")))
        self.assertEqual(1, self.failures)
