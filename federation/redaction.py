"""The redaction algorithm of every room version: which keys of an event survive.

The redacted form is also what signatures and reference hashes cover. The result shares nested values with the
argument; nobody mutates events.

# spec: rooms/v11#redactions
"""

from __future__ import annotations

from typing import Any, Final

from federation.versions import RedactionRules, RoomRules

# Only to be iterated in this order where order does not matter: the encoder sorts.
_TOP_LEVEL: Final = (
    "event_id",
    "type",
    "room_id",
    "sender",
    "state_key",
    "hashes",
    "signatures",
    "depth",
    "prev_events",
    "auth_events",
    "origin_server_ts",
)
_TOP_LEVEL_UNTIL_V11: Final = (*_TOP_LEVEL, "prev_state", "origin", "membership")
_NOTHING_ELSE: Final = frozenset((*_TOP_LEVEL, "content"))
_POWER_LEVEL_KEYS: Final = (
    "ban",
    "events",
    "events_default",
    "kick",
    "redact",
    "state_default",
    "users",
    "users_default",
)


def redact(event_json: dict[str, Any], rules: RoomRules) -> dict[str, Any]:
    """The redacted event: `unsigned` and everything else that is not protected is gone."""
    redaction = rules.redaction
    if event_json.keys() <= _NOTHING_ELSE:
        result = event_json.copy()
    else:
        keys = _TOP_LEVEL_UNTIL_V11 if redaction.keep_origin_membership_prev_state else _TOP_LEVEL
        result = {key: event_json[key] for key in keys if key in event_json}
    content = event_json.get("content")
    result["content"] = (
        redact_content(event_json.get("type"), content, redaction) if type(content) is dict else {}
    )
    return result


def redact_content(event_type: Any, content: dict[str, Any], rules: RedactionRules) -> dict[str, Any]:
    """The protected part of an event's content."""
    kept = _protected_keys(event_type, rules)
    if kept is None:
        return content
    result = {key: content[key] for key in kept if key in content}
    if event_type == "m.room.member" and rules.keep_third_party_signed:
        third_party_invite = content.get("third_party_invite")
        if type(third_party_invite) is dict:
            # The nested object is filtered like any other: what remains of it may be empty.
            signed = {"signed": third_party_invite["signed"]} if "signed" in third_party_invite else {}
            result["third_party_invite"] = signed
    return result


def _protected_keys(event_type: Any, rules: RedactionRules) -> tuple[str, ...] | None:
    """Content keys kept for this type of event; None means all of them."""
    match event_type:
        case "m.room.member":
            authorised = ("join_authorised_via_users_server",) if rules.keep_join_authorised else ()
            return ("membership", *authorised)
        case "m.room.create":
            return None if rules.keep_create_all else ("creator",)
        case "m.room.join_rules":
            return ("join_rule", "allow") if rules.keep_restricted_allow else ("join_rule",)
        case "m.room.power_levels":
            return (*_POWER_LEVEL_KEYS, "invite") if rules.keep_invite_level else _POWER_LEVEL_KEYS
        case "m.room.history_visibility":
            return ("history_visibility",)
        case "m.room.aliases" if rules.keep_aliases:
            return ("aliases",)
        case "m.room.redaction" if rules.keep_redacts:
            return ("redacts",)
    return ()
