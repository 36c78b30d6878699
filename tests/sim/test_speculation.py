"""Drop-and-reload equals never-speculated: heads that run ahead of the disk build the very events that heads read from
the disk would have built, and a commit that fails in between changes what is stored in nothing but the missing events.
"""

from __future__ import annotations

import sqlite3
from typing import Any
from urllib.parse import quote

from hypothesis import given, settings, strategies
from sqlalchemy import select
from twisted.internet.defer import Deferred
from twisted.trial import unittest

from homeserver.accounts.passwords import Cost
from homeserver.db.schema.rooms import current_state, events, room_heads, timeline
from homeserver.db.statements import statement
from homeserver.db.tx import Tx
from homeserver.store.check import check_db
from tests.support.app import TestApp
from tests.support.http import Answer

_TIMELINE = statement(
    select(events.c.event_id, events.c.depth)
    .select_from(timeline.join(events, events.c.nid == timeline.c.event_nid))
    .order_by(timeline.c.pos)
)
_STATE = statement(
    select(events.c.event_id)
    .select_from(current_state.join(events, events.c.nid == current_state.c.event_nid))
    .order_by(events.c.event_id)
)
_HEADS = statement(select(room_heads.c.version, room_heads.c.depth))

STEPS = strategies.lists(
    strategies.tuples(
        strategies.sampled_from(("say", "topic", "refused", "leave", "join")), strategies.integers(0, 3)
    ),
    min_size=1,
    max_size=12,
)


def _stored(tx: Tx) -> tuple[Any, ...]:
    return tx.all(_TIMELINE), tx.column(_STATE), tx.all(_HEADS)


class Room:
    """A server with a room, on which steps are taken."""

    def __init__(self, case: unittest.TestCase) -> None:
        self.server = TestApp(case)
        self.server.app.services.hasher._cost = Cost(1, 8192)
        self.alice, self.bob = self.server.register("alice"), self.server.register("bob")
        body = {"preset": "public_chat", "room_version": "11"}
        room_id = self.server.ok("POST", "/_matrix/client/v3/createRoom", body, self.alice)["room_id"]
        self.path = f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}"
        self.server.ok("POST", f"{self.path}/join", {}, self.bob)

    def begin(self, number: int, step: tuple[str, int]) -> Deferred[Answer]:
        """Take a step without waiting for it."""
        what, value = step
        message = {"msgtype": "m.text", "body": f"{number} {value}"}
        if what == "say":
            return self.server.start("PUT", f"{self.path}/send/m.room.message/t{number}", message, self.alice)
        if what == "topic":
            return self.server.start(
                "PUT", f"{self.path}/state/m.room.topic/", {"topic": f"{value}"}, self.alice
            )
        if what == "refused":
            return self.server.start("PUT", f"{self.path}/state/m.room.name/", {"name": f"{value}"}, self.bob)
        return self.server.start("POST", f"{self.path}/{what}", {}, self.bob)

    def forget(self) -> None:
        """Nothing of the room is left in memory but what the database has."""
        rooms = self.server.app.core.rooms
        assert all(actor.idle for actor in rooms._actors.values())
        rooms._actors.clear()

    def stored(self) -> tuple[Any, ...]:
        """What is stored of it."""
        return self.server.wait(self.server.database.read(_stored))


class Speculation(unittest.TestCase):
    """See the module."""

    @settings(max_examples=25, deadline=None)
    @given(STEPS)
    def test_all_at_once_is_one_by_one(self, steps: list[tuple[str, int]]) -> None:
        # Membership steps look before they act; they must not race here, where only the heads are compared.
        quick, slow = Room(self), Room(self)
        waiting: list[Deferred[Answer]] = []
        for number, step in enumerate(steps):
            if step[0] in ("leave", "join"):
                for one in waiting:
                    quick.server.wait(one)
                waiting.clear()
                quick.server.wait(quick.begin(number, step))
            else:
                waiting.append(quick.begin(number, step))
            slow.server.wait(slow.begin(number, step))
            slow.forget()
        for one in waiting:
            quick.server.wait(one)
        self.assertEqual(quick.stored(), slow.stored())

    @settings(max_examples=25, deadline=None)
    @given(STEPS, strategies.integers(0, 40))
    def test_a_commit_that_fails_leaves_no_trace(self, steps: list[tuple[str, int]], fail_at: int) -> None:
        room = Room(self)
        count = 0

        def hook(sql: str) -> None:
            nonlocal count
            count += 1
            if count == fail_at:
                raise sqlite3.OperationalError("disk I/O error (on purpose)")

        room.server.engine.hook = hook
        waiting = [room.begin(number, step) for number, step in enumerate(steps)]
        answers = [room.server.wait(one) for one in waiting]
        room.server.engine.hook = None
        self.assertEqual(room.server.wait(room.server.database.read(check_db)), [])
        told = {
            answer.json["event_id"]
            for answer in answers
            if answer.status == 200 and "event_id" in answer.json
        }
        ids = {event_id for event_id, _ in room.stored()[0]}
        self.assertEqual(told - ids, set(), "acknowledged and not stored")
        # The head in memory is the one on the disk: the next event is built on the very same.
        before = room.stored()[2][0]
        room.server.wait(room.begin(99, ("say", 0)))
        version, depth = room.stored()[2][0]
        self.assertEqual((version, depth), (before[0] + 1, before[1] + 1))
        room.server.log.entries[:] = [
            one for one in room.server.log.entries if one[1] != "database unavailable"
        ]
