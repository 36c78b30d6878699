"""What follows people from a room to its successor: tags, push rules, and its being a direct chat; and, as soon as the
first of a server's users comes there, the names that this server has given the room.

# spec: client-server-api#room-upgrades (the server's behaviour)
"""

from __future__ import annotations

from typing import Any

import msgspec

from homeserver.db.tx import Tx, WriteTx
from homeserver.rooms.presets import TOMBSTONE
from homeserver.store.account_data import (
    TooMuchAccountDataError,
    load_account_data,
    load_tags,
    put_account_data,
    put_tag,
)
from homeserver.store.ids import Interner
from homeserver.store.members import find_member
from homeserver.store.sync_reads import load_raw_events
from homeserver.store.timeline import load_state_at
from homeserver.store.upgrades import move_names
from homeserver.store.work import Worker

DIRECT = "m.direct"
PUSH_RULES = "m.push_rules"
# LIMIT(rules of one user, as homeserver/push/rulesets.py has it)
_RULES_MOST = 2_000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Succession:
    """Called for each user who joins a room that names a predecessor."""

    def __init__(self, interner: Interner, worker: Worker) -> None:
        self._interner = interner
        self._worker = worker

    async def follow(self, user_nid: int, old_room_id: str, new_nid: int, *, first: bool = False) -> None:
        """Give the new room what the user had said of the old one, where the new one has nothing yet.

        ``first``: this server has come there with them. Then the aliases that it has for the old room, and its place in
        the directory, go to the new one, if the old one names it as its successor.
        """
        old_nid = await self._interner.find_room(old_room_id)
        new_room_id = (await self._interner.room_names([new_nid])).get(new_nid)
        if old_nid is None or new_room_id is None:
            return
        tombstone_key = await self._interner.find_key((TOMBSTONE, "")) if first else None
        await self._worker.work(_follow, user_nid, old_nid, old_room_id, new_nid, new_room_id, tombstone_key)


def _follow(
    tx: WriteTx,
    user_nid: int,
    old_nid: int,
    old_room_id: str,
    new_nid: int,
    new_room_id: str,
    tombstone_key: int | None,
) -> None:
    if tombstone_key is not None and _named_successor(tx, old_nid, tombstone_key) == new_room_id:
        move_names(tx, old_nid, new_nid)
    # Anybody may name any room as a predecessor: it counts only for who was in it.
    if find_member(tx, old_nid, user_nid) is not None:
        _copy(tx, user_nid, old_nid, old_room_id, new_nid, new_room_id)


def _named_successor(tx: Tx, room_nid: int, tombstone_key: int) -> Any:
    """The room that a room's tombstone points to, if there is one and it points to any."""
    nid = load_state_at(tx, [room_nid], [tombstone_key]).get(room_nid, {}).get(tombstone_key)
    if nid is None:
        return None
    event = _decode(load_raw_events(tx, [nid], ())[nid])
    return event["content"].get("replacement_room")


def _copy(tx: WriteTx, user_nid: int, old_nid: int, old_room_id: str, new_nid: int, new_room_id: str) -> None:
    try:
        if not load_tags(tx, user_nid, new_nid):
            for tag, content in load_tags(tx, user_nid, old_nid).items():
                put_tag(tx, user_nid, new_nid, tag, content)
        direct = _with_successor(_load_direct(tx, user_nid), old_room_id, new_room_id)
        if direct is not None:
            put_account_data(tx, user_nid, 0, DIRECT, _encode(direct).decode())
        stored = load_account_data(tx, user_nid, 0, PUSH_RULES)
        rules = None if stored is None else _with_rules(_decode(stored), old_room_id, new_room_id)
        if rules is not None:
            put_account_data(tx, user_nid, 0, PUSH_RULES, _encode(rules).decode())
    except TooMuchAccountDataError:
        return  # a convenience: the join stands without it


def _load_direct(tx: Tx, user_nid: int) -> Any:
    content = load_account_data(tx, user_nid, 0, DIRECT)
    return None if content is None else _decode(content)


def _with_rules(content: Any, old_room_id: str, new_room_id: str) -> dict[str, Any] | None:
    """Push rules with those of the new room beside those of the old one; None where there are none to add."""
    # spec: client-server-api#push-rules (room rules are named by the room; clients mute by an override of that name)
    kinds = content["global"]
    own = sum(not rule["default"] for rules in kinds.values() for rule in rules)
    changed = False
    result = dict(kinds)
    for kind in ("override", "room"):
        rules = kinds.get(kind, [])
        known = {rule["rule_id"] for rule in rules}
        new = [
            _renamed(rule, old_room_id, new_room_id)
            for rule in rules
            if not rule["default"] and rule["rule_id"] == old_room_id and new_room_id not in known
        ]
        if new and own + len(new) <= _RULES_MOST:
            at = next(place for place, rule in enumerate(rules) if rule["rule_id"] == old_room_id)
            result[kind] = [*rules[:at], *new, *rules[at:]]
            own += len(new)
            changed = True
    return {**content, "global": result} if changed else None


def _renamed(rule: dict[str, Any], old_room_id: str, new_room_id: str) -> dict[str, Any]:
    renamed = {**rule, "rule_id": new_room_id}
    conditions = rule.get("conditions")
    if isinstance(conditions, list):
        renamed["conditions"] = [
            {**one, "pattern": new_room_id}
            if one.get("key") == "room_id" and one.get("pattern") == old_room_id
            else one
            for one in conditions
        ]
    return renamed


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
