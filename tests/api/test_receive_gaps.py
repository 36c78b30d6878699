"""Events whose ancestors are missing: what is asked for, what comes of it, and for how long it is tried.

# spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from federation.event import Event
from federation.hashes import compute_event_id
from homeserver.http.transport import PeerResponse
from homeserver.rooms.federated.filling import PER_ORIGIN, WAITS_S
from homeserver.rooms.federated.staged import Bounds, Staged
from homeserver.runtime.clock import LOOK_AGAIN_S
from homeserver.store.staging import Waiting, load_waiting
from tests.api.receiving import ReceiveCase
from tests.support.clocks import set_clock
from tests.support.databases import on_each_database
from tests.support.peer import FEDERATION, FakePeer

MISSING = ("POST", f"{FEDERATION}/get_missing_events/")
STATE_IDS = ("GET", f"{FEDERATION}/state_ids/")
STATE = ("GET", f"{FEDERATION}/state/")
EVENT = ("GET", f"{FEDERATION}/event/")
NOTHING = PeerResponse(404, b'{"errcode":"M_NOT_FOUND","error":"no"}')


@on_each_database
class Gaps(ReceiveCase):
    def setUp(self) -> None:
        super().setUp()
        self.enter()

    def rows(self) -> list[Waiting]:
        """What waits, on the disk."""
        found: list[Waiting] = self.app.wait(self.app.database.read(load_waiting))
        return found

    def assert_shown(self, *events: Event) -> None:
        """These are the newest that alice sees, in this order, and nothing waits."""
        self.assertEqual([event.event_id for event in events], self.timeline()[-len(events) :])
        self.assertEqual((0, []), (self.staged(), self.rows()))

    def close(self) -> None:
        """The peer gives nothing away."""
        self.peer.answers.update({("GET", FEDERATION): NOTHING, ("POST", FEDERATION): NOTHING})

    # --- the ways to fill one ------------------------------------------------------------------------

    def test_a_few_missing_events(self) -> None:
        said = [self.room.say(str(number)) for number in range(5)]
        held: Deferred[Any] = Deferred()
        self.peer.answers[MISSING] = held
        # It is acknowledged when it is on the disk, whatever the way to its place is.
        self.assert_taken(self.peer.push(self.app, said[-1]), said[-1])
        self.assertEqual([said[-1].event_id], [row.event_id for row in self.rows()])
        self.settle()
        self.assertNotIn(said[-1].event_id, self.timeline())
        (request,) = self.asked("get_missing_events")
        held.callback(self.peer.rooms[self.room_id].missing_answer(_body(request)))
        self.settle()
        self.assert_shown(*said)
        self.assertEqual(20, _body(request)["limit"])
        self.assertEqual([said[-1].event_id], _body(request)["latest_events"])
        self.assertEqual([], self.asked("/state"))

    def test_a_depth_that_somebody_made_up_does_not_end_the_search(self) -> None:
        """Who is asked for missing events sends none that is less deep than wanted."""
        self.enter()
        fork = list(self.room.head)
        deep = self.room.make("m.room.message", {"body": "deep"}, depth=2**53 - 1)
        self.assert_taken(self.peer.push(self.app, deep), deep)
        lost = [self.room.say(str(number), prev=fork if not number else None) for number in range(3)]
        last = self.room.say("last")
        self.assert_taken(self.peer.push(self.app, last), last)
        self.settle()
        (request,) = self.asked("get_missing_events")
        assert request.body is not None
        self.assertLess(msgspec.json.decode(request.body)["min_depth"], lost[0].depth)
        self.assertEqual(
            {deep.event_id, last.event_id, *(one.event_id for one in lost)}, set(self.timeline()[-5:])
        )

    def test_events_of_one_room_are_placed_with_their_followers(self) -> None:
        said = [self.room.say(str(number)) for number in range(6)]
        self.assert_taken(self.peer.push(self.app, said[3], said[4]), said[3], said[4])
        self.assert_taken(self.peer.push(self.app, said[5]), said[5])
        self.settle()
        self.assert_shown(*said)

    def test_a_gap_that_stays(self) -> None:
        """Nobody tells of the events between: the state at the far end is asked for, and moves the room."""
        self.peer.answers[MISSING] = {"events": []}
        bob = self.peer.user("bob")
        self.room.join(bob)
        unseen = [self.room.say(str(number)) for number in range(3)]
        shown = self.room.say("shown")
        self.assert_taken(self.peer.push(self.app, shown), shown)
        self.settle()
        # The parent was fetched by itself, with the state before it; what is before that stays a gap.
        self.assert_shown(unseen[-1], shown)
        self.assertEqual("join", self.state("m.room.member", bob)["membership"])
        self.assertEqual(1, len(self.asked("/state_ids/")))
        self.assertEqual([], self.asked(f"{FEDERATION}/state/"))
        self.assertEqual(2, len(self.asked("/event/")))
        # The room goes on as one.
        said = self.room.say("hello", sender=bob)
        self.assert_taken(self.peer.push(self.app, said), said)
        self.assertEqual(said.event_id, self.timeline()[-1])

    def test_many_new_members_come_as_a_whole_state(self) -> None:
        self.peer.answers[MISSING] = {"events": []}
        users = [self.peer.user(f"u{number}") for number in range(120)]
        for user_id in users:
            self.room.join(user_id)
        shown = [self.room.say("parent"), self.room.say("shown")]
        self.assert_taken(self.peer.push(self.app, shown[-1]), shown[-1])
        self.settle()
        self.assert_shown(*shown)
        self.assertEqual(1, len(self.asked(f"{FEDERATION}/state/")))
        self.assertEqual("join", self.state("m.room.member", users[0])["membership"])
        self.assertEqual("join", self.state("m.room.member", users[-1])["membership"])

    def test_another_server_of_the_room_is_asked(self) -> None:
        other = self.new_peer("other.example")
        joined = self.room.join(other.user(), signer=other.key)
        self.assert_taken(other.push(self.app, joined), joined)
        self.settle()
        said = [self.room.say(str(number)) for number in range(3)]
        self.close()
        self.assert_taken(self.peer.push(self.app, said[-1]), said[-1])
        self.settle()
        self.assert_shown(*said)
        self.assertEqual(1, len(other.asked_for("get_missing_events")))

    # --- for how long --------------------------------------------------------------------------------

    def test_it_is_tried_again_after_a_restart(self) -> None:
        self.close()
        self.say_and_restart(WAITS_S[0] + 1)

    def test_a_stop_is_no_attempt(self) -> None:
        """What is broken off by it is tried at once by the next process."""
        self.peer.answers[MISSING] = Deferred()
        self.say_and_restart(0.0)

    def say_and_restart(self, wait_s: float) -> None:
        """What waits at the end of a process the next one shows after that long."""
        said = [self.room.say(str(number)) for number in range(3)]
        self.assert_taken(self.peer.push(self.app, said[-1]), said[-1])
        self.settle()
        self.assertEqual(1, self.staged())
        self.app.restart()
        self.peer.answers.clear()
        self.app.app.begin()
        self.settle(wait_s)
        self.assert_shown(*said)

    def test_it_is_tried_for_hours_and_then_given_up(self) -> None:
        said = [self.room.say(str(number)) for number in range(3)]
        self.close()
        self.assert_taken(self.peer.push(self.app, said[-1]), said[-1])
        self.settle()
        for number, wait_s in enumerate(WAITS_S):
            before = len(self.asked("get_missing_events"))
            self.settle(wait_s - 1)
            self.assertEqual(before, len(self.asked("get_missing_events")), number)
            self.assertEqual(1, self.staged(), number)
            self.settle(2)
            self.assertGreater(len(self.asked("get_missing_events")), before, number)
        self.assertEqual((0, []), (self.staged(), self.rows()))
        self.assertGreater(sum(WAITS_S), 6 * 3600)
        # The same event, sent again, is a new one.
        self.peer.answers.clear()
        self.assert_taken(self.peer.push(self.app, said[-1]), said[-1])
        self.settle()
        self.assert_shown(*said)

    def test_the_clock_is_set(self) -> None:
        """Forward: it is tried when wall time says so. Back: it waits no longer than it ever would."""
        for by_s in (WAITS_S[3], -WAITS_S[-1]):
            said = [self.room.say(str(number)) for number in range(3)]
            self.close()
            self.assert_taken(self.peer.push(self.app, said[-1]), said[-1])
            self.settle()
            for wait_s in WAITS_S[:3]:
                self.settle(wait_s + 1)
            self.peer.answers.clear()
            set_clock(self, by_s)
            self.assertEqual(1, self.staged())
            self.settle(LOOK_AGAIN_S)
            self.assert_shown(*said)

    def test_what_it_waits_for_comes_by_itself(self) -> None:
        said = [self.room.say(str(number)) for number in range(3)]
        self.close()
        self.assert_taken(self.peer.push(self.app, said[2]), said[2])
        self.settle()
        self.assert_taken(self.peer.push(self.app, said[1]), said[1])
        self.settle()
        self.assertEqual(2, self.staged())
        self.assert_taken(self.peer.push(self.app, said[0]), said[0])
        self.settle()
        self.assert_shown(*said)

    def test_reordered_and_repeated(self) -> None:
        said = [self.room.say(str(number)) for number in range(9)]
        self.close()
        for number in (8, 2, 8, 5, 1, 7, 3, 0, 3, 6, 4, 8):
            self.assertEqual(200, self.peer.push(self.app, said[number])[0])
        self.settle(15)
        self.assert_shown(*said)

    def test_the_last_of_ours_leaves(self) -> None:
        said = [self.room.say(str(number)) for number in range(3)]
        self.close()
        self.assert_taken(self.peer.push(self.app, said[-1]), said[-1])
        self.settle()
        self.app.ok("POST", f"/_matrix/client/v3/rooms/{self.room_id}/leave", {}, self.alice)
        self.settle(WAITS_S[0] + 1)
        self.assertEqual((0, []), (self.staged(), self.rows()))

    def test_keys_that_come_late(self) -> None:
        other = self.new_peer("other.example")
        other.reachable = False
        joined = self.room.join(other.user(), signer=other.key)
        self.assert_taken(self.peer.push(self.app, joined), joined)
        self.settle()
        self.assertEqual(1, self.staged())
        other.reachable = True
        self.settle(WAITS_S[0] + 1)
        self.settle(WAITS_S[1] + 1)
        self.settle(WAITS_S[2] + 1)
        self.assert_shown(joined)

    # --- shares --------------------------------------------------------------------------------------

    def test_two_servers_that_lack_the_same_share_the_requests(self) -> None:
        other = self.new_peer("other.example")
        joined = self.room.join(other.user(), signer=other.key)
        self.assert_taken(other.push(self.app, joined), joined)
        self.settle()
        parent = self.room.say("parent")
        fork = list(self.room.head)
        ours, theirs = self.room.say("mine", prev=fork), self.room.say("yours", prev=fork)
        for peer in (self.peer, other):
            peer.answers[MISSING] = {"events": []}
        first: Deferred[Any] = Deferred()
        self.peer.answers[EVENT] = other.answers[EVENT] = first
        self.assert_taken(self.peer.push(self.app, ours), ours)
        self.assert_taken(other.push(self.app, theirs), theirs)
        self.settle()
        self.assertEqual(1, len(self.asked("/event/") + other.asked_for("/event/")))
        first.callback(self.peer.transaction([parent]))
        self.settle()
        self.assertEqual({ours.event_id, theirs.event_id}, set(self.timeline()[-2:]))
        self.assertEqual(0, self.staged())

    def test_a_slow_server_delays_only_itself(self) -> None:
        rooms = [self.peer.follow(self.app, self.create()) for _ in range(PER_ORIGIN + 2)]
        slow = self.new_peer("slow.example")
        for room in rooms:
            self.enter(room)
            slow.rooms[room.room_id] = room
        slow.answers["POST", FEDERATION] = lambda _: Deferred()
        late = []
        for room in rooms:
            room.say("unseen")
            late.append(room.say("late"))
        self.assert_taken(slow.push(self.app, *late), *late)
        self.settle()
        # So many of its rooms at once, and no more.
        self.assertEqual(PER_ORIGIN, len(slow.asked_for("get_missing_events")))
        said = [self.room.say(str(number)) for number in range(3)]
        self.assert_taken(self.peer.push(self.app, said[-1]), said[-1])
        self.settle()
        self.assertEqual([event.event_id for event in said], self.timeline()[-3:])
        self.assertEqual(len(late), self.staged())

    # --- bounds --------------------------------------------------------------------------------------

    def bound(self, *, strangers: bool = False, **bounds: int) -> None:
        """So little may wait, of servers in the rooms or of others."""
        staged: Staged = self.app.app.services.incoming.filler._staged
        staged._pools[strangers].bounds = Bounds(**bounds)

    def come_in(self, name: str) -> FakePeer:
        """Another server that is in the room, and gives no more away than the peer."""
        other = self.new_peer(name)
        joined = self.room.join(other.user(), signer=other.key)
        self.assert_taken(other.push(self.app, joined), joined)
        other.answers = self.peer.answers
        return other

    def junk(self, count: int) -> list[dict[str, Any]]:
        """Events with a signature of which nobody can say what it is worth."""
        made = [self.room.make_json("m.room.message", {"body": str(number)}) for number in range(count)]
        return [{**one, "signatures": {self.peer.server_name: {"ed25519:none": "A" * 86}}} for one in made]

    def test_a_server_that_makes_too_much_wait_is_told_to(self) -> None:
        self.bound(origin=3)
        self.close()
        self.room.say("unseen")
        late = [self.room.say(str(number)) for number in range(5)]
        status, answer = self.peer.push(self.app, *late, txn_id="much")
        self.assertEqual((429, "M_LIMIT_EXCEEDED"), (status, answer["errcode"]))
        self.settle()
        self.assertEqual(3, self.staged())
        # What can be placed is, and another server's events are not refused.
        other = self.new_peer("other.example")
        good = self.room.say("good", prev=[self.timeline()[-1]])
        self.assert_taken(other.push(self.app, good), good)
        # When there is room again the same transaction is taken.
        self.peer.answers.clear()
        self.settle(40)
        self.assert_taken(self.peer.push(self.app, *late, txn_id="much"), *late)
        self.settle(40)
        self.assertEqual(0, self.staged())
        self.assertEqual(late[-1].event_id, self.timeline()[-1])

    def test_a_room_in_which_too_much_waits(self) -> None:
        self.bound(room=3)
        other = self.come_in("other.example")
        self.close()
        self.room.say("unseen")
        late = [self.room.say(str(number)) for number in range(5)]
        self.assertEqual(200, self.peer.push(self.app, *late[:2])[0])
        self.assertEqual(429, other.push(self.app, *late[2:])[0])
        self.settle()
        self.assertEqual(3, self.staged())

    def test_strangers_take_no_place_of_those_who_are_in_a_room(self) -> None:
        self.bound(room=3)
        self.bound(strangers=True, room=2)
        self.close()
        strangers = [self.new_peer(f"stranger{number}.example") for number in range(2)]
        for one in strangers:
            one.answers = self.peer.answers
        junk = self.junk(5)
        ids = [compute_event_id(one, self.room.rules) for one in junk]
        self.assertEqual((200, {"pdus": {ids[0]: {}}}), strangers[0].push(self.app, junk[0]))
        answers = [strangers[1].push(self.app, *junk[1:], txn_id="junk") for _ in range(2)]
        for status, answer in answers:
            # Nobody waits for a stranger: what has no place is gone.
            self.assertEqual((200, ids[1:]), (status, list(answer["pdus"])))
            self.assertEqual({}, answer["pdus"][ids[1]])
            self.assertEqual(3, sum("error" in one for one in answer["pdus"].values()))
        self.room.say("unseen")
        late = [self.room.say(str(number)) for number in range(3)]
        self.assert_taken(self.peer.push(self.app, *late), *late)
        self.settle()
        self.assertEqual(5, self.staged())
        # Who comes in is none any more.
        joined = self.room.join(strangers[1].user(), signer=strangers[1].key, prev=[self.timeline()[-1]])
        self.assert_taken(strangers[1].push(self.app, joined), joined)
        self.assertEqual(429, strangers[1].push(self.app, *junk[2:])[0])

    def test_who_has_little_waiting_finds_a_place_that_others_do_not(self) -> None:
        self.bound(room=8, few=2)
        other = self.come_in("other.example")
        self.close()
        self.room.say("unseen")
        late = [self.room.say(str(number)) for number in range(12)]
        self.assertEqual(429, self.peer.push(self.app, *late[:8])[0])
        self.assertEqual(6, self.staged())
        self.assert_taken(other.push(self.app, *late[8:10]), *late[8:10])
        self.settle()
        self.assertEqual(8, self.staged())

    def test_the_same_event_twice_takes_one_place(self) -> None:
        self.bound(origin=1)
        self.close()
        self.room.say("unseen")
        late = self.room.say("late")
        other: FakePeer = self.new_peer("other.example")
        for peer in (self.peer, self.peer, other):
            self.assert_taken(peer.push(self.app, late), late)
        self.settle()
        self.assertEqual(1, self.staged())


def _body(request: Any) -> Any:
    return msgspec.json.decode(request.body)
