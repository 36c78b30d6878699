"""Server ACLs. # spec: client-server-api#server-access-control-lists-acls-for-rooms"""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from federation import acl as acls
from federation.acl import Globs, ServerAcl

_GLOB = st.text("*?ab.", max_size=8)


def allows(server_name: str, **content: Any) -> bool:
    return ServerAcl.parse(content).allows(server_name)


def as_expression(glob: str) -> str:
    """The obvious regular expression, for comparison."""
    return "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in glob)


class Acls(SynchronousTestCase):
    def test_order_of_the_rules(self) -> None:
        self.assertTrue(allows("good.com", allow=["*"], deny=["evil.com"]))
        self.assertFalse(allows("evil.com", allow=["*", "evil.com"], deny=["evil.com"]))
        self.assertFalse(allows("good.com", allow=["other.com"]))
        self.assertFalse(allows("good.com", deny=["evil.com"]))
        self.assertFalse(allows("good.com"))

    def test_ports_do_not_count(self) -> None:
        for name in ("evil.com", "evil.com:8448", "evil.com:1234"):
            self.assertFalse(allows(name, allow=["*"], deny=["evil.com"]))
        self.assertTrue(allows("[::1]:8448", allow=["[::1]"]))

    def test_case_does_not_count(self) -> None:
        self.assertFalse(allows("EVIL.com", allow=["*"], deny=["evil.COM"]))
        self.assertFalse(allows("sub.Evil.com", allow=["*"], deny=["*.EVIL.com"]))
        self.assertTrue(allows("GOOD.com", allow=["go?d.*"]))

    def test_ip_literals(self) -> None:
        for name in ("1.2.3.4", "1.2.3.4:80", "[::1]", "[2001:db8::1]:8448"):
            self.assertFalse(allows(name, allow=["*"], allow_ip_literals=False), name)
            self.assertTrue(allows(name, allow=["*"], allow_ip_literals=True), name)
            self.assertTrue(allows(name, allow=["*"], allow_ip_literals="no"), name)
        self.assertTrue(allows("1.2.3.4.example.org", allow=["*"], allow_ip_literals=False))

    def test_globs(self) -> None:
        for pattern, name, expected in (
            ("*.evil.com", "a.evil.com", True),
            ("*.evil.com", "evil.com", False),
            ("*.evil.com", "a.evil.com.good", False),
            ("evil.*", "evil.org", True),
            ("evil.*", "notevil.org", False),
            ("a*b*c", "axxbxxbyyc", True),
            ("a*b*c", "axxcxxb", False),
            ("a*ab", "ab", False),
            ("*ab*b", "aab", False),
            ("*ab*b", "abab", True),
            ("e?il.com", "evil.com", True),
            ("e?il.com", "eil.com", False),
            ("?", "a", True),
            ("??", "a", False),
            ("*?", "", False),
            ("**", "x", True),
            ("a.c", "abc", False),
            ("[ab].c", "a.c", False),
            ("a+", "aa", False),
            ("", "a", False),
        ):
            self.assertEqual(allows(name, allow=[pattern]), expected, (pattern, name))

    def test_odd_contents(self) -> None:
        self.assertFalse(allows("a", allow="*"))
        self.assertFalse(allows("a", allow={"*": 1}))
        self.assertTrue(allows("a", allow=[1, None, ["*"], "*"], deny=[2, {}]))
        self.assertTrue(allows("a", allow=["*"], deny="*"))

    def test_hostile_patterns_do_not_backtrack(self) -> None:
        name = "a" * 230 + ".example.org"
        hostile = ["*a" * 120 + "*b", "?*" * 250 + "!", "*" + "a*" * 30_000 + "b", "a" * 60_000]
        hostile += [f"*a*{number}?*" for number in range(2000)]
        acl = ServerAcl.parse({"allow": ["*"], "deny": hostile})
        self.assertTrue(all(acl.allows(name) for _ in range(20)))

    def test_no_regular_expression_is_made_of_what_others_write(self) -> None:
        """Some take a second to compile, and the library keeps hundreds of them."""
        self.patch(re, "compile", lambda *_: self.fail("a regular expression"))
        globs = Globs.compile([f"{'*a' * 200}{number:04}" for number in range(60)])
        self.assertTrue(globs.match("a" * 200 + "0059"))
        self.assertFalse(globs.match("a" * 199 + "0059"))
        self.assertLess(globs.size, 200_000)

    @given(st.lists(_GLOB, max_size=12), st.text("ab.", max_size=10), st.sampled_from((1, 8, 512)))
    def test_the_verdict_of_the_obvious_matcher(self, globs: list[str], name: str, places: int) -> None:
        usual, acls._PLACES = acls._PLACES, places  # type: ignore[misc]
        try:
            found = Globs.compile(globs).match(name)
        finally:
            acls._PLACES = usual  # type: ignore[misc]
        self.assertEqual(any(re.fullmatch(as_expression(glob), name) for glob in globs), found)
