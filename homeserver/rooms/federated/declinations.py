"""Leaves of rooms that this server is not in: rejected invites and knocks taken back, told to a server of the room.

1. The user is out whatever the others say. Where none of them answers, what they are to be told is kept, with the leave
   and in the same transaction, and tried again, later and later, for about a week; and when the server that told of the
   invite gives a sign of life.
2. It is over when a server has taken or refused it, or when the user is something else to the room meanwhile: invited
   again, or in it. A leave that came after that would undo it, so this is looked at before each request.
3. While anybody of ours tries to come into a room, nobody is told of leaves there: see ``offers.py``, where the same is so.
   Where they are not let in it goes on.

# spec: server-server-api#leaving-rooms-rejecting-invites
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from federation.flows.handshake import Accepted, Failed, NeedAccepted, Refused, Silent, Wish, is_final
from federation.ids import RoomId, ServerName, UserId, domain_of
from homeserver.db.errors import DatabaseUnavailable
from homeserver.db.threads import Database
from homeserver.rooms.federated.handshakes import Handshakes, to_client
from homeserver.rooms.federated.retries import AWAITED_MOST, Retries, Table, wait_after
from homeserver.runtime.clock import Clock
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.declined import (
    Declined,
    decline,
    forget_declined,
    load_declined_of,
    load_declined_servers,
    load_next_declined,
    put_off_declined,
)
from homeserver.store.outside import OutsideRow, Told, load_outside
from homeserver.store.placement import Membership
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex

# The first time again: with doubling waits the last attempt is some seven days after the first.
FIRST_WAIT_MS = 60_000
ATTEMPTS_MOST = 35


class Declinations:
    """See the module. ``start`` goes on with what an earlier process left."""

    def __init__(
        self,
        database: Database,
        worker: Worker,
        index: MembershipIndex,
        handshakes: Handshakes,
        tasks: TaskGroup,
        clock: Clock,
        log: Log,
    ) -> None:
        self._database = database
        self._worker = worker
        self._index = index
        self._handshakes = handshakes
        self._tasks = tasks
        self._clock = clock
        self._log = log
        self._retries: Retries[Declined] = Retries(
            "tell of declined invites",
            Table(load_next_declined, load_declined_of, load_declined_servers),
            self._try,
            database,
            tasks,
            clock,
        )

    def start(self) -> None:
        """Begin to try again what is left over."""
        self._retries.start()

    def stop(self) -> None:
        """Try nothing more."""
        self._retries.stop()

    # --- the first time ------------------------------------------------------------------------------

    async def tell(
        self, user_id: UserId, room_id: RoomId, content: Mapping[str, Any], servers: Sequence[ServerName]
    ) -> Accepted | Failed:
        """Tell a server of the room that a user of ours is out of it."""
        return await self._tell(Wish("leave", room_id, user_id, content), servers, None)

    async def put_off(self, told: Told, seen: str) -> bool:
        """Note a leave that nobody could be told of: it is tried again. False where ``seen`` is not what is kept."""
        try:
            placed = await self._worker.work(decline, told, seen, self._clock.now_ms() + FIRST_WAIT_MS)
        except DatabaseUnavailable:
            # It may be stored all the same.
            if not self._tasks.stopped:
                self._tasks.spawn_restarting("look for a declined invite", self._look)
            raise
        if placed:
            self._retries.expect(told.server)
            self._retries.look()
        return placed

    def under_way(self, room_id: RoomId) -> AbstractAsyncContextManager[None]:
        """While a user tries to come in (or knocks) nobody is told of a leave of that room; of what still holds, afterwards."""
        return self._retries.paused(room_id)

    async def _look(self) -> None:
        # In a commit: by the end of the next one the log has told that the user is out. Before that it would look over.
        for server in await self._worker.work(load_declined_servers, AWAITED_MOST):
            self._retries.expect(server)
        self._retries.look()

    # --- again ---------------------------------------------------------------------------------------

    def heard_from(self, server: ServerName) -> None:
        """A sign of life of a server."""
        self._retries.heard_from(server)

    async def _try(self, one: Declined, early: bool) -> None:
        if self._retries.is_paused(one.room_id):
            if not early:
                await self._put_off(one, FIRST_WAIT_MS, tried=False)
            return
        row = await self._find(one)
        outcome: Accepted | Failed | None = None
        if row is not None:
            room_id, user_id = RoomId(one.room_id), UserId(one.user_id)
            content: dict[str, Any] = msgspec.json.decode(row.event)["content"]
            wish = Wish("leave", room_id, user_id, content)
            outcome = await self._tell(wish, [ServerName(row.server), *servers_of(room_id)], one)
        if early and isinstance(outcome, Failed) and may_pass(outcome):
            return
        if isinstance(outcome, Failed) and may_pass(outcome) and one.attempts + 1 < ATTEMPTS_MOST:
            await self._put_off(one, wait_after(FIRST_WAIT_MS, one.attempts), tried=True)
            return
        if isinstance(outcome, Failed):
            reason = str(to_client(outcome))
            self._log.info("nobody took a leave", room_id=one.room_id, user_id=one.user_id, reason=reason)
        await self._worker.work(forget_declined, one.room_nid, one.user_nid)

    async def _put_off(self, one: Declined, wait_ms: int, *, tried: bool) -> None:
        await self._worker.work(put_off_declined, one, self._clock.now_ms() + wait_ms, tried=tried)

    async def _find(self, one: Declined) -> OutsideRow | None:
        """What is kept of the leave; None where the user is something else to the room by now."""
        standing = self._index.standing(one.user_nid, one.room_nid)
        if standing is None or not standing.outside or standing.membership != Membership.LEAVE:
            return None
        found = await self._database.read(load_outside, one.user_nid, [one.room_nid])
        row = found.get(one.room_nid)
        return row if row is not None and row.event_id == one.event_id else None

    async def _tell(
        self, wish: Wish, servers: Sequence[ServerName], again: Declined | None
    ) -> Accepted | Failed:
        async def accept(need: NeedAccepted) -> Any:
            if again is not None:
                if await self._find(again) is None:
                    return Refused(need.server, 409, "M_UNKNOWN", "it is over")
                self._retries.hold((wish.room_id, wish.user_id))
            return await self._handshakes.send_leave(need)

        return await self._handshakes.attempt(wish, servers, accept)


def may_pass(failed: Failed) -> bool:
    """Whether it may go another time: a server did not answer, or cannot now, and none has refused for good.

    One that does not know the room may know no more than a part of it yet: so answer we (``admission.py``) and Synapse.
    """
    refusals = [one for one in failed.said if isinstance(one, Refused)]
    if any(is_final(one) for one in refusals):
        return False
    return any(isinstance(one, Silent) for one in failed.said) or any(
        one.status >= 500 or one.status == 429 or one.errcode == "M_NOT_FOUND" for one in refusals
    )


def servers_of(room_id: RoomId) -> list[ServerName]:
    """The server that made the room, where its id tells."""
    return [domain_of(room_id)] if ":" in room_id else []
