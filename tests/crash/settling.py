"""What is left to do when a crowd on several servers has come to rest, and what is demanded of it then."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from federation.ids import domain_of
from homeserver.store.placement import Membership
from tests.bench.wire import encode
from tests.crash.agreement import are_apart, find_disagreements, find_inside, load_rooms
from tests.crash.crowd import Shared
from tests.crash.load import CLIENT, PATIENCE_S, Server
from tests.crash.residents import Resident
from tests.crash.strangers import take_keys
from tests.crash.views import find_differences
from tests.support.kept_rooms import Room

HEARD_S = 3.0
_PAGE = "500"


class Settling:
    """See the module."""

    def __init__(self, servers: Sequence[Server], members: Sequence[Resident], shared: Shared) -> None:
        self._servers = servers
        self._members = members
        self._shared = shared
        self._words: dict[str, list[str]] = {}  # by room, what was said last
        self._have: dict[str, dict[str, Room]] = {}

    # --- rest --------------------------------------------------------------------------------------------------------

    async def settle(self) -> list[str]:
        """Last words in every room, until the servers agree; what they differ over when patience ends."""
        await asyncio.gather(*(member.make_sure() for member in self._members))
        await asyncio.gather(*(member.end(one) for member in self._members for one in member.visitors))
        self._load()
        await asyncio.gather(*(self._let_all_in(room_id) for room_id in self._shared.rooms))
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            self._load()
            await asyncio.gather(*(self._say_last_words(room_id) for room_id in self._shared.rooms))
            self._load()
            found = [one for room_id in self._shared.rooms for one in find_disagreements(self._have, room_id)]
            found += [one for room_id in self._shared.rooms for one in self._find_lingering(room_id)]
            if not found or time.monotonic() > deadline_s:
                return found
            await asyncio.sleep(1.0)

    def _find_lingering(self, room_id: str) -> list[str]:
        """Who is in a room, as some server has it, although the account has ended."""
        departed = [user_id for member in self._members for user_id in member.departed]
        found = []
        for name in find_inside(self._have, room_id):
            room = self._have[name][room_id]
            # A server that a room did not listen to meanwhile may have nobody left who could say it again.
            if ("m.room.server_acl", "") not in room.state:
                found += [
                    f"{room_id}: {user_id} is there at {name}"
                    for user_id in departed
                    if user_id in room.joined and not are_apart(self._have, room_id, name, domain_of(user_id))
                ]
        return found

    def _load(self) -> None:
        self._have = {server.name: load_rooms(server.database) for server in self._servers}

    def _joined(self, room_id: str) -> dict[str, list[Resident]]:
        """Of each server that is in a room, the members there."""
        found: dict[str, list[Resident]] = {}
        for member in self._members:
            room = self._have[member.home].get(room_id)
            if room is not None and member.user_id in room.joined:
                found.setdefault(member.home, []).append(member)
        return found

    async def _let_all_in(self, room_id: str) -> None:
        for member in self._members:
            room = self._have[member.home].get(room_id)
            if room is None or member.user_id not in room.joined:
                continue
            if ("m.room.server_acl", "") not in room.state or await member.put_acl(room_id, []):
                return

    async def _say_last_words(self, room_id: str) -> None:
        """One member of each server after the other, so that whatever lay apart is tied together; then all look back."""
        joined = self._joined(room_id)
        self._words[room_id] = []
        for members in joined.values():
            for member in members:
                event_id = await member.say_last_word(room_id)
                if event_id is not None:
                    self._words[room_id].append(event_id)
                    for others in joined.values():
                        await self._wait_for(others[0], room_id, event_id)
                    break
        for members in joined.values():
            await self._look_back(members[0], room_id)

    async def _wait_for(self, member: Resident, room_id: str, event_id: str) -> None:
        path = f"{CLIENT}/rooms/{encode(room_id)}/event/{encode(event_id)}"
        deadline_s = time.monotonic() + HEARD_S
        while time.monotonic() < deadline_s:
            status, _ = await member.words.ask("GET", path)
            if status == 200:
                return
            await asyncio.sleep(0.05)

    async def _look_back(self, member: Resident, room_id: str) -> None:
        """Read all that there is of a room: what its server has not got it fetches."""
        query = {"dir": "b", "limit": _PAGE}
        while True:
            status, page = await member.words.ask(
                "GET", f"{CLIENT}/rooms/{encode(room_id)}/messages", None, query
            )
            # Where the only server that had the beginning has left the room, nobody has it, and the end never comes.
            if status != 200 or "end" not in page or not page["chunk"]:
                return
            query["from"] = page["end"]

    # --- what is demanded --------------------------------------------------------------------------------------------

    async def find_differences(self) -> list[str]:
        """Where members were told otherwise than it is."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            self._load()
            found = [one for each in self._members for one in await find_differences(each)]
            found += [one for each in self._members for one in self._find_false_memberships(each)]
            found += [one for each in self._members for one in await self._find_old_lists(each)]
            found += [one for each in self._members for one in await self._find_old_profiles(each)]
            found += [one for each in self._members for one in await self._find_old_names(each)]
            found += [one for each in self._members for one in await each.find_unheard()]
            found += await self._find_left_keys()
            if not found or time.monotonic() > deadline_s:
                break
            await asyncio.sleep(0.5)
        for member in self._members:
            found += member.afterwards
            for room_id, words in self._words.items():
                found += await self._find_misdirected(member, room_id, words)
        found += await self._find_lost_pictures()
        twice = [name for name, count in Counter(self._shared.claimed).items() if count > 1]
        return found + [f"one-time key given out twice: {name}" for name in twice]

    def _find_false_memberships(self, member: Resident) -> list[str]:
        """Where those who are in a room take a member for something else than the member's own sync says."""
        found = []
        for room_id in self._shared.rooms:
            told = (
                "join" if room_id in member.classic.rooms else member.classic.invites.get(room_id, ("",))[0]
            )
            own = self._have[member.home].get(room_id)
            at_home = None if own is None else own.memberships.get(member.user_id)
            for name in find_inside(self._have, room_id):
                is_so = self._have[name][room_id].memberships.get(member.user_id)
                so = is_so.word if is_so in _SHOWN else ""
                if (
                    told != so
                    and not are_apart(self._have, room_id, member.home, name)
                    and not (own is not None and self._is_untold(member, own, room_id))
                ):
                    found.append(
                        f"{member.user_id} is told {told!r} of {room_id}, where {name} has {so!r}"
                        f" ({is_so}; at home {at_home})"
                    )
        return found

    def _is_untold(self, member: Resident, own: Room, room_id: str) -> bool:
        """Whether only one side can know what a member is to a room.

        - Whoever declines an invite while no server of the room answers is out at once; it is told a minute later.
        - Where the answer to an invite got lost, the invited have it, and the room has not.
        - Nobody tells who is not in a room that a resolution took their invite or knock away again: what was done later,
          in knowledge of it, they are told.
        """
        told_id = own.told.get(member.user_id)
        key = ("m.room.member", member.user_id)
        inside = [self._have[name][room_id] for name in find_inside(self._have, room_id)]
        return member.user_id in own.declining or (
            told_id is not None
            and not any(
                key in room.state and (room.state[key] == told_id or room.rests_on(room.state[key], told_id))
                for room in inside
            )
        )

    def _sharing(self, member: Resident) -> list[Resident]:
        """The others in the rooms that a member is in, where both of their servers know it."""
        return [
            other
            for other in self._members
            if other is not member
            and any(
                all(
                    {member.user_id, other.user_id} <= self._have[home].get(room_id, Room()).joined
                    for home in (member.home, other.home)
                )
                for room_id in member.classic.rooms
            )
        ]

    async def _find_old_lists(self, member: Resident) -> list[str]:
        """Device lists that are others than their owners', although a member of a common room was to be told."""
        found = []
        for owner in self._sharing(member):
            theirs = await _query(owner, owner.user_id)
            kept = member.lists.get(owner.user_id)
            for name, mine in (("kept", kept), ("asked for", await _query(member, owner.user_id))):
                if mine != theirs and not (name == "kept" and mine is None):
                    found.append(f"{member.user_id} has of {owner.user_id} ({name}) {mine} for {theirs}")
        return found

    async def _find_old_profiles(self, member: Resident) -> list[str]:
        """What is kept of others' profiles is asked for anew when a common room shows another one."""
        found = []
        own = await self._profile(member, member)
        for other in self._sharing(member):
            told = await self._profile(other, member)
            if told != own:
                found.append(f"{other.user_id} is told {told} of {member.user_id}, who has {own}")
        return found

    async def _find_old_names(self, member: Resident) -> list[str]:
        """Rooms that show another name of somebody than their profile has."""
        found = []
        profile = await self._profile(member, member)
        for room_id in sorted(member.classic.rooms):
            path = f"{CLIENT}/rooms/{encode(room_id)}/state/m.room.member/{encode(member.user_id)}"
            content = await member.words.insist("GET", path)
            shown = {key: content.get(key) for key in ("displayname", "avatar_url")}
            if shown == {key: profile.get(key) for key in shown} or self._is_struck(member, room_id):
                continue
            if not await self._is_closed(member, room_id):
                found.append(f"{room_id} shows {shown} of {member.user_id}, who has {profile}")
        return found

    async def _is_closed(self, member: Resident, room_id: str) -> bool:
        """Whether a room had a join rule that its version does not know: then not even who is in it can say their name.

        spec: rooms/v6#authorization-rules
        """
        path = f"{CLIENT}/rooms/{encode(room_id)}/state/m.room.create/"
        create = await member.words.insist("GET", path)
        return bool(create.get("room_version") == "6") and room_id in self._shared.narrowed

    def _is_struck(self, member: Resident, room_id: str) -> bool:
        """Whether somebody redacted what a member is to a room."""
        room = self._have[member.home][room_id]
        return room.state["m.room.member", member.user_id] in room.redacted

    async def _find_left_keys(self) -> list[str]:
        """Devices of accounts that have ended."""
        departed = [user_id for member in self._members for user_id in member.departed]
        found = []
        for reader in self._one_of_each_server():
            body: dict[str, Any] = {"device_keys": {user_id: [] for user_id in departed}}
            answer = await reader.words.insist("POST", f"{CLIENT}/keys/query", body)
            left = {user_id: devices for user_id, devices in answer["device_keys"].items() if devices}
            if left:
                found.append(f"{reader.user_id} is told of {left}, whose accounts have ended")
        return found

    async def _find_lost_pictures(self) -> list[str]:
        return [
            f"{reader.user_id} gets {status} for {name}"
            for reader in self._one_of_each_server()
            for name in sorted(self._shared.pictures)
            if (status := await reader.fetch(reader.words, name)) != 200
        ]

    def _one_of_each_server(self) -> list[Resident]:
        return list({member.home: member for member in self._members}.values())

    async def _profile(self, reader: Resident, member: Resident) -> Any:
        return await reader.words.insist("GET", f"{CLIENT}/profile/{encode(member.user_id)}")

    async def _find_misdirected(self, member: Resident, room_id: str, words: list[str]) -> list[str]:
        """Last words that who is in the room cannot read, or who is not can."""
        found = []
        is_inside = room_id in member.classic.rooms
        room = self._have[member.home].get(room_id)
        # spec: server-server-api#soft-failure (the speaker had left, as far as this server knew then)
        held_back = room.senders.keys() - room.shown if room is not None else ()
        for event_id in words:
            # The first words may have been said in a branch in which the reader was not there yet.
            if is_inside and (event_id in held_back or event_id != words[-1]):
                continue
            if is_inside and are_apart(
                self._have, room_id, member.home, self._find_speaker(room_id, event_id)
            ):
                continue
            path = f"{CLIENT}/rooms/{encode(room_id)}/event/{encode(event_id)}"
            status, _ = await member.words.ask("GET", path)
            if (status == 200) != is_inside and not (status == 200 and await self._is_open(room_id)):
                found.append(f"{member.user_id} ({is_inside=}) reads {event_id} of {room_id}: {status}")
        return found

    def _find_speaker(self, room_id: str, event_id: str) -> str:
        """The server of whoever said it."""
        return next(
            domain_of(rooms[room_id].senders[event_id])
            for rooms in self._have.values()
            if room_id in rooms and event_id in rooms[room_id].senders
        )

    async def _is_open(self, room_id: str) -> bool:
        """Whether anybody may read it."""
        path = f"{CLIENT}/rooms/{encode(room_id)}/state/m.room.history_visibility"
        for members in self._joined(room_id).values():
            status, content = await members[0].words.ask("GET", path)
            if status == 200:
                return bool(content["history_visibility"] == "world_readable")
        return False


_SHOWN = (Membership.JOIN, Membership.INVITE, Membership.KNOCK)


async def _query(member: Resident, user_id: str) -> Any:
    body: dict[str, Any] = {"device_keys": {user_id: []}}
    answer = await member.words.insist("POST", f"{CLIENT}/keys/query", body)
    return take_keys(answer, user_id)
