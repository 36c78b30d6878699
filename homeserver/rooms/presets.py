"""What a new room starts with: the contents of its first events, without any storage.

spec: client-server-api#post_matrixclientv3createroom
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

from federation.versions import RoomRules

Preset = Literal["private_chat", "trusted_private_chat", "public_chat"]

JOIN_RULES: Final = "m.room.join_rules"
HISTORY_VISIBILITY: Final = "m.room.history_visibility"
GUEST_ACCESS: Final = "m.room.guest_access"
TOMBSTONE: Final = "m.room.tombstone"

CREATOR_POWER: Final = 100
# spec: client-server-api#post_matrixclientv3createroom ("explicitly higher than state_default", say 150)
_TOMBSTONE_ABOVE_ADMINS: Final = 150
_STATE_DEFAULT: Final = 50
_HIGHEST: Final = 2**53 - 1

# What concerns the room's safety takes an administrator, its looks a moderator.
_EVENT_LEVELS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "m.room.name": 50,
        "m.room.avatar": 50,
        "m.room.canonical_alias": 50,
        "m.room.power_levels": 100,
        "m.room.history_visibility": 100,
        "m.room.server_acl": 100,
        "m.room.encryption": 100,
        TOMBSTONE: 100,
    }
)


@dataclass(frozen=True, slots=True)
class StateItem:
    """A state event to set in a new room."""

    type: str
    state_key: str
    content: dict[str, Any]


def preset_state(preset: Preset) -> list[StateItem]:
    """The state events of a preset."""
    public = preset == "public_chat"
    return [
        StateItem(JOIN_RULES, "", {"join_rule": "public" if public else "invite"}),
        StateItem(HISTORY_VISIBILITY, "", {"history_visibility": "shared"}),
        StateItem(GUEST_ACCESS, "", {"guest_access": "forbidden" if public else "can_join"}),
    ]


def power_levels(
    rules: RoomRules,
    creator_id: str,
    preset: Preset,
    invited: Sequence[str] = (),
    override: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of the first m.room.power_levels event, with what the client wants instead on top."""
    users: dict[str, int] = {}
    if not rules.privileged_creators:
        users[creator_id] = CREATOR_POWER
        if preset == "trusted_private_chat":
            users.update(dict.fromkeys(invited, CREATOR_POWER))
    content: dict[str, Any] = {
        "ban": 50,
        "events": dict(_EVENT_LEVELS),
        "events_default": 0,
        # In a private room everybody may bring friends along.
        "invite": 50 if preset == "public_chat" else 0,
        "kick": 50,
        "redact": 50,
        "state_default": _STATE_DEFAULT,
        "users": users,
        "users_default": 0,
    }
    if rules.privileged_creators:
        content["events"][TOMBSTONE] = _TOMBSTONE_ABOVE_ADMINS
    content.update(override or {})
    if rules.privileged_creators:
        guard_tombstone(content)
    return content


def guard_tombstone(content: dict[str, Any]) -> None:
    """Where creators are privileged, ending the room must explicitly take more than ordinary state does."""
    levels = content.get("events", {})
    state_default = content.get("state_default", _STATE_DEFAULT)
    if not isinstance(levels, dict) or type(state_default) is not int:
        return  # the authorisation rules refuse it
    level = levels.get(TOMBSTONE)
    if level is None or (type(level) is int and level <= state_default):
        least = max(_TOMBSTONE_ABOVE_ADMINS, min(state_default, _HIGHEST - 1) + 1)
        content["events"] = {**levels, TOMBSTONE: least}


def topic_content(topic: str) -> dict[str, Any]:
    """A topic in plain text, in both of its forms."""
    # spec: client-server-api#mroomtopic
    return {"topic": topic, "m.topic": {"m.text": [{"body": topic}]}}


def create_content(
    rules: RoomRules, creator_id: str, wanted: Mapping[str, Any], additional_creators: Sequence[str] = ()
) -> dict[str, Any]:
    """The content of m.room.create: what the client wants, without the keys that are the server's."""
    # spec: client-server-api#post_matrixclientv3createroom (creator and room_version are overwritten)
    content = {key: value for key, value in wanted.items() if key not in ("creator", "additional_creators")}
    content["room_version"] = rules.version
    if rules.creator_in_content_required:
        content["creator"] = creator_id
    if rules.privileged_creators:
        others = [user_id for user_id in dict.fromkeys(additional_creators) if user_id != creator_id]
        if others:
            content["additional_creators"] = others
    elif "additional_creators" in wanted:
        content["additional_creators"] = wanted["additional_creators"]
    return content


def merge_state(first: Sequence[StateItem], *later: Sequence[StateItem]) -> list[StateItem]:
    """Several lists of state in order; an earlier list's event gives way to a later list's at the same key."""
    lists = [first, *later]
    result: list[StateItem] = []
    for place, items in enumerate(lists):
        overridden = {(item.type, item.state_key) for rest in lists[place + 1 :] for item in rest}
        result += [item for item in items if (item.type, item.state_key) not in overridden]
    return result
