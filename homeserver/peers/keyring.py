"""KeyRing: the public keys of other servers, from memory, the table, the servers themselves and notaries.

MUSTs: 1. at most one fetch a server is under way, and at most so many in all; 2. a server that had no answer is not
asked again at once, whoever wants to know; 3. a key that was ever seen stays known: old events need it; 4. what counts
for a request or an event is decided by `federation.keyring` alone; 5. which keys of a server happen to be known says nothing
of its others: each that is wanted is asked for, of the notaries too.

# spec: server-server-api#retrieving-server-keys
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, DeferredList

from federation.flows.keys import (
    Fetched,
    Wanted,
    by_server,
    fetch_direct,
    fetch_from_notary,
    fetch_keys,
    until_by_key,
)
from federation.flows.needs import NeedKeys, NeedPeer
from federation.ids import KeyId, ServerName
from federation.keyring import ServerKeys, is_key_id, is_sufficient, merge
from federation.versions import RoomRules
from homeserver.db.errors import DatabaseError
from homeserver.db.threads import Database
from homeserver.http.deadline import cut_off
from homeserver.http.transport import Unreachable
from homeserver.peers.own_keys import OwnKeys
from homeserver.peers.shared_work import SharedWork
from homeserver.runtime.clock import Clock, sleep
from homeserver.runtime.drive import drive
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.cache import ByteLru
from homeserver.store.server_keys import load_key_answer, load_server_keys, put_server_keys
from homeserver.store.work import Worker

MEMORY_BYTES = 8 * 1024 * 1024
PARALLEL = 32
# LIMIT(made-up names cost a look-up each; beyond this many that wait, somebody floods us)
MAX_RUNNING = 1_000
MAX_FOR_JOINS = 20_000
PARALLEL_FOR_STRANGERS = 8
MAX_FOR_STRANGERS = 200
PATIENCE_FOR_STRANGERS_S = 15.0
MAX_ATTEMPTS = 10_000
# A server that signs a request is there: it may be asked again soon. For events the wait doubles.
REQUEST_WAIT_S = 5.0
EVENT_WAIT_S = 15.0
EVENT_WAIT_MAX_S = 600.0
# LIMIT(made-up key ids: until a server may be asked again, notaries are asked so often for more keys of it)
MORE_ROUNDS = 3
# A notary that does not answer at all is asked again, while somebody waits for keys that only it may have.
NOTARY_WAIT_S = 2.0

Ask = Callable[[NeedPeer], Awaitable[dict[str, Any] | None]]


class _Attempt:
    """When a server was last asked, whether it answered itself, and how often in vain since it last did.

    Notaries may be asked for more of its keys meanwhile: for which they were, and how often.
    """

    __slots__ = ("answered", "asked", "at_s", "failures", "rounds")

    def __init__(self, at_s: float, failures: int, asked: Iterable[KeyId], *, answered: bool) -> None:
        self.at_s = at_s
        self.failures = failures
        self.answered = answered
        self.asked = frozenset(asked)
        self.rounds = 0

    @property
    def wait_s(self) -> float:
        return min(EVENT_WAIT_S * 2.0 ** min(self.failures, 10), EVENT_WAIT_MAX_S)

    def leaves(self, wanted: Wanted) -> bool:
        """Whether notaries may be asked for this beside it."""
        is_told = self.answered and wanted.is_current
        return not is_told and self.rounds < MORE_ROUNDS and not self.asked.issuperset(wanted.key_ids)


class KeyRing:
    """Implements ``peers.types.Keys`` and ``EventKeys``."""

    def __init__(
        self,
        own: OwnKeys,
        notaries: Sequence[ServerName],
        ask: Ask,
        database: Database,
        worker: Worker,
        clock: Clock,
        tasks: TaskGroup,
    ) -> None:
        self._own = own
        self._notaries = tuple(name for name in notaries if name != own.server_name)
        self._ask = ask
        self._database = database
        self._worker = worker
        self._clock = clock
        self._tasks = tasks
        self._memory: ByteLru[ServerName, ServerKeys] = ByteLru(MEMORY_BYTES, _size)
        self._attempts: dict[ServerName, _Attempt] = {}
        self._waiting: dict[ServerName, list[Wanted]] = {}  # what `_fetch` is waited for
        # Apart: a fetch may need a notary's keys, so that two notaries' fetches would wait for each other; and neither a
        # join's thousands nor what strangers want us to notarise must hold a request that waits now.
        self._ours = SharedWork("fetch keys", tasks, clock, parallel=PARALLEL, most=MAX_RUNNING)
        self._notarys = SharedWork("fetch a notary's keys", tasks, clock, parallel=PARALLEL, most=MAX_RUNNING)
        self._joins = SharedWork("fetch keys for a join", tasks, clock, parallel=PARALLEL, most=MAX_FOR_JOINS)
        self._strangers = SharedWork(
            "fetch keys to notarise", tasks, clock, parallel=PARALLEL_FOR_STRANGERS, most=MAX_FOR_STRANGERS
        )

    @property
    def is_busy(self) -> bool:
        """Whether so many fetches wait that another one is not begun."""
        return self._ours.is_full

    # --- for requests --------------------------------------------------------------------------------

    def known(self, server_name: ServerName) -> Mapping[KeyId, bytes] | None:
        """Every key of a server that is in memory and good for requests now; None where it must be asked for."""
        if server_name == self._own.server_name:
            return self._own.for_requests()
        keys = self._remembered(server_name)
        return (keys.for_requests(self._clock.now_ms()) or None) if keys is not None else None

    async def for_request(self, server_name: ServerName, key_id: KeyId) -> Mapping[KeyId, bytes]:
        """Keys that may have signed a request of a moment ago; fetched where need be. Empty: there are none."""
        if server_name == self._own.server_name:
            return self._own.for_requests()
        keys = await self._load(server_name)
        now_ms = self._clock.now_ms()
        if keys is None or key_id not in keys.for_requests(now_ms):
            await self._fetch(Wanted(server_name, (key_id,), now_ms, is_current=True))
            keys = self._memory.get(server_name)
        return {} if keys is None else keys.for_requests(self._clock.now_ms())

    # --- for events ----------------------------------------------------------------------------------

    def known_for_event(
        self, server_name: ServerName, key_ids: Sequence[KeyId], ts_ms: int, rules: RoomRules
    ) -> Mapping[KeyId, bytes] | None:
        """Keys in memory that count for such an event, one of these among them; None where they must be asked for."""
        keys = self._own.keys() if server_name == self._own.server_name else self._remembered(server_name)
        if keys is None or not is_sufficient(keys, key_ids, ts_ms, rules):
            return None
        return keys.for_event_at(ts_ms, rules)

    async def for_event(
        self, server_name: ServerName, key_ids: Sequence[KeyId], ts_ms: int, rules: RoomRules, *, fetch: bool
    ) -> Mapping[KeyId, bytes]:
        """Keys that count for such an event; with ``fetch`` none of these is missing that can be had."""
        # What no server can publish is neither asked for nor remembered: it may be as long as an event.
        key_ids = tuple(filter(is_key_id, key_ids))
        if not key_ids:
            return {}
        keys = await self._load(server_name)
        if fetch and server_name != self._own.server_name and not is_sufficient(keys, key_ids, ts_ms, rules):
            await self._fetch(_for_event(server_name, key_ids, ts_ms, rules))
            keys = self._memory.get(server_name)
        return {} if keys is None else keys.for_event_at(ts_ms, rules)

    async def stored(self, server_names: Sequence[ServerName]) -> Mapping[ServerName, ServerKeys]:
        """Every key of many servers that was ever seen, as far as they are here; nobody is asked."""
        own = self._own.server_name
        found = {name: keys for name in server_names if (keys := self._memory.get(name)) is not None}
        unread = [name for name in server_names if name not in found and name != own]
        if unread:
            found.update(await self._database.read(load_server_keys, unread))
        if own in server_names:
            found[own] = self._own.keys()
        return found

    async def fetch_many(self, wanted: Sequence[Wanted], *, patience_s: float = 30.0) -> Sequence[Wanted]:
        """Have the keys of many servers at hand, as far as they can be had in that time: for the events of a join.

        The servers themselves and the notaries are asked side by side; who has been answered for is not asked. What lacks
        and may be had later: its server, or a notary, did not answer. What none of them has is not to be had.
        """
        missing = await self._missing(wanted)
        if not missing:
            return ()
        until_s = self._clock.monotonic() + patience_s
        silent = set(self._notaries)
        first = self._ask_notaries(missing, self._notaries, silent)
        await self._side_by_side(
            [
                cut_off(self._clock, patience_s, Deferred.fromCoroutine(first)),
                *(
                    Deferred.fromCoroutine(self._ask_one(name, ones, until_s))
                    for name, ones in by_server(missing).items()
                ),
            ]
        )
        lacking = await self._missing(missing)
        left_s = until_s - self._clock.monotonic() - NOTARY_WAIT_S
        if lacking and silent and left_s > 0:
            await sleep(self._clock, NOTARY_WAIT_S)
            again = self._ask_notaries(lacking, sorted(silent), silent, insist=True)
            await self._side_by_side([cut_off(self._clock, left_s, Deferred.fromCoroutine(again))])
            lacking = await self._missing(lacking)
        return [one for one in lacking if silent or not self._has_answered(one.server_name)]

    async def _side_by_side(self, asked: Sequence[Deferred[None]]) -> None:
        """Wait for all; who did not answer in time is no failure."""
        results: list[tuple[bool, Any]] = await DeferredList(asked, consumeErrors=True)
        for succeeded, result in results:
            if not succeeded and not result.check(Unreachable):
                result.raiseException()

    def _has_answered(self, server_name: ServerName) -> bool:
        attempt = self._attempts.get(server_name)
        return attempt is not None and attempt.answered

    async def _missing(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        own = self._own.server_name
        names = dict.fromkeys(one.server_name for one in wanted if one.server_name != own)
        unread = [name for name in names if self._memory.get(name) is None]
        if unread:
            for name, keys in (await self._database.read(load_server_keys, unread)).items():
                self._memory.put(name, keys)
        return self._unmet([one for one in wanted if one.server_name != own])

    def _unmet(self, wanted: Iterable[Wanted]) -> list[Wanted]:
        return [one for one in wanted if not one.is_met(self._memory.get(one.server_name))]

    async def _ask_one(self, server_name: ServerName, wanted: Sequence[Wanted], until_s: float) -> None:
        async def ask() -> None:
            # Whose turn comes when nobody waits any more is left alone: the next join has its own to ask.
            if self._clock.monotonic() < until_s and self._unmet(wanted):
                await self._carry_out(server_name, self._direct(server_name))

        # A second time where what was waited for was another join's, whose time was over.
        for _ in range(2):
            left_s = until_s - self._clock.monotonic()
            if not self._unmet(wanted) or left_s <= 0 or not self._may_try(self._joins, server_name):
                return
            await self._joins.wait(server_name, ask, left_s)

    async def _ask_notaries(
        self,
        missing: Sequence[Wanted],
        notaries: Sequence[ServerName],
        silent: set[ServerName],
        *,
        insist: bool = False,
    ) -> None:
        """Ask these in turn; who answered (all of it) is taken out of ``silent``."""
        now_ms = self._clock.now_ms()

        for notary in notaries:
            answers: list[bool] = []

            async def answer(need: NeedPeer | NeedKeys, answers: list[bool] = answers) -> Any:
                answered = await self._answer(
                    replace(need, insist=insist) if isinstance(need, NeedPeer) else need
                )
                answers.append(bool(answered))
                return answered

            left = [one for one in self._unmet(missing) if one.server_name != notary]
            await self._note(await drive(fetch_from_notary(left, notary, now_ms), answer))
            if all(answers):
                silent.discard(notary)

    # --- for notaries --------------------------------------------------------------------------------

    async def signed_answer(self, server_name: ServerName, minimum_valid_until_ts_ms: int) -> bytes | None:
        """The object that a server signed about its keys, as JSON: a newer one where it is not good until then."""
        answer = await self._database.read(load_key_answer, server_name)
        if answer is None or _valid_until_ts_ms(answer) < minimum_valid_until_ts_ms:
            # What is merged with the new must be in memory.
            await self._load(server_name)
            if self._may_try(self._strangers, server_name, is_current=True):
                # From itself alone: what we sign is what it told us.
                await self._strangers.wait(
                    server_name,
                    lambda: self._carry_out(server_name, self._direct(server_name)),
                    PATIENCE_FOR_STRANGERS_S,
                )
                answer = await self._database.read(load_key_answer, server_name)
        return answer

    # --- fetching ------------------------------------------------------------------------------------

    def _remembered(self, server_name: ServerName) -> ServerKeys | None:
        """What is in memory; beyond half of its life it is fetched anew meanwhile."""
        keys = self._memory.get(server_name)
        if keys is not None and self._clock.now_ms() >= keys.refresh_after_ts_ms():
            attempt = self._attempts.get(server_name)
            if attempt is None or self._clock.monotonic() >= attempt.at_s + attempt.wait_s:
                if not self.is_busy:
                    self._ours.start(
                        server_name, lambda: self._carry_out(server_name, self._direct(server_name))
                    )
        return keys

    async def _load(self, server_name: ServerName) -> ServerKeys | None:
        """From memory or the table."""
        if server_name == self._own.server_name:
            return self._own.keys()
        keys = self._remembered(server_name)
        if keys is None:
            found = await self._database.read(load_server_keys, [server_name])
            keys = self._memory.get(server_name) or found.get(server_name)
            if keys is not None:
                self._memory.put(server_name, keys)
        return keys

    def _may_try(self, work: SharedWork, server_name: ServerName, *, is_current: bool = False) -> bool:
        """Whether a fetch may begin, or one is under way that may be waited for."""
        return server_name in work or (not work.is_full and self._is_due(server_name, is_current=is_current))

    def _is_due(self, server_name: ServerName, *, is_current: bool) -> bool:
        """Whether a server may be asked, as it was not just now."""
        attempt = self._attempts.get(server_name)
        if attempt is None:
            return True
        wait_s = REQUEST_WAIT_S if is_current else attempt.wait_s
        return self._clock.monotonic() >= attempt.at_s + wait_s

    def _is_left(self, wanted: Wanted) -> bool:
        """Whether notaries may be asked for keys of a server that was asked just now."""
        attempt = self._attempts.get(wanted.server_name)
        return attempt is not None and bool(self._notaries) and attempt.leaves(wanted)

    async def _fetch(self, wanted: Wanted) -> None:
        """Ask for keys, with all that is wanted of that server by then."""
        name, is_current = wanted.server_name, wanted.is_current
        waiting = self._waiting.setdefault(name, [])
        waiting.append(wanted)
        try:
            # A second time where what was waited for was asked on behalf of others, for other keys.
            for _ in range(2):
                is_left = self._is_left(wanted) and not self._ours.is_full
                if not is_left and not self._may_try(self._ours, name, is_current=is_current):
                    return
                await self._ours.wait(name, lambda: self._ask_for(wanted))
                if wanted.is_met(self._memory.get(name)) or not self._is_left(wanted):
                    return
        finally:
            waiting.remove(wanted)
            if not waiting:
                del self._waiting[name]

    async def _ask_for(self, wanted: Wanted) -> None:
        """Ask a server and then the notaries; where it was asked just now, these alone."""
        name = wanted.server_name
        # Who began this may have given up meanwhile.
        all_wanted = list(dict.fromkeys([wanted, *self._waiting.get(name, ())]))
        if any(self._is_due(name, is_current=one.is_current) for one in all_wanted):
            flow = fetch_keys(name, all_wanted, self._notaries, self._clock.now_ms())
            await self._carry_out(name, flow, until_by_key(all_wanted))
            return
        left = [one for one in self._unmet(all_wanted) if self._is_left(one)]
        attempt = self._attempts.get(name)
        if left and attempt is not None:
            attempt.asked |= until_by_key(left).keys()
            attempt.rounds += 1
            await self._ask_notaries(left, self._notaries, set())

    async def _carry_out(self, server_name: ServerName, flow: Flow, asked: Iterable[KeyId] = ()) -> None:
        found: list[Fetched] = []
        try:
            found = await drive(flow, self._answer)
            await self._note(found)
        finally:
            told = [one for one in found if one.keys.server_name == server_name]
            answered = any(one.is_direct for one in told)
            self._attempted(server_name, bool(told), asked, answered=answered)

    def _direct(self, server_name: ServerName) -> Flow:
        found = yield from fetch_direct(server_name, self._clock.now_ms())
        return [] if found is None else [found]

    async def _answer(self, need: NeedPeer | NeedKeys) -> Any:
        if isinstance(need, NeedPeer):
            return await self._ask(need)
        # A notary's keys: from itself alone, since another notary would ask for the same in turn.
        keys = await self._load(need.server_name)
        now_ms = self._clock.now_ms()
        if keys is None or not keys.for_requests(now_ms):
            if self._may_try(self._notarys, need.server_name, is_current=True):
                await self._notarys.wait(
                    need.server_name,
                    lambda: self._carry_out(need.server_name, self._direct(need.server_name)),
                )
            keys = self._memory.get(need.server_name)
        return {} if keys is None else keys.for_requests(now_ms)

    def _attempted(
        self, server_name: ServerName, succeeded: bool, asked: Iterable[KeyId], *, answered: bool
    ) -> None:
        attempt = self._attempts.pop(server_name, None)
        failures = 0 if succeeded else 0 if attempt is None else attempt.failures + 1
        self._attempts[server_name] = _Attempt(self._clock.monotonic(), failures, asked, answered=answered)
        if len(self._attempts) > MAX_ATTEMPTS:
            del self._attempts[next(iter(self._attempts))]

    async def _note(self, found: Sequence[Fetched]) -> None:
        """Merge into memory, and write it down."""
        stored: dict[ServerName, tuple[ServerKeys, bytes | None]] = {}
        for one in found:
            name = one.keys.server_name
            known = self._memory.get(name)
            keys = merge(known, one.keys)
            if known is not None and known.valid_until_ts_ms > one.keys.valid_until_ts_ms:
                # Out of a notary's memory: it may add keys, but is not the last word.
                keys = replace(
                    keys, fetched_ts_ms=known.fetched_ts_ms, valid_until_ts_ms=known.valid_until_ts_ms
                )
            self._memory.put(name, keys)
            earlier = stored.get(name, (None, None))[1]
            stored[name] = (keys, msgspec.json.encode(one.response) if one.is_direct else earlier)
        if stored:
            try:
                await self._worker.work(put_server_keys, list(stored.values()))
            except DatabaseError:
                # They are in memory, and will be fetched again.
                return


Flow = Generator[NeedPeer | NeedKeys, Any, list[Fetched]]


def _for_event(server_name: ServerName, key_ids: Sequence[KeyId], ts_ms: int, rules: RoomRules) -> Wanted:
    """Old room versions do not ask how long a key was good."""
    return Wanted(server_name, tuple(key_ids), ts_ms if rules.enforce_key_validity else 0)


def _valid_until_ts_ms(answer: bytes) -> int:
    """Of an answer that was checked when it was stored."""
    value: int = msgspec.json.decode(answer)["valid_until_ts"]
    return value


def _size(keys: ServerKeys) -> int:
    return 300 + 300 * len(keys.keys)
