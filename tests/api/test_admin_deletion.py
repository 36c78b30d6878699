"""Administrators close rooms: docs/admin-api.md."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from homeserver.rooms import shutdowns
from homeserver.rooms.send import Sender
from tests.api.talk import V3, user
from tests.api.test_admin_rooms import ROOMS, RoomCase
from tests.support.databases import on_each_database


class DeletionCase(RoomCase):
    def setUp(self) -> None:
        super().setUp()
        self.add("carol")
        self.room_id = self.create(preset="public_chat", visibility="public", room_alias_name="bad")
        self.join("bob", self.room_id)
        self.app.ok(
            "POST", self.path(self.room_id, "invite"), {"user_id": user("carol")}, self.tokens["alice"]
        )

    def status(self, delete_id: str) -> Any:
        return self.does("GET", f"/v2/rooms/delete_status/{delete_id}")

    def rooms(self, name: str) -> list[str]:
        found = self.does("GET", f"/v1/users/{user(name)}/joined_rooms")["joined_rooms"]
        return list(found)

    def delete(self, **body: Any) -> Any:
        """What came of it, when it is done."""
        delete_id = self.does("DELETE", f"/v2/rooms/{self.room_id}", body)["delete_id"]
        self.app.advance(1)
        found = self.status(delete_id)
        self.assertEqual(("complete", self.room_id), (found["status"], found["room_id"]))
        return found


@on_each_database
class Deletion(DeletionCase):
    def test_everybody_leaves(self) -> None:
        found = self.delete(block=True)
        self.assertEqual(False, found["purged"])
        self.assertNotIn("error", found)
        result = dict(found["shutdown_room"])
        self.assertEqual(sorted(map(user, ("alice", "bob", "carol"))), sorted(result.pop("kicked_users")))
        self.assertEqual(
            {"failed_to_kick_users": [], "local_aliases": ["#bad:test.example"], "new_room_id": None}, result
        )
        for name in ("alice", "bob", "carol"):
            self.assertEqual([], self.rooms(name))
            synced = self.app.ok("GET", f"{V3}/sync", token=self.tokens[name])
            self.assertEqual({}, synced.get("rooms", {}), name)
            path = f"{V3}/join/{quote(self.room_id)}"
            self.assert_refused(self.app.call("POST", path, {}, self.tokens[name]), 403, "M_FORBIDDEN")
        self.assertEqual("leave", self.membership(self.room_id, "carol"))
        self.assertEqual(404, self.get("root", f"{V3}/directory/room/%23bad:test.example")[0])
        self.assertEqual([], self.ok("root", f"{V3}/publicRooms")["chunk"])
        whole = self.does("GET", f"{ROOMS}/{self.room_id}")
        self.assertEqual((0, True), (whole["joined_members"], whole["forgotten"]))
        self.assertEqual([found], self.does("GET", f"/v2/rooms/{self.room_id}/delete_status")["results"])

    def test_without_a_block(self) -> None:
        self.delete()
        self.assertEqual({"block": False}, self.does("GET", f"{ROOMS}/{self.room_id}/block"))
        # Nobody is there to let anybody in.
        self.assertNotEqual(
            200, self.app.call("POST", f"{V3}/join/{self.room_id}", {}, self.tokens["bob"])[0]
        )
        self.delete()

    def test_a_new_room(self) -> None:
        found = self.delete(new_room_user_id=user("root"), room_name="Moved", message="It was bad")
        new_id = found["shutdown_room"]["new_room_id"]
        for name in ("alice", "bob", "root"):
            self.assertEqual([new_id], self.rooms(name))
        # Who was only invited is not brought into anything.
        self.assertEqual([], self.rooms("carol"))
        chunk = self.page("bob", new_id)["chunk"]
        self.assertIn("It was bad", self.bodies(chunk))
        self.assertEqual("Moved", self.state(new_id, "m.room.name")["name"])
        self.assert_refused(
            self.send("bob", new_id, {"msgtype": "m.text", "body": "but"}), 403, "M_FORBIDDEN"
        )
        located = self.ok("root", f"{V3}/directory/room/%23bad:test.example")
        self.assertEqual(new_id, located["room_id"])

    def test_while_the_client_waits(self) -> None:
        found = self.does("DELETE", f"{ROOMS}/{self.room_id}", {"new_room_user_id": user("root")})
        self.assertEqual({"kicked_users", "failed_to_kick_users", "local_aliases", "new_room_id"}, set(found))
        self.assertEqual(3, len(found["kicked_users"]))
        self.assertEqual([found["new_room_id"]], self.rooms("bob"))

    def test_an_unknown_room(self) -> None:
        path = f"{ROOMS}/!unknown:x.org"
        self.refuses(400, "M_INVALID_PARAM", "DELETE", path, {})
        nothing: dict[str, Any] = {
            "kicked_users": [],
            "failed_to_kick_users": [],
            "local_aliases": [],
            "new_room_id": None,
        }
        self.assertEqual(nothing, self.does("DELETE", path, {"block": True}))
        self.assertTrue(self.does("GET", f"{path}/block")["block"])
        self.refuses(404, "M_NOT_FOUND", "DELETE", "/v2/rooms/!unknown:x.org", {"block": True})
        self.refuses(404, "M_NOT_FOUND", "GET", "/v2/rooms/!unknown:x.org/delete_status")
        self.refuses(404, "M_NOT_FOUND", "GET", "/v2/rooms/delete_status/none")

    def test_bodies(self) -> None:
        for version in ("v1", "v2"):
            path = f"/{version}/rooms/{self.room_id}"
            for body in (
                {"block": 1},
                {"message": ""},
                {"message": "a\0b"},
                {"room_name": "x" * 10_001},
                {"new_room_user_id": 1},
            ):
                self.refuses(400, "M_BAD_JSON", "DELETE", path, body)
            self.refuses(400, "M_NOT_JSON", "DELETE", path, b"")
            for wrong in ("x", "@x:elsewhere.org"):
                self.refuses(400, "M_INVALID_PARAM", "DELETE", path, {"new_room_user_id": wrong})
            self.refuses(404, "M_NOT_FOUND", "DELETE", path, {"new_room_user_id": user("nobody")})
            self.assert_refused(self.ask("DELETE", path, {}, who="alice"), 403, "M_FORBIDDEN")
        self.assertEqual([self.room_id], self.rooms("bob"))


@on_each_database
class Interrupted(DeletionCase):
    """It is stopped after each of its steps, and the next process brings it to its end."""

    def interrupt(self, target: Any, name: str, after: int) -> None:
        """Let a step fail after it was done so often."""
        done = 0
        step = getattr(target, name)

        async def fail(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            if done >= after:
                raise RuntimeError("the process ends")
            done += 1
            return await step(*args, **kwargs)

        self.patch(target, name, fail)
        self.addCleanup(setattr, target, name, step)
        self._restore = lambda: setattr(target, name, step)

    def test_at_each_step(self) -> None:
        steps = shutdowns.RoomShutdowns
        for number, (target, name, after) in enumerate(
            (
                (steps, "_leader", 0),
                (Sender, "send", 0),
                (steps, "_empty", 0),
                (steps, "_leave", 0),
                (steps, "_leave", 1),
                (steps, "_move", 0),
            )
        ):
            with self.subTest(name=name, after=after):
                self.once(number, target, name, after)

    def once(self, number: int, target: Any, name: str, after: int) -> None:
        room_id = self.create(preset="public_chat", room_alias_name=f"room{number}")
        self.join("bob", room_id)
        before = len(self.does("GET", ROOMS)["rooms"])
        self.interrupt(target, name, after)
        body = {"new_room_user_id": user("root"), "block": True}
        delete_id = self.does("DELETE", f"/v2/rooms/{room_id}", body)["delete_id"]
        self.assertEqual("active", self.status(delete_id)["status"])
        # The same cannot be begun meanwhile.
        self.refuses(400, "M_UNKNOWN", "DELETE", f"/v2/rooms/{room_id}", {})
        self.app.log.entries.clear()
        self.app.restart()
        self._restore()
        self.app.app.begin()
        self.app.advance(1)
        found = self.status(delete_id)
        self.assertEqual("complete", found["status"])
        result = found["shutdown_room"]
        self.assertEqual([user("alice"), user("bob")], sorted(result["kicked_users"]))
        self.assertEqual(
            ([], [f"#room{number}:test.example"]), (result["failed_to_kick_users"], result["local_aliases"])
        )
        new_id = result["new_room_id"]
        for member in ("alice", "bob"):
            self.assertIn(new_id, self.rooms(member))
            self.assertNotIn(room_id, self.rooms(member))
        # One new room, and one message in it, however often it was tried.
        self.assertEqual(before + 1, len(self.does("GET", ROOMS)["rooms"]))
        self.assertEqual(1, len(self.bodies(self.page("bob", new_id)["chunk"])))
