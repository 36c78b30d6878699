"""NetCase: several servers and their users, for tests of what goes on between them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from federation.ids import ServerName
from federation.versions import ROOM_VERSIONS
from homeserver.http.transport import PeerRequest
from tests.support.databases import SQLITE, DatabaseCase
from tests.support.federation import NetServer, TestNet
from tests.support.http import Answer

V3 = "/_matrix/client/v3"
A, B, C = "a.example", "b.example", "c.example"
VERSIONS = tuple(ROOM_VERSIONS)


class NetCase(DatabaseCase):
    """``self.a`` and ``self.b`` with alice and bob; ``server`` makes more."""

    def setUp(self) -> None:
        self.net = TestNet(self)
        self.a, self.b = self.server(A), self.server(B)
        self.alice, self.bob = self.a.register("alice"), self.b.register("bob")

    def server(self, name: str, **config: Any) -> NetServer:
        """One more server, on a database of its own."""
        url = "sqlite::memory:" if self.dialect == SQLITE else self.new_database()
        return self.net.server(name, database=url, **config)

    def delay(self, part: str, delay_s: float) -> list[PeerRequest]:
        """Requests take that long to arrive, whether or not anybody waits for an answer; those that were sent."""
        call, sent = self.net._call, list[PeerRequest]()

        def slowly(origin: ServerName, request: PeerRequest) -> Any:
            if part not in request.uri:
                return call(origin, request)
            sent.append(request)
            answered: Deferred[Any] = Deferred()
            self.net.time.callLater(delay_s, lambda: call(origin, request).chainDeferred(answered))
            return answered

        self.patch(self.net, "_call", slowly)
        return sent

    # --- calls ---------------------------------------------------------------------------------------

    def call(
        self, server: NetServer, token: str, method: str, path: str, body: Any = None, query: Any = None
    ) -> Answer:
        """A client's call, which may take time."""
        return self.net.wait(server.start(method, V3 + path, body, token, query))

    def ok(
        self, server: NetServer, token: str, method: str, path: str, body: Any = None, query: Any = None
    ) -> Any:
        """A client's call that must succeed."""
        answer = self.call(server, token, method, path, body, query)
        self.assertEqual(200, answer.status, answer.json)
        return answer.json

    def refused(self, answer: Answer, status: int, errcode: str) -> None:
        """The answer is this error."""
        self.assertEqual((status, errcode), (answer.status, answer.errcode), answer.json)

    def create(self, server: NetServer, token: str, **body: Any) -> str:
        """Make a room; its id."""
        room_id: str = self.ok(server, token, "POST", "/createRoom", body)["room_id"]
        return room_id

    def join(self, server: NetServer, token: str, room_id: str, *via: str, **body: Any) -> Answer:
        """Join by id."""
        return self.call(server, token, "POST", f"/join/{quote(room_id)}", body, {"via": list(via)})

    def say(self, server: NetServer, token: str, room_id: str, text: str) -> str:
        """Send a message; its id."""
        path = f"/rooms/{quote(room_id)}/send/m.room.message/{quote(text)}"
        event_id: str = self.ok(server, token, "PUT", path, {"msgtype": "m.text", "body": text})["event_id"]
        return event_id

    def sync(self, server: NetServer, token: str, since: str | None = None, **query: Any) -> Any:
        """What a client is told, at once."""
        if since is not None:
            query["since"] = since
        return self.ok(server, token, "GET", "/sync", None, query)

    def state(self, server: NetServer, token: str, room_id: str) -> dict[tuple[str, str], Any]:
        """The current state as a client sees it: event ids by key."""
        events = self.ok(server, token, "GET", f"/rooms/{quote(room_id)}/state")
        return {(event["type"], event["state_key"]): event["event_id"] for event in events}

    def assert_same_state(self, room_id: str, *readers: tuple[NetServer, str]) -> None:
        """All see the same."""
        states = [self.state(server, token, room_id) for server, token in readers]
        for state in states[1:]:
            self.assertEqual(states[0], state)
