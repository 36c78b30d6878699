"""A user's set of push rules: reading what is stored, and changing it. Pure.

Stored is the whole set, as clients are told it (account data ``m.push_rules``). When it is read, the default rules
are those of today, with the user's choice of ``enabled`` and ``actions``.

# spec: client-server-api#push-rules-api
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from homeserver.http.errors import (
    MatrixError,
    UserLimitReachedError,
    bad_json,
    invalid_param,
    missing_param,
    not_found,
)
from homeserver.push.conditions import BODY, is_simple, parse_path
from homeserver.push.defaults import (
    MASTER,
    POSTCONTENT,
    default_override,
    default_postcontent,
    default_underride,
)
from homeserver.push.globs import is_literal

# COMPAT(ruma and the Rust SDK, 2026): in paths they put the proposal's prefix before it, in rules they do not.
_PREFIXED_POSTCONTENT: Final = "io.element.msc4306.postcontent"
KINDS: Final = ("override", "content", POSTCONTENT, "room", "sender", "underride")
_CONDITIONAL: Final = ("override", "underride")
# LIMIT(the whole set goes into every initial sync, and into every sync after a change)
MAX_RULES = 2_000
MAX_SET_BYTES = 512 * 1024
MAX_RULE_ID_LENGTH = 255
MAX_CONDITIONS = 50
# LIMIT(of each event a value is looked for under every key, a step for each dot)
MAX_KEY_LENGTH = 512
MAX_ACTIONS = 20
# LIMIT(matching takes time as the patterns' and the event's lengths, multiplied; 400 words of ten letters. What is compared
# as a whole does not count: people mute rooms, some of them hundreds, by rules that name one each)
MAX_PATTERN_LENGTH = 4_096
# spec: client-server-api#historical-actions
_HISTORICAL: Final = ("dont_notify", "coalesce")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

Rule = dict[str, Any]


class Ruleset:
    """Rules by kind, the most important first: the master rule, the user's own, the other default rules."""

    __slots__ = ("kinds",)

    def __init__(self, kinds: dict[str, list[Rule]]) -> None:
        self.kinds = kinds

    def to_json(self) -> bytes:
        """As clients are told it, and as it is stored."""
        return _encode({"global": self.kinds})

    # --- reading ---------------------------------------------------------------------------------------

    def rules(self, kind: str) -> list[Rule]:
        """The rules of a kind; 400 M_INVALID_PARAM for a kind that there is not."""
        found = self.kinds.get(POSTCONTENT if kind == _PREFIXED_POSTCONTENT else kind)
        if found is None:
            raise invalid_param("There is no such kind of push rule")
        return found

    def find(self, kind: str, rule_id: str) -> Rule:
        """One rule; 404 where it is not."""
        for rule in self.rules(kind):
            if rule["rule_id"] == rule_id:
                return rule
        raise not_found("The push rule was not found")

    # --- changing --------------------------------------------------------------------------------------

    def put(
        self, kind: str, rule_id: str, body: Mapping[str, Any], before: str | None, after: str | None
    ) -> None:
        """Add a rule, or give it other parameters."""
        rules = self.rules(kind)
        _check_rule_id(rule_id)
        if rules is self.kinds[POSTCONTENT]:
            raise invalid_param("Rules of this kind are the server's own")
        new: Rule = {"rule_id": rule_id, "default": False, "enabled": True, **_parameters(kind, body)}
        place = next((place for place, rule in enumerate(rules) if rule["rule_id"] == rule_id), None)
        if place is not None:
            new["enabled"] = rules.pop(place)["enabled"]
        if before is not None or after is not None:
            place = _relative_place(rules, rule_id, before, after)
        elif place is None:
            place = 1 if rules and rules[0]["rule_id"] == MASTER else 0
        rules.insert(place, new)
        self._check_size()

    def drop(self, kind: str, rule_id: str) -> None:
        """Remove a rule of the user's own."""
        rule = self.find(kind, rule_id)
        if rule["default"]:
            raise invalid_param("The server's own rules can be disabled, but not removed")
        self.rules(kind).remove(rule)

    def set_enabled(self, kind: str, rule_id: str, enabled: bool) -> None:
        """Enable or disable a rule."""
        self.find(kind, rule_id)["enabled"] = enabled

    def set_actions(self, kind: str, rule_id: str, actions: object) -> None:
        """Give a rule other actions."""
        self.find(kind, rule_id)["actions"] = _check_actions(actions)
        self._check_size()

    def _check_size(self) -> None:
        own = [rule for rules in self.kinds.values() for rule in rules if not rule["default"]]
        patterns = sum(_searching(one) for rule in own for one in (rule, *rule.get("conditions", ())))
        if len(own) > MAX_RULES or patterns > MAX_PATTERN_LENGTH or len(self.to_json()) > MAX_SET_BYTES:
            raise UserLimitReachedError("There are too many push rules")


def _searching(one: Mapping[str, Any]) -> int:
    """The length of the pattern of a rule, or of a condition, where it is looked for in a text."""
    pattern, key = one.get("pattern", ""), one.get("key")
    is_whole = isinstance(key, str) and parse_path(key) != BODY
    return 0 if is_whole and is_literal(pattern) else len(pattern)


def parse_ruleset(stored: str | None, user_id: str) -> Ruleset:
    """The rules of a user, of whom this is stored."""
    kinds: dict[str, list[Rule]] = {kind: [] for kind in KINDS}
    known: dict[tuple[str, str], Rule] = {}
    if stored is not None:
        for kind in KINDS:
            for rule in _decode(stored)["global"].get(kind, ()):
                if rule["default"]:
                    known[kind, rule["rule_id"]] = rule
                else:
                    kinds[kind].append(rule)
    for kind, defaults in (
        ("override", default_override(user_id)),
        (POSTCONTENT, default_postcontent()),
        ("underride", default_underride()),
    ):
        for rule in defaults:
            chosen = known.get((kind, rule["rule_id"]))
            if chosen is not None:
                rule["enabled"], rule["actions"] = chosen["enabled"], chosen["actions"]
        first = 1 if kind == "override" else 0  # the master rule comes before the user's own
        kinds[kind] = [*defaults[:first], *kinds[kind], *defaults[first:]]
    return Ruleset(kinds)


def _check_rule_id(rule_id: str) -> None:
    # spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleid
    if rule_id.startswith("."):
        raise invalid_param("Rule ids that start with a dot are the server's own")
    if "/" in rule_id or "\\" in rule_id:
        raise invalid_param("A rule id must not contain slashes or backslashes")
    if len(rule_id) > MAX_RULE_ID_LENGTH:
        raise invalid_param("The rule id is too long")


def _relative_place(rules: list[Rule], rule_id: str, before: str | None, after: str | None) -> int:
    # spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleid (with both, ``before`` counts)
    name = before if before is not None else after
    for place, rule in enumerate(rules):
        if rule["rule_id"] == name:
            if rule["default"]:
                raise invalid_param("A rule cannot be placed relative to one of the server's own")
            return place if before is not None else place + 1
    if name == rule_id:
        raise invalid_param("A rule cannot be placed relative to itself")
    raise MatrixError(400, "M_UNKNOWN", f"before/after rule not found: {name}")


def _parameters(kind: str, body: Mapping[str, Any]) -> Rule:
    found: Rule = {"actions": _check_actions(body.get("actions"))}
    if kind in _CONDITIONAL:
        found["conditions"] = _check_conditions(body.get("conditions", []))
    elif kind == "content":
        pattern = body.get("pattern")
        if pattern is None:
            raise missing_param("A content rule needs a pattern")
        found["pattern"] = _check_string(pattern, "pattern")
    return found


def _check_actions(actions: object) -> list[Any]:
    if actions is None:
        raise missing_param("The body has no actions")
    if not isinstance(actions, list):
        raise bad_json("actions must be a list")
    if len(actions) > MAX_ACTIONS:
        raise invalid_param("There are too many actions")
    for action in actions:
        if isinstance(action, dict):
            if not isinstance(action.get("set_tweak"), str):
                raise bad_json("An action that is an object must name a tweak in set_tweak")
        elif not isinstance(action, str):
            raise bad_json("An action must be a string or an object")
    return [action for action in actions if action not in _HISTORICAL]


def _check_conditions(conditions: object) -> list[Any]:
    if not isinstance(conditions, list):
        raise bad_json("conditions must be a list")
    if len(conditions) > MAX_CONDITIONS:
        raise invalid_param("There are too many conditions")
    for condition in conditions:
        if not isinstance(condition, dict):
            raise bad_json("A condition must be an object")
        kind = _check_string(condition.get("kind"), "a condition's kind")
        if "pattern" in condition:
            _check_string(condition["pattern"], "a condition's pattern")
        # An unknown kind is kept, and never matches.
        if kind in (
            "event_match",
            "event_property_is",
            "event_property_contains",
            "sender_notification_permission",
        ):
            key = _check_string(condition.get("key"), "a condition's key")
            if len(key) > MAX_KEY_LENGTH:
                raise invalid_param("A condition's key is too long")
        if kind == "event_match":
            _check_string(condition.get("pattern"), "a condition's pattern")
        elif kind == "room_member_count":
            _check_string(condition.get("is"), "a condition's is")
        elif kind in ("event_property_is", "event_property_contains"):
            if "value" not in condition:
                raise missing_param("A condition lacks its value")
            if not is_simple(condition["value"]):
                raise bad_json("A condition's value must be a string, an integer, a boolean or null")
    return conditions


def _check_string(value: object, what: str) -> str:
    if value is None:
        raise missing_param(f"There is no {what}")
    if not isinstance(value, str):
        raise bad_json(f"{what} must be a string")
    return value
