"""One room's summary: for users of this server, and for other servers with the room's children.

spec: client-server-api#get_matrixclientv1room_summaryroomidoralias
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from federation.ids import RoomId, ServerName
from homeserver.http.errors import not_found
from homeserver.peers.types import AskSpace
from homeserver.rooms.reads.room_views import RoomView, RoomViews, view_of_remote
from homeserver.rooms.reads.space_links import links_of
from homeserver.rooms.types import Requester, ServersOf

ASKS_MOST: Final = 4


class Summaries:
    """See the module."""

    def __init__(self, views: RoomViews, ask: AskSpace, servers_of: ServersOf) -> None:
        self._views = views
        self._ask = ask
        self._servers_of = servers_of

    # --- for other servers ---------------------------------------------------------------------------

    async def tell(self, origin: str, room_id: RoomId, *, suggested_only: bool) -> dict[str, Any]:
        """A room and its children, as far as the server could come into them; 404 where it could not."""
        # spec: server-server-api#get_matrixfederationv1hierarchyroomid
        view = (await self._views.load([room_id])).get(room_id)
        if view is None or not await self._views.open_to_server([view], origin):
            raise not_found("Room does not exist")
        links, events = _links(view, suggested_only)
        wanted = [link.room_id for link in links if link.room_id != room_id]
        known = await self._views.load(wanted)
        opened = await self._views.open_to_server(known.values(), origin)
        children: list[dict[str, Any]] = []
        closed: list[str] = []
        for child_id in wanted:
            child = known.get(child_id)
            if child is None:
                continue
            if child_id in opened:
                children.append({**child.summary, "children_state": _links(child, suggested_only)[1]})
            else:
                closed.append(child_id)
        return {
            "room": {**view.summary, "children_state": events},
            "children": children,
            "inaccessible_children": closed,
        }

    # --- for users -----------------------------------------------------------------------------------

    async def summary(
        self, requester: Requester | None, room_id: RoomId, via: Sequence[ServerName]
    ) -> dict[str, Any]:
        """A room's summary, for whoever may see it; 404 M_NOT_FOUND otherwise. Only for those who have logged in
        other servers are asked."""
        view = (await self._views.load([room_id], with_children=False)).get(room_id)
        if view is None and requester is not None:
            servers = await self._servers_of(requester.user_nid, room_id, via)
            view = await self._look_elsewhere(room_id, servers)
        if view is None or not await self._views.may_user(view, requester):
            raise not_found("Room not found")
        answer = dict(view.summary)
        if requester is not None:
            membership = await self._views.membership(requester, room_id)
            answer["membership"] = "leave" if membership is None else membership.word
        return answer

    async def _look_elsewhere(self, room_id: RoomId, servers: Sequence[ServerName]) -> RoomView | None:
        for server_name in servers[:ASKS_MOST]:
            told = await self._ask(server_name, room_id, suggested_only=False)
            if told is not None:
                return view_of_remote(told.room)
        return None


def _links(view: RoomView, suggested_only: bool) -> tuple[list[Any], list[Any]]:
    return links_of(view.children if view.is_space else (), suggested_only=suggested_only)
