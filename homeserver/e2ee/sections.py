"""What sync says of encryption: messages for the device, keys that it has left, whose keys have changed.

1. Where nothing happened nothing is asked: what a device has left, whether a message waits and whose keys changed lately
   is in memory, and follows the log.
2. A message is told until the device comes with a token that says that it has it; then it is deleted. Of many the first
   are told, and the token says how far (``SyncToken.inbox``). A device that takes page after page gets larger ones, for
   each costs it a round trip; one that asks again for a page gets a small one (``pages.py``). While more pages wait nothing is deleted,
   and then page by page: the next page does not wait for the deletion of the last, and nobody for that of all.
3. Whoever joined or left a room in between makes the tables be asked: they know who shares rooms with whom.

# spec: client-server-api#e2e-extensions-to-sync
# spec: client-server-api#send-to-device-messaging
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from twisted.internet.defer import Deferred

from federation.ids import may_stand_alone
from homeserver.db.errors import DatabaseError
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.e2ee.lists import ListAsk, ListNews, load_news
from homeserver.e2ee.pages import InboxPages
from homeserver.e2ee.types import Requester
from homeserver.store.changes import Change, Kind
from homeserver.store.cross_signing import OthersSigned
from homeserver.store.device_lists import ListChanged
from homeserver.store.devices import DevicesChanged
from homeserver.store.history import END
from homeserver.store.ids import Interner
from homeserver.store.one_time_keys import KeysLeft, KeysTaken, load_keys_left
from homeserver.store.placement import Membership, moves_of
from homeserver.store.to_device import drop_delivered, load_ends
from homeserver.store.visibility_reads import StateFacts
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex
from homeserver.stream.log import ChangeLog
from homeserver.stream.tokens import SyncToken
from homeserver.stream.undisturbed import Readings
from homeserver.sync.types import DeviceAnswer, Inbox

# spec: client-server-api#server-behaviour (of send-to-device messaging: the recommended number)
MESSAGES_MOST = 100
# LIMIT(what a device is told at once that has taken page after page)
MESSAGES_LARGEST = 1_000
# LIMIT(pages that a device has and that are deleted only with the last that waits: they count as its inbox)
_TAKEN_MOST = 24
_DEVICES_KEPT = 50_000
_NEWS_KEPT = 20_000

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Device:
    """What is known of a device that syncs."""

    left: KeysLeft
    oldest: int  # no message is older; 0: none is there
    newest: int  # the position of the newest message; 0: none is there
    keys_pos: int = 0  # when keys came or went, as far as this process saw it
    page: int = MESSAGES_MOST  # how many messages the last page could hold
    page_at: int = -1  # after which position that page began, where there was more; -1: all was told
    taken: list[int] = field(default_factory=list)  # the ends of pages that it has and that are not deleted

    def next_page(self, since: int) -> int:
        """How many messages it is told now, after those up to a position."""
        if self.page_at < 0 or since <= self.page_at:
            self.page = MESSAGES_MOST
        else:
            self.page = min(2 * self.page, MESSAGES_LARGEST)
        return self.page


class _News(NamedTuple):
    """Whose keys changed; ``only`` is the one user who hears of it, or 0."""

    pos: int
    user_nid: int
    room_nids: Sequence[int]
    only: int


class _Moved(NamedTuple):
    """A membership of a room may have changed."""

    pos: int
    room_nid: int
    user_nid: int


@dataclass(slots=True)
class _Recent:
    """Entries with positions, the newest of them; what came after ``floor`` is all here."""

    floor: int
    entries: deque[_News | _Moved] = field(default_factory=deque)

    def add(self, entry: _News | _Moved) -> None:
        self.entries.append(entry)
        if len(self.entries) > _NEWS_KEPT:
            self.floor = self.entries.popleft().pos

    def forget(self, pos: int) -> None:
        self.entries.clear()
        self.floor = pos

    def between(self, since: int, upto: int) -> Iterable[_News | _Moved]:
        """The newest first."""
        for entry in reversed(self.entries):
            if entry.pos <= since:
                return
            if entry.pos <= upto:
                yield entry


class DeviceNews:
    """See the module; ``sync.types.DeviceSections``."""

    def __init__(
        self,
        database: Database,
        worker: Worker,
        interner: Interner,
        index: MembershipIndex,
        changes: ChangeLog,
        facts: StateFacts,
    ) -> None:
        self._database = database
        self._pages = InboxPages(database)
        self._worker = worker
        self._interner = interner
        self._index = index
        self._facts = facts
        self._devices: OrderedDict[int, _Device] = OrderedDict()
        self._readings: Readings[int] = Readings()  # by device
        self._news = _Recent(changes.position)
        self._moves = _Recent(changes.position)

    # --- following the log ---------------------------------------------------------------------------------------

    # What ``apply`` looks at.
    kinds = frozenset(
        {
            Kind.EVENT,
            Kind.STATE_MOVED,
            Kind.TO_DEVICE,
            Kind.DEVICE_KEYS,
            Kind.DEVICE_LIST,
            Kind.SIGNING_KEYS,
            Kind.DEVICES,
            Kind.JOIN_PROGRESS,
            Kind.TRUNCATED,
        }
    )

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        for change in changes:
            kind = change.kind
            if kind in (Kind.EVENT, Kind.STATE_MOVED):
                self._members_moved(change)
            elif kind == Kind.TO_DEVICE:
                if change.topic:
                    self._message_came(change.ref, change.pos)
            elif kind == Kind.DEVICE_KEYS:
                self._keys_moved(change)
            elif kind in (Kind.DEVICE_LIST, Kind.SIGNING_KEYS):
                self._list_changed(change)
            elif kind == Kind.DEVICES:
                if isinstance(change.payload, DevicesChanged):
                    for nid, _ in change.payload.removed:
                        self._forget(nid)
            elif kind in (Kind.JOIN_PROGRESS, Kind.TRUNCATED):
                self._moves.add(_Moved(change.pos, change.topic, 0))

    def _members_moved(self, change: Change) -> None:
        moved = [move.member_nid for move in moves_of(change) if move.member_nid]
        if moved:
            # Thousands at once where a join is complete: of those who are not here the room says enough.
            self._moves.add(_Moved(change.pos, change.topic, 0))
            for user_nid in moved:
                if self._index.is_local(user_nid):
                    self._moves.add(_Moved(change.pos, change.topic, user_nid))

    def _message_came(self, device_nid: int, pos: int) -> None:
        self._readings.overtake(device_nid)
        device = self._devices.get(device_nid)
        if device is not None:
            device.newest = pos
            device.oldest = device.oldest or pos

    def _keys_moved(self, change: Change) -> None:
        self._readings.overtake(change.ref)
        device = self._devices.get(change.ref)
        if device is None:
            return
        if change.payload is None:
            self._forget(change.ref)
            return
        if isinstance(change.payload, KeysTaken):
            device.left = device.left.after(change.payload)
        else:
            device.left = change.payload
        device.keys_pos = change.pos

    def _list_changed(self, change: Change) -> None:
        payload = change.payload
        if isinstance(payload, ListChanged):
            self._news.add(_News(change.pos, payload.user_nid, payload.room_nids, 0))
        elif isinstance(payload, OthersSigned):
            self._news.add(_News(change.pos, payload.target_nid, (), -change.topic))
        else:
            self._news.forget(change.pos)

    def _forget(self, device_nid: int) -> None:
        self._devices.pop(device_nid, None)
        self._readings.overtake(device_nid)

    # --- is there anything -------------------------------------------------------------------------------------------

    def changed(self, requester: Requester, at: SyncToken, upto: int) -> bool:
        """Whether there may be anything for this device after a token; from memory."""
        device = self._devices.get(requester.device_nid)
        if requester.device_nid and (device is None or device.newest > at.inbox or device.keys_pos > at.pos):
            return True
        if at.pos >= upto:
            return False
        if at.pos < self._news.floor:
            return True
        return any(self._concerns(requester.user_nid, news) for news in self._news.between(at.pos, upto))

    def _concerns(self, user_nid: int, news: _News | _Moved) -> bool:
        if not isinstance(news, _News):
            return False
        if news.only:
            return news.only == user_nid
        return news.user_nid == user_nid or any(
            self._index.is_joined(user_nid, nid) for nid in news.room_nids
        )

    # --- what there is -----------------------------------------------------------------------------------------------

    def prepare(self, requester: Requester) -> Awaitable[None] | None:
        """Before an answer is made: what must be read of a device that has not been here lately."""
        if not requester.device_nid or requester.device_nid in self._devices:
            return None
        return self._load(requester.device_nid)

    async def _load(self, device_nid: int) -> None:
        reading = self._database.read(_load_device, device_nid)
        (left, oldest, newest), may_be_kept = await self._readings.read(device_nid, reading)
        # What came while the tables were read may not be in what was read: the next answer reads again.
        if may_be_kept and device_nid not in self._devices:
            self._devices[device_nid] = _Device(left, oldest, newest)
            if len(self._devices) > _DEVICES_KEPT:
                self._devices.popitem(last=False)

    def load(
        self, requester: Requester, at: SyncToken | None, upto: int
    ) -> DeviceAnswer | Awaitable[DeviceAnswer]:
        """The members of the answer."""
        device = self._devices.get(requester.device_nid)
        if device is not None:
            self._devices.move_to_end(requester.device_nid)
            if at is not None and 0 < device.oldest <= at.inbox:
                self._has(requester.device_nid, device, at.inbox)
            quiet = device.newest <= (at.inbox if at is not None else 0)
            if quiet and (at is None or at.pos >= upto or self._is_quiet(requester, at, upto)):
                keys_moved = at is not None and device.keys_pos > at.pos
                return DeviceAnswer((_keys_member(device.left),), keys_moved, upto)
        return self._load_all(requester, at, upto, device)

    def _is_quiet(self, requester: Requester, at: SyncToken, upto: int) -> bool:
        return not self.changed(requester, at, upto) and not self._has_moved(requester.user_nid, at.pos, upto)

    def _has_moved(self, user_nid: int, since: int, upto: int) -> bool:
        """Whether anybody may have come or gone where the user is, or the user themselves."""
        if since < self._moves.floor:
            return True
        # Who went before ``upto`` from where the user has gone after it would else be missed this time and the next.
        return any(
            isinstance(move, _Moved)
            and (
                move.user_nid == user_nid
                or (move.pos <= upto and self._index.is_joined(user_nid, move.room_nid))
            )
            for move in self._moves.between(since, END)
        )

    def _has(self, device_nid: int, device: _Device, upto: int) -> None:
        """The device has everything up to a position."""
        taken = device.taken
        if not taken or taken[-1] < upto:
            taken.append(upto)
        if device.page_at >= 0 and len(taken) < _TAKEN_MOST:
            return
        if device.newest <= taken[-1]:
            device.oldest = device.newest = 0
        else:
            device.oldest = taken[-1] + 1
        device.taken = []
        # Nobody waits: what is not deleted now is below every token to come, and deleted with the next messages.
        deleting = Deferred.fromCoroutine(self._delete(device_nid, taken))
        deleting.addErrback(lambda failure: failure.trap(DatabaseError) and None)

    async def _delete(self, device_nid: int, ends: Sequence[int]) -> None:
        """Delete page after page, each in a commit of its own."""
        for upto in ends:
            await self._worker.work(drop_delivered, device_nid, upto)

    async def _load_all(
        self, requester: Requester, at: SyncToken | None, upto: int, device: _Device | None
    ) -> DeviceAnswer:
        left = device.left if device is not None else await self._keys_left(requester.device_nid)
        told = device is not None and at is not None and device.keys_pos > at.pos
        members: list[bytes] = []  # as they follow each other
        since = at.inbox if at is not None else 0
        most = MESSAGES_MOST if device is None else device.next_page(since)
        then = min(2 * most, MESSAGES_LARGEST)
        inbox = await self._waiting(requester.device_nid, since, upto, most, then)
        if inbox.events:
            told = True
            members += (b'"to_device":{"events":[', inbox.events, b"]},")
        lists = await self._lists_member(requester.user_nid, at, upto)
        if lists is not None:
            told = True
            members += (lists, b",")
        members.append(_keys_member(left))
        return DeviceAnswer(members, told, inbox.upto)

    async def _keys_left(self, device_nid: int) -> KeysLeft:
        left, _, _ = await self._database.read(_load_device, device_nid)
        return left

    async def _waiting(self, device_nid: int, since: int, upto: int, most: int, then: int) -> Inbox:
        device = self._devices.get(device_nid)
        if device is not None and device.taken:
            since = max(since, device.taken[-1])  # it has them, though they are still there
        inbox = Inbox(b"", upto)
        if device_nid and since < upto and (device is None or device.newest > since):
            inbox = await self._pages.read(device_nid, since, upto, most, then)
        if device is not None:
            device.page_at = since if inbox.upto < upto else -1
        return inbox

    # --- by themselves, for sliding sync -----------------------------------------------------------------------------

    def has_messages(self, requester: Requester, since: int) -> bool:
        """Whether there may be messages for this device after a position; from memory."""
        device = self._devices.get(requester.device_nid)
        return bool(requester.device_nid) and (device is None or device.newest > since)

    async def messages(self, requester: Requester, since: int, upto: int, most: int) -> Inbox:
        """The messages after a position, which the device has up to there: those before it are deleted."""
        device = self._devices.get(requester.device_nid)
        if device is not None:
            self._devices.move_to_end(requester.device_nid)
            if 0 < device.oldest <= since:
                self._has(requester.device_nid, device, since)
        most = min(most, MESSAGES_MOST)
        return await self._waiting(requester.device_nid, since, upto, most, most)

    def keys_changed(self, requester: Requester, at: SyncToken, upto: int) -> bool:
        """Whether there may be news of anybody's keys, or of those that the device has left; from memory."""
        device = self._devices.get(requester.device_nid)
        if requester.device_nid and (device is None or device.keys_pos > at.pos):
            return True
        return at.pos < upto and not self._is_quiet_of_lists(requester, at, upto)

    async def keys(self, requester: Requester, at: SyncToken | None, upto: int) -> tuple[bytes, bool]:
        """What is said of keys, as JSON members without braces, and whether anything of it is news."""
        device = self._devices.get(requester.device_nid)
        left = device.left if device is not None else await self._keys_left(requester.device_nid)
        told = device is not None and at is not None and device.keys_pos > at.pos
        quiet = at is None or at.pos >= upto or self._is_quiet_of_lists(requester, at, upto)
        lists = None if quiet else await self._lists_member(requester.user_nid, at, upto)
        if lists is None:
            return _keys_member(left), told
        return lists + b"," + _keys_member(left), True

    def _is_quiet_of_lists(self, requester: Requester, at: SyncToken, upto: int) -> bool:
        if at.pos < self._news.floor or self._has_moved(requester.user_nid, at.pos, upto):
            return False
        return not any(self._concerns(requester.user_nid, one) for one in self._news.between(at.pos, upto))

    # --- device lists ------------------------------------------------------------------------------------------------

    async def _list_news(self, user_nid: int, since: int, upto: int) -> ListNews:
        if since >= self._news.floor and not self._has_moved(user_nid, since, upto):
            recent = self._news.between(since, upto)
            changed = (one.user_nid for one in recent if self._concerns(user_nid, one))
            return ListNews(frozenset(changed))
        return await self.list_news(user_nid, since, upto)

    async def list_news(self, user_nid: int, since: int, upto: int) -> ListNews:
        """Whose keys changed in ``(since, upto]``, and who is followed no more; from the tables."""
        rooms = self._index.rooms_of(user_nid)
        joined = frozenset(nid for nid, one in rooms.items() if one.membership == Membership.JOIN)
        moved = frozenset(nid for nid, one in rooms.items() if one.pos > since)
        ask = ListAsk(user_nid, since, upto, joined, moved)
        return await self._database.read(load_news, ask, self._facts)

    async def name_users(self, nids: Collection[int]) -> list[str]:
        """User ids in order; nobody could be asked for the keys of what is none."""
        return sorted(filter(may_stand_alone, (await self._interner.user_names(nids)).values()))

    async def _lists_member(self, user_nid: int, at: SyncToken | None, upto: int) -> bytes | None:
        if at is None or at.pos >= upto:
            return None
        news = await self._list_news(user_nid, at.pos, upto)
        if not (news.changed or news.left):
            return None
        lists = {"changed": await self.name_users(news.changed), "left": await self.name_users(news.left)}
        return b'"device_lists":' + _encode(lists)


def _keys_member(left: KeysLeft) -> bytes:
    """What clients insist on in every answer."""
    counts, fallbacks = _encode(left.counts), _encode(left.unused_fallbacks)
    return b'"device_one_time_keys_count":%b,"device_unused_fallback_key_types":%b' % (counts, fallbacks)


def _load_device(tx: Tx, device_nid: int) -> tuple[KeysLeft, int, int]:
    return load_keys_left(tx, device_nid), *load_ends(tx, device_nid)
