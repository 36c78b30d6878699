"""Classic sync: what changed since a token, at once or when something does.

1. Nothing is told that is not committed; the token that is returned covers exactly what was told.
2. The law: an earlier answer and the increments after it make what a new initial sync would say.
3. Where nothing changed, positions are compared, and nothing else is done. Where the log reaches back to the token,
   there is no SQL, but for what ``shared`` and ``bulk`` say.

spec: client-server-api#get_matrixclientv3sync
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from homeserver.store.ids import STRIPPED
from homeserver.stream.index import Standing
from homeserver.stream.tokens import SyncToken, parse_sync_token
from homeserver.sync.assemble import Assembler
from homeserver.sync.bulk import Order
from homeserver.sync.lazy import LazyMemory
from homeserver.sync.memory import MemoryRooms
from homeserver.sync.plan import plan_initial, plan_since
from homeserver.sync.profile_section import ProfileSection
from homeserver.sync.profiles import ProfileNews
from homeserver.sync.sections import Loaded, Piece, Want, load_sections
from homeserver.sync.sticky import StickySections
from homeserver.sync.tools import SyncTools
from homeserver.sync.types import (
    DefaultData,
    DeviceSections,
    NoEncryption,
    NoPresence,
    NoTyping,
    NoUnread,
    Presence,
    Requester,
    Typing,
    Unread,
    no_defaults,
)
from homeserver.sync.wait import Waits
from homeserver.sync.window import Window
from homeserver.sync.work import Answer, Ask, Moments, Work, split_counters

# A timer is up when less than this is left.
_SLACK_S = 0.01


class SyncService:
    """See the module. One for each process; ``boot`` is drawn when it starts."""

    def __init__(
        self,
        tools: SyncTools,
        boot: str,
        *,
        typing: Typing | None = None,
        presence: Presence | None = None,
        unread: Unread | None = None,
        devices: DeviceSections | None = None,
        defaults: DefaultData = no_defaults,
        sticky: StickySections | None = None,
        profiles: ProfileNews | None = None,
    ) -> None:
        self._tools = tools
        self._boot = boot
        self._typing: Typing = typing or NoTyping()
        self._presence: Presence = presence or NoPresence()
        self._moments = Moments(tools.log, self._typing, self._presence, boot)
        self._unread: Unread = unread or NoUnread()
        self._devices: DeviceSections = devices or NoEncryption()
        self._ignored = tools.ignored
        tools.log.subscribe(self._ignored.apply, self._ignored.kinds)
        self._lazy = LazyMemory()
        self._windows = tools.windows
        self._waits = Waits(tools.notifier, tools.clock)
        self._profiles = ProfileSection(profiles) if profiles is not None else None
        self._memory = MemoryRooms(tools.shared, tools.interner, tools.events, self._lazy)
        self._assembler = Assembler(
            tools.index,
            self._lazy,
            self._typing,
            self._presence,
            self._unread,
            self._devices,
            defaults,
            sticky,
            self._profiles,
        )
        # What happened before was heard of by another process: of it the index knows events, and nothing else.
        self._heard_from = tools.log.position
        self._keys = tools.keys

    def parse_token(self, text: str) -> SyncToken:
        """The token of a ``since``; 400 M_INVALID_PARAM for anything else."""
        token = parse_sync_token(text, self._boot)
        # A database that was restored is behind what its clients have seen.
        return token._replace(pos=min(token.pos, self._tools.log.position))

    async def sync(self, ask: Ask) -> bytes:
        """The answer, now or when there is something to say or the time is up."""
        requester, at = ask.requester, ask.since
        if at is None:
            self._lazy.forget((requester.user_nid, requester.device_nid))
            return (await self._answer(ask, None)).body
        if ask.full_state:
            return (await self._answer(ask, at)).body
        clock = self._tools.clock
        ends_s = clock.monotonic() + ask.timeout_s
        while True:
            if self._is_quiet(ask, at):
                at = self._moments.now()
            else:
                answer = await self._answer(ask, at)
                if answer.told:
                    return answer.body
                at = answer.token
            left_s = ends_s - clock.monotonic()
            if left_s <= 0:
                return await self._nothing(requester, at)
            quiet_at = at
            if not await self._waits.wait(
                requester.user_nid,
                requester.device_nid,
                left_s,
                # An answer up to here told nothing: while nothing moves, it would tell nothing again, and again.
                lambda quiet_at=quiet_at: self._moments.stands(quiet_at) or self._is_quiet(ask, quiet_at),  # type: ignore[misc]
            ):
                if ends_s - clock.monotonic() > _SLACK_S:
                    return await self._nothing(requester, at)  # the server stops
                # Nobody was woken for some of what happened (presence): it is told now.

    # --- is there anything ---------------------------------------------------------------------------------------

    def _is_quiet(self, ask: Ask, at: SyncToken) -> bool:
        """Whether nothing can have changed for a user: a comparison of positions."""
        tools, requester = self._tools, ask.requester
        user_nid = requester.user_nid
        index = tools.index
        pos = at.pos
        if tools.log.position > pos:
            if pos < self._heard_from:
                return False
            if index.has_news(user_nid, pos):
                return False
            fields = ask.filter.profile_fields
            if fields and self._profiles is not None and self._profiles.changed(user_nid, pos, fields):
                return False
        typing_at, presence_at = split_counters(at.ephemeral)
        typing, presence = self._typing, self._presence
        if typing.counter != typing_at and typing.changed_since(index.joined_rooms(user_nid), typing_at):
            return False
        if presence.counter != presence_at and presence.changed(user_nid, presence_at):
            return False
        return not self._devices.changed(requester, at, tools.log.position)

    async def _nothing(self, requester: Requester, at: SyncToken) -> bytes:
        return (await self._assembler.body(requester, at, at, [])).body

    # --- answers -------------------------------------------------------------------------------------------------

    async def _answer(self, ask: Ask, at: SyncToken | None) -> Answer:
        tools, requester = self._tools, ask.requester
        own_key = await self._keys.prepare(requester)
        preparing = self._devices.prepare(requester)
        if preparing is not None:
            await preparing
        # The last wait: of somebody who is heard again before this moment, nothing may be kept back.
        inviters = await self._ignored.load_invites(requester.user_nid)
        # From here to the first wait: one moment.
        token = self._moments.now()
        own_key = self._keys.own(requester, own_key)
        since = at.pos if at is not None else 0
        window: Window | None = None
        if at is not None and not ask.filter.federation_format and not ask.filter.by_room:
            window = self._windows.find(since, requester.user_nid, tools.index.rooms_of(requester.user_nid))
        if at is None:
            plan = plan_initial(tools.index, requester.user_nid, ask.filter)
        else:
            plan = plan_since(tools.index, requester.user_nid, since, window, full_state=ask.full_state)
        now_ms = tools.clock.now_ms()
        return await self._make(Work(ask, at, token, window, plan, own_key, inviters, now_ms))

    async def _make(self, work: Work) -> Answer:
        await self._name_rooms(work)
        reader = work.reader(self._keys.known(work.own_key))
        changed, moved = work.plan.changed, work.plan.moved
        pieces: dict[int, Piece] = {}
        if work.window is not None and not work.ask.full_state:
            told = await self._memory.tell(work.window, changed, moved, reader)
            pieces, changed, moved = told.pieces, told.changed, told.moved
        loaded = Loaded()
        want = self._want(work, changed, moved)
        if want is not None:
            if not reader.keys.visibility:
                await self._keys.ask_visibility()
                reader = work.reader(self._keys.known(work.own_key))
            if want.stripped:
                want = replace(want, strip_keys=await self._keys.ask(STRIPPED))
            tools = self._tools
            loaded = await tools.database.read(load_sections, reader, want, tools.events, tools.facts)
            pieces = {**pieces, **loaded.pieces}
        return await self._assembler.assemble(work, pieces, loaded)

    async def _name_rooms(self, work: Work) -> None:
        """The names of all rooms in question; those that the filter does not want are dropped from the plan."""
        plan, interner, wanted = work.plan, self._tools.interner, work.ask.filter.rooms
        parts = (plan.changed, plan.moved, plan.full, plan.left, plan.stripped)
        nids = {nid for part in parts for nid in part}
        if work.at is not None:
            # Typing and account data may concern rooms in which nothing else happened.
            nids.update(self._own_rooms(work, nids))
        for nid in nids:
            name = interner.room_name(nid)
            if name is None:
                work.names = await interner.room_names(nids)
                break
            work.names[nid] = name
        if not wanted.trivial:
            work.names = {nid: name for nid, name in work.names.items() if wanted.accepts(name)}
        if len(work.names) < len(nids):
            for part in parts:
                for nid in [nid for nid in part if nid not in work.names]:
                    del part[nid]

    def _own_rooms(self, work: Work, nids: Collection[int]) -> set[int]:
        user_nid = work.ask.requester.user_nid
        index = self._tools.index
        quiet = self._typing.counter == work.typing_since and work.since >= self._heard_from
        if quiet and index.last_pos.get(-user_nid, 0) <= work.since:
            return set()
        return set(self._joined(work)).difference(nids)

    def _joined(self, work: Work) -> list[int]:
        return self._tools.index.joined_rooms(work.ask.requester.user_nid)

    def _want(
        self, work: Work, changed: Mapping[int, Standing], moved: Mapping[int, Standing]
    ) -> Want | None:
        """What must be read from the tables, if anything."""
        plan, window = work.plan, work.window
        order: Order | None = None
        left = {nid: standing for nid, standing in plan.left.items() if not standing.outside}
        both = (*plan.left.items(), *plan.stripped.items())
        outside = {nid: standing for nid, standing in both if standing.outside}
        if changed or moved or plan.full or left:
            device = (work.ask.requester.user_nid, work.ask.requester.device_nid)
            sent = {nid: dict(self._lazy.sent(device, nid)) for nid in (*changed, *moved)}
            full_state = work.ask.full_state
            order = Order(
                work.since, work.token.pos, full_state, changed, moved, plan.full, left, sent, work.names
            )
        receipts_of: list[int] = []
        if not work.initial:
            receipts_of = sorted({*changed, *moved, *plan.full})
            if work.since < self._heard_from:
                receipts_of = [nid for nid in self._joined(work) if nid in work.names]
        own = window.topics.get(-work.ask.requester.user_nid) if window is not None else None
        account_data = not work.initial and (window is None or (own is not None and not own.complete))
        if not (order or plan.stripped or outside or account_data or receipts_of or work.initial):
            return None
        return Want(
            order,
            plan.stripped,
            outside,
            (),
            receipts_of,
            account_data,
            work.initial,
            work.since,
            work.token.pos,
        )
