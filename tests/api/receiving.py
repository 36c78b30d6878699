"""ReceiveCase: a server with alice in a room, and a peer whose mallory comes in by a transaction."""

from __future__ import annotations

from typing import Any

from federation.event import Event
from homeserver.http.transport import PeerRequest
from tests.api.rooms import V3
from tests.support.app import TestApp
from tests.support.databases import SQLITE, DatabaseCase
from tests.support.peer import FakePeer, FakePeers
from tests.support.peer_rooms import PeerRoom


class ReceiveCase(DatabaseCase):
    """Tests of what comes by ``PUT /send``."""

    version = "11"

    def setUp(self) -> None:
        self.peer = FakePeer()
        self.net = FakePeers(self.peer)
        self.url = "sqlite::memory:" if self.dialect == SQLITE else self.new_database()
        self.app = TestApp(self, self.url, transport=self.net)
        self.app.app.begin()
        self.alice = self.app.register("alice")
        self.room_id = self.create()
        self.room = self.peer.follow(self.app, self.room_id)

    def create(self, **body: Any) -> str:
        """A room of alice's."""
        wanted = {"preset": "public_chat", "room_version": self.version, **body}
        room_id: str = self.app.ok("POST", f"{V3}/createRoom", wanted, self.alice)["room_id"]
        return room_id

    def new_peer(self, name: str) -> FakePeer:
        """Another server."""
        peer = FakePeer(name)
        peer.rooms[self.room_id] = self.room
        self.net.peers[peer.server_name] = peer
        return peer

    def enter(self, room: PeerRoom | None = None) -> Event:
        """Mallory joins."""
        room = room or self.room
        joined = room.join()
        self.assert_taken(self.peer.push(self.app, joined), joined)
        return joined

    # --- looking -------------------------------------------------------------------------------------

    def assert_taken(self, answer: tuple[int, Any], *events: Event) -> None:
        """The transaction was taken, and these events without a complaint."""
        self.assertEqual((200, {"pdus": {event.event_id: {} for event in events}}), answer)

    def assert_refused(self, answer: tuple[int, Any], event: Event | str, reason: str) -> None:
        """The transaction was taken, but not this event."""
        self.assertEqual(200, answer[0], answer)
        event_id = event if isinstance(event, str) else event.event_id
        self.assertIn(reason, answer[1]["pdus"][event_id].get("error", "no error"))

    def timeline(self, room_id: str | None = None) -> list[str]:
        """The ids of the newest events that alice sees, oldest first."""
        path = f"{V3}/rooms/{room_id or self.room_id}/messages"
        chunk = self.app.ok("GET", path, None, self.alice, {"dir": "b", "limit": 100})["chunk"]
        return [event["event_id"] for event in reversed(chunk)]

    def state(self, event_type: str, state_key: str = "") -> Any:
        """The current content of a state event, as alice sees it; None where there is none."""
        path = f"{V3}/rooms/{self.room_id}/state/{event_type}/{state_key}"
        status, content = self.app.call("GET", path, None, self.alice)
        return content if status == 200 else None

    def settle(self, seconds: float = 0.0) -> None:
        """Let time pass, and everything happen that is due."""
        self.app.advance(seconds)
        for _ in range(200):
            self.app.advance(0)

    def pause(self, waiting: Any) -> bool:
        """Whether a Deferred still waits when all has happened that is due."""
        self.settle()
        return not waiting.called

    def staged(self) -> int:
        """How many events wait."""
        return self.app.app.services.incoming.filler.waiting

    def asked(self, part: str) -> list[PeerRequest]:
        """What the peer was asked."""
        return self.peer.asked_for(part)
