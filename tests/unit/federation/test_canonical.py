"""Canonical JSON. # spec: appendices#canonical-json"""

from __future__ import annotations

import json
from typing import Any

from canonicaljson import encode_canonical_json
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from federation import canonical
from federation.canonical import (
    MAX_DEPTH,
    MAX_INTEGER,
    encode,
    encode_by_rules,
    encode_checked,
    loads_object,
    loads_untrusted,
)
from federation.errors import Malformed

INTEGERS = st.integers(-MAX_INTEGER, MAX_INTEGER)


def json_values(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    scalars = st.one_of(st.none(), st.booleans(), numbers, st.text())
    return st.recursive(
        scalars, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)), max_leaves=30
    )


# The examples of the appendices: input and output.
EXAMPLES = (
    ("{}", "{}"),
    ('{"one": 1, "two": "Two"}', '{"one":1,"two":"Two"}'),
    ('{"b": "2", "a": "1"}', '{"a":"1","b":"2"}'),
    ('{"b":"2","a":"1"}', '{"a":"1","b":"2"}'),
    (
        (
            '{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {"display_name": "John Doe", '
            '"three_pids": [{"medium": "email", "address": "john.doe@example.org"}, '
            '{"medium": "msisdn", "address": "123456789"}]}}}'
        ),
        (
            '{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":'
            '[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},'
            '"success":true}}'
        ),
    ),
    ('{"a": "日本語"}', '{"a":"日本語"}'),
    ('{"本": 2, "日": 1}', '{"日":1,"本":2}'),
    ('{"a": "\\u65E5"}', '{"a":"日"}'),
    ('{"a": null}', '{"a":null}'),
    ('{"a": -0}', '{"a":0}'),
)


class Encoding(SynchronousTestCase):
    def test_examples_of_the_specification(self) -> None:
        for given_text, expected in EXAMPLES:
            self.assertEqual(encode_checked(loads_untrusted(given_text.encode())), expected.encode())

    @given(json_values(INTEGERS))
    def test_equals_the_reference_library(self, value: Any) -> None:
        expected = encode_canonical_json(value)
        self.assertEqual(encode_checked(value), expected)
        self.assertEqual(encode(value), expected)
        self.assertEqual(loads_untrusted(expected), value)

    @given(json_values(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))))
    def test_lenient_equals_the_reference_library(self, value: Any) -> None:
        self.assertEqual(encode_checked(value, strict=False), encode_canonical_json(value))
        self.assertEqual(encode_by_rules(value, strict=False), encode_canonical_json(value))

    def test_control_characters(self) -> None:
        text = "".join(map(chr, range(0x20))) + '"\\/\x7f\u2028\uffff😀'
        self.assertEqual(encode_checked(text), encode_canonical_json(text))

    def test_keys_are_sorted_by_code_point(self) -> None:
        self.assertEqual(encode({"\uffff": 1, "😀": 2, "z": 3}), '{"z":3,"\uffff":1,"😀":2}'.encode())

    def test_strict_refuses(self) -> None:
        for value in (
            1.0,
            1e10,
            float("nan"),
            2**53,
            -(2**53),
            b"x",
            {1, 2},
            {1: 2},
            {"a": object()},
            "\ud800",
        ):
            for wrapped in (value, [value], {"k": {"l": value}}):
                self.assertEqual(self.assertRaises(Malformed, encode_checked, wrapped).errcode, "M_BAD_JSON")
        self.assertEqual(encode_checked([MAX_INTEGER, -MAX_INTEGER]), b"[9007199254740991,-9007199254740991]")

    def test_lenient_still_refuses_what_json_lacks(self) -> None:
        for value in (float("nan"), float("inf"), -float("inf"), "\udfff", {"\ud800": 1}, b"x"):
            self.assertRaises(Malformed, encode_checked, [value], strict=False)

    def test_depth(self) -> None:
        def nested(depth: int) -> Any:
            value: Any = {"k": 1}
            for _ in range(depth - 1):
                value = [value]
            return value

        self.assertTrue(encode_checked(nested(MAX_DEPTH)))
        self.assertRaises(Malformed, encode_checked, nested(MAX_DEPTH + 1))
        self.assertRaises(Malformed, encode_checked, nested(100_000), strict=False)


class Parsing(SynchronousTestCase):
    def refuses(self, data: bytes, errcode: str, **options: Any) -> None:
        error = self.assertRaises(Malformed, loads_untrusted, data, **options)
        self.assertEqual(error.errcode, errcode)

    def test_not_json(self) -> None:
        for data in (
            b"",
            b"{",
            b"NaN",
            b"[1,]",
            b"'a'",
            b'"\xff"',
            b'"\\ud800"',
            b"\xef\xbb\xbf{}",
            b"1e400",
        ):
            self.refuses(data, "M_NOT_JSON")
        self.refuses(b"9" * 10_000, "M_NOT_JSON")

    def test_depth(self) -> None:
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            for depth in (MAX_DEPTH + 2, 900, 100_000):
                self.refuses(opening * depth + b"1" + closing * depth, "M_BAD_JSON")
            self.assertTrue(loads_untrusted(opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH))
        wide = b"[" + b"[],{}," * 10_000 + b"0]"
        self.assertEqual(len(loads_untrusted(wide)), 20_001)

    def test_size(self) -> None:
        error = self.assertRaises(Malformed, loads_untrusted, b'"aa"', max_bytes=3)
        self.assertEqual((error.errcode, error.status), ("M_TOO_LARGE", 413))
        self.assertEqual(loads_untrusted(b'"a"', max_bytes=3), "a")

    def test_too_complex(self) -> None:
        self.patch(canonical, "MAX_CONTAINERS", 1_000)
        self.assertEqual(len(loads_untrusted(b"[" + b",".join([b"{}"] * 999) + b"]")), 999)
        for piece in (b"{}", b"[]", b'""', b"0"):
            data = b"[" + b",".join([piece] * 1_000) + b',"\\"\\\\",{}]'
            if piece in (b"{}", b"[]"):
                error = self.assertRaises(Malformed, loads_untrusted, data)
                self.assertEqual(error.errcode, "M_BAD_JSON")
            else:
                self.assertEqual(len(loads_untrusted(data)), 1_002)
        # What stands in strings counts for nothing.
        for text in ("[" * 5_000, '{"' * 5_000, "\\[" * 5_000, '\\"[' * 5_000):
            self.assertEqual(loads_untrusted(json.dumps([text, text]).encode()), [text, text])
        # Whatever it is, it is gone through once.
        for bad in (b'"""' + b'"\\' * 300_000 + b"[" * 2_000, b'"\\' * 300_000 + b"[" * 2_000):
            self.assertRaises(Malformed, loads_untrusted, bad)

    def test_duplicate_keys(self) -> None:
        data = b'{"a":1,"b":{"c":1,"c":2}}'
        self.assertEqual(loads_untrusted(data), {"a": 1, "b": {"c": 2}})
        self.refuses(data, "M_BAD_JSON", refuse_duplicate_keys=True)
        self.assertEqual(loads_untrusted(b'{"a":[{"b":1}]}', refuse_duplicate_keys=True), {"a": [{"b": 1}]})

    def test_objects(self) -> None:
        self.assertEqual(loads_object(b'{"a":1}'), {"a": 1})
        for data in (b"[]", b"1", b"null"):
            self.assertEqual(self.assertRaises(Malformed, loads_object, data).errcode, "M_BAD_JSON")

    @given(json_values(st.one_of(INTEGERS, st.floats(allow_nan=False, allow_infinity=False))))
    def test_reads_what_others_write(self, value: Any) -> None:
        self.assertEqual(loads_untrusted(json.dumps(value).encode()), value)
