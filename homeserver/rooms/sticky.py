"""Keeps the promises of sticky events: whoever comes is told, and what was soft-failed is looked at again.

1. A server that comes into a room gets what users of ours have stuck there, in its order.
2. When the membership of somebody moves whose sticky events were soft-failed, the current state decides about them
   again; what it allows now is shown, unless it lacks the approval of the room's policy server.

spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4354
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from federation.auth.rules import check_state_dependent
from federation.auth.select import CREATE, POWER_LEVELS, auth_keys_for
from federation.ids import RoomId
from federation.policy import check as check_policy_signature
from federation.verdict import Accept
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import Turn
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.changes import Change
from homeserver.store.placement import MOVING, Membership, StateMove, moves_of
from homeserver.store.stays import server_of
from homeserver.store.sticky import Sticky, load_sticky, relay_sticky, stick_again, sweep_sticky
from homeserver.store.work import Worker
from homeserver.stream.servers import ServerIndex
from homeserver.stream.sticky import StickyIndex


class StickyKeeper:
    """See the module. ``apply`` is subscribed to the log after the index."""

    def __init__(
        self,
        server_name: str,
        rooms: RoomRegistry,
        worker: Worker,
        index: StickyIndex,
        servers: ServerIndex,
        tasks: TaskGroup,
        clock: Clock,
    ) -> None:
        self._server_name = server_name
        self._rooms = rooms
        self._worker = worker
        self._index = index
        self._servers = servers
        self._tasks = tasks
        self._clock = clock

    async def load(self) -> None:
        """What an earlier process knew."""
        self._index.load(await self._rooms.tools.database.read(load_sticky, self._clock.now_ms()))

    def start(self) -> None:
        """Look again at what an earlier process may have been about to."""
        for room_nid, hidden in self._index.all_hidden(self._clock.now_ms()).items():
            self._spawn_look(room_nid, hidden)

    async def sweep(self) -> None:
        """Forget what is over; called now and then."""
        if not self._index.is_empty:
            now_ms = self._clock.now_ms()
            self._index.sweep(now_ms)
            await self._worker.work(sweep_sticky, now_ms)

    kinds = MOVING  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        if self._index.is_empty or self._tasks.stopped:
            return
        now_ms = self._clock.now_ms()
        for change in changes:
            for move in moves_of(change):
                if not move.member_nid:
                    continue
                hidden = self._index.hidden(change.topic, move.user_id, now_ms)
                if hidden:
                    self._spawn_look(change.topic, hidden)
                if move.membership == Membership.JOIN and server_of(move.user_id) != self._server_name:
                    self._tasks.spawn_restarting(
                        "send sticky events", partial(self._send, change, move, now_ms)
                    )

    async def _send(self, change: Change, move: StateMove, now_ms: int) -> None:
        """To a server that has come: what users of ours have stuck."""
        server = server_of(move.user_id)
        shown = self._index.shown(change.topic, 0, change.pos, now_ms)
        ours = [one for one in shown if server_of(one.sender_id) == self._server_name]
        if ours and await self._servers.came(change.topic, server, change.pos):
            await self._worker.work(relay_sticky, ours, server)

    def _spawn_look(self, room_nid: int, hidden: Sequence[Sticky]) -> None:
        self._tasks.spawn_restarting(
            "look at sticky events again", partial(self._look_again, room_nid, hidden)
        )

    async def _look_again(self, room_nid: int, hidden: Sequence[Sticky]) -> None:
        names = await self._rooms.tools.interner.room_names([room_nid])
        actor = await self._rooms.find(RoomId(names[room_nid]))
        await actor.run(partial(_show_allowed, hidden=hidden))


async def _show_allowed(turn: Turn, *, hidden: Sequence[Sticky]) -> None:
    events = await turn.events([one.event_nid for one in hidden])
    server = await turn.policing.server_of(turn) if turn.policing is not None else None
    for sticky in hidden:
        event = events[sticky.event_nid]
        keys = auth_keys_for(event.rules, event.type, event.sender, event.state_key, event.content)
        await turn.load([CREATE, POWER_LEVELS, *keys])
        verdict = check_state_dependent(event, turn.lookup, await turn.power_levels())
        if isinstance(verdict, Accept):
            # Where the state says no, nobody looks at the approval: it may be missing as well.
            verdict = check_policy_signature(event, server)
        if isinstance(verdict, Accept):
            # It may be shown already: of two looks at once the second one comes too late, and so does one that runs again
            # because nobody heard that the first was stored.
            turn.extra.append(partial(stick_again, sticky=sticky, shown=True))
