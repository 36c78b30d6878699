"""Compiled filters. spec: client-server-api#filtering"""

from __future__ import annotations

import fnmatch
import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from homeserver.http.errors import MatrixError
from homeserver.sync.filters import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    matches_glob,
    parse_filter,
    pick_fields,
    split_path,
)


class GlobTests(SynchronousTestCase):
    @given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
    def test_as_a_regular_expression_says(self, pattern: str, text: str) -> None:
        wanted = re.compile(fnmatch.translate(re.sub(r"\*+", "*", pattern))).match(text) is not None
        self.assertEqual(matches_glob(pattern, text), wanted)

    def test_only_the_star_is_special(self) -> None:
        self.assertFalse(matches_glob("m.room?", "m.roomx"))
        self.assertTrue(matches_glob("m.[x]*", "m.[x]y"))

    def test_a_hostile_pattern_is_quick(self) -> None:
        self.assertFalse(matches_glob("*a" * 5_000 + "b", "a" * 20_000))


class ParseTests(SynchronousTestCase):
    def test_nothing_lets_everything_pass(self) -> None:
        found = parse_filter("{}")
        self.assertTrue(found.timeline.everything)
        self.assertTrue(found.rooms.trivial)
        self.assertEqual(found.timeline.limit, DEFAULT_LIMIT)
        self.assertFalse(found.lazy)

    def test_who_says_the_same_shares_what_it_lets_through(self) -> None:
        key = parse_filter('{"room": {"timeline": {"limit": 5, "types": ["a"]}}}').key
        for same in (
            '{"room":{"timeline":{"types":["a"],"limit":5}}}',
            '{"room": {"timeline": {"limit": 5, "types": ["a"], "n": 1}}, "n": {"n": 2}}',
        ):
            self.assertEqual(key, parse_filter(same).key)
        for other in ("{}", '{"room": {"timeline": {"limit": 6, "types": ["a"]}}}', '{"event_fields": []}'):
            self.assertNotEqual(key, parse_filter(other).key)

    def test_limits_are_bounded(self) -> None:
        found = parse_filter('{"room": {"timeline": {"limit": 1000000}}}')
        self.assertEqual(found.timeline.limit, MAX_LIMIT)

    def test_empty_lists(self) -> None:
        found = parse_filter('{"room": {"timeline": {"types": [], "not_types": []}}}')
        self.assertFalse(found.timeline.accepts("m.room.message", "@a:x"))
        found = parse_filter('{"room": {"timeline": {"not_types": [], "not_senders": []}}}')
        self.assertTrue(found.timeline.everything)

    def test_what_is_denied_wins(self) -> None:
        found = parse_filter('{"room": {"timeline": {"types": ["a*"], "not_types": ["ab"]}}}').timeline
        self.assertTrue(found.accepts("ax", "@a:x"))
        self.assertFalse(found.accepts("ab", "@a:x"))
        self.assertFalse(found.accepts("x", "@a:x"))

    def test_wrong_shapes(self) -> None:
        for text, errcode in (
            ("[", "M_NOT_JSON"),
            ("[]", "M_BAD_JSON"),
            ('{"event_format": "xml"}', "M_BAD_JSON"),
            ('{"room": {"rooms": "!a:b"}}', "M_BAD_JSON"),
            ('{"presence": {"limit": "1"}}', "M_BAD_JSON"),
            ('{"a": ' * 200 + "1" + "}" * 200, "M_BAD_JSON"),
        ):
            error = self.assertRaises(MatrixError, parse_filter, text)
            self.assertEqual((error.status, error.errcode), (400, errcode))

    def test_unknown_fields_are_ignored(self) -> None:
        self.assertTrue(parse_filter('{"org.example": 1, "room": {"x": []}}').timeline.everything)

    def test_the_same_text_is_the_same_filter(self) -> None:
        one, other = parse_filter('{"room": {}}'), parse_filter('{"presence": {}}')
        self.assertEqual(one.key, parse_filter(b'{"room": {}}').key)
        self.assertNotEqual(one.key, other.key)


class FieldTests(SynchronousTestCase):
    def test_paths(self) -> None:
        self.assertEqual(split_path("content.body"), ("content", "body"))
        self.assertEqual(split_path(r"content.m\.relates_to"), ("content", "m.relates_to"))
        self.assertEqual(split_path(r"a\\b.c\x"), ("a\\b", r"c\x"))

    def test_picking(self) -> None:
        event = {"type": "t", "content": {"body": "x", "more": {"a": 1, "b": 2}}, "sender": "@a:b"}
        self.assertEqual(
            pick_fields(
                event, [("type",), ("content", "more", "b"), ("content", "absent"), ("type", "deeper")]
            ),
            {"type": "t", "content": {"more": {"b": 2}}},
        )
        self.assertEqual(event["content"], {"body": "x", "more": {"a": 1, "b": 2}})

    def test_a_whole_object_and_a_part_of_it(self) -> None:
        fields = parse_filter('{"event_fields": ["content.body", "content"]}').event_fields
        assert fields is not None
        event = {"content": {"body": "x", "msgtype": "m.text"}}
        self.assertEqual(pick_fields(event, fields), event)
