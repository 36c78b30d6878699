"""Rooms that those in charge close for this server: everybody of ours is made to leave, and nobody finds the room any more.

It is done by what anybody does: a block, leaves, aliases that go. It may be stopped anywhere and begun anew: who was in the
room is written down before the first of them leaves, and what has come of it is stored with what is done.

The room's history stays on the disk. What is in it belongs to other servers' members too, other rooms' events name it,
and half of it gone would be worse than all of it there: so nothing is purged, and the result says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from federation.builder import Draft
from federation.ids import RoomId, UserId
from homeserver.accounts.types import Requester, stand_in
from homeserver.db.tx import WriteTx
from homeserver.http.errors import MatrixError, invalid_param
from homeserver.rooms.blocks import RoomBlocks
from homeserver.rooms.create import NewRoom, RoomCreator
from homeserver.rooms.membership import Memberships
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.send import Sender
from homeserver.rooms.turn import Turn
from homeserver.runtime.log import Log
from homeserver.store.aliases import delete_alias, load_room_aliases, move_aliases
from homeserver.store.directory import set_published
from homeserver.store.members import forget_room
from homeserver.store.moderation_tasks import Task, set_result
from homeserver.store.placement import ENDED, Membership
from homeserver.store.room_listing import LocalMember, load_local_members_of
from homeserver.store.users import load_account
from homeserver.stream.index import MembershipIndex

_PRESENT: Final = (Membership.JOIN, Membership.INVITE, Membership.KNOCK)
# In the new room the members are told something, and not asked.
_SILENT: Final = -10
_MESSAGE: Final = "m.room.message"

Save = Callable[[dict[str, Any]], Awaitable[None]]


class RoomShutdowns:
    """See the module."""

    def __init__(
        self,
        rooms: RoomRegistry,
        index: MembershipIndex,
        blocks: RoomBlocks,
        creator: RoomCreator,
        memberships: Memberships,
        sender: Sender,
        log: Log,
    ) -> None:
        self._rooms = rooms
        self._tools = rooms.tools
        self._worker = rooms.committer
        self._index = index
        self._blocks = blocks
        self._creator = creator
        self._memberships = memberships
        self._sender = sender
        self._log = log

    async def run(self, task: Task, save: Save) -> None:
        """Do a task of TaskKind.DELETE_ROOM. Its wishes: block, new_room_user_id (None: no new room), room_name, message.

        Its result: kicked_users, failed_to_kick_users, local_aliases, new_room_id; and for itself members (those who were in
        the room, whom the new one is for).
        """
        room_id, result = RoomId(task.subject), dict(task.result)
        room_nid = await self._tools.interner.room(room_id)
        if task.wishes["block"]:
            await self._blocks.block(await self._user(task.by_nid), room_id)
        leader = await self._leader(task)
        if leader is not None:
            await self._make_new_room(task, result, leader)
        if "local_aliases" not in result:
            new_id = result.get("new_room_id")
            new_nid = None if new_id is None else await self._tools.interner.room(new_id)
            result["local_aliases"] = await self._worker.work(
                _unname, task.task_id, dict(result), room_nid, new_nid
            )
        await self._empty(room_id, room_nid, result, save)
        if leader is not None:
            await self._move(RoomId(result["new_room_id"]), result, leader)
        await self._worker.work(_forget, room_nid)

    async def _leader(self, task: Task) -> Requester | None:
        """In whose name the new room is made."""
        user_id = task.wishes["new_room_user_id"]
        if user_id is None:
            return None
        leader = await self._user(await self._tools.interner.user(user_id))
        if leader.user_id != user_id:
            raise invalid_param("The user of the new room has no account")
        return leader

    async def _user(self, user_nid: int) -> Requester:
        account = await self._tools.database.read(load_account, user_nid)
        if account is None:
            raise invalid_param("There is no such account")
        return stand_in(account.user_id, user_nid, is_guest=bool(account.guest))

    # --- the new room --------------------------------------------------------------------------------

    async def _make_new_room(self, task: Task, result: dict[str, Any], leader: Requester) -> None:
        wishes = task.wishes
        if "new_room_id" not in result:
            wanted = NewRoom(
                name=wishes["room_name"],
                preset="private_chat",
                power_override={"users_default": _SILENT},
            )
            finish = partial(_note_new_room, task_id=task.task_id, result=dict(result))
            result["new_room_id"] = await self._creator.create(leader, wanted, finish)
        content = {"msgtype": "m.text", "body": wishes["message"]}
        draft = Draft(RoomId(result["new_room_id"]), _MESSAGE, UserId(leader.user_id), content)
        # By its transaction it is sent once, however often it is tried.
        await self._sender.send(leader, draft, task.task_id)

    async def _move(self, new_id: RoomId, result: dict[str, Any], leader: Requester) -> None:
        """Bring those who were members into the new room, unless they were there already."""
        new_nid = await self._tools.interner.room(new_id)
        for user_id in result["members"]:
            user_nid = await self._tools.interner.user(user_id)
            standing = self._index.standing(user_nid, new_nid)
            if user_id == leader.user_id or (
                standing is not None and standing.membership in (*ENDED, Membership.JOIN)
            ):
                continue
            account = await self._tools.database.read(load_account, user_nid)
            if account is None or account.deactivated or account.guest:
                continue
            try:
                await self._memberships.invite(leader, new_id, UserId(user_id))
                await self._memberships.join(stand_in(user_id, user_nid), new_id)
            except MatrixError as error:
                _raise_if_passing(error)
                # Who wants no invites of the leader is not moved.
                self._log.info(
                    "not moved to the new room", user_id=user_id, room_id=new_id, reason=str(error)
                )

    # --- the old room --------------------------------------------------------------------------------

    async def _empty(self, room_id: RoomId, room_nid: int, result: dict[str, Any], save: Save) -> None:
        """Let everybody of this server leave the room, and give up their invites and knocks."""
        kicked, failed = list(result.get("kicked_users", ())), set[str]()
        members = list(result.get("members", ()))
        while present := [one for one in await self._present(room_id, room_nid) if one.user_id not in failed]:
            joined = [one.user_id for one in present if one.membership is Membership.JOIN]
            kicked = list(dict.fromkeys([*kicked, *(one.user_id for one in present)]))
            members = list(dict.fromkeys([*members, *joined]))
            result.update(kicked_users=kicked, members=members, failed_to_kick_users=[])
            await save(result)
            for one in present:
                problem = await self._leave(room_id, one)
                if problem is not None:
                    failed.add(one.user_id)
                    self._log.warning(
                        "not put out of a room", user_id=one.user_id, room_id=room_id, problem=problem
                    )
        result.update(
            kicked_users=[user_id for user_id in kicked if user_id not in failed],
            members=members,
            failed_to_kick_users=sorted(failed),
        )
        await save(result)

    async def _present(self, room_id: RoomId, room_nid: int) -> list[LocalMember]:
        actor = self._rooms.known(room_id)
        if actor is not None:
            await actor.run(_after_others)
        # Whatever was on its way in the room is stored with this, or before it.
        await self._worker.work(_nothing)
        members = await self._tools.database.read(load_local_members_of, room_nid)
        return [one for one in members if one.membership in _PRESENT]

    async def _leave(self, room_id: RoomId, member: LocalMember) -> str | None:
        """Why somebody could not be made to leave; None: they have left."""
        try:
            await self._memberships.leave(stand_in(member.user_id, member.user_nid), room_id)
        except MatrixError as error:
            _raise_if_passing(error)
            return error.error
        return None


def _raise_if_passing(error: MatrixError) -> None:
    """What may be otherwise in a while ends nothing."""
    if error.passes:
        raise error


async def _after_others(_turn: Turn) -> None:
    """A turn in which nothing happens comes after all that were asked for before."""


def _nothing(_tx: WriteTx) -> None:
    """A unit of work that is done after all that were asked for before."""


def _note_new_room(tx: WriteTx, *, room_id: RoomId, task_id: str, result: dict[str, Any]) -> None:
    set_result(tx, task_id, {**result, "new_room_id": room_id})


def _unname(
    tx: WriteTx, task_id: str, result: dict[str, Any], room_nid: int, new_nid: int | None
) -> list[str]:
    """The room's aliases go, or lead to the new one; the directory does not list it any more."""
    names = load_room_aliases(tx, room_nid)
    if new_nid is None:
        for name in names:
            delete_alias(tx, name)
    else:
        move_aliases(tx, room_nid, new_nid)
    set_published(tx, room_nid, False)
    set_result(tx, task_id, {**result, "local_aliases": names})
    return names


def _forget(tx: WriteTx, room_nid: int) -> None:
    """Nobody of this server is shown the room any more."""
    for one in load_local_members_of(tx, room_nid):
        if one.membership in ENDED and not one.forgotten:
            forget_room(tx, one.user_nid, room_nid)
