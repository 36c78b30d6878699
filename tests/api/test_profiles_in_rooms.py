"""A new name or picture in the user's rooms. spec: client-server-api#events-on-change-of-profile-information"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from homeserver.rooms import profiles
from homeserver.store.changes import Kind
from tests.api.rooms import BOB, CAROL, V3, RoomsCase
from tests.support.databases import on_each_database


@on_each_database
class ProfilesInRooms(RoomsCase):
    def setUp(self) -> None:
        super().setUp()
        self.app.app.begin()

    def set_name(self, name: str) -> None:
        self.app.ok("PUT", f"{V3}/profile/{BOB}/displayname", {"displayname": name}, self.bob)

    def test_a_new_name_goes_into_every_room(self) -> None:
        rooms = [self.create(preset="public_chat") for _ in range(3)]
        for room_id in rooms:
            self.ok(self.bob, f"/join/{room_id}", {"reason": "x"})
        self.ok(self.bob, f"/rooms/{rooms[2]}/leave")
        self.set_name("Bo")
        self.app.advance(1)
        names = [self.member(room_id, BOB).get("displayname") for room_id in rooms]
        self.assertEqual(["Bo", "Bo", None], names)
        self.assertNotIn("reason", self.member(rooms[0], BOB))

    def test_many_changes_in_a_row_are_few_events(self) -> None:
        room_id = self.create(preset="public_chat")
        self.ok(self.bob, f"/join/{room_id}")
        path = f"{V3}/profile/{BOB}/displayname"
        calls = [
            self.app.start("PUT", path, {"displayname": f"Bob {number}"}, self.bob) for number in range(50)
        ]
        for call in calls:
            self.assertEqual(200, self.app.wait(call).status)
        self.app.advance(1)
        self.assertEqual("Bob 49", self.member(room_id, BOB)["displayname"])
        self.assertLess(sum(event.state_key == BOB for event in self.events(room_id)), 20)

    def test_a_name_and_a_picture_that_go(self) -> None:
        room_id = self.create(preset="public_chat")
        self.ok(self.bob, f"/join/{room_id}")
        self.app.ok("DELETE", f"{V3}/profile/{BOB}/displayname", None, self.bob)
        self.app.advance(1)
        self.assertEqual({"membership": "join"}, self.member(room_id, BOB))

    def test_the_next_process_goes_on(self) -> None:
        rooms = [self.create(preset="public_chat") for _ in range(3)]
        for room_id in rooms:
            self.ok(self.bob, f"/join/{room_id}")
        self.app.advance(10)  # how far it is has been stored
        self.set_name("Bo")
        self.app.restart()
        self.app.app.begin()
        self.app.advance(1)
        self.assertEqual(["Bo"] * 3, [self.member(room_id, BOB).get("displayname") for room_id in rooms])

    def hold(self, room_id: str) -> Deferred[None]:
        """What comes to this room waits until the Deferred fires."""
        telling = self.app.app.services.rooms.profiles
        update, gate = telling._update, Deferred[None]()

        async def held(where: str, *args: Any) -> None:
            if where == room_id and not gate.called:
                await gate
            await update(where, *args)

        self.patch(telling, "_update", held)
        return gate

    def stop_halfway(self, room_id: str) -> Deferred[None]:
        """Set a name; what comes to this room waits until the Deferred fires."""
        gate = self.hold(room_id)
        self.set_name("New")
        self.app.advance(0)
        return gate

    def joined(self, count: int) -> list[str]:
        """Rooms that bob is in."""
        rooms = [self.create(preset="public_chat") for _ in range(count)]
        for room_id in rooms:
            self.ok(self.bob, f"/join/{room_id}")
        self.app.advance(10)  # how far the follower is has been stored
        return rooms

    def rename_carol(self, room_id: str) -> None:
        carol = self.app.register("carol")
        self.ok(carol, f"/join/{room_id}")
        self.app.ok("PUT", f"{V3}/profile/{CAROL}/displayname", {"displayname": "New"}, carol)
        self.app.advance(0)

    def lag(self) -> int:
        return self.app.app.outgoing.followers.lag("room profiles")

    def _told(self, user_id: str, name: str = "New") -> list[str]:
        """The rooms that know of a new name, in the order in which they were told."""
        changes = self.app.app.core.changes.since(0)
        assert changes is not None
        events = [change.payload.event for change in changes if change.kind == Kind.EVENT]
        return [
            event.room_id
            for event in events
            if event.state_key == user_id and event.content.get("displayname") == name
        ]

    def test_a_stop_halfway_is_no_failure(self) -> None:
        rooms = self.joined(5)
        self.stop_halfway(rooms[2])
        self.assertEqual(rooms[:2], self._told(BOB))
        self.app.restart()
        self.app.app.begin()
        self.app.advance(1)
        self.assertEqual({"New"}, {self.member(room_id, BOB).get("displayname") for room_id in rooms})

    def test_who_is_in_many_rooms_keeps_nobody_waiting(self) -> None:
        rooms = self.joined(5)
        gate = self.stop_halfway(rooms[2])
        self.rename_carol(rooms[0])
        self.assertEqual((rooms[:2], rooms[:1]), (self._told(BOB), self._told(CAROL)))
        gate.callback(None)
        self.app.advance(0)
        self.assertEqual(rooms, self._told(BOB))

    def test_users_take_turns(self) -> None:
        self.patch(profiles, "_AT_ONCE", 1)
        rooms = self.joined(5)
        gate = self.stop_halfway(rooms[2])
        self.rename_carol(rooms[0])
        self.assertEqual([], self._told(CAROL))
        gate.callback(None)
        self.app.advance(0)
        changes = self.app.app.core.changes.since(0)
        assert changes is not None
        events = [change.payload.event for change in changes if change.kind == Kind.EVENT]
        told = [event.state_key for event in events if event.content.get("displayname") == "New"]
        self.assertEqual([BOB, BOB, BOB, CAROL, BOB, BOB], told)

    def test_the_follower_waits_for_what_has_begun(self) -> None:
        """It holds its place in the log as long as a room does not know."""
        rooms = self.joined(5)
        gate = self.stop_halfway(rooms[2])
        self.rename_carol(rooms[0])
        self.app.advance(100)
        self.assertLess(0, self.lag())
        gate.callback(None)
        self.app.advance(0)
        self.assertEqual(0, self.lag())

    def test_changes_that_come_meanwhile_are_told_together(self) -> None:
        rooms = self.joined(5)
        gate = self.stop_halfway(rooms[2])
        for name in ("Newer", "Newest"):
            self.set_name(name)
        gate.callback(None)
        self.app.advance(0)
        self.assertEqual(rooms, self._told(BOB))
        self.assertEqual([], self._told(BOB, "Newer"))
        self.assertEqual(rooms, self._told(BOB, "Newest"))
        self.assertEqual(0, self.lag())

    def test_what_was_told_with_an_earlier_change_is_done_when_the_follower_comes_to_it(self) -> None:
        self.patch(profiles, "_AT_ONCE", 1)
        (room_id,) = self.joined(1)
        gate = self.stop_halfway(room_id)
        self.set_name("Newer")
        carols = self.create(preset="public_chat")
        carols_gate = self.hold(carols)
        self.rename_carol(carols)
        gate.callback(None)
        self.app.advance(0)
        # The follower waits for bob's second name, whose turn comes after carol's; so the third is told with it.
        self.set_name("Newest")
        carols_gate.callback(None)
        self.app.advance(0)
        self.assertEqual([[room_id]] * 2, [self._told(BOB), self._told(BOB, "Newest")])
        self.assertEqual(0, self.lag())

    def test_what_failed_is_tried_again(self) -> None:
        rooms = self.joined(3)
        telling = self.app.app.services.rooms.profiles
        update = telling._update
        failing = [rooms[1]]

        async def fail_once(room_id: str, *args: Any) -> None:
            if room_id in failing:
                failing.remove(room_id)
                raise ZeroDivisionError
            await update(room_id, *args)

        self.patch(telling, "_update", fail_once)
        self.set_name("New")
        self.app.advance(0.1)
        self.assertEqual(rooms[:1], self._told(BOB))
        self.app.advance(2)
        self.assertEqual(rooms, self._told(BOB))
        self.assertEqual(
            ["follower failed, will go on"], [one[1] for one in self.app.log.entries if one[0] == "error"]
        )
        self.app.log.entries.clear()

    def test_a_name_that_changes_while_a_room_is_made(self) -> None:
        path, body = "/createRoom", {"preset": "public_chat"}
        room_id = self.rename_meanwhile("Bo", path, body)["room_id"]
        self.assertEqual("Bo", self.member(room_id, BOB)["displayname"])
        path, body = f"/rooms/{room_id}/upgrade", {"new_version": "11"}
        successor_id = self.rename_meanwhile("Robert", path, body)["replacement_room"]
        self.assertEqual("Robert", self.member(successor_id, BOB)["displayname"])

    def rename_meanwhile(self, name: str, path: str, body: Any) -> Any:
        """Bob makes a room, and has another name when it is stored."""
        creator = self.app.app.services.rooms.creator
        bear, gate, reached = creator.bear, Deferred[None](), []

        async def held(*args: Any) -> None:
            reached.append(args)
            await gate
            await bear(*args)

        patch = self.patch(creator, "bear", held)
        call = self.app.start("POST", f"{V3}{path}", body, self.bob)
        while not reached:
            self.app.advance(0)
        self.set_name(name)
        self.app.advance(1)
        gate.callback(None)
        answer = self.app.wait(call)
        patch.restore()
        self.assertEqual(200, answer.status, answer.json)
        return answer.json

    def test_a_restricted_room_needs_nobody_to_vouch_again(self) -> None:
        club = self.create(preset="public_chat")
        rules = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": club}]}
        room_id = self.create(initial_state=[{"type": "m.room.join_rules", "content": rules}])
        self.ok(self.bob, f"/join/{club}")
        self.ok(self.bob, f"/join/{room_id}")
        self.ok(self.alice, f"/rooms/{room_id}/leave")
        self.set_name("Bo")
        self.app.advance(1)
        self.assertEqual({"membership": "join", "displayname": "Bo"}, self.member(room_id, BOB))
