"""Reading and comparing power levels.

`PowerLevels` is parsed once per `m.room.power_levels` event and then read for every message, so it is immutable and
each question is one dictionary look-up. Room creators of versions with privileged creators stand in the same
dictionary with `CREATOR_LEVEL`, which is above every integer that canonical JSON can express.

Spec anchors: rooms/v1#authorisation-rules, rooms/v10, rooms/v12, client-server-api#mroompower_levels.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from federation.event import Event
from federation.ids import is_user_id
from federation.verdict import ACCEPT, Reject, Verdict
from federation.versions import RoomRules

# Integers of canonical JSON end at 2^53 - 1, and versions with privileged creators enforce it.
CREATOR_LEVEL: Final = 1 << 60

SCALAR_DEFAULTS: Final[Mapping[str, int]] = {
    "users_default": 0,
    "events_default": 0,
    "state_default": 50,
    "ban": 50,
    "redact": 50,
    "kick": 50,
    "invite": 0,
}
_NOTIFICATION_DEFAULT: Final = 50
# The digits after leading zeros; longer ones are outside an IEEE 754 double, which rooms/v1 calls out of range.
_LEVEL_STRING: Final = re.compile(r"\s*([+-]?)0*([0-9]{1,309})\s*", re.ASCII)
_LEVEL_BOUND: Final = 1 << 1024


@dataclass(frozen=True, slots=True, eq=False)
class PowerLevels:
    """The levels in force at a point of a room. MUST NOT be mutated: it is cached by event id."""

    users: Mapping[str, int]
    users_default: int
    events: Mapping[str, int]
    events_default: int
    state_default: int
    ban: int
    kick: int
    invite: int
    redact: int
    notifications: Mapping[str, int]

    def user(self, user_id: str) -> int:
        return self.users.get(user_id, self.users_default)

    def event(self, event_type: str, is_state: bool) -> int:
        return self.events.get(event_type, self.state_default if is_state else self.events_default)

    def notification(self, key: str) -> int:
        return self.notifications.get(key, _NOTIFICATION_DEFAULT)


def room_creators(create: Event, rules: RoomRules) -> list[str]:
    """The room's creators: one user, or in versions with privileged creators possibly more."""
    # spec: rooms/v12#authorisation-rules
    if rules.creator_in_content_required:
        creator_id = create.content.get("creator")
        return [creator_id] if isinstance(creator_id, str) else []
    creators: list[str] = [create.sender]
    if rules.privileged_creators:
        additional = create.content.get("additional_creators")
        if isinstance(additional, list):
            creators.extend(user_id for user_id in additional if isinstance(user_id, str))
    return creators


def parse_level(value: object, rules: RoomRules) -> int | None:
    """One power level value by the version's leniency; None where it is none."""
    # spec: rooms/v1#mroompower_levels-events-accept-values-as-strings
    if type(value) is int:
        return value if -_LEVEL_BOUND < value < _LEVEL_BOUND else None
    if rules.integer_power_levels:
        return None
    if isinstance(value, str):
        match = _LEVEL_STRING.fullmatch(value)
        if match is None:
            return None
        level = int(match[2])
        return -level if match[1] == "-" else level
    if isinstance(value, float) and not rules.strict_canonical_json and abs(value) != float("inf"):
        return int(value) if value == value else None  # NaN differs from itself
    return None


def _parse_levels(value: object, rules: RoomRules) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    levels = {}
    for key, raw in value.items():
        level = parse_level(raw, rules)
        if level is not None:
            levels[key] = level
    return levels


def parse_power_levels(event: Event | None, create: Event, rules: RoomRules) -> PowerLevels:
    """The levels that an `m.room.power_levels` event, or the lack of one, puts in force.

    A value that is no power level at all counts as absent: only lenient versions can have such in their state.
    """
    content: Mapping[str, Any] = event.content if event is not None else {}
    users = _parse_levels(content.get("users"), rules)
    if rules.privileged_creators:
        users.update((user_id, CREATOR_LEVEL) for user_id in room_creators(create, rules))
    elif event is None:
        users.update((user_id, 100) for user_id in room_creators(create, rules))
    scalars = {}
    for name, default in SCALAR_DEFAULTS.items():
        level = parse_level(content.get(name), rules)
        scalars[name] = default if level is None else level
    return PowerLevels(
        users=users,
        events=_parse_levels(content.get("events"), rules),
        notifications=_parse_levels(content.get("notifications"), rules),
        **scalars,
    )


def check_power_levels_event(
    event: Event, previous: Event | None, create: Event, power: PowerLevels
) -> Verdict:
    """The rules of `m.room.power_levels` itself, against the event that it replaces."""
    # spec: rooms/v12#authorisation-rules
    rules = event.rules
    problem = _malformed_levels(event.content, rules)
    if problem is not None:
        return Reject(problem)
    if rules.privileged_creators:
        users = event.content.get("users", {})
        if any(user_id in users for user_id in room_creators(create, rules)):
            return Reject("power levels list a room creator")
    if previous is None:
        return ACCEPT
    return _check_alterations(event, previous, power.user(event.sender))


def _malformed_levels(content: Mapping[str, Any], rules: RoomRules) -> str | None:
    if rules.integer_power_levels:
        for name in SCALAR_DEFAULTS:
            if name in content and parse_level(content[name], rules) is None:
                return f"power level {name} is not an integer"
        for name in ("events", "notifications"):
            if name in content and not _all_levels(content[name], rules):
                return f"power level {name} is not an object of integers"
    elif _has_number_out_of_range(content, rules):
        return "a power level is outside the range of a double"
    if "users" in content:
        users = content["users"]
        if not _all_levels(users, rules):
            return "power level users is not an object of integers"
        if not all(is_user_id(user_id) for user_id in users):
            return "power level users has a key that is no user id"
    return None


def _all_levels(value: object, rules: RoomRules) -> bool:
    return isinstance(value, dict) and all(parse_level(raw, rules) is not None for raw in value.values())


def _has_number_out_of_range(content: Mapping[str, Any], rules: RoomRules) -> bool:
    # spec: rooms/v1#mroompower_levels-events-accept-values-as-floats
    values: list[object] = [content.get(name) for name in SCALAR_DEFAULTS]
    for name in ("events", "notifications"):
        section = content.get(name)
        if isinstance(section, dict):
            values.extend(section.values())
    return any(type(value) in (int, float) and parse_level(value, rules) is None for value in values)


def _check_alterations(event: Event, previous: Event, sender_level: int) -> Verdict:
    rules = event.rules
    old, new = previous.content, event.content
    for name in SCALAR_DEFAULTS:
        before, after = parse_level(old.get(name), rules), parse_level(new.get(name), rules)
        if before != after and _exceeds((before, after), sender_level):
            return Reject(f"sender may not alter power level {name}")
    sections = ("events", "notifications") if rules.check_notification_levels else ("events",)
    for name in sections:
        old_levels, new_levels = _parse_levels(old.get(name), rules), _parse_levels(new.get(name), rules)
        for key in _altered(old_levels, new_levels):
            if _exceeds((old_levels.get(key), new_levels.get(key)), sender_level):
                return Reject(f"sender may not alter power level {name}")
    old_users, new_users = _parse_levels(old.get("users"), rules), _parse_levels(new.get("users"), rules)
    for user_id in _altered(old_users, new_users):
        before, after = old_users.get(user_id), new_users.get(user_id)
        if before is not None and user_id != event.sender and before >= sender_level:
            return Reject("sender may not alter the power level of a user at or above their own")
        if after is not None and after > sender_level:
            return Reject("sender may not grant a power level above their own")
    return ACCEPT


def _exceeds(levels: Iterable[int | None], sender_level: int) -> bool:
    return any(level is not None and level > sender_level for level in levels)


def _altered(old: Mapping[str, int], new: Mapping[str, int]) -> list[str]:
    changed = [key for key, level in new.items() if old.get(key) != level]
    changed.extend(key for key in old if key not in new)
    return changed
