"""Which threads users are subscribed to: in memory, read when somebody asks, followed by the log. proposal: MSC4306"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.db.threads import Database
from homeserver.store.changes import Change, Kind
from homeserver.store.thread_subscriptions import SubscriptionChange, SubscriptionChanged, load_subscribed
from homeserver.stream.undisturbed import Readings

# LIMIT(memory: the one who was loaded longest ago is read again)
MAX_USERS = 20_000

Subscribed = frozenset[tuple[int, str]]
"""(room nid, event id of the thread's root)"""


class ThreadIndex:
    """``apply`` is subscribed to the log, so what is in memory is true at the log's position."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._users: dict[int, Subscribed] = {}
        self._readings: Readings[int] = Readings()  # by user

    def known(self, user_nid: int) -> Subscribed | None:
        """The threads that a user is subscribed to, if it is in memory."""
        return self._users.get(user_nid)

    async def load(self, user_nid: int) -> Subscribed:
        """The threads that a user is subscribed to."""
        while (known := self._users.get(user_nid)) is None:
            reading = self._database.read(load_subscribed, [user_nid])
            found, may_be_kept = await self._readings.read(user_nid, reading)
            if may_be_kept:
                self._put(user_nid, frozenset(found.get(user_nid, ())))
        return known

    kinds = frozenset({Kind.THREAD_SUBSCRIPTION})  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        for change in changes:
            if change.kind != Kind.THREAD_SUBSCRIPTION:
                continue
            user_nid, payload = -change.topic, change.payload
            self._readings.overtake(user_nid)
            known = self._users.get(user_nid)
            if known is None:
                continue
            if not isinstance(payload, SubscriptionChanged):
                del self._users[user_nid]
                continue
            thread = frozenset({(payload.room_nid, payload.root_id)})
            self._users[user_nid] = known | thread if payload.subscribed else known - thread

    def _put(self, user_nid: int, found: Subscribed) -> None:
        while len(self._users) >= MAX_USERS:
            del self._users[next(iter(self._users))]
        self._users[user_nid] = found


def told_changes(found: Sequence[SubscriptionChange], names: Mapping[int, str]) -> dict[str, Any]:
    """Changes as clients get them, by room and thread."""
    answer: dict[str, Any] = {}
    for one in found:
        body: dict[str, Any] = {"bump_stamp": one.pos}
        if one.subscribed:
            body["automatic"] = one.automatic
        section = answer.setdefault("subscribed" if one.subscribed else "unsubscribed", {})
        section.setdefault(names[one.room_nid], {})[one.root_id] = body
    return answer
