"""Requests: arguments, JSON and tokens from hostile hands."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from homeserver.http.errors import MatrixError
from homeserver.http.request import (
    MAX_JSON_DEPTH,
    MAX_QUERY_ARGUMENTS,
    Headers,
    Request,
    decode_json,
    json_depth,
    parse_query,
)
from homeserver.http.route import Auth, Match, Route


async def _nothing(request: Request) -> None:
    return None


ROUTE = Route(method="POST", template="/x", handler=_nothing, spec="test", auth=Auth.NONE)


def request(target: bytes = b"/x", body: bytes = b"", *headers: tuple[bytes, bytes]) -> Request:
    fields = Headers()
    for name, value in headers:
        fields.add(name, value)
    return Request(
        "POST",
        target,
        fields,
        match=Match(ROUTE),
        serve=frozenset({"client"}),
        client_ip="192.0.2.1",
        body=body,
    )


class RefusalCase(SynchronousTestCase):
    def refused(self, errcode: str, call: Any, *args: Any, **kwargs: Any) -> None:
        with self.assertRaises(MatrixError) as raised:
            call(*args, **kwargs)
        self.assertEqual((raised.exception.status, raised.exception.errcode), (400, errcode))


class QueryTests(RefusalCase):
    def test_decoding(self) -> None:
        asked = request(b"/x?a=1&b=%C3%A9+%2B&a=2&c&=d&&e=f=g")
        self.assertEqual(asked.query, {"a": ["1", "2"], "b": ["é +"], "c": [""], "": ["d"], "e": ["f=g"]})
        self.assertEqual((asked.arg("a"), asked.arg("z"), asked.arg("z", "y")), ("1", None, "y"))
        self.assertEqual(asked.target, b"/x?a=1&b=%C3%A9+%2B&a=2&c&=d&&e=f=g")

    def test_refusals(self) -> None:
        self.refused("M_INVALID_PARAM", parse_query, b"a=%ff")
        self.refused("M_INVALID_PARAM", parse_query, b"%ff=a")
        self.refused("M_INVALID_PARAM", parse_query, b"a=%00")
        self.refused("M_INVALID_PARAM", parse_query, b"&" * MAX_QUERY_ARGUMENTS)
        self.refused("M_MISSING_PARAM", request().required_arg, "a")

    def test_integers(self) -> None:
        asked = request(b"/x?a=7&b=-3&c=1.5&d=&e=%D9%A1&f=" + b"9" * 5000 + b"&g=1_0&h=+1&i=%201")
        self.assertEqual(asked.int_arg("a", 1), 7)
        self.assertEqual(asked.int_arg("z", 1), 1)
        self.assertEqual(asked.int_arg("b", 1, minimum=-5), -3)
        self.assertEqual(asked.int_arg("a", 1, maximum=5, clamp=True), 5)
        self.refused("M_INVALID_PARAM", asked.int_arg, "a", 1, maximum=5)
        self.refused("M_INVALID_PARAM", asked.int_arg, "b", 1)
        self.refused("M_INVALID_PARAM", asked.int_arg, "b", 1, clamp=True)
        for name in "cdefghi":
            self.refused("M_INVALID_PARAM", asked.int_arg, name, 1)

    def test_booleans(self) -> None:
        asked = request(b"/x?a=true&b=false&c=1&d=True&e")
        self.assertEqual(
            (asked.bool_arg("a"), asked.bool_arg("b", True), asked.bool_arg("z", True)), (True, False, True)
        )
        for name in "cde":
            self.refused("M_INVALID_PARAM", asked.bool_arg, name)

    @given(st.binary(max_size=200))
    def test_anything_is_decoded_or_refused(self, raw: bytes) -> None:
        try:
            parsed = parse_query(raw)
        except MatrixError as error:
            self.assertEqual(error.errcode, "M_INVALID_PARAM")
        else:
            self.assertLessEqual(sum(map(len, parsed.values())), raw.count(b"&") + 1)


class JsonTests(RefusalCase):
    class Body(msgspec.Struct):
        name: str
        size: int = 3

    def test_dict(self) -> None:
        self.assertEqual(request(body=b' {"a":1,"a":2} ').json(), {"a": 2})

    def test_typed(self) -> None:
        body = request(body=b'{"name":"x","unknown":[1]}').json(self.Body)
        self.assertEqual((body.name, body.size), ("x", 3))
        self.refused("M_BAD_JSON", request(body=b"{}").json, self.Body)
        self.refused("M_BAD_JSON", request(body=b'{"name":1}').json, self.Body)

    def test_absent(self) -> None:
        self.assertEqual(request().json(allow_empty=True), {})
        self.refused("M_NOT_JSON", request().json)
        self.refused("M_BAD_JSON", request().json, self.Body, True)

    def test_refusals(self) -> None:
        for body in (
            b"x",
            b"{",
            b'{"a":1}}',
            b"{'a':1}",
            b'{"a":NaN}',
            b'"\xff"',
            b'{"a":"\xed\xa0\x80"}',
            b"\xef\xbb\xbf{}",
        ):
            self.refused("M_NOT_JSON", request(body=body).json)
        for body in (b"[]", b'"a"', b"1", b"null"):
            self.refused("M_BAD_JSON", request(body=body).json)

    def test_lone_surrogates_never_get_in(self) -> None:
        for body in (
            rb'{"a":"\ud800"}',
            rb'{"a":"\udc00"}',
            rb'{"\ud800\u0041":1}',
            rb'{"a":"\ud800\ud800"}',
        ):
            self.refused("M_NOT_JSON", request(body=body).json)

    def test_depth(self) -> None:
        def nested(depth: int) -> bytes:
            return b'{"a":' * depth + b"1" + b"}" * depth

        self.assertIn("a", request(body=nested(MAX_JSON_DEPTH)).json())
        self.refused("M_BAD_JSON", request(body=nested(MAX_JSON_DEPTH + 1)).json)
        self.refused("M_BAD_JSON", request(body=b"[" * 200_000).json)
        self.refused("M_BAD_JSON", request(body=b'{"a":' * 50_000).json, self.Body)
        # Many brackets are no depth, neither side by side nor in strings.
        wide = b'{"a":[' + b"[]," * 1000 + b'{}],"b":"' + b"[" * 1000 + b'"}'
        self.assertEqual(len(request(body=wide).json()["a"]), 1001)

    def test_depth_is_found_in_linear_time(self) -> None:
        # Each of these would take minutes if a start of a string were tried in vain again and again.
        for body in (
            b"[" * 200 + b'"\\' * 100_000,
            b"{" * 200 + b'\\"' * 100_000,
            b"[" * 200 + b'"a' * 100_001,
        ):
            self.assertGreater(json_depth(body), MAX_JSON_DEPTH)

    @given(
        st.recursive(
            st.text(max_size=4) | st.integers() | st.none(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
            max_leaves=30,
        )
    )
    def test_depth_of_any_json(self, value: Any) -> None:
        def depth(part: Any) -> int:
            if isinstance(part, dict):
                part = list(part.values())
            return 1 + max(map(depth, part), default=0) if isinstance(part, list) else 0

        self.assertEqual(json_depth(json.dumps(value).encode()), depth(value))

    @given(st.binary(max_size=100))
    def test_noise_is_refused(self, body: bytes) -> None:
        try:
            decode_json(body, dict)
        except MatrixError as error:
            self.assertIn(error.errcode, ("M_NOT_JSON", "M_BAD_JSON"))


class TokenTests(SynchronousTestCase):
    def test_where_tokens_are(self) -> None:
        def authorization(value: bytes) -> tuple[bytes, bytes]:
            return (b"authorization", value)

        for asked, token in (
            (request(), None),
            (request(b"/x", b"", authorization(b"Bearer abc")), "abc"),
            (request(b"/x", b"", authorization(b"bearer  abc ")), "abc"),
            (request(b"/x", b"", authorization(b"Bearer ")), None),
            (request(b"/x", b"", authorization(b"Basic abc")), None),
            (request(b"/x?access_token=q"), "q"),
            (request(b"/x?access_token="), None),
            (request(b"/x?access_token=q", b"", authorization(b"Bearer abc")), "abc"),
            (request(b"/x?my_access_token=q"), None),
        ):
            self.assertEqual(asked.access_token(), token)

    def test_strange_tokens_are_only_unknown(self) -> None:
        self.assertEqual(request(b"/x", b"", (b"authorization", b"Bearer \xff")).access_token(), "\ufffd")
        long = request(b"/x", b"", (b"authorization", b"Bearer " + b"x" * 20_000)).access_token()
        self.assertEqual(len(long or ""), 4096)


class HeaderTests(SynchronousTestCase):
    def test_repeated_fields(self) -> None:
        headers = Headers()
        for value in (b"1", b"2", b"3"):
            headers.add(b"a", value)
        headers.add(b"b", b"4")
        self.assertEqual((headers.get(b"a"), headers.get_all(b"a")), (b"1", [b"1", b"2", b"3"]))
        self.assertEqual((headers.get_all(b"b"), headers.get_all(b"c")), ([b"4"], []))

    def test_user_agent(self) -> None:
        self.assertEqual(request(b"/x", b"", (b"user-agent", b"a\xff")).user_agent, "a\ufffd")
        self.assertEqual(request().user_agent, "")
