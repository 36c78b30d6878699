"""The membership index at the start."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from homeserver.stream.index import MembershipIndex


class StartTests(TestCase):
    def test_a_state_that_moved_without_an_event_is_news(self) -> None:
        index = MembershipIndex((), {1: 10, 2: 20}, (), {1: 15, 2: 5, 3: 7})
        self.assertEqual(index.last_pos, {1: 15, 2: 20, 3: 7})
        self.assertEqual(index.last_event, {1: 10, 2: 20})
