"""The sticky events that are on, by room: a read model that follows the log, loaded at the start.

LIMIT(of one room so many are shown, the newest; who sends more than that in an hour loses the oldest)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from homeserver.store.changes import Change, Kind
from homeserver.store.erasures import ErasedUsers
from homeserver.store.sticky import Sticky

ROOM_MOST = 1_000


class StickyIndex:
    """See the module. Who asks says what time it is: what is over is not told, and forgotten now and then."""

    def __init__(self, erased: ErasedUsers) -> None:
        self._erased = erased
        self._shown: dict[int, list[Sticky]] = {}  # by room, in the order of their positions
        self._hidden: dict[int, dict[int, Sticky]] = {}  # by room and event: soft-failed

    @property
    def is_empty(self) -> bool:
        """Whether there is none at all, as on most servers nearly always."""
        return not self._shown and not self._hidden

    def load(self, stored: Iterable[Sticky]) -> None:
        """What an earlier process knew."""
        for sticky in stored:
            self._add(sticky)

    kinds = frozenset({Kind.STICKY, Kind.EVENT})  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        for change in changes:
            if change.kind == Kind.STICKY and change.payload is not None:
                self._add(replace(change.payload, pos=change.pos if change.topic else 0))
            elif change.kind == Kind.EVENT and self._shown and change.payload is not None:
                if change.payload.redacts_target is not None:
                    self._forget(change.topic, change.payload.redacts_target)

    def _add(self, sticky: Sticky) -> None:
        hidden = self._hidden.setdefault(sticky.room_nid, {})
        if not sticky.pos:
            hidden[sticky.event_nid] = sticky
            if len(hidden) > ROOM_MOST:
                del hidden[next(iter(hidden))]
            return
        hidden.pop(sticky.event_nid, None)
        if not hidden:
            del self._hidden[sticky.room_nid]
        shown = self._shown.setdefault(sticky.room_nid, [])
        if any(one.event_nid == sticky.event_nid for one in shown):
            # Two looks at what was hidden were under way at once.
            return
        shown.append(sticky)
        if len(shown) > ROOM_MOST:
            del shown[0]

    def _forget(self, room_nid: int, event_id: str) -> None:
        shown = self._shown.get(room_nid)
        if shown is not None:
            shown[:] = [one for one in shown if one.event_id != event_id]

    def sweep(self, now_ms: int) -> None:
        """Forget what is over."""
        for room_nid in list(self._shown):
            self._shown[room_nid] = [one for one in self._shown[room_nid] if one.until_ts_ms > now_ms]
            if not self._shown[room_nid]:
                del self._shown[room_nid]
        for room_nid in list(self._hidden):
            left = {nid: one for nid, one in self._hidden[room_nid].items() if one.until_ts_ms > now_ms}
            self._hidden[room_nid] = left
            if not left:
                del self._hidden[room_nid]

    # --- questions -----------------------------------------------------------------------------------

    def shown(self, room_nid: int, after: int, upto: int, now_ms: int) -> list[Sticky]:
        """Those of a room that came in ``(after, upto]`` and are still on, oldest first."""
        found = self._shown.get(room_nid, ())
        # What is redacted is not sticky: so it is, for everybody, with what newcomers would get redacted.
        erased = self._erased.by_id
        return [
            one
            for one in found
            if after < one.pos <= upto and one.until_ts_ms > now_ms and one.sender_id not in erased
        ]

    def all_hidden(self, now_ms: int) -> dict[int, list[Sticky]]:
        """By room, all that were soft-failed."""
        return {
            room_nid: [one for one in found.values() if one.until_ts_ms > now_ms]
            for room_nid, found in self._hidden.items()
        }

    def hidden(self, room_nid: int, sender_id: str, now_ms: int) -> list[Sticky]:
        """A user's events in a room that were soft-failed."""
        found = self._hidden.get(room_nid)
        if not found:
            return []
        return [one for one in found.values() if one.sender_id == sender_id and one.until_ts_ms > now_ms]
