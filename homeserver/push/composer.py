"""Makes notifications: what is the same for all who hear of an event is read once, while its room stands still."""

from __future__ import annotations

from collections import OrderedDict

from homeserver.db.threads import Database
from homeserver.push.counts import Unread
from homeserver.push.debts import Owed
from homeserver.push.notice import Address, Subject, build_notice
from homeserver.store.ids import Interner
from homeserver.store.notices import Told, load_told, load_told_outside
from homeserver.store.parsed import EventCache
from homeserver.store.placement import Membership
from homeserver.stream.index import MembershipIndex

# LIMIT(memory: an event with some names each)
_TOLD_MOST = 500
_PRESENT = (Membership.JOIN, Membership.INVITE)


class Composer:
    """See the module."""

    def __init__(
        self,
        database: Database,
        interner: Interner,
        index: MembershipIndex,
        events: EventCache,
        unread: Unread,
    ) -> None:
        self._database = database
        self._interner = interner
        self._index = index
        self._events = events
        self._unread = unread
        # By event and the room's newest position: names are true until the room moves.
        self._told: OrderedDict[tuple[int, int], Told | None] = OrderedDict()

    async def subject(self, user_nid: int, owed: Owed) -> Subject | None:
        """What there is to tell; None where the event is read, answered, redacted, or nothing to this user any more."""
        standing = self._index.standing(user_nid, owed.room_nid)
        if standing is None or standing.membership not in _PRESENT:
            return None
        told = await self._find(user_nid, owed)
        if told is None:
            return None
        names = await self._interner.user_names([user_nid])
        user_id = names.get(user_nid, "")
        event = told.event
        is_target = event.type == "m.room.member" and event.state_key == user_id
        if standing.membership == Membership.INVITE and not is_target:
            return None  # of what was there before they left
        sender_name = told.names.get(str(event.sender))
        return Subject(event, told.room_name(user_id), told.alias, sender_name, is_target)

    async def compose(self, user_nid: int, address: Address, owed: Owed, unread: int) -> bytes | None:
        """The body for a gateway; None as for ``subject``."""
        subject = await self.subject(user_nid, owed)
        return None if subject is None else build_notice(address, subject, owed.actions, unread)

    async def _find(self, user_nid: int, owed: Owed) -> Told | None:
        room_nid = owed.room_nid
        if not owed.event_nid:
            return await self._database.read(load_told_outside, user_nid, room_nid)
        key = (owed.event_nid, self._index.last_pos.get(room_nid, 0))
        if key in self._told:
            told = self._told[key]
        else:
            told = await self._database.read(load_told, room_nid, owed.event_nid, self._events)
            self._told[key] = told
            if len(self._told) > _TOLD_MOST:
                self._told.popitem(last=False)
        if told is None or await self._unread.has_read(user_nid, room_nid, told.thread, owed.pos):
            return None
        return told
