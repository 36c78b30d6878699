"""Spaces, walked through depth first, page by page.

1. What this server knows itself comes before what others say; a room that it is in is never asked for elsewhere.
2. Each room is told of once, so loops end. A page looks at a bounded number of rooms and asks a bounded number of
   servers; what is left comes with the next page.
3. Where a walk stands is in memory under its token, immutable: the same token gives the same page again.
spec: client-server-api#get_matrixclientv1roomsroomidhierarchy
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from federation.ids import RoomId, ServerName
from homeserver.http.errors import forbidden, invalid_param
from homeserver.peers.types import AskSpace, RemoteSpace
from homeserver.rooms.reads.room_views import RoomView, RoomViews, view_of_remote
from homeserver.rooms.reads.space_links import links_of
from homeserver.rooms.types import Requester, ServersOf
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.store.cache import ByteLru

LIMIT_DEFAULT: Final = 50
LIMIT_MOST: Final = 100
DEPTH_MOST: Final = 100
# LIMIT(of one page: rooms that are looked at, shown or not, and requests to other servers)
LOOKS: Final = 500
ASKS: Final = 8
ASKS_EACH: Final = 3
# LIMIT(of one walk: more is not told of)
ROOMS_MOST: Final = 20_000
TOKEN_LIFETIME_S: Final = 1_800.0
BUDGET: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Step:
    """A room that is still to be looked at."""

    room_id: RoomId
    via: tuple[ServerName, ...] = ()
    depth: int = 0
    known: Mapping[str, Any] | None = None  # what the space's server told of it
    closed: bool = False  # that server says that it is open to nobody here


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a walk stands. ``ahead``: what is still to be looked at, the next one last."""

    user_nid: int
    room_id: RoomId
    suggested_only: bool
    max_depth: int
    ahead: tuple[Step, ...]
    seen: frozenset[str]
    until_s: float


@dataclass(slots=True)
class _Budget:
    """What a page may still do."""

    looks: int = LOOKS
    asks: int = ASKS

    @property
    def goes_on(self) -> bool:
        """Whether another room can be looked at properly."""
        return self.looks > 0 and self.asks >= ASKS_EACH


class Spaces:
    """The hierarchy of spaces, for users of this server."""

    def __init__(
        self,
        server_name: str,
        views: RoomViews,
        ask: AskSpace,
        servers_of: ServersOf,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._server_name = server_name
        self._views = views
        self._ask = ask
        self._servers_of = servers_of
        self._clock = clock
        self._entropy = entropy
        self._walks: ByteLru[str, Walk] = ByteLru(BUDGET, _weigh)

    async def page(
        self,
        requester: Requester,
        room_id: RoomId,
        *,
        limit: int = LIMIT_DEFAULT,
        suggested_only: bool = False,
        max_depth: int = DEPTH_MOST,
        token: str | None = None,
    ) -> dict[str, Any]:
        """A page of the walk; 403 M_FORBIDDEN where the requester may not see the space itself."""
        if token is None:
            ahead = (Step(room_id),)
            walk = Walk(
                requester.user_nid,
                room_id,
                suggested_only,
                min(max_depth, DEPTH_MOST),
                ahead,
                frozenset(),
                0.0,
            )
        else:
            walk = self._resume(requester, room_id, suggested_only, min(max_depth, DEPTH_MOST), token)
        shown: list[dict[str, Any]] = []
        walk = await self._go_on(requester, walk, min(limit, LIMIT_MOST), shown)
        if token is None and not shown:
            raise forbidden("You are not allowed to view this room")
        answer: dict[str, Any] = {"rooms": shown}
        if walk.ahead:
            answer["next_batch"] = self._keep(walk)
        return answer

    def _resume(
        self, requester: Requester, room_id: RoomId, suggested_only: bool, max_depth: int, token: str
    ) -> Walk:
        walk = self._walks.get(token)
        if (
            walk is None
            or walk.until_s <= self._clock.monotonic()
            or (walk.user_nid, walk.room_id) != (requester.user_nid, room_id)
        ):
            raise invalid_param("from is not a token of this walk, or it is too old")
        if (walk.suggested_only, walk.max_depth) != (suggested_only, max_depth):
            raise invalid_param("suggested_only and max_depth cannot change on paginated requests")
        return walk

    def _keep(self, walk: Walk) -> str:
        token = self._entropy.id(24)
        self._walks.put(token, replace(walk, until_s=self._clock.monotonic() + TOKEN_LIFETIME_S))
        return token

    async def _go_on(self, requester: Requester, walk: Walk, limit: int, shown: list[dict[str, Any]]) -> Walk:
        ahead, seen, budget = list(walk.ahead), set(walk.seen), _Budget()
        own: dict[str, RoomView | None] = {}
        while ahead and len(shown) < limit and budget.goes_on and len(seen) < ROOMS_MOST:
            step = ahead.pop()
            if step.room_id in seen:
                continue
            seen.add(step.room_id)
            budget.looks -= 1
            if step.room_id not in own:
                # With what comes next, in one read; the children of each on its turn, as many as it has.
                batch = [step.room_id, *(one.room_id for one in ahead[-limit:])]
                found = await self._views.load(batch, with_children=False)
                own.update((one, found.get(one)) for one in batch)
            view, told = own[step.room_id], None
            if view is None:
                if step.depth == 0:
                    servers = await self._servers_of(requester.user_nid, step.room_id, ())
                    step = replace(step, via=tuple(servers))
                view, told = await self._look_elsewhere(step, walk.suggested_only, budget)
            if view is None or not await self._views.may_user(view, requester):
                continue
            children = await self._views.children(view)
            links, events = links_of(children, suggested_only=walk.suggested_only)
            shown.append({**view.summary, "children_state": events})
            if step.depth < walk.max_depth:
                ahead += [
                    _child(link.room_id, link.via, step.depth + 1, told)
                    for link in reversed(links)
                    if link.room_id not in seen
                ]
        rest = tuple(ahead) if len(seen) < ROOMS_MOST else ()
        return replace(walk, ahead=rest, seen=frozenset(seen))

    async def _look_elsewhere(
        self, step: Step, suggested_only: bool, budget: _Budget
    ) -> tuple[RoomView | None, RemoteSpace | None]:
        """A room in which nobody here is, as others tell of it, and what they tell besides."""
        known = None if step.known is None else view_of_remote(step.known)
        if step.closed or (known is not None and not known.is_space):
            return known, None
        told = await self._ask_for(step, suggested_only, budget)
        return (known, None) if told is None else (view_of_remote(told.room), told)

    async def _ask_for(self, step: Step, suggested_only: bool, budget: _Budget) -> RemoteSpace | None:
        """What the first server tells that tells anything."""
        others = [name for name in step.via if name != self._server_name]
        for server_name in others[:ASKS_EACH]:
            budget.asks -= 1
            told = await self._ask(server_name, step.room_id, suggested_only=suggested_only)
            if told is not None:
                return told
        return None


def _child(room_id: RoomId, via: tuple[ServerName, ...], depth: int, told: RemoteSpace | None) -> Step:
    if told is None:
        return Step(room_id, via, depth)
    return Step(room_id, via, depth, told.children.get(room_id), room_id in told.closed)


def _weigh(walk: Walk) -> int:
    return 500 + 150 * len(walk.seen) + sum(map(_weigh_step, walk.ahead))


def _weigh_step(step: Step) -> int:
    return 300 + 80 * len(step.via) + (1_500 if step.known is not None else 0)
