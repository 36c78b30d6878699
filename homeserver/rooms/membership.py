"""Joining, inviting, knocking, leaving, kicking, banning and forgetting, by local users.

What a room's rules allow is decided by the authorisation rules when the event is placed; here is only what they do
not know: idempotence, profiles, restricted joins, guests, and what the endpoints promise beyond the rules.
spec: client-server-api#room-membership
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from federation.auth.select import AUTHORISED_BY
from federation.builder import Draft
from federation.canonical import encode_checked
from federation.errors import Malformed
from federation.event import check_size
from federation.ids import RoomId, ServerName, UserId, parse_room_id, parse_user_id, parse_user_id_historical
from federation.versions import ROOM_VERSIONS
from homeserver.accounts.types import stand_in
from homeserver.db.tx import WriteTx
from homeserver.http.errors import MatrixError, bad_json, forbidden, not_found
from homeserver.rooms.actor import RoomActor
from homeserver.rooms.blocks import RoomBlocks
from homeserver.rooms.create import member_content
from homeserver.rooms.federated.guest_joins import GUEST_ACCESS, admits_guests, guests_forbidden
from homeserver.rooms.federated.remote import RemoteMemberships
from homeserver.rooms.federated.restricted import NobodyHereError, RestrictedJoins, is_restricted
from homeserver.rooms.invites import InviteGate
from homeserver.rooms.profiles import RoomProfiles
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.send import place_news
from homeserver.rooms.succession import Succession
from homeserver.rooms.third_party import Proof, accept_offer, redeem
from homeserver.rooms.turn import Finish, Turn, finished
from homeserver.rooms.types import Requester
from homeserver.store.members import find_member, forget_room
from homeserver.store.placement import ENDED, MEMBERSHIPS, ClientTransaction, Membership
from homeserver.store.profiles import load_names_and_avatars
from homeserver.store.users import load_account
from homeserver.store.work import Worker

_MEMBER = "m.room.member"
_JOIN_RULES = ("m.room.join_rules", "")
_CREATE = ("m.room.create", "")
T = TypeVar("T")


def _says(stored: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    """Whether a join says this already; who let the user in is not theirs to say."""
    return {key: value for key, value in stored.items() if key != AUTHORISED_BY} == content


class _NotHereError(MatrixError):
    """This server is not in the room any more: what it knows of it is of the past, and only others can let anybody in."""

    def __init__(self) -> None:
        super().__init__(403, "M_FORBIDDEN", "You are not in this room")


class Memberships:
    """The membership endpoints' work."""

    def __init__(
        self,
        rooms: RoomRegistry,
        worker: Worker,
        restricted: RestrictedJoins,
        invites: InviteGate,
        blocks: RoomBlocks,
        succession: Succession,
        remote: RemoteMemberships,
        profiles: RoomProfiles,
        is_valid: Callable[[str, str], Awaitable[bool]],
    ) -> None:
        self._is_valid = is_valid
        self._rooms = rooms
        self._tools = rooms.tools
        self._worker = worker
        self._restricted = restricted
        self._invites = invites
        self._blocks = blocks
        self._succession = succession
        self._remote = remote
        self._profiles = profiles

    # --- the requester's own membership --------------------------------------------------------------

    async def join(
        self,
        requester: Requester,
        room_id: RoomId,
        reason: str | None = None,
        *,
        is_guest: bool = False,
        proof: Proof | None = None,
        via: Sequence[ServerName] = (),
    ) -> RoomId:
        """Join a room; 200 again for who is in it already. ``via``: servers that may be in it, if this one is not."""
        # spec: client-server-api#post_matrixclientv3roomsroomidjoin
        since = self._profiles.position
        content = member_content("join", await self._profile(requester.user_nid), reason=reason)

        async def join_here(came: bool) -> RoomId | None:
            async def run(proof: Proof | None) -> RoomId | None:
                return await self._join_here(
                    requester, room_id, content, came=came, is_guest=is_guest, proof=proof
                )

            return await (run(None) if proof is None else redeem(self._is_valid, proof, run))

        predecessor_id, came = await self._enter(
            requester, room_id, content, join_here, via, is_guest=is_guest, proof=proof
        )
        if predecessor_id is not None:
            room_nid = await self._tools.interner.room(room_id)
            await self._succession.follow(requester.user_nid, predecessor_id, room_nid, first=came)
        await self._profiles.catch_up(room_id, requester, since)
        return room_id

    async def _enter(
        self,
        requester: Requester,
        room_id: RoomId,
        content: dict[str, Any],
        join_here: Callable[[bool], Awaitable[T]],
        via: Sequence[ServerName] = (),
        *,
        is_guest: bool = False,
        proof: Proof | None = None,
    ) -> tuple[T, bool]:
        """Have a user join here, or first through another server: where this one is not in the room, or nobody here may
        let the user in.

        ``join_here`` is told whether another server has let them in. What it gives, and that.
        """
        came = is_unable = False
        while True:
            if not came and (is_unable or not await self._remote.is_here(room_id)):
                came = await self._join_elsewhere(
                    requester,
                    room_id,
                    content,
                    via,
                    # Of a guest, the room's own state has said here that it admits them.
                    is_guest=is_guest and not is_unable,
                    proof=None if is_unable else proof,
                )
                is_unable = False
                if not came:
                    continue  # somebody else's join was waited for: it is seen anew where the room stands
            try:
                return await join_here(came), came
            except NobodyHereError:
                if came or not await self._remote.servers(requester.user_nid, room_id, via):
                    raise
                is_unable = True
            except _NotHereError:
                if came:
                    raise  # they were put out again already

    async def _join_elsewhere(
        self,
        requester: Requester,
        room_id: RoomId,
        content: dict[str, Any],
        via: Sequence[ServerName],
        *,
        is_guest: bool,
        proof: Proof | None,
    ) -> bool:
        """Join through another server; where the room was blocked meanwhile, leave it again.

        False where somebody else's join was under way: it is over, and the user has not been tried.
        """
        if await self._remote.under_way(room_id):
            return False
        await self._blocks.check(room_id)
        if proof is not None:
            await self._remote.accept_offer(requester, room_id, proof)
        if not await self._remote.join(requester, room_id, content, via, is_guest=is_guest):
            return False
        try:
            await self._blocks.check(room_id)
        except MatrixError:
            await self.leave(requester, room_id)
            raise
        return True

    async def _join_here(
        self,
        requester: Requester,
        room_id: RoomId,
        content: dict[str, Any],
        *,
        came: bool = False,
        is_guest: bool = False,
        proof: Proof | None = None,
    ) -> RoomId | None:
        """Join a room that this server is in; the room that it replaced. ``came``: another server let the user in."""
        if not came and not await self._remote.has_joined(requester.user_nid, room_id):
            await self._remote.whole(room_id)
        actor = await self._rooms.find(room_id)
        user_id = UserId(requester.user_id)

        async def job(turn: Turn) -> RoomId | None:
            await turn.load([_CREATE, _JOIN_RULES, (_MEMBER, user_id)])
            create = turn.lookup(*_CREATE)
            if create is None:
                raise not_found("Unknown room")
            before = _membership(turn, user_id)
            if before == "join":
                return _predecessor(create.content) if came else None
            self._check_here(turn)
            # Here, where nobody comes between: whoever empties a blocked room finds all who were faster.
            self._blocks.check_nid(turn.head.room_nid)
            if is_guest:
                await _check_guest(turn)
            if proof is not None and before not in ("invite", "ban"):
                await accept_offer(turn, room_id, user_id, proof)
                before = "invite"
            await self._vouch(turn, requester.user_nid, before, content)
            await turn.place(_draft(room_id, user_id, user_id, content))
            return _predecessor(create.content)

        return await actor.run(job)

    async def _vouch(self, turn: Turn, user_nid: int, before: Any, content: dict[str, Any]) -> None:
        """Name in a join who lets the user in, where the room asks for that; refuses who meets no condition.

        Only the server may say so: it signs the event in that member's name.
        """
        content.pop(AUTHORISED_BY, None)
        join_rules = await turn.state(*_JOIN_RULES)
        if (
            join_rules is None
            or before in ("join", "invite", "ban")
            or not is_restricted(join_rules, turn.head.rules)
        ):
            return
        content[AUTHORISED_BY] = await self._restricted.authorise(turn, join_rules, user_nid)

    async def set_member(
        self, draft: Draft, finish: Finish | None = None, transaction: ClientTransaction | None = None
    ) -> str:
        """Set a member event as a client wrote it (``PUT /state/m.room.member/…``); the event id.

        ``finish`` is stored with the event; where another server must take it first (an invite of its user, a knock), after it.

        What the other methods see to holds here too: invite blocking, restricted joins, guests, upgraded rooms, and
        that who joins or knocks where nobody of this server is does so through another one.
        """
        # spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey
        room_id = draft.room_id
        assert room_id is not None and draft.state_key is not None
        # Who is invited needs a name that may appear outside events; who is put out has whatever name they came with.
        # spec: appendices#historical-user-ids
        membership = draft.content.get("membership")
        if not isinstance(membership, str) or membership not in MEMBERSHIPS:
            raise bad_json(f"membership must be one of {', '.join(MEMBERSHIPS)}")
        is_invite = membership == "invite"
        target_id = (parse_user_id if is_invite else parse_user_id_historical)(draft.state_key)
        content = {key: value for key, value in draft.content.items() if key != AUTHORISED_BY}
        draft = replace(draft, content=content)
        actor = await self._find(room_id)
        if is_invite:
            await self._invites.check(draft.sender, [target_id])
            if not self._remote.is_local(target_id):
                await self._blocks.check(room_id)
                return await self._finish(await self._remote.invite(actor, draft), finish)
        elif target_id == draft.sender and membership in ("join", "knock"):
            # Made by another server's template, it is too late to say what is wrong with it.
            check_size(encode_checked(content, strict=ROOM_VERSIONS[actor.version].strict_canonical_json))
            requester = stand_in(draft.sender, await self._tools.interner.user(draft.sender))
            if membership == "join":
                return await self._join_as_state(requester, actor, draft, finish, transaction)
            if not await self._remote.is_here(room_id):
                await self._blocks.check(room_id)
                return await self._finish(await self._remote.knock(requester, room_id, content), finish)

        async def job(turn: Turn) -> str:
            await turn.load([(_MEMBER, target_id)])
            if is_invite and _membership(turn, target_id) != "join":
                self._blocks.check_nid(turn.head.room_nid)
            if membership == "knock":
                self._check_here(turn)
            return finished(turn, await place_news(turn, draft, transaction), finish)

        return await actor.run(job)

    async def _finish(self, event_id: str, finish: Finish | None) -> str:
        """The event went through another server; what belongs to it is stored now."""
        if finish is not None:
            await self._worker.work(finish, event_id)
        return event_id

    async def _join_as_state(
        self,
        requester: Requester,
        actor: RoomActor,
        draft: Draft,
        finish: Finish | None,
        transaction: ClientTransaction | None,
    ) -> str:
        """A user's join of a room, or what else they say of themselves there, as they wrote it."""
        room_id, user_id, user_nid = RoomId(actor.room_id), draft.sender, requester.user_nid
        content = dict(draft.content)
        account = await self._tools.database.read(load_account, user_nid)
        is_guest = account is not None and bool(account.guest)

        async def join_here(came: bool) -> tuple[str, RoomId | None]:
            async def job(turn: Turn) -> tuple[str, RoomId | None]:
                await turn.load([_CREATE, (_MEMBER, user_id)])
                create, member = turn.lookup(*_CREATE), turn.lookup(_MEMBER, user_id)
                before = _membership(turn, user_id)
                if before != "join":
                    self._check_here(turn)
                    self._blocks.check_nid(turn.head.room_nid)
                    if is_guest:
                        await _check_guest(turn)
                if (
                    before == "join"
                    and member is not None
                    and (came or (transaction is not None and _says(member.content, content)))
                ):
                    # It is what was asked for; also where that is asked anew, since the process ended in between.
                    event_id: str = member.event_id
                else:
                    await self._vouch(turn, user_nid, before, content)
                    event_id = await place_news(turn, replace(draft, content=content), transaction)
                comes = came or before != "join"
                predecessor_id = _predecessor(create.content) if comes and create is not None else None
                return finished(turn, event_id, finish), predecessor_id

            if not came:
                await self._remote.whole(room_id)
            return await actor.run(job)

        (event_id, predecessor_id), came = await self._enter(
            requester, room_id, content, join_here, is_guest=is_guest
        )
        if predecessor_id is not None:
            await self._succession.follow(user_nid, predecessor_id, actor.room_nid, first=came)
        return event_id

    async def knock(
        self,
        requester: Requester,
        room_id: RoomId,
        reason: str | None = None,
        via: Sequence[ServerName] = (),
    ) -> RoomId:
        """Ask to be let in."""
        # spec: client-server-api#post_matrixclientv3knockroomidoralias
        await self._blocks.check(room_id)
        content = member_content("knock", await self._profile(requester.user_nid), reason=reason)
        if not await self._remote.is_here(room_id):
            await self._remote.knock(requester, room_id, content, via)
            return room_id
        await self._remote.whole(room_id)
        actor = await self._rooms.find(room_id)
        user_id = UserId(requester.user_id)

        async def job(turn: Turn) -> None:
            if await turn.state(*_CREATE) is None:
                raise not_found("Unknown room")
            if not turn.head.rules.knock:
                raise forbidden("You cannot knock on rooms of this version")
            self._check_here(turn)
            if await turn.content(_MEMBER, user_id) != content:
                await turn.place(_draft(room_id, user_id, user_id, content))

        await actor.run(job)
        return room_id

    async def leave(self, requester: Requester, room_id: RoomId, reason: str | None = None) -> None:
        """Leave a room, reject an invite or take a knock back; 200 again for who has left."""
        # spec: client-server-api#post_matrixclientv3roomsroomidleave
        user_id = UserId(requester.user_id)
        content = member_content("leave", {}, reason=reason)
        if await self._remote.leave(user_id, requester.user_nid, room_id, content):
            return
        actor = await self._rooms.find(room_id)

        async def job(turn: Turn) -> None:
            await turn.load([(_MEMBER, user_id)])
            before = _membership(turn, user_id)
            if before is None:
                raise forbidden("You are not in this room")
            if before != "leave":
                await turn.place(_draft(room_id, user_id, user_id, content))

        await actor.run(job)

    async def forget(self, requester: Requester, room_id: RoomId) -> None:
        """Hear no more of a room that was left."""
        # spec: client-server-api#post_matrixclientv3roomsroomidforget
        room_nid = await self._tools.interner.find_room(room_id)
        standing = (
            None if room_nid is None else await self._worker.work(_forget, requester.user_nid, room_nid)
        )
        if standing is None:
            raise not_found("You have never been in this room")
        if standing not in ENDED:
            raise MatrixError(400, "M_UNKNOWN", f"User {requester.user_id} is in room {room_id}")

    # --- the membership of others --------------------------------------------------------------------

    async def invite(
        self,
        requester: Requester,
        room_id: RoomId,
        target_id: UserId,
        reason: str | None = None,
        *,
        is_direct: bool = False,
    ) -> None:
        """Invite somebody; 200 again for who is invited."""
        # spec: client-server-api#post_matrixclientv3roomsroomidinvite
        actor = await self._find(room_id)
        await self._invites.check(requester.user_id, [target_id])
        target_nid = await self._tools.interner.find_user(target_id)
        profile = await self._profile(target_nid) if target_nid is not None else {}
        content = member_content("invite", profile, reason=reason, is_direct=is_direct or None)

        draft = _draft(room_id, UserId(requester.user_id), target_id, content)
        is_local = self._remote.is_local(target_id)

        async def job(turn: Turn) -> bool:
            before = await turn.state(_MEMBER, target_id)
            if (
                before is not None
                and before.sender == requester.user_id
                and await turn.content(_MEMBER, target_id) == content
            ):
                return True
            self._blocks.check_nid(turn.head.room_nid)
            if is_local:
                await turn.place(draft)
            return is_local

        if not await actor.run(job):
            await self._remote.invite(actor, draft)

    async def kick(
        self, requester: Requester, room_id: RoomId, target_id: UserId, reason: str | None = None
    ) -> None:
        """Put somebody out of the room, or refuse their knock or take back their invite."""
        # spec: client-server-api#post_matrixclientv3roomsroomidkick
        await self._set(requester, room_id, target_id, "leave", reason, ("join", "invite", "knock"))

    async def ban(
        self, requester: Requester, room_id: RoomId, target_id: UserId, reason: str | None = None
    ) -> None:
        """Put somebody out of the room for good."""
        # spec: client-server-api#post_matrixclientv3roomsroomidban
        await self._set(requester, room_id, target_id, "ban", reason, None)

    async def unban(
        self, requester: Requester, room_id: RoomId, target_id: UserId, reason: str | None = None
    ) -> None:
        """Let somebody come back."""
        # spec: client-server-api#post_matrixclientv3roomsroomidunban
        await self._set(requester, room_id, target_id, "leave", reason, ("ban",))

    async def _set(
        self,
        requester: Requester,
        room_id: RoomId,
        target_id: UserId,
        membership: str,
        reason: str | None,
        only_from: tuple[str, ...] | None,
    ) -> None:
        actor = await self._find(room_id)
        sender_id = UserId(requester.user_id)
        content = member_content(membership, {}, reason=reason)

        async def job(turn: Turn) -> None:
            await turn.load([(_MEMBER, sender_id), (_MEMBER, target_id)])
            if _membership(turn, sender_id) != "join":
                raise forbidden("You are not in this room")
            before = _membership(turn, target_id)
            if only_from is not None and before not in only_from:
                raise forbidden(
                    "The user is not banned" if only_from == ("ban",) else "The user is not in the room"
                )
            await place_news(turn, _draft(room_id, sender_id, target_id, content))

        await actor.run(job)

    # --- shared --------------------------------------------------------------------------------------

    def _check_here(self, turn: Turn) -> None:
        """Refuse to let anybody into a room that the last user of this server has left since it was looked up."""
        if not self._remote.is_in(turn.head.room_nid):
            raise _NotHereError

    async def _find(self, room_id: RoomId) -> RoomActor:
        """The actor of a room that the requester must be in: whether it exists is no stranger's business."""
        try:
            actor = await self._rooms.find(room_id)
        except MatrixError as error:
            if error.status != 404:
                raise
            raise forbidden("You are not in this room") from None
        await self._remote.whole(room_id)
        return actor

    async def _profile(self, user_nid: int) -> Mapping[str, Any]:
        found = await self._tools.database.read(load_names_and_avatars, [user_nid])
        return found.get(user_nid, {})


def _draft(room_id: RoomId, sender_id: UserId, target_id: UserId, content: dict[str, Any]) -> Draft:
    return Draft(room_id, _MEMBER, sender_id, content, target_id)


def _membership(turn: Turn, user_id: str) -> Any:
    member = turn.lookup(_MEMBER, user_id)
    return None if member is None else member.content.get("membership")


async def _check_guest(turn: Turn) -> None:
    # spec: client-server-api#guest-access
    if not admits_guests(await turn.content(GUEST_ACCESS)):
        raise guests_forbidden()


def _predecessor(create_content: Mapping[str, Any]) -> RoomId | None:
    predecessor = create_content.get("predecessor")
    room_id = predecessor.get("room_id") if isinstance(predecessor, dict) else None
    try:
        return parse_room_id(room_id) if isinstance(room_id, str) else None
    except Malformed:
        return None  # anybody may write anything there


def _forget(tx: WriteTx, user_nid: int, room_nid: int) -> Membership | None:
    member = find_member(tx, room_nid, user_nid)
    if member is None:
        return None
    if member.membership in ENDED and not member.forgotten:
        forget_room(tx, user_nid, room_nid)
    return member.membership
