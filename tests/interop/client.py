"""A plain client over real sockets, of either server: it asks, follows its sync, and waits by syncing, never by sleeping.

Every wait has a deadline and says what it waited for.
spec: client-server-api#syncing
"""

from __future__ import annotations

import http.client
import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from tests.interop.process import ServerProcess

CLIENT = "/_matrix/client/v3"
ANSWER_S = 60.0
# How long anything between two servers may take. Both retry within a second, so this is for a busy machine.
PATIENCE_S = 30.0
_POLL_MS = 1_000
_FILTER = json.dumps({"room": {"timeline": {"limit": 50}}})

T = TypeVar("T")


class RefusedError(AssertionError):
    """A request that should have succeeded did not."""

    def __init__(self, what: str, status: int, answer: Any) -> None:
        super().__init__(f"{what}: {status} {answer}")
        self.status = status
        self.answer = answer


class Client:
    """One device of one user."""

    def __init__(
        self, process: ServerProcess, user_id: str = "", token: str = "", device_id: str = ""
    ) -> None:
        self.process = process
        self.user_id = user_id
        self.token = token
        self.device_id = device_id
        self.timelines: dict[str, list[dict[str, Any]]] = {}
        self.state: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self.memberships: dict[str, str] = {}
        self.stripped: dict[str, list[dict[str, Any]]] = {}
        self.typing: dict[str, list[str]] = {}
        self.receipts: set[tuple[str, str, str]] = set()  # event, user, thread
        self.presence: dict[str, dict[str, Any]] = {}
        self.to_device: list[dict[str, Any]] = []
        self.changed_devices: set[str] = set()
        self.left_devices: set[str] = set()
        self._since: str | None = None
        self._connection: http.client.HTTPConnection | None = None

    # --- requests ------------------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> tuple[int, Any]:
        """Status and JSON (bytes where it is something else)."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {"Content-Type": content_type} if data is not None else {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        target = f"{path}?{urlencode(query, doseq=True)}" if query else path
        connection = self._connection or http.client.HTTPConnection(
            "127.0.0.1", self.process.port, timeout=ANSWER_S
        )
        self._connection = None
        try:
            connection.request(method, target, body=data, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise
        if not answer.will_close:
            self._connection = connection
        is_json = answer.headers.get("Content-Type", "").startswith("application/json")
        return answer.status, json.loads(content) if is_json else content

    def ok(self, method: str, path: str, body: Any = None, query: Mapping[str, Any] | None = None) -> Any:
        """The JSON of a request that succeeds."""
        status, answer = self.ask(method, path, body, query)
        if status != 200:
            raise RefusedError(f"{self.user_id} {method} {path}", status, answer)
        return answer

    def refused(
        self, errcode: str, method: str, path: str, body: Any = None, query: Mapping[str, Any] | None = None
    ) -> None:
        """A request that must be refused with this code."""
        status, answer = self.ask(method, path, body, query)
        if status < 400 or answer.get("errcode") != errcode:
            raise RefusedError(f"{self.user_id} {method} {path} should be {errcode}", status, answer)

    def close(self) -> None:
        """Drop the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- what people do ------------------------------------------------------------------------------

    def create_room(self, **fields: Any) -> str:
        room_id: str = self.ok("POST", f"{CLIENT}/createRoom", fields)["room_id"]
        return room_id

    def join(self, room: str, via: str | None = None) -> str:
        query = {"via": via, "server_name": via} if via else None
        room_id: str = self.ok("POST", f"{CLIENT}/join/{quote(room, safe='')}", {}, query)["room_id"]
        return room_id

    def may_join(self, room: str, via: str) -> bool:
        """Try to join; whether that was allowed. Anything but success and M_FORBIDDEN is a failure."""
        path = f"{CLIENT}/join/{quote(room, safe='')}"
        status, answer = self.ask("POST", path, {}, {"via": via, "server_name": via})
        if status != 200 and answer.get("errcode") != "M_FORBIDDEN":
            raise RefusedError(f"{self.user_id} joining {room}", status, answer)
        return status == 200

    def is_refused_to_join(self, room: str, via: str) -> None:
        """A join that must be forbidden."""
        assert not self.may_join(room, via), f"{self.user_id} was let into {room}"

    def knock(self, room: str, via: str) -> tuple[int, Any]:
        query = {"via": via, "server_name": via}
        return self.ask("POST", f"{CLIENT}/knock/{quote(room, safe='')}", {"reason": "please"}, query)

    def invite(self, room_id: str, user_id: str) -> None:
        self.ok("POST", f"{room_path(room_id)}/invite", {"user_id": user_id})

    def leave(self, room_id: str) -> None:
        self.ok("POST", f"{room_path(room_id)}/leave", {})

    def send(self, room_id: str, body: str) -> str:
        return self.send_event(room_id, "m.room.message", {"msgtype": "m.text", "body": body})

    def send_event(self, room_id: str, event_type: str, content: Any, txn_id: str | None = None) -> str:
        path = f"{room_path(room_id)}/send/{event_type}/{txn_id or secrets.token_hex(8)}"
        event_id: str = self.ok("PUT", path, content)["event_id"]
        return event_id

    def put_state(self, room_id: str, event_type: str, content: Any, state_key: str = "") -> str:
        path = f"{room_path(room_id)}/state/{event_type}/{quote(state_key, safe='')}"
        event_id: str = self.ok("PUT", path, content)["event_id"]
        return event_id

    def redact(self, room_id: str, event_id: str) -> str:
        path = f"{room_path(room_id)}/redact/{quote(event_id, safe='')}/{secrets.token_hex(8)}"
        redaction: str = self.ok("PUT", path, {"reason": "a test"})["event_id"]
        return redaction

    def whole_state(self, room_id: str) -> dict[tuple[str, str], dict[str, Any]]:
        """The current state, asked for."""
        events = self.ok("GET", f"{room_path(room_id)}/state")
        return {(event["type"], event["state_key"]): event for event in events}

    def history(self, room_id: str, most: int = 5_000) -> list[dict[str, Any]]:
        """Every event that the server shows, newest first."""
        events: list[dict[str, Any]] = []
        start: str | None = None
        while len(events) < most:
            query = {"dir": "b", "limit": 100, **({"from": start} if start else {})}
            page = self.ok("GET", f"{room_path(room_id)}/messages", query=query)
            events += page["chunk"]
            if "end" not in page or page["end"] == start:
                return events
            start = page["end"]
        raise AssertionError(f"{self.user_id}: more than {most} events in {room_id}")

    # --- following -----------------------------------------------------------------------------------

    def sync(self, timeout_ms: int = 0) -> None:
        """One sync, folded in."""
        query = {"timeout": timeout_ms, "filter": _FILTER, **({"since": self._since} if self._since else {})}
        answer = self.ok("GET", f"{CLIENT}/sync", query=query)
        self._since = answer["next_batch"]
        rooms = answer.get("rooms", {})
        for room_id, room in rooms.get("join", {}).items():
            self._fold(room_id, "join", room)
        for room_id, room in rooms.get("leave", {}).items():
            self._fold(room_id, "leave", room)
        for room_id, room in rooms.get("invite", {}).items():
            self.memberships[room_id] = "invite"
            self.stripped[room_id] = room["invite_state"]["events"]
        for room_id, room in rooms.get("knock", {}).items():
            self.memberships[room_id] = "knock"
            self.stripped[room_id] = room["knock_state"]["events"]
        for event in answer.get("presence", {}).get("events", []):
            self.presence[event["sender"]] = event["content"]
        self.to_device += answer.get("to_device", {}).get("events", [])
        lists = answer.get("device_lists", {})
        self.changed_devices |= set(lists.get("changed", ()))
        self.left_devices |= set(lists.get("left", ()))

    def _fold(self, room_id: str, membership: str, room: Mapping[str, Any]) -> None:
        self.memberships[room_id] = membership
        state = self.state.setdefault(room_id, {})
        timeline = room.get("timeline", {}).get("events", [])
        for event in (*room.get("state", {}).get("events", []), *timeline):
            if "state_key" in event:
                state[(event["type"], event["state_key"])] = event
        self.timelines.setdefault(room_id, []).extend(timeline)
        for event in room.get("ephemeral", {}).get("events", []):
            if event["type"] == "m.typing":
                self.typing[room_id] = event["content"]["user_ids"]
            elif event["type"] == "m.receipt":
                for event_id, kinds in event["content"].items():
                    for user_id, data in kinds.get("m.read", {}).items():
                        self.receipts.add((event_id, user_id, data.get("thread_id", "")))

    def until(self, what: str, found: Callable[[], T | None], patience_s: float = PATIENCE_S) -> T:
        """Sync until `found` gives something true; that."""
        deadline = time.monotonic() + patience_s
        self.sync()
        while not (result := found()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.user_id}: not within {patience_s:.0f} s: {what}")
            self.sync(_POLL_MS)
        return result

    def sees(self, room_id: str, event_id: str, what: str = "") -> dict[str, Any]:
        """Wait for an event in the timeline; it."""

        def find() -> dict[str, Any] | None:
            for event in self.timelines.get(room_id, ()):
                if event["event_id"] == event_id:
                    return event
            return None

        return self.until(what or f"{event_id} in the timeline of {room_id}", find)

    def sees_state(
        self, room_id: str, event_type: str, content: Mapping[str, Any], state_key: str = ""
    ) -> None:
        """Wait until a state event has at least this content."""

        def find() -> bool:
            event = self.state.get(room_id, {}).get((event_type, state_key))
            return event is not None and content.items() <= event["content"].items()

        self.until(f"{event_type} {state_key} is {content} in {room_id}", find)

    def sees_member(self, room_id: str, user_id: str, membership: str) -> None:
        """Wait until somebody's membership is this."""
        self.sees_state(room_id, "m.room.member", {"membership": membership}, user_id)

    def is_in(self, room_id: str, membership: str) -> None:
        """Wait until this user's own sync has the room as joined, invited, knocked on or left."""
        self.until(f"{room_id} is one of `{membership}`", lambda: self.memberships.get(room_id) == membership)


def room_path(room_id: str) -> str:
    return f"{CLIENT}/rooms/{quote(room_id, safe='')}"


def register(process: ServerProcess, name: str) -> Client:
    """A new user, through the client API."""
    client = Client(process)
    body = {
        "username": name,
        "password": f"the password of {name}",
        "auth": {"type": "m.login.dummy"},
        "initial_device_display_name": f"{name}'s device",
    }
    answer = client.ok("POST", f"{CLIENT}/register", body)
    client.user_id, client.token = answer["user_id"], answer["access_token"]
    client.device_id = answer["device_id"]
    return client
