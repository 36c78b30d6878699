"""Identifier grammar. # spec: appendices#identifier-grammar"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from federation import ids
from federation.errors import Malformed

HASH = "Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ"


class Identifiers(SynchronousTestCase):
    def accepts(self, parse: Callable[[str], str], *values: str) -> None:
        for value in values:
            self.assertEqual(parse(value), value)

    def refuses(self, parse: Callable[[Any], str], *values: Any) -> None:
        for value in values:
            error = self.assertRaises(Malformed, parse, value)
            self.assertEqual((error.errcode, error.status), ("M_INVALID_PARAM", 400), value)

    def test_server_names(self) -> None:
        self.accepts(
            ids.parse_server_name,
            "matrix.org",
            "matrix.org:8888",
            "1.2.3.4",
            "1.2.3.4:1234",
            "[1234:5678::abcd]",
            "[1234:5678::abcd]:5678",
            "localhost",
            "UPPER.Case",
            "[::ffff:1.2.3.4]",
        )
        self.refuses(
            ids.parse_server_name,
            "",
            ":80",
            "a:",
            "a:123456",
            "a:65536",
            "a b",
            "a/b",
            "1.2.3.256",
            "[::1",
            "[:::1]",
            "[1.2.3.4]",
            "a..b",
            ".a",
            "a" * 64,
            "ex\u00e4mple.org",
            "a\n",
            "a:1\n",
            "\u0661.2.3.4",
            None,
            7,
        )

    def test_user_ids(self) -> None:
        self.accepts(ids.parse_user_id, "@a:b", "@A!~:example.org:80", "@a=_/+-.0:[::1]:1")
        self.refuses(
            ids.parse_user_id, "@:b", "@é:b", "@a b:c", "a:b", "@a", "@a:", "@a:b:c:d", "@a\x7f:b", ""
        )
        self.accepts(ids.parse_user_id_historical, "@:b", "@é:b", "@a b\n:c", "@🦊:b")
        self.refuses(ids.parse_user_id_historical, "@a\x00:b", "@\ud800:b", "@a", "a:b", {}, None)

    def test_size_limit_counts_bytes(self) -> None:
        self.accepts(ids.parse_user_id, "@" + "a" * 250 + ":b.c")
        self.refuses(ids.parse_user_id, "@" + "a" * 251 + ":b.c")
        self.accepts(ids.parse_user_id_historical, "@" + "é" * 125 + ":b.c")
        self.refuses(ids.parse_user_id_historical, "@" + "é" * 126 + ":b.c")
        self.accepts(ids.parse_event_id, "$" + "x" * 254)
        self.refuses(ids.parse_event_id, "$" + "x" * 255)

    def test_room_ids(self) -> None:
        self.accepts(ids.parse_room_id, "!a:b", "!é x:b", "!" + HASH)
        self.refuses(
            ids.parse_room_id, "!" + HASH + "a", "!" + HASH[:-1] + "/", "!", "#" + HASH, "!a", "!a:", 3
        )

    def test_event_ids(self) -> None:
        self.accepts(ids.parse_event_id, "$" + HASH, "$a:b", "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk")
        self.refuses(ids.parse_event_id, "$", "", "a", "!a", "$\x00", "$\udfff", None)
        self.accepts(ids.parse_event_id_with_domain, "$a:b")
        self.refuses(ids.parse_event_id_with_domain, "$" + HASH, "$a:", "a:b")

    def test_aliases(self) -> None:
        self.accepts(ids.parse_room_alias, "#a:b", "#日本 語:b:80")
        self.refuses(ids.parse_room_alias, "#:b", "#a", "a:b", "#a:b c")
        self.accepts(ids.parse_room_id_or_alias, "#a:b", "!a:b", "!" + HASH)
        self.refuses(ids.parse_room_id_or_alias, "@a:b", "")

    def test_parts(self) -> None:
        self.assertEqual(ids.domain_of("@a:b:80"), "b:80")
        self.assertEqual(ids.localpart_of("@a:b:80"), "a")
        self.assertEqual(ids.localpart_of("!" + HASH), HASH)
        self.assertRaises(Malformed, ids.domain_of, "!" + HASH)

    def test_new_localparts(self) -> None:
        self.assertTrue(ids.is_valid_new_localpart("a.b_c=d-e/f+0"))
        for bad in ("", "A", "é", "a b", "a:b", "a\n", "a" * 256):
            self.assertFalse(ids.is_valid_new_localpart(bad), bad)

    @given(
        st.from_regex(r"[a-z0-9._=\-/+]{1,60}", fullmatch=True),
        st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True),
    )
    def test_new_localparts_make_user_ids(self, localpart: str, domain: str) -> None:
        self.assertTrue(ids.is_valid_new_localpart(localpart))
        user_id = ids.parse_user_id(f"@{localpart}:{domain}")
        self.assertEqual((ids.localpart_of(user_id), ids.domain_of(user_id)), (localpart, domain))
