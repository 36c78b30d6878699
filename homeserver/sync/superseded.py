"""Which part of a timeline would tell clients a state that is over.

Clients apply the events of a timeline to the state, one after the other. Where a later change of the same key is not among
them (the reader may not see it, or does not want it), they would end with the older one, whatever the state before the
timeline says: then the timeline begins after that event.

spec: client-server-api#get_matrixclientv3sync (``state``: the updates up to the start of the timeline)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def count_superseded(newest_first: Iterable[tuple[int, int]], shown: Sequence[int]) -> int:
    """How many events of a timeline go: up to the newest whose change of the state was replaced by one that is not shown.

    ``newest_first``: the changes of the state, each (nid of the key, nid of the event). ``shown``: nids, the oldest first.
    """
    in_timeline = frozenset(shown)
    last: dict[int, bool] = {}  # by key, whether its newest change is shown
    for key_nid, event_nid in newest_first:
        is_shown = event_nid in in_timeline
        if not last.setdefault(key_nid, is_shown) and is_shown:
            return shown.index(event_nid) + 1
    return 0
