"""Joining rooms that this server is not in, through servers that are.

1. At most one join of a room is under way. Whoever of ours wants in meanwhile waits: then the room is here, and they
   join it like any other; or it failed, and they try themselves.
2. Nothing of an answer is stored before all of it is verified (``join_checks.py``). Then its events are stored as
   outliers in chunks, and the room's head is made in one turn of its actor, with our user in it: until then there is
   no room for anybody.
3. When no server lets the user in, the client gets what they said; what one of them may have taken all the same is taken
   back (``offers.py``).

# spec: server-server-api#joining-rooms
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from federation.builder import Draft
from federation.errors import Malformed
from federation.event import Event, stored_bytes
from federation.flows.handshake import NeedAccepted, Refused, Silent, Wish
from federation.ids import EventId, RoomId, ServerName, UserId, parse_event_id
from federation.verdict import Accept
from federation.versions import ROOM_VERSIONS, RoomRules
from homeserver.db.errors import DatabaseUnavailable
from homeserver.db.tx import Tx, WriteTx
from homeserver.http.errors import MatrixError, forbidden
from homeserver.http.transport import build_uri
from homeserver.peers.types import PeerClient
from homeserver.rooms.arrivals import Arrival, Arrived, Missing, Placed, adopt_room, arrive
from homeserver.rooms.federated.guest_joins import GUEST_ACCESS, admits_guests, guests_forbidden
from homeserver.rooms.federated.handshakes import Handshakes, heard
from homeserver.rooms.federated.join_checks import JoinChecks, RunInThread, Verified
from homeserver.rooms.federated.large_answers import Body, LargeAnswers
from homeserver.rooms.federated.lots import store_lot
from homeserver.rooms.federated.offers import Offers
from homeserver.rooms.federated.partial import PartialRooms, put_progress
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import Turn
from homeserver.runtime.log import Log
from homeserver.store.declined import forget_declined
from homeserver.store.events import find_row, find_rows, load_head
from homeserver.store.ids import set_room_version
from homeserver.store.offered import forget_all_offered
from homeserver.store.outside import end_outside
from homeserver.store.partial import PartialJoin, end_stay, put_partial_join
from homeserver.store.placement import Membership
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex

# A large room takes the other server a while to write, and the network to carry.
SEND_JOIN_S = 300.0
# Without its members no room's state comes near that.
ANSWER_BYTES = 128 * 1024 * 1024
# LIMIT(a join cites five events at most; others are not looked for)
_CITED_MOST = 10


@dataclass(frozen=True, slots=True)
class Leave:
    """By which event a user left, and where in the room's state that stands."""

    event: Event
    nid: int
    key_nid: int


class RemoteJoins:
    """See the module."""

    def __init__(
        self,
        rooms: RoomRegistry,
        worker: Worker,
        index: MembershipIndex,
        client: PeerClient,
        handshakes: Handshakes,
        checks: JoinChecks,
        partial: PartialRooms,
        answers: LargeAnswers,
        offers: Offers,
        run_in_thread: RunInThread,
        log: Log,
    ) -> None:
        self._rooms = rooms
        self._tools = rooms.tools
        self._worker = worker
        self._index = index
        self._client = client
        self._handshakes = handshakes
        self._checks = checks
        self._partial = partial
        self._answers = answers
        self._offers = offers
        self._run = run_in_thread
        self._log = log
        self._running: dict[RoomId, list[Deferred[None]]] = {}
        self._adopting: set[RoomId] = set()  # of those: the head is on its way to the disk

    async def under_way(self, room_id: RoomId) -> bool:
        """Whether a join of the room was under way; it is over when the answer is there."""
        waiters = self._running.get(room_id)
        if waiters is None:
            return False
        waiter: Deferred[None] = Deferred()
        waiters.append(waiter)
        await waiter
        return True

    async def adopted(self, room_id: RoomId) -> None:
        """Wait while a joined room is being stored: what is noted then of its users from outside would come after it."""
        if room_id in self._adopting:
            await self.under_way(room_id)

    async def join(
        self,
        user_id: UserId,
        room_id: RoomId,
        content: Mapping[str, Any],
        servers: Sequence[ServerName],
        *,
        is_guest: bool = False,
    ) -> None:
        """Join through one of some servers. MUST NOT be called while another join of the room is under way.

        A guest is out again, and refused (403), where the room's state does not admit them.
        """
        assert room_id not in self._running
        self._running[room_id] = []
        try:
            wish = Wish("join", room_id, user_id, content, await self._rules(room_id))
            leave = await self._last_leave(user_id, room_id)
            catch_up = None if leave is None else partial(self._tell_of, leave)
            async with self._offers.under_way(room_id):
                accepted = await self._handshakes.run(wish, servers, self._accept, catch_up)
                await self._adopt(accepted.answer, is_guest=is_guest)
        finally:
            self._answers.release(room_id)
            for waiter in self._running.pop(room_id):
                if not waiter.called:
                    waiter.callback(None)

    async def _rules(self, room_id: RoomId) -> RoomRules | None:
        """The rules of a room that this server has been in."""
        nid = await self._tools.interner.find_room(room_id)
        version = await self._tools.interner.room_version(nid) if nid is not None else None
        if nid is None or version is None or not await self._tools.database.read(_is_known, nid):
            return None
        return ROOM_VERSIONS[version]

    async def _last_leave(self, user_id: UserId, room_id: RoomId) -> Leave | None:
        """How a user left a room of their own accord; None where they did not."""
        room_nid = await self._tools.interner.find_room(room_id)
        user_nid = await self._tools.interner.user(user_id)
        standing = self._index.standing(user_nid, room_nid) if room_nid is not None else None
        if standing is None or standing.outside or standing.membership != Membership.LEAVE:
            return None
        nid = standing.event_nid
        actor = await self._rooms.find(room_id)
        event = (await actor.run(lambda turn: turn.events([nid]))).get(nid)
        if event is None or event.sender != user_id:
            return None
        row = await self._tools.database.read(find_row, event.event_id)
        return Leave(event, nid, row.state_key_nid) if row is not None and row.state_key_nid else None

    async def _tell_of(self, leave: Leave, server: ServerName, template: Mapping[str, Any]) -> bool:
        """Tell a server that offers a join to who for it has never left; whether that was so.

        Otherwise the join would be made beside the leave. Where the room's rules do not let the user in anew the leave
        would stand there in the end, and the join here.
        """
        event = template.get("event")
        cited = event.get("auth_events") if isinstance(event, Mapping) else None
        if not isinstance(cited, list):
            return False
        known = await self._tools.database.read(find_rows, list(_event_ids(cited[:_CITED_MOST])))
        # What they were before they left, it may be several names ago; what they have become since is not known here.
        if not any(row.state_key_nid == leave.key_nid and row.nid != leave.nid for row in known.values()):
            return False
        await self._handshakes.tell(server, leave.event)
        return True

    async def _accept(self, need: NeedAccepted) -> Verified | Refused | Silent:
        server, event = need.server, need.event
        # Of a room that this server is in it has the members already.
        room_nid = await self._tools.interner.find_room(event.room_id)
        here = room_nid is not None and bool(self._index.local_members(room_nid))
        query = None if here else {"omit_members": "true"}
        uri = build_uri("/_matrix/federation/v2", "send_join", event.room_id, event.event_id, query=query)

        async def ask(timeout_s: float) -> Body | Refused | Silent:
            body = self._answers.begin(event.room_id)
            asked = self._client.ask_raw(
                server,
                "PUT",
                uri,
                stored_bytes(event),
                timeout_s=timeout_s,
                max_bytes=ANSWER_BYTES,
                receive=body.receive,
            )
            answer = await heard(server, asked)
            return answer if isinstance(answer, (Refused, Silent)) else body

        answer = await self._offers.send(need, ask, SEND_JOIN_S)
        if isinstance(answer, (Refused, Silent)):
            return answer
        try:
            verified = await self._checks.verify(server, event, answer.whole())
        except Malformed as error:
            self._log.warning(
                "answer to send_join refused", server=server, room_id=event.room_id, reason=error.message
            )
            return Silent(server, error.message)
        if here and verified.lot.members_omitted:
            return Silent(server, "it omits members although it was asked for them")
        if verified.lot.dropped:
            self._log.info(
                "events of a joined room left out", room_id=event.room_id, count=verified.lot.dropped
            )
        return verified

    async def _adopt(self, verified: Verified, *, is_guest: bool) -> None:
        """Store what was verified, and make the room of it."""
        join, lot = verified.join, verified.lot
        room_nid = await self._tools.interner.room(join.room_id)
        self._tools.interner.learn_version(room_nid, join.rules.version)
        await self._worker.work(set_room_version, room_nid, join.rules.version)
        actor = await self._rooms.find(join.room_id)
        await store_lot(actor, lot, self._run)
        state = list(verified.conclusion.state.values())

        adopted: list[PartialJoin | None] = []  # None: all of the room is here
        unwelcome: list[bool] = []

        async def job(turn: Turn) -> None:
            adopted.clear()
            if self._index.local_members(room_nid):
                if lot.members_omitted:
                    raise MatrixError(502, "M_UNKNOWN", f"{verified.server} did not tell all of the room")
                # Somebody else let the user into a room that this server is in.
                (arrived,) = await arrive(turn, [Arrival(join, state_before=tuple(state))])
            else:
                is_partial = lot.members_omitted or bool(verified.awaited)
                arrived = await adopt_room(turn, join, state, partial=is_partial)
                turn.extra.append(partial(_end_outside, room_nid=room_nid, user_nids=_members(turn)))
                adopted.append(_partial_join(verified, room_nid, arrived) if is_partial else None)
                user_nid = await self._tools.interner.user(join.sender)
                turn.extra.append(
                    partial(_note, join=adopted[0], room_nid=room_nid, user_nid=user_nid, done=len(lot))
                )
            if isinstance(arrived, Missing):
                raise MatrixError(502, "M_UNKNOWN", f"{verified.server} did not tell all of the room")
            if isinstance(arrived, Placed) and not isinstance(arrived.verdict, Accept):
                raise forbidden(arrived.verdict.reason)
            access = await turn.state(GUEST_ACCESS, "") if is_guest else None
            user_nid = await self._tools.interner.user(join.sender)
            turn.extra.append(lambda tx: forget_all_offered(tx, room_nid, user_nid))
            turn.extra.append(lambda tx: forget_declined(tx, room_nid, user_nid))
            unwelcome.clear()
            if is_guest and (access is None or not admits_guests(access.content)):
                # Our join is among the others' events. With its end stored beside it nobody here sees it stand.
                await turn.place(
                    Draft(join.room_id, join.type, UserId(join.sender), {"membership": "leave"}, join.sender)
                )
                unwelcome.append(True)

        self._adopting.add(join.room_id)
        try:
            await actor.run(job)
        except DatabaseUnavailable:
            self._partial.doubt(room_nid)
            raise
        finally:
            self._adopting.discard(join.room_id)
        for one in adopted:
            if one is not None:
                self._partial.begin(one, verified.awaited)
            else:
                self._partial.go_on(room_nid)
        if unwelcome:
            raise guests_forbidden()


def _event_ids(references: Sequence[Any]) -> Iterator[EventId]:
    """Of references as others wrote them: in rooms of the first versions each is a pair."""
    for one in references:
        event_id = one[0] if isinstance(one, list) and one else one
        if isinstance(event_id, str):
            with suppress(Malformed):
                yield parse_event_id(event_id)


def _partial_join(verified: Verified, room_nid: int, arrived: Arrived) -> PartialJoin | None:
    if not isinstance(arrived, Placed):
        return None  # it is refused
    lot, server = verified.lot, verified.server
    # Whose members were left out may be in the room, and is told what happens there.
    awaited = (one.server_name for one in verified.awaited)
    servers = tuple(dict.fromkeys([server, *lot.servers, *awaited]))
    attempts = 0 if lot.members_omitted else 1
    return PartialJoin(room_nid, arrived.nid, verified.join.event_id, server, servers, attempts)


def _note(tx: WriteTx, *, join: PartialJoin | None, room_nid: int, user_nid: int, done: int) -> None:
    awaited_members = end_stay(tx, room_nid)
    if join is not None:
        put_partial_join(tx, join)
    if join is not None and not join.attempts:
        put_progress(tx, [user_nid], room_nid, done, 0, False)
    elif awaited_members:
        # Of the stay before it was told that they are to come.
        put_progress(tx, [user_nid], room_nid, done, done, True)


def _is_known(tx: Tx, room_nid: int) -> bool:
    return load_head(tx, room_nid) is not None


def _members(turn: Turn) -> list[int]:
    """Of whom the room itself says now what they are."""
    return sorted({move.member_nid for one in turn.placements for move in one.moves if move.member_nid})


def _end_outside(tx: WriteTx, *, room_nid: int, user_nids: Sequence[int]) -> None:
    end_outside(tx, room_nid, user_nids)
