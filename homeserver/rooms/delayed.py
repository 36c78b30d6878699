"""Events that are sent later: at their time, when their client says so, or not at all.

1. Whoever knows the id of one may send it, take it back, or let it wait anew: so a client can leave that to a service
   which holds no token of its user.
2. It is sent exactly once, whatever happens to the process: its end is stored with the event, or not at all. (But for a
   knock, or an invite, that another server must take first: after a crash in between it is offered once more.)
3. Whether its user may send it is decided when it is sent. What is refused at its time has ended; what is refused
   before, when its client says that it is to be sent, stays for its time. What fails for a reason that may pass goes
   behind the others, and is tried again with longer and longer waits, for an hour.
4. What is due while the server does not run is sent when it has run again for `grace_s`: who is in a call renews the
   event that ends it every few seconds, and must have had the time to.
5. They are due by wall time, as their clients are told. Where the machine's clock is set back they wait for as much
   longer: any of their waits may be as long as its user wished.

LIMIT(each user has scheduled a number of them at most; what has ended is told of for some days, the newest some hundred)

spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4140
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import CancelledError, DeferredLock

from federation.builder import Draft
from federation.canonical import encode_checked
from federation.errors import Malformed
from federation.event import MAX_PDU_BYTES, check_text_field
from federation.ids import RoomId, UserId
from homeserver.config.schema import DelayedEvents as Limits
from homeserver.db.errors import DatabaseUnavailable
from homeserver.db.threads import Database
from homeserver.db.tx import WriteTx
from homeserver.http.errors import (
    MatrixError,
    forbidden,
    invalid_param,
    limit_exceeded,
    not_found,
    too_large,
    user_deactivated,
    user_locked,
    user_suspended,
)
from homeserver.rooms.send import check_message
from homeserver.rooms.turn import Finish
from homeserver.rooms.types import Requester
from homeserver.runtime.clock import Clock, Timer, call_at
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.delayed import (
    Delayed,
    EndedError,
    NewDelayed,
    TooManyDelayedError,
    end_delayed,
    find_delayed,
    load_delayed_of,
    load_next_delayed,
    postpone_delayed,
    restart_delayed,
    schedule,
)
from homeserver.store.ids import Interner
from homeserver.store.placement import DELAYED, ClientTransaction, Membership
from homeserver.store.users import load_account
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex

T = TypeVar("T")
SendOnce = Callable[[Draft, Finish, ClientTransaction], Awaitable[str]]

# LIMIT(how many are on their way at once: a room that is slow must not hold up the others)
AT_ONCE = 100
# LIMIT(of those, how many of one user: one whose rooms are all slow must not hold up other users)
OF_USER_AT_ONCE = 10
# After a failure that is not the event's (a room with too much to do, or without all its members) it waits as long again
# as it has waited: so the waits double.
RETRY_S = 5.0
LONGEST_RETRY_S = 300.0
# LIMIT(a room may stay so for good, and its users' events must end)
GIVEN_UP_S = 3_600.0
_PASSING = (429, 502, 503)


@dataclass(frozen=True, slots=True)
class Later:
    """What a client wants to be sent later. ``txn_key`` is unique in its device; None: each request is another."""

    room_id: RoomId
    type: str
    content: dict[str, Any]
    delay_ms: int
    state_key: str | None = None
    sticky_ms: int | None = None
    txn_key: str | None = None
    said_at_ms: int | None = None  # when an application service says that it was


class DelayTooLongError(Exception):
    """This server keeps no event for so long."""

    def __init__(self, most_ms: int) -> None:
        super().__init__("The delay is longer than this server allows")
        self.most_ms = most_ms


@dataclass(slots=True)
class _Held:
    """Who does something to one of them, and who waits to."""

    lock: DeferredLock = field(default_factory=DeferredLock)
    users: int = 0


class DelayedEvents:
    """See the module."""

    def __init__(
        self,
        database: Database,
        worker: Worker,
        interner: Interner,
        index: MembershipIndex,
        send_once: SendOnce,
        limits: Limits,
        tasks: TaskGroup,
        clock: Clock,
        entropy: Entropy,
        log: Log,
    ) -> None:
        self._database = database
        self._worker = worker
        self._interner = interner
        self._index = index
        self._send_once = send_once
        self._limits = limits
        self._tasks = tasks
        self._clock = clock
        self._entropy = entropy
        self._log = log
        self._held: dict[str, _Held] = {}
        self._sending: dict[str, int] = {}  # whose they are, by their ids
        self._timer: Timer | None = None
        self._wakes_ms = 0
        self._grace: Timer | None = None  # until it is over no timer is set
        self._able_ms = 0  # since when what is due could be sent, as far as that is up to this server
        self._looking = False
        self._again = False
        self._stopped = False

    # --- what clients ask ----------------------------------------------------------------------------

    async def schedule(self, requester: Requester, later: Later) -> str:
        """Schedule an event; the id by which it is managed, the same for a retry. Raises DelayTooLongError."""
        limits = self._limits
        if limits.max_delay_s == 0:
            raise forbidden("This server sends nothing later")
        if later.delay_ms < 0:
            raise invalid_param("The delay must not be negative")
        most_ms = limits.max_delay_s * 1000
        if later.delay_ms > most_ms:
            raise DelayTooLongError(most_ms)
        content = _checked(later)
        room_nid = await self._interner.find_room(later.room_id)
        standing = self._index.standing(requester.user_nid, room_nid) if room_nid is not None else None
        if standing is None or standing.membership != Membership.JOIN:
            raise forbidden("You are not in this room")
        now_ms, delay_id = self._clock.now_ms(), self._entropy.token(24)
        new = NewDelayed(
            delay_id,
            requester.user_nid,
            later.room_id,
            later.type,
            later.state_key,
            content,
            later.sticky_ms,
            later.said_at_ms,
            later.delay_ms,
            now_ms,
            # A token without a device is told apart by its user.
            requester.device_nid or -requester.user_nid,
            f"{later.room_id}/{later.txn_key}" if later.txn_key is not None else delay_id,
        )
        try:
            delay_id = await self._worker.work(schedule, new, limits.max_scheduled)
        except TooManyDelayedError as error:
            raise limit_exceeded(max(1_000, error.due_ts_ms - now_ms)) from None
        self._arm(now_ms + later.delay_ms)
        return delay_id

    async def restart(self, delay_id: str) -> None:
        """Let it wait anew, from now on."""

        async def act() -> None:
            await self._find(delay_id)
            try:
                # Sooner than before, where it was to be tried again only in a while.
                self._arm(await self._worker.work(restart_delayed, delay_id, self._clock.now_ms()))
            except EndedError:
                raise _ended() from None

        await self._alone(delay_id, act)

    async def cancel(self, delay_id: str) -> None:
        """Take it back; 200 again for what was not sent."""

        async def act() -> None:
            found = await self._find(delay_id)
            if found.ended_ts_ms is None:
                try:
                    await self._worker.work(end_delayed, delay_id, self._clock.now_ms())
                except EndedError:
                    # By another process, or with its user's account, and then it is not there any more.
                    found = await self._find(delay_id)
            if found.event_id is not None:
                raise _ended()

        await self._alone(delay_id, act)

    async def send(self, delay_id: str) -> None:
        """Send it now; 200 again for what was sent. Raises what the room says."""

        async def act() -> None:
            found = await self._find(delay_id)
            if found.ended_ts_ms is None:
                # Where it cannot be sent it stays, for its time and for those who try again.
                await self._send(found)
            elif found.event_id is None:
                raise _ended()

        await self._alone(delay_id, act)

    async def one(self, requester: Requester, delay_id: str) -> Delayed:
        """One that the requester has scheduled, ended or not."""
        found = await self._database.read(find_delayed, delay_id)
        if found is None or found.user_nid != requester.user_nid:
            raise not_found("There is no such delayed event")
        return found

    async def scheduled(self, requester: Requester) -> list[Delayed]:
        """What of the requester's waits."""
        return await self._database.read(load_delayed_of, requester.user_nid)

    async def _find(self, delay_id: str) -> Delayed:
        found = await self._database.read(find_delayed, delay_id)
        if found is None:
            raise not_found("There is no such delayed event")
        return found

    async def _alone(self, delay_id: str, act: Callable[[], Awaitable[T]]) -> T:
        """One after the other: what a client is told is true when it is told."""
        held = self._held.setdefault(delay_id, _Held())
        held.users += 1
        try:
            await held.lock.acquire()
            try:
                return await act()
            finally:
                held.lock.release()
        finally:
            held.users -= 1
            if not held.users:
                del self._held[delay_id]

    # --- when it is time -----------------------------------------------------------------------------

    def start(self) -> None:
        """Go on with what an earlier process has scheduled, when its clients have had the time to renew it."""
        self._grace = self._clock.callLater(self._limits.grace_s, self._end_grace)

    def _end_grace(self) -> None:
        self._grace = None
        self._able_ms = self._clock.now_ms()
        self._look()

    def stop(self) -> None:
        """Send nothing more: what is due now is due when the server runs again."""
        self._stopped = True
        for timer in (self._timer, self._grace):
            if timer is not None and timer.active():
                timer.cancel()
        self._timer = self._grace = None

    def _arm(self, due_ms: int) -> None:
        if self._stopped or self._grace is not None:
            return
        if self._timer is not None and self._timer.active():
            if self._wakes_ms <= due_ms:
                return
            self._timer.cancel()
        self._wakes_ms = due_ms
        self._timer = call_at(self._clock, due_ms, self._look)

    def _look(self) -> None:
        if self._stopped:
            return
        if self._looking:
            self._again = True
        else:
            self._looking = True
            self._tasks.spawn("look for delayed events", self._send_due())

    async def _send_due(self) -> None:
        """Start to send what is due, and set the timer for the next."""
        try:
            of_user = Counter(self._sending.values())
            # There may be many more of these users, all of them due, and they have all of their places.
            passed_over = [nid for nid, number in of_user.items() if number >= OF_USER_AT_ONCE]
            most, is_more = AT_ONCE + len(self._sending) + 1, False
            found = await self._database.read(load_next_delayed, most, passed_over)
            now_ms = self._clock.now_ms()
            for delay_id, user_nid, due_ms in found:
                if due_ms > now_ms:
                    self._arm(due_ms)
                    break
                if self._stopped or len(self._sending) >= AT_ONCE:
                    break
                if delay_id in self._sending:
                    continue
                if of_user[user_nid] >= OF_USER_AT_ONCE:
                    is_more = True
                    continue
                of_user[user_nid] += 1
                self._sending[delay_id] = user_nid
                self._tasks.spawn("send a delayed event", self._send_one(delay_id))
            else:
                # Those of others may come after those of users who have all of their places only now.
                self._again |= is_more
        except DatabaseUnavailable:
            self._rest()
        finally:
            self._looking = False
            if self._again:
                self._again = False
                self._look()

    def _rest(self) -> None:
        """The database is away: nothing can be sent, and that it was tried cannot be noted. Such time does not count."""
        self._able_ms = self._clock.now_ms()
        self._arm(self._able_ms + int(RETRY_S * 1000))

    async def _send_one(self, delay_id: str) -> None:
        is_noted = False
        try:
            with suppress(DatabaseUnavailable):
                await self._alone(delay_id, partial(self._try, delay_id))
                is_noted = True
        finally:
            del self._sending[delay_id]
            if is_noted:
                self._look()
            else:
                self._rest()  # it would be the next again

    async def _try(self, delay_id: str) -> None:
        """Send it if it is due; note that, why it cannot be sent, or when to try again."""
        found = await self._database.read(find_delayed, delay_id)
        # It may have been taken back or made to wait anew meanwhile.
        if found is None or found.due_ts_ms is None or found.due_ts_ms > self._clock.now_ms():
            return
        try:
            await self._send(found)
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 (one that fails by a fault of ours must not stay the first either)
            await self._note_failure(found, found.due_ts_ms, error)

    async def _note_failure(self, found: Delayed, due_ms: int, error: Exception) -> None:
        delay_id, now_ms = found.delay_id, self._clock.now_ms()
        if isinstance(error, MatrixError):
            passes, told = error.status in _PASSING, error
        else:
            passes, told = True, MatrixError(500, "M_UNKNOWN", "This server could not send the event")
            if not isinstance(error, DatabaseUnavailable):
                self._log.error("delayed event failed", delay_id=delay_id, exc_info=error)
        late_s = (now_ms - max(found.since_ts_ms + found.delay_ms, self._able_ms)) / 1000
        if passes and late_s < GIVEN_UP_S:
            wait_s = min(max(late_s, RETRY_S), LONGEST_RETRY_S)
            await self._worker.work(postpone_delayed, delay_id, due_ms, now_ms + int(wait_s * 1000))
            return
        self._log.info("delayed event refused", delay_id=delay_id, reason=str(told))
        problem = msgspec.json.encode({"errcode": told.errcode, "error": told.error}).decode()
        with suppress(EndedError):  # by another process, or it was stored after all
            await self._worker.work(partial(end_delayed, error=problem), delay_id, now_ms)

    async def _send(self, found: Delayed) -> None:
        """Send it, and note that; raises MatrixError where it cannot be sent."""
        now_ms = self._clock.now_ms()

        def finish(tx: WriteTx, event_id: str) -> None:
            end_delayed(tx, found.delay_id, now_ms, event_id=event_id)

        content: dict[str, Any] = msgspec.json.decode(found.content)
        draft = Draft(
            RoomId(found.room_id),
            found.type,
            UserId(found.user_id),
            content,
            found.state_key,
            origin_server_ts=found.said_at_ms,
            sticky_ms=found.sticky_ms,
        )
        try:
            account = await self._database.read(load_account, found.user_nid)
            if account is None or account.deactivated:
                raise user_deactivated()
            if account.locked:
                raise user_locked()
            if account.suspended:
                raise user_suspended()
            # By its id its user's devices know the event again.
            known_as = ClientTransaction(-found.user_nid, f"{DELAYED}{found.type}/{found.delay_id}", now_ms)
            await self._send_once(draft, finish, known_as)
        except EndedError:
            return  # it was stored after all, although the database could not say so
        except Malformed as error:
            raise MatrixError(error.status, error.errcode, str(error)) from error


def _checked(later: Later) -> str:
    """The content as it is kept; refuses what no room would take."""
    try:
        check_text_field("type", later.type)
        if later.state_key is not None:
            check_text_field("state_key", later.state_key)
        else:
            check_message(later.type, later.content)
        encoded = encode_checked(later.content, strict=False)
    except Malformed as error:
        raise MatrixError(error.status, error.errcode, str(error)) from error
    if len(encoded) > MAX_PDU_BYTES:
        raise too_large("The event is too large")
    if "\0" in later.type or (later.state_key is not None and "\0" in later.state_key):
        raise invalid_param("Event types and state keys must not contain NUL")
    return msgspec.json.encode(later.content).decode()


def _ended() -> MatrixError:
    # COMPAT(matrix-js-sdk, lk-jwt-service, 2026): under the unstable prefix, as servers did that forgot what had ended.
    # What the proposal was accepted with, 409 and M_UNKNOWN, makes a client give up the call instead of joining again.
    return not_found("The delayed event has ended in another way already")
