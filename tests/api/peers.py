"""PeerCase: a server with alice, and another one whose users are in some of her rooms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from sqlalchemy import bindparam, select, update
from twisted.internet.defer import Deferred

from federation.builder import Draft
from federation.flows.order import auth_parents, in_order
from federation.ids import RoomId, UserId
from homeserver.db.schema.rooms import event_json, events
from homeserver.db.statements import Statement, statement
from homeserver.rooms.arrivals import adopt_room, store_outliers
from homeserver.rooms.turn import Turn
from tests.api.rooms import ALICE, V3, RoomsCase
from tests.support.app import TestApp
from tests.support.counting import Counted, count
from tests.support.peer import FEDERATION, FakePeer, FakePeers
from tests.support.peer_rooms import PeerRoom

_REJECT = statement(
    update(events)
    .where(events.c.event_id == bindparam("of_event"))
    .values(rejected_reason=bindparam("reason"))
)
_of_event = select(events.c.nid).where(events.c.event_id == bindparam("of_event")).scalar_subquery()
_TEXT = statement(select(event_json.c.json).where(event_json.c.nid == _of_event))
_REWRITE = statement(update(event_json).where(event_json.c.nid == _of_event).values(json=bindparam("text")))


class PeerCase(RoomsCase):
    """See the module."""

    def setUp(self) -> None:
        self.peer = FakePeer("peer.example")
        self.stranger = FakePeer("stranger.example")
        self.mallory = self.peer.user()
        super().setUp()

    def make_app(self) -> TestApp:
        """Both peers can be reached."""
        self.network = FakePeers(self.peer, self.stranger)
        return TestApp(self, self.address(), transport=self.network)

    def further_peer(self, server_name: str) -> FakePeer:
        """One more server on the network."""
        peer = FakePeer(server_name)
        self.network.peers[peer.server_name] = peer
        return peer

    def place(
        self, room_id: str, sender: str, event_type: str, content: Any, state_key: str | None = None
    ) -> str:
        """An event of anybody, put into the room as if it had come from their server."""
        draft = Draft(RoomId(room_id), event_type, UserId(sender), content, state_key)

        async def put() -> str:
            actor = await self.app.app.core.rooms.find(room_id)
            return (await actor.run(lambda turn: turn.place(draft))).event.event_id

        return self.app.wait(Deferred.fromCoroutine(put()))

    def come(self, room_id: str, user_id: str, membership: str = "join") -> str:
        """Somebody of another server joins or leaves."""
        return self.place(room_id, user_id, "m.room.member", {"membership": membership}, user_id)

    def say(self, room_id: str, text: str, sender: str = ALICE) -> str:
        """A message."""
        return self.place(room_id, sender, "m.room.message", {"msgtype": "m.text", "body": text})

    def shared_room(self, visibility: str = "shared", **body: Any) -> str:
        """A public room of alice and mallory."""
        state = [
            {
                "type": "m.room.history_visibility",
                "state_key": "",
                "content": {"history_visibility": visibility},
            }
        ]
        room_id = self.create(preset="public_chat", initial_state=state, **body)
        self.come(room_id, self.mallory)
        return room_id

    def ask(
        self, path: str, peer: FakePeer | None = None, content: Any = None, **query: Any
    ) -> tuple[int, Any]:
        """A signed request of the peer below ``/_matrix/federation/v1``."""
        pairs = [
            f"{name}={quote(str(value), safe='')}"
            for name, values in query.items()
            for value in (values if isinstance(values, list) else [values])
        ]
        uri = f"{FEDERATION}/{path}" + ("?" + "&".join(pairs) if pairs else "")
        return (peer or self.peer).call(self.app, "GET" if content is None else "POST", uri, content)

    def answer_of(self, path: str, peer: FakePeer | None = None, content: Any = None, **query: Any) -> Any:
        """The same, which must succeed."""
        status, json = self.ask(path, peer, content, **query)
        self.assertEqual(200, status, json)
        return json

    def count(self, step: Callable[[], object]) -> Counted:
        """What a step costs."""
        return count(self.app, step)

    # --- what our own server would not do, for as long as a with block lasts ---------------------------

    def _alter(self, query: Statement, **params: Any) -> None:
        self.app.wait(self.app.database.write(lambda tx: tx.run(query, **params)))

    @contextmanager
    def rejected(self, event_id: str) -> Iterator[None]:
        """An event is rejected."""
        self._alter(_REJECT, of_event=event_id, reason="a test")
        yield
        self._alter(_REJECT, of_event=event_id, reason=None)

    @contextmanager
    def rewritten(self, event_id: str, change: Callable[[str], str]) -> Iterator[None]:
        """An event says something else."""
        text = self.app.wait(self.app.database.read(lambda tx: tx.value(_TEXT, of_event=event_id)))
        self._alter(_REWRITE, of_event=event_id, text=change(text))
        yield
        self._alter(_REWRITE, of_event=event_id, text=text)


class JoinedCase(PeerCase):
    """As :class:`PeerCase`, with rooms that the other server has made and alice has joined."""

    def adopt(self, room: PeerRoom, user_id: str = ALICE) -> str:
        """Join one of the peer's rooms, as if that had been asked of the peer: what it was before is not here."""
        key = self.app.signing_keys[0]
        join = room.join(user_id, signer=key)
        state = list(room.state_after(join.prev_event_ids).values())
        known = {event_id: room.events[event_id] for event_id in [*state, *room.auth_chain(state)]}
        outliers = in_order(known, auth_parents, lambda _event, _parent: True)

        async def enter() -> None:
            actor = self.app.app.core.rooms.start(room.room_id, room.rules.version)

            async def job(turn: Turn) -> object:
                await store_outliers(turn, outliers)
                return await adopt_room(turn, join, state)

            self.entered = await actor.run(job)

        self.app.wait(Deferred.fromCoroutine(enter()))
        return room.room_id

    def page(self, room_id: str, limit: int = 100, start: str | None = None) -> tuple[list[Any], str | None]:
        """One page backwards: its events and the token to go on from."""
        query: dict[str, str | int] = {"dir": "b", "limit": limit}
        if start is not None:
            query["from"] = start
        waiting = self.app.start("GET", f"{V3}/rooms/{quote(room_id)}/messages", None, self.alice, query)
        answer = self.app.wait(waiting)
        self.assertEqual(200, answer.status, answer.json)
        return answer.json["chunk"], answer.json.get("end")

    def pages(self, room_id: str, limit: int = 100, most: int = 50) -> list[Any]:
        """Every event that alice can page back to, the newest first."""
        found: list[Any] = []
        start: str | None = None
        for _ in range(most):
            chunk, end = self.page(room_id, limit, start)
            found += chunk
            if end is None or (not chunk and end == start):
                return found
            start = end
        raise AssertionError("it does not end")
