"""Traps between the parts of federation: each was sprung once, when somebody read them as a whole."""

from __future__ import annotations

from tests.api.receiving import ReceiveCase
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
