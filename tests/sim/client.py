"""SimClient: a small honest client. It retries what may be retried, syncs, and keeps its own view of every room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote as percent_encode

from homeserver.runtime.clock import sleep
from tests.sim.clock import SimClock
from tests.sim.server import ConnectionLostError, SimServer
from tests.support.keys import KeyDevice

_FILTER = '{"room":{"timeline":{"limit":20}}}'
_RETRY_S = 0.4
KEY_KIND = "signed_curve25519"


def quote(text: str) -> str:
    """One segment of a path: event ids of room version 3 hold slashes."""
    return percent_encode(text, safe="")


@dataclass(slots=True)
class Segment:
    """A stretch of a timeline without gaps, as a client saw it."""

    room_id: str
    event_ids: list[str] = field(default_factory=list)
    open: bool = True


@dataclass(slots=True)
class View:
    """What a client knows, folded from its syncs."""

    state: dict[str, dict[tuple[str, str], Any]] = field(default_factory=dict)  # joined rooms
    invited: set[str] = field(default_factory=set)
    account_data: dict[tuple[str, str], Any] = field(default_factory=dict)  # (room or "", type) -> content
    receipts: dict[tuple[str, str, str, str], str] = field(default_factory=dict)
    one_time_keys: int = 0  # that are left for others

    def fold(self, sync: Mapping[str, Any]) -> None:
        """Take in one sync."""
        rooms = sync.get("rooms", {})
        for room_id, room in rooms.get("join", {}).items():
            self.invited.discard(room_id)
            state = self.state.setdefault(room_id, {})
            moved = room["state_after"] if "state_after" in room else room["state"]
            said = () if "state_after" in room else room["timeline"]["events"]
            for event in (*moved["events"], *said):
                if "state_key" in event:
                    state[(event["type"], event["state_key"])] = event["event_id"]
            for event in room["account_data"]["events"]:
                self.account_data[(room_id, event["type"])] = event["content"]
            for event in room["ephemeral"]["events"]:
                if event["type"] == "m.receipt":
                    self._fold_receipts(room_id, event["content"])
        for room_id in rooms.get("leave", {}):
            self.invited.discard(room_id)
            self.state.pop(room_id, None)
        self.invited |= set(rooms.get("invite", {}))
        for event in sync.get("account_data", {}).get("events", []):
            self.account_data[("", event["type"])] = event["content"]
        self.fold_keys(sync)

    def fold_keys(self, told: Mapping[str, Any]) -> None:
        """What either sync says of one's own keys; nothing where nothing changed."""
        if "device_one_time_keys_count" in told:
            self.one_time_keys = told["device_one_time_keys_count"].get(KEY_KIND, 0)

    def _fold_receipts(self, room_id: str, content: Mapping[str, Any]) -> None:
        for event_id, kinds in content.items():
            for kind, users in kinds.items():
                for user_id, data in users.items():
                    self.receipts[(room_id, kind, user_id, data.get("thread_id", ""))] = event_id


class SimClient:
    """One user on one device."""

    def __init__(self, name: str, server: SimServer, clock: SimClock, *, forks: bool) -> None:
        self.name = name
        self.user_id = f"@{name}:{server.name}"
        self.server = server
        self.clock = clock
        self.token = ""
        self.device_id = ""
        self.uploaded: set[str] = set()  # ids of one-time keys
        self.repeated: set[str] = set()  # those sent again, which may have been there, and claimed, before
        self.claimed: list[tuple[str, str]] = []  # whose, and which
        self.view = View()
        self.since = ""
        self.segments: list[Segment] = []
        self.acknowledged: list[tuple[str, str, str]] = []  # room, body, event id
        self.handed: list[tuple[str, Any]] = []  # messages between devices: from whom, what
        self.history: dict[str, list[str]] = {}  # room -> event ids, newest first
        # Where rooms fork, a timeline shows state events that count no more: only `state_after` tells what holds.
        self.query = {"filter": _FILTER, "use_state_after": "true"} if forks else {"filter": _FILTER}
        self.syncing = False
        self.stopping = False
        self._txn = 0

    # --- requests ------------------------------------------------------------------------------------

    async def ask(
        self, method: str, path: str, body: Any = None, query: Mapping[str, Any] | None = None
    ) -> tuple[int, Any]:
        """A request, repeated until it is answered by a server that can do its work."""
        while True:
            status, json = await self.ask_once(method, path, body, query)
            if status not in (0, 429, 502, 503, 504):
                return status, json
            await sleep(self.clock, _RETRY_S)  # type: ignore[arg-type]

    async def ask_once(
        self, method: str, path: str, body: Any = None, query: Mapping[str, Any] | None = None
    ) -> tuple[int, Any]:
        """A request; status 0 where it or its answer got lost."""
        try:
            answer = await self.server.call(method, path, body, self.token or None, query)
        except ConnectionLostError:
            return 0, None
        return answer.status, answer.json

    async def register(self) -> None:
        """An account: made now, or by a request whose answer was lost."""
        password = f"password of {self.name}"
        body = {"username": self.name, "password": password, "auth": {"type": "m.login.dummy"}}
        status, json = await self.ask("POST", "/_matrix/client/v3/register", body)
        if status == 400 and json["errcode"] == "M_USER_IN_USE":
            login = {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": self.name},
                "password": password,
            }
            status, json = await self.ask("POST", "/_matrix/client/v3/login", login)
        self.expect(status, 200, "register", json)
        self.token, self.device_id = json["access_token"], json["device_id"]

    def expect(self, status: int, wanted: int, what: str, json: Any) -> None:
        """What must be so."""
        if status != wanted:
            self.server.problems.append(f"{self.name}: {what}: {status} {json}")

    async def create_room(self, **fields: Any) -> str:
        """A room; where the answer gets lost there may be two, and only this one is used."""
        status, json = await self.ask("POST", "/_matrix/client/v3/createRoom", fields)
        self.expect(status, 200, "createRoom", json)
        room_id: str = json["room_id"]
        return room_id

    async def try_to_create_room(self, **fields: Any) -> None:
        """A room whose guests may be out of reach."""
        status, json = await self.ask_once("POST", "/_matrix/client/v3/createRoom", fields)
        if status not in (0, 200, 403, 429, 502, 503, 504):
            self.expect(status, 200, "createRoom with guests", json)

    async def join(self, room_id: str, via: str) -> int:
        """Join; joining twice is joining."""
        path = f"/_matrix/client/v3/join/{quote(room_id)}"
        status, _ = await self.ask("POST", path, {}, {"via": [via], "server_name": [via]})
        return status

    async def send_away(self, room_id: str, user_id: str, how: str) -> int:
        """Kick, ban or unban somebody, if that is allowed."""
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}/{how}"
        status, _ = await self.ask("POST", path, {"user_id": user_id})
        return status

    async def send_to_device(self, user_id: str, event_type: str, content: Any) -> int:
        """To every device of a user, under one transaction id."""
        self._txn += 1
        path = f"/_matrix/client/v3/sendToDevice/{event_type}/t{self._txn}"
        status, _ = await self.ask("PUT", path, {"messages": {user_id: {"*": content}}})
        return status

    async def upload_keys(self, *names: str) -> int:
        """One-time keys, and those of the device."""
        device = KeyDevice(self.user_id, self.device_id)
        keys = device.one_time_keys(*names)
        self.uploaded |= set(keys)
        body = {"device_keys": device.keys(), "one_time_keys": keys}
        status, _ = await self.ask_once("POST", "/_matrix/client/v3/keys/upload", body)
        if status not in (0, 429, 502, 503, 504):
            return status
        self.repeated |= set(keys)
        await sleep(self.clock, _RETRY_S)  # type: ignore[arg-type]
        return (await self.ask("POST", "/_matrix/client/v3/keys/upload", body))[0]

    async def claim_key(self, user_id: str, device_id: str) -> int:
        """A one-time key of somebody's, if there is one; one whose answer was lost is lost."""
        body = {"one_time_keys": {user_id: {device_id: KEY_KIND}}}
        status, json = await self.ask("POST", "/_matrix/client/v3/keys/claim", body)
        if status == 200:
            found = json["one_time_keys"].get(user_id, {}).get(device_id, {})
            self.claimed += [(user_id, key_id) for key_id in found]
        return status

    async def leave(self, room_id: str) -> int:
        """Leave."""
        status, _ = await self.ask("POST", f"/_matrix/client/v3/rooms/{quote(room_id)}/leave", {})
        return status

    async def send(self, room_id: str, body: str) -> int:
        """Send a message under one transaction id, whatever happens on the way."""
        self._txn += 1
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}/send/m.room.message/t{self._txn}"
        status, json = await self.ask("PUT", path, {"msgtype": "m.text", "body": body})
        if status == 200:
            self.acknowledged.append((room_id, body, json["event_id"]))
        return status

    async def redact(self, room_id: str, event_id: str) -> int:
        """Take an event back."""
        self._txn += 1
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}/redact/{quote(event_id)}/t{self._txn}"
        status, _ = await self.ask("PUT", path, {"reason": "simulated"})
        return status

    async def put_state(self, room_id: str, event_type: str, content: Any, state_key: str = "") -> int:
        """Set state; repeated where the answer was lost, which may make two events."""
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}/state/{event_type}/{state_key}"
        status, _ = await self.ask("PUT", path, content)
        return status

    async def receipt(self, room_id: str, event_id: str) -> int:
        """Say what was read."""
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}"
        status, _ = await self.ask("POST", path, {})
        return status

    async def put_account_data(self, room_id: str, event_type: str, content: Any) -> int:
        """Keep something here."""
        room = f"/rooms/{quote(room_id)}" if room_id else ""
        path = f"/_matrix/client/v3/user/{quote(self.user_id)}{room}/account_data/{event_type}"
        status, _ = await self.ask("PUT", path, content)
        return status

    # --- syncing -------------------------------------------------------------------------------------

    async def initial_sync(self) -> View:
        """What a new client would know."""
        status, json = await self.ask("GET", "/_matrix/client/v3/sync", query=self.query)
        self.expect(status, 200, "initial sync", json)
        view = View()
        view.fold(json)
        return view

    async def sync_loop(self) -> None:
        """Follow the server until told to stop."""
        self.syncing = True
        while not self.stopping:
            await self.sync_once(5_000)
        self.syncing = False

    async def sync_once(self, timeout_ms: int) -> None:
        """One sync, folded into the view."""
        query: dict[str, Any] = {**self.query, "timeout": timeout_ms}
        if self.since:
            query["since"] = self.since
        status, json = await self.ask("GET", "/_matrix/client/v3/sync", query=query)
        self.expect(status, 200, "sync", json)
        if status == 200:
            self.since = json["next_batch"]
            self.view.fold(json)
            for event in json.get("to_device", {}).get("events", []):
                self.handed.append((event["sender"], event["content"]))
            self._follow_timelines(json.get("rooms", {}))

    async def read_history(self, room_id: str) -> None:
        """Page back to the beginning of a room, which makes the server fetch what it has not."""
        found: list[str] = []
        start: str | None = None
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}/messages"
        for _ in range(200):
            query: dict[str, Any] = {"dir": "b", "limit": 50, **({"from": start} if start else {})}
            status, json = await self.ask("GET", path, query=query)
            self.expect(status, 200, "messages", json)
            if status != 200:
                return
            found += [event["event_id"] for event in json["chunk"]]
            if "end" not in json or json["end"] == start:
                break
            start = json["end"]
        self.history[room_id] = found

    def _follow_timelines(self, rooms: Mapping[str, Any]) -> None:
        for how in ("join", "leave"):
            for room_id, room in rooms.get(how, {}).items():
                segment = self.open_segment(room_id)
                timeline = room.get("timeline", {"events": [], "limited": False})
                if segment is None or timeline["limited"]:
                    if segment is not None:
                        segment.open = False
                    segment = Segment(room_id)
                    self.segments.append(segment)
                segment.event_ids += [event["event_id"] for event in timeline["events"]]
                if how == "leave":
                    segment.open = False

    def open_segment(self, room_id: str) -> Segment | None:
        """Where the room's next events go."""
        return next((one for one in self.segments if one.room_id == room_id and one.open), None)
