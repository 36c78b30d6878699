"""Invites of a new room in which other servers have a say: side by side, and the client waits for them only so long.

The specification does not tell what a refused invite means for the room. An error would have clients make the same room
again and again; so the answer is the room, in which it shows who is invited, and the log says why the others are not. What
has not come to an end when the answer goes out goes on after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from twisted.internet.defer import Deferred, DeferredSemaphore

from federation.builder import Draft
from federation.ids import ServerName, domain_of
from homeserver.http.errors import MatrixError
from homeserver.rooms.actor import RoomActor
from homeserver.rooms.federated.remote_invites import ServerAwayError
from homeserver.runtime.clock import Clock, unless_over
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup, all_of

# LIMIT(a client waits for the answer, however many servers are silent)
PATIENCE_S: Final = 10.0
# LIMIT(servers that are asked at the same time for one room)
AT_ONCE: Final = 10

Chain: TypeAlias = Callable[[], Awaitable[None]]
"""Invites in which the same server has a say: one after the other."""


class FirstInvites:
    """See the module."""

    def __init__(
        self,
        invite_remote: Callable[[RoomActor, Draft], Awaitable[str]],
        tasks: TaskGroup,
        clock: Clock,
        log: Log,
    ) -> None:
        self._invite_remote = invite_remote
        self._tasks = tasks
        self._clock = clock
        self._log = log

    async def send(self, actor: RoomActor, drafts: Sequence[Draft], others: Sequence[Chain] = ()) -> None:
        """Invite users of other servers, and do the others; what takes longer than a client may wait goes on without it."""
        by_server: dict[ServerName, list[Draft]] = {}
        for draft in drafts:
            by_server.setdefault(domain_of(draft.state_key or ""), []).append(draft)
        reasons: dict[str, str] = {}
        chains = [partial(self._invite, actor, some, reasons) for some in by_server.values()]
        if self._tasks.stopped or not (chains or others):
            return
        waiter: Deferred[None] = Deferred()

        def go_on(_: object = None) -> None:
            if not waiter.called:
                waiter.callback(None)

        work = self._work(actor.room_id, [*chains, *others], reasons)
        self._tasks.spawn("invites to a new room", work).addBoth(go_on)
        with unless_over(self._clock, PATIENCE_S, go_on):
            await waiter

    async def _work(self, room_id: str, chains: Sequence[Chain], reasons: dict[str, str]) -> None:
        places = DeferredSemaphore(AT_ONCE)

        def begin(chain: Chain) -> Deferred[None]:
            return Deferred.fromCoroutine(_run(chain))

        await all_of([places.run(begin, chain) for chain in chains])
        if reasons:
            self._log.info("not all were invited", room_id=room_id, reasons=reasons)

    async def _invite(self, actor: RoomActor, drafts: Sequence[Draft], reasons: dict[str, str]) -> None:
        """Invite users of one server, which is waited for once where it is away, and not for each of them."""
        away: str | None = None
        for draft in drafts:
            user_id = draft.state_key or ""
            if away is not None:
                reasons[user_id] = away
                continue
            try:
                await self._invite_remote(actor, draft)
            except MatrixError as error:
                reasons[user_id] = str(error)
                if isinstance(error, ServerAwayError):
                    away = str(error)


async def _run(chain: Chain) -> None:
    await chain()
