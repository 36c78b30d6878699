"""The actors of the active rooms: found or started by room, dropped when idle."""

from __future__ import annotations

from federation.versions import ROOM_VERSIONS
from homeserver.http.errors import MatrixError, not_found
from homeserver.rooms.actor import RoomActor
from homeserver.rooms.committer import Committer
from homeserver.rooms.turn import Policing, RoomTools

IDLE_S = 600.0
ACTORS_MOST = 10_000


class RoomRegistry:
    """One actor per active room. ``find`` answers for rooms that this server knows, ``start`` for a new one."""

    def __init__(self, tools: RoomTools, committer: Committer) -> None:
        self.tools = tools
        self.committer = committer
        self.policing: Policing | None = None  # set by the composition root where there is a network
        self._actors: dict[int, RoomActor] = {}

    def __len__(self) -> int:
        return len(self._actors)

    @property
    def inbox_items(self) -> int:
        """What waits in the inboxes of all rooms."""
        return sum(actor.waiting for actor in self._actors.values())

    def known(self, room_id: str) -> RoomActor | None:
        """The actor of a room if it is active."""
        nid = self.tools.interner.known_room(room_id)
        return self._actors.get(nid) if nid is not None else None

    async def find(self, room_id: str) -> RoomActor:
        """A room's actor; 404 M_NOT_FOUND where this server does not know the room."""
        actor = self.known(room_id)
        if actor is not None:
            return actor
        nid = await self.tools.interner.find_room(room_id)
        version = await self.tools.interner.room_version(nid) if nid is not None else None
        if nid is None or version is None:
            raise not_found("Unknown room")
        return self._keep(nid, room_id, version)

    def start(self, room_id: str, version: str) -> RoomActor:
        """The actor of a room that is being made."""
        actor = self._keep(self.tools.interner.new_room(room_id, version), room_id, version)
        actor.begin()
        return actor

    def _keep(self, nid: int, room_id: str, version: str) -> RoomActor:
        actor = self._actors.get(nid)
        if actor is None:
            if version not in ROOM_VERSIONS:
                raise MatrixError(
                    400, "M_UNSUPPORTED_ROOM_VERSION", f"Room version {version} is not supported"
                )
            if len(self._actors) >= ACTORS_MOST:
                self.drop_idle(0.0)
            actor = self._actors[nid] = RoomActor(
                nid, room_id, version, self.tools, self.committer, self.policing
            )
        return actor

    def drop_idle(self, older_than_s: float = IDLE_S) -> int:
        """Forget actors that nobody has used for a while; says how many. Called now and then by a timer."""
        before = self.tools.clock.monotonic() - older_than_s
        idle = [nid for nid, actor in self._actors.items() if actor.idle and actor.last_used_s <= before]
        for nid in idle:
            del self._actors[nid]
        return len(idle)
