"""From the rooms' pieces to the whole answer: what is a user's own or only in memory comes in here.

spec: client-server-api#get_matrixclientv3sync
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Any

from homeserver.store.account_data import AccountDataChanged, AccountDatum
from homeserver.store.placement import Membership
from homeserver.store.receipts import ReceiptChange
from homeserver.stream.index import MembershipIndex
from homeserver.stream.tokens import SyncToken
from homeserver.sync.lazy import LazyMemory
from homeserver.sync.profile_section import ProfileSection
from homeserver.sync.sections import (
    Loaded,
    Piece,
    account_data_by_room,
    joined_room,
    left_room,
    rooms_section,
    stripped_rooms,
)
from homeserver.sync.serialise import counts_members, encode, events_object, receipt_events, typing_event
from homeserver.sync.sticky import StickySections
from homeserver.sync.types import (
    DefaultData,
    DeviceAnswer,
    DeviceSections,
    Presence,
    Requester,
    Typing,
    Unread,
)
from homeserver.sync.window import Topic
from homeserver.sync.work import Answer, Work


class Assembler:
    """See the module."""

    def __init__(
        self,
        index: MembershipIndex,
        lazy: LazyMemory,
        typing: Typing,
        presence: Presence,
        unread: Unread,
        devices: DeviceSections,
        defaults: DefaultData,
        sticky: StickySections | None = None,
        profiles: ProfileSection | None = None,
    ) -> None:
        self._index = index
        self._lazy = lazy
        self._typing = typing
        self._presence = presence
        self._unread = unread
        self._devices = devices
        self._defaults = defaults
        self._sticky = sticky
        self._profiles = profiles

    async def assemble(self, work: Work, pieces: Mapping[int, Piece], loaded: Loaded) -> Answer:
        """The answer."""
        filter_ = work.ask.filter
        account = account_data_by_room(self._account_data(work, loaded), filter_)
        ephemeral = self._ephemeral(work, pieces, loaded)
        sticky = await self._sticky_events(work, pieces)
        told_rooms = [
            nid
            for nid in self._joined(work, pieces, account, ephemeral)
            if nid in sticky or self._is_told(work, nid, pieces, account, ephemeral, loaded)
        ]
        if len(told_rooms) > 1:
            preparing = self._unread.prepare(work.ask.requester.user_nid, told_rooms)
            if preparing is not None:
                await preparing
        join: dict[str, bytes] = {}
        for room_nid in told_rooms:
            body = await self._room(
                work, room_nid, pieces.get(room_nid), account, ephemeral, sticky.get(room_nid)
            )
            join[work.names[room_nid]] = body
        leave = {
            work.names[nid]: left_room(
                pieces[nid], work.ask.state_name, self._room_account(work, account, nid)
            )
            for nid in work.plan.left
            if nid in pieces
        }
        sections = {"join": join, "leave": leave}
        for name, membership in (("invite", Membership.INVITE), ("knock", Membership.KNOCK)):
            sections[name] = stripped_rooms(
                work.names, work.plan.stripped, loaded.stripped, membership, work.inviters
            )
        parts = [
            rooms_section(sections),
            self._presence_section(work),
            _events_member(b"account_data", list(account.get(0, {}).values())),
            await self._profiles.write(work, pieces) if self._profiles is not None else b"",
        ]
        answer = await self.body(work.ask.requester, work.token, work.at, parts)
        self._note_members(work, pieces)
        answer.told |= any(parts) or work.initial
        return answer

    async def body(
        self, requester: Requester, token: SyncToken, at: SyncToken | None, parts: Sequence[bytes]
    ) -> Answer:
        """The outermost object: what is said of the device goes first."""
        found = self._devices.load(requester, at, token.pos)
        devices = found if isinstance(found, DeviceAnswer) else await found
        if devices.inbox < token.pos:
            token = token._replace(behind=devices.inbox)
        # Joined once: what a device is told may be megabytes.
        members = [b'{"next_batch":"%b",' % str(token).encode(), *devices.members]
        for part in parts:
            if part:
                members += (b",", part)
        members.append(b"}")
        return Answer(b"".join(members), devices.told, token)

    # --- one room ------------------------------------------------------------------------------------------------

    def _joined(
        self,
        work: Work,
        pieces: Mapping[int, Piece],
        account: Mapping[int, object],
        ephemeral: Mapping[int, object],
    ) -> list[int]:
        """The rooms that the reader is in and that something is to be said of."""
        plan = work.plan
        found = [nid for nid in pieces if nid not in plan.left]
        # Those that were left too: by now the reader may be in them again, and that is told by the next answer.
        known = set(pieces)
        standings = self._index.rooms_of(work.ask.requester.user_nid)
        for nid in (*account, *ephemeral):
            if nid and nid not in known and nid in work.names:
                standing = standings.get(nid)
                if standing is not None and standing.membership == Membership.JOIN:
                    known.add(nid)
                    found.append(nid)
        return found

    def _is_told(
        self,
        work: Work,
        room_nid: int,
        pieces: Mapping[int, Piece],
        account: Mapping[int, Mapping[str, bytes]],
        ephemeral: Mapping[int, Sequence[bytes]],
        loaded: Loaded,
    ) -> bool:
        """Whether there is anything to say of a room."""
        piece = pieces.get(room_nid)
        return bool(
            (piece is not None and piece.has_events)
            or ephemeral.get(room_nid)
            or self._room_account(work, account, room_nid)
            or self._own_receipt(work, room_nid, loaded)
        )

    async def _room(
        self,
        work: Work,
        room_nid: int,
        piece: Piece | None,
        account: Mapping[int, Mapping[str, bytes]],
        ephemeral: Mapping[int, Sequence[bytes]],
        sticky: Sequence[bytes] | None,
    ) -> bytes:
        counts = self._unread.unread(work.ask.requester.user_nid, room_nid, work.token.pos)
        if isinstance(counts, Awaitable):
            counts = await counts
        return joined_room(
            piece or Piece.quiet(work.token.pos),
            work.ask.state_name,
            ephemeral.get(room_nid, ()),
            self._room_account(work, account, room_nid),
            counts_members(counts, work.ask.filter.threads) + _sticky_member(sticky),
        )

    async def _sticky_events(self, work: Work, pieces: Mapping[int, Piece]) -> dict[int, list[bytes]]:
        """By room, the sticky events that came and that the timeline does not tell."""
        if self._sticky is None:
            return {}
        left = work.plan.left
        after = {nid: 0 if piece.fresh else work.since for nid, piece in pieces.items() if nid not in left}
        found = self._sticky.find(after, work.token.pos, work.now_ms, work.ignored)
        if not found:
            return {}
        for room_nid, shown in found.items():
            told = pieces[room_nid].sticky
            found[room_nid] = [one for one in shown if one.event_nid not in told]
        return await self._sticky.write(found, work.now_ms)

    def _room_account(
        self, work: Work, account: Mapping[int, Mapping[str, bytes]], room_nid: int
    ) -> list[bytes]:
        found = account.get(room_nid)
        if not found or not work.ask.filter.room_account_data.rooms.accepts(work.names[room_nid]):
            return []
        return list(found.values())

    def _own_receipt(self, work: Work, room_nid: int, loaded: Loaded) -> bool:
        """Whether the reader has read something in a room: then the counts have changed, which is news."""
        receipts = self._receipts(work, room_nid, loaded)
        return any(one.user_nid == work.ask.requester.user_nid for one in receipts)

    def _note_members(self, work: Work, pieces: Mapping[int, Piece]) -> None:
        if not work.ask.filter.lazy:
            return
        requester = work.ask.requester
        device = (requester.user_nid, requester.device_nid)
        for room_nid, piece in pieces.items():
            if piece.fresh:
                self._lazy.forget_room(device, room_nid)
            self._lazy.note(device, room_nid, piece.members, work.token.pos)

    # --- what is not history -------------------------------------------------------------------------------------

    def _account_data(self, work: Work, loaded: Loaded) -> list[AccountDataChanged | AccountDatum]:
        topic = self._own_topic(work)
        changed = topic.account_data if topic is not None and topic.complete else []
        found = [*loaded.account_data, *changed]
        if work.initial:
            stored = {one.type for one in found if one.room_nid == 0}
            defaults = self._defaults(work.ask.requester.user_id)
            found += [AccountDatum(0, kind, text) for kind, text in defaults.items() if kind not in stored]
        return found

    def _own_topic(self, work: Work) -> Topic | None:
        return work.window.topics.get(-work.ask.requester.user_nid) if work.window is not None else None

    def _receipts(self, work: Work, room_nid: int, loaded: Loaded) -> Sequence[ReceiptChange]:
        if room_nid in loaded.receipts:
            return loaded.receipts[room_nid]
        topic = work.window.topics.get(room_nid) if work.window is not None else None
        return topic.receipts if topic is not None else ()

    def _ephemeral(self, work: Work, pieces: Mapping[int, Piece], loaded: Loaded) -> dict[int, list[bytes]]:
        filter_ = work.ask.filter.ephemeral
        found: dict[int, list[bytes]] = {}
        if filter_.accepts_type("m.typing"):
            for room_nid in self._typing_rooms(work, pieces):
                users = [one for one in self._typing.users_in(room_nid) if one not in work.ignored]
                if users or not work.initial:
                    found.setdefault(room_nid, []).append(typing_event(users))
        if filter_.accepts_type("m.receipt"):
            for room_nid in dict.fromkeys((*pieces, *loaded.receipts)):
                if room_nid not in work.plan.left:
                    events = self._receipt_events(work, room_nid, loaded)
                    if events:
                        found.setdefault(room_nid, []).extend(events)
        if filter_.rooms.trivial:
            return found
        return {
            nid: events for nid, events in found.items() if filter_.rooms.accepts(work.names.get(nid, ""))
        }

    def _receipt_events(self, work: Work, room_nid: int, loaded: Loaded) -> list[bytes]:
        topic = work.window.topics.get(room_nid) if work.window is not None else None
        shared = topic is not None and room_nid not in loaded.receipts and not work.ignored
        if shared and topic is not None and not topic.private_receipts:
            if topic.public_receipts is None:
                topic.public_receipts = receipt_events(topic.receipts)
            return topic.public_receipts
        receipts = self._receipts(work, room_nid, loaded)
        return receipt_events(receipts, work.ask.requester.user_nid, work.ignored)

    def _typing_rooms(self, work: Work, pieces: Mapping[int, Piece]) -> Collection[int]:
        at = work.typing_since
        # Of a room that is new to them clients do not know what was true before the token either.
        found = {nid for nid, piece in pieces.items() if piece.fresh and self._typing.users_in(nid)}
        if self._typing.counter != at:
            rooms = self._index.joined_rooms(work.ask.requester.user_nid)
            found.update(self._typing.changed_since([nid for nid in rooms if nid in work.names], at))
        return sorted(found.difference(work.plan.left))

    def _presence_section(self, work: Work) -> bytes:
        at, presence, user_nid = work.presence_since, self._presence, work.ask.requester.user_nid
        found: dict[str, Mapping[str, Any]] = {}
        if presence.counter != at or work.initial:
            found = {event["sender"]: event for event in presence.changes_for(user_nid, at)}
        if not work.initial:
            for event in presence.newly_seen(user_nid, work.since, work.token.pos):
                found.setdefault(event["sender"], event)
        if not found and not work.initial:
            return b""
        filter_ = work.ask.filter.presence
        events = [
            encode(event)
            for event in found.values()
            if filter_.accepts("m.presence", event["sender"]) and event["sender"] not in work.ignored
        ]
        return _events_member(b"presence", events)


def _sticky_member(events: Sequence[bytes] | None) -> bytes:
    return b',"msc4354_sticky":' + events_object(events) if events else b""


def _events_member(name: bytes, events: Sequence[bytes]) -> bytes:
    return b'"%b":%b' % (name, events_object(events)) if events else b""
