"""Administrators redact whatever a user has written: docs/admin-api.md."""

from __future__ import annotations

from typing import Any

from homeserver.rooms import user_redactions
from homeserver.store import moderation_tasks, user_events
from tests.api.administration import AdminCase
from tests.api.talk import user
from tests.support.databases import on_each_database


@on_each_database
class UserRedactions(AdminCase):
    def redact(self, name: str = "bob", **body: Any) -> Any:
        """What came of it, when it is done."""
        path = f"/v1/user/{user(name)}/redact"
        task_id = self.does("POST", path, {"rooms": [], **body})["redact_id"]
        self.app.advance(1)
        found = self.status(task_id)
        self.assertEqual("complete", found["status"])
        return found["failed_redactions"]

    def status(self, task_id: str) -> Any:
        return self.does("GET", f"/v1/user/redact_status/{task_id}")

    def texts(self, room_id: str) -> list[str]:
        chunk = self.does("GET", f"/v1/rooms/{room_id}/messages", None, {"limit": 1000})["chunk"]
        return self.bodies(chunk)

    def test_everywhere(self) -> None:
        first, second = self.make_room(joined=("bob",)), self.make_room(joined=("bob",))
        for room_id in (first, second):
            self.say("alice", room_id, "hers")
            self.say("bob", room_id, "his")
        self.assertEqual({}, self.redact(reason="spam"))
        self.assertEqual((["hers"], ["hers"]), (self.texts(first), self.texts(second)))
        # In his own name, with the reason.
        chunk = self.does("GET", f"/v1/rooms/{first}/messages", None, {"limit": 1000})["chunk"]
        sent = [one for one in chunk if one["type"] == "m.room.redaction"]
        self.assertEqual({(user("bob"), "spam")}, {(one["sender"], one["content"]["reason"]) for one in sent})
        # His membership, too, says no more than that he is a member.
        (member,) = [one for one in chunk if one.get("state_key") == user("bob")]
        self.assertEqual({"membership": "join"}, member["content"])
        # Again: there is nothing left to do.
        self.assertEqual({}, self.redact())
        again = self.does("GET", f"/v1/rooms/{first}/messages", None, {"limit": 1000})["chunk"]
        self.assertEqual(len(chunk), len(again))

    def test_some_rooms_and_times(self) -> None:
        first, second = self.make_room(joined=("bob",)), self.make_room(joined=("bob",))
        self.say("bob", second, "elsewhere")
        self.say("bob", first, "one")
        then_ms = int(self.app.time.rightNow * 1000)
        self.say("bob", first, "two")
        self.say("bob", first, "three")
        self.redact(rooms=[first], after_ts=then_ms, before_ts=then_ms)
        self.assertEqual((["one", "three"], ["elsewhere"]), (self.texts(first), self.texts(second)))
        self.redact(rooms=[first], limit=1)
        self.assertEqual(["one"], self.texts(first))
        self.redact(rooms=[first, "!unknown:x.org"], before_ts=then_ms)
        self.assertEqual(([], ["elsewhere"]), (self.texts(first), self.texts(second)))

    def test_in_pieces(self) -> None:
        self.patch(user_events, "PIECE", 2)
        room_id = self.make_room(joined=("bob",))
        for number in range(3):
            self.say("bob", room_id, f"his {number}")
            self.say("alice", room_id, f"hers {number}")
        self.redact()
        self.assertEqual(["hers 0", "hers 1", "hers 2"], self.texts(room_id))

    def test_who_has_left(self) -> None:
        room_id = self.make_room(joined=("bob",))
        event_id = self.say("bob", room_id, "his")
        self.leave("bob", room_id)
        # Nobody can do it: he is not in the room, and neither is the administrator.
        failed = self.redact()
        self.assertIn(event_id, failed)
        self.assertEqual(["his"], self.texts(room_id))
        self.join("root", room_id)
        self.assertIn(event_id, self.redact())
        levels = {"users": {user("alice"): 100, user("root"): 50}}
        self.set_state("alice", room_id, "m.room.power_levels", levels)
        self.assertEqual({}, self.redact())
        self.assertEqual([], self.texts(room_id))

    def test_by_the_administrator(self) -> None:
        room_id = self.make_room(joined=("bob", "root"))
        event_id = self.say("bob", room_id, "his")
        self.assertIn(event_id, self.redact(use_admin=True))
        levels = {"users": {user("alice"): 100, user("root"): 50}}
        self.set_state("alice", room_id, "m.room.power_levels", levels)
        self.assertEqual({}, self.redact(use_admin=True))
        chunk = self.does("GET", f"/v1/rooms/{room_id}/messages", None, {"limit": 1000})["chunk"]
        self.assertEqual(
            {user("root")}, {one["sender"] for one in chunk if one["type"] == "m.room.redaction"}
        )

    def test_it_goes_on_after_a_restart(self) -> None:
        room_id = self.make_room(joined=("bob",))
        for number in range(3):
            self.say("bob", room_id, str(number))
        done = 0
        redact = user_redactions.UserRedactions._redact

        async def fail_at_the_second(*args: Any) -> Any:
            nonlocal done
            done += 1
            if done == 2:
                raise RuntimeError("the process ends")
            return await redact(*args)

        self.patch(user_redactions.UserRedactions, "_redact", fail_at_the_second)
        path = f"/v1/user/{user('bob')}/redact"
        task_id = self.does("POST", path, {"rooms": []})["redact_id"]
        self.assertEqual("active", self.status(task_id)["status"])
        self.assertEqual(2, len(self.texts(room_id)))
        self.app.log.entries.clear()
        self.app.restart()
        self.assertEqual(("active", 2), (self.status(task_id)["status"], len(self.texts(room_id))))
        self.app.app.begin()
        self.app.advance(1)
        self.assertEqual({"status": "complete", "failed_redactions": {}}, self.status(task_id))
        self.assertEqual([], self.texts(room_id))

    def test_it_is_known_for_a_day(self) -> None:
        path = f"/v1/user/{user('bob')}/redact"
        task_id = self.does("POST", path, {"rooms": []})["redact_id"]
        self.app.advance(86_000)
        self.does("POST", path, {"rooms": []})
        self.assertEqual("complete", self.status(task_id)["status"])
        self.app.advance(1_000)
        self.does("POST", path, {"rooms": []})
        self.refuses(404, "M_NOT_FOUND", "GET", f"/v1/user/redact_status/{task_id}")

    def test_bodies(self) -> None:
        path = f"/v1/user/{user('bob')}/redact"
        for body in (
            {},
            {"rooms": None},
            {"rooms": [1]},
            {"rooms": [], "limit": 0},
            {"rooms": [], "limit": 10**9},
            {"rooms": [], "after_ts": -1},
            {"rooms": [], "before_ts": 2**60},
            {"rooms": [], "reason": "a\0b"},
            {"rooms": [], "reason": "x" * 10_001},
        ):
            self.refuses(400, "M_BAD_JSON", "POST", path, body)
        self.refuses(400, "M_INVALID_PARAM", "POST", path, {"rooms": ["#x:test.example"]})
        self.refuses(404, "M_NOT_FOUND", "POST", f"/v1/user/{user('nobody')}/redact", {"rooms": []})
        self.does("POST", "/v1/user/@x:elsewhere.org/redact", {"rooms": []})
        self.refuses(404, "M_NOT_FOUND", "GET", "/v1/user/redact_status/none")
        self.assert_refused(self.ask("POST", path, {"rooms": []}, who="alice"), 403, "M_FORBIDDEN")

    def test_how_much_may_wait(self) -> None:
        self.patch(moderation_tasks, "WAITING_MOST", 0)
        path = f"/v1/user/{user('bob')}/redact"
        self.refuses(429, "M_LIMIT_EXCEEDED", "POST", path, {"rooms": []})
