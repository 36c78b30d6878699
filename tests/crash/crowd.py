"""Members of a crowd who do everything that clients do at once, over sockets, and keep two views by both kinds of sync.

What a member does is drawn at random, and may be refused; it may not make the server fail. Every answer with a status of
500 or more is kept in `failures`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.bench.wire import Connection, Response, WireError, build_request, encode
from tests.crash.load import CLIENT
from tests.support.sliding_model import SlidingView
from tests.support.sync_model import ClientView

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
DELAY = "org.matrix.msc4140.delay"
STICKY = "org.matrix.msc4354.sticky_duration_ms"
WAIT_MS = 2_000
_ALL = {"enabled": True, "lists": ["*"], "rooms": ["*"]}
_EVERYTHING = {
    "ranges": [[0, 999]],
    "timeline_limit": 5,
    "required_state": [["m.room.member", "$LAZY"], ["m.room.member", "$ME"], ["m.room.topic", ""]],
}


@dataclass(slots=True)
class Shared:
    """What the members know of each other."""

    people: list[str] = field(default_factory=list)
    devices: dict[str, str] = field(default_factory=dict)
    rooms: list[str] = field(default_factory=list)
    events: dict[str, list[str]] = field(default_factory=dict)
    acknowledged: dict[str, str] = field(default_factory=dict)
    whispers: dict[str, list[str]] = field(default_factory=dict)  # by receiver, what was acknowledged
    claimed: list[str] = field(default_factory=list)  # one-time keys
    failures: list[str] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    passing: frozenset[int] = frozenset()  # statuses from 500 on that say that another server is away
    stopping: bool = False


class Line:
    """One connection of somebody's, opened anew where the server went away."""

    def __init__(self, shared: Shared, port: int, token: str) -> None:
        self._shared = shared
        self._port = port
        self._token = token
        self._connection: Connection | None = None

    async def ask(
        self, method: str, path: str, body: Any = None, query: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """An answer; (0, None) where the server went away meanwhile."""
        try:
            if self._connection is None:
                self._connection = await Connection.open(self._port)
            response = await self._connection.send(build_request(method, path, self._token, body, query))
        except (OSError, WireError):
            self._connection = None
            await asyncio.sleep(0.05)  # it is being started anew
            return 0, None
        return self._judge(method, path, response)

    def _judge(self, method: str, path: str, response: Response) -> tuple[int, Any]:
        self._shared.statuses[response.status] = self._shared.statuses.get(response.status, 0) + 1
        if response.status >= 500 and response.status not in self._shared.passing:
            self._shared.failures.append(f"{method} {path}: {response.status} {response.body[:300]!r}")
        return response.status, response.json() if response.body else None

    async def insist(self, method: str, path: str, body: Any = None) -> Any:
        """The same until it is answered with 200."""
        while True:
            status, answer = await self.ask(method, path, body)
            if status == 200:
                return answer
            if status:
                raise AssertionError(f"{method} {path}: {status} {answer}")


class Member:
    """One user, who acts on one line and listens on two others."""

    # Whether several servers act in its rooms, so that these have branches.
    forked = False
    # What is done, each as often as it stands here.
    acts: tuple[str, ...] = (
        *("say",) * 8,
        *("react", "read", "join") * 4,
        *("reply", "edit", "thread", "look", "place", "rename", "whisper", "keys", "note", "type") * 2,
        *("redact", "later", "stick", "power", "visibility", "leave", "move", "forget", "knock", "appear"),
        *("search", "create", "upgrade"),
    )

    def __init__(self, shared: Shared, port: int, user_id: str, token: str, random: Random) -> None:
        self.shared = shared
        self.port = port
        self.user_id = user_id
        self.token = token
        self.random = random
        self.classic = ClientView()
        self.sliding = SlidingView(user_id)
        self.heard: list[str] = []
        self.done = 0
        self._serial = 0
        self.line = Line(shared, port, token)

    # --- what happens ------------------------------------------------------------------------------------------------

    async def act(self, times: int) -> None:
        """So many things, drawn at random."""
        for _ in range(times):
            name = self.random.choice(self.acts)
            await getattr(self, name)()
            self.done += 1

    def _fresh(self) -> str:
        self._serial += 1
        return f"{self.user_id} {self._serial}"

    def _room(self) -> str:
        return self.random.choice(self.shared.rooms)

    def _somebody(self) -> str:
        return self.random.choice(self.shared.people)

    def _path(self, *parts: str, room_id: str | None = None) -> str:
        return "/".join([f"{CLIENT}/rooms/{encode(room_id or self._room())}", *map(encode, parts)])

    def _event_of(self, room_id: str) -> str | None:
        found = self.shared.events.get(room_id)
        return self.random.choice(found) if found else None

    async def say(self, relation: Callable[[str], dict[str, Any]] | None = None) -> None:
        """A message, again until it is answered."""
        room_id, text = self._room(), self._fresh()
        content: dict[str, Any] = {"msgtype": "m.text", "body": text}
        other = self._event_of(room_id)
        if relation is not None and other is not None:
            content["m.relates_to"] = relation(other)
            if content["m.relates_to"].get("rel_type") == "m.replace":
                content["m.new_content"] = {"msgtype": "m.text", "body": "edited"}
        path = self._path("send", "m.room.message", text, room_id=room_id)
        while True:
            status, answer = await self.line.ask("PUT", path, content)
            if status == 200:
                self.shared.acknowledged[answer["event_id"]] = text
                self.shared.events.setdefault(room_id, []).append(answer["event_id"])
            if status:
                return

    async def reply(self) -> None:
        await self.say(lambda other: {"m.in_reply_to": {"event_id": other}})

    async def edit(self) -> None:
        await self.say(lambda other: {"rel_type": "m.replace", "event_id": other})

    async def thread(self) -> None:
        await self.say(lambda other: {"rel_type": "m.thread", "event_id": other})

    async def react(self) -> None:
        room_id = self._room()
        other = self._event_of(room_id)
        if other is not None:
            relation = {"rel_type": "m.annotation", "event_id": other, "key": self.random.choice("abc")}
            path = self._path("send", "m.reaction", self._fresh(), room_id=room_id)
            await self.line.ask("PUT", path, {"m.relates_to": relation})

    async def redact(self) -> None:
        room_id = self._room()
        other = self._event_of(room_id)
        if other is not None:
            # Its text is not looked for in the end.
            self.shared.acknowledged.pop(other, None)
            await self.line.ask("PUT", self._path("redact", other, self._fresh(), room_id=room_id), {})

    async def later(self) -> None:
        path = self._path("send", "org.example.later", self._fresh())
        await self.line.ask("PUT", path, {}, {DELAY: "200"})

    async def stick(self) -> None:
        path = self._path("send", "org.example.sticky", self._fresh())
        await self.line.ask("PUT", path, {}, {STICKY: "60000"})

    async def place(self) -> None:
        kind = self.random.choice(("topic", "name"))
        await self.line.ask("PUT", self._path("state", f"m.room.{kind}", ""), {kind: self._fresh()})

    async def power(self) -> None:
        room_id = self._room()
        path = self._path("state", "m.room.power_levels", "", room_id=room_id)
        status, levels = await self.line.ask("GET", path)
        if status == 200:
            levels.setdefault("users", {})[self._somebody()] = self.random.choice((0, 50))
            await self.line.ask("PUT", path, levels)

    async def visibility(self) -> None:
        value = self.random.choice(("shared", "joined", "invited", "world_readable"))
        path = self._path("state", "m.room.history_visibility", "")
        await self.line.ask("PUT", path, {"history_visibility": value})

    async def join(self) -> None:
        await self.line.ask("POST", f"{CLIENT}/join/{encode(self._room())}", {})

    async def leave(self) -> None:
        await self.line.ask("POST", self._path("leave"), {})

    async def move(self) -> None:
        what = self.random.choice(("invite", "invite", "kick", "ban", "unban"))
        await self.line.ask("POST", self._path(what), {"user_id": self._somebody()})

    async def forget(self) -> None:
        await self.line.ask("POST", self._path("forget"), {})

    async def knock(self) -> None:
        await self.line.ask("POST", f"{CLIENT}/knock/{encode(self._room())}", {})

    async def rename(self) -> None:
        path = f"{CLIENT}/profile/{encode(self.user_id)}/displayname"
        await self.line.ask("PUT", path, {"displayname": self._fresh()})

    async def read(self) -> None:
        room_id = self._room()
        other = self._event_of(room_id)
        if other is not None:
            kind = self.random.choice(("m.read", "m.read.private", "m.fully_read"))
            await self.line.ask("POST", self._path("receipt", kind, other, room_id=room_id), {})

    async def type(self) -> None:
        body = {"typing": self.random.random() < 0.5, "timeout": 2_000}
        await self.line.ask("PUT", self._path("typing", self.user_id), body)

    async def appear(self) -> None:
        path = f"{CLIENT}/presence/{encode(self.user_id)}/status"
        await self.line.ask(
            "PUT", path, {"presence": self.random.choice(("online", "unavailable", "offline"))}
        )

    async def note(self) -> None:
        kind = f"org.example.{self.random.randrange(3)}"
        own = f"{CLIENT}/user/{encode(self.user_id)}"
        where = self.random.choice((own, f"{own}/rooms/{encode(self._room())}"))
        await self.line.ask("PUT", f"{where}/account_data/{kind}", {"text": self._fresh()})

    async def whisper(self) -> None:
        other, text = self._somebody(), self._fresh()
        body = {"messages": {other: {"*": {"text": text}}}}
        await self.line.insist("PUT", f"{CLIENT}/sendToDevice/m.dummy/{encode(text)}", body)
        self.shared.whispers.setdefault(other, []).append(text)

    async def keys(self) -> None:
        number = self._serial = self._serial + 1
        upload = {"one_time_keys": {f"signed_curve25519:{number}": {"key": str(number), "signatures": {}}}}
        await self.line.ask("POST", f"{CLIENT}/keys/upload", upload)
        other = self._somebody()
        wanted = {other: {self.shared.devices[other]: "signed_curve25519"}}
        status, answer = await self.line.ask("POST", f"{CLIENT}/keys/claim", {"one_time_keys": wanted})
        if status == 200:
            claimed = answer["one_time_keys"].get(other, {}).values()
            self.shared.claimed += [f"{other} {name}" for keys in claimed for name in keys]
        await self.line.ask("POST", f"{CLIENT}/keys/query", {"device_keys": {other: []}})

    async def look(self) -> None:
        room_id = self._room()
        other = self._event_of(room_id)
        paths = [
            self._path("messages", room_id=room_id),
            self._path("members", room_id=room_id),
            self._path("state", room_id=room_id),
            self._path("threads", room_id=room_id).replace("/v3/", "/v1/"),
            f"{CLIENT}/publicRooms",
            f"{CLIENT}/joined_rooms",
            f"{CLIENT}/notifications",
            f"{CLIENT}/devices",
        ]
        if other is not None:
            paths.append(self._path("context", other, room_id=room_id))
            paths.append(self._path("relations", other, room_id=room_id).replace("/v3/", "/v1/"))
        await self.line.ask("GET", self.random.choice(paths), None, {"limit": "20"})

    async def search(self) -> None:
        wanted = {"room_events": {"search_term": self._somebody()[1:4]}}
        await self.line.ask("POST", f"{CLIENT}/search", {"search_categories": wanted})
        await self.line.ask("POST", f"{CLIENT}/user_directory/search", {"search_term": self._somebody()[1:4]})

    async def create(self) -> None:
        body = {"preset": "public_chat", "room_version": self.random.choice(("6", "10", "11", "12"))}
        status, answer = await self.line.ask("POST", f"{CLIENT}/createRoom", body)
        if status == 200:
            self.shared.rooms.append(answer["room_id"])

    async def upgrade(self) -> None:
        status, answer = await self.line.ask("POST", self._path("upgrade"), {"new_version": "12"})
        if status == 200:
            self.shared.rooms.append(answer["replacement_room"])

    # --- syncing -----------------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Keep the view of classic sync, until the crowd stops."""
        line = Line(self.shared, self.port, self.token)
        while not self.shared.stopping:
            await self.catch_up(line, self.classic, WAIT_MS)

    async def catch_up(self, line: Line, view: ClientView, timeout_ms: int = 0) -> None:
        """One classic sync."""
        query = {"timeout": str(timeout_ms)}
        if view.state_name == "state_after":
            query["use_state_after"] = "true"
        if view.since is not None:
            query["since"] = view.since
        status, answer = await line.ask("GET", f"{CLIENT}/sync", None, query)
        if status == 200:
            view.apply(answer)
            if view is self.classic:
                self.hear(answer)

    def hear(self, answer: Any) -> None:
        """Take in what is told once."""
        heard = answer.get("to_device", {}).get("events", [])
        self.heard += [event["content"]["text"] for event in heard]

    def misheard(self) -> list[str]:
        """What did not reach it, or more than once, or out of its sender's order."""
        found = [] if len(set(self.heard)) == len(self.heard) else [f"{self.user_id} heard something twice"]
        wanted = self.shared.whispers.get(self.user_id, [])
        found += [f"{self.user_id} did not hear {text!r}" for text in sorted({*wanted} - {*self.heard})]
        serials: dict[str, int] = {}
        for text in self.heard:
            sender, _, serial = text.partition(" ")
            if serials.get(sender, 0) > int(serial):
                found.append(f"{self.user_id} heard {text!r} too late")
            serials[sender] = int(serial)
        return found

    async def listen_sliding(self) -> None:
        """Keep the view of sliding sync, until the crowd stops."""
        line = Line(self.shared, self.port, self.token)
        while not self.shared.stopping:
            await self.slide(line, self.sliding, WAIT_MS)

    async def slide(
        self, line: Line, view: SlidingView, timeout_ms: int = 0, connection: str = "list"
    ) -> None:
        """One sliding sync."""
        body: dict[str, Any] = {
            "conn_id": connection,
            "lists": {"all": _EVERYTHING},
            "extensions": {"account_data": _ALL, "receipts": _ALL, "typing": _ALL, "e2ee": _ALL},
        }
        query = {"timeout": str(timeout_ms)}
        if view.pos is not None:
            query["pos"] = view.pos
        status, answer = await line.ask("POST", SLIDING, body, query)
        if status == 200:
            view.apply(answer)
        elif status:
            raise AssertionError(json.dumps(answer))


def raise_what_failed(tasks: list[asyncio.Task[None]]) -> None:
    """Raise what ended one of these tasks."""
    for task in tasks:
        if task.done():
            task.result()
