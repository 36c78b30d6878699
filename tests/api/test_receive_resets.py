"""Attempts to move a room's state by telling of another past.

# spec: server-server-api#soft-failure
# spec: server-server-api#rejection
"""

from __future__ import annotations

from typing import Any

from federation.event import Event
from homeserver.rooms.federated.filling import BELIEVE_AFTER, WAITS_S
from homeserver.store.events import EventRow, find_row
from tests.api.receiving import ReceiveCase
from tests.api.rooms import ALICE, V3
from tests.support.databases import on_each_database
from tests.support.peer import FEDERATION, random_id

MISSING = ("POST", f"{FEDERATION}/get_missing_events/")
STATE_IDS = ("GET", f"{FEDERATION}/state_ids/")
STATE = ("GET", f"{FEDERATION}/state/")
EVENT = ("GET", f"{FEDERATION}/event/")
CHAIN = ("GET", f"{FEDERATION}/event_auth/")


@on_each_database
class StateResets(ReceiveCase):
    """Whatever somebody tells of the past, the room's present is what its rules make of it."""

    def setUp(self) -> None:
        super().setUp()
        self.joined = self.enter()
        self.mallory = self.peer.user()
        self.levels = self.state("m.room.power_levels")
        self.put("m.room.topic", {"topic": "alice's"})
        self.peer.follow(self.app, self.room_id)

    def put(self, event_type: str, content: Any, state_key: str = "") -> None:
        path = f"{V3}/rooms/{self.room_id}/state/{event_type}/{state_key}"
        self.app.ok("PUT", path, content, self.alice)

    def assert_unmoved(self) -> None:
        self.assertEqual(self.levels, self.state("m.room.power_levels"))
        self.assertEqual({"topic": "alice's"}, self.state("m.room.topic"))
        self.assertEqual("join", self.state("m.room.member", ALICE)["membership"])

    def row(self, event: Event) -> EventRow:
        """What is stored of an event."""
        row: EventRow | None = self.app.wait(self.app.database.read(find_row, event.event_id))
        assert row is not None, "it is not stored"
        return row

    def id_of(self, *key: str) -> str:
        event_type, state_key = key
        return self.room.state[event_type, state_key]

    def tell(self, state: list[str], chain: list[str] | None = None) -> None:
        """What the peer says that the state before everything is."""
        self.peer.answers[MISSING] = {"events": []}
        self.peer.answers[STATE_IDS] = {
            "pdu_ids": state,
            "auth_chain_ids": self.room.auth_chain(state) if chain is None else chain,
        }

    def test_levels_that_were_taken_back(self) -> None:
        """Mallory had the power once; a state from that time is told, where hers is the topic."""
        self.put("m.room.power_levels", {**self.levels, "users": {ALICE: 100, self.mallory: 50}})
        self.peer.follow(self.app, self.room_id)
        past = dict(self.room.state)
        self.put("m.room.power_levels", self.levels)
        self.peer.follow(self.app, self.room_id)
        hidden = self.room.make("m.room.message", {}, prev=[random_id("nowhere")], depth=4)
        self.room.events[hidden.event_id] = hidden
        self.tell([event_id for key, event_id in past.items() if key[0] != "m.room.topic"])
        create, levels = past["m.room.create", ""], past["m.room.power_levels", ""]
        topic = self.room.make(
            "m.room.topic",
            {"topic": "mallory's"},
            state_key="",
            prev=[hidden.event_id],
            auth=[create, levels, self.joined.event_id],
            depth=5,
        )
        self.assert_taken(self.peer.push(self.app, topic), topic)
        self.settle()
        self.assert_unmoved()
        # It stands where it says, by the state that was told there; but nobody is shown it.
        row = self.row(topic)
        self.assertEqual((None, None), (row.rejected_reason, row.pos))
        self.assertIsNotNone(row.state_before)
        # It is known now, and may be named as a parent beside the room's newest events.
        both = self.room.make("m.room.message", {}, prev=[topic.event_id, *self.room.head], depth=40)
        self.peer.push(self.app, both)
        self.settle()
        self.assertIn(both.event_id, self.timeline())
        self.assert_unmoved()
        self.assertEqual(0, self.staged())

    def test_levels_that_mallory_gave_herself(self) -> None:
        own = self.room.make("m.room.power_levels", {"users": {self.mallory: 100}}, state_key="")
        self.room.events[own.event_id] = own
        hidden = self.room.make("m.room.message", {}, prev=[random_id("nowhere")], depth=4)
        self.room.events[hidden.event_id] = hidden
        create, rules = self.id_of("m.room.create", ""), self.id_of("m.room.join_rules", "")
        self.tell([create, rules, self.joined.event_id, own.event_id])
        kick = self.room.make(
            "m.room.member",
            {"membership": "ban"},
            state_key=ALICE,
            prev=[hidden.event_id],
            auth=[create, own.event_id, self.joined.event_id, self.id_of("m.room.member", ALICE)],
            depth=5,
        )
        self.peer.push(self.app, kick)
        self.settle()
        self.assert_unmoved()
        self.assertIsNotNone(self.row(own).rejected_reason)
        self.assertIsNotNone(self.row(kick).rejected_reason)

    def test_a_ban_that_is_left_out(self) -> None:
        before = list(self.room.head)
        self.app.ok("POST", f"{V3}/rooms/{self.room_id}/ban", {"user_id": self.mallory}, self.alice)
        shown = self.timeline()
        # On events from before the ban: allowed there, and not now.
        evading = self.room.make("m.room.message", {"body": "still here"}, prev=before)
        self.assert_taken(self.peer.push(self.app, evading), evading)
        # With a parent that nobody has, and a state from before the ban.
        hidden = self.room.make("m.room.message", {}, prev=[random_id("nowhere")], depth=4)
        self.room.events[hidden.event_id] = hidden
        self.tell(list(self.room.state.values()))
        again = self.room.make("m.room.message", {"body": "and here"}, prev=[hidden.event_id], depth=5)
        self.peer.push(self.app, again)
        self.settle()
        self.assertEqual(shown, self.timeline())
        self.assertEqual("ban", self.state("m.room.member", self.mallory)["membership"])
        self.assert_unmoved()

    def test_a_state_that_is_no_state(self) -> None:
        said = self.room.make("m.room.message", {}, prev=[random_id("nowhere")], depth=4)
        create = self.id_of("m.room.create", "")
        topics = [
            self.room.make("m.room.topic", {"n": number}, state_key="", prev=[create], depth=2)
            for number in range(2)
        ]
        for event in (said, *topics):
            self.room.events[event.event_id] = event
        states: tuple[list[str], ...] = (
            [said.event_id],
            [create, said.event_id],
            [topics[0].event_id],
            [create, topics[0].event_id, topics[1].event_id],
            [create, create, create],
        )
        for number, state in enumerate(states):
            self.tell(state, [create])
            late = self.room.make("m.room.message", {"n": number}, prev=[said.event_id], depth=5)
            self.peer.push(self.app, late)
            self.settle()
            self.assertNotIn(late.event_id, self.timeline())
        self.assert_unmoved()

    def test_whoever_relays_an_event_cannot_have_it_refused(self) -> None:
        """An honest user's event comes by way of a liar, who leaves the user out of the state before it."""
        honest = self.new_peer("honest.example")
        joined = self.room.join(honest.user(), signer=honest.key)
        self.assert_taken(honest.push(self.app, joined), joined)
        self.settle()
        said = [self.room.say(str(n), sender=honest.user(), signer=honest.key) for n in range(5)]
        self.tell([one for key, one in self.room.state.items() if key[1] != honest.user()])
        self.peer.answers[MISSING] = {"events": [said[-2].json]}
        self.assert_taken(self.peer.push(self.app, said[-1]), said[-1])
        self.settle()
        # It is not refused for good, but waits; and then others are asked.
        self.assertEqual(1, self.staged())
        self.assertNotIn(said[-1].event_id, self.timeline())
        self.settle(WAITS_S[0] + 1)
        self.assertEqual([event.event_id for event in said], self.timeline()[-5:])
        self.assertEqual(0, self.staged())
        self.assert_unmoved()

    def test_a_state_without_the_room_itself(self) -> None:
        said = [self.room.say(str(number)) for number in range(3)][-1]
        self.tell([one for key, one in self.room.state.items() if key[0] != "m.room.create"])
        self.assert_taken(self.peer.push(self.app, said), said)
        self.settle()
        self.assertEqual(1, self.staged())
        self.peer.answers.clear()
        self.settle(WAITS_S[0] + 1)
        self.assertEqual(said.event_id, self.timeline()[-1])

    def test_a_room_does_not_stop_for_an_event_that_everybody_refuses(self) -> None:
        """Nobody knows of the sender of one event; what comes after it has its place in the end."""
        gone = self.new_peer("gone.example")
        self.room.join(gone.user(), signer=gone.key)
        said = [self.room.say(str(n), sender=gone.user(), signer=gone.key) for n in range(3)]
        after = self.room.say("after")
        self.tell([one for key, one in self.room.state.items() if key[1] != gone.user()])
        self.assert_taken(self.peer.push(self.app, after), after)
        self.settle()
        for wait_s in WAITS_S[:BELIEVE_AFTER]:
            self.assertEqual(1, self.staged())
            self.settle(wait_s + 1)
        self.assertEqual((after.event_id, 0), (self.timeline()[-1], self.staged()))
        self.assertIsNotNone(self.row(said[-1]).rejected_reason)
