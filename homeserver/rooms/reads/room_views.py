"""Rooms as those see them who are not in them: a summary, and whom it may be shown to.

A summary is shown to whoever could come in (or read along) as things stand: users of this server, and other servers.
spec: client-server-api#get_matrixclientv1roomsroomidhierarchy, server-server-api#get_matrixfederationv1hierarchyroomid
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from federation.acl import ServerAcl
from federation.versions import ROOM_VERSIONS
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.rooms.directory import is_federated, shown_of
from homeserver.rooms.federated.restricted import rooms_allowed_by
from homeserver.rooms.types import Requester
from homeserver.store.directory import SUMMARY_TYPES, RoomFacts, load_room_facts
from homeserver.store.ids import Interner
from homeserver.store.placement import Membership
from homeserver.store.servers import find_rooms_with
from homeserver.store.spaces import load_children
from homeserver.stream.index import MembershipIndex
from homeserver.stream.servers import ServerIndex

SPACE = "m.space"
# LIMIT(of one room, or of the children of one space together)
CHILDREN_MOST = 1_000
# LIMIT(so many rooms are looked at for whether their members may join others)
ALLOWED_MOST = 200

_PRESENT = (Membership.JOIN, Membership.INVITE)
_KNOCKABLE = ("knock", "knock_restricted")
_RESTRICTED = ("restricted", "knock_restricted")


@dataclass(frozen=True, slots=True)
class RoomView:
    """A room, and what its rules say of those who are not in it."""

    summary: Mapping[str, Any]
    children: Sequence[Mapping[str, Any]]  # stripped m.space.child events with their times
    rule: str  # the join rule as the room's version understands it
    room_nid: int = 0  # 0: told of by another server
    acl: ServerAcl | None = None
    federated: bool = True

    @property
    def room_id(self) -> str:
        return str(self.summary["room_id"])

    @property
    def is_space(self) -> bool:
        return self.summary.get("room_type") == SPACE

    @property
    def is_readable(self) -> bool:
        return self.summary["world_readable"] is True

    @property
    def is_open(self) -> bool:
        """Whether anybody may join it, or knock."""
        return self.rule == "public" or self.rule in _KNOCKABLE

    @property
    def allowed_rooms(self) -> Sequence[str]:
        """The rooms whose members may join."""
        return self.summary.get("allowed_room_ids", ()) if self.rule in _RESTRICTED else ()


class RoomViews:
    """Looks at rooms that this server is in, and decides who else may."""

    def __init__(
        self, database: Database, interner: Interner, index: MembershipIndex, servers: ServerIndex
    ) -> None:
        self._database = database
        self._interner = interner
        self._index = index
        self._servers = servers

    async def load(self, room_ids: Sequence[str], *, with_children: bool = True) -> dict[str, RoomView]:
        """Those of the rooms that this server is in."""
        nids = await self._resident(room_ids)
        if not nids:
            return {}
        views = await self._database.read(_load_views, list(nids.values()), with_children)
        return {view.room_id: view for view in views}

    async def children(self, view: RoomView) -> Sequence[Mapping[str, Any]]:
        """The child events of a space that was loaded without them, or of which another server told."""
        if not view.is_space:
            return ()
        if not view.room_nid:
            return view.children
        found = await self._database.read(load_children, [view.room_nid], CHILDREN_MOST)
        return found[view.room_nid]

    async def _resident(self, room_ids: Iterable[str]) -> dict[str, int]:
        """The numbers of those of the rooms in which somebody of this server is."""
        found = await self._interner.find_rooms(room_ids)
        return {room_id: nid for room_id, nid in found.items() if self._index.local_members(nid)}

    async def membership(self, requester: Requester, room_id: str) -> Membership | None:
        """What the requester is to a room; None: nothing yet."""
        nid = self._interner.known_room(room_id) or await self._interner.find_room(room_id)
        standing = None if nid is None else self._index.standing(requester.user_nid, nid)
        return None if standing is None else standing.membership

    async def may_user(self, view: RoomView, requester: Requester | None) -> bool:
        """Whether a user may see a room's summary; None is somebody who has not logged in."""
        membership = None if requester is None else await self.membership(requester, view.room_id)
        if view.is_readable or membership in (Membership.JOIN, Membership.INVITE):
            return True
        if membership is Membership.BAN:
            return False
        if view.is_open or requester is None:
            return view.is_open
        for room_id in view.allowed_rooms:
            if await self.membership(requester, room_id) is Membership.JOIN:
                return True
        return False

    async def open_to_server(self, views: Iterable[RoomView], origin: str) -> set[str]:
        """Those of the rooms into which users of another server could come, or are invited, or in which they are."""
        found: set[str] = set()
        unsure: list[RoomView] = []
        for view in views:
            if not view.federated or (view.acl is not None and not view.acl.allows(origin)):
                continue
            if view.is_readable or view.is_open:
                found.add(view.room_id)
            else:
                unsure.append(view)
        if unsure:
            nids = [view.room_nid for view in unsure]
            present = await self._database.read(find_rooms_with, nids, origin, _PRESENT)
            shared = await self._shared(unsure, origin)
            for view in unsure:
                if view.room_nid in present or not shared.isdisjoint(view.allowed_rooms):
                    found.add(view.room_id)
        return found

    async def _shared(self, views: Iterable[RoomView], origin: str) -> set[str]:
        """The rooms that let into some other one and in which a server is."""
        allowed = list(dict.fromkeys(room_id for view in views for room_id in view.allowed_rooms))
        nids = await self._resident(allowed[:ALLOWED_MOST])
        return {room_id for room_id, nid in nids.items() if await self._servers.shares(origin, nid)}


def view_of_remote(room: Mapping[str, Any]) -> RoomView:
    """A room as another server tells of it."""
    # spec: client-server-api#get_matrixclientv3publicrooms (without a join rule it is public)
    rule = _understood(room.get("join_rule", "public"), room.get("room_version"))
    summary = {name: value for name, value in room.items() if name != "children_state"}
    return RoomView(summary, room.get("children_state", ()), rule)


def _load_views(tx: Tx, nids: Sequence[int], with_children: bool) -> list[RoomView]:
    found = load_room_facts(tx, nids, SUMMARY_TYPES)
    spaces = [one.room_nid for one in found if _is_space(one)] if with_children else []
    children = load_children(tx, spaces, CHILDREN_MOST) if spaces else {}
    return [_view(facts, children.get(facts.room_nid, [])) for facts in found]


def _is_space(facts: RoomFacts) -> bool:
    return facts.contents.get("m.room.create", {}).get("type") == SPACE


def _view(facts: RoomFacts, children: Sequence[Mapping[str, Any]]) -> RoomView:
    summary = shown_of(facts)
    summary["room_version"] = facts.version
    algorithm = facts.contents.get("m.room.encryption", {}).get("algorithm")
    if isinstance(algorithm, str):
        summary["encryption"] = algorithm
    rule = _understood(summary.get("join_rule", "invite"), facts.version)
    if rule in _RESTRICTED:
        summary["allowed_room_ids"] = rooms_allowed_by(facts.contents.get("m.room.join_rules", {}))
    acl = facts.contents.get("m.room.server_acl")
    parsed = None if acl is None else ServerAcl.parse(acl)
    return RoomView(summary, children, rule, facts.room_nid, parsed, is_federated(facts))


def _understood(rule: Any, version: Any) -> str:
    """A join rule that the room's version does not know lets nobody in."""
    rules = ROOM_VERSIONS.get(version) if isinstance(version, str) else None
    if not isinstance(rule, str):
        return "private"
    if rules is not None and (
        (rule == "knock" and not rules.knock)
        or (rule == "restricted" and not rules.restricted_join)
        or (rule == "knock_restricted" and not rules.knock_restricted_join)
    ):
        return "private"
    return rule
