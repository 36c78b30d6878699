"""What a request has to be told of, decided from memory: which rooms, from where on, and what was left out.

proposal: MSC4186 (lists and subscriptions, changing room configs)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from homeserver.moderation.types import InvitePermission
from homeserver.store.placement import Membership
from homeserver.stream.index import MembershipIndex, Standing
from homeserver.stream.tokens import SyncToken
from homeserver.sync.sliding.connections import GONE, JOINED, LIVE, STRIPPED, State, Told, weigh_wishes
from homeserver.sync.sliding.lists import Relevant, Windows
from homeserver.sync.sliding.news import RoomOrder
from homeserver.sync.sliding.request import Asked
from homeserver.sync.sliding.required import NOTHING, WISHES_MOST
from homeserver.sync.types import Requester
from homeserver.sync.window import Window

_OPEN = (Membership.INVITE, Membership.KNOCK)


@dataclass(slots=True)
class Plan:
    """Rooms by what is to be told of them."""

    joined: list[RoomOrder] = field(default_factory=list)
    gone: list[RoomOrder] = field(default_factory=list)
    stripped: dict[int, Standing] = field(default_factory=dict)
    vanished: list[int] = field(default_factory=list)  # the user is nothing to them any more
    missed: list[int] = field(default_factory=list)  # something happened there, and nobody asked

    @property
    def empty(self) -> bool:
        return not (self.joined or self.gone or self.stripped or self.vanished)


@dataclass(slots=True)
class Work:
    """One answer on its way: what was asked, and the moment that it is of."""

    requester: Requester
    asked: Asked
    state: State
    at: SyncToken | None  # what the client has; None: nothing
    token: SyncToken  # what it has after this
    window: Window | None
    blind: bool  # something may have happened that this process has not heard of
    windows: Windows
    inviters: InvitePermission  # whose invites the reader is shown, and whom they ignore altogether
    direct: frozenset[str]
    now_ms: int
    stable: bool
    device: tuple[int, int]  # the connection's name in the memory of lazily loaded members

    @property
    def ignored(self) -> frozenset[str]:
        """Whom the reader ignores."""
        return self.inviters.ignored

    @property
    def since(self) -> int:
        return self.at.pos if self.at is not None else 0


def plan(index: MembershipIndex, work: Work) -> Plan:
    """See the module."""
    result = Plan()
    standings = index.rooms_of(work.requester.user_nid)
    for nid, relevant in work.windows.rooms.items():
        _plan_room(result, index, work, nid, standings[nid], relevant)
    if work.at is not None and work.token.pos > work.at.pos:
        for nid in _touched(work, standings):
            if nid not in work.windows.rooms and nid in standings:
                told = work.state[nid]
                if told.sent == LIVE and _happened(index, nid, standings[nid], work.since):
                    result.missed.append(nid)
        if index.last_pos.get(-work.requester.user_nid, 0) > work.at.pos:
            result.vanished = [nid for nid in work.state if nid and nid not in standings]
    return result


def _touched(work: Work, standings: Mapping[int, Standing]) -> Iterable[int]:
    """The rooms that the client was told of, as far as something may have happened there."""
    if work.window is None or work.blind:
        return [nid for nid in work.state if nid]
    since = work.since
    touched = [topic for topic in work.window.topics if topic > 0 and topic in work.state]
    # A membership that another server told of is the user's own news, and not the room's.
    own = work.window.topics.get(-work.requester.user_nid)
    if own is not None:
        touched += [nid for nid in work.state if nid and nid in standings and standings[nid].pos > since]
    return dict.fromkeys(touched)


def _happened(index: MembershipIndex, nid: int, standing: Standing, since: int) -> bool:
    if standing.membership == Membership.JOIN:
        return max(index.last_pos.get(nid, 0), standing.pos) > since
    return standing.pos > since


def _plan_room(
    result: Plan, index: MembershipIndex, work: Work, nid: int, standing: Standing, relevant: Relevant
) -> None:
    told = work.state.get(nid)
    if told is not None and _is_settled(index, work, nid, standing, relevant, told):
        return
    since = 0 if told is None else told.sent or work.since
    if standing.membership in _OPEN:
        if told is None or told.kind != STRIPPED or standing.pos > since or _direct_changed(work, nid, told):
            result.stripped[nid] = standing
    elif standing.membership != Membership.JOIN:
        if told is None:
            result.gone.append(RoomOrder(nid, standing, relevant, 0))
        elif told.kind != GONE or standing.pos > since:
            # Of a room that they were never told to be in, they hear that they are out of it.
            had = told.wishes if told.kind == JOINED else relevant.wishes
            result.gone.append(RoomOrder(nid, standing, relevant, since, had=had))
    elif told is None or told.kind != JOINED:
        result.joined.append(RoomOrder(nid, standing, relevant, 0, fresh=True))
    else:
        order = RoomOrder(
            nid,
            standing,
            relevant,
            since,
            wide=relevant.limit > told.limit,
            had=told.wishes,
            have=told.limit,
            live=told.sent == LIVE,
        )
        if (
            not order.live
            or order.wide
            or order.added
            or _happened(index, nid, standing, since)
            or _direct_changed(work, nid, told)
        ):
            result.joined.append(order)


def _is_settled(
    index: MembershipIndex, work: Work, nid: int, standing: Standing, relevant: Relevant, told: Told
) -> bool:
    """Whether a room is as the client was told, which most are: asked first, and without ado."""
    return (
        told.sent == LIVE
        and told.kind == JOINED
        and told.wishes is relevant.wishes
        and relevant.limit <= told.limit
        and standing.membership == Membership.JOIN
        and not _happened(index, nid, standing, work.since)
        and not _direct_changed(work, nid, told)
    )


def _direct_changed(work: Work, nid: int, told: Told) -> bool:
    return (work.windows.names.get(nid) in work.direct) is not told.direct


def after(
    work: Work, told_rooms: Mapping[int, Told], missed: Iterable[int], vanished: Iterable[int]
) -> dict[int, Told] | None:
    """What the connection was told after an answer; None: nothing that must be noted."""
    changes: dict[int, Told | None] = {
        nid: told for nid, told in told_rooms.items() if work.state.get(nid) != told
    }
    for nid in missed:
        changes[nid] = (changes.get(nid) or work.state[nid])._replace(sent=work.since)
    changes.update(dict.fromkeys(vanished))
    if not changes:
        return None
    state = dict(work.state)
    for nid, entry in changes.items():
        if entry is None:
            state.pop(nid, None)
        else:
            state[nid] = entry
    _bound_wishes(state, work.windows.rooms)
    return state


def _bound_wishes(state: dict[int, Told], in_sight: Mapping[int, Relevant]) -> None:
    """Keep within bounds what a connection knows of who asked for which state.

    What is in sight was bounded when it was asked for. Rooms that were seen one after the other, each with other wishes,
    add up: then it is forgotten which state the client has of those out of sight, and they tell theirs anew when they are
    seen again.
    """
    unseen = [nid for nid in state.keys() - in_sight.keys() if nid]
    if unseen and weigh_wishes(state) > WISHES_MOST:
        for nid in unseen:
            state[nid] = state[nid]._replace(wishes=NOTHING)
