"""What a user keeps of a room when they come to its successor: tags, push rules, and its being a direct chat.

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
