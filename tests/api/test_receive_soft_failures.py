"""Events that stand on an old part of a room, by servers that want what was true then.

# spec: server-server-api#soft-failure
"""

from __future__ import annotations

from urllib.parse import quote

from federation.event import Event
from homeserver.http.transport import PeerResponse
from tests.api.receiving import ReceiveCase
from tests.api.rooms import ALICE, V3
from tests.support.databases import on_each_database
from tests.support.peer import FEDERATION


@on_each_database
class ClosedDoor(ReceiveCase):
    """Bob, who moderates, has opened the room; alice, who stands above him, has closed it."""

    def setUp(self) -> None:
        super().setUp()
        self.bob = self.app.register("bob")
        self.mallory = self.peer.user()
        self.app.ok("POST", f"{V3}/join/{quote(self.room_id)}", {}, self.bob)
        levels = {"users": {ALICE: 100, "@bob:test.example": 50}}
        self.put(self.alice, "m.room.power_levels", levels)
        self.put(self.bob, "m.room.join_rules", {"join_rule": "invite"})
        self.put(self.bob, "m.room.join_rules", {"join_rule": "public"})
        self.peer.follow(self.app, self.room_id)
        self.open = list(self.room.head)
        self.put(self.alice, "m.room.join_rules", {"join_rule": "invite"})

    def put(self, token: str, event_type: str, content: object) -> None:
        self.app.advance(1)
        path = f"{V3}/rooms/{quote(self.room_id)}/state/{event_type}/"
        self.app.ok("PUT", path, content, token)

    def push_join(self) -> Event:
        """Mallory joins where the room was open. (By state resolution alone bob's word, which comes after, would count.)"""
        join = self.room.join(self.mallory, prev=self.open)
        self.assert_taken(self.peer.push(self.app, join), join)
        return join

    def assert_closed(self) -> None:
        self.assertEqual({"join_rule": "invite"}, self.state("m.room.join_rules"))
        self.assertIsNone(self.state("m.room.member", self.mallory))

    def test_nobody_comes_in_by_the_past(self) -> None:
        before = self.timeline()
        self.push_join()
        self.assertEqual(before, self.timeline())
        self.assert_closed()

    def test_nor_is_who_came_in_so_heard(self) -> None:
        before = self.timeline()
        join = self.push_join()
        for prev in ([join.event_id], [join.event_id, *self.open]):
            said = self.room.say("hello", sender=self.mallory, prev=prev)
            self.assert_taken(self.peer.push(self.app, said), said)
        self.assertEqual(before, self.timeline())
        self.assert_closed()

    def test_in_one_transaction(self) -> None:
        before = self.timeline()
        join = self.room.join(self.mallory, prev=self.open)
        said = self.room.say("hello", sender=self.mallory, prev=[join.event_id])
        self.assert_taken(self.peer.push(self.app, join, said), join, said)
        self.assertEqual(before, self.timeline())
        self.assert_closed()

    def test_nor_by_a_gap_that_was_made_for_it(self) -> None:
        """What others tell of the state at an event is told by whoever wants to come in."""
        lost = self.room.add("m.room.message", {"body": "lost"}, sender=ALICE, prev=self.open)
        join = self.room.join(self.mallory, prev=[lost.event_id])
        state = self.room.state_before(lost.event_id)
        told = {"pdu_ids": state, "auth_chain_ids": self.room.auth_chain(state)}
        self.peer.answers["POST", f"{FEDERATION}/get_missing_events/"] = {"events": []}
        self.peer.answers["GET", f"{FEDERATION}/event/"] = PeerResponse(404, b"{}")
        self.peer.answers["GET", f"{FEDERATION}/state_ids/"] = told
        self.assert_taken(self.peer.push(self.app, join), join)
        self.settle()
        self.assertEqual(0, self.staged())
        self.assert_closed()

    def test_a_join_that_is_handed_over_once_the_room_is_open_again(self) -> None:
        """Nobody here sees it stand, so its server is not told that it does."""
        join = self.push_join()
        self.put(self.alice, "m.room.join_rules", {"join_rule": "public"})
        self.assertEqual((403, "M_FORBIDDEN"), self.hand_over(join))
        self.assertIsNone(self.state("m.room.member", self.mallory))
        # Another one that says the same is another event; and a retry is a retry.
        self.peer.follow(self.app, self.room_id)
        again = self.room.join(self.mallory)
        for _ in range(2):
            self.assertEqual((200, None), self.hand_over(again))
        self.assertEqual({"membership": "join"}, self.state("m.room.member", self.mallory))

    def hand_over(self, event: Event) -> tuple[int, str | None]:
        uri = f"/_matrix/federation/v2/send_join/{quote(self.room_id)}/{quote(event.event_id)}"
        status, json = self.peer.call(self.app, "PUT", uri, event.json)
        return status, json.get("errcode")
