"""Fetched history with an altered copy of an event that waits whole: the content that its author gave it is kept."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from federation.event import Event
from homeserver.http.transport import PeerRequest, PeerResponse
from tests.api.peers import JoinedCase
from tests.support.databases import on_each_database
from tests.support.peer import FEDERATION, FakePeer
from tests.support.peer_rooms import PeerRoom

BACKFILL = ("GET", f"{FEDERATION}/backfill/")
EVENT = ("GET", f"{FEDERATION}/event/")
MISSING = ("POST", f"{FEDERATION}/get_missing_events/")
STATE_IDS = ("GET", f"{FEDERATION}/state_ids/")


@on_each_database
class Copies(JoinedCase):
    """Ann of an honest server set the topic before alice came; another server, which is asked first, alters that."""

    def setUp(self) -> None:
        super().setUp()
        self.honest = self.further_peer("honest.example")
        self.ann = self.honest.user("ann")

    def room(self, messages: int) -> tuple[PeerRoom, Event]:
        """A room with so many messages after a topic that counts no more."""
        room = self.peer.create()
        room.add("m.room.power_levels", {"users": {self.mallory: 100, self.ann: 50}}, state_key="")
        room.join(self.peer.user("another"))
        room.join(self.ann, signer=self.honest.key)
        room.say("first")
        topic = room.add(
            "m.room.topic", {"topic": "whole"}, state_key="", sender=self.ann, signer=self.honest.key
        )
        for number in range(messages):
            room.say(str(number))
        room.add("m.room.topic", {"topic": "new"}, state_key="")
        self.honest.rooms[room.room_id] = room
        return room, topic

    def altered(self, topic: Event) -> dict[str, Any]:
        # What is signed is what redaction leaves, so this one has the same id, and its signature holds.
        return {**topic.json, "content": {"topic": "altered"}}

    def stage(self, room: PeerRoom, topic: Event) -> None:
        """The topic comes by itself, and nobody gives what is before it but as history."""

        def state(request: PeerRequest) -> Any:
            told = unquote(request.uri).rpartition("event_id=")[2]
            return {} if told == topic.event_id else room.state_ids_answer(told)

        def event(peer: FakePeer) -> Any:
            json = self.altered(topic) if peer is self.peer else topic.json
            found = peer.transaction([json])
            return lambda request: found if topic.event_id in unquote(request.uri) else nothing

        nothing = PeerResponse(404, b'{"errcode":"M_NOT_FOUND","error":"not here"}')
        for peer in (self.peer, self.honest):
            peer.answers[MISSING] = {"events": []}
            peer.answers[STATE_IDS] = state
            peer.answers[EVENT] = event(peer)
        answer = self.honest.push(self.app, topic)
        self.assertEqual((200, {"pdus": {topic.event_id: {}}}), answer)
        self.assertEqual(1, self.staged())

    def staged(self) -> int:
        for _ in range(50):
            self.app.advance(0)
        return self.app.app.services.incoming.filler.waiting

    def assert_whole_from_another(self, room: PeerRoom, topic: Event) -> None:
        """What the first server gives counts as nothing; then the other one is asked, and all stands in its order."""
        chunk, _ = self.page(room.room_id)
        self.assertEqual([room.head[0]], [one["event_id"] for one in chunk])
        self.assertEqual(1, self.staged())
        self.assertEqual([], self.honest.asked_for("/backfill/"))
        self.app.advance(20.0)
        found = {one["event_id"]: one for one in self.pages(room.room_id)}
        self.assertEqual(list(room.events)[::-1], list(found))
        self.assertEqual({"topic": "whole"}, found[topic.event_id]["content"])
        self.app.advance(60.0)
        self.assertEqual(0, self.staged())

    def test_in_the_page(self) -> None:
        room, topic = self.room(5)
        self.adopt(room)
        self.stage(room, topic)
        page = room.backfill_answer(room.events[room.head[0]].prev_event_ids, 100)
        pdus = [self.altered(topic) if one == topic.json else one for one in page["pdus"]]
        self.assertNotEqual(page["pdus"], pdus)
        self.peer.answers[BACKFILL] = {**page, "pdus": pdus}
        self.assert_whole_from_another(room, topic)

    def test_in_the_state_before_it(self) -> None:
        room, topic = self.room(120)
        self.adopt(room)
        self.stage(room, topic)
        self.assert_whole_from_another(room, topic)
        self.assertEqual(1, len(self.peer.asked_for(f"/event/{topic.event_id}")))
