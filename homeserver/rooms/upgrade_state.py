"""What a room's successor takes over: pure translations of state between room versions.

# spec: client-server-api#room-upgrades
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from federation.auth.power import SCALAR_DEFAULTS, parse_level
from federation.event import Event
from federation.ids import is_user_id
from federation.versions import RoomRules
from homeserver.rooms.presets import CREATOR_POWER, guard_tombstone

POWER_LEVELS: Final = "m.room.power_levels"
JOIN_RULES: Final = "m.room.join_rules"
SPACE_CHILD: Final = "m.space.child"
_HIGHEST: Final = 2**53 - 1

# In this order. Those with an empty state key; what depends on who sent it, or on events of the old room, stays there.
COPIED: Final = (
    "m.room.encryption",
    "m.room.history_visibility",
    "m.room.guest_access",
    JOIN_RULES,
    "m.room.server_acl",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
)
# What is taken over as it was sent, redacted or not: without it the room would be open to more than it was.
PROTECTING: Final = frozenset({"m.room.encryption", "m.room.server_acl"})


def successor_levels(
    old: Event | None, old_rules: RoomRules, rules: RoomRules, upgrader_id: str, creators: Sequence[str]
) -> dict[str, Any]:
    """The power levels of the new room: those of the old one, in the form that the new version asks for.

    ``creators``: who stands above all levels in the new room, so that no level may name them. Where the upgrader had
    such a place in the old room and loses it, they get the level that everything else in the room asks for.
    """
    content: Mapping[str, Any] = old.content if old is not None else {}
    result: dict[str, Any] = {
        name: level for name in SCALAR_DEFAULTS if (level := _level(content.get(name), old_rules)) is not None
    }
    for name in ("events", "notifications", "users"):
        result[name] = _levels(content.get(name), old_rules)
    users = {user_id: level for user_id, level in result["users"].items() if is_user_id(user_id)}
    if rules.privileged_creators:
        users = {user_id: level for user_id, level in users.items() if user_id not in creators}
    elif old is None or old_rules.privileged_creators:
        users[upgrader_id] = max(CREATOR_POWER, highest_level({**result, "users": users}))
    result["users"] = users
    if rules.privileged_creators:
        guard_tombstone(result)
    return result


def highest_level(content: Mapping[str, Any]) -> int:
    """The highest level in a power level event's content: who has it may set all of it."""
    scalars: list[int] = [content[name] for name in SCALAR_DEFAULTS if name in content]
    nested: list[int] = [
        level for name in ("events", "notifications", "users") for level in content.get(name, {}).values()
    ]
    return max([CREATOR_POWER, *scalars, *nested])


def opening_levels(
    final: Mapping[str, Any], rules: RoomRules, upgrader_id: str, *, bans: bool
) -> dict[str, Any]:
    """The first power levels of the new room: as the last ones, but that the upgrader may do everything until then.

    ``bans``: some are to be banned, which takes more power than they have, so that nobody else has any yet.
    """
    if rules.privileged_creators:
        return dict(final)
    own = {upgrader_id: highest_level(final)}
    if bans:
        return {**final, "users_default": 0, "users": own}
    return {**final, "users": {**final["users"], **own}}


def successor_join_rules(content: Mapping[str, Any], rules: RoomRules) -> dict[str, Any]:
    """Join rules that the new version knows: what it does not becomes the nearest that lets nobody else in."""
    join_rule = content.get("join_rule")
    known = {
        "knock": rules.knock,
        "restricted": rules.restricted_join,
        "knock_restricted": rules.knock_restricted_join,
    }
    if known.get(join_rule, True) if isinstance(join_rule, str) else False:
        return dict(content)
    if join_rule == "knock_restricted" and rules.restricted_join:
        return {**content, "join_rule": "restricted"}
    return {"join_rule": "invite"}


def closing_levels(content: Mapping[str, Any], rules: RoomRules) -> dict[str, Any]:
    """The old room's power levels once it is over: nobody but moderators speaks or invites."""
    users_default = _level(content.get("users_default"), rules) or 0
    least = min(max(50, users_default + 1), _HIGHEST)
    result = dict(content)
    for name in ("events_default", "invite"):
        level = _level(content.get(name), rules)
        if level is None or level < least:
            result[name] = least
    return result


def _level(value: object, rules: RoomRules) -> int | None:
    level = parse_level(value, rules)
    return None if level is None else max(-_HIGHEST, min(level, _HIGHEST))


def _levels(value: object, rules: RoomRules) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    return {key: level for key, raw in value.items() if (level := _level(raw, rules)) is not None}
