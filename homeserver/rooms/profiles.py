"""A changed name or picture goes into the user's rooms, in the background, one room after the other.

Whoever is in thousands of rooms does not keep others waiting: users take turns.

It follows the log, so that the rooms hear of it even if the process ends meanwhile: what was done before is left alone.
Several changes that come while rooms are being told of an earlier one are told together, so a thousand changes in a row
cost the rooms a few. A room that cannot be told when it is its turn (its policy server is away, its inbox full) is told
later; of these a process that ends knows nothing any more.
spec: client-server-api#events-on-change-of-profile-information
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from federation.auth.select import AUTHORISED_BY
from federation.builder import Draft
from federation.ids import RoomId, UserId
from homeserver.http.errors import MatrixError
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import Turn
from homeserver.rooms.types import Requester
from homeserver.runtime.clock import sleep
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup, all_of
from homeserver.store.changes import Change, Kind
from homeserver.store.profiles import ProfileChanged, load_profile
from homeserver.store.remote_profiles import SHOWN
from homeserver.stream.followers import Follower, StoppingError
from homeserver.stream.index import MembershipIndex
from homeserver.stream.log import ChangeLog

FOLLOWER = "room profiles"
_MEMBER = "m.room.member"
# What belongs to the moment of joining, and not to the member.
_OF_THE_JOIN = frozenset({"reason", "is_direct", "third_party_invite", AUTHORISED_BY})
# LIMIT(rooms that are told at the same time, of all users together)
_AT_ONCE: Final = 4
# A room whose inbox is full, or whose policy server is away, is told later. LIMIT(as often, and of so many users)
_AGAIN_AFTER_S: Final = (60.0, 300.0, 1_800.0, 7_200.0, 21_600.0, 86_400.0, 86_400.0)
_MISSED_MOST: Final = 1_000


class _Try(NamedTuple):
    """When a room is to be told again, and how often it was."""

    due_s: float
    tries: int


class _Telling:
    """A user whose rooms are being told, or are to be."""

    __slots__ = ("left", "lined_up", "missed", "profile", "upto", "user_id", "user_nid", "waiting", "wanted")

    def __init__(self, user_nid: int) -> None:
        self.user_nid = user_nid
        self.wanted = 0  # the position of the newest change of the profile
        self.lined_up = False
        # Of the round that is under way:
        self.upto = 0  # up to which position it tells
        self.left: deque[str] | None = None  # the rooms that are still to be told; None: it is to begin
        self.missed: list[str] = []  # rooms that could not be told now
        self.user_id = ""
        self.profile: Mapping[str, Any] = {}
        self.waiting: list[tuple[int, Deferred[None]]] = []  # for the end of a round up to a position

    def release(self, failure: Exception | None = None) -> None:
        """A round has ended, or failed: who waits for it goes on."""
        waiting, self.waiting = self.waiting, []
        for pos, told in waiting:
            if failure is not None:
                told.errback(failure)
            elif pos <= self.upto:
                told.callback(None)
            else:
                self.waiting.append((pos, told))


class RoomProfiles:
    """Member events that follow profiles. ``handle`` is a follower: it may see its last changes again.

    1. Who changes a profile after ``begin`` need not wait for the follower: it begins at once, and the follower comes
       after to see that it is done. So the cursor passes no change that not all rooms know which could be told.
    2. Users take turns: a room of one, then a room of the next. Their rooms are told one after the other.
    """

    def __init__(
        self, rooms: RoomRegistry, index: MembershipIndex, changes: ChangeLog, tasks: TaskGroup, log: Log
    ) -> None:
        self._rooms = rooms
        self._index = index
        self._changes = changes
        self._tasks = tasks
        self._log = log
        self._users: dict[int, _Telling] = {}
        self._turns: deque[_Telling] = deque()  # those who are lined up, but for the few under way
        self._working = 0
        self._missed: dict[int, dict[str, _Try]] = {}  # rooms that could not be told, of each user
        self._since: int | None = None  # every later change has come by ``apply``

    @property
    def follower(self) -> Follower:
        """To be told of changes."""
        return Follower(FOLLOWER, self.handle, kinds=frozenset({Kind.PROFILE}))

    def begin(self) -> None:
        """The server runs: rooms are told from now on."""
        self._since = self._changes.position
        self._changes.subscribe(self.apply, {Kind.PROFILE})

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        for change in changes:
            if _is_shown(change) and not self._tasks.stopped:
                self._want(-change.topic, change.pos)

    @property
    def position(self) -> int:
        """What a profile is read after, for ``catch_up``."""
        return self._changes.position

    async def catch_up(self, room_id: RoomId, requester: Requester, since: int) -> None:
        """Who came into a room by what their profile was at a position is shown as what it is now.

        Another server may take long to let somebody in, and rooms that they are not in yet are not told.
        """
        changes = self._changes.of_topic(-requester.user_nid, since)
        if since >= self._changes.floor and not any(map(_is_shown, changes)):
            return
        profile = await self._rooms.tools.database.read(load_profile, requester.user_nid)
        if profile is not None:
            await self._try_to_update(room_id, UserId(requester.user_id), profile)

    async def handle(self, changes: Sequence[Change]) -> None:
        """Return when the rooms of users whose profiles have changed know of it."""
        users = {-change.topic: change.pos for change in changes if _is_shown(change)}
        await all_of([self._when_told(user_nid, pos) for user_nid, pos in users.items()])

    def _when_told(self, user_nid: int, pos: int) -> Deferred[None]:
        if self._tasks.stopped:
            return fail(StoppingError())
        if user_nid not in self._users and self._since is not None and pos > self._since:
            return succeed(None)  # it was wanted, and has ended
        told: Deferred[None] = Deferred()
        self._want(user_nid, pos).waiting.append((pos, told))
        return told

    # --- taking turns ------------------------------------------------------------------------------

    def _want(self, user_nid: int, pos: int) -> _Telling:
        one = self._users.get(user_nid)
        if one is None:
            one = self._users[user_nid] = _Telling(user_nid)
        one.wanted = max(one.wanted, pos)
        if not one.lined_up:
            one.lined_up = True
            self._turns.append(one)
            if self._working < _AT_ONCE:
                self._working += 1
                self._tasks.spawn("profiles into rooms", self._work())
        return one

    async def _work(self) -> None:
        try:
            await sleep(self._rooms.tools.clock, 0)  # the log is just being followed, also by others
            while self._turns:
                await self._take_turn(self._turns.popleft())
        except CancelledError:
            for one in self._users.values():
                one.release(StoppingError())
            raise
        finally:
            self._working -= 1

    async def _take_turn(self, one: _Telling) -> None:
        try:
            await self._step(one)
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 (it is the follower's, who tries again)
            one.left = None
            one.lined_up = False
            one.release(error)
            return
        if one.left:
            self._turns.append(one)
            return
        one.left = None
        if one.wanted > one.upto:
            self._turns.append(one)
        else:
            del self._users[one.user_nid]
        if one.missed:
            self._tell_later(one)
        # Last: whoever goes on may at once ask for a later change, which this round has told as well.
        one.release()

    async def _step(self, one: _Telling) -> None:
        """The next room of a user."""
        if one.left is None:
            # Several changes that came meanwhile are told together.
            one.upto = one.wanted
            one.left = await self._load(one)
        if not one.left:
            return
        if not await self._try_to_update(one.left[0], UserId(one.user_id), one.profile):
            one.missed.append(one.left[0])
        one.left.popleft()

    async def _load(self, one: _Telling) -> deque[str]:
        """What to tell, and in which rooms."""
        tools = self._rooms.tools
        rooms = self._index.joined_rooms(one.user_nid)
        profile = await tools.database.read(load_profile, one.user_nid) if rooms else None
        if profile is None:
            return deque()  # nobody is there to be told, or the account is closed: then it leaves its rooms
        one.profile = profile
        one.user_id = (await tools.interner.user_names([one.user_nid]))[one.user_nid]
        return deque((await tools.interner.room_names(rooms)).values())

    # --- rooms that cannot be told now -------------------------------------------------------------

    def _tell_later(self, one: _Telling) -> None:
        rooms = dict.fromkeys(one.missed, self._next_try(0))
        one.missed.clear()
        missed = self._missed.get(one.user_nid)
        if missed is not None:
            missed.update(rooms)
        elif len(self._missed) < _MISSED_MOST:
            self._missed[one.user_nid] = rooms
            work = partial(self._tell_again, one.user_nid, UserId(one.user_id))
            self._tasks.spawn_restarting("a profile into rooms again", work)

    def _next_try(self, tries: int) -> _Try:
        return _Try(self._rooms.tools.clock.monotonic() + _AGAIN_AFTER_S[tries], tries)

    async def _tell_again(self, user_nid: int, user_id: UserId) -> None:
        tools, missed = self._rooms.tools, self._missed[user_nid]
        while missed:
            await sleep(tools.clock, _AGAIN_AFTER_S[0])
            # Whatever is due by the middle of the next wait.
            until_s = tools.clock.monotonic() + _AGAIN_AFTER_S[0] / 2
            due = [(room_id, one) for room_id, one in missed.items() if one.due_s <= until_s]
            profile = await tools.database.read(load_profile, user_nid) if due else None
            for room_id, one in due:
                told = profile is None or await self._try_to_update(room_id, user_id, profile)
                if missed.get(room_id) is not one:
                    continue  # missed anew meanwhile, with what may be a newer profile
                if told or one.tries + 1 >= len(_AGAIN_AFTER_S):
                    del missed[room_id]
                else:
                    missed[room_id] = self._next_try(one.tries + 1)
        del self._missed[user_nid]

    # --- one room ----------------------------------------------------------------------------------

    async def _try_to_update(self, room_id: str, user_id: UserId, profile: Mapping[str, Any]) -> bool:
        """False: it is to be tried again."""
        try:
            await self._update(room_id, user_id, profile)
        except MatrixError as error:
            # A full inbox, or a room that the rules closed to its own members: the others still want to know.
            self._log.warning("profile not set in a room", user_id=user_id, room_id=room_id, error=str(error))
            return not error.passes
        return True

    async def _update(self, room_id: str, user_id: UserId, profile: Mapping[str, Any]) -> None:
        actor = await self._rooms.find(room_id)

        async def job(turn: Turn) -> None:
            member = await turn.state(_MEMBER, user_id)
            if member is None or member.content.get("membership") != "join":
                return
            shown = await turn.content(_MEMBER, user_id)
            content = _with_profile(shown or member.content, profile)
            if content is not None:
                await turn.place(Draft(member.room_id, _MEMBER, user_id, content, user_id))

        await actor.run(job)


def _is_shown(change: Change) -> bool:
    """Whether it is of a profile, and as far as is known of what rooms show of that."""
    if change.kind != Kind.PROFILE:
        return False
    changed: ProfileChanged | None = change.payload
    return changed is None or changed.field in SHOWN


def _with_profile(content: Mapping[str, Any], profile: Mapping[str, Any]) -> dict[str, Any] | None:
    """A member event's content with another profile; None where it shows that one already."""
    wanted = {key: value for key in SHOWN if (value := profile.get(key)) is not None}
    if {key: content[key] for key in SHOWN if key in content} == wanted:
        return None
    kept = {key: value for key, value in content.items() if key not in _OF_THE_JOIN and key not in SHOWN}
    return {**kept, **wanted}
