"""The rules that every user has until they change them.

# spec: client-server-api#predefined-rules
Beside those of the specification: polls (MSC3930), in the order that the proposal gives, and subscriptions of threads
(MSC4306).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SOUND: Mapping[str, Any] = {"set_tweak": "sound", "value": "default"}
_RING: Mapping[str, Any] = {"set_tweak": "sound", "value": "ring"}
_HIGHLIGHT: Mapping[str, Any] = {"set_tweak": "highlight"}
_TO_TWO: Mapping[str, Any] = {"kind": "room_member_count", "is": "2"}

MASTER = ".m.rule.master"
# COMPAT(Element, Element X and all who send polls today, until they send the types of the specification): the merged
# proposals MSC3381 and MSC3930 are used under their first names, beside those that they were merged with.
_POLLS = ((".m.rule", "m.poll"), (".org.matrix.msc3930.rule", "org.matrix.msc3381.poll"))


# Proposed: MSC4306.
POSTCONTENT = "postcontent"
BY_THREAD = "io.element.msc4306.thread_subscription"


def _match(key: str, pattern: str) -> dict[str, Any]:
    return {"kind": "event_match", "key": key, "pattern": pattern}


def _is(key: str, value: str | bool) -> dict[str, Any]:
    return {"kind": "event_property_is", "key": key, "value": value}


def _rule(
    rule_id: str, conditions: list[Mapping[str, Any]], *actions: Any, enabled: bool = True
) -> dict[str, Any]:
    return {
        "rule_id": rule_id,
        "default": True,
        "enabled": enabled,
        "conditions": [dict(one) for one in conditions],
        "actions": [one if isinstance(one, str) else dict(one) for one in actions],
    }


def default_override(user_id: str) -> list[dict[str, Any]]:
    """The default rules of the highest kind, the most important first; new lists at each call."""
    mentioned = {"kind": "event_property_contains", "key": "content.m\\.mentions.user_ids", "value": user_id}
    invite = [
        _match("type", "m.room.member"),
        _match("content.membership", "invite"),
        _match("state_key", user_id),
    ]
    to_room = [
        _is("content.m\\.mentions.room", True),
        {"kind": "sender_notification_permission", "key": "room"},
    ]
    return [
        _rule(MASTER, [], enabled=False),
        _rule(".m.rule.suppress_notices", [_match("content.msgtype", "m.notice")]),
        _rule(".m.rule.invite_for_me", [*invite], "notify", _SOUND),
        _rule(".m.rule.member_event", [_match("type", "m.room.member")]),
        _rule(".m.rule.is_user_mention", [mentioned], "notify", _SOUND, _HIGHLIGHT),
        _rule(".m.rule.is_room_mention", [*to_room], "notify", _HIGHLIGHT),
        _rule(
            ".m.rule.tombstone",
            [_match("type", "m.room.tombstone"), _match("state_key", "")],
            "notify",
            _HIGHLIGHT,
        ),
        _rule(".m.rule.reaction", [_match("type", "m.reaction")]),
        _rule(".m.rule.room.server_acl", [_match("type", "m.room.server_acl"), _match("state_key", "")]),
        *(_rule(f"{rule}.poll_response", [_is("type", f"{poll}.response")]) for rule, poll in _POLLS),
        _rule(".m.rule.suppress_edits", [_is("content.m\\.relates_to.rel_type", "m.replace")]),
    ]


def default_postcontent() -> list[dict[str, Any]]:
    """The default rules on threads, between ``content`` and ``room``; new lists at each call."""
    prefix = ".io.element.msc4306.rule."
    return [
        _rule(f"{prefix}unsubscribed_thread", [{"kind": BY_THREAD, "subscribed": False}]),
        _rule(f"{prefix}subscribed_thread", [{"kind": BY_THREAD, "subscribed": True}], "notify", _SOUND),
    ]


def default_underride() -> list[dict[str, Any]]:
    """The default rules of the lowest kind, the most important first; new lists at each call."""
    return [
        _rule(".m.rule.call", [_match("type", "m.call.invite")], "notify", _RING),
        _rule(
            ".m.rule.encrypted_room_one_to_one",
            [_TO_TWO, _match("type", "m.room.encrypted")],
            "notify",
            _SOUND,
        ),
        _rule(".m.rule.room_one_to_one", [_TO_TWO, _match("type", "m.room.message")], "notify", _SOUND),
        _rule(".m.rule.message", [_match("type", "m.room.message")], "notify"),
        _rule(".m.rule.encrypted", [_match("type", "m.room.encrypted")], "notify"),
        *(one for rule, poll in _POLLS for one in _poll_rules(rule, poll)),
    ]


def _poll_rules(rule: str, poll: str) -> list[dict[str, Any]]:
    """A poll is announced as a message is."""
    found: list[dict[str, Any]] = []
    for what in ("start", "end"):
        of_type = _is("type", f"{poll}.{what}")
        found.append(_rule(f"{rule}.poll_{what}_one_to_one", [_TO_TWO, of_type], "notify", _SOUND))
        found.append(_rule(f"{rule}.poll_{what}", [of_type], "notify"))
    return found
