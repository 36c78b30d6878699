"""GET /members and /joined_members."""

from __future__ import annotations

from typing import Any

from tests.api.receiving import ReceiveCase
from tests.api.rooms import V3
from tests.api.talk import TalkCase, user
from tests.support.databases import on_each_database


@on_each_database
class Members(TalkCase):
    """See the module."""

    def members(self, name: str, room_id: str, **query: Any) -> dict[str, str]:
        chunk = self.ok(name, self.path(room_id, "members"), **query)["chunk"]
        self.assertTrue(all(event["type"] == "m.room.member" for event in chunk))
        self.assertTrue(all(event["room_id"] == room_id for event in chunk))
        return {event["state_key"].partition(":")[0][1:]: event["content"]["membership"] for event in chunk}

    def make(self) -> str:
        for name in ("carol", "dan"):
            self.add(name)
        room_id = self.make_room(joined=("bob", "carol"))
        self.leave("carol", room_id)
        self.set_state("alice", room_id, "m.room.member", {"membership": "invite"}, user("dan"))
        return room_id

    def test_kinds(self) -> None:
        room_id = self.make()
        everybody = {"alice": "join", "bob": "join", "carol": "leave", "dan": "invite"}
        self.assertEqual(everybody, self.members("bob", room_id))
        self.assertEqual({"alice", "bob"}, set(self.members("bob", room_id, membership="join")))
        self.assertEqual({"alice", "bob", "dan"}, set(self.members("bob", room_id, not_membership="leave")))
        either = self.members("bob", room_id, membership="leave", not_membership="join")
        self.assertEqual({"carol", "dan"}, set(either))
        same = self.members("bob", room_id, membership="join", not_membership="join")
        self.assertEqual(everybody, same)
        self.assertEqual({}, self.members("bob", room_id, membership="knock"))
        for name in ("membership", "not_membership"):
            answer = self.get("bob", self.path(room_id, "members"), **{name: "friend"})
            self.assert_refused(answer, 400, "M_INVALID_PARAM")

    def test_at(self) -> None:
        room_id = self.make_room()
        token = self.page("alice", room_id, limit=0)["start"]
        self.join("bob", room_id)
        self.set_state("alice", room_id, "m.room.topic", {"topic": "x"})
        self.assertEqual({"alice": "join"}, self.members("alice", room_id, at=token))
        self.leave("bob", room_id)
        self.assertEqual({"alice": "join"}, self.members("alice", room_id, at=token, membership="join"))
        later = self.page("alice", room_id, limit=0)["start"]
        self.assertEqual({"alice": "join", "bob": "leave"}, self.members("alice", room_id, at=later))
        self.assertEqual({"bob"}, set(self.members("alice", room_id, at=later, not_membership="join")))
        self.assertEqual({}, self.members("alice", room_id, at="t0"))
        future = self.members("alice", room_id, at="t999999999999")
        self.assertEqual({"alice": "join", "bob": "leave"}, future)
        self.assert_refused(self.get("alice", self.path(room_id, "members"), at="?"), 400, "M_INVALID_PARAM")

    def test_at_a_time_that_is_hidden(self) -> None:
        for name in ("carol", "dan"):
            self.add(name)
        room_id = self.make_room(joined=("bob",))
        self.set_state("alice", room_id, "m.room.history_visibility", {"history_visibility": "joined"})
        kick = {"membership": "leave", "reason": "what nobody else should know"}
        self.set_state("alice", room_id, "m.room.member", kick, user("bob"))
        then = self.page("alice", room_id, limit=0)["start"]
        self.set_state("alice", room_id, "m.room.member", {"membership": "invite"}, user("carol"))
        self.join("carol", room_id)
        path = self.path(room_id, "members")
        self.assert_refused(self.get("carol", path, at=then), 403, "M_FORBIDDEN")
        self.assertEqual({"alice": "join", "bob": "leave"}, self.members("alice", room_id, at=then))
        now = self.page("carol", room_id, limit=0)["start"]
        self.assertEqual({"alice", "bob", "carol"}, set(self.members("carol", room_id, at=now)))
        # Who was removed sees what was so by then, and strangers what was so when the room was open to them.
        self.assertEqual({"alice", "bob"}, set(self.members("bob", room_id, at=now)))
        opened = {"history_visibility": "world_readable"}
        self.set_state("alice", room_id, "m.room.history_visibility", opened)
        self.assert_refused(self.get("dan", path, at=then), 403, "M_FORBIDDEN")
        now = self.page("alice", room_id, limit=0)["start"]
        self.assertEqual({"alice", "bob", "carol"}, set(self.members("dan", room_id, at=now)))

    def test_after_leaving(self) -> None:
        self.add("carol")
        room_id = self.make_room(joined=("bob",))
        self.leave("bob", room_id)
        self.join("carol", room_id)
        self.assertEqual({"alice": "join", "bob": "leave"}, self.members("bob", room_id))
        now = self.page("alice", room_id, limit=0)["start"]
        self.assertEqual({"alice": "join", "bob": "leave"}, self.members("bob", room_id, at=now))
        joined = self.get("bob", self.path(room_id, "joined_members"))
        self.assert_refused(joined, 403, "M_FORBIDDEN")

    def test_joined_members_where_anybody_may_look_in(self) -> None:
        self.add("carol")
        room_id = self.make_room()
        path = self.path(room_id, "joined_members")
        self.assert_refused(self.get("carol", path), 403, "M_FORBIDDEN")
        visibility = self.path(room_id, "state", "m.room.history_visibility", "")
        self.app.ok("PUT", visibility, {"history_visibility": "world_readable"}, self.tokens["alice"])
        self.assertEqual([user("alice")], list(self.ok("carol", path)["joined"]))
        # Whoever has just left is told what strangers are told.
        self.join("carol", room_id)
        self.leave("carol", room_id)
        self.assertEqual([user("alice")], list(self.ok("carol", path)["joined"]))

    def test_joined_members(self) -> None:
        room_id = self.make()
        self.join("bob", room_id, displayname="Bobby", avatar_url="mxc://test.example/x")
        joined = self.ok("alice", self.path(room_id, "joined_members"))["joined"]
        bob = {"display_name": "Bobby", "avatar_url": "mxc://test.example/x"}
        self.assertEqual({user("alice"): {"display_name": "Alice"}, user("bob"): bob}, joined)
        self.join("bob", room_id, displayname=["odd"], avatar_url=None)
        joined = self.ok("alice", self.path(room_id, "joined_members"))["joined"]
        self.assertEqual({}, joined[user("bob")])


@on_each_database
class LateEvents(ReceiveCase):
    """What another server sent on a fork, of a time before somebody came, arrives after they came."""

    def members(self, token: str, at: str) -> tuple[int, Any]:
        return self.app.call("GET", f"{V3}/rooms/{self.room_id}/members", None, token, {"at": at})

    def now(self, token: str) -> str:
        at: str = self.app.ok("GET", f"{V3}/sync", token=token)["next_batch"]
        return at

    def test_members_know_of_their_own_time(self) -> None:
        """Or a client that loads the members at its sync token could not encrypt for them."""
        self.enter()
        visibility = f"{V3}/rooms/{self.room_id}/state/m.room.history_visibility/"
        self.app.ok("PUT", visibility, {"history_visibility": "joined"}, self.alice)
        # What says "joined" is itself for everybody who joins after it.
        self.app.ok("PUT", visibility, {"history_visibility": "joined", "n": 1}, self.alice)
        self.room = self.peer.follow(self.app, self.room_id)
        late = self.room.say("late")
        bob = self.app.register("bob")
        before = self.now(bob)
        self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, bob)
        self.assert_taken(self.peer.push(self.app, late), late)
        status, answer = self.members(bob, self.now(bob))
        self.assertEqual(200, status, answer)
        users = {event["state_key"] for event in answer["chunk"]}
        self.assertEqual({user("alice"), user("bob"), late.sender}, users)
        self.assertEqual(403, self.members(bob, before)[0])
        # A time at which they were gone is not theirs, though they have come back.
        self.app.ok("POST", f"{V3}/rooms/{self.room_id}/leave", {}, bob)
        self.app.ok("PUT", visibility, {"history_visibility": "joined", "n": 2}, self.alice)
        gone = self.now(self.alice)
        self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, bob)
        self.assertEqual(403, self.members(bob, gone)[0])
        self.assertEqual(200, self.members(bob, self.now(bob))[0])
