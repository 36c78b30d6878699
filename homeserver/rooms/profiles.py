"""A changed name or picture goes into the user's rooms, in the background, one room after the other.

A change while rooms are still being told of the one before does not start a second round beside it: the round that
runs begins again, so a thousand changes in a row cost the rooms a few.
spec: client-server-api#events-on-change-of-profile-information
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from federation.auth.select import AUTHORISED_BY
from federation.builder import Draft
from federation.ids import UserId
from homeserver.http.errors import MatrixError
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import Turn
from homeserver.rooms.types import Requester
from homeserver.runtime.log import Log
from homeserver.store.profiles import load_names_and_avatars
from homeserver.stream.index import MembershipIndex

_MEMBER = "m.room.member"
_SHOWN = ("displayname", "avatar_url")
# What belongs to the moment of joining, and not to the member.
_OF_THE_JOIN = frozenset({"reason", "is_direct", "third_party_invite", AUTHORISED_BY})


class Spawner(Protocol):
    """The part of a task group that this module needs."""

    def spawn(self, name: str, work: Coroutine[Any, Any, object]) -> object: ...


class RoomProfiles:
    """Member events that follow profiles. ``changed`` is a ``ProfileHook`` and returns at once."""

    def __init__(self, rooms: RoomRegistry, index: MembershipIndex, tasks: Spawner, log: Log) -> None:
        self._rooms = rooms
        self._index = index
        self._tasks = tasks
        self._log = log
        self._again: dict[int, bool] = {}  # users with a round under way -> whether it must begin again

    async def changed(self, requester: Requester, field: str, _: Any) -> None:
        """Tell the user's rooms, soon."""
        if field not in _SHOWN:
            return
        if requester.user_nid in self._again:
            self._again[requester.user_nid] = True
            return
        self._again[requester.user_nid] = False
        self._tasks.spawn("profile to rooms", self._tell(UserId(requester.user_id), requester.user_nid))

    async def _tell(self, user_id: UserId, user_nid: int) -> None:
        try:
            while True:
                self._again[user_nid] = False
                await self._tell_once(user_id, user_nid)
                if not self._again[user_nid]:
                    return
        finally:
            del self._again[user_nid]

    async def _tell_once(self, user_id: UserId, user_nid: int) -> None:
        tools = self._rooms.tools
        profile = (await tools.database.read(load_names_and_avatars, [user_nid])).get(user_nid, {})
        names = await tools.interner.room_names(self._index.joined_rooms(user_nid))
        for room_id in names.values():
            if self._again[user_nid]:
                return
            try:
                await self._update(room_id, user_id, profile)
            except MatrixError as error:
                # A full inbox, or a room that the rules closed to its own members: the others still want to know.
                self._log.warning(
                    "profile not set in a room", user_id=user_id, room_id=room_id, error=str(error)
                )

    async def _update(self, room_id: str, user_id: UserId, profile: Mapping[str, Any]) -> None:
        actor = await self._rooms.find(room_id)

        async def job(turn: Turn) -> None:
            member = await turn.state(_MEMBER, user_id)
            if member is None or member.content.get("membership") != "join":
                return
            shown = await turn.content(_MEMBER, user_id)
            content = _with_profile(shown or member.content, profile)
            if content is not None:
                await turn.place(Draft(member.room_id, _MEMBER, user_id, content, user_id))

        await actor.run(job)


def _with_profile(content: Mapping[str, Any], profile: Mapping[str, Any]) -> dict[str, Any] | None:
    """A member event's content with another profile; None where it shows that one already."""
    wanted = {key: value for key in _SHOWN if (value := profile.get(key)) is not None}
    if {key: content[key] for key in _SHOWN if key in content} == wanted:
        return None
    kept = {key: value for key, value in content.items() if key not in _OF_THE_JOIN and key not in _SHOWN}
    return {**kept, **wanted}
