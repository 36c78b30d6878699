"""Account data and tags of a requester. spec: client-server-api#client-config"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import msgspec

from homeserver.accounts.types import Requester
from homeserver.db.threads import Database
from homeserver.http.errors import MatrixError, UserLimitReachedError, bad_json, not_found, too_large
from homeserver.store import account_data as store
from homeserver.store.ids import Interner
from homeserver.store.work import Worker

ReadManaged = Callable[[Requester], Awaitable[dict[str, Any] | None]]
"""Gives the content of a global type that the server itself keeps (`m.push_rules`)."""

# spec: client-server-api#server-behaviour (of client config)
MANAGED_TYPES = frozenset({store.FULLY_READ, "m.push_rules"})
MAX_TYPE_BYTES = 255
MAX_TAG_BYTES = 255

_encode = msgspec.json.Encoder().encode


class AccountData:
    """What users keep with us."""

    def __init__(
        self,
        database: Database,
        worker: Worker,
        interner: Interner,
        managed: Mapping[str, ReadManaged] = MappingProxyType({}),
    ) -> None:
        self._database = database
        self._worker = worker
        self._interner = interner
        self._managed = managed

    async def get(self, requester: Requester, room_id: str | None, type_: str) -> bytes:
        """The content of one piece as JSON; for the account where there is no room."""
        if room_id is None and type_ in self._managed:
            managed = await self._managed[type_](requester)
            if managed is not None:
                return _encode(managed)
        room_nid = await self._find_room(room_id)
        content = (
            None
            if room_nid is None
            else await self._database.read(store.load_account_data, requester.user_nid, room_nid, type_)
        )
        if content is None or content == store.DELETED:
            raise not_found("There is no such account data")
        return content.encode()

    async def put(
        self, requester: Requester, room_id: str | None, type_: str, content: dict[str, Any]
    ) -> None:
        """Keep one piece; an empty one is none (MSC3391)."""
        _check_unmanaged(type_)
        if len(type_.encode()) > MAX_TYPE_BYTES:
            raise too_large("The type is too long")
        encoded = _encode(content)
        if len(encoded) > store.MAX_CONTENT_BYTES:
            raise too_large("The content is too long")
        room_nid = await self._require_room(room_id)
        text = encoded.decode()
        piece = (requester.user_nid, room_nid, type_, text)
        with _refused():
            if len(text) > store.SHORT_LENGTH:
                await self._database.read(store.check_length, *piece)
            await self._worker.work(store.put_account_data, *piece)

    async def delete(self, requester: Requester, room_id: str | None, type_: str) -> None:
        """Keep one piece no more (MSC3391); it need not be there."""
        _check_unmanaged(type_)
        room_nid = await self._require_room(room_id)
        await self._worker.work(store.delete_account_data, requester.user_nid, room_nid, type_)

    async def get_tags(self, requester: Requester, room_id: str) -> dict[str, Any]:
        """A room's tags by name."""
        # spec: client-server-api#room-tagging
        room_nid = await self._find_room(room_id)
        if room_nid is None:
            return {}
        return await self._database.read(store.load_tags, requester.user_nid, room_nid)

    async def put_tag(self, requester: Requester, room_id: str, tag: str, content: dict[str, Any]) -> None:
        """Tag a room."""
        if len(tag.encode()) > MAX_TAG_BYTES:
            raise MatrixError(400, "M_INVALID_PARAM", f"The tag is longer than {MAX_TAG_BYTES} bytes")
        order = content.get("order")
        if order is not None and (isinstance(order, bool) or not isinstance(order, int | float)):
            raise bad_json("order must be a number")
        room_nid = await self._require_room(room_id)
        with _refused():
            await self._worker.work(store.put_tag, requester.user_nid, room_nid, tag, content)

    async def drop_tag(self, requester: Requester, room_id: str, tag: str) -> None:
        """Remove a tag; it need not be there."""
        room_nid = await self._find_room(room_id)
        if room_nid is not None:
            await self._worker.work(store.drop_tag, requester.user_nid, room_nid, tag)

    async def _find_room(self, room_id: str | None) -> int | None:
        return 0 if room_id is None else await self._interner.find_room(room_id)

    async def _require_room(self, room_id: str | None) -> int:
        room_nid = await self._find_room(room_id)
        if room_nid is None:
            raise not_found("There is no such room here")
        return room_nid


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except store.TooMuchAccountDataError:
        raise UserLimitReachedError("There is too much account data already") from None


def _check_unmanaged(type_: str) -> None:
    if type_ in MANAGED_TYPES:
        raise MatrixError(405, "M_BAD_JSON", f"Cannot set {type_} through this API")
