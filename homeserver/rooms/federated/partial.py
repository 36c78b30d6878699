"""Rooms of which something is still to come: they can be read and written while the rest of a join arrives.

1. A room is partial from the commit that adopts it until that of ``completion.complete_room``; after a restart it goes on,
   and where the answer to either commit was lost.
2. The rest is asked of the server that let us in, and then of the others in the room, again and again with longer and
   longer waits. It is verified like the answer to any join.
3. What needs every member waits (``whole``): invites and bans, joins of others, lists of members. What goes to servers
   goes to all that are in the room by the word of the one that let us in: wider than what we know, never narrower.
4. The user's own clients see how far it is, in the room's account data ``im.chaos.join_progress``.
5. When everything has come but for events whose signers' keys are not to be had, nobody waits any more. The keys are asked
   for so many times again, with longer and longer waits, and the state with them; then what is here has to do.

# spec: server-server-api#put_matrixfederationv2send_joinroomideventid
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from federation.errors import Malformed
from federation.event import Event
from federation.flows.handshake import Refused, Silent
from federation.flows.keys import Wanted
from federation.ids import EventId, RoomId, ServerName
from homeserver.db.tx import WriteTx
from homeserver.http.errors import MatrixError
from homeserver.http.transport import PeerResponse, build_uri
from homeserver.http.watched import Take, Watched
from homeserver.peers.types import PeerClient
from homeserver.rooms.federated.completion import complete_room
from homeserver.rooms.federated.handshakes import PREFIX, heard
from homeserver.rooms.federated.join_checks import JoinChecks, RunInThread
from homeserver.rooms.federated.large_answers import LargeAnswers
from homeserver.rooms.federated.lots import AT_ONCE, Stored, Storing
from homeserver.rooms.federated.places import Places, Taking
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import Turn
from homeserver.runtime.clock import Clock, sleep, unless_over
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.account_data import TooMuchAccountDataError, put_account_data
from homeserver.store.hearsay import OPEN, load_hearsay_upto
from homeserver.store.partial import EARLIER_MOST, PartialJoin, count_attempts, load_partial_joins
from homeserver.store.servers import load_servers
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex

PROGRESS = "im.chaos.join_progress"
STATE_S = 300.0
STATE_BYTES = 512 * 1024 * 1024
# To make the state of a large room takes a server long; where it has just done so, less. Nobody waits for the first.
FIRST_S = 180.0
AGAIN_S = 60.0
# LIMIT(so many answers that are larger than this are in memory at once)
ANSWERS_AT_ONCE = 2
FREE_BYTES = 1024 * 1024
SERVERS_MOST = 20
SHORTEST_WAIT_S = 2.0
LONGEST_WAIT_S = 300.0
# LIMIT(half an hour of waiting for keys: servers that are gone must not keep a room in this state)
KEYS_ATTEMPTS = 8
KEYS_FIRST_WAIT_S = 16.0
# A client that waits for longer has gone.
WHOLE_S = 90.0
# How often clients are told, in chunks of events.
_TELL_EVERY = 5
# How many servers a line of the log names.
_NAMED_MOST = 20
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Unfinished:
    """The joins of a room that are not complete, the latest last, and who waits until its members have come."""

    joins: dict[int, PartialJoin] = field(default_factory=dict)  # by the number of the join
    waiters: list[Deferred[bool]] = field(default_factory=list)

    @property
    def lacks_members(self) -> bool:
        """Whether members of the room are still to come."""
        return any(not one.attempts for one in self.joins.values())

    def end_stay(self) -> None:
        """Somebody came back: nobody waits for what the joins before lack, and of the oldest it is not asked for."""
        latest = list(self.joins.items())[-EARLIER_MOST:]
        self.joins = {join_nid: one._replace(attempts=max(one.attempts, 1)) for join_nid, one in latest}

    def release(self) -> None:
        """Let go on who waits for members, if these have come."""
        if self.lacks_members:
            return
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(True)


class PartialRooms:
    """See the module."""

    def __init__(
        self,
        rooms: RoomRegistry,
        worker: Worker,
        index: MembershipIndex,
        client: PeerClient,
        checks: JoinChecks,
        answers: LargeAnswers,
        run_in_thread: RunInThread,
        tasks: TaskGroup,
        clock: Clock,
        log: Log,
    ) -> None:
        self._rooms = rooms
        self._tools = rooms.tools
        self._worker = worker
        self._index = index
        self._client = client
        self._checks = checks
        self.answers = answers  # of all joins together
        self._run = run_in_thread
        self._tasks = tasks
        self._clock = clock
        self._log = log
        self._unfinished: dict[int, _Unfinished] = {}  # by room
        self._running: set[int] = set()  # joins, by number
        self._upto: dict[int, int] = {}  # by room: up to where it was one of these, if it is none any more
        self._doubted: set[int] = set()  # rooms of which the table may know joins that are not noted here
        self._places = Places(ANSWERS_AT_ONCE, clock)

    async def load(self) -> None:
        """Find the joins that an earlier process left; before anything else asks."""
        for join in await self._tools.database.read(load_partial_joins):
            self._unfinished.setdefault(join.room_nid, _Unfinished()).joins[join.join_nid] = join
        self._upto = await self._tools.database.read(load_hearsay_upto)

    def start(self) -> None:
        """Go on with them."""
        for room_nid in list(self._unfinished):
            self._go_on(room_nid)

    def begin(self, join: PartialJoin, awaited: Sequence[Wanted] = ()) -> None:
        """A room was adopted without its members, or for want of some keys without a few events."""
        room = self._unfinished.setdefault(join.room_nid, _Unfinished())
        room.end_stay()
        room.joins[join.join_nid] = join
        room.release()
        self._spawn(join, awaited)
        self._go_on(join.room_nid)

    def go_on(self, room_nid: int) -> None:
        """A room was adopted whole: only what an earlier join lacked is to be had yet."""
        room = self._unfinished.get(room_nid)
        if room is not None:
            room.end_stay()
            room.release()
            self._go_on(room_nid)

    def doubt(self, room_nid: int) -> None:
        """Whether a room was adopted nobody told us, as the answer to the commit was lost: the table knows."""
        if not self._tasks.stopped:
            self._doubted.add(room_nid)
            self._tasks.spawn_restarting("look for a join", partial(self._look, room_nid))

    async def _look(self, room_nid: int) -> None:
        noted = set(self._unfinished[room_nid].joins) if room_nid in self._unfinished else set()
        # In a commit, since by the end of the next one the log has told who is in the room.
        joins = await self._worker.work(load_partial_joins)
        self._doubted.discard(room_nid)
        found = {one.join_nid: one for one in joins if one.room_nid == room_nid}
        room = self._unfinished.setdefault(room_nid, _Unfinished())
        # Not those that were begun meanwhile.
        gone = [one for one in room.joins.values() if one.join_nid in noted and one.join_nid not in found]
        room.joins |= found
        for one in gone:
            self._end(one)
        room.release()
        if room.joins:
            self._go_on(room_nid)
        else:
            self._unfinished.pop(room_nid, None)

    def _go_on(self, room_nid: int) -> None:
        for join in list(self._unfinished[room_nid].joins.values()):
            self._spawn(join, ())

    def _spawn(self, join: PartialJoin, awaited: Sequence[Wanted]) -> None:
        self._tasks.spawn_restarting("members of a joined room", partial(self._run_once, join, awaited))

    async def _run_once(self, join: PartialJoin, awaited: Sequence[Wanted]) -> None:
        """Complete a join, unless that is under way."""
        if join.join_nid in self._running:
            return
        self._running.add(join.join_nid)
        try:
            await self._complete(join, awaited)
        finally:
            self._running.discard(join.join_nid)
            self._places.forget(join.join_nid)

    # --- questions -----------------------------------------------------------------------------------

    def is_partial(self, room_nid: int) -> bool:
        """Whether members of a room are still to come."""
        room = self._unfinished.get(room_nid)
        return room is not None and room.lacks_members

    def is_incomplete(self, room_nid: int) -> bool:
        """Whether anything of a room is still to come: others had better ask somebody else."""
        return room_nid in self._unfinished

    def servers(self, room_nid: int) -> Collection[str]:
        """The servers that are in a partial room by the word of another one."""
        room = self._unfinished.get(room_nid)
        if room is None:
            return ()
        return dict.fromkeys(name for join in reversed(room.joins.values()) for name in join.servers)

    def servers_upto(self, room_nid: int) -> int:
        """Up to which position a room had such servers (``store/hearsay.py``), where a join of it is complete now.

        Up to none as yet where that is in doubt: who asks looks at the tables then.
        """
        return OPEN if room_nid in self._doubted else self._upto.get(room_nid, 0)

    async def whole(self, room_nid: int) -> bool:
        """Wait until its members have come; whether there was anything to wait for. 503 where it takes too long."""
        room = self._unfinished.get(room_nid)
        if room is None or not room.lacks_members or not self._index.local_members(room_nid):
            return False
        waiter: Deferred[bool] = Deferred()
        room.waiters.append(waiter)
        with unless_over(self._clock, WHOLE_S, _give_up, waiter):
            if not await waiter:
                raise MatrixError(503, "M_UNKNOWN", "The members of this room have not all come yet")
        return True

    # --- the rest ------------------------------------------------------------------------------------

    def _noted(self, join: PartialJoin) -> PartialJoin | None:
        """How far a join is; None: it is complete."""
        room = self._unfinished.get(join.room_nid)
        return room.joins.get(join.join_nid) if room is not None else None

    def _note(self, join: PartialJoin) -> None:
        """How far a join is now."""
        room = self._unfinished.get(join.room_nid)
        if room is not None and join.join_nid in room.joins:
            room.joins[join.join_nid] = join
            room.release()

    def _end(self, join: PartialJoin) -> None:
        room = self._unfinished.get(join.room_nid)
        if room is not None and room.joins.pop(join.join_nid, None) is not None:
            self._upto[join.room_nid] = self._index.last_pos.get(join.room_nid, 0)
            room.release()
            if not room.joins:
                del self._unfinished[join.room_nid]

    async def _complete(self, join: PartialJoin, awaited: Sequence[Wanted]) -> None:
        wait_s, told = SHORTEST_WAIT_S, None
        # After a failure it goes on from where it was.
        while (noted := self._noted(join)) is not None and not noted.attempts:
            if not self._index.local_members(join.room_nid):
                # Everybody has left: nobody will tell us. Who comes back begins anew, by the servers noted here.
                return
            told = await self._ask(noted)
            if told is not None:
                awaited = told
                break
            await sleep(self._clock, wait_s)
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)
        if noted is not None and (told is None or awaited):
            if not await self._wait_for_keys(noted._replace(attempts=max(noted.attempts, 1)), awaited):
                return
        self._end(join)

    async def _wait_for_keys(self, join: PartialJoin, awaited: Sequence[Wanted]) -> bool:
        """Everything has come but what is signed with these keys (none: nobody remembers which).

        Whether that is over: not where everybody has left.
        """
        self._note(join)
        is_at_once = not awaited
        while join.attempts < KEYS_ATTEMPTS:
            if not is_at_once:
                await sleep(self._clock, KEYS_FIRST_WAIT_S * 2.0 ** (join.attempts - 1))
            is_at_once = False
            if self._noted(join) is None or not self._index.local_members(join.room_nid):
                return False
            join = join._replace(attempts=join.attempts + 1)
            self._note(join)
            await self._worker.work(count_attempts, join)
            if awaited and not await self._checks.ask_again(awaited):
                continue
            told = await self._ask(join)
            if told is not None and not told:
                return True
            awaited = told or awaited
        await self._give_up(join, awaited)
        return True

    async def _give_up(self, join: PartialJoin, awaited: Sequence[Wanted]) -> None:
        names = await self._tools.interner.room_names([join.room_nid])
        servers = list(dict.fromkeys(one.server_name for one in awaited))
        if self._noted(join) is not None and await self._finish(join, names[join.room_nid], None):
            self._log.warning(
                "a joined room stays without the events of servers whose keys nobody gives",
                room_id=names[join.room_nid],
                count=len(servers),
                servers=servers[:_NAMED_MOST],
            )

    async def _ask(self, join: PartialJoin) -> Sequence[Wanted] | None:
        """Ask for the state in turn; the keys that lack then, None where nobody told it."""
        known: Sequence[ServerName] = ()
        if join.attempts:
            known = await self._tools.database.read(load_servers, join.room_nid, SERVERS_MOST)
        own = self._tools.signer.server_name
        servers = [
            one
            for one in dict.fromkeys([join.server, *join.servers, *known])
            if one != own and self._client.allows(one)
        ]
        for server in servers[:SERVERS_MOST]:
            try:
                told = await self._try(join, server)
            finally:
                self.answers.release(join.join_nid)
                self._places.release(join.join_nid)
            if told is not None:
                return told
        return None

    async def _request(self, join: PartialJoin, server: ServerName, uri: str) -> bytes | None:
        """What a server answers, if it does. What is large, and finds no place, is asked for again when there is one."""

        def ask(receive: Take) -> Awaitable[PeerResponse]:
            return self._client.ask_raw(
                server, "GET", uri, timeout_s=STATE_S, max_bytes=STATE_BYTES, receive=receive
            )

        for wait_s in (FIRST_S, AGAIN_S):
            body = self.answers.begin(join.join_nid)
            taking = Taking(body, FREE_BYTES, self._places, join.join_nid, server)
            answer = await heard(server, Watched(self._clock, taking.receive).run(ask, wait_s))
            if not isinstance(answer, (Refused, Silent)):
                return body.whole()
            if not taking.is_turned_away:
                break
            body.whole()  # and no more of it
            self.answers.release(join.join_nid)
            await self._places.wait(join.join_nid, server)
        return None

    async def _try(self, join: PartialJoin, server: ServerName) -> Sequence[Wanted] | None:
        names = await self._tools.interner.room_names([join.room_nid])
        room_id = names[join.room_nid]
        uri = build_uri(PREFIX, "state", room_id, query={"event_id": join.join_id})
        self._checks.prepare()
        text = await self._request(join, server, uri)
        if text is None:
            return None
        actor = await self._rooms.find(room_id)
        event = await actor.run(lambda turn: _load(turn, join.join_nid))
        storing = Storing(actor, self._run, partial(self._tell, join))
        try:
            verified = await self._checks.verify_state(server, event, text, storing.keep)
            await storing.finish(verified.lot)
        except Malformed as error:
            self._log.warning(
                "state of a joined room refused", server=server, room_id=room_id, reason=error.message
            )
            return None
        finally:
            storing.abandon()
        lacking = join._replace(attempts=max(join.attempts, 1)) if verified.awaited else None
        state = list(verified.conclusion.state.values())
        noted = self._noted(join)
        if noted is None:
            return None
        total = None if noted.attempts else len(verified.lot)
        if not await self._finish(join, room_id, state, lacking, total, storing.stored):
            return None
        return verified.awaited

    async def _finish(
        self,
        join: PartialJoin,
        room_id: str,
        state: Sequence[EventId] | None,
        lacking: PartialJoin | None = None,
        total: int | None = None,
        stored: Mapping[EventId, Stored] | None = None,
    ) -> bool:
        """See ``complete_room``; with ``total`` clients hear that so many events came, and are all."""

        async def job(turn: Turn) -> bool:
            # What was placed before is on its way to the disk: this comes back after it has arrived there.
            await self._worker.work(_nothing)
            if not await complete_room(turn, join, state, lacking=lacking, stored=stored):
                return False
            if total is not None:
                users = sorted(self._index.local_members(join.room_nid))
                turn.extra.append(lambda tx: put_progress(tx, users, join.room_nid, total, total, True))
            return True

        actor = await self._rooms.find(RoomId(room_id))
        return await actor.run(job)

    async def _tell(self, join: PartialJoin, done: int, size: int) -> None:
        if not join.attempts and done and done % (AT_ONCE * _TELL_EVERY) == 0:
            users = sorted(self._index.local_members(join.room_nid))
            await self._worker.work(put_progress, users, join.room_nid, done, size, False)


def put_progress(
    tx: WriteTx, user_nids: Sequence[int], room_nid: int, done: int, total: int, finished: bool
) -> None:
    """Tell users how far a join is; ``total`` 0: nobody knows yet."""
    content = _encode({"done": done, "finished": finished, "total": total}).decode()
    for user_nid in user_nids:
        try:
            put_account_data(tx, user_nid, room_nid, PROGRESS, content)
        except TooMuchAccountDataError:
            continue


def _give_up(waiter: Deferred[bool]) -> None:
    if not waiter.called:
        waiter.callback(False)


async def _load(turn: Turn, nid: int) -> Event:
    return (await turn.events([nid]))[nid]


def _nothing(tx: WriteTx) -> Any:
    """The unit of work that is only waited for."""
