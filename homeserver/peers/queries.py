"""Questions to other servers on behalf of our users: profiles, aliases, room directories.

1. What comes back is looked at before anybody sees it: members of the wrong type are left out, and without those that
   an answer must have it counts as none.
2. Answers are kept for a short while, within a budget of bytes; refusals are not kept.
3. A slow server holds up what is asked of itself alone: it has a few of the places, and what waits for one is bounded, by
   server and in all. As names of servers cost nothing, one asker (a client's address, or a user) has a few things under way
   at most, also those that the client does not wait for any more.
4. Errors are those of our client's endpoint: nobody's stack trace, and nothing of the other server's wording.
spec: server-server-api#querying-for-information
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final, TypeVar

import msgspec
from twisted.internet.defer import CancelledError

from federation.canonical import MAX_INTEGER
from federation.errors import Malformed, RemoteError
from federation.ids import (
    RoomAlias,
    RoomId,
    ServerName,
    domain_of,
    is_content_uri,
    is_room_alias,
    parse_room_id,
    parse_server_name,
)
from homeserver.http.errors import not_found
from homeserver.http.transport import Unreachable, build_uri
from homeserver.peers.failures import garbage, to_client
from homeserver.peers.types import PeerClient
from homeserver.runtime.clock import Clock
from homeserver.runtime.shared import Busy, Shared
from homeserver.runtime.slots import Full, Slots
from homeserver.store.changes import Change
from homeserver.store.placement import moves_of

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

PREFIX: Final = "/_matrix/federation/v1"
PROFILE_KEPT_S: Final = 120.0
ALIAS_KEPT_S: Final = 30.0
ROOMS_KEPT_S: Final = 30.0
# A person waits for these.
TIMEOUT_S: Final = 15.0
# LIMIT(questions at once, and of those to one server; what waits; what of both is for one asker: 429 beyond)
AT_ONCE: Final = 256
EACH: Final = 16
WAITING: Final = 1_000
WAITING_EACH: Final = 64
EACH_ASKER: Final = 24
BUDGET: Final = 8 * 1024 * 1024
# spec: client-server-api#put_matrixclientv3profileuseridkeyname (64 KiB; escapes make it longer on the wire)
MAX_PROFILE_BYTES: Final = 4 * 65_536
MAX_FIELD_LENGTH: Final = 255
MAX_ALIAS_BYTES: Final = 1024 * 1024
MAX_ROOMS_BYTES: Final = 4 * 1024 * 1024
MAX_SERVERS: Final = 200
MAX_ROOMS: Final = 500

_CHUNK_TEXTS: Final = ("name", "topic", "canonical_alias", "avatar_url", "join_rule", "room_type")


class Queries:
    """Asks, checks, keeps."""

    def __init__(self, client: PeerClient, clock: Clock) -> None:
        self._client = client
        self._slots = Slots(AT_ONCE, EACH, WAITING, WAITING_EACH)
        self._askers = Slots(AT_ONCE + WAITING, EACH_ASKER, 0)
        self._profiles: Shared[str, dict[str, Any]] = _kept(clock, PROFILE_KEPT_S)
        self._aliases: Shared[str, tuple[RoomId, tuple[ServerName, ...]]] = _kept(clock, ALIAS_KEPT_S)
        self._rooms: Shared[tuple[str, str, bytes], dict[str, Any]] = _kept(clock, ROOMS_KEPT_S)

    # --- profiles ------------------------------------------------------------------------------------

    async def profile(
        self,
        user_id: str,
        field: str | None,  # noqa: ARG002
        asker: str | None = None,
    ) -> dict[str, Any] | None:
        """The profile of another server's user, whichever field is wanted: so that there is one answer to keep."""
        # spec: server-server-api#get_matrixfederationv1queryprofile
        server_name = domain_of(user_id)

        async def ask() -> dict[str, Any]:
            uri = build_uri(f"{PREFIX}/query/profile", query={"user_id": user_id})
            answer = await self._client.ask(
                server_name, "GET", uri, timeout_s=TIMEOUT_S, max_bytes=MAX_PROFILE_BYTES
            )
            return clean_profile(answer)

        return await self._told(self._profiles, user_id, ask, server_name, "There is no such profile", asker)

    def apply(self, changes: Sequence[Change]) -> None:
        """Ask anew for the profile of whoever shows another face in a room. Subscribed to the log."""
        for change in changes:
            for move in moves_of(change):
                if move.member_nid:
                    self._profiles.forget(move.user_id)

    # --- aliases -------------------------------------------------------------------------------------

    async def alias(
        self, alias: RoomAlias, asker: str | None = None
    ) -> tuple[RoomId, tuple[ServerName, ...]]:
        """The room behind another server's alias, and servers that know it: the alias's own one among them."""
        # spec: server-server-api#get_matrixfederationv1querydirectory
        server_name = domain_of(alias)

        async def ask() -> tuple[RoomId, tuple[ServerName, ...]]:
            uri = build_uri(f"{PREFIX}/query/directory", query={"room_alias": alias})
            answer = await self._client.ask(
                server_name, "GET", uri, timeout_s=TIMEOUT_S, max_bytes=MAX_ALIAS_BYTES
            )
            try:
                room_id = parse_room_id(answer.get("room_id", ""))
            except Malformed:
                raise garbage(server_name, "a room id") from None
            return room_id, _with_own(_server_names(answer.get("servers")), server_name)

        missing = f"Room alias {alias} not found"
        return await self._told(self._aliases, alias, ask, server_name, missing, asker)

    # --- directories ---------------------------------------------------------------------------------

    async def public_rooms(
        self,
        server_name: ServerName,
        options: Mapping[str, Any],
        *,
        filtered: bool,
        asker: str | None = None,
    ) -> dict[str, Any]:
        """A page of another server's room directory. ``options`` as the endpoints have them; without None."""
        # spec: server-server-api#post_matrixfederationv1publicrooms
        content = msgspec.json.encode(dict(options), order="sorted")
        method = "POST" if filtered else "GET"

        async def ask() -> dict[str, Any]:
            uri = build_uri(f"{PREFIX}/publicRooms", query=None if filtered else _as_query(options))
            answer = await self._client.ask(
                server_name,
                method,
                uri,
                options if filtered else None,
                timeout_s=TIMEOUT_S,
                max_bytes=MAX_ROOMS_BYTES,
            )
            return _clean_page(answer, server_name)

        key, missing = (server_name, method, content), f"{server_name} has no room directory"
        return await self._told(self._rooms, key, ask, server_name, missing, asker)

    # --- shared --------------------------------------------------------------------------------------

    async def _told(
        self,
        kept: Shared[K, T],
        key: K,
        ask: Callable[[], Awaitable[T]],
        server_name: ServerName,
        missing: str,
        asker: str | None,
    ) -> T:
        if not self._client.allows(server_name):
            raise not_found(missing)

        async def in_turn() -> T:
            of_asker = nullcontext() if asker is None else self._askers.place(asker)
            async with of_asker, self._slots.place(server_name):
                if not kept.is_wanted(key):
                    # Whoever waited for its turn has gone meanwhile.
                    raise CancelledError
                return await ask()

        try:
            return await kept.get(key, in_turn)
        except (RemoteError, Unreachable, Busy, Full) as error:
            raise to_client(error, server_name, missing) from None


def _kept(clock: Clock, keep_s: float) -> Shared[Any, Any]:
    return Shared(clock, keep_s=keep_s, budget=BUDGET, size=_weigh, most_running=AT_ONCE + WAITING)


def _weigh(value: Any) -> int:
    # As text: what it holds in memory is a small multiple of that.
    return 500 + len(msgspec.json.encode(value))


def clean_profile(answer: Mapping[str, Any]) -> dict[str, Any]:
    """A profile without what is no field: names too long, a null, a display name that is no text."""
    # spec: server-server-api#get_matrixfederationv1queryprofile
    found: dict[str, Any] = {}
    for field, value in answer.items():
        if value is None or len(field) > MAX_FIELD_LENGTH:
            continue
        if field in ("displayname", "avatar_url", "m.tz") and not isinstance(value, str):
            continue
        found[field] = value
    return found


def _server_names(value: Any) -> list[ServerName]:
    found: dict[ServerName, None] = {}
    for name in value[: 4 * MAX_SERVERS] if isinstance(value, list) else ():
        try:
            found[parse_server_name(name)] = None
        except Malformed:
            continue
    return list(found)[:MAX_SERVERS]


def _with_own(servers: list[ServerName], own: ServerName) -> tuple[ServerName, ...]:
    """It has just answered, so it is there; whether it is in the room, it alone knows: last, unless it says so."""
    return tuple(servers) if own in servers else (*servers, own)


def _as_query(options: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: ("true" if value else "false") if isinstance(value, bool) else str(value)
        for name, value in options.items()
    }


def _clean_page(answer: Mapping[str, Any], server_name: str) -> dict[str, Any]:
    chunk = answer.get("chunk")
    if not isinstance(chunk, list):
        raise garbage(server_name, "a list of rooms")
    page: dict[str, Any] = {"chunk": [room for one in chunk[:MAX_ROOMS] if (room := clean_room(one))]}
    for name in ("next_batch", "prev_batch"):
        if isinstance(answer.get(name), str):
            page[name] = answer[name]
    total = answer.get("total_room_count_estimate")
    if is_count(total):
        page["total_room_count_estimate"] = total
    return page


def clean_room(value: Any) -> dict[str, Any] | None:
    """A room as a directory shows it, with what must be there and what may be, each of its type; None: it is none."""
    if not isinstance(value, dict):
        return None
    try:
        room_id = parse_room_id(value.get("room_id", ""))
    except Malformed:
        return None
    joined = value.get("num_joined_members")
    room: dict[str, Any] = {
        "room_id": room_id,
        "num_joined_members": joined if is_count(joined) else 0,
        "world_readable": value.get("world_readable") is True,
        "guest_can_join": value.get("guest_can_join") is True,
    }
    room.update((name, value[name]) for name in _CHUNK_TEXTS if isinstance(value.get(name), str))
    if not is_room_alias(room.get("canonical_alias")):
        room.pop("canonical_alias", None)
    if not is_content_uri(room.get("avatar_url")):
        room.pop("avatar_url", None)
    return room


def is_count(value: Any) -> bool:
    """Whether this is a number that a client can hold."""
    return type(value) is int and 0 <= value <= MAX_INTEGER
