"""Delivers to application services: one task for each at most, so that one that is down never slows anybody else.

A transaction is kept in the database before it is sent for the first time, and sent byte for byte under the same id until
it is confirmed, after restarts too. Positions and back-offs are stored with the follower's cursor (``Memory``).

# spec: application-service-api#pushing-events
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from homeserver.appservices.bundles import MOMENT_BYTES, Bundle, Moment, Names, Tools, bounded, load_bundle
from homeserver.appservices.courier import Courier
from homeserver.appservices.outbox import QUEUE_MOST, RETRY_MAX_MS, Outbox
from homeserver.db.errors import DatabaseError
from homeserver.db.threads import Database
from homeserver.db.tx import Tx, WriteTx
from homeserver.runtime.clock import Clock, Timer, call_at
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.appservices import (
    Ask,
    Owed,
    OwedEvent,
    OwedInvite,
    OwedReceipt,
    Pending,
    Progress,
    confirm_messages,
    load_devices_with_keys,
    load_owed,
    put_transaction,
    store_progress,
)
from homeserver.store.client_events import ClientEventCache
from homeserver.store.device_lists import (
    load_changed_users,
    load_joined,
    load_member_moves,
    load_sharing,
)
from homeserver.store.ids import STRIPPED, Interner
from homeserver.store.state import BaseCache
from homeserver.store.work import Worker

# What is only of the moment waits so long for more of it.
MOMENT_WAIT_MS = 250
# Rows that are looked at in one read while somebody catches up.
OWED_AT_ONCE = 1_000
# Positions that are looked at in one read: what is sorted there is bounded, however long somebody was away.
LOOK_MOST = 50_000
_PEEK = 1_000
_DATABASE_WAIT_MS = 5_000
_KEYS_MOST = 1_000


class Presences(Protocol):
    """Tells who is online (``ephemeral.presence.Presence``)."""

    def describe(self, user_nid: int) -> Mapping[str, Any]: ...


class Deliveries:
    """See the module. All in the reactor thread."""

    def __init__(
        self,
        boxes: Sequence[Outbox],
        courier: Courier,
        database: Database,
        worker: Worker,
        interner: Interner,
        cache: ClientEventCache,
        bases: BaseCache,
        rooms_since: Callable[[int], list[int]],
        typing_in: Callable[[int], Sequence[str]],
        presence: Presences | None,
        clock: Clock,
        entropy: Entropy,
        log: Log,
        store_soon: Callable[[], None],
    ) -> None:
        self.boxes = tuple(boxes)
        self._by_id = {box.service.id: box for box in boxes}
        self._courier = courier
        self._database = database
        self._worker = worker
        self._interner = interner
        self._cache = cache
        self._bases = bases
        self._rooms_since = rooms_since
        self._typing_in = typing_in
        self._presence = presence
        self._clock = clock
        self._entropy = entropy
        self._log = log
        self._store_soon = store_soon
        self._tasks = TaskGroup(clock, log)
        self._timers: dict[str, tuple[int, Timer]] = {}  # when it is due
        self.started = self._stopped = False
        self._stored: dict[str, Progress] = {}
        self._skipped: Sequence[tuple[int, int]] = ()
        self._saving: list[Progress] = []
        self._forgetting: list[tuple[Outbox, str]] = []

    def start(self, stored: Mapping[str, Progress], skipped: Sequence[tuple[int, int]]) -> None:
        """The outboxes are where an earlier process was: send. ``skipped``: positions at which nothing ever was."""
        self._stored = dict(stored)
        self._skipped = skipped
        self.started = True
        for box in self.boxes:
            self.ready(box)
        self._store_soon()

    async def stop(self) -> None:
        """Send nothing more. What is under way is given up: it is sent again after the next start."""
        self._stopped = True
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self._tasks.stop()

    def heard_from(self, service_id: str) -> None:
        """An application service spoke to us."""
        box = self._by_id.get(service_id)
        if box is not None and box.failures and not box.busy and box.heard_from(self._clock.now_ms()):
            self.ready(box)

    def is_down(self, service_id: str) -> bool:
        """Whether an application service did not answer last time."""
        box = self._by_id.get(service_id)
        return box is not None and box.failures > 0

    @property
    def waiting(self) -> int:
        """How many application services do not answer."""
        return sum(1 for box in self.boxes if box.failures)

    # --- whose turn it is --------------------------------------------------------------------------------

    def ready(self, box: Outbox) -> None:
        """Something about it has changed: set its timer, or begin."""
        if box.busy or self._stopped or not self.started:
            return
        if not box.has_news:
            if box.told < box.passed:
                box.rest()
                self._store_soon()
            return
        # Not now: we may be within a commit, and more may come.
        now_ms = self._clock.now_ms()
        due_ms = max(box.retry_at_ms, now_ms if box.is_owed else now_ms + MOMENT_WAIT_MS)
        known = self._timers.pop(box.service.id, None)
        if known is not None:
            known[1].cancel()
            due_ms = max(min(due_ms, known[0]), box.retry_at_ms)
        timer = call_at(self._clock, due_ms, self._begin, box, longest_ms=RETRY_MAX_MS)
        self._timers[box.service.id] = (due_ms, timer)

    def _begin(self, box: Outbox) -> None:
        del self._timers[box.service.id]
        box.busy = True
        self._tasks.spawn("tell an application service", self._attend(box))

    async def _attend(self, box: Outbox) -> None:
        try:
            while box.has_news and await self._turn(box):
                pass
        except DatabaseError as error:
            box.fall_behind()
            if box.pending is None:
                box.restore_moments()
            box.retry_at_ms = self._clock.now_ms() + _DATABASE_WAIT_MS
            self._log.warning("what an application service is owed could not be read", error=str(error))
        finally:
            box.busy = False
            self._store_soon()
            if not self._stopped:
                self.ready(box)

    async def _turn(self, box: Outbox) -> bool:
        """One transaction, or a look for what is owed; whether to go on at once."""
        if box.over is not None:
            progress = box.progress()
            await self._worker.work(confirm_messages, box.over, progress)
            self._stored[box.service.id] = progress
            box.over = None
        if box.pending is None:
            await self._make(box)
        if box.pending is None:
            return True  # nothing among what was looked at concerned it
        box.attempt_ms = self._clock.now_ms()
        pending = box.pending
        status = await self._courier.put_transaction(box.service, pending.txn_id, pending.body)
        if status == 413 and box.refused():
            return True
        if status != 200:
            box.failed(self._clock.now_ms(), self._entropy.jitter)
            if status == 413:
                self._log.warning(
                    "an application service refuses a single event for its size", service=box.service.id
                )
            elif box.failures == 1:
                self._log.warning("an application service does not answer", service=box.service.id)
            return False
        if box.failures:
            self._log.info("an application service answers again", service=box.service.id)
        box.succeeded()
        return True

    # --- making a transaction ----------------------------------------------------------------------------

    async def _make(self, box: Outbox) -> None:
        was_behind = box.behind
        if was_behind:
            owed, upto = await self._look(box)
        else:
            waiting = box.peek(_PEEK)
            owed = bounded(waiting)
            # The newest of it may be ahead of what was looked at: the follower can be in the middle of a change.
            upto = owed[-1].pos if owed else 0
            if len(owed) == len(box.queue):
                upto = max(upto, box.passed, box.told)
        # What is of the moment, for its turn.
        waits = owed and box.is_narrow and not box.has_keys and not box.owed_last
        moment = Moment() if waits else await self._moment(box)
        reached = upto
        if moment and (box.is_narrow or box.has_keys):
            # Keys have no row: were they told after what is owed, nobody would look for them after a restart.
            owed, upto = (), box.told
        if not owed and not moment:
            box.take(upto)
            box.told = max(box.told, upto)
            return
        bundle = Bundle(box.service, owed, upto, self._clock.now_ms())
        strip_keys = await self._find_strip_keys(owed)
        tools = Tools(self._cache, self._bases, strip_keys)
        loaded = await self._database.read(load_bundle, owed, list(moment.devices), tools)
        names = await self._names(owed, moment)
        body = bundle.write(loaded, names, moment, box.bytes_most)
        delivered = tuple(bundle.delivered.items())
        pending = Pending(box.service.id, self._entropy.token(18), bundle.upto, body, delivered)
        if bundle.owed:
            await self._worker.work(put_transaction, pending)
            # Its row has taken the place of the one before.
            box.confirmed.clear()
        box.is_kept = box.owed_last = bool(bundle.owed)
        box.is_least = len(bundle.owed) + bool(moment) == 1 and (not moment or _moments_most(box) == 1)
        box.take(bundle.upto)
        if was_behind and bundle.upto < reached:
            # Not all of it had room: the rest is still in the backlog.
            box.fall_behind()
        box.pending = pending

    async def _look(self, box: Outbox) -> tuple[Sequence[Owed], int]:
        """What is owed to one that is behind, from the tables: the oldest, and up to where this is all."""
        if not box.backlog:
            await self._read(box)
        found = list(box.backlog)
        owed = bounded(found)
        if len(owed) < len(found):
            return owed, owed[-1].pos
        if box.looked >= max(box.passed, box.missed):
            # Nothing came meanwhile: from here on it keeps up.
            box.behind = False
        return owed, box.looked

    async def _read(self, box: Outbox) -> None:
        interest = box.interest
        for first, last in self._skipped:
            if first <= box.told + 1 <= last:
                box.told = last
        upto = min(box.passed, box.told + LOOK_MOST)
        rooms = self._rooms_since(box.told)
        if box.service.registration.rooms:
            names = await self._interner.room_names(rooms)
            named = [nid for nid in rooms if nid in names and interest.is_named(nid, names[nid])]
        else:
            named = [nid for nid in rooms if interest.is_known(nid)]
        ask = Ask(
            frozenset(interest.user_nids),
            frozenset(interest.user_ids),
            frozenset(rooms),
            frozenset(named),
            frozenset(interest.named),
            box.told,
            upto,
            OWED_AT_ONCE,
            box.service.registration.wants_ephemeral,
        )
        found, looked = await self._database.read(load_owed, ask)
        if box.service.registration.encryption:
            # While it was away keys may have been used up, and others may have new ones.
            devices, changed, left = await self._database.read(_load_keys, ask, interest.rooms)
            box.devices.update(devices)
            for user_nid in changed:
                box.note(box.changed, user_nid)
            for user_nid in left:
                box.note(box.left, user_nid)
        box.backlog.extend(found)
        box.looked = looked

    async def _moment(self, box: Outbox) -> Moment:
        most = _moments_most(box)
        moment = Moment(*box.take_keys(most))
        present = box.take_presence(most)
        if present and self._presence is not None:
            names = await self._interner.user_names(sorted(present))
            moment.presence = [
                {"type": "m.presence", "sender": name, "content": self._presence.describe(nid)}
                for nid, name in names.items()
            ]
        moment.typing = box.take_typing(most, self._typing_in)
        return moment

    async def _find_strip_keys(self, owed: Sequence[Owed]) -> list[int]:
        """The numbers of what is told with invites, where there may be one; a key that no room ever used has none."""
        if not any(isinstance(one, OwedEvent) and one.own for one in owed):
            return []
        numbers = [await self._interner.find_key(key) for key in STRIPPED]
        return [number for number in numbers if number is not None]

    async def _names(self, owed: Sequence[Owed], moment: Moment) -> Names:
        rooms = set(moment.typing)
        for one in owed:
            if isinstance(one, OwedEvent):
                rooms.add(one.room_nid)
            elif isinstance(one, OwedReceipt):
                rooms.add(one.receipt.room_nid)
            elif isinstance(one, OwedInvite):
                rooms.add(one.told.room_nid)
        users = {*moment.changed, *moment.left}
        return Names(
            await self._interner.room_names(sorted(rooms)), await self._interner.user_names(sorted(users))
        )

    # --- what outlasts the process (stream.followers.Memory) ---------------------------------------------

    def unsaved(self) -> Callable[[WriteTx], None] | None:
        """Stores how far everybody is; None: nothing has moved."""
        if not self.started:
            return None
        now = [box.progress() for box in self.boxes]
        moved = [one for one in now if self._stored.get(one.service_id) != one]
        self._forgetting = [(box, txn_id) for box in self.boxes for txn_id in sorted(box.confirmed)]
        self._saving = moved
        if not moved and not self._forgetting:
            return None
        confirmed = [txn_id for _, txn_id in self._forgetting]
        return lambda tx: store_progress(tx, moved, confirmed)

    def saved(self) -> None:
        """What ``unsaved`` gave last is on the disk."""
        self._stored.update((one.service_id, one) for one in self._saving)
        for box, txn_id in self._forgetting:
            box.confirmed.discard(txn_id)
        self._saving, self._forgetting = [], []


def _load_keys(tx: Tx, ask: Ask, room_nids: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Devices of its users with keys; users who concern it and came to, or whose keys changed; those who do no more."""
    changed = set(load_changed_users(tx, ask.after, ask.upto))
    moves = load_member_moves(tx, sorted(ask.rooms), ask.after, ask.upto)
    # Where its own users moved, they may have met everybody, or left them.
    crossed = {move.room_nid for move in moves if move.user_nid in ask.user_nids}
    concerned = crossed.union(room_nids)
    moved = {move.user_nid for move in moves if move.room_nid in concerned} | load_joined(tx, sorted(crossed))
    others = (changed | moved) - ask.user_nids
    sharing = load_sharing(tx, others, room_nids) if others else set()
    devices = load_devices_with_keys(tx, sorted(ask.user_nids), _KEYS_MOST)
    return devices, sorted(sharing | (changed & ask.user_nids)), sorted(moved - sharing - ask.user_nids)


def _moments_most(box: Outbox) -> int:
    """How many rooms, users and devices one transaction tells of what is of the moment, of each."""
    return max(box.bytes_most // MOMENT_BYTES, 1)


def latest_retry_ms(now_ms: int) -> int:
    """No back-off of an earlier process lasts longer than this."""
    return now_ms + RETRY_MAX_MS


assert _PEEK <= QUEUE_MOST
