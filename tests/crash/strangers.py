"""Members of rooms that several servers share: what they do with each other across these, and to the rooms themselves."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any
from urllib.parse import urlencode

from federation.ids import domain_of
from tests.bench.wire import encode
from tests.crash.crowd import WAIT_MS, Line, Member, Shared
from tests.crash.load import CLIENT
from tests.support.keys import KeyDevice
from tests.support.sync_model import ClientView

_V1 = "/_matrix/client/v1"
_TRIES = 50
_VERSIONS = ("6", "10", "11", "12", "12")


class Stranger(Member):
    """A member who names servers to ask, and keeps the device lists of those it shares a room with, as clients do."""

    forked = True
    acts = (
        *Member.acts,
        *("join", "join", "invite", "whisper", "place", "power"),
        *(
            "rule",
            "alias",
            "resolve",
            "browse",
            "adopt",
            "deny",
            "peek",
            "look",
            "gain",
            "lose",
            "name_device",
        ),
        "create",
    )

    def __init__(
        self, shared: Shared, port: int, user_id: str, token: str, random: Random, servers: list[str]
    ) -> None:
        super().__init__(shared, port, user_id, token, random)
        # Otherwise a state event in the timeline that loses a resolution looks as if it had won.
        self.classic = ClientView("state_after")
        self.servers = servers
        self.home = domain_of(user_id)
        self.lists: dict[str, Any] = {}  # device lists that nobody said were changed
        self.afterwards: list[str] = []  # what it was told of rooms that it had left
        self.unsure: dict[tuple[str, str], None] = {}  # joins and knocks without an answer
        self.words = Line(shared, port, token)  # for what is said when all is quiet
        self._others: list[tuple[str, str]] = []  # further devices: token, id

    def _room(self) -> str:
        """Often one that it is in: otherwise most of what it does is refused."""
        inside = sorted(self.classic.rooms)
        if inside and self.random.random() < 0.6:
            return self.random.choice(inside)
        return super()._room()

    def _via(self) -> str:
        some = self.random.sample(self.servers, self.random.randint(1, len(self.servers)))
        return urlencode([("via", one) for one in some])

    async def join(self) -> None:
        await self._enter("join", self._room())

    async def knock(self) -> None:
        await self._enter("knock", self._room())

    async def _enter(self, how: str, room: str) -> None:
        status, _ = await self.line.ask("POST", f"{CLIENT}/{how}/{encode(room)}?{self._via()}", {})
        # 404 where those who answered are not in the room, and those who are did not answer.
        if status in (0, 404) or status >= 500:
            self.unsure[(how, room)] = None

    async def make_sure(self) -> None:
        """Try again what was not answered: it may have happened on another server, which alone knows of it."""
        servers = urlencode([("via", one) for one in self.servers])
        for how, room in self.unsure:
            status, answer = 0, None
            for _ in range(_TRIES):
                status, answer = await self.words.ask("POST", f"{CLIENT}/{how}/{encode(room)}?{servers}", {})
                if 0 < status < 500:
                    break
                await asyncio.sleep(0.2)
            else:
                raise AssertionError(f"{how} {room}: {status} {answer}, again and again")

    async def invite(self) -> None:
        await self.line.ask("POST", self._path("invite"), {"user_id": self._somebody()})

    async def create(self) -> None:
        """A room with a rule and levels of its own, and some who are invited."""
        version = self.random.choice(_VERSIONS)
        rule: dict[str, Any] = {"join_rule": self.random.choice(("public", "public", "invite", "knock"))}
        if version == "6":
            rule = {"join_rule": "public"}
        body = {
            "room_version": version,
            "invite": self.random.sample(self.shared.people, 2),
            "power_level_content_override": {"users_default": self.random.choice((0, 50))},
            "initial_state": [{"type": "m.room.join_rules", "state_key": "", "content": rule}],
        }
        status, answer = await self.line.ask("POST", f"{CLIENT}/createRoom", body)
        if status == 200:
            self.shared.rooms.append(answer["room_id"])

    # --- rooms -------------------------------------------------------------------------------------------------------

    async def rule(self) -> None:
        rule: dict[str, Any] = {"join_rule": self.random.choice(("public", "public", "invite", "knock"))}
        if self.random.random() < 0.4:
            rule = {"join_rule": self.random.choice(("restricted", "knock_restricted"))}
            rule["allow"] = [{"type": "m.room_membership", "room_id": self._room()}]
        await self.line.ask("PUT", self._path("state", "m.room.join_rules", ""), rule)

    async def deny(self) -> None:
        """A server may be kept out of a room, and let in again."""
        denied = [self.random.choice(self.servers)] if self.random.random() < 0.3 else []
        await self.put_acl(self._room(), denied)

    async def put_acl(self, room_id: str, denied: list[str]) -> bool:
        acl = {"allow": ["*"], "deny": denied, "allow_ip_literals": True}
        path = self._path("state", "m.room.server_acl", "", room_id=room_id)
        return (await self.line.ask("PUT", path, acl))[0] == 200

    async def alias(self) -> None:
        room_id = self._room()
        alias = f"#{self.random.choice('abc')}:{self.home}"
        if self.random.random() < 0.2:
            await self.line.ask("DELETE", f"{CLIENT}/directory/room/{encode(alias)}")
            return
        await self.line.ask("PUT", f"{CLIENT}/directory/room/{encode(alias)}", {"room_id": room_id})
        path = self._path("state", "m.room.canonical_alias", "", room_id=room_id)
        await self.line.ask("PUT", path, {"alias": alias})

    async def resolve(self) -> None:
        alias = f"#{self.random.choice('abc')}:{self.random.choice(self.servers)}"
        if self.random.random() < 0.5:
            await self.line.ask("GET", f"{CLIENT}/directory/room/{encode(alias)}")
        else:
            await self._enter("join", alias)

    async def adopt(self) -> None:
        """A room becomes part of a space, or no longer is."""
        content = {"via": self.servers} if self.random.random() < 0.8 else {}
        await self.line.ask("PUT", self._path("state", "m.space.child", self._room()), content)

    async def browse(self) -> None:
        server = self.random.choice(self.servers)
        kind = self.random.choice(("public", "hierarchy", "summary"))
        if kind == "public":
            await self.line.ask("GET", f"{CLIENT}/publicRooms", None, {"server": server})
        elif kind == "hierarchy":
            await self.line.ask("GET", f"{_V1}/rooms/{encode(self._room())}/hierarchy")
        else:
            await self.line.ask("GET", f"{_V1}/room_summary/{encode(self._room())}?{self._via()}")

    async def peek(self) -> None:
        """At somebody, who lives anywhere."""
        await self.line.ask("GET", f"{CLIENT}/profile/{encode(self._somebody())}")
        await self.line.ask("GET", f"{CLIENT}/presence/{encode(self._somebody())}/status")

    async def say_last_word(self, room_id: str) -> str | None:
        """The id of a message, where it may be said."""
        path = self._path("send", "m.room.message", self._fresh(), room_id=room_id)
        status, answer = await self.words.ask("PUT", path, {"msgtype": "m.text", "body": f"{path} last"})
        return answer["event_id"] if status == 200 else None

    # --- devices -----------------------------------------------------------------------------------------------------

    async def gain(self) -> None:
        """A further device, with keys."""
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.user_id},
            "password": "correct horse",
        }
        status, answer = await self.line.ask("POST", f"{CLIENT}/login", body)
        if status == 200:
            self._others.append((answer["access_token"], answer["device_id"]))
            await self.upload(answer["access_token"], answer["device_id"])

    async def upload(self, token: str, device_id: str) -> None:
        """The keys of a device."""
        keys = KeyDevice(self.user_id, device_id).keys()
        await Line(self.shared, self.port, token).ask("POST", f"{CLIENT}/keys/upload", {"device_keys": keys})

    async def lose(self) -> None:
        """A further device again."""
        if self._others:
            token, _ = self._others.pop(self.random.randrange(len(self._others)))
            await Line(self.shared, self.port, token).ask("POST", f"{CLIENT}/logout", {})

    async def name_device(self) -> None:
        devices = [self.shared.devices[self.user_id], *(device_id for _, device_id in self._others)]
        path = f"{CLIENT}/devices/{encode(self.random.choice(devices))}"
        await self.line.ask("PUT", path, {"display_name": self._fresh()})

    # --- what it is told ---------------------------------------------------------------------------------------------

    def hear(self, answer: Any) -> None:
        super().hear(answer)
        lists = answer.get("device_lists", {})
        for user_id in [*lists.get("changed", ()), *lists.get("left", ())]:
            self.lists.pop(user_id, None)
        for room_id, room in answer.get("rooms", {}).get("leave", {}).items():
            self._hear_of_left(room_id, room["timeline"]["events"])

    def _hear_of_left(self, room_id: str, timeline: list[Any]) -> None:
        own = [
            number
            for number, event in enumerate(timeline)
            if event["type"] == "m.room.member" and event.get("state_key") == self.user_id
        ]
        if own and own[-1] != len(timeline) - 1:
            later = [(event["event_id"], event["type"]) for event in timeline[own[-1] :]]
            self.afterwards.append(f"{self.user_id} was told of {room_id} after its end: {later}")

    async def listen(self) -> None:
        line = Line(self.shared, self.port, self.token)
        while not self.shared.stopping:
            await self.catch_up(line, self.classic, WAIT_MS)
            await self.ask_for_lists(line, self.random.sample(self.shared.people, 3))

    async def ask_for_lists(self, line: Line, people: list[str]) -> None:
        """Those that it has none of, after a sync: what changes later the next sync tells."""
        wanted: dict[str, list[str]] = {user_id: [] for user_id in people if user_id not in self.lists}
        if wanted:
            status, answer = await line.ask("POST", f"{CLIENT}/keys/query", {"device_keys": wanted})
            if status == 200:
                self.lists |= answer["device_keys"]
