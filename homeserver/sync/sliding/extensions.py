"""The extensions of sliding sync: what is told beside rooms.

Receipts and account data have a place of their own in a room's entry: an extension may be asked for fewer rooms than
are shown, and for others later.

proposals: MSC3884 (e2ee), MSC3885 (to-device), MSC3959 (account data), MSC3960 (receipts), MSC3961 (typing), MSC4308
(thread subscriptions)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from homeserver.http.errors import invalid_param
from homeserver.store.account_data import AccountDataChanged, AccountDatum
from homeserver.store.ids import Interner
from homeserver.store.placement import Membership
from homeserver.store.receipts import ReceiptChange
from homeserver.store.sticky import Sticky
from homeserver.store.thread_subscriptions import SubscriptionChange
from homeserver.stream.index import MembershipIndex
from homeserver.stream.threads import told_changes
from homeserver.stream.tokens import SyncToken
from homeserver.sync.serialise import account_data_event, encode, events_object, receipt_events, typing_event
from homeserver.sync.sliding.connections import JOINED, LIVE, NEVER, NEW_ACCOUNT, Told
from homeserver.sync.sliding.extras import Extras, ExtrasWanted
from homeserver.sync.sliding.news import RoomNews
from homeserver.sync.sliding.plan import Work
from homeserver.sync.sliding.request import Extensions as Asked
from homeserver.sync.sliding.request import Scope
from homeserver.sync.sticky import StickySections
from homeserver.sync.types import DefaultData, DeviceSections, Requester, Typing
from homeserver.sync.work import split_counters

TO_DEVICE_MOST = 100
THREADS_MOST = 500
STICKY_MOST = 500
_DIGITS_MOST = 18


@dataclass(slots=True)
class Said:
    """What the extensions say: JSON members, and whether any of it is news."""

    members: list[bytes] = field(default_factory=list)
    told: bool = False
    unseen: list[int] = field(default_factory=list)  # rooms out of sight where something changed

    def add(self, name: bytes, body: bytes, *, told: bool = True) -> None:
        self.members.append(b'"%b":%b' % (name, body))
        self.told |= told

    def write(self) -> bytes:
        return b"{" + b",".join(self.members) + b"}"


class Extensions:
    """See the module. Made for each answer in three steps: ``want``, a read where there is something, ``write``."""

    def __init__(
        self,
        index: MembershipIndex,
        interner: Interner,
        typing: Typing,
        devices: DeviceSections,
        defaults: DefaultData,
        sticky: StickySections | None = None,
    ) -> None:
        self._sticky = sticky
        self._index = index
        self._interner = interner
        self._typing = typing
        self._devices = devices
        self._defaults = defaults

    # --- what to read --------------------------------------------------------------------------------------------

    def want(self, work: Work, news: Mapping[int, RoomNews], told: dict[int, Told]) -> ExtrasWanted:
        """What must be read, and (in ``told``, by room) what was told after it."""
        wanted = ExtrasWanted(work.requester.user_nid, work.token.pos)
        self._want_receipts(work, news, told, wanted)
        self._want_account_data(work, told, wanted)
        self._want_threads(work, told, wanted)
        return wanted

    def _want_receipts(
        self, work: Work, news: Mapping[int, RoomNews], told: dict[int, Told], wanted: ExtrasWanted
    ) -> None:
        scope = work.asked.extensions.receipts
        last_pos = self._index.last_pos
        for nid in self._rooms(work, told):
            entry = told.get(nid) or work.state[nid]
            changed = work.at is not None and (work.blind or last_pos.get(nid, 0) > work.since)
            if entry.receipts == LIVE and not changed and nid not in news:
                continue
            inside = scope is not None and self._covers(scope, work, nid)
            if not inside or entry.kind != JOINED:
                if entry.receipts == LIVE and changed and self._has_receipts(work, nid):
                    told[nid] = entry._replace(receipts=work.since)
                since = _counted_upto(work, nid)
                if since and entry.kind == JOINED:
                    wanted.receipts_since.setdefault(since, []).append(nid)
                continue
            if entry.receipts == NEVER:
                wanted.receipts_at.append(nid)
                wanted.shown += news[nid].shown if nid in news else ()
            elif entry.receipts > 0:
                wanted.receipts_since.setdefault(entry.receipts, []).append(nid)
            elif changed and not self._is_known(work, nid):
                wanted.receipts_since.setdefault(work.since, []).append(nid)
            if nid in news and news[nid].wide:
                wanted.receipts_at.append(nid)
                wanted.shown += news[nid].shown
            if entry.receipts != LIVE:
                told[nid] = entry._replace(receipts=LIVE)

    def _rooms(self, work: Work, told: Mapping[int, Told]) -> list[int]:
        """The rooms of the answer's windows, and those that the client was told of where something happened."""
        rooms = {nid: None for nid in work.windows.rooms if nid in told or nid in work.state}
        if work.window is None or work.blind:
            rooms.update(dict.fromkeys(nid for nid in work.state if nid))
        else:
            rooms.update(dict.fromkeys(nid for nid in work.window.topics if nid > 0 and nid in work.state))
        return [nid for nid in rooms if nid in told or nid in work.state]

    def _covers(self, scope: Scope, work: Work, nid: int) -> bool:
        relevant = work.windows.rooms.get(nid)
        if relevant is None:
            return False
        return scope.covers(work.windows.names[nid], relevant.lists, relevant.subscribed)

    def _is_known(self, work: Work, nid: int) -> bool:
        """Whether the log says everything of a room's receipts since the request's position."""
        if work.window is None or work.blind:
            return False
        topic = work.window.topics.get(nid)
        return topic is None or topic.complete

    def _has_receipts(self, work: Work, nid: int) -> bool:
        if not self._is_known(work, nid) or work.window is None:
            return True
        topic = work.window.topics.get(nid)
        return topic is not None and bool(topic.receipts)

    def _want_account_data(self, work: Work, told: dict[int, Told], wanted: ExtrasWanted) -> None:
        scope = work.asked.extensions.account_data
        user_nid = work.requester.user_nid
        moved = work.at is not None and (work.blind or self._index.last_pos.get(-user_nid, 0) > work.since)
        account = told.get(0) or work.state.get(0, NEW_ACCOUNT)
        if scope is None:
            if moved and account.account == LIVE:
                told[0] = account._replace(account=work.since)
        elif account.account == NEVER:
            wanted.account_of.append(0)
        elif account.account > 0:
            wanted.account_since = account.account
        elif moved and not self._own_known(work):
            wanted.account_since = work.since
        if scope is not None and account.account != LIVE:
            told[0] = account._replace(account=LIVE)
        changed = self._own_rooms(work) if moved else frozenset()
        for nid in dict.fromkeys((*work.windows.rooms, *(changed if changed is not None else work.state))):
            entry = told.get(nid) or work.state.get(nid)
            if not nid or entry is None or (entry.account == LIVE and not moved):
                continue
            if scope is not None and self._covers(scope, work, nid):
                if entry.account != LIVE:
                    (wanted.account_of if entry.account == NEVER else wanted.account_again).append(nid)
                    told[nid] = entry._replace(account=LIVE)
            elif moved and entry.account == LIVE and (changed is None or nid in changed):
                told[nid] = entry._replace(account=work.since)

    def _want_threads(self, work: Work, told: dict[int, Told], wanted: ExtrasWanted) -> None:
        limit = work.asked.extensions.threads_limit
        account = told.get(0) or work.state.get(0, NEW_ACCOUNT)
        moved = work.at is not None and self._threads_moved(work)
        if limit is None:
            if moved and account.receipts == LIVE:
                told[0] = account._replace(receipts=work.since)
            return
        if account.receipts != LIVE:
            wanted.threads_since = max(account.receipts, 0)
            told[0] = account._replace(receipts=LIVE)
        elif moved:
            wanted.threads_since = work.since
        wanted.threads_most = min(limit, THREADS_MOST)

    def _threads_moved(self, work: Work) -> bool:
        """Whether subscriptions of threads may have changed since the request's position."""
        if self._index.last_pos.get(-work.requester.user_nid, 0) <= work.since and not work.blind:
            return False
        topic = None if work.window is None else work.window.topics.get(-work.requester.user_nid)
        return work.blind or (topic is not None and topic.threads)

    def _own_known(self, work: Work) -> bool:
        if work.window is None or work.blind:
            return False
        topic = work.window.topics.get(-work.requester.user_nid)
        return topic is None or topic.complete

    def _own_rooms(self, work: Work) -> frozenset[int] | None:
        """The rooms whose account data changed; None: that is not in memory."""
        if not self._own_known(work) or work.window is None:
            return None
        topic = work.window.topics.get(-work.requester.user_nid)
        return frozenset(one.room_nid for one in topic.account_data) if topic is not None else frozenset()

    # --- what to say ---------------------------------------------------------------------------------------------

    async def write(self, work: Work, extras: Extras, news: Mapping[int, RoomNews]) -> Said:
        """Every extension that was asked for; ``news``: what the answer says of rooms."""
        said = Said()
        asked, requester, upto = work.asked.extensions, work.requester, work.token.pos
        if asked.to_device:
            since = parse_position(asked.to_device_since, upto)
            most = TO_DEVICE_MOST if asked.to_device_limit is None else asked.to_device_limit
            inbox = await self._devices.messages(requester, since, upto, most)
            body = b'{"next_batch":"%d","events":[%b]}' % (inbox.upto, inbox.events)
            said.add(b"to_device", body, told=bool(inbox.events))
        if asked.e2ee:
            members, told = await self._devices.keys(requester, work.at, upto)
            said.add(b"e2ee", b"{" + members + b"}", told=told)
        if asked.account_data is not None:
            self._write_account_data(said, work, asked.account_data, extras)
        if asked.receipts is not None:
            self._write_receipts(said, work, asked.receipts, extras)
        if asked.typing is not None:
            self._write_typing(said, work, asked.typing)
        if extras.threads:
            await self._write_threads(said, extras.threads, min(asked.threads_limit or 0, THREADS_MOST))
        if asked.sticky_limit is not None and self._sticky is not None:
            shown = {event_nid for one in news.values() for event_nid in one.shown}
            await self._write_sticky(said, work, self._sticky, asked.sticky_limit, shown)
        return said

    async def _write_sticky(
        self, said: Said, work: Work, sticky: StickySections, limit: int, in_timelines: Collection[int]
    ) -> None:
        """Of every room that the user is in, whatever the windows show: the oldest, and where to go on."""
        # spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4480
        upto = work.token.pos
        since = parse_position(work.asked.extensions.sticky_since, upto)
        joined = self._index.joined_rooms(work.requester.user_nid)
        standings = self._index.rooms_of(work.requester.user_nid)
        # Of a room that they have come to since, they have heard nothing.
        after = {nid: 0 if standings[nid].pos > since else since for nid in joined}
        found = sticky.find(after, upto, work.now_ms, work.ignored)

        def heard_at(one: Sticky) -> int:
            # What is older than that they came, they hear of by coming: all together, however many are asked for.
            return max(one.pos, standings[one.room_nid].pos)

        ordered = sorted((heard_at(one), one.event_nid) for rooms in found.values() for one in rooms)
        most = max(1, min(limit, STICKY_MOST))
        end = upto if len(ordered) <= most else min(upto, ordered[most - 1][0])
        # What the timelines of this answer tell is passed over, and the client goes on behind it all the same.
        shown = {
            nid: [one for one in rooms if heard_at(one) <= end and one.event_nid not in in_timelines]
            for nid, rooms in found.items()
        }
        written = await sticky.write(shown, work.now_ms)
        if written or any(event_nid in in_timelines for _, event_nid in ordered):
            names = await self._interner.room_names(sorted(written))
            events = (encode(names[nid]) + b":" + events_object(told) for nid, told in written.items())
            body = b'{"next_batch":"%d","rooms":{%b}}' % (end, b",".join(events))
            said.add(b"org.matrix.msc4354.sticky_events", body)

    def _write_account_data(self, said: Said, work: Work, scope: Scope, extras: Extras) -> None:
        found: list[AccountDatum | AccountDataChanged] = list(extras.account)
        own = work.window.topics.get(-work.requester.user_nid) if work.window is not None else None
        if own is not None and self._own_known(work):
            found += own.account_data
        if work.state.get(0, NEW_ACCOUNT).account == NEVER:
            stored = {one.type for one in found if one.room_nid == 0}
            defaults = self._defaults(work.requester.user_id)
            found += [AccountDatum(0, kind, text) for kind, text in defaults.items() if kind not in stored]
        by_room: dict[int, dict[str, bytes]] = {}
        for one in found:
            if one.room_nid == 0 or self._covers(scope, work, one.room_nid):
                by_room.setdefault(one.room_nid, {})[one.type] = account_data_event(one.type, one.content)
        parts = []
        if 0 in by_room:
            parts.append(b'"global":[%b]' % b",".join(by_room[0].values()))
        rooms = {nid: b"[%b]" % b",".join(events.values()) for nid, events in by_room.items() if nid}
        if rooms:
            parts.append(b'"rooms":' + _rooms(work, rooms))
        if parts:
            said.add(b"account_data", b"{" + b",".join(parts) + b"}")

    def _write_receipts(self, said: Said, work: Work, scope: Scope, extras: Extras) -> None:
        rooms: dict[int, bytes] = {}
        for nid in self.with_receipts(work, extras):
            receipts = self.receipts_of(work, nid, extras)
            # Who reads on in a room that the user has left is nothing to them.
            if receipts and self._is_in(work, nid) and self._covers(scope, work, nid):
                # LIMIT(one object has one place for an event, kind and user: of several threads' receipts at one
                # event, the one for everything goes first)
                in_order = sorted(receipts, key=lambda one: one.thread != "")
                events = receipt_events(in_order, work.requester.user_nid, work.ignored)
                if events:
                    rooms[nid] = events[0]
        if rooms:
            said.add(b"receipts", b'{"rooms":%b}' % _rooms(work, rooms))

    def with_receipts(self, work: Work, extras: Extras) -> list[int]:
        """The rooms of whose receipts there may be news: those in the windows, and what had to be read of others."""
        topics = work.window.topics if work.window is not None else {}
        inside = work.windows.rooms
        return [
            *(nid for nid in inside if nid in extras.receipts or nid in topics),
            *(nid for nid in extras.receipts if nid not in inside),
        ]

    def receipts_of(self, work: Work, nid: int, extras: Extras) -> Sequence[ReceiptChange]:
        """The receipts that are news of a room."""
        if nid in extras.receipts:
            return extras.receipts[nid]
        topic = work.window.topics.get(nid) if work.window is not None else None
        return topic.receipts if topic is not None and nid in work.state else ()

    def _is_in(self, work: Work, nid: int) -> bool:
        return self._index.is_joined(work.requester.user_nid, nid)

    def _write_typing(self, said: Said, work: Work, scope: Scope) -> None:
        typing = self._typing
        at = split_counters(work.at.ephemeral)[0] if work.at is not None else 0
        standings, state = self._index.rooms_of(work.requester.user_nid), work.state
        moved = typing.counter != at
        # Where nobody began or stopped, rooms that the client has are as they were.
        rooms_asked = [
            nid for nid in work.windows.rooms if moved or nid not in state or state[nid].sent != LIVE
        ]
        inside = [
            nid
            for nid in rooms_asked
            if nid in standings
            and standings[nid].membership == Membership.JOIN
            and self._covers(scope, work, nid)
        ]
        changed = set(typing.changed_since(inside, at)) if moved else set()
        rooms: dict[int, bytes] = {}
        for nid in inside:
            entry = state.get(nid)
            new = entry is None or entry.sent != LIVE
            if nid not in changed and not new:
                continue
            users = [one for one in typing.users_in(nid) if one not in work.ignored]
            # Of a room that was out of sight the client may think that somebody types there.
            if users or entry is not None:
                rooms[nid] = typing_event(users)
        if moved:
            # LIMIT(what a room's entry can say): not where the room is seen, and typing is asked of others alone.
            told = [nid for nid in typing.changed_since(state.keys(), at) if nid not in work.windows.rooms]
            said.unseen += [
                nid for nid in told if nid and state[nid].kind == JOINED and state[nid].sent == LIVE
            ]
        if rooms:
            said.add(b"typing", b'{"rooms":%b}' % _rooms(work, rooms))

    async def _write_threads(self, said: Said, found: Sequence[SubscriptionChange], most: int) -> None:
        shown = found[:most]
        names = await self._interner.room_names(sorted({one.room_nid for one in shown}))
        body = told_changes(shown, names)
        if len(found) > most:
            # With it the rest can be asked for, page by page: rooms/thread_subscriptions.py
            body["prev_batch"] = str(found[most].pos)
        said.add(b"io.element.msc4308.thread_subscriptions", encode(body))

    # --- is there anything ---------------------------------------------------------------------------------------

    def changed(self, requester: Requester, asked: Asked, at: SyncToken, upto: int) -> bool:
        """Whether the device has news that no room's position tells of."""
        if asked.to_device:
            since = parse_position(asked.to_device_since, upto)
            if self._devices.has_messages(requester, since):
                return True
        return asked.e2ee and self._devices.keys_changed(requester, at, upto)


def _rooms(work: Work, rooms: Mapping[int, bytes]) -> bytes:
    names = work.windows.names
    return b"{" + b",".join(encode(names[nid]) + b":" + body for nid, body in rooms.items()) + b"}"


def parse_position(text: str | None, upto: int) -> int:
    """A ``since`` of the to-device extension; 400 M_INVALID_PARAM for anything that was not given out."""
    if text is None or text == "":
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS_MOST:
        raise invalid_param("The token of the to_device extension is not of this server")
    # A database that was restored is behind what its clients have seen.
    return min(int(text), upto)


def _counted_upto(work: Work, nid: int) -> int:
    """From where on it must be read whether the user has read something in a room: the counts that were told stand on it.

    0: that is known. What they read meanwhile is told with a room that comes into sight again; and what nobody here has
    heard of is noted of one that is out of sight.
    """
    entry = work.state.get(nid)
    if entry is None or entry.kind != JOINED:
        return 0
    if entry.sent == LIVE:
        return work.since if work.blind else 0
    return entry.sent if nid in work.windows.rooms else 0


def own_receipts(receipts: Iterable[ReceiptChange], user_nid: int) -> bool:
    """Whether somebody has read something: then their counts are news."""
    return any(one.user_nid == user_nid for one in receipts)
