"""Talk for the search row: as many messages as are asked for, with the frequencies that words have in languages.

Two languages of made-up words, each with a vocabulary of its own. How often a word is said goes by its rank (Zipf), so a
few are in every third message and most in nearly none. Rooms differ in size by the same law, and mostly speak one of the
languages. A seed decides all of it: each server is asked about the same messages.
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

SEED = 20_000
# Milliseconds: one message in so many, over years.
FIRST_TS_MS = 1_600_000_000_000
STEP_MS = 60_000
SENDERS = 5
# Of one room in five the searcher is no member.
ROOMS, OUTSIDE_EVERY = 20, 5
_VOCABULARY = 30_000
_FOREIGN_SHARE = 0.15
_LONGEST = 40
_FIRST = 10  # words that are in every third message or so
_SYLLABLES = (
    (
        ["b", "br", "c", "d", "f", "fl", "g", "h", "l", "m", "n", "p", "pr", "s", "st", "t", "tr", "w"],
        ["a", "e", "i", "o", "u", "ea", "oo"],
        ["ck", "ll", "m", "n", "nd", "p", "rt", "t"],
    ),
    (
        ["b", "d", "f", "g", "h", "k", "kr", "l", "m", "n", "r", "s", "sch", "v", "z", "zw"],
        ["a", "e", "i", "o", "u", "ä", "ö", "ü", "au", "ei"],
        ["ch", "f", "l", "n", "r", "rk", "tz"],
    ),
)


class Said(NamedTuple):
    """One message: by which of the senders, in which of the rooms, when, and what."""

    room: int
    sender: int
    ts_ms: int
    body: str


@dataclass(frozen=True, slots=True)
class Words:
    """Words to ask for, by how often they are said."""

    rare: tuple[str, ...]
    seldom: tuple[str, ...]
    common: tuple[str, ...]


def _vocabulary(language: int, chance: random.Random, others: Sequence[str]) -> list[str]:
    """Words, the most frequent first. None begins with one of the first, of other languages neither."""
    begin, middle, end = _SYLLABLES[language]
    found: dict[str, None] = {}
    first = tuple(others)
    while len(found) < _VOCABULARY:
        # Frequent words are short.
        syllables = 1 + (len(found) >= _FIRST) + (len(found) > 2_000)
        parts = [chance.choice(begin) + chance.choice(middle) for _ in range(syllables)]
        word = "".join(parts) + chance.choice(end)
        if not word.startswith(first):
            found[word] = None
        if len(found) <= _FIRST:
            first = (*others, *found)
    return list(found)


def _weights(count: int) -> list[float]:
    return list(itertools.accumulate(1 / (rank + 1.5) for rank in range(count)))


class Talk:
    """See the module."""

    def __init__(self, count: int) -> None:
        chance = random.Random(SEED)
        self._count = count
        here = _vocabulary(0, chance, ())
        self._vocabularies = [here, _vocabulary(1, chance, here[:_FIRST])]

    def __iter__(self) -> Iterator[Said]:
        chance = random.Random(SEED + 1)
        words, rooms = _weights(_VOCABULARY), _weights(ROOMS)
        in_rooms = chance.choices(range(ROOMS), cum_weights=rooms, k=self._count)
        for number, room in enumerate(in_rooms):
            foreign = chance.random() < _FOREIGN_SHARE
            vocabulary = self._vocabularies[(room + foreign) % 2]
            length = min(_LONGEST, 2 + int(chance.expovariate(0.1)))
            said = chance.choices(vocabulary, cum_weights=words, k=length)
            yield Said(room, chance.randrange(SENDERS), FIRST_TS_MS + number * STEP_MS, " ".join(said))

    def words_to_ask(self) -> Words:
        """Of the first language, some that no other word begins with or has the same stem as: what is found does not
        hang on how a server treats endings."""
        every = sorted(self._vocabularies[0] + self._vocabularies[1])

        def is_plain(word: str) -> bool:
            begun = word[: max(3, len(word) - 2)]
            at = bisect_left(every, begun)
            return not any(other != word and other.startswith(begun) for other in every[at : at + 3])

        def some(ranks: Sequence[int]) -> tuple[str, ...]:
            found = (word for word in (self._vocabularies[0][rank] for rank in ranks) if is_plain(word))
            return tuple(itertools.islice(found, 5))

        first = tuple(self._vocabularies[0][:_FIRST])
        rare, seldom = max(60, min(20_000, self._count // 50)), max(20, min(300, self._count // 200))
        return Words(some(range(rare, 2 * rare)), some(range(seldom, 2_000)), first)
