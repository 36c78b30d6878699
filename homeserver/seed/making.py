"""The sample community: two servers with their channels, five people, and a conversation of ten messages.

It is made by ordinary requests through the router, as clients would make them, so that everything in it is ordinary
data. It is made once: where there is an account already, nothing is touched. Whether one was finished show the devices
with which its people made it: they are logged out in the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgspec

from homeserver.accounts.sessions import DeviceWish
from homeserver.accounts.types import Requester
from homeserver.api.web.page import SampleLogin
from homeserver.app import App
from homeserver.cli.operations import OperationError, Progress, SeedReport
from homeserver.http.request import Headers, Request
from homeserver.http.router import ALL_GROUPS
from homeserver.seed.content import PASSWORD, PEOPLE, SERVERS, TALK, Channel, Message, Server
from homeserver.store.devices import load_devices

CLIENT = "/_matrix/client/v3"
_DEVICE = "Sample community"
_NOT_MADE = "the sample community is not there, or not all of it, and is made only where there is no account yet: in an empty database"


def no_progress(label: str, done: int, total: int | None = None) -> None:
    """For those who show none."""


async def seed(app: App, progress: Progress = no_progress) -> SeedReport:
    """Make the sample community, or tell that there is somebody here already."""
    if await app.services.accounts.list_users("", 1):
        return SeedReport(created=False, lines=() if await _is_whole(app) else (_NOT_MADE,))
    await Seeding(app, progress).run()
    return SeedReport(created=True, lines=_lines(app.core.config.server_name))


async def _is_whole(app: App) -> bool:
    """Whether the sample community is there, and was not given up halfway."""
    for person in PEOPLE:
        account = await app.services.accounts.find(f"@{person.localpart}:{app.core.config.server_name}")
        if account is None:
            return False
        devices = await app.core.around.database.read(load_devices, account.user_nid)
        if any(device.display_name == _DEVICE for device in devices):
            return False
    return True


async def present_logins(app: App) -> list[SampleLogin]:
    """Those of the sample community who have an account here."""
    server_name = app.core.config.server_name
    logins = [SampleLogin(f"@{one.localpart}:{server_name}", one.name, PASSWORD) for one in PEOPLE]
    return [login for login in logins if await app.services.accounts.is_local_account(login.user_id)]


def _lines(server_name: str) -> tuple[str, ...]:
    channels = sum(len(server.channels) for server in SERVERS)
    width = max(len(one.localpart) for one in PEOPLE) + len(server_name) + 2
    return (
        f"sample community: {len(SERVERS)} servers, {channels} channels, {len(PEOPLE)} users, {len(TALK)} messages",
        f"log in with the password {PASSWORD} as",
        *(f"  {f'@{one.localpart}:{server_name}':<{width}}  {one.name}" for one in PEOPLE),
    )


@dataclass(slots=True)
class _Person:
    """Somebody logged in."""

    user_id: str
    token: str
    requester: Requester


@dataclass(slots=True)
class Seeding:
    """One run. Rooms and messages are remembered by the names that they have in `content`."""

    app: App
    progress: Progress
    _people: dict[str, _Person] = field(default_factory=dict)
    _rooms: dict[str, str] = field(default_factory=dict)
    _sent: dict[str, str] = field(default_factory=dict)
    _steps: int = 0

    async def run(self) -> None:
        """Everything, in the order in which it would have happened."""
        for person in PEOPLE:
            await self._add_person(person.localpart, person.name)
        for server in SERVERS:
            await self._make_server(server)
        for number, message in enumerate(TALK, 1):
            await self._say(message, number)
        for person in PEOPLE:
            await self.app.services.sessions.log_out(self._people[person.localpart].requester)

    # --- people ----------------------------------------------------------------------------------

    async def _add_person(self, localpart: str, name: str) -> None:
        services = self.app.services
        user_id = await services.accounts.create_user(localpart, PASSWORD, display_name=name)
        account = await services.accounts.find(user_id)
        if account is None:
            raise OperationError(f"the account of {user_id} vanished")
        grant = await services.sessions.log_in(account, DeviceWish(display_name=_DEVICE))
        self._people[localpart] = _Person(user_id, grant.access_token, await self._who(grant.access_token))
        self._step()

    async def _who(self, token: str) -> Requester:
        request = self._request("GET", f"{CLIENT}/account/whoami", token)
        found: Any = self.app.core.authenticator.authenticate(request, request.route.auth)
        requester: Requester = found if isinstance(found, Requester) else await found
        return requester

    # --- rooms -----------------------------------------------------------------------------------

    async def _make_server(self, server: Server) -> None:
        owner, server_name = server.people[0], self.app.core.config.server_name
        space_id = await self._create(
            owner, server.name, server.topic, _space(server, self._moderators(server))
        )
        self._rooms[server.key] = space_id
        for order, channel in enumerate(server.channels):
            room_id = await self._create(
                owner,
                channel.name,
                channel.topic,
                _channel(channel, space_id, server_name, self._moderators(server)),
            )
            self._rooms[channel.key] = room_id
            child = {"via": [server_name], "order": f"{order:04}", "suggested": channel.suggested}
            await self._put(owner, f"/rooms/{_part(space_id)}/state/m.space.child/{_part(room_id)}", child)
        for localpart in server.people[1:]:
            for room_id in (space_id, *(self._rooms[channel.key] for channel in server.channels)):
                await self._post(localpart, f"/rooms/{_part(room_id)}/join", {})

    def _moderators(self, server: Server) -> dict[str, int]:
        return {self._people[localpart].user_id: 50 for localpart in server.moderators}

    async def _create(self, who: str, name: str, topic: str, more: dict[str, Any]) -> str:
        answer = await self._post(who, "/createRoom", {"name": name, "topic": topic, **more})
        room_id: str = answer["room_id"]
        self._step()
        return room_id

    # --- talk ------------------------------------------------------------------------------------

    async def _say(self, message: Message, number: int) -> None:
        room = f"/rooms/{_part(self._rooms[message.channel])}/send"
        content: dict[str, Any] = {"msgtype": "m.text", "body": message.text}
        if message.replies_to:
            content["m.relates_to"] = {"m.in_reply_to": {"event_id": self._sent[message.replies_to]}}
            content["m.mentions"] = {"user_ids": [self._people[_author(message.replies_to)].user_id]}
        answer = await self._put(message.sender, f"{room}/m.room.message/seed-{number}", content)
        event_id: str = answer["event_id"]
        self._sent[message.key] = event_id
        if message.edited_to:
            await self._put(
                message.sender,
                f"{room}/m.room.message/seed-{number}-edit",
                {
                    "msgtype": "m.text",
                    "body": f"* {message.edited_to}",
                    "m.new_content": {"msgtype": "m.text", "body": message.edited_to},
                    "m.relates_to": {"rel_type": "m.replace", "event_id": event_id},
                },
            )
        for who, key in message.reactions:
            relation = {"rel_type": "m.annotation", "event_id": event_id, "key": key}
            await self._put(who, f"{room}/m.reaction/seed-{number}-{who}", {"m.relates_to": relation})
        self._step()

    # --- requests --------------------------------------------------------------------------------

    async def _post(self, who: str, path: str, body: Mapping[str, Any]) -> Any:
        return await self._call("POST", who, path, body)

    async def _put(self, who: str, path: str, body: Mapping[str, Any]) -> Any:
        return await self._call("PUT", who, path, body)

    async def _call(self, method: str, who: str, path: str, body: Mapping[str, Any]) -> Any:
        request = self._request(method, CLIENT + path, self._people[who].token, msgspec.json.encode(body))
        answer: Any = self.app.router.dispatch(request)
        if not hasattr(answer, "body"):
            answer = await answer
        if answer.status != 200 or not isinstance(answer.body, bytes):
            problem = answer.body[:300].decode("utf-8", "replace") if isinstance(answer.body, bytes) else ""
            raise OperationError(
                f"the sample community was refused: {method} {path}: {answer.status} {problem}"
            )
        return msgspec.json.decode(answer.body)

    def _request(self, method: str, path: str, token: str, body: bytes = b"") -> Request:
        target = path.encode("ascii")
        headers = Headers({b"authorization": b"Bearer " + token.encode("ascii")})
        match = self.app.router.resolve(method, target, ALL_GROUPS)
        return Request(
            method, target, headers, match=match, serve=ALL_GROUPS, client_ip="127.0.0.1", body=body
        )

    def _step(self) -> None:
        self._steps += 1
        total = len(PEOPLE) + sum(1 + len(server.channels) for server in SERVERS) + len(TALK)
        self.progress("sample community", self._steps, total)


def _space(server: Server, moderators: Mapping[str, int]) -> dict[str, Any]:
    # spec: client-server-api#spaces
    return {
        "preset": "public_chat",
        "visibility": "public",
        "room_alias_name": server.alias,
        "creation_content": {"type": "m.space"},
        "power_level_content_override": {
            "users": moderators,
            # A space is a directory of its channels: nobody talks in it.
            "events_default": 100,
            "invite": 0,
        },
    }


def _channel(
    channel: Channel, space_id: str, server_name: str, moderators: Mapping[str, int]
) -> dict[str, Any]:
    # spec: client-server-api#mspaceparent-relationships, rooms/v8#joining-restricted-rooms
    levels: dict[str, Any] = {"users": moderators}
    if channel.kind == "announcement":
        levels["events_default"] = 50
        levels["events"] = {"m.reaction": 0}
    allow = [{"type": "m.room_membership", "room_id": space_id}]
    return {
        "preset": "private_chat",
        "initial_state": [
            _state("m.room.join_rules", {"join_rule": "restricted", "allow": allow}),
            _state("m.space.parent", {"via": [server_name], "canonical": True}, space_id),
            _state("m.room.history_visibility", {"history_visibility": "shared"}),
            _state("im.chaos.channel", {"kind": channel.kind}),
        ],
        "power_level_content_override": levels,
    }


def _state(event_type: str, content: dict[str, Any], state_key: str = "") -> dict[str, Any]:
    return {"type": event_type, "state_key": state_key, "content": content}


def _author(key: str) -> str:
    return next(message.sender for message in TALK if message.key == key)


def _part(text: str) -> str:
    return quote(text, safe="")
