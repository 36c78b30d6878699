"""The follower that tells application services: looks at every change once, and puts it into the outboxes it concerns.

Nothing is read for a message: interest is decided from memory (``interest.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from homeserver.appservices.deliveries import Deliveries, latest_retry_ms
from homeserver.appservices.outbox import Outbox
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.runtime.clock import Clock
from homeserver.store.aliases import load_room_aliases
from homeserver.store.appservices import (
    OwedEvent,
    OwedInvite,
    OwedMessage,
    OwedReceipt,
    Pending,
    Progress,
    forget_services,
    load_all_aliases,
    load_all_rooms,
    load_joined_at,
    load_progress,
    load_users_of,
)
from homeserver.store.changes import Change, Kind, load_cursors, load_position, load_skipped
from homeserver.store.device_lists import ListChanged, load_joined, load_sharing
from homeserver.store.ids import Interner
from homeserver.store.outside import Told
from homeserver.store.parsed import EventCache
from homeserver.store.placement import Membership, moves_of
from homeserver.store.receipts import PRIVATE, ReceiptChange
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex

FOLLOWER = "appservices"

RemoteRooms = Callable[[int], Sequence[int]]


class AppserviceFollowing:
    """See the module. ``start`` before ``handle``."""

    def __init__(
        self,
        server_name: str,
        deliveries: Deliveries,
        database: Database,
        worker: Worker,
        interner: Interner,
        index: MembershipIndex,
        events: EventCache,
        clock: Clock,
    ) -> None:
        self._server_name = server_name
        self._deliveries = deliveries
        self._boxes = deliveries.boxes
        self._database = database
        self._worker = worker
        self._interner = interner
        self._index = index
        self._events = events
        self._clock = clock
        self._aliases_matter = any(box.service.registration.aliases for box in self._boxes)
        self._handled = 0  # every change up to there: where a later one fails, those before it come again

    async def start(self) -> None:
        """Go on where an earlier process was."""
        if self._deliveries.started:
            return  # what came after it failed, and everything is started anew
        with_rooms = any(box.service.registration.rooms for box in self._boxes)
        state = await self._database.read(_load_start, self._server_name, with_rooms)
        known = {box.service.id for box in self._boxes}
        gone = sorted((state.progress.keys() | state.pending.keys()) - known)
        if gone:
            await self._worker.work(forget_services, gone)
        latest_ms = latest_retry_ms(self._clock.now_ms())
        for box in self._boxes:
            interest = box.interest
            interest.load(state.users)
            for room_nid, aliases in state.aliases.items():
                interest.note_aliases(room_nid, aliases)
            for room_nid, room_id in state.rooms:
                interest.note_room(room_nid, room_id)
            joined = await self._database.read(load_joined_at, sorted(interest.user_nids), state.cursor)
            interest.load_rooms(joined)
            name = box.service.id
            begin = state.progress.get(name, Progress(name, state.cursor))
            box.restore(begin, state.pending.get(name), state.cursor, latest_ms)
        progress = {name: one for name, one in state.progress.items() if name in known}
        self._deliveries.start(progress, state.skipped)

    async def handle(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        for change in changes:
            if change.pos <= self._handled:
                continue
            kind = change.kind
            if kind == Kind.STATE_MOVED or _is_untold(change):
                await self._moved(change)
            elif kind == Kind.EVENT:
                await self._event(change)
            elif kind == Kind.RECEIPT:
                self._receipt(change)
            elif kind == Kind.TO_DEVICE:
                self._message(change)
            elif kind == Kind.OUTSIDE:
                await self._outside(change)
            elif kind == Kind.ACCOUNT:
                await self._account(change)
            elif kind == Kind.DIRECTORY:
                await self._directory(change)
            elif kind in (Kind.DEVICE_KEYS, Kind.DEVICE_LIST, Kind.SIGNING_KEYS):
                self._keys(change)
            self._handled = change.pos
            for box in self._boxes:
                box.passed = max(box.passed, change.pos)
        for box in self._boxes:
            self._deliveries.ready(box)

    async def _moved(self, change: Change) -> None:
        for box in self._boxes:
            before = _concerned_before(box, change)
            box.interest.moved(change)
            if box.service.registration.encryption:
                await self._members(box, change, before=before)

    # --- what is owed ------------------------------------------------------------------------------------

    async def _event(self, change: Change) -> None:
        placed = change.payload
        if placed is None:
            return
        for box in self._boxes:
            before = _concerned_before(box, change)
            if box.interest.event(change, placed):
                users = box.interest.user_nids
                own = any(move.member_nid in users and move.event_nid == placed.nid for move in placed.moves)
                box.add(OwedEvent(change.pos, change.topic, placed.nid, placed.prev_nid, own))
            if placed.moves and box.service.registration.encryption:
                await self._members(box, change, before=before)

    def _receipt(self, change: Change) -> None:
        moved: ReceiptChange | None = change.payload
        if moved is None:
            # Of another process: it is read when the tables are looked at anyway.
            for box in self._boxes:
                if box.service.registration.wants_ephemeral and box.interest.is_in(change.topic):
                    box.fall_behind()
            return
        for box in self._boxes:
            wanted = box.service.registration.wants_ephemeral and box.interest.is_in(change.topic)
            if wanted and (moved.kind != PRIVATE or moved.user_nid in box.interest.user_nids):
                box.add(OwedReceipt(change.pos, moved))

    def _message(self, change: Change) -> None:
        for box in self._boxes:
            if box.service.registration.wants_ephemeral and -change.topic in box.interest.user_nids:
                box.add(OwedMessage(change.pos, change.ref))

    async def _outside(self, change: Change) -> None:
        told: Told | None = change.payload
        if told is None:
            return
        await self._note_user(told.user_nid)
        for box in self._boxes:
            if told.user_nid in box.interest.user_nids:
                box.add(OwedInvite(change.pos, told))

    async def _account(self, change: Change) -> None:
        await self._note_user(-change.topic)

    async def _note_user(self, user_nid: int) -> None:
        name = self._interner.user_name(user_nid)
        if name is None:
            name = (await self._interner.user_names([user_nid])).get(user_nid, "")
        for box in self._boxes:
            box.interest.note_user(user_nid, name)

    async def _directory(self, change: Change) -> None:
        if self._aliases_matter:
            aliases = await self._database.read(load_room_aliases, change.topic)
            for box in self._boxes:
                box.interest.note_aliases(change.topic, aliases)

    # --- encryption --------------------------------------------------------------------------------------

    def _keys(self, change: Change) -> None:
        user_nid = -change.topic
        for box in self._boxes:
            if not box.service.registration.encryption:
                continue
            interest = box.interest
            if change.kind == Kind.DEVICE_KEYS:
                if user_nid in interest.user_nids:
                    box.note(box.devices, change.ref)
            elif isinstance(change.payload, ListChanged):
                rooms = change.payload.room_nids
                if user_nid in interest.user_nids or any(interest.is_in(room_nid) for room_nid in rooms):
                    box.note(box.changed, user_nid)

    async def _members(self, box: Outbox, change: Change, *, before: bool) -> None:
        """Who comes to share a room with its users is followed from then on; who shares none any more is not.

        ``before``: whether the room concerned it before the change.
        """
        interest, room_nid = box.interest, change.topic
        now = interest.is_in(room_nid)
        came: set[int] = set()
        went: set[int] = set()
        if now != before:
            # The first of its users came, or the last one left: with all who are there.
            (came if now else went).update(await self._database.read(load_joined, [room_nid]))
        elif now:
            for move in moves_of(change):
                if not move.member_nid:
                    continue
                if not (move.membership == Membership.JOIN and move.event_nid):
                    went.add(move.member_nid)
                elif not self._events.is_join(move.prev_nid):
                    came.add(move.member_nid)
        went -= interest.user_nids
        if went:
            went -= await self._database.read(load_sharing, went, interest.rooms)
        for user_nid in sorted(came - interest.user_nids):
            box.left.discard(user_nid)
            box.note(box.changed, user_nid)
        for user_nid in sorted(went):
            box.changed.discard(user_nid)
            box.note(box.left, user_nid)

    # --- of the moment -----------------------------------------------------------------------------------

    def typing(self, room_nid: int) -> None:
        """Who types in a room has changed."""
        for box in self._boxes:
            if box.service.registration.wants_ephemeral and box.interest.is_in(room_nid):
                box.note(box.untold_typing, room_nid)
                self._deliveries.ready(box)

    def presence(self, user_nid: int, rooms: Sequence[int] | None = None) -> None:
        """Somebody came or went; ``rooms``: where they are, if they are of another server."""
        for box in self._boxes:
            if not box.service.registration.wants_ephemeral:
                continue
            where = self._index.joined_rooms(user_nid) if rooms is None else rooms
            interest = box.interest
            if user_nid in interest.user_nids or any(interest.is_in(room_nid) for room_nid in where):
                box.note(box.presence, user_nid)
                self._deliveries.ready(box)


class _Start:
    """What is read once. ``cursor``: how far the follower was, or the newest position where it is new."""

    __slots__ = ("aliases", "cursor", "pending", "progress", "rooms", "skipped", "users")

    def __init__(self, tx: Tx, server_name: str, with_rooms: bool) -> None:
        self.cursor: int = load_cursors(tx).get(FOLLOWER, load_position(tx))
        self.progress: dict[str, Progress]
        self.pending: dict[str, Pending]
        self.progress, self.pending = load_progress(tx)
        self.skipped = load_skipped(tx)
        self.users = load_users_of(tx, server_name)
        self.aliases: dict[int, list[str]] = {}
        for room_nid, alias in load_all_aliases(tx):
            self.aliases.setdefault(room_nid, []).append(alias)
        # What is of the moment comes with no room's name, and before any event.
        self.rooms = load_all_rooms(tx) if with_rooms else []


def _load_start(tx: Tx, server_name: str, with_rooms: bool) -> _Start:
    return _Start(tx, server_name, with_rooms)


def _concerned_before(box: Outbox, change: Change) -> bool:
    """Whether the room concerned it before the change; the same where the change is handled again after a failure."""
    if box.before[0] != change.pos:
        box.before = change.pos, box.interest.is_in(change.topic)
    return box.before[1]


def _is_untold(change: Change) -> bool:
    """Whether it is an event that nobody is told of, though the state may move where it joins a fork."""
    return change.kind == Kind.EVENT and change.payload is not None and change.payload.idle
