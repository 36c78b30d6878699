"""Power levels: reading in every version, and who may change them."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from federation.auth.power import CREATOR_LEVEL, parse_level, parse_power_levels
from federation.auth.rules import check_state_dependent
from federation.event import Event
from federation.verdict import Accept, Reject
from federation.versions import ROOM_VERSIONS
from tests.unit.federation.auth.room import ALICE, ALL_VERSIONS, BOB, CHARLIE, EVE, Room, usual_room, versions


class ReadingTests(SynchronousTestCase):
    def test_defaults_without_an_event(self) -> None:
        for version in ALL_VERSIONS:
            room = Room(version)
            power = parse_power_levels(None, room.create, room.rules)
            self.assertEqual(power.user(ALICE), CREATOR_LEVEL if version == "12" else 100)
            self.assertEqual(power.user(BOB), 0)
            self.assertEqual((power.ban, power.kick, power.redact, power.invite), (50, 50, 50, 0))
            self.assertEqual((power.event("x", True), power.event("x", False)), (50, 0))
            self.assertEqual(power.notification("room"), 50)

    def test_the_creator_is_content_creator_until_version_10(self) -> None:
        for version in ALL_VERSIONS:
            room = Room(version, {"creator": BOB})
            power = parse_power_levels(None, room.create, room.rules)
            self.assertEqual(power.user(BOB) > 0, int(version) <= 10, version)
            self.assertEqual(power.user(ALICE) > 0, int(version) >= 11, version)

    def test_an_event_ends_the_creators_privilege_until_version_11(self) -> None:
        for version in ALL_VERSIONS:
            room = Room(version)
            event = room.put_power(users_default=7)
            power = parse_power_levels(event, room.create, room.rules)
            self.assertEqual(power.user(ALICE), CREATOR_LEVEL if version == "12" else 7)

    def test_additional_creators_count_in_version_12_alone(self) -> None:
        for version in ALL_VERSIONS:
            room = Room(version, {"additional_creators": [BOB, 3]})
            power = parse_power_levels(room.put_power(users={BOB: 1}), room.create, room.rules)
            self.assertEqual(power.user(BOB), CREATOR_LEVEL if version == "12" else 1)

    def test_explicit_values(self) -> None:
        room = Room("12")
        content: dict[str, Any] = {
            "events": {"m.room.topic": 3},
            "state_default": 40,
            "events_default": 2,
            "invite": 9,
            "ban": -1,
        }
        power = parse_power_levels(
            room.put_power(**content, notifications={"room": 20}), room.create, room.rules
        )
        self.assertEqual([power.event("m.room.topic", False), power.event("m.room.name", True)], [3, 40])
        self.assertEqual([power.event("m.room.message", False), power.invite, power.ban], [2, 9, -1])
        self.assertEqual([power.notification("room"), power.notification("other")], [20, 50])

    def test_strings_until_version_9(self) -> None:
        cases: dict[Any, int | None] = {
            "100": 100,
            "000100": 100,
            "+100": 100,
            "-100": -100,
            " 00100 ": 100,
            "\t-7\n": -7,
            "0": 0,
            "1.5": None,
            "1e3": None,
            "": None,
            " ": None,
            "- 5": None,
            "+-5": None,
            "1_000": None,
            "\u0661": None,
            "9" * 400: None,
            "0" * 60000 + "1": 1,
        }
        for version in ALL_VERSIONS:
            for text, level in cases.items():
                expected = level if int(version) <= 9 else None
                self.assertEqual(parse_level(text, ROOM_VERSIONS[version]), expected, (version, text[:20]))

    def test_floats_until_version_5(self) -> None:
        for version in ALL_VERSIONS:
            expected = 50 if int(version) <= 5 else None
            self.assertEqual(parse_level(50.57, ROOM_VERSIONS[version]), expected)
            value: Any
            for value in (float("inf"), float("-inf"), float("nan"), True, False, None, [], {}, 2**2000):
                self.assertIsNone(parse_level(value, ROOM_VERSIONS[version]), value)
        self.assertEqual(parse_level(-1.9, ROOM_VERSIONS["1"]), -1)

    @settings(deadline=None)
    @given(
        st.dictionaries(
            st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)
        )
    )
    def test_no_content_raises(self, content: dict[str, Any]) -> None:
        for version in ("1", "9", "12"):
            room = Room(version)
            room.put_member(ALICE, "join")
            for name in ("users", "events", "notifications", "ban"):
                for value in content.values():
                    event = room.event("m.room.power_levels", ALICE, {name: value, "users": content}, "")
                    parse_power_levels(event, room.create, room.rules)
                    self.assertIsInstance(check_state_dependent(event, room.lookup), (Accept, Reject))


class ChangingTests(SynchronousTestCase):
    """Rule 10 (9 from version 6 to 11): Alice stands at 100, Bob at 50, Charlie at 0."""

    def change(self, version: str, sender: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
        room = usual_room(version)
        users = {BOB: 50} if version == "12" else {ALICE: 100, BOB: 50}
        room.put_power(**{"users": users, "state_default": 0, **old})
        fields = {"users": users, "state_default": 0, **new}
        event = room.event("m.room.power_levels", sender, fields, "")
        return isinstance(check_state_dependent(event, room.lookup), Accept)

    def test_levels_up_to_ones_own(self) -> None:
        for version in ALL_VERSIONS:
            for name in ("users_default", "events_default", "ban", "redact", "kick", "invite"):
                for old, new, allowed in (
                    ({}, {name: 50}, True),
                    ({}, {name: 51}, False),
                    ({name: 50}, {}, True),
                    ({name: 51}, {}, False),
                    ({name: 51}, {name: 10}, False),
                    ({name: 51}, {name: 51}, True),
                    ({name: 10}, {name: 51}, False),
                ):
                    self.assertEqual(self.change(version, BOB, old, new), allowed, (version, name, old, new))

    def test_events_and_notifications(self) -> None:
        for version in ALL_VERSIONS:
            for name in ("events", "notifications"):
                checked = name == "events" or int(version) >= 6
                for old, new, allowed in (
                    ({}, {name: {"x": 50}}, True),
                    ({}, {name: {"x": 51}}, not checked),
                    ({name: {"x": 51}}, {name: {}}, not checked),
                    ({name: {"x": 51}}, {}, not checked),
                    ({name: {"x": 51}}, {name: {"x": 3}}, not checked),
                    ({name: {"x": 51}}, {name: {"x": 51, "y": 2}}, True),
                ):
                    self.assertEqual(self.change(version, BOB, old, new), allowed, (version, name, old, new))

    def test_users(self) -> None:
        for version in ALL_VERSIONS:
            creator = {} if version == "12" else {ALICE: 100}
            for old, new, allowed in (
                ({BOB: 50}, {BOB: 50, EVE: 50}, True),
                ({BOB: 50}, {BOB: 50, EVE: 51}, False),
                ({BOB: 50, EVE: 49}, {BOB: 50}, True),
                ({BOB: 50, EVE: 50}, {BOB: 50}, False),
                ({BOB: 50, EVE: 50}, {BOB: 50, EVE: 0}, False),
                ({BOB: 50}, {BOB: 20}, True),
                ({BOB: 50}, {}, True),
                ({BOB: 50}, {BOB: 51}, False),
                ({BOB: 50, EVE: 60}, {BOB: 50, EVE: 60, CHARLIE: 5}, True),
            ):
                before, after = {"users": creator | old}, {"users": creator | new}
                self.assertEqual(self.change(version, BOB, before, after), allowed, (version, old, new))

    def test_below_the_required_level(self) -> None:
        for version in ALL_VERSIONS:
            self.assertTrue(self.change(version, CHARLIE, {}, {}))
            self.assertFalse(self.change(version, CHARLIE, {"events": {"m.room.power_levels": 1}}, {}))

    def test_the_first_event_is_free(self) -> None:
        for version in ALL_VERSIONS:
            room = Room(version)
            room.put_member(ALICE, "join")
            event = room.event("m.room.power_levels", ALICE, {"users": {BOB: 9000}, "ban": 9000}, "")
            self.assertIsInstance(check_state_dependent(event, room.lookup), Accept)

    def first(self, version: str, content: dict[str, Any]) -> bool:
        room = Room(version, {"additional_creators": [EVE]} if version == "12" else None)
        room.put_member(ALICE, "join")
        event: Event = room.event("m.room.power_levels", ALICE, content, "")
        return isinstance(check_state_dependent(event, room.lookup), Accept)

    def test_shape_of_users(self) -> None:
        for version in ALL_VERSIONS:
            users: Any
            for users in (
                [],
                None,
                3,
                {BOB: None},
                {BOB: True},
                {BOB: "x"},
                {"bob": 1},
                {"@bob": 1},
                {"": 1},
                {"@x:": 1},
                {"@x:b_c": 1},
                {"@x:b:": 1},
                {"@x:b:123456": 1},
                {"@x:1.2.3.256": 1},
                {"@x:[1.2.3.4]": 1},
                {"@x\0:b": 1},
                {"@" + "x" * 253 + ":b": 1},
            ):
                self.assertFalse(self.first(version, {"users": users}), (version, users))
            # Names of hosts that nobody could look up are names: who refused them would be alone with that.
            for user_id in ("@x:b..c", "@x:b.", "@x:.", "@x:-", "@x:" + "b" * 64, "@x:b:99999", "@:b"):
                self.assertTrue(self.first(version, {"users": {user_id: 1}}), (version, user_id))
            self.assertTrue(self.first(version, {"users": {}}))
            self.assertTrue(self.first(version, {"users": {"@Old Fashioned!:x.test": 1}}))
            self.assertEqual(self.first(version, {"users": {BOB: "10"}}), int(version) <= 9)

    def test_other_shapes_from_version_10(self) -> None:
        for version in ALL_VERSIONS:
            strict = int(version) >= 10
            content: Any
            for content in (
                {"ban": "50"},
                {"events": {"x": "1"}},
                {"notifications": []},
                {"events": None},
                {"kick": True},
            ):
                self.assertEqual(self.first(version, content), not strict, (version, content))

    def test_numbers_out_of_range(self) -> None:
        for version in versions(1, 5):
            for content in (
                {"ban": float("inf")},
                {"events": {"x": float("nan")}},
                {"users": {BOB: 2**2000}},
            ):
                self.assertFalse(self.first(version, content), (version, content))

    def test_creators_may_not_be_named_in_version_12(self) -> None:
        for version in ALL_VERSIONS:
            for user_id in (ALICE, EVE):
                self.assertEqual(self.first(version, {"users": {user_id: 100}}), version != "12")
