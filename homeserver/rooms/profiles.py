"""A changed name or picture goes into the user's rooms, in the background, one room after the other.

It follows the log, so that the rooms hear of it even if the process ends meanwhile: what was done before is left alone.
Several changes that come while rooms are being told of an earlier one are told together, so a thousand changes in a row
cost the rooms a few.
spec: client-server-api#events-on-change-of-profile-information
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from federation.auth.select import AUTHORISED_BY
from federation.builder import Draft
from federation.ids import UserId
from homeserver.http.errors import MatrixError
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import Turn
from homeserver.runtime.log import Log
from homeserver.store.changes import Change, Kind
from homeserver.store.profiles import ProfileChanged, load_profile
from homeserver.store.remote_profiles import SHOWN
from homeserver.stream.followers import Follower
from homeserver.stream.index import MembershipIndex

FOLLOWER = "room profiles"
_MEMBER = "m.room.member"
# What belongs to the moment of joining, and not to the member.
_OF_THE_JOIN = frozenset({"reason", "is_direct", "third_party_invite", AUTHORISED_BY})


class StoppingError(Exception):
    """The server stops; the next process goes on."""


class RoomProfiles:
    """Member events that follow profiles. ``handle`` is a follower: it may see its last changes again."""

    def __init__(
        self, rooms: RoomRegistry, index: MembershipIndex, is_stopping: Callable[[], bool], log: Log
    ) -> None:
        self._rooms = rooms
        self._index = index
        self._is_stopping = is_stopping
        self._log = log

    @property
    def follower(self) -> Follower:
        """To be told of changes."""
        return Follower(FOLLOWER, self.handle, kinds=frozenset({Kind.PROFILE}))

    async def handle(self, changes: Sequence[Change]) -> None:
        """Tell the rooms of users whose profiles have changed."""
        for user_nid in dict.fromkeys(-change.topic for change in changes if _is_shown(change)):
            await self._tell(user_nid)

    async def _tell(self, user_nid: int) -> None:
        tools = self._rooms.tools
        rooms = self._index.joined_rooms(user_nid)
        profile = await tools.database.read(load_profile, user_nid) if rooms else None
        if profile is None:
            return  # nobody is there to be told, or the account is closed: then it leaves its rooms
        user_id = (await tools.interner.user_names([user_nid]))[user_nid]
        for room_id in (await tools.interner.room_names(rooms)).values():
            if self._is_stopping():
                raise StoppingError
            try:
                await self._update(room_id, UserId(user_id), profile)
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


def _is_shown(change: Change) -> bool:
    """Whether it is of a profile, and as far as is known of what rooms show of that."""
    if change.kind != Kind.PROFILE:
        return False
    changed: ProfileChanged | None = change.payload
    return changed is None or changed.field in SHOWN


def _with_profile(content: Mapping[str, Any], profile: Mapping[str, Any]) -> dict[str, Any] | None:
    """A member event's content with another profile; None where it shows that one already."""
    wanted = {key: value for key in SHOWN if (value := profile.get(key)) is not None}
    if {key: content[key] for key in SHOWN if key in content} == wanted:
        return None
    kept = {key: value for key, value in content.items() if key not in _OF_THE_JOIN and key not in SHOWN}
    return {**kept, **wanted}
