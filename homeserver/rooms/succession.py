"""What a user keeps of a room when they come to its successor: tags, and its being a direct chat.

# spec: client-server-api#room-upgrades (the last paragraph of the server's behaviour)
"""

from __future__ import annotations

from typing import Any

import msgspec

from homeserver.db.tx import Tx, WriteTx
from homeserver.store.account_data import (
    TooMuchAccountDataError,
    load_account_data,
    load_tags,
    put_account_data,
    put_tag,
)
from homeserver.store.ids import Interner
from homeserver.store.members import find_member
from homeserver.store.work import Worker

DIRECT = "m.direct"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Succession:
    """Called for each user who joins a room that names a predecessor."""

    def __init__(self, interner: Interner, worker: Worker) -> None:
        self._interner = interner
        self._worker = worker

    async def follow(self, user_nid: int, old_room_id: str, new_nid: int) -> None:
        """Give the new room what the user had said of the old one, where the new one has nothing yet."""
        old_nid = await self._interner.find_room(old_room_id)
        new_room_id = (await self._interner.room_names([new_nid])).get(new_nid)
        if old_nid is None or new_room_id is None:
            return
        await self._worker.work(_copy, user_nid, old_nid, old_room_id, new_nid, new_room_id)


def _copy(tx: WriteTx, user_nid: int, old_nid: int, old_room_id: str, new_nid: int, new_room_id: str) -> None:
    # Anybody may name any room as a predecessor: it counts only for who was in it.
    if find_member(tx, old_nid, user_nid) is None:
        return
    try:
        if not load_tags(tx, user_nid, new_nid):
            for tag, content in load_tags(tx, user_nid, old_nid).items():
                put_tag(tx, user_nid, new_nid, tag, content)
        direct = _with_successor(_load_direct(tx, user_nid), old_room_id, new_room_id)
        if direct is not None:
            put_account_data(tx, user_nid, 0, DIRECT, _encode(direct).decode())
    except TooMuchAccountDataError:
        return  # a convenience: the join stands without it


def _load_direct(tx: Tx, user_nid: int) -> Any:
    content = load_account_data(tx, user_nid, 0, DIRECT)
    return None if content is None else _decode(content)


def _with_successor(direct: Any, old_room_id: str, new_room_id: str) -> dict[str, Any] | None:
    """The map of direct chats with the new room beside the old one; None where nothing changes."""
    # spec: client-server-api#direct-messaging
    if not isinstance(direct, dict):
        return None
    changed = False
    result: dict[str, Any] = {}
    for user_id, room_ids in direct.items():
        if isinstance(room_ids, list) and old_room_id in room_ids and new_room_id not in room_ids:
            room_ids = [*room_ids, new_room_id]
            changed = True
        result[user_id] = room_ids
    return result if changed else None
