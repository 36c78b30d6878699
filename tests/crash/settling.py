"""What is left to do when a crowd on several servers has come to rest, and what is demanded of it then."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from homeserver.store.placement import Membership
from tests.bench.wire import encode
from tests.crash.agreement import are_together, find_disagreements, find_inside, load_rooms
from tests.crash.crowd import Shared
from tests.crash.load import CLIENT, PATIENCE_S, Server
from tests.crash.strangers import Stranger
from tests.crash.views import find_differences
from tests.support.kept_rooms import Room

HEARD_S = 3.0
_PAGE = "500"


class Settling:
    """See the module."""

    def __init__(self, servers: Sequence[Server], members: Sequence[Stranger], shared: Shared) -> None:
        self._servers = servers
        self._members = members
        self._shared = shared
        self._words: dict[str, list[str]] = {}  # by room, what was said last
        self._have: dict[str, dict[str, Room]] = {}

    # --- rest --------------------------------------------------------------------------------------------------------

    async def settle(self) -> list[str]:
        """Last words in every room, until the servers agree; what they differ over when patience ends."""
        await asyncio.gather(*(member.make_sure() for member in self._members))
        self._load()
        await asyncio.gather(*(self._let_all_in(room_id) for room_id in self._shared.rooms))
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            self._load()
            await asyncio.gather(*(self._say_last_words(room_id) for room_id in self._shared.rooms))
            self._load()
            found = [one for room_id in self._shared.rooms for one in find_disagreements(self._have, room_id)]
            if not found or time.monotonic() > deadline_s:
                return found
            await asyncio.sleep(1.0)

    def _load(self) -> None:
        self._have = {server.name: load_rooms(server.database) for server in self._servers}

    def _joined(self, room_id: str) -> dict[str, list[Stranger]]:
        """Of each server that is in a room, the members there."""
        found: dict[str, list[Stranger]] = {}
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

    async def _wait_for(self, member: Stranger, room_id: str, event_id: str) -> None:
        path = f"{CLIENT}/rooms/{encode(room_id)}/event/{encode(event_id)}"
        deadline_s = time.monotonic() + HEARD_S
        while time.monotonic() < deadline_s:
            status, _ = await member.words.ask("GET", path)
            if status == 200:
                return
            await asyncio.sleep(0.05)

    async def _look_back(self, member: Stranger, room_id: str) -> None:
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
            if not found or time.monotonic() > deadline_s:
                break
            await asyncio.sleep(0.5)
        for member in self._members:
            found += member.afterwards
            for room_id, words in self._words.items():
                found += await self._find_misdirected(member, room_id, words)
        twice = [name for name, count in Counter(self._shared.claimed).items() if count > 1]
        return found + [f"one-time key given out twice: {name}" for name in twice]

    def _find_false_memberships(self, member: Stranger) -> list[str]:
        """Where those who are in a room take a member for something else than the member's own sync says."""
        found = []
        for room_id in self._shared.rooms:
            inside = find_inside(self._have, room_id)
            if (home := member.home) in inside:
                inside = [
                    name for name in inside if name == home or are_together(self._have, room_id, home, name)
                ]
            if not inside:
                continue
            told = (
                "join" if room_id in member.classic.rooms else member.classic.invites.get(room_id, ("",))[0]
            )
            is_so = self._have[inside[0]][room_id].memberships.get(member.user_id)
            so = is_so.word if is_so in _SHOWN else ""
            own = self._have[member.home].get(room_id)
            if told != so and not (own is not None and self._is_untold(member, own, room_id)):
                at_home = None if own is None else own.memberships.get(member.user_id)
                found.append(
                    f"{member.user_id} is told {told!r} of {room_id}, where it is {so!r} ({is_so}; at home {at_home})"
                )
        return found

    def _is_untold(self, member: Stranger, own: Room, room_id: str) -> bool:
        """Whether only one side can know what a member is to a room.

        - Whoever declines an invite while no server of the room answers is out at once; it is told a minute later.
        - Where the answer to an invite got lost, the invited have it, and the room has not.
        """
        invite_id = own.told.get(member.user_id)
        return member.user_id in own.declining or (
            invite_id is not None
            and not any(
                invite_id in rooms[room_id].senders for rooms in self._have.values() if room_id in rooms
            )
        )

    def _sharing(self, member: Stranger) -> list[Stranger]:
        """The others in the rooms that a member is in."""
        rooms = self._have[member.home]
        others = {user_id for room_id in member.classic.rooms for user_id in rooms[room_id].joined}
        return [other for other in self._members if other is not member and other.user_id in others]

    async def _find_old_lists(self, member: Stranger) -> list[str]:
        """Device lists that are others than their owners', although a member of a common room was to be told."""
        found = []
        for owner in self._sharing(member):
            theirs = await _query(owner, owner.user_id)
            kept = member.lists.get(owner.user_id)
            for name, mine in (("kept", kept), ("asked for", await _query(member, owner.user_id))):
                if mine != theirs and not (name == "kept" and mine is None):
                    found.append(f"{member.user_id} has of {owner.user_id} ({name}) {mine} for {theirs}")
        return found

    async def _find_old_profiles(self, member: Stranger) -> list[str]:
        """What is kept of others' profiles is asked for anew when a common room shows another one."""
        found = []
        own = await self._profile(member, member)
        for other in self._sharing(member):
            told = await self._profile(other, member)
            if told != own:
                found.append(f"{other.user_id} is told {told} of {member.user_id}, who has {own}")
        return found

    async def _profile(self, reader: Stranger, member: Stranger) -> Any:
        return await reader.words.insist("GET", f"{CLIENT}/profile/{encode(member.user_id)}")

    async def _find_misdirected(self, member: Stranger, room_id: str, words: list[str]) -> list[str]:
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
            path = f"{CLIENT}/rooms/{encode(room_id)}/event/{encode(event_id)}"
            status, _ = await member.words.ask("GET", path)
            if (status == 200) != is_inside and not (status == 200 and await self._is_open(room_id)):
                found.append(f"{member.user_id} ({is_inside=}) reads {event_id} of {room_id}: {status}")
        return found

    async def _is_open(self, room_id: str) -> bool:
        """Whether anybody may read it."""
        path = f"{CLIENT}/rooms/{encode(room_id)}/state/m.room.history_visibility"
        for members in self._joined(room_id).values():
            status, content = await members[0].words.ask("GET", path)
            if status == 200:
                return bool(content["history_visibility"] == "world_readable")
        return False


_SHOWN = (Membership.JOIN, Membership.INVITE, Membership.KNOCK)


async def _query(member: Stranger, user_id: str) -> Any:
    body: dict[str, Any] = {"device_keys": {user_id: []}}
    answer = await member.words.insist("POST", f"{CLIENT}/keys/query", body)
    return answer["device_keys"].get(user_id)
