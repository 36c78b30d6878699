"""Users of ours and rooms that this server is not in: invites that come, knocks, and how either ends.

The room has no actor here, as nothing of its state is known: a membership is one unit of work (``store/outside.py``).
What an invite says is shown to the user and decides nothing; joining goes to the room's servers and believes none of
it.

# spec: server-server-api#inviting-to-a-room
# spec: server-server-api#leaving-rooms-rejecting-invites
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from federation.builder import Draft, build
from federation.errors import Malformed
from federation.event import Event, parse_stored, stored_bytes
from federation.flows.handshake import Accepted, NeedAccepted, Wish
from federation.ids import EventId, RoomId, ServerName, UserId, domain_of, parse_room_id, parse_user_id
from federation.versions import ROOM_VERSIONS
from homeserver.db.tx import Tx
from homeserver.http.errors import MatrixError, forbidden, invalid_param, limit_exceeded
from homeserver.http.transport import DEFAULT_TIMEOUT_S, build_uri
from homeserver.peers.types import EventKeys
from homeserver.rooms.blocks import RoomBlocks
from homeserver.rooms.federated.admission import check_acl, check_membership_event, co_sign
from homeserver.rooms.federated.declinations import Declinations, may_pass, servers_of
from homeserver.rooms.federated.handshakes import PREFIX, Handshakes, to_client
from homeserver.rooms.federated.offers import Offers
from homeserver.rooms.federated.signed import check_signed, parse_event
from homeserver.rooms.federated.signed_invites import SignedInvites
from homeserver.rooms.federated.stripped import read_stripped, strip, stripped_json
from homeserver.rooms.invites import InviteGate
from homeserver.rooms.registry import RoomRegistry
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.offered import put_knock
from homeserver.store.outside import (
    OutsideRow,
    Told,
    load_outside,
    put_afterwards,
    put_instead,
    put_outside,
    put_unless_later,
)
from homeserver.store.parsed import load_events
from homeserver.store.placement import Membership
from homeserver.store.servers import find_rooms_with
from homeserver.store.users import load_account
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex, Standing

_MEMBER = "m.room.member"
_ENDS = ("leave", "ban")
_WAITING = (Membership.INVITE, Membership.KNOCK)
# LIMIT(invites from outside that wait for one user; whoever sends more is told to come back later)
INVITES_MOST = 1_000
RETRY_AFTER_MS = 3_600_000
# So often what becomes of an invite is decided anew because another one came meanwhile.
ROUNDS_MOST = 3
ANSWER_BYTES = 4 * 1024 * 1024


class Outsiders:
    """See the module."""

    def __init__(
        self,
        rooms: RoomRegistry,
        worker: Worker,
        index: MembershipIndex,
        handshakes: Handshakes,
        keys: EventKeys,
        invites: InviteGate,
        blocks: RoomBlocks,
        adopted: Callable[[RoomId], Awaitable[object]],
        declinations: Declinations,
        offers: Offers,
        tasks: TaskGroup,
        log: Log,
    ) -> None:
        self._rooms = rooms
        self._tools = rooms.tools
        self._worker = worker
        self._index = index
        self._handshakes = handshakes
        self._keys = keys
        self._invites = invites
        self._blocks = blocks
        self._adopted = adopted  # waits while a join of a room is being stored
        self._declinations = declinations
        self._offers = offers
        self.signed = SignedInvites(rooms.tools.database, worker, index, tasks)
        self._log = log

    def standing(self, user_nid: int, room_nid: int | None) -> Standing | None:
        """What a user of ours is to a room that this server is not in, where another server told us."""
        standing = self._index.standing(user_nid, room_nid) if room_nid is not None else None
        return standing if standing is not None and standing.outside else None

    async def servers(self, user_nid: int, room_nid: int) -> list[ServerName]:
        """The servers that an invite or a knock connects with the room: who was asked or told us, and who invited."""
        row = await self._row(user_nid, room_nid)
        return _connected(row) if row is not None and row.event_id else []

    async def told_state(self, user_nid: int, room_id: RoomId) -> list[dict[str, Any]]:
        """The stripped state that came with an invite or a knock of a user of ours; nothing where there is neither."""
        room_nid = await self._tools.interner.find_room(room_id)
        if room_nid is None:
            return []
        row = await self._row(user_nid, room_nid)
        return [] if row is None else msgspec.json.decode(row.stripped, type=list[dict[str, Any]])

    async def _row(self, user_nid: int, room_nid: int) -> OutsideRow | None:
        return (await self._tools.database.read(load_outside, user_nid, [room_nid])).get(room_nid)

    # --- invites that come ---------------------------------------------------------------------------

    async def invited(
        self,
        origin: ServerName,
        room_id: RoomId,
        event_id: EventId,
        version: str,
        pdu: dict[str, Any],
        state: Any,
    ) -> Event:
        """Take an invite of a user of ours and sign it; refuses what is none, and who wants none."""
        # spec: server-server-api#put_matrixfederationv2inviteroomideventid
        rules = ROOM_VERSIONS.get(version)
        if rules is None:
            raise MatrixError(
                400,
                "M_INCOMPATIBLE_ROOM_VERSION",
                "This server does not support the version of that room",
                room_version=version[:255],
            )
        event = parse_event(pdu, rules)
        check_membership_event(event, "invite", room_id, event_id)
        if domain_of(event.sender) != origin:
            raise invalid_param("The sender is not of your server")
        target_nid = await self._target(event)
        await self._blocks.check(room_id)
        await check_signed(event, self._keys)
        resident = await self._check_room(origin, room_id)
        stripped = await read_stripped(state, event, self._keys, must_prove=True)
        await self._invites.check(event.sender, [UserId(event.state_key or "")])
        signed = co_sign(event, self._tools.signer)
        room_nid = await self._tools.interner.room(room_id)
        if resident:
            # Its event tells of it: see there.
            await self.signed.keep(Told.by(room_nid, target_nid, origin, signed, stripped))
        else:
            standings = self._index.rooms_of(target_nid).values()
            if sum(one.outside and one.membership == Membership.INVITE for one in standings) >= INVITES_MOST:
                raise limit_exceeded(RETRY_AFTER_MS)
            told = await self._told(room_nid, target_nid, origin, signed, stripped)
            if told is not None:
                await self._worker.work(put_outside, told)
        return signed

    async def _target(self, event: Event) -> int:
        try:
            target_id = parse_user_id(event.state_key or "")
        except Malformed:
            raise invalid_param("The state_key is no user") from None
        if not self._invites.is_local(target_id):
            raise invalid_param("The invited user is not of this server")
        await self._invites.make(target_id)
        nid = await self._tools.interner.find_user(target_id)
        account = await self._tools.database.read(load_account, nid) if nid is not None else None
        if nid is None or account is None or account.deactivated:
            raise forbidden("There is no such user on this server")
        return nid

    async def _check_room(self, origin: ServerName, room_id: RoomId) -> bool:
        """Whether this server is in the room; then the room's access control list counts."""
        room_nid = await self._tools.interner.find_room(room_id)
        if room_nid is None or not self._index.local_members(room_nid):
            return False
        await (await self._rooms.find(room_id)).run(lambda turn: check_acl(turn, origin))
        return True

    async def heard(self, origin: ServerName, pdus: Sequence[Any]) -> list[EventId]:
        """Events of rooms that this server is not in: the ids of those that ended an invite or a knock of a user of ours.

        Of such an event the signatures can be checked, and nothing else. So it is believed of the server that the invite
        came from or the knock went to, and of no other. Who was invited (or knocked) while this server was in the room has
        nobody in particular to hear it from: of that it is believed of any server that was in the room when ours left it.
        """
        found: list[EventId] = []
        for pdu in pdus:
            content = pdu.get("content") if isinstance(pdu, dict) and pdu.get("type") == _MEMBER else None
            if isinstance(content, dict) and content.get("membership") in _ENDS:
                try:
                    event = await self._heard(origin, pdu)
                except (MatrixError, Malformed):
                    continue
                if event is not None:
                    found.append(event.event_id)
        return found

    async def _heard(self, origin: ServerName, pdu: dict[str, Any]) -> Event | None:
        room_id, user_id = parse_room_id(pdu.get("room_id", "")), parse_user_id(pdu.get("state_key", ""))
        room_nid = await self._tools.interner.find_room(room_id)
        user_nid = await self._tools.interner.find_user(user_id)
        if room_nid is None or user_nid is None:
            return None
        for _ in range(ROUNDS_MOST):
            row = await self._waiting(user_nid, room_nid)
            event_nid = 0 if row is not None else self._left_waiting(user_nid, room_nid)
            before = _stored(row) if row is not None else await self._event(event_nid)
            if before is None:
                return None
            event = parse_event(pdu, before.rules)
            if event.event_id in before.prev_event_ids or event.depth < before.depth + (row is None):
                return None  # what the invite or the knock already stands on, late
            asked = {origin, domain_of(event.sender)}
            believed = _connected(row) if row is not None else await self._were_there(room_nid, asked)
            if event.room_id != room_id or not asked.issubset(believed):
                return None
            await check_signed(event, self._keys)
            told = await self._told(room_nid, user_nid, origin, event, stripped_json([strip(event)]))
            put = put_instead if row is not None else put_afterwards
            if told is None or await self._worker.work(put, told, before.event_id):
                return event
        return None

    def _left_waiting(self, user_nid: int, room_nid: int) -> int:
        """The event by which a user of ours was invited (or knocked) in a room that everybody of ours has left since; or 0."""
        standing = self._index.standing(user_nid, room_nid)
        if standing is None or standing.outside or self._index.local_members(room_nid):
            return 0
        return standing.event_nid if standing.membership in _WAITING else 0

    async def _event(self, nid: int) -> Event | None:
        return (await self._tools.database.read(load_events, [nid], self._tools.events)).get(nid)

    async def _were_there(self, room_nid: int, servers: Collection[ServerName]) -> list[ServerName]:
        """Those of some servers that were in a room when this one left it."""

        def look(tx: Tx) -> list[ServerName]:
            joined = (Membership.JOIN,)
            return [one for one in servers if find_rooms_with(tx, [room_nid], one, joined)]

        return await self._tools.database.read(look)

    # --- knocks and leaves that go -------------------------------------------------------------------

    async def knock(
        self,
        user_id: UserId,
        user_nid: int,
        room_id: RoomId,
        content: Mapping[str, Any],
        servers: Sequence[ServerName],
    ) -> EventId:
        """Ask the room's servers to let a user in; the event by which they were asked."""
        # spec: server-server-api#knocking-rooms

        async def accept(need: NeedAccepted) -> Any:
            uri = build_uri(PREFIX, "send_knock", room_id, need.event.event_id)

            async def ask(timeout_s: float) -> Any:
                return await self._handshakes.ask(
                    need.server,
                    "PUT",
                    uri,
                    stored_bytes(need.event),
                    timeout_s=timeout_s,
                    max_bytes=ANSWER_BYTES,
                )

            return await self._offers.send(need, ask, DEFAULT_TIMEOUT_S)

        async with self.coming(room_id), self._offers.under_way(room_id):
            room_nid = await self._tools.interner.room(room_id)
            row = await self._row(user_nid, room_nid)
            wish = Wish("knock", room_id, user_id, content)
            accepted = await self._handshakes.run(wish, servers, accept)
            state = accepted.answer.get("knock_room_state")
            stripped = await read_stripped(state, accepted.event, self._keys, must_prove=False)
            told = await self._told(room_nid, user_nid, accepted.server, accepted.event, stripped)
            if told is not None:
                await self._worker.work(put_knock, told, row.event_id if row is not None else "")
            return accepted.event.event_id

    async def leave(
        self, user_id: UserId, user_nid: int, room_id: RoomId, content: Mapping[str, Any]
    ) -> None:
        """Reject an invite or take a knock back: at the room's servers if they do it, and here in any case.

        An invite that comes while they are asked may be of others: where nobody has taken the leave, it begins again.
        """
        room_nid = await self._tools.interner.room(room_id)
        row = await self._waiting(user_nid, room_nid)
        if row is None:
            raise forbidden("You are not in this room")
        for _ in range(ROUNDS_MOST):
            if await self._leave(user_id, user_nid, room_id, content, row):
                return
            row = await self._waiting(user_nid, room_nid)
            if row is None:
                return

    async def _leave(
        self, user_id: UserId, user_nid: int, room_id: RoomId, content: Mapping[str, Any], row: OutsideRow
    ) -> bool:
        """End what ``row`` is; False where something else has come in its place."""
        outcome = await self._declinations.tell(
            user_id, room_id, content, [*_connected(row), *servers_of(room_id)]
        )
        again = False
        if isinstance(outcome, Accepted):
            server, event = outcome.server, outcome.event
        else:
            reason, again = str(to_client(outcome)), may_pass(outcome)
            self._log.info(
                "left a room without its servers",
                room_id=room_id,
                user_id=user_id,
                reason=reason,
                again=again,
            )
            server, event = ServerName(row.server), self._own_leave(_stored(row), user_id, content)
        told = await self._told(row.room_nid, user_nid, server, event, stripped_json([strip(event)]))
        if told is None or await self._waiting(user_nid, row.room_nid) is None:
            return True
        if isinstance(outcome, Accepted):
            await self._worker.work(put_unless_later, told, row.event_id)
            return True
        if again:
            return await self._declinations.put_off(told, row.event_id)
        return await self._worker.work(put_instead, told, row.event_id)

    def coming(self, room_id: RoomId) -> AbstractAsyncContextManager[None]:
        """While a user tries to come into a room, nobody is told that they, or others of ours, declined an invite to it."""
        return self._declinations.under_way(room_id)

    def _own_leave(self, before: Event, user_id: UserId, content: Mapping[str, Any]) -> Event:
        """A leave that nobody but the user's own clients will see."""
        rules, tools = before.rules, self._tools
        draft = Draft(before.room_id, _MEMBER, user_id, {**content, "membership": "leave"}, user_id)
        event, _ = build(
            draft,
            prev_events=[before.reference()],
            auth_events=[before.reference()],
            depth=before.depth + 1,
            rules=rules,
            signer=tools.signer,
            now_ms=tools.clock.now_ms(),
            local_id="" if rules.event_ids_are_hashes else tools.entropy.token(24),
        )
        return event

    async def _waiting(self, user_nid: int, room_nid: int) -> OutsideRow | None:
        """What is kept of an invite from outside or a knock there, where a user of ours has one."""
        row = await self._row(user_nid, room_nid)
        standing = self.standing(user_nid, room_nid)
        if row is None or not row.event_id or standing is None or standing.membership not in _WAITING:
            return None
        return row

    async def _told(
        self, room_nid: int, user_nid: int, server: ServerName, event: Event, stripped: str
    ) -> Told | None:
        """What is to be noted; None where somebody of ours is in the room now, and it knows better itself."""
        await self._adopted(event.room_id)
        if self._index.local_members(room_nid) and self.standing(user_nid, room_nid) is None:
            return None
        return Told.by(room_nid, user_nid, server, event, stripped)


def _stored(row: OutsideRow) -> Event:
    return parse_stored(EventId(row.event_id), row.event.encode(), ROOM_VERSIONS[row.version])


def _connected(row: OutsideRow) -> list[ServerName]:
    """The servers that an invite or a knock connects with the room."""
    return list(dict.fromkeys([ServerName(row.server), domain_of(_stored(row).sender)]))
