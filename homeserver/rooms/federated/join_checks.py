"""The driver of ``federation.flows.join``: verifies an answer to ``send_join`` in chunks, off the reactor, and out of the
process where that helps (``check_processes.py``).

What holds may be stored while the rest is checked (``Keep``): no verdict depends on what comes later. Where the answer
is refused in the end, events of the room are stored that nothing points to, each of them sound by itself.

Keys are asked for in bulk before anything is checked; what cannot be had then is missing, and the events that need it
are left out. What a server, or a notary, did not answer for is told (`Verified.awaited`): the join is not complete before
they were asked again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, DeferredSemaphore

from federation.errors import Malformed
from federation.event import Event, parse_untrusted
from federation.flows.join import (
    MAX_TEXT_BYTES,
    Conclusion,
    JoinAnswer,
    Lot,
    read_answer,
    read_state,
    signers_of,
)
from federation.flows.join_events import Checked, Terms, check_events
from federation.flows.keys import Wanted
from federation.ids import ServerName
from federation.versions import RoomRules
from homeserver.peers.types import EventKeys
from homeserver.rooms.federated.check_processes import CheckProcesses
from homeserver.rooms.federated.signed import co_signed

CHUNK = 128
SIDE_BY_SIDE = 2  # as many as there are processes at most
AHEAD = 8  # chunks that are checked or wait for it while what came of others is judged and stored
# LIMIT(servers whose keys are waited for: those whose events lack most. The others' events stay out)
AWAITED_MOST = 1_000

RunInThread = Callable[..., Deferred[Any]]
Keep = Callable[[Lot], Awaitable[None]]
"""Told now and then that more of a lot holds than before."""


@dataclass(frozen=True, slots=True)
class Verified:
    """An answer that holds: the join as it is to be stored, the events, and the state before the join."""

    server: ServerName
    join: Event
    lot: Lot
    conclusion: Conclusion
    awaited: tuple[Wanted, ...] = ()
    """Keys that were not to be had just now, and for want of which events were left out."""


class JoinChecks:
    """Raises ``Malformed`` for an answer that does not hold."""

    def __init__(
        self, keys: EventKeys, run_in_thread: RunInThread, processes: CheckProcesses | None = None
    ) -> None:
        self._keys = keys
        self._run = run_in_thread
        self._processes = processes

    def prepare(self) -> None:
        """The whole state of a room is being asked for."""
        if self._processes is not None:
            self._processes.prepare()

    async def verify(self, server: ServerName, join: Event, body: bytes) -> Verified:
        """Verify the answer of a server to our join."""
        answer: JoinAnswer = await self._run(read_answer, body)
        lot, awaited = await self._check(answer, join)
        join = await self._cosigned(join, answer.event)
        return await self._conclude(server, join, lot, awaited)

    async def verify_state(
        self, server: ServerName, join: Event, body: bytes, keep: Keep | None = None
    ) -> Verified:
        """Verify what a server says of the whole state before our join."""
        self.prepare()  # which may have been long ago when it was asked for
        lot, awaited = await self._check(await self._run(read_state, body), join, keep)
        return await self._conclude(server, join, lot, awaited)

    async def ask_again(self, awaited: Sequence[Wanted]) -> bool:
        """Ask for keys once more; whether there is news: some came, or a server said that it has no such."""
        return len(await self._keys.fetch_many(awaited)) < len(awaited)

    async def _check(
        self, answer: JoinAnswer, join: Event, keep: Keep | None = None
    ) -> tuple[Lot, tuple[Wanted, ...]]:
        lot = Lot(answer, join.room_id, join.rules)
        wanted = await self._wanted(lot, join.rules)
        lacking = await self._keys.fetch_many(wanted)
        silent = frozenset(one.server_name for one in lacking)
        keys = await self._keys.stored(list(dict.fromkeys(one.server_name for one in wanted)))
        terms = lot.terms(keys, silent)
        for start in range(0, lot.creates, CHUNK):
            count = min(CHUNK, lot.creates - start)
            lot.take(start, await self._check_events(lot.texts(start, count), terms))
        problem = await self._run(lot.find_create)
        if problem is not None:
            raise Malformed(problem)
        await self._judge(lot)
        terms = lot.terms(keys, silent)
        running: deque[tuple[int, Deferred[Checked]]] = deque()
        starts = deque(range(lot.creates, lot.size, CHUNK))

        places = DeferredSemaphore(SIDE_BY_SIDE)

        def check_next() -> None:
            while starts and len(running) < AHEAD:
                start = starts.popleft()
                checking = places.run(self._check_events, lot.texts(start, CHUNK), terms)
                running.append((start, checking))

        try:
            check_next()
            while running:
                start, checking = running[0]
                checked = await checking
                running.popleft()
                check_next()
                lot.take(start, checked)
                await self._judge(lot)
                if keep is not None:
                    await keep(lot)
        finally:
            for _, checking in running:
                checking.addErrback(lambda _: None)
                checking.cancel()
        awaited = {name for name, _ in lot.awaited.most_common(AWAITED_MOST)}
        return lot, tuple(one for one in lacking if one.server_name in awaited)

    def _check_events(self, texts: Sequence[bytes], terms: Terms) -> Deferred[Checked]:
        if self._processes is not None:
            return Deferred.fromCoroutine(self._processes.check(texts, terms))
        return self._run(check_events, texts, terms)

    async def _judge(self, lot: Lot) -> None:
        while lot.is_ready:
            await self._run(lot.judge, CHUNK)

    async def _conclude(
        self, server: ServerName, join: Event, lot: Lot, awaited: tuple[Wanted, ...]
    ) -> Verified:
        conclusion = await self._run(lot.conclude, join, partial=lot.members_omitted)
        if conclusion.problem is not None:
            raise Malformed(conclusion.problem)
        return Verified(server, join, lot, conclusion, awaited)

    async def _wanted(self, lot: Lot, rules: RoomRules) -> list[Wanted]:
        return [
            Wanted(one.server, one.key_ids, one.newest_ts_ms if rules.enforce_key_validity else 0)
            for one in await self._run(lot.peek)
        ]

    async def _cosigned(self, join: Event, text: bytes) -> Event:
        """The join with the signature of the server that let us in, where the room wants one.

        # spec: server-server-api#restricted-rooms
        """
        needed = [name for name, key_ids in signers_of(join) if not key_ids]
        if not needed:
            return join
        if len(text) > MAX_TEXT_BYTES:
            raise Malformed("it gives another event back than ours")
        try:
            data = msgspec.json.decode(text or b"{}", type=dict[str, Any])
            returned = parse_untrusted(data, join.rules)
        except (msgspec.MsgspecError, Malformed, RecursionError):
            raise Malformed("it does not give the event back that it signed") from None
        if returned.event_id != join.event_id:
            raise Malformed("it gives another event back than ours")
        signed = await co_signed(join, returned.json["signatures"], needed, self._keys)
        if signed is None:
            raise Malformed("it did not sign the event")
        return signed
