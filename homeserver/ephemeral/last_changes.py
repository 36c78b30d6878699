"""Who changed when, for whoever asks after a counter: everybody who syncs, far more often than anything changes.

So beside the last change of each there is a log of all changes, whose end answers: a slice and a few intersections of
sets, where a walk back through the changes costs each of those who ask a step for each change of anybody.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterator

# How many of the log may be of no more use beside as many as there are users.
_SLACK = 1_000


class LastChanges:
    """The counter of the last change of each user, oldest first."""

    def __init__(self) -> None:
        self._last: OrderedDict[int, int] = OrderedDict()
        # The log, ascending; a user is in it once for each change, and may be forgotten.
        self._counters: list[int] = []
        self._user_nids: list[int] = []

    def __contains__(self, user_nid: int) -> bool:
        return user_nid in self._last

    def __iter__(self) -> Iterator[int]:
        return iter(self._last)

    def note(self, user_nid: int, counter: int) -> None:
        """A user changed. Counters ascend over all calls."""
        self._last.pop(user_nid, None)
        self._last[user_nid] = counter
        self._counters.append(counter)
        self._user_nids.append(user_nid)
        if len(self._counters) > 2 * len(self._last) + _SLACK:
            self._user_nids, self._counters = list(self._last), list(self._last.values())

    def forget(self, user_nid: int) -> None:
        """As if they had never changed."""
        self._last.pop(user_nid, None)

    def is_after(self, counter: int) -> bool:
        """Whether anybody changed after a counter."""
        return bool(self._counters) and self._counters[-1] > counter

    def find(self, counter: int, groups: Collection[Collection[int]]) -> list[int]:
        """Those in any of the groups who changed after a counter, newest first."""
        last = self._last
        changed = set(self._user_nids[bisect_right(self._counters, counter) :])
        found = set().union(*[changed.intersection(group) for group in groups])
        return sorted(
            [user_nid for user_nid in found if user_nid in last], key=last.__getitem__, reverse=True
        )
