"""Sends to push gateways: what each pusher has still to get, when it is tried again, and what outlasts the process.

1. What notifies is put into the queue of each pusher of its user, in memory. Nothing is written for what goes out at
   once; a pusher that is behind has a row, which is stored in the transaction that stores the follower's cursor. So
   after a crash everything is in a row or after the cursor: told at least once, and gateways know it by its event id.
2. A pusher that fails waits, longer and longer, and keeps its newest ``OWED_MOST`` events, none older than
   ``OLDEST_MS``: who comes back after an outage hears of the newest things, and of each once.
3. Gateways take turns (``push/lanes.py``): none keeps the others waiting, and nothing here keeps the log waiting.
4. How much is unread is told with every notification, and alone when it has become less.

# spec: push-gateway-api#homeserver-behaviour
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from twisted.internet.defer import Deferred

from homeserver.db.errors import DatabaseError
from homeserver.http.client import HttpLimits, HttpResponse
from homeserver.http.transport import Unreachable
from homeserver.push.composer import Composer
from homeserver.push.debts import Debts, Owed, decode_owed, encode_owed
from homeserver.push.lanes import Lanes
from homeserver.push.notice import Address, Reply, build_badge, parse_address, parse_reply
from homeserver.runtime.clock import Clock, Timer, call_at
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.pushers import Debt, Pusher, PusherKey, drop_rejected
from homeserver.store.work import Worker

OWED_MOST: Final = 20
OLDEST_MS: Final = 24 * 3600 * 1000
RETRY_MIN_MS: Final = 2_000
RETRY_MAX_MS: Final = 3600 * 1000
# After a failure of our own.
_HOLD_MS: Final = 10_000
# Somebody reads message after message: the number on the icon follows when they pause.
BADGE_AFTER_S: Final = 1.0
LIMITS: Final = HttpLimits(timeout_s=10.0, max_bytes=64 * 1024, schemes=("https",))
_HEADERS: Final = {"Content-Type": "application/json"}


class Http(Protocol):
    """The part of ``HttpClient`` that is used."""

    def request(
        self, method: str, url: str, *, body: bytes, headers: dict[str, str], limits: HttpLimits
    ) -> Deferred[HttpResponse]: ...


@dataclass(slots=True, eq=False)
class Link:
    """One pusher, and where its sending is."""

    pusher: Pusher
    address: Address
    owed: deque[Owed] = field(default_factory=lambda: deque(maxlen=OWED_MOST))
    failures: int = 0
    failing_since_ms: int = 0
    retry_at_ms: int = 0
    badge_due: bool = False
    badge: int | None = None  # what its device was told last; None: nobody knows
    newest: int = 0  # the position of the newest event that it was to hear of
    queued: bool = False  # waits for its turn, or has it
    timer: Timer | None = None
    ended: bool = False

    def debt(self) -> Debt | None:
        """What is to be stored of it."""
        if not self.owed and not self.failures:
            return None
        return Debt(
            *self.pusher.key,
            self.failures,
            self.failing_since_ms,
            self.retry_at_ms,
            encode_owed(self.owed),
        )


class PushSender:
    """See the module; all in the reactor thread."""

    def __init__(
        self,
        http: Http,
        composer: Composer,
        total: Callable[[int], Awaitable[int]],
        worker: Worker,
        clock: Clock,
        entropy: Entropy,
        log: Log,
        debts: Debts,
    ) -> None:
        self._http = http
        self._composer = composer
        self._total = total  # how much a user has not read
        self._worker = worker
        self._clock = clock
        self._entropy = entropy
        self._log = log
        self._debts = debts
        self._tasks = TaskGroup(clock, log)
        self._links: dict[int, dict[PusherKey, Link]] = {}
        self._lanes: Lanes[Link] = Lanes()
        self._stopped = False

    # --- who is there ------------------------------------------------------------------------------------

    def load(self, pushers: Iterable[Pusher], debts: Mapping[PusherKey, Debt]) -> None:
        """Go on with what an earlier process left."""
        latest_ms = self._clock.now_ms() + RETRY_MAX_MS
        for pusher in pushers:
            debt = debts.get(pusher.key)
            if not self._put(pusher) or debt is None:
                continue
            link = self._links[pusher.user_nid][pusher.key]
            if not link.newest:
                # Else what comes after this failed before, and everything is started anew.
                link.owed.extend(decode_owed(debt.owed))
                link.newest = max((owed.pos for owed in link.owed), default=0)
                link.failures, link.failing_since_ms = debt.failures, debt.failing_since_ts_ms
                # The machine's clock may have been set.
                link.retry_at_ms = min(debt.retry_at_ts_ms, latest_ms)
                self._go_on(link)

    def set_pushers(self, user_nid: int, pushers: Iterable[Pusher]) -> None:
        """A user's pushers, as they are now."""
        before = self._links.get(user_nid, {})
        kept = {one.key for one in pushers if self._put(one)}
        for key, link in list(before.items()):
            if key not in kept:
                self._end(link)

    def _put(self, pusher: Pusher) -> bool:
        address = parse_address(pusher) if pusher.kind == "http" and pusher.enabled else None
        if address is None:
            return False
        link = self._find(pusher.key)
        if link is not None and link.pusher == pusher:
            return True
        fresh = Link(pusher, address)
        if link is not None:
            # Set again by its client, which has reason to think that it works: tried again at once.
            fresh.owed.extend(link.owed)
            fresh.newest = link.newest
            self._end(link)
        self._links.setdefault(pusher.user_nid, {})[pusher.key] = fresh
        self._note(fresh)
        self._go_on(fresh)
        return True

    def _find(self, key: PusherKey) -> Link | None:
        return self._links.get(key.user_nid, {}).get(key)

    def _end(self, link: Link) -> None:
        key = link.pusher.key
        link.ended = True
        link.owed.clear()
        link.failures = 0
        self._lanes.forget(link.address.url, link)
        self._cancel_timer(link)
        self._debts.note(key, None)
        links = self._links[key.user_nid]
        del links[key]
        if not links:
            del self._links[key.user_nid]

    @property
    def owners(self) -> dict[int, dict[PusherKey, Link]]:
        """Who has pushers: by user nid (do not change it)."""
        return self._links

    # --- what is to be sent ------------------------------------------------------------------------------

    def owe(self, user_nid: int, owed: Owed) -> None:
        """An event notifies a user."""
        for link in self._links.get(user_nid, {}).values():
            if owed.pos <= link.newest:
                continue  # the follower tells its last changes again
            link.newest = owed.pos
            link.owed.append(owed)
            self._note(link)
            self._go_on(link)

    def note_read(self, user_nid: int) -> None:
        """A user has read something: the number may have become less."""
        for link in self._links.get(user_nid, {}).values():
            if link.badge != 0 and not link.address.no_badge:
                link.badge_due = True
                self._go_on(link)

    def _go_on(self, link: Link) -> None:
        """See to it that a pusher gets its turn, at once or later."""
        if self._stopped or link.ended or link.queued or not (link.owed or link.badge_due):
            return
        self._cancel_timer(link)
        if link.retry_at_ms > self._clock.now_ms():
            link.timer = call_at(self._clock, link.retry_at_ms, self._queue, link, longest_ms=RETRY_MAX_MS)
        elif link.owed:
            self._queue(link)
        else:
            link.timer = self._clock.callLater(BADGE_AFTER_S, self._queue, link)

    def _queue(self, link: Link) -> None:
        self._cancel_timer(link)
        if self._stopped or link.ended or link.queued:
            return
        link.queued = True
        self._lanes.wait(link.address.url, link)
        self._pump()

    @staticmethod
    def _cancel_timer(link: Link) -> None:
        if link.timer is not None and link.timer.active():
            link.timer.cancel()
        link.timer = None

    def _pump(self) -> None:
        while not self._stopped:
            turn = self._lanes.next()
            if turn is None:
                return
            self._tasks.spawn("push", self._take_turn(*turn))

    # --- one turn ----------------------------------------------------------------------------------------

    async def _take_turn(self, url: str, link: Link) -> None:
        """One notification of one pusher."""
        took_s: float | None = None
        answered = False
        badge_due = link.badge_due
        try:
            started_s = self._clock.monotonic()
            sent = await self._attempt(link)
            if sent is not None:
                took_s, answered = self._clock.monotonic() - started_s, sent
        except DatabaseError as error:
            self._log.warning("push waits for the database", problem=str(error))
            self._hold(link, badge_due=badge_due)
        except BaseException:
            self._hold(link, badge_due=badge_due)
            raise
        finally:
            self._lanes.leave(url, link, took_s, answered=answered)
            link.queued = False
            self._go_on(link)
            self._pump()

    def _hold(self, link: Link, *, badge_due: bool) -> None:
        """A failure of our own: what was due still is, later."""
        link.retry_at_ms = self._clock.now_ms() + _HOLD_MS
        link.badge_due = link.badge_due or badge_due

    async def _attempt(self, link: Link) -> bool | None:
        """Whether the gateway took it; None where there was nothing to send."""
        user_nid, address = link.pusher.user_nid, link.address
        oldest_ms = self._clock.now_ms() - OLDEST_MS
        badge_due, link.badge_due = link.badge_due, False
        while link.owed:
            owed = link.owed[0]
            unread = 0 if address.no_badge else await self._total(user_nid)
            body = None
            if owed.ts_ms > oldest_ms:
                body = await self._composer.compose(user_nid, address, owed, unread)
            if link.ended:
                return None
            if body is not None:
                sent = await self._send(link, body, unread)
                if sent:
                    self._settle(link, owed)
                link.badge_due = link.badge_due or (badge_due and not sent)
                return sent
            self._settle(link, owed)
        if not badge_due or 0 < link.failing_since_ms < oldest_ms:
            return None  # or it has been away for too long to go on about that
        unread = await self._total(user_nid)
        if link.ended or (link.badge is not None and unread >= link.badge):
            return None  # that there is more is told with what made it more
        sent = await self._send(link, build_badge(address, unread), unread)
        link.badge_due = link.badge_due or not sent
        return sent

    async def _send(self, link: Link, body: bytes, unread: int) -> bool:
        pusher, url = link.pusher, link.address.url
        try:
            answer = await self._http.request("POST", url, body=body, headers=_HEADERS, limits=LIMITS)
            reply = parse_reply(answer.status, answer.body)
        except Unreachable as error:
            self._log.debug("push gateway not reached", url=url, problem=str(error))
            reply = Reply(delivered=False)
        if link.ended:
            return reply.delivered
        self._note(link)
        if not reply.delivered:
            self._note_failure(link)
            return False
        link.failures = link.failing_since_ms = link.retry_at_ms = 0
        link.badge = unread
        self._debts.settled(pusher.key)
        if pusher.pushkey in reply.rejected:
            # spec: push-gateway-api#post_matrixpushv1notify ("remove the associated pushers")
            self._log.info("push gateway rejected a pushkey", url=url, app_id=pusher.app_id)
            await self._worker.work(drop_rejected, pusher.key, pusher.created_ts_ms)
        return True

    def _settle(self, link: Link, owed: Owed) -> None:
        """An event was told, or need not be."""
        if link.owed and link.owed[0] is owed:
            link.owed.popleft()
        self._note(link)

    def _note_failure(self, link: Link) -> None:
        now_ms = self._clock.now_ms()
        link.failures += 1
        link.failing_since_ms = link.failing_since_ms or now_ms
        longest_ms = min(RETRY_MIN_MS * 2 ** min(link.failures - 1, 30), RETRY_MAX_MS)
        link.retry_at_ms = now_ms + int(self._entropy.jitter(longest_ms / 2, longest_ms))
        self._debts.hurry()

    def _note(self, link: Link) -> None:
        if link.ended:
            return  # another may have its key by now, and owe what this one did
        self._debts.note(link.pusher.key, link.debt)

    async def stop(self) -> None:
        """Send nothing more. What is under way is given up: it is owed, and sent again after the next start."""
        self._stopped = True
        for links in self._links.values():
            for link in links.values():
                self._cancel_timer(link)
        await self._tasks.stop()

    def count(self, *, failing: bool) -> int:
        """How many pushers fail, or do not."""
        return sum(
            bool(link.failures) == failing for links in self._links.values() for link in links.values()
        )
