"""RoomsCase: a server with alice and bob, and a look at what its rooms hold."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from federation.builder import Draft
from federation.event import Event
from federation.ids import RoomId, UserId
from homeserver.store.changes import Kind
from tests.support.app import SERVER_NAME, TestApp
from tests.support.databases import SQLITE, DatabaseCase

V3 = "/_matrix/client/v3"
ALICE, BOB, CAROL = (f"@{name}:{SERVER_NAME}" for name in ("alice", "bob", "carol"))


class RoomsCase(DatabaseCase):
    """Tests of the endpoints that make and change rooms."""

    def make_app(self) -> TestApp:
        """The server of a test."""
        return TestApp(self, self.address())

    def address(self) -> str:
        """The database of a test."""
        return "sqlite::memory:" if self.dialect == SQLITE else self.new_database()

    def setUp(self) -> None:
        self.app = self.make_app()
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")

    # --- calls ---------------------------------------------------------------------------------------

    def create(self, token: str | None = None, **body: Any) -> str:
        """Make a room; its id."""
        room_id: str = self.app.ok("POST", f"{V3}/createRoom", body, token or self.alice)["room_id"]
        return room_id

    def post(self, token: str, path: str, body: Any = None) -> tuple[int, Any]:
        """POST, with an empty body unless one is given."""
        return self.app.call("POST", f"{V3}{path}", {} if body is None else body, token)

    def ok(self, token: str, path: str, body: Any = None) -> Any:
        """POST that must succeed."""
        return self.app.ok("POST", f"{V3}{path}", {} if body is None else body, token)

    def assert_refused(self, answer: tuple[int, Any], status: int, errcode: str) -> None:
        """The answer is this error."""
        self.assertEqual((status, errcode), (answer[0], answer[1].get("errcode")), answer)

    def put_state(self, token: str, room_id: str, event_type: str, content: Any, state_key: str = "") -> None:
        """Set state past the endpoint and its checks: what the room's own rules allow."""
        sender = {self.alice: ALICE, self.bob: BOB}.get(token, CAROL)
        draft = Draft(RoomId(room_id), event_type, UserId(sender), content, state_key)
        actor = self.app.app.core.rooms.known(room_id)
        assert actor is not None
        self.app.wait(actor.run(lambda turn: turn.place(draft)))

    # --- looking -------------------------------------------------------------------------------------

    def events(self, room_id: str) -> list[Event]:
        """The events of a room in the order in which they were stored, as far as memory goes."""
        changes = self.app.app.core.changes.since(0)
        assert changes is not None
        found = [change.payload.event for change in changes if change.kind == Kind.EVENT]
        return [event for event in found if event.room_id == room_id]

    def state(self, room_id: str, event_type: str, state_key: str = "") -> Any:
        """The content of a state event, or None."""

        async def look() -> Any:
            actor = await self.app.app.core.rooms.find(room_id)
            event = await actor.run(lambda turn: turn.state(event_type, state_key))
            return None if event is None else event.content

        return self.app.wait(Deferred.fromCoroutine(look()))

    def member(self, room_id: str, user_id: str) -> Any:
        """The content of a user's member event."""
        return self.state(room_id, "m.room.member", user_id)

    def membership(self, room_id: str, user_id: str) -> str | None:
        """What a user is to a room."""
        content = self.member(room_id, user_id)
        return None if content is None else content["membership"]
