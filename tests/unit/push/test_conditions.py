"""Conditions. spec: client-server-api#conditions-1"""

from __future__ import annotations

from typing import Any
from unittest import TestCase

from homeserver.push.conditions import EventView, FactMissing, Facts, compile_condition, parse_path
from tests.unit.push.samples import facts, power, view


def holds(json: dict[str, Any], event: EventView, known: Facts | None = None) -> bool:
    return compile_condition(json).test(event, known or facts())


class Paths(TestCase):
    def test_of_the_specification(self) -> None:
        for key, path in (
            ("content.body", ("content", "body")),
            (r"content.m\.relates_to", ("content", "m.relates_to")),
            (r"content.m\\foo", ("content", r"m\foo")),
            (r"a\x.b", (r"a\x", "b")),
            ("a\\", ("a\\",)),
            ("", ("",)),
            ("a..b", ("a", "", "b")),
        ):
            self.assertEqual(path, parse_path(key))


class Match(TestCase):
    def match(self, key: str, pattern: Any, event: EventView) -> bool:
        return holds({"kind": "event_match", "key": key, "pattern": pattern}, event)

    def test_properties(self) -> None:
        event = view("m.room.topic", {"topic": "Lunch plans", "n": None, "deep": {"er": "x"}}, state_key="")
        for key, pattern, expected in (
            ("content.topic", "lunc?*", True),
            ("content.topic", "LUNCH PLANS", True),
            ("content.topic", "lunch", False),
            ("content.n", "*", False),
            ("content.absent", "*", False),
            ("content.deep", "*", False),
            ("content.deep.er", "X", True),
            ("content.topic.x", "*", False),
            ("type", "M.room.topic", True),
            ("type", "m.room.*", True),
            ("sender", "@other:x", True),
            ("room_id", "!room:x", True),
            ("state_key", "", True),
            ("event_id", "$event", True),
            ("origin_server_ts", "1", False),
            ("hashes", "*", False),
            ("content", "*", False),
            ("content.topic", 1, False),
        ):
            self.assertEqual(expected, self.match(key, pattern, event), (key, pattern))
        self.assertFalse(self.match("state_key", "*", view()))

    def test_body(self) -> None:
        event = view(content={"body": "It's Time\nfor tea"})
        for pattern, expected in (
            ("tea", True),
            ("tim", False),
            ("t*or", True),
            ("TIME?for", True),
            ("s", True),
        ):
            self.assertEqual(expected, self.match("content.body", pattern, event), pattern)
        self.assertFalse(self.match("content.body", "*", view(content={"body": 1})))


class Values(TestCase):
    def test_is(self) -> None:
        event = view(content={"t": True, "one": 1, "n": None, "s": "1", "f": 1.0, "list": [], "m.x": 2})
        for key, value, expected in (
            ("content.t", True, True),
            ("content.t", 1, False),
            ("content.one", 1, True),
            ("content.one", True, False),
            ("content.one", "1", False),
            ("content.n", None, True),
            ("content.absent", None, False),
            ("content.f", 1, False),
            (r"content.m\.x", 2, True),
            ("content.list", [], False),
            ("content.one", 2**53, False),
        ):
            found = holds({"kind": "event_property_is", "key": key, "value": value}, event)
            self.assertEqual(expected, found, (key, value))
        self.assertFalse(holds({"kind": "event_property_is", "key": "content.absent"}, event))

    def test_contains(self) -> None:
        event = view(content={"list": ["a", 1, None, [2], {"x": 1}], "text": "a"})
        for key, value, expected in (
            ("content.list", "a", True),
            ("content.list", 1, True),
            ("content.list", True, False),
            ("content.list", None, True),
            ("content.list", 2, False),
            ("content.text", "a", False),
            ("content.absent", "a", False),
        ):
            found = holds({"kind": "event_property_contains", "key": key, "value": value}, event)
            self.assertEqual(expected, found, (key, value))


class OfTheRoom(TestCase):
    def test_member_count(self) -> None:
        for text, fitting in (
            ("2", [2]), ("==2", [2]), ("<2", [1]), (">2", [3]), ("<=2", [1, 2]), (">=2", [2, 3]),
            ("", []), ("=2", []), ("two", []), ("-1", []), (2, []), ("2.0", []), ("²", []), ("9" * 50, []),
        ):  # fmt: skip
            json = {"kind": "room_member_count", "is": text}
            self.assertEqual(fitting, [n for n in (1, 2, 3) if holds(json, view(), facts(joined=n))], text)

    def test_permission(self) -> None:
        json = {"kind": "sender_notification_permission", "key": "room"}
        self.assertFalse(holds(json, view()))
        self.assertTrue(holds(json, view(), facts(levels=power({"@other:x": 50}))))
        self.assertTrue(holds(json, view(), facts(levels=power({}, {"room": 0}))))
        self.assertFalse(holds({"kind": "sender_notification_permission"}, view()))

    def test_display_name(self) -> None:
        json = {"kind": "contains_display_name"}
        event = view(content={"body": "Hello al*ce (away)!"})
        for name, expected in (("Al*ce", True), ("al", True), ("a", False), ("", False), ("alice", False)):
            self.assertEqual(expected, holds(json, event, facts(name=name)), name)

    def test_what_is_missing_is_asked_for(self) -> None:
        for json in (
            {"kind": "room_member_count", "is": "2"},
            {"kind": "sender_notification_permission", "key": "room"},
            {"kind": "contains_display_name"},
        ):
            with self.assertRaises(FactMissing):
                holds(json, view(), Facts())


class Unknown(TestCase):
    def test_never_holds(self) -> None:
        for json in (
            {"kind": "org.example.new"},
            {},
            {"kind": 1},
            {"kind": "event_match", "key": 1, "pattern": "*"},
        ):
            self.assertFalse(holds(json, view()), json)
