"""TalkCase: a server with a few people and rooms that are made without the endpoints of other modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from federation.builder import Draft
from federation.ids import RoomId, UserId
from homeserver.rooms.turn import Turn
from tests.support.app import SERVER_NAME, TestApp
from tests.support.databases import SQLITE, DatabaseCase

V3 = "/_matrix/client/v3"


def user(name: str) -> str:
    """A user id of the test server."""
    return f"@{name}:{SERVER_NAME}"


class TalkCase(DatabaseCase):
    """People are known by their names; each has a token."""

    def setUp(self) -> None:
        self.app = self.make_app()
        self.tokens: dict[str, str] = {}
        self._rooms = 0
        self._texts = 0
        for name in ("alice", "bob"):
            self.add(name)

    def make_app(self) -> TestApp:
        """The server that they are on."""
        return TestApp(self, "sqlite::memory:" if self.dialect == SQLITE else self.new_database())

    def add(self, name: str) -> None:
        """One more person."""
        self.tokens[name] = self.app.register(name)

    def make_room(
        self,
        version: str = "11",
        visibility: str | None = None,
        join_rule: str = "public",
        levels: Mapping[str, Any] | None = None,
        joined: tuple[str, ...] = (),
    ) -> str:
        """A room of alice's; its id."""
        self._rooms += 1
        room_id, alice = RoomId(f"!room{self._rooms}:{SERVER_NAME}"), UserId(user("alice"))
        power = {"users": {alice: 100}, **(levels or {})}
        state: list[tuple[str, str, dict[str, Any]]] = [
            ("m.room.create", "", {"room_version": version, "creator": alice}),
            ("m.room.member", alice, {"membership": "join", "displayname": "Alice"}),
            ("m.room.power_levels", "", power),
            ("m.room.join_rules", "", {"join_rule": join_rule}),
        ]
        if visibility is not None:
            state.append(("m.room.history_visibility", "", {"history_visibility": visibility}))

        async def job(turn: Turn) -> None:
            for event_type, state_key, content in state:
                await turn.place(Draft(room_id, event_type, alice, content, state_key))

        self.app.wait(self.app.app.core.rooms.start(room_id, version).run(job))
        for name in joined:
            self.join(name, room_id)
        return room_id

    # --- doing ---------------------------------------------------------------------------------------

    def path(self, room_id: str, *parts: str) -> str:
        """The path of an endpoint of a room."""
        return "/".join([f"{V3}/rooms", *(quote(part, safe="") for part in (room_id, *parts))])

    def send(
        self,
        name: str,
        room_id: str,
        content: Any,
        event_type: str = "m.room.message",
        txn_id: str | None = None,
    ) -> tuple[int, Any]:
        """Send an event."""
        self._texts += 1
        txn_id = f"txn{self._texts}" if txn_id is None else txn_id
        return self.app.call(
            "PUT", self.path(room_id, "send", event_type, txn_id), content, self.tokens[name]
        )

    def say(self, name: str, room_id: str, text: str) -> str:
        """Send a text; its event id. A second passes."""
        status, json = self.send(name, room_id, {"msgtype": "m.text", "body": text})
        self.assertEqual(200, status, json)
        self.app.advance(1)
        event_id: str = json["event_id"]
        return event_id

    def place(self, name: str, room_id: str, content: Any, event_type: str = "m.room.message") -> str:
        """Have an event past the endpoint and its checks, as from another server; its id. A second passes."""
        draft = Draft(RoomId(room_id), event_type, UserId(user(name)), content)
        actor = self.app.app.core.rooms.known(room_id)
        assert actor is not None
        placed = self.app.wait(actor.run(lambda turn: turn.place(draft)))
        self.app.advance(1)
        return str(placed.event.event_id)

    def put_state(
        self, name: str, room_id: str, event_type: str, content: Any, state_key: str = ""
    ) -> tuple[int, Any]:
        """Set a state event."""
        path = self.path(room_id, "state", event_type, state_key)
        return self.app.call("PUT", path, content, self.tokens[name])

    def set_state(self, name: str, room_id: str, event_type: str, content: Any, state_key: str = "") -> str:
        """Set a state event; its event id."""
        status, json = self.put_state(name, room_id, event_type, content, state_key)
        self.assertEqual(200, status, json)
        event_id: str = json["event_id"]
        return event_id

    def join(self, name: str, room_id: str, **content: Any) -> str:
        """Become a member; the event id."""
        return self.set_state(name, room_id, "m.room.member", {"membership": "join", **content}, user(name))

    def leave(self, name: str, room_id: str, who: str | None = None) -> str:
        """Leave, or make somebody leave; the event id."""
        return self.set_state(name, room_id, "m.room.member", {"membership": "leave"}, user(who or name))

    # --- looking -------------------------------------------------------------------------------------

    def get(self, name: str, path: str, **query: Any) -> tuple[int, Any]:
        """A GET's status and JSON."""
        return self.app.call("GET", path, None, self.tokens[name], query)

    def ok(self, name: str, path: str, **query: Any) -> Any:
        """The JSON of a GET that must succeed."""
        status, json = self.get(name, path, **query)
        self.assertEqual(200, status, json)
        return json

    def page(self, name: str, room_id: str, **query: Any) -> Any:
        """A page of history, newest first unless ``dir`` is given."""
        return self.ok(name, self.path(room_id, "messages"), **{"dir": "b", **query})

    def bodies(self, events: list[Any]) -> list[str]:
        """The texts among some events."""
        return [event["content"]["body"] for event in events if "body" in event["content"]]

    def assert_refused(self, answer: tuple[int, Any], status: int, errcode: str) -> None:
        """The answer is this error."""
        self.assertEqual((status, errcode), (answer[0], answer[1].get("errcode")), answer)

    @contextmanager
    def statements(self) -> Iterator[list[str]]:
        """The statements that the database is asked meanwhile."""
        asked: list[str] = []
        engine = self.app.engine
        before: Callable[[str], None] | None = engine.hook

        def note(sql: str) -> None:
            if sql.lstrip().upper().startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
                asked.append(sql)

        engine.hook = note
        try:
            yield asked
        finally:
            engine.hook = before

    def wait(self, waiting: Any) -> Any:
        """What a coroutine gives."""
        return self.app.wait(Deferred.fromCoroutine(waiting))
