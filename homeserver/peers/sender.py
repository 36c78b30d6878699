"""The senders of all destinations: who is due, how many at a time, and what outlasts the process.

The rules of one destination's queue are ``federation/queue.py``'s. Here:

1. A destination is an object only while there is something for it; who has everything is forgotten.
2. Destinations that failed, and those that are slow, wait for places of their own (``peers/places.py``): a thousand of
   them keep nobody else waiting.
3. One transaction a turn, then the next destination's: nobody is starved by a busy one.
4. Nothing is stored for a message. ``unsaved`` gives the rows of those that are behind or failing, and the follower's
   cursor is stored in the same transaction: after a restart every event is either behind a row's ``caught_up_to`` or
   after the cursor.

# spec: server-server-api#transactions
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush

from federation.ids import ServerName
from federation.queue import Destination, Outcome, OutgoingEdu, PduRef, Transaction
from homeserver.config.settings import Settings
from homeserver.db.errors import DatabaseError
from homeserver.db.threads import Database
from homeserver.db.tx import Tx, WriteTx
from homeserver.peers.delivery import Carrier, Delivery
from homeserver.peers.device_debts import EDUS_AT_ONCE, Debt, LoadDevices
from homeserver.peers.places import PROMPT_S, Places
from homeserver.runtime.clock import LOOK_AGAIN_S, Clock, DelayedCall
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.changes import load_cursors, load_position
from homeserver.store.hearsay import sweep_hearsay
from homeserver.store.outgoing import (
    OWED_MOST,
    Owing,
    load_destinations,
    load_owed,
    load_shared,
    store_destinations,
)
from homeserver.store.stays import Stay
from homeserver.store.to_device import forget_sent, load_outgoing_destinations
from homeserver.store.work import Worker
from homeserver.stream.servers import ServerIndex

FOLLOWER = "federation"
STATES = ("sending", "waiting", "failing")
# A server that speaks to us but does not answer is not tried more often than this.
WAKE_AGAIN_MS = 2_000
# From this failure on what is only ephemeral is dropped: it would be stale.
STALE_AFTER = 2
# A transaction that is refused as such so often (for some twenty minutes) is dropped, or nothing would ever follow it.
REFUSALS_MOST = 8
_FAILED_WAIT_MS = 5_000
# To begin with one may take milliseconds, where there are many rooms; others have their turn between so many.
_BEGUN_AT_ONCE = 8


@dataclass(slots=True, eq=False)
class _Link:
    """One destination, and where its sender is."""

    machine: Destination
    devices: Debt
    busy: bool = False
    queued: bool = False
    timer_ms: int | None = None
    hold_ms: int = 0  # not before this, whatever the machine says: the database failed
    attempt_ms: int = 0  # when the last attempt began
    silent: bool = True  # the last failure was silence
    refusals: int = 0
    made: tuple[str, int] = ("", 0)  # the id of the transaction that was tried last, and when it was made
    stays: Mapping[int, Stay] | None = None  # of the catch-up that goes on: the rooms it is in
    stays_upto: int = 0


class Sender:
    """See the module. ``start`` before ``enqueue``; all in the reactor thread."""

    def __init__(
        self,
        carrier: Carrier,
        database: Database,
        settings: Settings,
        clock: Clock,
        entropy: Entropy,
        log: Log,
        rooms_since: Callable[[int], list[int]],
        servers: ServerIndex,
        worker: Worker,
        load_devices: LoadDevices,
        store_soon: Callable[[], None],
    ) -> None:
        self._carrier = carrier
        self._database = database
        self._settings = settings
        self._clock = clock
        self._entropy = entropy
        self._log = log
        self._rooms_since = rooms_since  # the rooms with something after a position
        self._servers = servers
        self._worker = worker
        self._load_devices = load_devices
        self._store_soon = store_soon
        self._tasks = TaskGroup(clock, log)
        self._boot = entropy.id(8)
        self._made = 0  # machines so far, for transaction ids
        self._links: dict[ServerName, _Link] = {}
        self._passed = 0
        self._started = self._stopped = False
        self._places: Places[ServerName] = Places()
        self._pumping = False
        self._timers: list[tuple[int, ServerName]] = []
        self._timer: DelayedCall | None = None
        self._timer_at = 0
        self._latest_ms = 0  # wall time was: if it is earlier when the timer ends, it was set back
        self._stored: dict[str, Owing | None] = {}  # None: nobody knows whether it is, or which
        self._saving: dict[str, Owing] | None = None
        self._relayed = True  # there may be relays that are stored

    async def start(self) -> None:
        """Go on with what an earlier process owed."""
        if self._started:
            return  # what came after it failed, and everything is started anew
        owing, outboxes, cursor = await self._database.read(_load_start)
        self._passed = cursor
        self._started = True
        latest_ms = self._clock.now_ms() + self._limits()[1]
        for row in owing:
            self._stored[row.server_name] = row
            name = ServerName(row.server_name)
            if self._carrier.allows(name):
                link = self._link(
                    name, row.caught_up_to, row.failures, min(row.retry_at_ts_ms, latest_ms) or None
                )
                link.machine.mark_behind(cursor)
                if row.devices_after:
                    link.devices = Debt(row.devices_after)
                    link.devices.forget_rooms()
                    link.devices.add(cursor)
        for server, oldest in outboxes.items():
            name = ServerName(server)
            if oldest <= cursor and self._carrier.allows(name):
                link = self._links.get(name) or self._link(name, cursor)
                link.devices.after = min(link.devices.after, oldest - 1)
                link.devices.add(cursor)
        for link in list(self._links.values()):
            self._ready(link)
        self._store_soon()

    async def stop(self) -> None:
        """Send nothing more. What is under way is given up: it is sent again after the next start."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        await self._tasks.stop()

    # --- what is to be sent ------------------------------------------------------------------------------

    def enqueue(self, server: str, ref: PduRef) -> None:
        """One event for one server. Positions ascend over all calls. After ``stop`` it is owed, and not sent."""
        name = ServerName(server)
        if not self._carrier.allows(name):
            return
        link = self._links.get(name) or self._link(name, self._passed)
        if link.machine.failures:
            link.machine.mark_behind(ref.pos)  # read again when it is back: it may stay away for long
        else:
            link.machine.enqueue(ref)
        self._ready(link)

    def enqueue_edu(self, server: str, edu: OutgoingEdu) -> None:
        """Something ephemeral for one server; nothing for a server that is away."""
        name = ServerName(server)
        if not self._started or self._stopped or not self._carrier.allows(name):
            return
        link = self._links.get(name) or self._link(name, self._passed)
        if link.machine.failures < STALE_AFTER:
            link.machine.enqueue_edu(edu)
        self._ready(link)

    def owe_devices(self, server: str, pos: int, room_nid: int = 0, *, fresh: bool = False) -> None:
        """Devices have something for a server: messages, or in a room changed keys (``fresh``: it is new there)."""
        name = ServerName(server)
        if not self._carrier.allows(name):
            return
        link = self._links.get(name) or self._link(name, self._passed)
        link.devices.add(pos, room_nid, fresh=fresh, settled=self._passed)
        self._ready(link)

    def relayed(self) -> None:
        """An event was to be sent on: its row is to be forgotten when everybody has it."""
        self._relayed = True

    async def forget_hearsay(self) -> None:
        """A chore: forget who was in rooms by the word of others where all of them have what was sent then."""
        await self._worker.work(sweep_hearsay, FOLLOWER)

    def passed(self, pos: int) -> None:
        """Everything up to this position has been enqueued."""
        self._passed = max(self._passed, pos)

    def _link(
        self, name: ServerName, caught_up_to: int, failures: int = 0, retry_at_ms: int | None = None
    ) -> _Link:
        retry_min_ms, retry_max_ms = self._limits()
        self._made += 1
        machine = Destination(
            name,
            txn_prefix=f"{self._boot}.{self._made}.",
            caught_up_to=caught_up_to,
            retry_min_ms=retry_min_ms,
            retry_max_ms=retry_max_ms,
            max_pending_pdus=OWED_MOST,
            failures=failures,
            retry_at_ms=retry_at_ms,
        )
        link = self._links[name] = _Link(machine, Debt(self._passed))
        return link

    def _limits(self) -> tuple[int, int]:
        federation = self._settings.config.federation
        return int(federation.retry_min_s * 1000), int(
            max(federation.retry_max_s, federation.retry_min_s) * 1000
        )

    # --- who is there ------------------------------------------------------------------------------------

    def heard_from(self, server: str) -> None:
        """A sign of life: it asked us something, or answered. A server that was silent is tried again at once."""
        link = self._links.get(ServerName(server))
        if link is None or link.busy or not link.silent or link.machine.retry_at_ms is None:
            return
        soonest = min(WAKE_AGAIN_MS, self._limits()[0])
        link.machine.heard_from(max(self._clock.now_ms(), link.attempt_ms + soonest))
        self._ready(link)

    def is_down(self, server: str) -> bool:
        """Whether it did not answer last time, and is not due again yet."""
        link = self._links.get(ServerName(server))
        if link is None or not link.silent or not link.machine.failures:
            return False
        retry_at = link.machine.retry_at_ms
        return retry_at is not None and retry_at > self._clock.now_ms()

    def reconfigure(self) -> None:
        """The limits of retries may have changed, or wall time was set back: nobody waits longer than they say."""
        now_ms = self._clock.now_ms()
        for link in list(self._links.values()):
            link.machine.limit_retries(*self._limits(), now_ms)
            link.hold_ms = min(link.hold_ms, now_ms + _FAILED_WAIT_MS)
            link.attempt_ms = min(link.attempt_ms, now_ms)
            self._ready(link)

    def count(self, state: str) -> int:
        """How many destinations are ``sending``, ``waiting`` for a place or for an answer, or ``failing``."""
        if state == "sending":
            return self._places.busy
        failing = sum(1 for link in self._links.values() if link.machine.failures and not link.busy)
        return failing if state == "failing" else len(self._links) - failing - self._places.busy

    def __len__(self) -> int:
        return len(self._links)

    # --- whose turn it is --------------------------------------------------------------------------------

    def _ready(self, link: _Link) -> None:
        """Something about a destination has changed: queue it, set its timer, or forget it."""
        machine, now_ms = link.machine, self._clock.now_ms()
        if link.busy or link.queued or self._stopped or self._links.get(machine.server_name) is not link:
            return
        at = machine.wake_at(now_ms)
        if at is None and link.devices.wants_reading:
            at = max(now_ms, machine.retry_at_ms or 0)
        if at is None:
            if machine.is_idle:
                del self._links[machine.server_name]
            return
        at = max(at, link.hold_ms)
        if at > now_ms:
            if link.timer_ms is None or at < link.timer_ms or link.timer_ms <= now_ms:
                link.timer_ms = at
                heappush(self._timers, (at, machine.server_name))
                self._set_timer()
            return
        link.queued = True
        self._places.wait(machine.server_name, failing=machine.failures > 0)
        self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._pumping:
            # Not now: we may be within a commit, and more may come for the same destination.
            self._pumping = True
            self._clock.callLater(0, self._pump)

    def _pump(self) -> None:
        self._pumping = False
        for _ in range(_BEGUN_AT_ONCE):
            name = None if self._stopped else self._places.next()
            if name is None:
                return
            link = self._links[name]
            link.queued, link.busy = False, True
            self._tasks.spawn("send to another server", self._attend(link))
        self._pump_soon()

    def _overstay(self, name: ServerName) -> None:
        self._places.overstay(name)
        self._pump_soon()

    def _set_timer(self) -> None:
        at = self._timers[0][0]
        if self._timer is not None and self._timer.active():
            if at >= self._timer_at:
                return
            self._timer.cancel()
        self._timer_at = at
        now_ms = self._clock.now_ms()
        self._latest_ms = max(self._latest_ms, now_ms)
        self._timer = self._clock.callLater(min((at - now_ms) / 1000, LOOK_AGAIN_S), self._wake)

    def _wake(self) -> None:
        self._timer = None
        now_ms = self._clock.now_ms()
        if now_ms < self._latest_ms:
            self.reconfigure()
        self._latest_ms = now_ms
        while self._timers and self._timers[0][0] <= now_ms:
            _, name = heappop(self._timers)
            link = self._links.get(name)
            if link is not None:
                link.timer_ms = None
                self._ready(link)
        if self._timers:
            self._set_timer()

    # --- a turn ------------------------------------------------------------------------------------------

    async def _attend(self, link: _Link) -> None:
        prompt: bool | None = None
        try:
            if not self._carrier.allows(link.machine.server_name):
                del self._links[link.machine.server_name]
                self._store_soon()
                return
            if not link.machine.is_retrying and link.machine.refill_after() is not None:
                await self._refill(link)
            if not link.machine.is_retrying and link.devices.wants_reading:
                await self._read_devices(link)
            transaction = link.machine.next(self._clock.now_ms())
            if transaction is not None:
                prompt = await self._send(link, transaction)
        except Exception as error:
            # A bug, too: it would be met again at once, for ever.
            link.hold_ms = self._clock.now_ms() + _FAILED_WAIT_MS
            if not isinstance(error, DatabaseError):
                raise
            self._log.warning("what is owed to another server could not be read", error=str(error))
        finally:
            link.busy = False
            self._places.leave(link.machine.server_name, prompt=prompt)
            self._ready(link)
            if self._places.waiting:
                self._pump_soon()

    async def _send(self, link: _Link, transaction: Transaction) -> bool | None:
        """Whether it arrived in good time; None where it did not arrive."""
        link.attempt_ms = now_ms = self._clock.now_ms()
        if link.made[0] != transaction.txn_id:
            link.made = (transaction.txn_id, now_ms)
        # What is kept where the attempt ends in a failure of ours: the machine must not wait for ever.
        delivery = Delivery(Outcome.RETRY_LATER, reason="a failure of our own")
        timer = self._clock.callLater(PROMPT_S, self._overstay, link.machine.server_name)
        try:
            delivery = await self._carrier.deliver(transaction, link.made[1])
        finally:
            prompt = timer.active()
            if prompt:
                timer.cancel()
            if not self._stopped:
                self._ended(link, transaction, delivery)
        return prompt if delivery.outcome is Outcome.DELIVERED else None

    def _ended(self, link: _Link, transaction: Transaction, delivery: Delivery) -> None:
        machine, outcome = link.machine, delivery.outcome
        link.silent = not delivery.answered
        if outcome is Outcome.RETRY_LATER:
            outcome = self._judge(link, delivery)
        gone = machine.done(
            transaction.txn_id,
            outcome,
            self._clock.now_ms(),
            jitter=self._entropy.jitter(0.0, 1.0),
            retry_after_ms=delivery.retry_after_ms,
        )
        if outcome is Outcome.RETRY_LATER:
            machine.shed()
            if machine.failures >= STALE_AFTER:
                machine.forget_ephemeral()
        if gone is not None and link.devices.settle(gone):
            upto = link.devices.after
            self._tasks.spawn("forget what was delivered", self._forget(machine.server_name, upto))
        self._store_soon()

    async def _forget(self, server: str, upto: int) -> None:
        """Messages that were delivered; if this fails they go once more, and are known there by their ids."""
        try:
            await self._worker.work(forget_sent, server, upto)
        except DatabaseError as error:
            self._log.warning("delivered messages could not be forgotten", error=str(error))

    def _judge(self, link: _Link, delivery: Delivery) -> Outcome:
        """What to make of a failure."""
        name, reason = link.machine.server_name, delivery.reason
        if not link.machine.failures:
            self._log.info("another server cannot be sent to", destination=name, reason=reason)
        link.refusals = link.refusals + 1 if delivery.refused else 0
        if link.refusals < REFUSALS_MOST:
            return Outcome.RETRY_LATER
        link.refusals = 0
        self._log.warning("a transaction was refused and is dropped", destination=name, reason=reason)
        return Outcome.GIVE_UP

    async def _refill(self, link: _Link) -> None:
        """Read what a destination has not got from the timelines."""
        machine = link.machine
        name, after, upto = machine.server_name, machine.refill_after(), machine.head_pos
        assert after is not None
        if link.stays is None or link.stays_upto < upto:
            rooms = self._rooms_since(after)
            link.stays = await self._database.read(load_shared, name, rooms, after)
            link.stays_upto = upto
        now_ms = self._clock.now_ms()
        refs, through = await self._database.read(load_owed, name, link.stays, after, upto, now_ms)
        machine.refill(refs, through)
        if machine.refill_after() is None:
            link.stays = None

    async def _read_devices(self, link: _Link) -> None:
        """Read what devices have for a destination into its queue."""
        name, debt = link.machine.server_name, link.devices
        rooms, fresh, after, upto = debt.ask()
        try:
            if rooms is None:
                stays = await self._database.read(load_shared, name, self._rooms_since(0), after)
                rooms = {nid for nid, stay in stays.items() if stay.at_last}
                fresh = {nid for nid in rooms if not stays[nid].at_first}
            else:
                rooms = {nid for nid in sorted(rooms) if await self._servers.may_share(name, nid)}
            found = await self._database.read(
                self._load_devices, name, rooms, fresh & rooms, after, upto, EDUS_AT_ONCE
            )
        except BaseException:
            debt.unask()
            raise
        for edu in debt.read(found):
            link.machine.enqueue_edu(edu)

    # --- what outlasts the process (stream.followers.Memory) ---------------------------------------------

    def unsaved(self) -> Callable[[WriteTx], None] | None:
        """The rows of who is behind or failing, as they are now."""
        wanted: dict[str, Owing] = {}
        for name, link in self._links.items():
            machine = link.machine
            devices_after = link.devices.after if link.devices.is_owed else 0
            if machine.owes_pdus or machine.failures or devices_after:
                retry_at_ms = machine.retry_at_ms or 0
                wanted[name] = Owing(
                    name, machine.caught_up_to(), devices_after, machine.failures, retry_at_ms
                )
        if self._saving is not None:
            # The last ones may have been stored although nobody could say so.
            self._stored = dict.fromkeys((*self._stored, *self._saving))
        self._saving = None
        # Nobody is behind: whom an event was to be sent on to has it.
        relayed_upto = self._passed if self._relayed and not wanted else 0
        if not self._started or (wanted == self._stored and not relayed_upto):
            return None
        self._saving = wanted
        self._relayed = self._relayed and not relayed_upto
        changed = [row for name, row in wanted.items() if self._stored.get(name) != row]
        forget = [name for name in self._stored if name not in wanted]
        return partial(store_destinations, owing=changed, forget=forget, relayed_upto=relayed_upto)

    def saved(self) -> None:
        """They are on the disk."""
        if self._saving is not None:
            self._stored, self._saving = {**self._saving}, None


def _load_start(tx: Tx) -> tuple[list[Owing], Mapping[str, int], int]:
    cursor = load_cursors(tx).get(FOLLOWER)
    position = load_position(tx) if cursor is None else cursor
    return load_destinations(tx), load_outgoing_destinations(tx), position
