"""Which state of a room somebody wants to be told. proposal: MSC4186 (required_state)

A room that several lists and subscriptions ask for is told what any of them wants, so what is wanted is a set of
``Required``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

_MEMBER = "m.room.member"
# LIMIT(memory and the disk: of different wishes, as ``weigh`` has it, so much in a request, and in what a connection keeps.
# Clients have a few, of some kilobytes.)
WISHES_MOST: Final = 1_000_000
# In memory, beside the texts.
_RULE_BYTES, _ELEMENT_BYTES = 500, 200

Element = tuple[str | None, str | None]
"""(event type, state key); None: every one."""


@dataclass(frozen=True, slots=True)
class Required:
    """One rule's wishes. ``lazy``: members only as they are needed, but for those that are named one by one."""

    include: frozenset[Element] = frozenset()
    exclude: frozenset[Element] = frozenset()
    lazy: bool = False

    def wants(self, event_type: str, state_key: str) -> bool:
        """Whether a piece of state is wanted for itself."""
        if self.lazy and event_type == _MEMBER:
            # The proposal lets nothing be excluded of what is loaded lazily; what is named is wanted for itself.
            return (event_type, state_key) in self.include and not _fits(self.exclude, event_type, state_key)
        return _fits(self.include, event_type, state_key) and not _fits(self.exclude, event_type, state_key)

    @property
    def all_members(self) -> bool:
        """Whether every membership of a room is wanted."""
        return not self.lazy and bool(self.include & {(None, None), (_MEMBER, None)})


def _fits(elements: frozenset[Element], event_type: str, state_key: str) -> bool:
    return bool(elements) and (
        (event_type, state_key) in elements
        or (event_type, None) in elements
        or (None, None) in elements
        or (None, state_key) in elements
    )


NOTHING: frozenset[Required] = frozenset()


def weigh(wishes: Iterable[Required]) -> int:
    """Roughly how many bytes a set of wishes takes."""
    return sum(
        _RULE_BYTES
        + sum(
            _ELEMENT_BYTES + len(event_type or "") + len(state_key or "")
            for event_type, state_key in (*one.include, *one.exclude)
        )
        for one in wishes
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a set of wishes comes to: what to look for in the tables."""

    everything: bool  # every type, members aside
    types: frozenset[str]  # every key of these, or keys that are named below
    members: bool  # every membership
    users: frozenset[str]  # these memberships


def combine(wishes: Iterable[Required]) -> Wanted:
    """What to look for so that nothing is missed; ``wants`` then decides."""
    everything = members = False
    types: set[str] = set()
    users: set[str] = set()
    for one in wishes:
        members |= one.all_members
        for event_type, state_key in one.include:
            if event_type is None:
                everything = True
                if state_key is not None:
                    users.add(state_key)
            elif event_type != _MEMBER:
                types.add(event_type)
            elif state_key is not None:
                users.add(state_key)
    return Wanted(everything, frozenset(types), members, frozenset(users))


def wants(wishes: Collection[Required], event_type: str, state_key: str) -> bool:
    """Whether anybody wants a piece of state."""
    return any(one.wants(event_type, state_key) for one in wishes)


def is_lazy(wishes: Collection[Required]) -> bool:
    """Whether members are to be told as they are needed: nobody wants all of them anyway."""
    return any(one.lazy for one in wishes) and not any(one.all_members for one in wishes)


class Choices:
    """A set of wishes, held against the state of many rooms: what was asked before is not thought about again."""

    def __init__(self, wishes: frozenset[Required]) -> None:
        self.wanted = combine(wishes)
        self.lazy = is_lazy(wishes)
        self._wishes = wishes
        self._known: dict[tuple[str, str], bool] = {}

    def wants(self, event_type: str, state_key: str) -> bool:
        """Whether anybody wants a piece of state."""
        element = (event_type, state_key)
        known = self._known.get(element)
        if known is None:
            known = self._known[element] = wants(self._wishes, event_type, state_key)
        return known


def parse_pairs(pairs: Iterable[tuple[str, str]], user_id: str) -> Required:
    """The experimental form: pairs with ``*``, ``$ME`` and ``$LAZY``."""
    include: set[Element] = set()
    lazy = False
    for event_type, state_key in pairs:
        if state_key == "$LAZY":
            lazy |= event_type == _MEMBER
            continue
        key = user_id if state_key == "$ME" else None if state_key == "*" else state_key
        include.add((None if event_type == "*" else event_type, key))
    # Somebody who names all members wants them all; somebody who wants everything, lazily, does not.
    return Required(frozenset(include), frozenset(), lazy and (_MEMBER, None) not in include)


# --- as it is kept -----------------------------------------------------------------------------------------------


def to_plain(wishes: Iterable[Required]) -> list[Any]:
    """A set of wishes as lists, the same for the same set."""
    return sorted(
        ([_plain(one.include), _plain(one.exclude), one.lazy] for one in wishes), key=msgspec.msgpack.encode
    )


def _plain(elements: Iterable[Element]) -> list[Any]:
    return sorted(elements, key=lambda one: (one[0] or "", one[0] is None, one[1] or "", one[1] is None))


def from_plain(found: Iterable[Any]) -> frozenset[Required]:
    """The set again."""
    return frozenset(
        Required(frozenset(map(tuple, include)), frozenset(map(tuple, exclude)), lazy)
        for include, exclude, lazy in found
    )
