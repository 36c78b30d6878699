"""Joins and knocks on their way: signed, sent to another server, and nothing heard of them yet.

The answer may get lost, or this process die before it comes. Then the room may have a member of ours of whom nobody knows
here; the user was told that it failed, or nothing at all.

1. What is sent is noted before, in a commit of its own. The note ends in the commit that has the user in the room, or when
   the server refuses.
2. Where nothing was told by the server (no answer, or one of a proxy's), the same event is offered to it once more, in
   what is left of the time: taking it twice is taking it once. Only then others are asked, with an event of their own.
3. What is still open when the request has failed is taken back: by a leave at that server, sooner or later, for about a
   week, and as soon as a server that did not take the leave gives a sign of life. Not done in the background after all:
   the user has been told that they are not in the room.
4. A leave is made only of what was offered. Where the room has the user by something else (the invite that the join would
   have accepted, an invite that came since), there is nothing to take back. Nor is there when the user has come in.
5. A refusal is believed when it is said a second time, later: the event may have been on its way to a server that said
   before that the user is not there.
6. While anybody of ours tries to come into a room, nothing of that room is taken back; a leave that is under way already
   is waited for. Of the user themselves it would undo what they try. Another's join brings the room as it was when a
   server was asked for a template: with the user in it, where the leave comes later. That leave is kept nowhere here, so
   the user would be let speak as a member, beside it.

# spec: server-server-api#joining-rooms
# spec: server-server-api#leaving-rooms-rejecting-invites
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from federation.flows.handshake import Accepted, Failed, NeedAccepted, Refused, Silent, Wish
from federation.ids import RoomId, ServerName, UserId
from homeserver.db.threads import Database
from homeserver.rooms.federated.declinations import servers_of
from homeserver.rooms.federated.handshakes import Handshakes, to_client
from homeserver.rooms.federated.retries import Retries, Table, wait_after
from homeserver.rooms.federated.stripped import strip, stripped_json
from homeserver.runtime.clock import Clock
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.ids import Interner
from homeserver.store.offered import (
    Offer,
    Offered,
    forget_all_offered,
    forget_offered,
    load_next_offered,
    load_offered_ids,
    load_offered_of,
    load_offered_servers,
    note_offered,
    put_off_offered,
    take_back,
)
from homeserver.store.outside import Told
from homeserver.store.placement import MEMBERSHIPS, Membership
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex

# Soon, as the room shows a member who is none; not at once, as most who fail try again. With doubling waits the last
# attempt is some seven days after the first.
FIRST_WAIT_MS = 15_000
ATTEMPTS_MOST = 38


class Offers:
    """See the module. ``start`` goes on with what an earlier process left."""

    def __init__(
        self,
        database: Database,
        worker: Worker,
        interner: Interner,
        index: MembershipIndex,
        handshakes: Handshakes,
        tasks: TaskGroup,
        clock: Clock,
        log: Log,
    ) -> None:
        self._database = database
        self._worker = worker
        self._interner = interner
        self._index = index
        self._handshakes = handshakes
        self._clock = clock
        self._log = log
        self._retries: Retries[Offered] = Retries(
            "take back what was offered",
            Table(load_next_offered, load_offered_of, load_offered_servers),
            self._try,
            database,
            tasks,
            clock,
        )

    def start(self) -> None:
        """Begin to take back what is left over."""
        self._retries.start()

    def stop(self) -> None:
        """Take nothing back any more."""
        self._retries.stop()

    # --- offering ------------------------------------------------------------------------------------

    def under_way(self, room_id: RoomId) -> AbstractAsyncContextManager[None]:
        """While a user tries to come in (or knocks) nothing of that room is taken back; what is open afterwards is."""
        return self._retries.paused(room_id)

    async def send(self, need: NeedAccepted, ask: Callable[[float], Awaitable[Any]], within_s: float) -> Any:
        """Send what a server is to take. ``ask`` gets the seconds that an answer may take, and is called twice at most."""
        event = need.event
        room_nid = await self._interner.room(event.room_id)
        user_nid = await self._interner.user(event.sender)
        offer = Offer(room_nid, user_nid, event.event_id, need.server, MEMBERSHIPS[need.wish.membership])
        await self._worker.work(note_offered, offer, self._clock.now_ms() + FIRST_WAIT_MS)
        begun_s = self._clock.monotonic()
        answer = await ask(within_s)
        if is_lost(answer):
            left_s = within_s - (self._clock.monotonic() - begun_s)
            return await ask(left_s) if left_s >= within_s / 2 else answer
        if isinstance(answer, Refused):
            await self._worker.work(forget_offered, offer)
        return answer

    # --- taking back ---------------------------------------------------------------------------------

    def heard_from(self, server: ServerName) -> None:
        """A sign of life of a server."""
        self._retries.heard_from(server)

    async def _try(self, one: Offered, early: bool) -> None:
        if self._retries.is_paused(one.room_id):
            if early:
                return
            await self._put_off(one, FIRST_WAIT_MS, tried=False)
            return
        if self._came_in(one):
            await self._worker.work(forget_all_offered, one.room_nid, one.user_nid)
            return
        outcome = await self._leave(one)
        if isinstance(outcome, Accepted):
            event = outcome.event
            told = Told.by(one.room_nid, one.user_nid, outcome.server, event, stripped_json([strip(event)]))
            await self._worker.work(take_back, one, told)
            how = "taken back what nobody had answered"
        elif early:
            return  # a refusal too is to be said when the time has come: see rule 5
        elif self._is_open(one, outcome) and one.attempts + 1 < ATTEMPTS_MOST:
            await self._put_off(one, wait_after(FIRST_WAIT_MS, one.attempts), tried=True)
            if _tells_nothing(one, outcome):
                self._retries.expect(one.server)
            return
        else:
            await self._worker.work(forget_offered, one)
            how = str(to_client(outcome))
        self._log.info(
            "an offer is settled", room_id=one.room_id, user_id=one.user_id, server=one.server, how=how
        )

    def _came_in(self, one: Offered) -> bool:
        """Whether the room itself says here that the user is in it, or knocks at it as they meant to."""
        standing = self._index.standing(one.user_nid, one.room_nid)
        if standing is None or standing.outside:
            return False
        return standing.membership in (Membership.JOIN, Membership(one.membership))

    async def _leave(self, one: Offered) -> Accepted | Failed:
        key = (one.room_id, one.user_id)
        room_id = RoomId(one.room_id)

        async def accept(need: NeedAccepted) -> Any:
            ids = await self._database.read(load_offered_ids, one.room_nid, one.user_nid)
            if ids.isdisjoint(need.event.auth_event_ids):
                return Refused(need.server, 409, "M_UNKNOWN", "the user is not there by what was offered")
            self._retries.hold(key)
            return await self._handshakes.send_leave(need)

        servers = [ServerName(one.server), *servers_of(room_id)]
        return await self._handshakes.attempt(Wish("leave", room_id, UserId(one.user_id)), servers, accept)

    def _is_open(self, one: Offered, failed: Failed) -> bool:
        """Whether the server to which it was offered may still have the user, now or in a moment."""
        if not one.attempts and any(answer.server == one.server for answer in failed.said):
            return True
        return _tells_nothing(one, failed)

    async def _put_off(self, one: Offered, wait_ms: int, *, tried: bool) -> None:
        await self._worker.work(put_off_offered, one, self._clock.now_ms() + wait_ms, tried=tried)


def _tells_nothing(one: Offered, failed: Failed) -> bool:
    """Whether the server to which it was offered did not answer, or not now."""
    said = [answer for answer in failed.said if answer.server == one.server]
    return any(isinstance(answer, Silent) or is_lost(answer) or answer.status == 429 for answer in said)


def is_lost(answer: Any) -> bool:
    """Whether an answer tells nothing of what the server has done: there was none, or it is a proxy's, or a failure."""
    if isinstance(answer, Refused):
        return answer.status >= 500 or answer.status == 408
    return isinstance(answer, Silent) and not answer.answered
