"""Events that are to be sent later, in rooms where nothing can be sent for now."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from federation.builder import Draft
from homeserver.db.errors import DatabaseUnavailable
from homeserver.http.errors import MatrixError, limit_exceeded
from homeserver.rooms import delayed
from homeserver.rooms.turn import Finish
from homeserver.runtime.clock import sleep
from homeserver.store import delayed as store
from homeserver.store.placement import ClientTransaction
from tests.api.test_delayed_events import PREFIX, DelayedCase
from tests.support.databases import on_each_database


@on_each_database
class HeldUp(DelayedCase):
    """Rooms of bob's in which nothing can be sent for now are no matter of alice's."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(delayed, "AT_ONCE", 2)
        self.patch(delayed, "OF_USER_AT_ONCE", 1)
        self.bobs_id = self.make_room(joined=("bob",))
        self.answer: Callable[[], Any] | None = None
        self.tries: list[tuple[str, int]] = []
        self.start_s = self.app.time.rightNow
        module = self.app.app.services.unattended.delayed
        self.send_once = module._send_once
        self.patch(module, "_send_once", self.send_slowly)

    async def send_slowly(self, draft: Draft, finish: Finish, known_as: ClientTransaction) -> str:
        """What is sent to bob's room meets with what the test says."""
        if draft.room_id == self.bobs_id:
            self.tries.append((draft.content["body"], round(self.app.time.rightNow - self.start_s)))
            if self.answer is not None:
                await self.answer()
        return await self.send_once(draft, finish, known_as)

    async def lack_members(self) -> None:
        """As a room does that waits for its members."""
        await sleep(self.app.app.core.around.clock, 90)
        raise MatrixError(503, "M_UNKNOWN", "The members of this room have not all come yet")

    async def refuse(self) -> None:
        """As a policy server does that has had enough."""
        raise limit_exceeded(1_000)

    async def break_down(self) -> None:
        """As a fault of ours."""
        raise KeyError("a fault")

    def stuck(self, count: int, delay_ms: int = 1_000) -> list[str]:
        """Bob's events, all of them due before any other."""
        return [self.scheduled(delay_ms, f"b{one}", name="bob", room_id=self.bobs_id) for one in range(count)]

    def bobs(self) -> list[str]:
        """What was said in bob's room."""
        return sorted(self.bodies(self.page("bob", self.bobs_id, dir="f", limit=100)["chunk"]))

    def tried(self, body: str) -> list[int]:
        """When one of them was tried."""
        return [when_s for one, when_s in self.tries if one == body]

    def test_by_rooms_that_are_slow(self) -> None:
        self.answer = self.lack_members
        self.stuck(8)
        for seconds in (2, 3, 60):
            self.scheduled(seconds * 1_000, str(seconds))
        for _ in range(3):
            self.pass_time(1)
        self.assertEqual(["2", "3"], self.said())
        self.pass_time(57)
        self.assertEqual(["2", "3", "60"], self.said())
        # Of bob's one at a time is on its way, each when the one before has ended.
        self.assertEqual([1], [when_s for _, when_s in self.tries])
        self.pass_time(31)
        self.pass_time(90)
        self.assertEqual([1, 91, 181], [when_s for _, when_s in self.tries])
        self.assertEqual(3, len({body for body, _ in self.tries}))
        self.answer = None
        for _ in range(10):
            self.pass_time(60)
        self.assertEqual([f"b{one}" for one in range(8)], self.bobs())

    def test_by_rooms_that_refuse_for_now(self) -> None:
        self.answer = self.refuse
        self.stuck(8)
        self.scheduled(2_000, "alice's")
        for _ in range(61):
            self.pass_time(1)
        self.assertEqual(["alice's"], self.said())
        # As long again as it has waited already.
        for number in range(8):
            self.assertEqual([1, 6, 11, 21, 41], self.tried(f"b{number}"))
        self.answer = None
        for _ in range(20):
            self.pass_time(1)
        self.assertEqual([f"b{one}" for one in range(8)], self.bobs())

    def test_not_for_ever(self) -> None:
        self.answer = self.refuse
        (delay_id,) = self.stuck(1)
        for _ in range(70):
            self.pass_time(50)
        waiting = self.look(delay_id, "bob")
        self.assertNotIn("finalised", waiting)
        self.assertEqual(
            (1_000, int(self.start_s * 1_000)), (waiting["delay_ms"], waiting["delayed_since_ts"])
        )
        # Whoever lets it wait anew has it tried for as long again.
        other_id = self.scheduled(1_000, "other", name="bob", room_id=self.bobs_id)
        self.assertEqual((200, {}), self.act("restart", delay_id))
        for _ in range(70):
            self.pass_time(50)
        self.assertNotIn("finalised", self.look(delay_id, "bob"))
        for _ in range(8):
            self.pass_time(50)
        for one in (delay_id, other_id):
            error = self.look(one, "bob")["finalised"]["error"]
            self.assertEqual({"errcode": "M_LIMIT_EXCEEDED", "error": "Too many requests"}, error)
        self.assertEqual([], self.ok("bob", f"{PREFIX}/delayed_events")["delayed_events"])
        waits = {after - before for before, after in pairwise(self.tried("b0"))}
        self.assertEqual(int(delayed.LONGEST_RETRY_S), max(waits))

    def test_the_time_without_a_database_does_not_count(self) -> None:
        (delay_id,) = self.stuck(1)

        def fail(sql: str) -> None:
            if sql.startswith("UPDATE delayed_events"):
                raise DatabaseUnavailable("the disk is full")

        self.app.engine.hook = fail
        for _ in range(40):
            self.pass_time(100)
        self.app.engine.hook = None
        self.answer, self.tries = self.refuse, []
        self.pass_time(6)
        self.assertEqual(1, len(self.tries))
        self.assertNotIn("finalised", self.look(delay_id, "bob"))
        self.answer = None
        self.pass_time(6)
        self.assertEqual(["b0"], self.bobs())

    def test_by_faults_of_ours(self) -> None:
        self.answer = self.break_down
        ids = self.stuck(4)
        self.scheduled(2_000, "alice's")
        self.pass_time(1)
        self.pass_time(1)
        self.assertEqual(["alice's"], self.said())
        self.assertEqual([1] * 4, [when_s for _, when_s in self.tries])
        self.patch(delayed, "GIVEN_UP_S", 1)
        self.pass_time(5)
        for one in ids:
            self.assertEqual("M_UNKNOWN", self.look(one, "bob")["finalised"]["error"]["errcode"])
        logged = [entry for entry in self.app.log.entries if entry[0] == "error"]
        self.assertEqual(["delayed event failed"] * 8, [entry[1] for entry in logged])
        self.app.log.entries.clear()

    def test_what_waits_anew_is_sent_at_its_time(self) -> None:
        """However long after that it was to be tried again."""
        self.answer = self.refuse
        (delay_id,) = self.stuck(1, 10_000)
        for _ in range(200):
            self.pass_time(1)
        self.answer = None
        self.assertEqual((200, {}), self.act("restart", delay_id))
        for _ in range(9):
            self.pass_time(1)
        self.assertEqual([], self.bobs())
        self.pass_time(1)
        self.assertEqual(["b0"], self.bobs())

    def test_what_waits_anew_meanwhile_is_not_sent_before(self) -> None:
        """By another process: in this one they go one after the other."""
        (delay_id,) = self.stuck(1, 5_000)
        seen = self.app.wait(self.app.database.read(store.find_delayed, delay_id))
        assert seen is not None and seen.due_ts_ms is not None
        self.pass_time(3)
        self.assertEqual((200, {}), self.act("restart", delay_id))
        worker = self.app.app.core.committer
        self.app.wait(worker.work(store.postpone_delayed, delay_id, seen.due_ts_ms, seen.due_ts_ms + 1))
        self.pass_time(4)
        self.assertEqual([], self.bobs())
        self.pass_time(1)
        self.assertEqual(["b0"], self.bobs())
