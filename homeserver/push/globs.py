"""Globs of push rules: ``*`` and ``?``, case-insensitive, without backtracking.

A glob is cut at its stars into pieces of fixed length. The first fit of each piece is the best one, so one walk
decides; no regular expression here contains anything that repeats.

# spec: appendices#glob-style-matching
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPECIAL = re.compile(r"[*?]")
_STARS = re.compile(r"\*+")
# spec: client-server-api#conditions-1: a word boundary is an end of the value or any character but these
_BEFORE = r"(?<![A-Za-z0-9_])"
_AFTER = r"(?![A-Za-z0-9_])"


def _piece(text: str, before: str = "", after: str = "") -> re.Pattern[str]:
    body = "".join("." if one == "?" else re.escape(one) for one in text)
    return re.compile(before + body + after, re.DOTALL)


@dataclass(frozen=True, slots=True)
class Whole:
    """Matches a whole value, in lower case."""

    literal: str | None  # without wildcards: compared at once
    first: re.Pattern[str]
    middle: tuple[re.Pattern[str], ...]
    last: re.Pattern[str] | None
    last_length: int

    def matches(self, text: str) -> bool:
        if self.literal is not None:
            return text == self.literal
        found = self.first.match(text)
        if found is None:
            return False
        if self.last is None:
            return found.end() == len(text)
        place = found.end()
        for piece in self.middle:
            found = piece.search(text, place)
            if found is None:
                return False
            place = found.end()
        start = len(text) - self.last_length
        return start >= place and self.last.match(text, start) is not None


@dataclass(frozen=True, slots=True)
class Words:
    """Matches any part of a value, in lower case, that begins and ends at a word boundary."""

    pieces: tuple[re.Pattern[str], ...]

    def matches(self, text: str) -> bool:
        place = 0
        for piece in self.pieces:
            found = piece.search(text, place)
            if found is None:
                return False
            place = found.end()
        return True


def is_literal(glob: str) -> bool:
    """Whether it has no wildcards: as a whole it is compared at once."""
    return _SPECIAL.search(glob) is None


def compile_whole(glob: str) -> Whole:
    """A glob for a whole value."""
    glob = glob.lower()
    if is_literal(glob):
        return Whole(glob, _piece(""), (), None, 0)
    first, *rest = _STARS.split(glob)
    if not rest:
        return Whole(None, _piece(first), (), None, 0)
    return Whole(
        None, _piece(first), tuple(_piece(one) for one in rest[:-1]), _piece(rest[-1]), len(rest[-1])
    )


def compile_words(glob: str) -> Words:
    """A glob for words within a value."""
    pieces = _STARS.split(glob.lower())
    if len(pieces) == 1:
        return Words((_piece(pieces[0], _BEFORE, _AFTER),))
    first, *middle, last = pieces
    # The value's ends are boundaries: a star at an end of the glob reaches them.
    begin = (_piece(first, _BEFORE),) if first else ()
    end = (_piece(last, "", _AFTER),) if last else ()
    return Words((*begin, *(_piece(one) for one in middle if one), *end))
