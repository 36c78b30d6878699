"""Rooms that are forgotten when they are left. spec: client-server-api#mforget_forced_upon_leave-capability"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from homeserver.rooms import departed
from tests.api.rooms import BOB, V3, RoomsCase
from tests.support.app import TestApp, test_config
from tests.support.databases import on_each_database
from tests.support.failing import failing_once


class LeavingCase(RoomsCase):
    """Bob leaves."""

    forced: bool

    def make_app(self) -> TestApp:
        config = test_config(data_dir=Path(self.mktemp()), forget_rooms_on_leave=self.forced)
        return TestApp(self, self.address(), config)

    def sync(self, since: str | None = None, **query: Any) -> Any:
        if since is not None:
            query["since"] = since
        return self.app.ok("GET", f"{V3}/sync", token=self.bob, query=query)

    def past(self, room_id: str) -> int:
        path = f"{V3}/rooms/{room_id}/messages"
        return self.app.call("GET", path, token=self.bob, query={"dir": "b"})[0]

    def join(self) -> str:
        room_id = self.create(preset="public_chat")
        self.ok(self.bob, f"/rooms/{room_id}/join")
        return room_id

    def check_left_kicked_and_banned(self) -> None:
        for how in ("leave", "kick", "ban"):
            room_id = self.join()
            since = self.sync()["next_batch"]
            who = self.bob if how == "leave" else self.alice
            self.ok(who, f"/rooms/{room_id}/{how}", {} if how == "leave" else {"user_id": BOB})
            self.app.advance(0)
            self.assertEqual(403 if self.forced else 200, self.past(room_id))
            # Every client hears that it is over.
            told = self.sync(since)
            self.assertEqual([room_id], list(told["rooms"]["leave"]))
            self.assertNotIn("rooms", self.sync(told["next_batch"]))
            left = self.sync(filter='{"room":{"include_leave":true}}')
            self.assertEqual(not self.forced, room_id in left.get("rooms", {}).get("leave", {}))

    def check_capability(self) -> None:
        can = self.app.ok("GET", f"{V3}/capabilities", token=self.bob)["capabilities"]
        self.assertEqual({"enabled": self.forced}, can["m.forget_forced_upon_leave"])

    def check_what_an_earlier_process_left(self) -> None:
        room_id = self.join()
        unattended = self.app.app.services.unattended
        self.patch(unattended.departed, "_forget", _nothing)
        self.ok(self.bob, f"/rooms/{room_id}/leave")
        self.app.advance(0)
        self.assertEqual(200, self.past(room_id))
        self.app.restart()
        self.app.app.begin()
        self.app.advance(0)
        self.app.advance(0)
        self.assertEqual(403 if self.forced else 200, self.past(room_id))


async def _nothing(_: Any) -> None:
    return


@on_each_database
class Forced(LeavingCase):
    """As the administrator wants it."""

    forced = True

    def test_left_kicked_and_banned(self) -> None:
        self.check_left_kicked_and_banned()

    def test_capability(self) -> None:
        self.check_capability()

    def test_what_an_earlier_process_left(self) -> None:
        self.check_what_an_earlier_process_left()

    def test_while_the_database_is_away(self) -> None:
        room_id = self.join()
        self.patch(departed, "_forget_all", failing_once(departed._forget_all))
        self.ok(self.bob, f"/rooms/{room_id}/leave")
        self.app.advance(0)
        self.assertEqual(200, self.past(room_id))
        self.app.advance(2)
        self.assertEqual(403, self.past(room_id))
        self.assertEqual(["task failed, will restart"], self.app.log.events("error"))
        self.app.log.entries.clear()


class NotForced(LeavingCase):
    """As it is without the option."""

    forced = False

    def test_left_kicked_and_banned(self) -> None:
        self.check_left_kicked_and_banned()

    def test_capability(self) -> None:
        self.check_capability()

    def test_what_an_earlier_process_left(self) -> None:
        self.check_what_an_earlier_process_left()


@on_each_database
class Forgotten(LeavingCase):
    """What happens to somebody in a room that they have forgotten. spec: client-server-api#leaving-rooms"""

    forced = False

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.join()
        self.before = self.sync()["next_batch"]
        self.ok(self.bob, f"/rooms/{self.room_id}/leave")
        self.left = self.sync()["next_batch"]
        self.ok(self.bob, f"/rooms/{self.room_id}/forget")
        self.since = self.sync()["next_batch"]

    def bob_is(self, how: str) -> None:
        self.ok(self.alice, f"/rooms/{self.room_id}/{how}", {"user_id": BOB})

    def left_rooms(self, since: str | None = None, **query: Any) -> list[str]:
        answer = self.sync(since, filter='{"room":{"include_leave":true}}', **query)
        return list(answer.get("rooms", {}).get("leave", {}))

    def assert_hidden(self) -> None:
        for since in (self.left, self.since, None):
            self.assertEqual([], self.left_rooms(since))
        self.assertEqual([], self.left_rooms(self.since, full_state="true"))
        self.assertEqual(403, self.past(self.room_id))
        # A client that shows the room must hear that it is over.
        self.assertEqual([self.room_id], self.left_rooms(self.before))

    def test_bans_do_not_bring_it_back(self) -> None:
        for how in ("ban", "unban", "ban"):
            self.bob_is(how)
            self.assert_hidden()
            if how == "unban":
                self.app.restart()
                self.assert_hidden()

    def test_bans_end_no_long_poll(self) -> None:
        query = {"since": self.since, "timeout": 9000}
        waiting = self.app.start("GET", f"{V3}/sync", None, self.bob, query)
        self.bob_is("ban")
        self.app.advance(5)
        self.assertFalse(waiting.called)
        self.app.advance(5)
        self.assertNotIn("rooms", self.app.wait(waiting).json)

    def test_an_invite_brings_it_back(self) -> None:
        self.bob_is("ban")
        self.bob_is("unban")
        self.bob_is("invite")
        invited = self.sync(self.since)
        self.assertEqual([self.room_id], list(invited["rooms"]["invite"]))
        self.bob_is("kick")
        for since in (self.since, invited["next_batch"], None):
            self.assertEqual([self.room_id], self.left_rooms(since))
        self.app.restart()
        self.assertEqual([self.room_id], self.left_rooms())

    def test_a_join_brings_it_back(self) -> None:
        self.ok(self.bob, f"/rooms/{self.room_id}/join")
        self.assertEqual([self.room_id], list(self.sync(self.since)["rooms"]["join"]))
        self.assertEqual(200, self.past(self.room_id))
        self.bob_is("ban")
        self.assertEqual([self.room_id], self.left_rooms(self.since))
        self.assertEqual(200, self.past(self.room_id))
