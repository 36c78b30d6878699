"""What those in charge of one server do, as another one sees it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from homeserver.accounts.types import Requester, stand_in
from homeserver.store.moderation_tasks import Task, TaskKind
from tests.federation.people import A, B, NetCase
from tests.support.databases import on_each_database

ALICE, BOB = f"@alice:{A}", f"@bob:{B}"
DELETION: dict[str, Any] = {"new_room_user_id": None, "room_name": "New", "message": "Closed", "block": False}


@on_each_database
class Across(NetCase):
    """bob is in charge of b."""

    def wait(self, coroutine: Any) -> Any:
        return self.net.wait(Deferred.fromCoroutine(coroutine))

    def me(self) -> Requester:
        nid = self.wait(self.b.app.core.interner.user(BOB))
        return stand_in(BOB, nid)

    def block(self, room_id: str) -> None:
        self.wait(self.b.app.services.rooms.blocks.block(self.me(), room_id))

    def do(self, kind: TaskKind, subject: str, wishes: dict[str, Any]) -> Task:
        """What came of a task at b."""
        tasks = self.b.app.services.overseeing.tasks
        task_id = self.wait(tasks.begin(self.me(), kind, subject, wishes))
        self.wait(tasks.ended(task_id))
        task: Task | None = self.wait(tasks.find(kind, task_id))
        assert task is not None
        self.assertEqual((True, None), (task.ended_ts_ms is not None, task.error))
        return task

    def membership(self, room_id: str, user_id: str = BOB) -> str | None:
        """What alice's server says."""
        path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user_id)}"
        found: str | None = (self.call(self.a, self.alice, "GET", path).json or {}).get("membership")
        return found

    def invite(self, room_id: str) -> Any:
        return self.call(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": BOB})

    def test_nobody_is_invited_to_a_blocked_room(self) -> None:
        room_id = self.create(self.a, self.alice)
        self.block(room_id)
        self.refused(self.invite(room_id), 403, "M_FORBIDDEN")
        self.assertIsNone(self.membership(room_id))

    def test_nobody_joins_a_blocked_room(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.block(room_id)
        self.refused(self.join(self.b, self.bob, room_id, A), 403, "M_FORBIDDEN")
        self.assertEqual([], self.net.sent("make_join"))

    def test_a_room_that_is_blocked_during_the_join(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        rooms, me = self.b.app.services.rooms, self.me()
        join = rooms.strangers.remote.join

        async def join_and_be_blocked(*args: Any, **named: Any) -> bool:
            joined = await join(*args, **named)
            await rooms.blocks.block(me, room_id)
            return joined

        self.patch(rooms.strangers.remote, "join", join_and_be_blocked)
        self.refused(self.join(self.b, self.bob, room_id, A), 403, "M_FORBIDDEN")
        self.net.settle()
        self.assertEqual("leave", self.membership(room_id))
        self.assertNotIn(room_id, self.sync(self.b, self.bob).get("rooms", {}).get("join", {}))

    def test_a_room_is_closed(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        result = self.do(TaskKind.DELETE_ROOM, room_id, DELETION).result
        self.assertEqual(([BOB], []), (result["kicked_users"], result["failed_to_kick_users"]))
        self.net.settle()
        self.assertEqual(("leave", "join"), (self.membership(room_id), self.membership(room_id, ALICE)))
        self.assertEqual({}, self.sync(self.b, self.bob).get("rooms", {}).get("leave", {}))
        # It was not blocked, and is another server's: so one may come back.
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)

    def test_an_invite_ends_with_it(self) -> None:
        room_id = self.create(self.a, self.alice)
        self.assertEqual(200, self.invite(room_id).status)
        result = self.do(TaskKind.DELETE_ROOM, room_id, DELETION).result
        self.assertEqual([BOB], result["kicked_users"])
        self.net.settle()
        self.assertEqual("leave", self.membership(room_id))
        self.assertNotIn(room_id, self.sync(self.b, self.bob).get("rooms", {}).get("invite", {}))

    def test_what_a_user_of_another_server_wrote(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat", room_version="11")
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        event_id = self.say(self.a, self.alice, room_id, "rude")
        self.net.settle()
        wishes: dict[str, Any] = {
            "rooms": [],
            "reason": None,
            "limit": 1000,
            "use_admin": False,
            "after_ts": None,
            "before_ts": None,
        }
        self.assertIn(event_id, self.do(TaskKind.REDACT_USER, ALICE, wishes).result["failed_redactions"])
        levels = {"users": {ALICE: 100, BOB: 50}}
        self.ok(self.a, self.alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.power_levels", levels)
        self.net.settle()
        self.assertEqual({}, self.do(TaskKind.REDACT_USER, ALICE, wishes).result["failed_redactions"])
        self.net.settle()
        path = f"/rooms/{quote(room_id)}/event/{quote(event_id)}"
        self.assertEqual({}, self.ok(self.a, self.alice, "GET", path)["content"])
