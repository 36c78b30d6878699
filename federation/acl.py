"""Server access control lists: may this server take part in the room?

Compiling a list takes time linear in its text, and matching in that and the name, whatever the patterns are: those who
write them need not mean well. So no regular expression is made of them.

# spec: client-server-api#server-access-control-lists-acls-for-rooms
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

_IPV4: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_PORT: Final = re.compile(r":[0-9]{1,5}\Z")
# LIMIT(no server name is longer than this, so neither is what a useful pattern demands)
_MAX_NAME: Final = 255
_STARS: Final = re.compile(r"\*+")
# So many places of globs are looked at together: more save steps, and take more memory for each letter.
_PLACES: Final = 512


@dataclass(frozen=True, slots=True)
class _Machine:
    """Several globs that a name is held against at once.

    How far a name may have come in each of them is a set of places, the bits of one number. A letter leads from the
    places before it to those after it; at a star, whatever comes, the name may also stay where it is.
    """

    starts: int
    stays: int  # where a star is
    ends: int
    anything: int  # the places after a question mark
    letters: Mapping[str, int]  # the places after each letter, and after question marks

    def match(self, name: str) -> bool:
        letters, anything, stays, places = self.letters, self.anything, self.stays, self.starts
        for letter in name:
            places = (places << 1 & letters.get(letter, anything)) | (places & stays)
            if not places:
                return False
        return places & self.ends != 0


@dataclass(frozen=True, slots=True)
class Globs:
    """A list of globs, sorted into the shapes that occur in practice and the rest."""

    everything: bool
    exact: frozenset[str]
    suffixes: tuple[str, ...]
    other: tuple[_Machine, ...]

    @classmethod
    def compile(cls, patterns: Any) -> Globs:
        """Entries that are no strings are ignored."""
        wanted = {item.lower() for item in patterns if type(item) is str} if type(patterns) is list else set()
        exact: set[str] = set()
        suffixes: set[str] = set()
        other: list[str] = []
        everything = False
        for pattern in sorted(wanted):
            collapsed = _STARS.sub("*", pattern)
            if len(collapsed.replace("*", "")) > _MAX_NAME:
                continue
            if collapsed == "*":
                everything = True
            elif "*" not in collapsed and "?" not in collapsed:
                exact.add(collapsed)
            elif collapsed[0] == "*" and "*" not in collapsed[1:] and "?" not in collapsed:
                suffixes.add(collapsed[1:])
            else:
                other.append(collapsed)
        return cls(everything, frozenset(exact), tuple(sorted(suffixes)), tuple(_machines(other)))

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        letters = sum(len(machine.letters) for machine in self.other)
        return 200 * (len(self.exact) + len(self.suffixes) + letters) + 500 * len(self.other)

    def match(self, name: str) -> bool:
        """`name` must be in lower case."""
        return (
            self.everything
            or name in self.exact
            or name.endswith(self.suffixes)
            or any(machine.match(name) for machine in self.other)
        )


def _machines(globs: Iterable[str]) -> Iterator[_Machine]:
    """Machines of about ``_PLACES`` places each."""
    some: list[str] = []
    places = 0
    for glob in globs:
        some.append(glob)
        places += len(glob)
        if places >= _PLACES:
            yield _machine(some)
            some, places = [], 0
    if some:
        yield _machine(some)


def _machine(globs: Iterable[str]) -> _Machine:
    starts = stays = ends = anything = 0
    letters: dict[str, int] = {}
    place = 1
    for glob in globs:
        starts |= place
        for char in glob:
            if char == "*":
                stays |= place
                continue
            place <<= 1
            if char == "?":
                anything |= place
            else:
                letters[char] = letters.get(char, 0) | place
        ends |= place
        # No letter leads from one glob into the next: that begins at a place of its own.
        place <<= 1
    return _Machine(
        starts, stays, ends, anything, {char: places | anything for char, places in letters.items()}
    )


@dataclass(frozen=True, slots=True)
class ServerAcl:
    """The parsed content of m.room.server_acl. A room without that event has no ServerAcl at all."""

    allow: Globs
    deny: Globs
    allow_ip_literals: bool

    @classmethod
    def parse(cls, content: dict[str, Any]) -> ServerAcl:
        """Never fails: what is not of the expected type counts as missing."""
        return cls(
            allow=Globs.compile(content.get("allow")),
            deny=Globs.compile(content.get("deny")),
            allow_ip_literals=content.get("allow_ip_literals") is not False,
        )

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return 1_000 + self.allow.size + self.deny.size

    def allows(self, server_name: str) -> bool:
        """Decide in the order of the specification. Ports do not count, nor does the case of letters."""
        host = _PORT.sub("", server_name, count=1).lower()
        if not self.allow_ip_literals and (host.startswith("[") or _IPV4.fullmatch(host) is not None):
            return False
        if self.deny.match(host):
            return False
        return self.allow.match(host)
