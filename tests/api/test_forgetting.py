"""Rooms that are forgotten when they are left. spec: client-server-api#mforget_forced_upon_leave-capability"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.api.rooms import BOB, V3, RoomsCase
from tests.support.app import TestApp, test_config
from tests.support.databases import on_each_database


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


class NotForced(LeavingCase):
    """As it is without the option."""

    forced = False

    def test_left_kicked_and_banned(self) -> None:
        self.check_left_kicked_and_banned()

    def test_capability(self) -> None:
        self.check_capability()

    def test_what_an_earlier_process_left(self) -> None:
        self.check_what_an_earlier_process_left()
