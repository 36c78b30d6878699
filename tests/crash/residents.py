"""Members who answer each other: invites and knocks are taken up, rooms are followed, keys renewed, visitors come and go.

What a stranger does at random to rooms at random meets an invite or a knock of somebody's too rarely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.bench.wire import encode
from tests.crash.crowd import DELAY, Line, Shared
from tests.crash.load import CLIENT, PASSWORD
from tests.crash.strangers import Further, Stranger, prove
from tests.support.keys import CrossKeys, KeyDevice

_MEDIA = "/_matrix/client/v1/media"
_DELAYED = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
_STATE = ("m.room.member", "m.room.topic", "m.room.power_levels", "m.room.join_rules", "m.room.server_acl")


@dataclass(slots=True)
class Visitor:
    """An account that comes, does little, and is deactivated."""

    user_id: str
    line: Line


class Resident(Stranger):
    """See the module."""

    acts = (
        *Stranger.acts,
        *("answer", "admit") * 5,
        *("follow", "decree", "strike", "renew", "visit", "depart", "postpone", "hurry", "picture", "view")
        * 2,
        "close",
    )

    def __init__(self, admin: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.admin = admin  # the token of an administrator of its server
        self.visitors: list[Visitor] = []
        self.departed: list[str] = []
        self._promised: list[tuple[str, str]] = []  # delayed events: id, text

    # --- memberships -------------------------------------------------------------------------------------------------

    async def answer(self) -> None:
        """An invite is accepted or declined, a knock taken back."""
        if not self.classic.invites:
            return
        room_id = self.random.choice(sorted(self.classic.invites))
        if self.classic.invites[room_id][0] == "invite" and self.random.random() < 0.6:
            await self._enter("join", room_id)
        else:
            await self.line.ask("POST", self._path("leave", room_id=room_id), {})

    async def admit(self) -> None:
        """Who knocks is let in, or not."""
        room_id = self._room()
        path = self._path("members", room_id=room_id)
        status, answer = await self.line.ask("GET", path, None, {"membership": "knock"})
        if status == 200 and answer["chunk"]:
            body = {"user_id": self.random.choice(answer["chunk"])["state_key"]}
            what = self.random.choice(("invite", "invite", "invite", "kick", "ban"))
            await self.line.ask("POST", self._path(what, room_id=room_id), body)

    async def decree(self) -> None:
        """What `move` does, as a state event."""
        content = {"membership": self.random.choice(("invite", "invite", "leave", "ban"))}
        await self.line.ask("PUT", self._path("state", "m.room.member", self._somebody()), content)

    async def follow(self) -> None:
        """Into the room that replaces one."""
        status, answer = await self.line.ask("GET", self._path("state", "m.room.tombstone", ""))
        if status == 200 and "replacement_room" in answer:
            await self._enter("join", answer["replacement_room"])

    async def upgrade(self) -> None:
        body: dict[str, Any] = {"new_version": self.random.choice(("10", "11", "12", "12"))}
        if body["new_version"] == "12" and self.random.random() < 0.5:
            body["additional_creators"] = [self._somebody()]
        status, answer = await self.line.ask("POST", self._path("upgrade"), body)
        if status == 200:
            self.shared.rooms.append(answer["replacement_room"])

    async def close(self) -> None:
        """An administrator has everybody of the server leave a room."""
        line = Line(self.shared, self.port, self.admin)
        await line.ask("DELETE", f"/_synapse/admin/v2/rooms/{encode(self._room())}", {})

    # --- events ------------------------------------------------------------------------------------------------------

    async def strike(self) -> None:
        """Redact a state event."""
        room_id = self._room()
        status, state = await self.line.ask("GET", self._path("state", room_id=room_id))
        if status == 200:
            found = [event["event_id"] for event in state if event["type"] in _STATE]
            path = self._path("redact", self.random.choice(found), self._fresh(), room_id=room_id)
            await self.line.ask("PUT", path, {})

    async def postpone(self) -> None:
        """A message that is sent later, once."""
        text = self._fresh()
        delay = {DELAY: self.random.choice(("100", "2000"))}
        body = {"msgtype": "m.text", "body": text}
        status, answer = await self.line.ask("PUT", self._path("send", "m.room.message", text), body, delay)
        if status == 200:
            self._promised.append((answer["delay_id"], text))

    async def hurry(self) -> None:
        """It is sent now, or not at all."""
        if self._promised:
            delay_id, text = self._promised.pop(self.random.randrange(len(self._promised)))
            action = self.random.choice(("send", "cancel", "restart"))
            status, _ = await self.line.ask("POST", f"{_DELAYED}/{encode(delay_id)}", {"action": action})
            if status == 200 and action == "cancel":
                self.shared.withdrawn.append(text)

    async def picture(self) -> None:
        content = {"picture": self._fresh()}
        status, answer = await self.line.ask("POST", "/_matrix/media/v3/upload", content)
        if status == 200:
            self.shared.pictures[answer["content_uri"].removeprefix("mxc://")] = content
            path = f"{CLIENT}/profile/{encode(self.user_id)}/avatar_url"
            await self.line.ask("PUT", path, {"avatar_url": answer["content_uri"]})

    async def view(self) -> None:
        if self.shared.pictures:
            await self.fetch(self.line, self.random.choice(sorted(self.shared.pictures)))

    async def fetch(self, line: Line, name: str) -> int:
        """The status; a picture that comes is the one that was sent."""
        status, content = await line.ask("GET", f"{_MEDIA}/download/{name}")
        if status == 200 and content != self.shared.pictures[name]:
            self.shared.failures.append(f"{name} is {content} for {self.shared.pictures[name]}")
        return status

    # --- accounts and devices ----------------------------------------------------------------------------------------

    async def renew(self) -> None:
        """New keys for cross-signing, with which its first device is signed."""
        keys = CrossKeys(self.user_id, self._fresh())
        body = {**keys.body(), "auth": prove(self.user_id)}
        status, _ = await self.line.ask("POST", f"{CLIENT}/keys/device_signing/upload", body)
        if status == 200:
            device_id = self.shared.devices[self.user_id]
            signed = keys.self_signing.sign(KeyDevice(self.user_id, device_id).keys())
            await self.line.ask(
                "POST", f"{CLIENT}/keys/signatures/upload", {self.user_id: {device_id: signed}}
            )

    async def visit(self) -> None:
        """An account of its server comes into a room."""
        name = f"{self.user_id[1:6]}visitor{self._fresh().rpartition(' ')[2]}"
        body = {"username": name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        status, me = await self.line.ask("POST", f"{CLIENT}/register", body)
        if status != 200:
            return
        # What it is refused once it is deactivated is no failure.
        shared = Shared(failures=self.shared.failures, passing=self.shared.passing)
        line = Line(shared, self.port, me["access_token"])
        visitor = Visitor(me["user_id"], line)
        self.visitors.append(visitor)
        keys = KeyDevice(visitor.user_id, me["device_id"]).keys()
        await line.ask("POST", f"{CLIENT}/keys/upload", {"device_keys": keys})
        self.shared.devices[visitor.user_id] = me["device_id"]
        self.shared.people.append(visitor.user_id)
        room_id = self._room()
        await line.ask("POST", f"{CLIENT}/join/{encode(room_id)}?{self._via()}", {})
        await line.ask("PUT", self._path("send", "org.example.hello", "1", room_id=room_id), {})

    async def depart(self) -> None:
        """A visitor's account ends."""
        if self.visitors:
            await self.end(self.visitors.pop(self.random.randrange(len(self.visitors))))

    async def end(self, visitor: Visitor) -> None:
        """Until it has."""
        if visitor.user_id in self.shared.people:
            self.shared.people.remove(visitor.user_id)
        body = {"auth": prove(visitor.user_id), "erase": self.random.random() < 0.5}
        status = 0
        # 401 where the answer to the first try was lost.
        while status not in (200, 401):
            status, _ = await visitor.line.ask("POST", f"{CLIENT}/account/deactivate", body)
        self.departed.append(visitor.user_id)

    # --- what it is told ---------------------------------------------------------------------------------------------

    async def find_unheard(self) -> list[str]:
        """Messages that did not reach its further devices, or more than once, or out of their sender's order."""
        found = []
        for one in self.further:
            await self._listen_on(one)
            wanted = [text for text in self.shared.whispers.get(self.user_id, ()) if text not in one.earlier]
            found += [f"{one.device_id}: {problem}" for problem in self.misheard_of(one.heard, wanted)]
        return found

    async def _listen_on(self, one: Further) -> None:
        line = Line(self.shared, self.port, one.token)
        while True:
            query = {"timeout": "0"} | ({} if one.since is None else {"since": one.since})
            status, answer = await line.ask("GET", f"{CLIENT}/sync", None, query)
            if status == 200:
                one.since = answer["next_batch"]
                events = answer.get("to_device", {}).get("events", [])
                one.heard += [event["content"]["text"] for event in events]
                if not events:
                    return
