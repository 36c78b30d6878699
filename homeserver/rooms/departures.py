"""Deactivated users leave their rooms, reject their invites and take back their knocks, in the background.

Crash-safe without a list of its own: what is left to do is "accounts that are deactivated and still in rooms", which
is looked up again at the start of the server. Rooms are left one after the other, each in a turn of its own; what a
full inbox, an absent database or a silent policy server refuses is tried again, later and later, after the other rooms.

Who has no account any more may still come to be in a room: another server took a join of theirs and its answer got lost,
or a resolution undid their leave. So whoever is gone stays known, and leaves again.
spec: client-server-api#post_matrixclientv3accountdeactivate
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from federation.builder import Draft
from federation.ids import RoomId, UserId
from homeserver.http.errors import MatrixError
from homeserver.rooms.federated.remote import RemoteMemberships
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import Turn
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.changes import Change, Kind
from homeserver.store.placement import MOVING, Membership, moves_of
from homeserver.store.users import load_account, load_deactivated
from homeserver.stream.index import MembershipIndex

_MEMBER = "m.room.member"
_PRESENT = frozenset({Membership.JOIN, Membership.INVITE, Membership.KNOCK})
_PRESENT_WORDS = frozenset({"join", "invite", "knock"})
# What is refused for now may be so for days, where a policy server is away.
LONGEST_WAIT_S = 600.0


class Departures:
    """``apply`` follows the log, after the membership index; ``start`` goes on with what an earlier process began."""

    def __init__(
        self,
        rooms: RoomRegistry,
        index: MembershipIndex,
        remote: RemoteMemberships,
        tasks: TaskGroup,
        log: Log,
    ) -> None:
        self._rooms = rooms
        self._tools = rooms.tools
        self._index = index
        self._remote = remote
        self._tasks = tasks
        self._log = log
        self._leaving: set[int] = set()
        self._gone: set[int] = set()  # whose accounts are deactivated

    def start(self) -> None:
        """Look for deactivated users who are still in rooms."""
        self._tasks.spawn_restarting("departures left over", self._resume)

    kinds = MOVING | {Kind.ACCOUNT}  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log. Another process's changes of accounts do not say what became of them: it is looked up."""
        for change in changes:
            if change.kind == Kind.ACCOUNT:
                if change.payload is None or change.payload.what == "deactivated":
                    self._begin(-change.topic)
            elif self._gone:
                for move in moves_of(change):
                    if move.member_nid in self._gone and move.membership in _PRESENT:
                        self._begin(move.member_nid)

    def _begin(self, user_nid: int) -> None:
        if self._tasks.stopped:
            return  # the next start looks for who is left
        if user_nid not in self._leaving:
            self._leaving.add(user_nid)
            make_work = partial(self._depart, user_nid)
            self._tasks.spawn_restarting("departure", make_work, longest_wait_s=LONGEST_WAIT_S)

    def _rooms_to_leave(self, user_nid: int) -> list[int]:
        rooms = self._index.rooms_of(user_nid)
        return sorted(nid for nid, standing in rooms.items() if standing.membership in _PRESENT)

    async def _resume(self) -> None:
        for user_nid in await self._tools.database.read(load_deactivated):
            self._gone.add(user_nid)
            if self._rooms_to_leave(user_nid):
                self._begin(user_nid)

    async def _depart(self, user_nid: int) -> None:
        account = await self._tools.database.read(load_account, user_nid)
        if account is not None and account.deactivated:
            self._gone.add(user_nid)
            refused: set[int] = set()
            later: MatrixError | None = None
            # Again, until there is none: a join may have been under way when the account ended.
            while remaining := [nid for nid in self._rooms_to_leave(user_nid) if nid not in refused]:
                names = await self._tools.interner.room_names(remaining)
                for room_nid in remaining:
                    try:
                        await self._leave(user_nid, RoomId(names[room_nid]), UserId(account.user_id))
                    except MatrixError as error:
                        later = error
                    standing = self._index.standing(user_nid, room_nid)
                    if standing is not None and standing.membership in _PRESENT:
                        refused.add(room_nid)
            if later is not None:
                raise later
        # Not after a failure: the task runs again, and is still the one that does this user.
        self._leaving.discard(user_nid)

    async def _leave(self, user_nid: int, room_id: RoomId, user_id: UserId) -> None:
        if await self._remote.leave(user_id, user_nid, room_id, {}):
            return
        actor = await self._rooms.find(room_id)

        async def job(turn: Turn) -> None:
            member = await turn.state(_MEMBER, user_id)
            if member is not None and member.content.get("membership") in _PRESENT_WORDS:
                await turn.place(Draft(room_id, _MEMBER, user_id, {"membership": "leave"}, user_id))

        try:
            await actor.run(job)
        except MatrixError as error:
            if error.passes:
                raise
            # The rules let everybody leave; should a room's state be so broken that they do not, the others matter.
            self._log.warning("room not left", user_id=user_id, room_id=room_id, error=str(error))
