"""The words of texts: the quick way for most scripts finds what the slow one for all finds."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from homeserver.store import search
from homeserver.store.search import words_of


class Words(unittest.TestCase):
    """See the module."""

    def slowly(self, text: str) -> list[str]:
        patched = self.patch(search, "_PLAIN", re.compile("(?!)"))
        found = words_of(text)
        patched.restore()
        return found

    def test_every_letter(self) -> None:
        for begin in range(0x80, 0x20000, 64):
            characters = map(chr, range(begin, begin + 64))
            text = " ".join(f"x{one}y" for one in characters if not 0xD800 <= ord(one) < 0xE000)
            self.assertEqual(self.slowly(text), words_of(text), hex(begin))

    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
    def test_any_text(self, text: str) -> None:
        self.assertEqual(self.slowly(f"é{text}"), words_of(f"é{text}"))
        self.assertEqual(words_of(text), words_of(" ".join(words_of(text))), "what is folded stays so")

    def test_some(self) -> None:
        self.assertEqual(["cafe", "strasse", "i", "ljubezen"], words_of("Café_Straße\u200d i\u0300 Ljubezen"))
        self.assertEqual(["love", "you"], words_of("love \u2764\ufe0f you"), "a picture is no word")
        self.assertEqual(["мир", "и", "воина", "η", "ελλας"[:4] + "σ"], words_of("Мир и война, Η Ελλάς"))
