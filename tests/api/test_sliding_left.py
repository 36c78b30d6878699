"""Sliding sync: rooms in which the user is no longer. proposal: MSC4186 (lists, subscriptions)"""

from __future__ import annotations

from tests.api.test_sliding_sync import BOB, SlidingCase, one_list
from tests.api.test_sync_left import LATER, go_on
from tests.support.sync import room_path, user_id


class LeftTests(SlidingCase):
    def test_rooms_that_somebody_left(self) -> None:
        left, kicked, banned = (self.room(name) for name in ("left", "kicked", "banned"))
        never = self.room("never", join=False)
        pos = self.ask(one_list())["pos"]
        self.app.member(left, "bob", "leave")
        self.app.member(kicked, "alice", "leave", "bob")
        self.app.member(banned, "alice", "ban", "bob")
        self.app.member(never, "alice", "ban", "bob")
        for room_id in (left, kicked, banned):
            self.app.say(room_id, "alice", "not for bob")
        answer = self.ask(one_list(), pos)
        found = {room_id: room["membership"] for room_id, room in answer["rooms"].items()}
        self.assertEqual(found, {left: "leave", kicked: "leave", banned: "ban"})
        for room in answer["rooms"].values():
            self.assertEqual([event["state_key"] for event in room["required_state"]], [BOB])
            self.assertEqual(room["timeline"][-1]["type"], "m.room.member")
        self.assertEqual(self.ask(one_list(), answer["pos"])["rooms"], {})
        fresh = self.ask({"conn_id": "other", **one_list()})
        self.assertEqual(set(fresh["rooms"]), {kicked, banned})
        self.app.member(kicked, "bob", "join")
        back = self.ask(one_list(), answer["pos"])["rooms"][kicked]
        self.assertEqual((back["initial"], back["membership"]), (True, "join"))

    def test_rooms_that_somebody_left_and_forgot(self) -> None:
        left, kicked, invited = self.room("left"), self.room("kicked"), self.room("invited", join=False)
        self.app.member(invited, "alice", "invite", "bob")
        pos = self.ask(one_list())["pos"]
        self.app.member(kicked, "alice", "leave", "bob")
        for room_id in (left, invited):
            self.app.ok("POST", f"/_matrix/client/v3/rooms/{room_id}/leave", {}, self.bob)
        for room_id in (left, kicked, invited):
            self.app.ok("POST", f"/_matrix/client/v3/rooms/{room_id}/forget", {}, self.bob)
        self.app.restart()
        # Another device may have done that: whoever knew of the rooms hears that they are over, once.
        answer = self.ask(one_list(), pos)
        found = {room_id: room["membership"] for room_id, room in answer["rooms"].items()}
        self.assertEqual(found, {left: "leave", kicked: "leave", invited: "leave"})
        for room in answer["rooms"].values():
            self.assertEqual([event["state_key"] for event in room["required_state"]], [BOB])
        again = self.ask(one_list(), answer["pos"])
        self.assertEqual(({}, {"all": {"count": 0}}), (again["rooms"], again["lists"]))
        self.assertEqual(self.ask({"conn_id": "other", **one_list()})["rooms"], {})

    def test_declined_invites_and_rooms_of_strangers(self) -> None:
        declined, stranger = self.room("declined", join=False), self.room("stranger", join=False)
        self.app.member(declined, "alice", "invite", "bob")
        self.app.member(declined, "bob", "leave")
        self.app.member(stranger, "alice", "leave", "bob")
        asked = {"timeline_limit": 9, "required_state": [["*", "*"]]}
        rooms = self.ask({"room_subscriptions": {declined: asked, stranger: asked}})["rooms"]
        self.assertEqual([declined], list(rooms))
        self.assertEqual((True, "leave"), (rooms[declined]["initial"], rooms[declined]["membership"]))
        self.assertEqual([BOB], [event.get("state_key") for event in rooms[declined]["timeline"]])
        self.assertEqual([BOB], [event["state_key"] for event in rooms[declined]["required_state"]])

    def test_a_room_that_was_left_is_shown_to_who_asks_for_it(self) -> None:
        room_id = self.room()
        self.app.say(room_id, "alice", "for bob")
        self.app.member(room_id, "bob", "leave")
        self.app.say(room_id, "alice", "not for bob")
        asked = {"timeline_limit": 2, "required_state": [["m.room.create", ""]]}
        body = {**one_list(), "room_subscriptions": {room_id: asked}}
        answer = self.ask(body)
        self.assertEqual({"all": {"count": 0}}, answer["lists"])
        room = answer["rooms"][room_id]
        self.assertEqual((True, "leave"), (room["initial"], room["membership"]))
        self.assertNotIn("lists", room)
        self.assertEqual(["m.room.create", "m.room.member"], [one["type"] for one in room["required_state"]])
        told = [one["content"].get("body", one["type"]) for one in room["timeline"]]
        self.assertEqual(["for bob", "m.room.member"], told)
        again = self.ask(body, answer["pos"])
        self.assertEqual({}, again["rooms"])
        self.app.member(room_id, "bob", "join")
        back = self.ask(body, again["pos"])["rooms"][room_id]
        self.assertEqual((True, "join"), (back["initial"], back["membership"]))
        self.app.member(room_id, "bob", "leave")
        self.app.ok("POST", f"/_matrix/client/v3/rooms/{room_id}/forget", {}, self.bob)
        self.assertEqual({}, self.ask({**body, "conn_id": "forgotten"})["rooms"])

    def test_rooms_that_somebody_left_and_forgot_at_once(self) -> None:
        """A client that shows the room must hear that it is over; who never showed it need not."""
        pos = self.ask(one_list(), None)["pos"]
        left, never = self.room("left"), self.room("never", join=False)
        pos = self.ask(one_list(), pos)["pos"]
        self.app.member(never, "bob", "join")
        for room_id in (left, never):
            self.app.member(room_id, "bob", "leave")
            self.app.ok("POST", f"{room_path(room_id)}/forget", {}, self.bob)
        self.app.restart()
        answer = self.ask(one_list(), pos)
        self.assertEqual(["leave"], [room["membership"] for room in answer["rooms"].values()])
        self.assertEqual({"all": {"count": 1}}, answer["lists"])
        after = self.ask(one_list(), answer["pos"])
        self.assertEqual(({}, {"all": {"count": 0}}), (after["rooms"], after["lists"]))

    def forget(self, room_id: str) -> None:
        self.app.ok("POST", f"{room_path(room_id)}/forget", {}, self.bob)

    def test_what_becomes_of_who_forgot_a_room_is_not_told(self) -> None:
        """They were told that it is over: neither a ban nor its end is news of a room that is none of theirs."""
        for source in ("the log", "the tables"):
            left, banned = (self.room(f"{name}{source[-3:]}") for name in ("left", "banned"))
            pos = self.ask(one_list())["pos"]
            self.app.member(left, "bob", "leave")
            self.app.member(banned, "alice", "ban", "bob")
            told = self.ask(one_list(), pos)
            self.assertEqual({left, banned}, set(told["rooms"]), source)
            for room_id in (left, banned):
                self.forget(room_id)
            waiting = self.poll(one_list(), told["pos"], 5) if source == "the log" else None
            self.app.member(left, "alice", "ban", "bob")
            self.app.member(banned, "alice", "leave", "bob")
            if waiting is None:
                self.app.restart()
                answer = self.ask(one_list(), told["pos"])
            else:
                self.app.advance(1)
                self.assertFalse(waiting.called, source)
                self.app.advance(5)
                answer = self.app.wait(waiting).json
            self.assertEqual(({}, {"all": {"count": 0}}), (answer["rooms"], answer["lists"]), source)
            # Out of sight it is noted that something happened there, and it still is none of theirs.
            hidden = self.ask({}, answer["pos"])["pos"]
            self.app.member(left, "alice", "leave", "bob")
            hidden = self.ask({}, hidden)["pos"]
            self.assertEqual({}, self.ask(one_list(), hidden)["rooms"], source)
            self.app.member(left, "bob", "join")
            back = self.ask(one_list(), hidden)["rooms"][left]
            self.assertEqual((True, "join"), (back["initial"], back["membership"]), source)
            self.app.member(left, "bob", "leave")

    def test_a_room_that_was_forgotten_before_its_invite_was_told(self) -> None:
        """An offer that was declined and forgotten, and then a ban: only that it is over is told."""
        room_id = self.room(join=False)
        self.app.member(room_id, "alice", "invite", "bob")
        pos = self.ask(one_list())["pos"]
        self.app.member(room_id, "bob", "leave")
        self.forget(room_id)
        self.app.member(room_id, "alice", "ban", "bob")
        answer = self.ask(one_list(), pos)
        self.assertEqual("ban", answer["rooms"][room_id]["membership"])
        self.assertEqual({}, self.ask(one_list(), answer["pos"])["rooms"])

    def test_who_is_something_else_long_after_they_left_is_told_what_was_when_they_left(self) -> None:
        for room_id, steps in LATER.items():
            self.app.make_room("alice", room_id, m__room__name={"name": "den"})
            self.app.place(room_id, "alice", "m.room.join_rules", {"join_rule": "knock"}, "")
            self.app.member(room_id, "alice", "invite", "bob")
            self.app.member(room_id, "bob", "join")
            go_on(self.app, room_id, steps)
            self.app.place(room_id, "alice", "m.room.avatar", {"url": "mxc://test.example/falcon"}, "")
        for limit, seen in ((0, []), (1, ["m.room.member"]), (2, ["before", "m.room.member"])):
            asked = {"timeline_limit": limit, "required_state": [["*", "*"]]}
            body = {**one_list(**asked), "room_subscriptions": dict.fromkeys(LATER, asked)}
            rooms = self.ask({"conn_id": str(limit), **body})["rooms"]
            self.assertEqual(set(LATER), set(rooms))
            for room_id, room in rooms.items():
                self.assertEqual(("den", None), (room.get("name"), room.get("avatar")), room_id)
                state = {(one["type"], one["state_key"]): one["content"] for one in room["required_state"]}
                self.assertEqual({"name": "den"}, state[("m.room.name", "")], room_id)
                self.assertNotIn(("m.room.topic", ""), state, room_id)
                self.assertNotIn(("m.room.member", user_id("carol")), state, room_id)
                told = [one["content"].get("body", one["type"]) for one in room["timeline"]]
                self.assertEqual([*seen, "m.room.member"], told, room_id)
