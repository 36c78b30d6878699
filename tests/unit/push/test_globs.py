"""Globs. spec: appendices#glob-style-matching"""

from __future__ import annotations

import re
from unittest import TestCase

from hypothesis import given
from hypothesis import strategies as st

from homeserver.push.globs import compile_whole, compile_words

GLOBS = st.text("ab*? _", max_size=8)
TEXTS = st.text("ab _-", max_size=14)


def as_regex(glob: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(one, re.escape(one)) for one in glob)


class Whole(TestCase):
    @given(GLOBS, TEXTS)
    def test_as_a_backtracking_matcher_says(self, glob: str, text: str) -> None:
        expected = re.fullmatch(as_regex(glob), text, re.DOTALL) is not None
        self.assertEqual(expected, compile_whole(glob).matches(text))

    def test_of_the_specification(self) -> None:
        glob = compile_whole("lunc?*")
        for text, expected in (("lunch plans", True), ("lunch", True), (" lunch", False), ("lunc", False)):
            self.assertEqual(expected, glob.matches(text), text)


class Words(TestCase):
    @given(GLOBS, TEXTS)
    def test_as_a_backtracking_matcher_says(self, glob: str, text: str) -> None:
        expected = (
            re.search(rf"(?<![A-Za-z0-9_]){as_regex(glob)}(?![A-Za-z0-9_])", text, re.DOTALL) is not None
        )
        self.assertEqual(expected, compile_words(glob).matches(text))

    def test_of_the_specification(self) -> None:
        glob = compile_words("ex*ple")
        for text in ("an example event.", "exple", "an exciting triple-whammy"):
            self.assertTrue(glob.matches(text), text)
        for text in ("examples", "anexample", ""):
            self.assertFalse(glob.matches(text), text)

    def test_stars_do_not_multiply(self) -> None:
        """What a backtracking matcher would never finish."""
        text = "a" * 60_000
        self.assertFalse(compile_words("*a" * 100 + "*b").matches(text))
        self.assertFalse(compile_whole("*a" * 100 + "*b").matches(text))
