"""Guests leave a room that does not admit them any more.

Crash-safe as departures are: "guests who are in rooms that do not admit them" is looked up again at the start of the
server. Each room is looked at in a turn of its own, so the room's state decides, whatever moved it.
spec: client-server-api#guest-access
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from federation.builder import Draft
from federation.ids import RoomId, UserId
from homeserver.http.errors import MatrixError
from homeserver.rooms.departures import LONGEST_WAIT_S
from homeserver.rooms.federated.guest_joins import GUEST_ACCESS, admits_guests
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import Turn
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.changes import Change, Kind
from homeserver.store.placement import MOVING
from homeserver.store.users import load_guests, load_guests_among
from homeserver.stream.index import MembershipIndex

_MEMBER = "m.room.member"


class GuestDepartures:
    """``apply`` follows the log, after the membership index; ``start`` goes on with what an earlier process began."""

    def __init__(self, rooms: RoomRegistry, index: MembershipIndex, tasks: TaskGroup, log: Log) -> None:
        self._rooms = rooms
        self._tools = rooms.tools
        self._index = index
        self._tasks = tasks
        self._log = log
        self._looking: set[int] = set()
        self._again: set[int] = set()  # of those, where something has changed meanwhile
        self._some = False  # whether this server has a guest: most have none, and look at nothing

    def start(self) -> None:
        """Look for guests who are where they are not admitted."""
        self._tasks.spawn_restarting("guests left over", self._resume)

    kinds = MOVING | {Kind.ACCOUNT}  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log: whatever may have moved a room's guest access has the room looked at."""
        for change in changes:
            if change.kind == Kind.ACCOUNT:
                self._some |= change.payload is None or change.payload.guest
            elif not self._some:
                continue
            elif change.kind == Kind.EVENT:
                placed = change.payload
                # Of another process's event, and where forks met, it is not known what moved.
                if (
                    placed is None
                    or placed.event.type == GUEST_ACCESS
                    or placed.redacts_target is not None
                    or len(placed.moves) > 1
                ):
                    self._begin(change.topic)
            elif change.kind == Kind.STATE_MOVED:
                self._begin(change.topic)

    def _begin(self, room_nid: int) -> None:
        if self._tasks.stopped:
            return  # the next start looks at every room with guests
        if room_nid in self._looking:
            self._again.add(room_nid)
        elif self._index.local_members(room_nid):
            self._looking.add(room_nid)
            make_work = partial(self._look, room_nid)
            self._tasks.spawn_restarting("guests of a room", make_work, longest_wait_s=LONGEST_WAIT_S)

    async def _resume(self) -> None:
        rooms: set[int] = set()
        for user_nid in await self._tools.database.read(load_guests):
            self._some = True
            rooms.update(self._index.joined_rooms(user_nid))
        for room_nid in sorted(rooms):
            self._begin(room_nid)

    async def _look(self, room_nid: int) -> None:
        self._again.add(room_nid)
        while room_nid in self._again:
            # A change that comes from here on has the room looked at again.
            self._again.discard(room_nid)
            await self._put_out(room_nid)
        # Not after a failure: the task runs again, and is still the one that does this room.
        self._looking.discard(room_nid)

    async def _put_out(self, room_nid: int) -> None:
        members = sorted(self._index.local_members(room_nid))
        guests = await self._tools.database.read(load_guests_among, members)
        if not guests:
            return
        room_id = RoomId((await self._tools.interner.room_names([room_nid]))[room_nid])
        actor = await self._rooms.find(room_id)
        later: MatrixError | None = None
        for user_id in guests:
            try:
                await actor.run(partial(_leave, room_id=room_id, user_id=UserId(user_id)))
            except MatrixError as error:
                if error.passes:
                    later = error
                    continue
                self._log.warning("guest not put out", room_id=room_id, user_id=user_id, error=str(error))
        if later is not None:
            raise later


async def _leave(turn: Turn, *, room_id: RoomId, user_id: UserId) -> None:
    if admits_guests(await turn.content(GUEST_ACCESS)):
        return
    member = await turn.state(_MEMBER, user_id)
    if member is not None and member.content.get("membership") == "join":
        await turn.place(Draft(room_id, _MEMBER, user_id, {"membership": "leave"}, user_id))
