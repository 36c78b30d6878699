"""Server access control lists: may this server take part in the room?

Matching takes time linear in the list and the name whatever the patterns are: no pattern can backtrack.

# spec: client-server-api#server-access-control-lists-acls-for-rooms
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

_IPV4: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_PORT: Final = re.compile(r":[0-9]{1,5}\Z")
# LIMIT(no server name is longer than this, so neither is what a useful pattern demands)
_MAX_NAME: Final = 255


@dataclass(frozen=True, slots=True)
class Globs:
    """A list of globs, sorted into the shapes that occur in practice and the rest."""

    everything: bool
    exact: frozenset[str]
    suffixes: tuple[str, ...]
    other: re.Pattern[str] | None

    @classmethod
    def compile(cls, patterns: Any) -> Globs:
        """Entries that are no strings are ignored."""
        wanted = {item.lower() for item in patterns if type(item) is str} if type(patterns) is list else set()
        exact: set[str] = set()
        suffixes: set[str] = set()
        other: list[str] = []
        everything = False
        for pattern in sorted(wanted):
            collapsed = re.sub(r"\*+", "*", pattern)
            if len(collapsed.replace("*", "")) > _MAX_NAME:
                continue
            if collapsed == "*":
                everything = True
            elif "*" not in collapsed and "?" not in collapsed:
                exact.add(collapsed)
            elif collapsed[0] == "*" and "*" not in collapsed[1:] and "?" not in collapsed:
                suffixes.add(collapsed[1:])
            else:
                other.append(_glob_regex(collapsed))
        compiled = re.compile("|".join(other), re.DOTALL) if other else None
        return cls(everything, frozenset(exact), tuple(sorted(suffixes)), compiled)

    def match(self, name: str) -> bool:
        """`name` must be in lower case."""
        return (
            self.everything
            or name in self.exact
            or name.endswith(self.suffixes)
            or (self.other is not None and self.other.fullmatch(name) is not None)
        )


def _glob_regex(glob: str) -> str:
    """A regular expression that never backtracks into an earlier star.

    The leftmost match of each part between stars is always as good as any later one, so it may be atomic; only
    the last part must reach the end of the name and may be tried at each place.
    """
    first, *rest = (re.escape(part).replace(r"\?", ".") for part in glob.split("*"))
    if not rest:
        return first
    middle = "".join(f"(?>.*?{part})" for part in rest[:-1])
    return f"{first}{middle}.*{rest[-1]}"


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

    def allows(self, server_name: str) -> bool:
        """Decide in the order of the specification. Ports do not count, nor does the case of letters."""
        host = _PORT.sub("", server_name, count=1).lower()
        if not self.allow_ip_literals and (host.startswith("[") or _IPV4.fullmatch(host) is not None):
            return False
        if self.deny.match(host):
            return False
        return self.allow.match(host)
