"""Mail about what was not read: the outlet of pushers of the kind ``email``.

1. A mail comes some minutes after what it speaks of, and only if that is still unread then: who reads or answers
   it in time gets none. It gathers what has come meanwhile.
2. Each mail that nobody answers by reading makes the next wait longer, up to a day.
3. What waits is stored as the debts of other pushers are (``push/sender.py``), and told after a restart.

# spec: client-server-api#post_matrixclientv3pushersset
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from twisted.internet.defer import DeferredSemaphore

from homeserver.db.errors import DatabaseError
from homeserver.http.mail import Mailer, MailNotSentError
from homeserver.push.composer import Composer
from homeserver.push.debts import Debts, Owed, decode_owed, encode_owed
from homeserver.push.letter import LetterWriter
from homeserver.push.notice import Subject
from homeserver.push.unsubscribing import Unsubscribing
from homeserver.runtime.clock import Clock, Timer, call_at
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.ids import Interner
from homeserver.store.pushers import Debt, Pusher, PusherKey

OWED_MOST: Final = 50
FIRST_MS: Final = 10 * 60 * 1000
FACTOR: Final = 3
LONGEST_MS: Final = 24 * 3600 * 1000
OLDEST_MS: Final = 3 * 24 * 3600 * 1000
# LIMIT(a mail server takes its time, and others want to write as well)
AT_ONCE: Final = 4


@dataclass(slots=True, eq=False)
class _Box:
    """One address, and what is to be written there."""

    pusher: Pusher
    owed: deque[Owed] = field(default_factory=lambda: deque(maxlen=OWED_MOST))
    newest: int = 0
    mails: int = 0  # since its user has read something
    last_ms: int = 0  # when the last one was sent
    due_ms: int = 0  # 0: nothing is
    timer: Timer | None = None
    writing: bool = False
    ended: bool = False

    def debt(self) -> Debt | None:
        if not self.owed:
            return None
        return Debt(*self.pusher.key, self.mails, self.last_ms, self.due_ms, encode_owed(self.owed))


class MailOutlet:
    """See the module; all in the reactor thread."""

    def __init__(
        self,
        mailer: Mailer,
        composer: Composer,
        writer: LetterWriter,
        unsubscribing: Unsubscribing,
        interner: Interner,
        clock: Clock,
        log: Log,
        debts: Debts,
    ) -> None:
        self._mailer = mailer
        self._composer = composer
        self._writer = writer
        self._unsubscribing = unsubscribing
        self._interner = interner
        self._clock = clock
        self._log = log
        self._debts = debts
        self._tasks = TaskGroup(clock, log)
        self._places = DeferredSemaphore(AT_ONCE)
        self._boxes: dict[int, dict[PusherKey, _Box]] = {}
        self._stopped = False

    # --- who is there ------------------------------------------------------------------------------------

    def load(self, pushers: Iterable[Pusher], debts: Mapping[PusherKey, Debt]) -> None:
        """Go on with what an earlier process left."""
        latest_ms = self._clock.now_ms() + LONGEST_MS
        for pusher in pushers:
            debt = debts.get(pusher.key)
            if not self._put(pusher) or debt is None:
                continue
            box = self._boxes[pusher.user_nid][pusher.key]
            if not box.newest:
                # Else what comes after this failed before, and everything is started anew.
                box.owed.extend(decode_owed(debt.owed))
                box.newest = max((one.pos for one in box.owed), default=0)
                box.mails, box.last_ms = debt.failures, debt.failing_since_ts_ms
                box.due_ms = min(debt.retry_at_ts_ms, latest_ms)
                self._set_timer(box)

    def set_pushers(self, user_nid: int, pushers: Iterable[Pusher]) -> None:
        """See ``follower.Outlet``."""
        before = dict(self._boxes.get(user_nid, {}))
        kept = {one.key for one in pushers if self._put(one)}
        for key, box in before.items():
            if key not in kept:
                self._end(box)

    def _put(self, pusher: Pusher) -> bool:
        if pusher.kind != "email" or not pusher.enabled:
            return False
        boxes = self._boxes.setdefault(pusher.user_nid, {})
        box = boxes.get(pusher.key)
        if box is None:
            boxes[pusher.key] = _Box(pusher)
        else:
            box.pusher = pusher
        return True

    def _end(self, box: _Box) -> None:
        key = box.pusher.key
        box.ended = True
        box.owed.clear()
        self._cancel_timer(box)
        self._debts.note(key, None)
        boxes = self._boxes[key.user_nid]
        del boxes[key]
        if not boxes:
            del self._boxes[key.user_nid]

    @property
    def owners(self) -> Mapping[int, object]:
        """See ``follower.Outlet``."""
        return self._boxes

    # --- what is to be written ---------------------------------------------------------------------------

    def owe(self, user_nid: int, owed: Owed) -> None:
        """See ``follower.Outlet``."""
        for box in self._boxes.get(user_nid, {}).values():
            if owed.pos > box.newest:
                box.newest = owed.pos
                box.owed.append(owed)
                if not box.due_ms:
                    box.due_ms = max(owed.ts_ms + FIRST_MS, box.last_ms + _wait_ms(box.mails))
                    self._set_timer(box)
                self._note(box)

    def note_read(self, user_nid: int) -> None:
        """See ``follower.Outlet``: they are there, and need no patience."""
        for box in self._boxes.get(user_nid, {}).values():
            box.mails = 0
            soon_ms = self._clock.now_ms() + FIRST_MS
            if box.due_ms > soon_ms:
                box.due_ms = soon_ms
                self._set_timer(box)
                self._note(box)

    def _note(self, box: _Box) -> None:
        self._debts.note(box.pusher.key, box.debt)

    def _set_timer(self, box: _Box) -> None:
        self._cancel_timer(box)
        if box.due_ms and not self._stopped and not box.writing:
            box.timer = call_at(self._clock, box.due_ms, self._begin, box, longest_ms=LONGEST_MS)

    @staticmethod
    def _cancel_timer(box: _Box) -> None:
        if box.timer is not None and box.timer.active():
            box.timer.cancel()
        box.timer = None

    # --- writing -----------------------------------------------------------------------------------------

    def _begin(self, box: _Box) -> None:
        box.timer = None
        if not self._stopped and not box.ended:
            box.writing = True
            self._tasks.spawn("mail", self._write(box))

    async def _write(self, box: _Box) -> None:
        """Write one mail, if there still is something to say."""
        wait_ms = FIRST_MS
        try:
            await self._places.acquire()
            try:
                wait_ms = await self._write_one(box)
            finally:
                self._places.release()
        except DatabaseError as error:
            self._log.warning("mail waits for the database", problem=str(error))
        finally:
            box.writing = False
            box.due_ms = self._clock.now_ms() + wait_ms if box.owed and not box.ended else 0
            if not box.ended:
                self._note(box)
                self._set_timer(box)

    async def _write_one(self, box: _Box) -> int:
        """How long to wait then, if there is more, in milliseconds."""
        told = list(box.owed)
        subjects = await self._find(box, told)
        if box.ended:
            return 0
        if subjects:
            user_nid, address = box.pusher.user_nid, box.pusher.pushkey
            user_id = (await self._interner.user_names([user_nid])).get(user_nid, "")
            link = self._unsubscribing.link(user_id, address)
            letter = self._writer.write(user_id, subjects, link)
            try:
                await self._mailer.send(address, letter.subject, letter.text, letter.html)
            except MailNotSentError as error:
                self._log.warning("mail was not sent", problem=str(error), permanent=error.permanent)
                if not error.permanent:
                    return FIRST_MS * FACTOR
            box.mails += 1
            box.last_ms = self._clock.now_ms()
        for owed in told:
            if box.owed and box.owed[0] is owed:
                box.owed.popleft()
        return _wait_ms(box.mails)

    async def _find(self, box: _Box, told: Iterable[Owed]) -> list[Subject]:
        """What is still worth a word."""
        oldest_ms = self._clock.now_ms() - OLDEST_MS
        found: list[Subject] = []
        for owed in told:
            if owed.ts_ms > oldest_ms:
                subject = await self._composer.subject(box.pusher.user_nid, owed)
                if subject is not None:
                    found.append(subject)
        return found

    async def stop(self) -> None:
        """Write nothing more."""
        self._stopped = True
        for boxes in self._boxes.values():
            for box in boxes.values():
                self._cancel_timer(box)
        await self._tasks.stop()


def _wait_ms(mails: int) -> int:
    """How long after a mail the next may come."""
    longest_ms: int = FIRST_MS * FACTOR ** min(mails, 10)
    return min(longest_ms, LONGEST_MS)
