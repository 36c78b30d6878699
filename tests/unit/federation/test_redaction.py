"""Redaction in every room version. # spec: rooms/v11#redactions"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from federation.redaction import redact
from federation.versions import ROOM_VERSIONS

ALWAYS = {
    "event_id": "$e",
    "type": "m.room.message",
    "room_id": "!r",
    "sender": "@s",
    "state_key": "k",
    "hashes": {"sha256": "h"},
    "signatures": {"s": {}},
    "depth": 1,
    "prev_events": [],
    "auth_events": [],
    "origin_server_ts": 2,
}
UNTIL_10 = {"prev_state": [], "origin": "o", "membership": "join"}
NEVER = {"unsigned": {"age": 1}, "redacts": "$x", "replaces_state": "$y", "other": 1, "age": 3}

POWER = {
    "ban": 1,
    "events": {"a": 1},
    "events_default": 1,
    "kick": 1,
    "redact": 1,
    "state_default": 1,
    "users": {"@u": 1},
    "users_default": 1,
}
# (event type, content, first version that keeps more than before: what is kept from there on)
CASES: tuple[tuple[str, dict[str, Any], dict[int, dict[str, Any]]], ...] = (
    ("m.room.message", {"body": "x", "membership": "join"}, {1: {}}),
    (
        "m.room.member",
        {
            "membership": "join",
            "displayname": "d",
            "join_authorised_via_users_server": "@a:b",
            "third_party_invite": {"signed": {"mxid": "@u"}, "display_name": "n"},
        },
        {
            1: {"membership": "join"},
            9: {"membership": "join", "join_authorised_via_users_server": "@a:b"},
            11: {
                "membership": "join",
                "join_authorised_via_users_server": "@a:b",
                "third_party_invite": {"signed": {"mxid": "@u"}},
            },
        },
    ),
    (
        "m.room.create",
        {"creator": "@a:b", "room_version": "1", "m.federate": False},
        {1: {"creator": "@a:b"}, 11: {"creator": "@a:b", "room_version": "1", "m.federate": False}},
    ),
    (
        "m.room.join_rules",
        {"join_rule": "restricted", "allow": [{"type": "x"}], "x": 1},
        {1: {"join_rule": "restricted"}, 8: {"join_rule": "restricted", "allow": [{"type": "x"}]}},
    ),
    (
        "m.room.power_levels",
        {**POWER, "invite": 5, "notifications": {"room": 5}, "x": 1},
        {1: POWER, 11: {**POWER, "invite": 5}},
    ),
    ("m.room.aliases", {"aliases": ["#a:b"], "x": 1}, {1: {"aliases": ["#a:b"]}, 6: {}}),
    (
        "m.room.history_visibility",
        {"history_visibility": "shared", "x": 1},
        {1: {"history_visibility": "shared"}},
    ),
    ("m.room.redaction", {"redacts": "$x", "reason": "r"}, {1: {}, 11: {"redacts": "$x"}}),
)


class Redaction(SynchronousTestCase):
    def test_top_level_keys(self) -> None:
        for version, rules in ROOM_VERSIONS.items():
            kept = ALWAYS if int(version) >= 11 else {**ALWAYS, **UNTIL_10}
            event = {**ALWAYS, **UNTIL_10, **NEVER, "content": {"body": "x"}}
            self.assertEqual(redact(event, rules), {**kept, "content": {}}, version)

    def test_content_keys(self) -> None:
        for event_type, content, kept_since in CASES:
            expected: dict[str, Any] = {}
            for number in range(1, 13):
                expected = kept_since.get(number, expected)
                rules = ROOM_VERSIONS[str(number)]
                redacted = redact({**ALWAYS, "type": event_type, "content": content}, rules)
                self.assertEqual(redacted["content"], expected, (event_type, number))
                self.assertEqual(redact(redacted, rules), redacted)

    def test_odd_shapes(self) -> None:
        rules = ROOM_VERSIONS["12"]
        for invite, kept in (
            ("x", {}),
            ({}, {"third_party_invite": {}}),
            ({"signed": 1}, {"third_party_invite": {"signed": 1}}),
        ):
            event = {"type": "m.room.member", "content": {"third_party_invite": invite}}
            self.assertEqual(redact(event, rules)["content"], kept)
        self.assertEqual(redact({"type": [], "content": {"a": 1}}, rules), {"type": [], "content": {}})
        self.assertEqual(redact({"content": "x"}, rules), {"content": {}})

    def test_argument_is_left_alone(self) -> None:
        event: dict[str, Any] = {**ALWAYS, "content": {"body": "x"}, "unsigned": {}}
        redact(event, ROOM_VERSIONS["12"])
        self.assertEqual(event, {**ALWAYS, "content": {"body": "x"}, "unsigned": {}})
