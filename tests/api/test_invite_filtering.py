"""Invites of those whom one ignores or blocks. spec: client-server-api#invite-permission, client-server-api#ignoring-users"""

from __future__ import annotations

from typing import Any

from tests.api.pushing import PushCase, user
from tests.api.rooms import ALICE, BOB, V3, RoomsCase
from tests.support.databases import on_each_database

FILTER = "org.matrix.msc4155.invite_permission_config"
PERMISSION = "m.invite_permission_config"
IGNORED = "m.ignored_user_list"


@on_each_database
class InviteFiltering(RoomsCase):
    """Alice invites bob."""

    def configure(self, kind: str, content: Any) -> None:
        self.app.ok("PUT", f"{V3}/user/{BOB}/account_data/{kind}", content, self.bob)

    def sync(self, since: str | None = None) -> Any:
        return self.app.ok("GET", f"{V3}/sync", token=self.bob, query={"since": since} if since else None)

    def invites(self, since: str | None = None) -> list[str]:
        return list(self.sync(since).get("rooms", {}).get("invite", {}))

    def invite(self, room_id: str) -> tuple[int, Any]:
        return self.post(self.alice, f"/rooms/{room_id}/invite", {"user_id": BOB})

    def test_blocked(self) -> None:
        room_id = self.create()
        for content in ({"blocked_users": [ALICE]}, {"blocked_servers": ["test.*"]}):
            self.configure(FILTER, content)
            self.assert_refused(self.invite(room_id), 403, "M_INVITE_BLOCKED")
            created = self.post(self.alice, "/createRoom", {"invite": [BOB]})
            self.assert_refused(created, 403, "M_INVITE_BLOCKED")
            path = f"{V3}/rooms/{room_id}/state/m.room.member/{BOB}"
            as_state = self.app.call("PUT", path, {"membership": "invite"}, self.alice)
            self.assert_refused(as_state, 403, "M_INVITE_BLOCKED")
        self.assertIsNone(self.membership(room_id, BOB))
        self.configure(FILTER, {"allowed_users": [ALICE], "blocked_servers": ["*"]})
        self.assertEqual((200, {}), self.invite(room_id))
        self.assertEqual([room_id], self.invites())

    def test_ignored(self) -> None:
        for kind, content in (
            (FILTER, {"ignored_users": [ALICE]}),
            (FILTER, {"ignored_servers": ["*"]}),
            (IGNORED, {"ignored_users": {ALICE: {}}}),
        ):
            room_id = self.create()
            self.configure(kind, content)
            since = self.sync()["next_batch"]
            # The inviter sees nothing of it; the invited user, too.
            self.assertEqual((200, {}), self.invite(room_id))
            self.assertEqual("invite", self.membership(room_id, BOB))
            self.assertEqual([], self.invites(since))
            self.assertNotIn(room_id, self.invites())
            # It is there all the same: who knows of the room can come.
            self.configure(kind, {})
            self.assertIn(room_id, self.invites())
            self.assertEqual(200, self.post(self.bob, f"/rooms/{room_id}/join")[0])

    def test_invites_that_wait(self) -> None:
        room_id = self.create()
        self.assertEqual((200, {}), self.invite(room_id))
        since = self.sync()["next_batch"]
        self.assertEqual([room_id], self.invites())
        for kind, content in (
            (PERMISSION, {"default_action": "block"}),
            (FILTER, {"blocked_users": [ALICE]}),
            (FILTER, {"ignored_servers": ["*"]}),
        ):
            self.configure(kind, content)
            self.assertEqual([], self.invites())
            self.app.restart()
            self.assertEqual([], self.invites())
            self.configure(kind, {})
            self.assertEqual([room_id], self.invites())
        self.assertEqual([], self.invites(since))
        # Those in the room see the invite as ever.
        self.configure(PERMISSION, {"default_action": "block"})
        self.assertEqual("invite", self.membership(room_id, BOB))

    def test_a_hidden_invite_takes_no_place_in_a_list(self) -> None:
        shown, hidden = self.create(), self.create()
        self.assertEqual((200, {}), self.invite(shown))
        self.assertEqual(200, self.post(self.bob, f"/rooms/{shown}/join")[0])
        self.assertEqual((200, {}), self.invite(hidden))
        lists = {"top": {"ranges": [[0, 0]], "timeline_limit": 1, "required_state": []}}
        body = {"lists": lists, "room_subscriptions": {hidden: lists["top"]}}
        path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"

        def told(pos: str | None = None) -> tuple[int, set[str], str]:
            answer = self.app.ok("POST", path, body, self.bob, {"pos": pos} if pos else {})
            return answer["lists"]["top"]["count"], set(answer["rooms"]), answer["pos"]

        self.configure(FILTER, {"ignored_users": [ALICE]})
        count, rooms, pos = told()
        self.assertEqual((1, {shown}), (count, rooms))
        self.app.restart()
        self.assertEqual((1, set()), told(pos)[:2])
        # Who changes their mind is told of it, on the same connection.
        self.configure(FILTER, {})
        count, rooms, pos = told(pos)
        self.assertEqual((2, {hidden}), (count, rooms))
        self.assertEqual((2, set()), told(pos)[:2])

    def test_old_initial_sync(self) -> None:
        room_id = self.create(invite=[BOB])

        def shown() -> list[str]:
            rooms = self.app.ok("GET", f"{V3}/initialSync", token=self.bob)["rooms"]
            return [room["room_id"] for room in rooms]

        self.assertEqual([room_id], shown())
        for kind, content in (
            (IGNORED, {"ignored_users": {ALICE: {}}}),
            (PERMISSION, {"default_action": "block"}),
        ):
            self.configure(kind, content)
            self.assertEqual([], shown())
            self.configure(kind, {})
            self.assertEqual([room_id], shown())

    def test_long_poll_is_not_ended_by_a_hidden_invite(self) -> None:
        self.configure(FILTER, {"ignored_users": [ALICE]})
        room_id = self.create()
        since = self.sync()["next_batch"]
        waiting = self.app.start(
            "GET", f"{V3}/sync", token=self.bob, query={"since": since, "timeout": "30000"}
        )
        self.assertEqual((200, {}), self.invite(room_id))
        self.app.advance(1)
        self.assertFalse(waiting.called)
        self.app.advance(30)
        self.assertNotIn("rooms", self.app.wait(waiting).json)

    def test_nonsense(self) -> None:
        everybody = {"blocked_servers": ["*"]}
        for content in (
            {"blocked_users": 1},
            {"blocked_users": [1, {}]},
            {"enabled": 0, "x": []},
            # One list that is none, and none of them counts.
            {**everybody, "allowed_users": "@alice:test.example"},
            {**everybody, "ignored_servers": None},
            {"blocked_servers": ["*", 5]},
            # Nor where somebody else's server would have more to do than it should.
            {"blocked_servers": ["*"], "blocked_users": [f"*x{number}*" for number in range(1_000)]},
            {"blocked_servers": ["*"], "blocked_users": ["*a" * 200 + "0000"] * 60},
        ):
            self.configure(FILTER, content)
            self.assertEqual((200, {}), self.invite(self.create()))

    def test_advertised(self) -> None:
        features = self.app.ok("GET", "/_matrix/client/versions")["unstable_features"]
        self.assertTrue(features["org.matrix.msc4155"])
        self.assertTrue(features["org.matrix.msc4380.stable"])


@on_each_database
class HiddenFromPush(PushCase):
    """Bob's telephone does not ring for an invite that he is not shown."""

    def test_no_notification(self) -> None:
        self.set_pusher()
        path = f"/user/{user('bob')}/account_data"
        for kind, content in (
            (FILTER, {"ignored_users": [user("alice")]}),
            (FILTER, {"ignored_servers": ["*"]}),
            (IGNORED, {"ignored_users": {user("alice"): {}}}),
        ):
            self.ok("bob", "PUT", f"{path}/{kind}", content)
            self.make_room("alice", preset="private_chat", invite=[user("bob")])
            self.settle()
            self.assertEqual([], self.gateways.take())
            self.assertEqual([], self.ok("bob", "GET", "/notifications")["notifications"])
            self.ok("bob", "PUT", f"{path}/{kind}", {})
        self.make_room("alice", preset="private_chat", invite=[user("bob")])
        self.settle()
        self.assertEqual(["invite"], [one["membership"] for one in self.gateways.take()])

    def test_what_is_said_in_rooms_notifies_all_the_same(self) -> None:
        self.set_pusher()
        self.ok("bob", "PUT", f"/user/{user('bob')}/account_data/{FILTER}", {"ignored_servers": ["*"]})
        self.send()
        self.assertEqual(1, len(self.gateways.take()))
