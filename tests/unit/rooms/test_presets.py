"""What new rooms start with. spec: client-server-api#post_matrixclientv3createroom"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from federation.versions import ROOM_VERSIONS
from homeserver.rooms.presets import (
    StateItem,
    create_content,
    guard_tombstone,
    merge_state,
    power_levels,
    preset_state,
)

V11, V12 = ROOM_VERSIONS["11"], ROOM_VERSIONS["12"]
ALICE, BOB = "@alice:a", "@bob:a"
ITEMS = st.lists(
    st.builds(StateItem, st.sampled_from("abc"), st.sampled_from(["", "x"]), st.just({})), max_size=6
)


class Presets(unittest.TestCase):
    def test_the_table_of_the_specification(self) -> None:
        expected = {
            "private_chat": ("invite", "shared", "can_join"),
            "trusted_private_chat": ("invite", "shared", "can_join"),
            "public_chat": ("public", "shared", "forbidden"),
        }
        for preset, values in expected.items():
            found = tuple(next(iter(item.content.values())) for item in preset_state(preset))  # type: ignore[arg-type]
            self.assertEqual(values, found)

    def test_the_override_goes_on_top(self) -> None:
        levels = power_levels(V11, ALICE, "public_chat", override={"users": {ALICE: 90}, "ban": 3})
        self.assertEqual(({ALICE: 90}, 3, 50), (levels["users"], levels["ban"], levels["kick"]))

    def test_one_room_does_not_change_the_next(self) -> None:
        power_levels(V11, ALICE, "public_chat")["events"]["m.room.name"] = 0
        self.assertEqual(50, power_levels(V11, ALICE, "public_chat")["events"]["m.room.name"])

    def test_the_trusted(self) -> None:
        old = power_levels(V11, ALICE, "trusted_private_chat", [BOB])
        self.assertEqual({ALICE: 100, BOB: 100}, old["users"])
        self.assertEqual({}, power_levels(V12, ALICE, "trusted_private_chat", [BOB])["users"])

    @given(st.integers(-(2**53) + 1, 2**53 - 1), st.none() | st.integers(-(2**53) + 1, 2**53 - 1))
    def test_a_tombstone_takes_more_than_other_state(self, state_default: int, level: int | None) -> None:
        events = {} if level is None else {"m.room.tombstone": level}
        content: dict[str, Any] = {"state_default": state_default, "events": events}
        guard_tombstone(content)
        found = content["events"]["m.room.tombstone"]
        self.assertLessEqual(found, 2**53 - 1)
        self.assertTrue(found > state_default or state_default == 2**53 - 1)
        if level is not None and level > state_default:
            self.assertEqual(level, found)

    def test_what_the_rules_refuse_is_left_to_them(self) -> None:
        for content in ({"events": 1}, {"state_default": "x"}, {"events": {"m.room.tombstone": "x"}}):
            before = dict(content)
            guard_tombstone(content)
            self.assertEqual(before, content)


class Create(unittest.TestCase):
    def test_the_servers_keys_win(self) -> None:
        wanted = {"creator": BOB, "room_version": "1", "x": 1}
        self.assertEqual({"room_version": "11", "x": 1}, create_content(V11, ALICE, wanted))
        old = create_content(ROOM_VERSIONS["10"], ALICE, wanted)
        self.assertEqual({"room_version": "10", "creator": ALICE, "x": 1}, old)

    def test_additional_creators_without_repetition(self) -> None:
        content = create_content(V12, ALICE, {"additional_creators": ["junk"]}, [BOB, ALICE, BOB])
        self.assertEqual([BOB], content["additional_creators"])
        self.assertNotIn(
            "additional_creators", create_content(V12, ALICE, {"additional_creators": []}, [ALICE])
        )


class Merging(unittest.TestCase):
    @given(ITEMS, ITEMS, ITEMS)
    def test_later_lists_win_and_order_is_kept(
        self, first: list[StateItem], second: list[StateItem], third: list[StateItem]
    ) -> None:
        merged = merge_state(first, second, third)

        def keys(items: list[StateItem]) -> set[tuple[str, str]]:
            return {(item.type, item.state_key) for item in items}

        kept_second = [item for item in second if (item.type, item.state_key) not in keys(third)]
        kept_first = [item for item in first if (item.type, item.state_key) not in keys(second) | keys(third)]
        self.assertEqual([*kept_first, *kept_second, *third], merged)
