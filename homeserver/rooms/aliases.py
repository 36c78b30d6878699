"""Aliases: names of rooms, who may make and remove those of this server, and what the room itself says of them.

spec: client-server-api#room-aliases
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from federation.builder import Draft
from federation.errors import Malformed
from federation.ids import RoomAlias, RoomId, ServerName, UserId, domain_of, parse_room_alias
from homeserver.http.errors import MatrixError, forbidden, invalid_param, not_found
from homeserver.rooms.registry import RoomRegistry
from homeserver.rooms.turn import Turn
from homeserver.rooms.types import Requester
from homeserver.store.aliases import (
    AliasTakenError,
    delete_alias,
    find_alias,
    find_aliases,
    insert_alias,
    load_room_aliases,
)
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex
from homeserver.stream.servers import ServerIndex

CANONICAL = "m.room.canonical_alias"
# LIMIT(each alias of a canonical alias event is looked up before it is set)
_ALT_ALIASES_MOST = 1_000
# LIMIT(and of those of other servers so many: each costs a request)
_ASKED_MOST = 20
SERVERS_MOST = 200

AskAlias = Callable[[RoomAlias, str | None], Awaitable[tuple[RoomId, Sequence[ServerName]]]]
"""Asks an alias's own server, for an asker of whom so much at once is taken; raises the MatrixError for the client."""


class Located(NamedTuple):
    """A room, and servers that are likely to know it, the likeliest first; this one may be among them."""

    room_id: RoomId
    servers: tuple[ServerName, ...]


class Aliases:
    """The alias endpoints' work, and the check of canonical alias events."""

    def __init__(
        self,
        server_name: str,
        rooms: RoomRegistry,
        worker: Worker,
        index: MembershipIndex,
        servers: ServerIndex,
        ask: AskAlias | None = None,
        make: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        self._server_name = server_name
        self._rooms = rooms
        self._tools = rooms.tools
        self._worker = worker
        self._index = index
        self._servers = servers
        self._ask = ask
        self._make = make  # has an application service make an alias that is not there

    # --- looking up ----------------------------------------------------------------------------------

    async def locate(self, alias: RoomAlias, asker: str | None = None) -> Located:
        """The room behind an alias, and servers that know it; an alias of another server is asked for there."""
        # spec: client-server-api#get_matrixclientv3directoryroomroomalias
        if domain_of(alias) == self._server_name:
            return await self.locate_own(alias)
        if self._ask is None:
            raise _no_alias(alias)
        room_id, servers = await self._ask(alias, asker)
        return Located(room_id, tuple(servers))

    async def locate_own(self, alias: RoomAlias) -> Located:
        """The same of the aliases of this server."""
        found = await self._tools.database.read(find_alias, alias)
        if found is None and self._make is not None and await self._make(alias):
            found = await self._tools.database.read(find_alias, alias)
        if found is None:
            raise _no_alias(alias)
        names = await self._tools.interner.room_names([found.room_nid])
        present = [ServerName(name) for name in await self._servers.largest_in(found.room_nid, SERVERS_MOST)]
        own = ServerName(self._server_name)
        servers = tuple(present) if own not in present else (own, *(name for name in present if name != own))
        return Located(RoomId(names[found.room_nid]), servers)

    async def resolve(self, alias: RoomAlias, asker: str | None = None) -> dict[str, Any]:
        """As :meth:`locate`, as the endpoints answer it."""
        located = await self.locate(alias, asker)
        return {"room_id": located.room_id, "servers": list(located.servers)}

    async def of_room(self, requester: Requester, room_id: RoomId) -> list[str]:
        """The aliases of a room here, for its members; for everybody where anybody may read it."""
        # spec: client-server-api#get_matrixclientv3roomsroomidaliases
        nid = await self._tools.interner.find_room(room_id)
        if nid is None or not (
            self._index.is_joined(requester.user_nid, nid) or await self._is_world_readable(room_id)
        ):
            raise forbidden("You are not a member of the room")
        return await self._tools.database.read(load_room_aliases, nid)

    async def _is_world_readable(self, room_id: RoomId) -> bool:
        async def job(turn: Turn) -> bool:
            event = await turn.state("m.room.history_visibility")
            return event is not None and event.content.get("history_visibility") == "world_readable"

        return await (await self._rooms.find(room_id)).run(job)

    # --- making and removing -------------------------------------------------------------------------

    async def put(
        self, requester: Requester, alias: RoomAlias, room_id: RoomId, *, is_own: bool = False
    ) -> None:
        """Make an alias of a room that the requester is in.

        ``is_own``: by the application service whose name it is, which need not be in the room.
        """
        # spec: client-server-api#put_matrixclientv3directoryroomroomalias
        # spec: application-service-api#server-admin-style-permissions
        if domain_of(alias) != self._server_name:
            raise invalid_param("Only aliases of this server can be made here")
        room_nid = await self._tools.interner.find_room(room_id)
        if room_nid is None or not (is_own or self._index.is_joined(requester.user_nid, room_nid)):
            raise forbidden("You must be in the room to make an alias for it")
        try:
            await self._worker.work(insert_alias, alias, room_nid, requester.user_nid)
        except AliasTakenError:
            raise MatrixError(409, "M_UNKNOWN", f"Room alias {alias} already exists") from None

    async def delete(self, requester: Requester, alias: RoomAlias, *, is_admin: bool = False) -> None:
        """Remove an alias: who made it may, who may set the room's canonical alias, and administrators.

        The canonical alias event follows where the requester may change it.
        """
        # spec: client-server-api#delete_matrixclientv3directoryroomroomalias
        found = await self._tools.database.read(find_alias, alias)
        if found is None:
            raise not_found(f"Room alias {alias} not found")
        room_id = RoomId((await self._tools.interner.room_names([found.room_nid]))[found.room_nid])
        if (
            found.creator_nid != requester.user_nid
            and not is_admin
            and not await self._may_set(requester, room_id)
        ):
            raise forbidden("You may not remove this alias")
        await self._worker.work(delete_alias, alias)
        await self.withdraw(UserId(requester.user_id), room_id, [alias])

    async def _may_set(self, requester: Requester, room_id: RoomId) -> bool:
        actor = await self._rooms.find(room_id)
        return await actor.run(lambda turn: may_send_state(turn, requester.user_id, CANONICAL))

    async def withdraw(self, sender_id: UserId, room_id: RoomId, gone: Sequence[str]) -> None:
        """Take aliases out of the room's canonical alias event, where the sender may."""
        actor = await self._rooms.find(room_id)

        async def job(turn: Turn) -> None:
            shown = await turn.content(CANONICAL)
            content = None if shown is None else without_aliases(shown, gone)
            if content is not None and await may_send_state(turn, sender_id, CANONICAL):
                await turn.place(Draft(room_id, CANONICAL, sender_id, content, ""))

        await actor.run(job)

    # --- the canonical alias event -------------------------------------------------------------------

    async def check_canonical_alias(self, room_id: RoomId, sender: str, content: Mapping[str, Any]) -> None:
        """Refuse an m.room.canonical_alias whose new aliases are malformed or lead elsewhere; called before it is set.

        Aliases that the event lists already, and those that go, are not looked at. Those of other servers are asked for
        there; one that nobody can tell of counts as leading elsewhere.
        """
        # spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey
        wanted = _listed(content)
        if not wanted:
            return
        actor = await self._rooms.find(room_id)
        shown = await actor.run(lambda turn: turn.content(CANONICAL))
        present = set(_listed(shown, strict=False)) if shown is not None else set()
        new = [alias for alias in wanted if alias not in present]
        for alias in new:
            try:
                parse_room_alias(alias)
            except Malformed:
                raise invalid_param(f"The alias {alias!r:.300} is not valid") from None
        own = [alias for alias in new if domain_of(alias) == self._server_name]
        others = [alias for alias in new if domain_of(alias) != self._server_name]
        if len(others) > _ASKED_MOST:
            raise invalid_param(f"At most {_ASKED_MOST} aliases of other servers can be added at once")
        found = await self._tools.database.read(find_aliases, own) if own else {}
        for alias in own:
            if alias not in found or found[alias].room_nid != actor.room_nid:
                raise _bad_alias(alias)
        for alias in others:
            await self._check_elsewhere(RoomAlias(alias), room_id, sender)

    async def _check_elsewhere(self, alias: RoomAlias, room_id: RoomId, asker: str) -> None:
        try:
            located = await self.locate(alias, asker)
        except MatrixError:
            raise _bad_alias(alias) from None
        if located.room_id != room_id:
            raise _bad_alias(alias)


def _no_alias(alias: str) -> MatrixError:
    return not_found(f"Room alias {alias} not found")


def _bad_alias(alias: str) -> MatrixError:
    return MatrixError(400, "M_BAD_ALIAS", f"The alias '{alias}' does not point to this room.")


async def may_send_state(turn: Turn, user_id: str, event_type: str) -> bool:
    """Whether a member has the power to set a kind of state."""
    member = await turn.state("m.room.member", user_id)
    if member is None or member.content.get("membership") != "join":
        return False
    power = await turn.power_levels()
    return power.user(user_id) >= power.event(event_type, True)


def _listed(content: Mapping[str, Any], *, strict: bool = True) -> list[str]:
    """Every alias in a canonical alias event; refuses (400) what is no alias at all when ``strict``."""
    alias, others = content.get("alias"), content.get("alt_aliases")
    values = [alias] if alias not in (None, "") else []
    if isinstance(others, list) and len(others) <= _ALT_ALIASES_MOST:
        values += others
    elif others is not None and strict:
        raise invalid_param(f"alt_aliases must be a list of at most {_ALT_ALIASES_MOST} aliases")
    if strict and not all(isinstance(value, str) for value in values):
        raise invalid_param("An alias must be a string")
    return [value for value in values if isinstance(value, str)]


def without_aliases(content: Mapping[str, Any], gone: Sequence[str]) -> dict[str, Any] | None:
    """A canonical alias event's content without some aliases; None where it has none of them."""
    result = dict(content)
    if result.get("alias") in gone:
        del result["alias"]
    others = result.get("alt_aliases")
    if isinstance(others, list) and any(alias in gone for alias in others):
        result["alt_aliases"] = [alias for alias in others if alias not in gone]
    return result if result != content else None
