"""Who changed when, against a walk through every change."""

from __future__ import annotations

from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from homeserver.ephemeral import last_changes
from homeserver.ephemeral.last_changes import LastChanges

USERS = st.integers(min_value=1, max_value=8)
ACTS = st.lists(st.tuples(st.sampled_from(("note", "note", "note", "forget")), USERS), max_size=60)


class LastChangesTests(SynchronousTestCase):
    @given(
        acts=ACTS, since=st.integers(min_value=0, max_value=60), groups=st.lists(st.sets(USERS), max_size=4)
    )
    def test_finds_what_a_walk_finds(
        self, acts: list[tuple[str, int]], since: int, groups: list[set[int]]
    ) -> None:
        last: dict[int, int] = {}
        changes = LastChanges()
        with mock.patch.object(last_changes, "_SLACK", 4):
            for counter, (act, user_nid) in enumerate(acts, 1):
                last.pop(user_nid, None)
                if act == "note":
                    last[user_nid] = counter
                    changes.note(user_nid, counter)
                else:
                    changes.forget(user_nid)
        expected = [
            user_nid
            for user_nid, counter in reversed(last.items())
            if counter > since and any(user_nid in group for group in groups)
        ]
        self.assertEqual(changes.find(since, groups), expected)
        self.assertEqual(list(changes), list(last))
        if expected:
            self.assertTrue(changes.is_after(since))

    def test_the_log_is_bounded(self) -> None:
        changes = LastChanges()
        for counter in range(1, 10_001):
            changes.note(counter % 3, counter)
        self.assertLess(len(changes._counters), 1_100)
        self.assertEqual(changes.find(9_998, [{0, 1, 2}]), [1, 0])
        self.assertFalse(changes.is_after(10_000))
