"""What a successor takes over. spec: client-server-api#room-upgrades"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from federation.auth.power import SCALAR_DEFAULTS
from federation.builder import Draft, build
from federation.event import Event
from federation.ids import RoomId, ServerName, UserId
from federation.signing import SigningKey
from federation.versions import ROOM_VERSIONS
from homeserver.rooms.upgrade_state import (
    closing_levels,
    highest_level,
    opening_levels,
    successor_join_rules,
    successor_levels,
)

ALICE, BOB = "@alice:a", "@bob:a"
KEY = SigningKey.from_seed(ServerName("a"), "1", b"\0" * 32)
LEVELS = st.integers(-100, 200)
CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(SCALAR_DEFAULTS, LEVELS),
        "users": st.dictionaries(st.sampled_from([ALICE, BOB, "@c:b"]), LEVELS),
        "events": st.dictionaries(st.sampled_from(["m.room.name", "m.room.tombstone"]), LEVELS),
        "notifications": st.dictionaries(st.just("room"), LEVELS),
    },
)


def levels_event(content: dict[str, Any], version: str) -> Event:
    """An m.room.power_levels event with this content."""
    draft = Draft(RoomId("!r:a"), "m.room.power_levels", UserId(ALICE), content, "")
    event, _ = build(
        draft,
        prev_events=[],
        auth_events=[],
        depth=1,
        rules=ROOM_VERSIONS[version],
        signer=KEY,
        now_ms=1,
        local_id="x",
    )
    return event


class PowerLevels(unittest.TestCase):
    @given(CONTENTS, st.sampled_from(sorted(ROOM_VERSIONS)), st.sampled_from(sorted(ROOM_VERSIONS)))
    def test_nothing_gets_easier(self, content: dict[str, Any], old: str, new: str) -> None:
        rules, old_rules = ROOM_VERSIONS[new], ROOM_VERSIONS[old]
        final = successor_levels(levels_event(content, old), old_rules, rules, ALICE, [ALICE])
        for name in SCALAR_DEFAULTS:
            self.assertEqual(content.get(name), final.get(name))
        for user_id, level in content.get("users", {}).items():
            if user_id != ALICE:
                self.assertEqual(level, final["users"][user_id])
        if rules.privileged_creators:
            self.assertNotIn(ALICE, final["users"])
            self.assertIn("m.room.tombstone", final["events"])
            return
        opening, banning = (opening_levels(final, rules, ALICE, bans=bans) for bans in (False, True))
        # Who opens the room may set everything that the last power levels say.
        self.assertGreaterEqual(opening["users"][ALICE], highest_level(final))
        # And ban everybody.
        self.assertEqual((0, {ALICE: opening["users"][ALICE]}), (banning["users_default"], banning["users"]))

    def test_a_room_without_power_levels(self) -> None:
        final = successor_levels(None, ROOM_VERSIONS["10"], ROOM_VERSIONS["11"], ALICE, [ALICE])
        self.assertEqual({ALICE: 100}, final["users"])

    def test_users_that_are_none(self) -> None:
        old = levels_event({"users": {"alice": 5, ALICE: 100}}, "9")
        self.assertEqual(
            {ALICE: 100}, successor_levels(old, ROOM_VERSIONS["9"], ROOM_VERSIONS["11"], ALICE, [])["users"]
        )

    def test_levels_beyond_what_the_new_version_can_say(self) -> None:
        old = levels_event({"ban": 2**60}, "1")
        final = successor_levels(old, ROOM_VERSIONS["1"], ROOM_VERSIONS["11"], ALICE, [ALICE])
        self.assertEqual(2**53 - 1, final["ban"])

    def test_closing(self) -> None:
        rules = ROOM_VERSIONS["11"]
        for content, expected in (
            ({}, (50, 50)),
            ({"users_default": 60}, (61, 61)),
            ({"events_default": 70, "invite": 10}, (70, 50)),
            ({"events_default": "x"}, (50, 50)),
        ):
            closed = closing_levels(content, rules)
            self.assertEqual(expected, (closed["events_default"], closed["invite"]))


class JoinRules(unittest.TestCase):
    def test_the_nearest_that_lets_nobody_else_in(self) -> None:
        allow = [{"type": "m.room_membership", "room_id": "!a:b"}]
        for join_rule, version, expected in (
            ("public", "1", "public"),
            ("invite", "1", "invite"),
            ("knock", "6", "invite"),
            ("knock", "7", "knock"),
            ("restricted", "7", "invite"),
            ("restricted", "8", "restricted"),
            ("knock_restricted", "9", "restricted"),
            ("knock_restricted", "10", "knock_restricted"),
            ("knock_restricted", "7", "invite"),
            ("org.example", "11", "org.example"),
            (4, "11", "invite"),
        ):
            found = successor_join_rules({"join_rule": join_rule, "allow": allow}, ROOM_VERSIONS[version])
            self.assertEqual(expected, found["join_rule"], (join_rule, version))
            self.assertEqual(expected != "invite" or join_rule == "invite", "allow" in found)
