"""Filters, compiled: what a client wants to hear of. spec: client-server-api#filtering

A filter is checked once, kept compiled, and asked for each event. Every test takes time linear in what it looks at,
whatever the pattern: there are no regular expressions here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Literal

import msgspec

from homeserver.http.request import decode_json

DEFAULT_LIMIT = 10
MAX_LIMIT = 100
_KNOWN_TYPES = 100
# What a filter takes, about: as such, for each byte of its text, and for the types that one with wildcards was asked for.
_PLAIN_BYTES = 4_096
_TIMES_ITS_TEXT = 24
_KNOWN_BYTES = 400 * _KNOWN_TYPES

_Names = Annotated[list[str], msgspec.Meta(max_length=1000)]


class _EventJson(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=0)] | None = None
    not_senders: _Names | None = None
    not_types: _Names | None = None
    senders: _Names | None = None
    types: _Names | None = None
    unread_thread_notifications: bool | None = None
    lazy_load_members: bool | None = None
    include_redundant_members: bool | None = None
    not_rooms: _Names | None = None
    rooms: _Names | None = None
    contains_url: bool | None = None


class _RoomJson(msgspec.Struct):
    not_rooms: _Names | None = None
    rooms: _Names | None = None
    ephemeral: _EventJson | None = None
    include_leave: bool | None = None
    state: _EventJson | None = None
    timeline: _EventJson | None = None
    account_data: _EventJson | None = None


class _ProfileJson(msgspec.Struct):
    ids: _Names | None = None


class _FilterJson(msgspec.Struct):
    event_fields: _Names | None = None
    event_format: Literal["client", "federation"] | None = None
    presence: _EventJson | None = None
    account_data: _EventJson | None = None
    room: _RoomJson | None = None
    profile_fields: _ProfileJson | None = None
    unstable_profile_fields: _ProfileJson | None = msgspec.field(
        default=None, name="org.matrix.msc4429.profile_fields"
    )


def matches_glob(pattern: str, text: str) -> bool:
    """Whether ``text`` fits ``pattern``, where ``*`` stands for any characters. Linear: first fit is best fit."""
    if "*" not in pattern:
        return pattern == text
    first, *middle, last = pattern.split("*")
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    place, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True


@dataclass(frozen=True, slots=True)
class _TypeTest:
    """A list of event types, some with wildcards."""

    exact: frozenset[str]
    globs: tuple[str, ...]
    known: dict[str, bool]  # what was asked before: rooms have few types, and a filter may have many patterns

    def fits(self, event_type: str) -> bool:
        if event_type in self.exact:
            return True
        if not self.globs:
            return False
        fits = self.known.get(event_type)
        if fits is None:
            fits = any(matches_glob(glob, event_type) for glob in self.globs)
            if len(self.known) < _KNOWN_TYPES:
                self.known[event_type] = fits
        return fits


def _type_test(names: Iterable[str] | None) -> _TypeTest | None:
    if names is None:
        return None
    exact, globs = set(), []
    for name in dict.fromkeys(names):
        if "*" in name:
            globs.append(name)
        else:
            exact.add(name)
    return _TypeTest(frozenset(exact), tuple(globs), {})


@dataclass(frozen=True, slots=True)
class NameTest:
    """An allow list (None: everything) and a deny list, which wins."""

    allowed: frozenset[str] | None
    denied: frozenset[str]

    def accepts(self, name: str) -> bool:
        return name not in self.denied and (self.allowed is None or name in self.allowed)

    @property
    def trivial(self) -> bool:
        return self.allowed is None and not self.denied


def _name_test(allowed: list[str] | None, denied: list[str] | None) -> NameTest:
    return NameTest(None if allowed is None else frozenset(allowed), frozenset(denied or ()))


@dataclass(frozen=True, slots=True)
class EventFilter:
    """One section's filter. ``everything`` says that it lets every event pass."""

    limit: int
    types: _TypeTest | None
    not_types: _TypeTest | None
    senders: NameTest
    rooms: NameTest
    contains_url: bool | None
    lazy: bool
    redundant: bool
    threads: bool
    everything: bool

    @property
    def globs(self) -> int:
        """How many of its tests of types have wildcards."""
        return sum(1 for test in (self.types, self.not_types) if test is not None and test.globs)

    @property
    def nothing(self) -> bool:
        """Whether its types let no event pass at all."""
        if self.not_types is not None and "*" in self.not_types.globs:
            return True
        return self.types is not None and not self.types.exact and not self.types.globs

    def accepts_type(self, event_type: str) -> bool:
        if self.not_types is not None and self.not_types.fits(event_type):
            return False
        return self.types is None or self.types.fits(event_type)

    def accepts(self, event_type: str, sender: str, has_url: bool = False) -> bool:
        """Whether an event passes; rooms are tested apart, once for each room."""
        if self.everything:
            return True
        if self.contains_url is not None and has_url is not self.contains_url:
            return False
        return self.accepts_type(event_type) and self.senders.accepts(sender)


def _compile(json: _EventJson | None) -> EventFilter:
    json = json or _EventJson()
    senders = _name_test(json.senders, json.not_senders)
    everything = senders.trivial and json.types is None and not json.not_types and json.contains_url is None
    return EventFilter(
        DEFAULT_LIMIT if json.limit is None else min(json.limit, MAX_LIMIT),
        _type_test(json.types),
        _type_test(json.not_types or None),
        senders,
        _name_test(json.rooms, json.not_rooms),
        json.contains_url,
        bool(json.lazy_load_members),
        bool(json.include_redundant_members),
        bool(json.unread_thread_notifications),
        everything,
    )


@dataclass(frozen=True, slots=True)
class SyncFilter:
    """A whole filter. ``key`` is the same for filters that say the same, so that what they let through is shared."""

    key: bytes
    event_fields: tuple[tuple[str, ...], ...] | None
    federation_format: bool
    include_leave: bool
    rooms: NameTest
    presence: EventFilter
    account_data: EventFilter
    timeline: EventFilter
    state: EventFilter
    ephemeral: EventFilter
    room_account_data: EventFilter
    profile_fields: frozenset[str] = frozenset()  # the fields of profiles that are told of
    profiles_name: bytes = b"users"  # what the section of them is called
    length: int = 0  # of its text

    @property
    def weight(self) -> int:
        """About how many bytes it takes, with what it comes to remember."""
        sections = (self.presence, self.account_data, self.timeline, self.state, self.ephemeral)
        globs = sum(section.globs for section in (*sections, self.room_account_data))
        return _PLAIN_BYTES + _TIMES_ITS_TEXT * self.length + _KNOWN_BYTES * globs

    @property
    def lazy(self) -> bool:
        """Whether members are sent only when something of theirs is."""
        # COMPAT(clients that put it into the timeline's filter, where it means something for /messages only)
        return self.state.lazy or self.timeline.lazy

    @property
    def redundant(self) -> bool:
        return self.state.redundant or self.timeline.redundant

    @property
    def by_room(self) -> bool:
        """Whether the filters of timelines or states differ by room."""
        return not (self.timeline.rooms.trivial and self.state.rooms.trivial)

    @property
    def wants_summaries(self) -> bool:
        """Whether a room whose summary alone has changed is news: not for who wants no events of rooms at all."""
        return not (self.timeline.nothing and self.state.nothing)

    @property
    def threads(self) -> bool:
        """Whether unread counts are told for each thread."""
        return self.timeline.threads or self.state.threads


def parse_filter(text: str | bytes) -> SyncFilter:
    """Compile a filter's JSON; 400 M_NOT_JSON or M_BAD_JSON for anything that is none."""
    raw = text.encode() if isinstance(text, str) else text
    json: _FilterJson = decode_json(raw, _FilterJson)
    room = json.room or _RoomJson()
    profiles, unstable = json.profile_fields, json.unstable_profile_fields
    wanted = unstable or profiles or _ProfileJson()
    fields: tuple[tuple[str, ...], ...] | None = None
    if json.event_fields is not None:
        # Short paths first: they take whole objects, of which longer ones are a part.
        fields = tuple(sorted((split_path(path) for path in json.event_fields), key=len))
    return SyncFilter(
        # Not of the text: what nobody understands makes no other filter.
        sha256(msgspec.json.encode(json)).digest(),
        fields,
        json.event_format == "federation",
        bool(room.include_leave),
        _name_test(room.rooms, room.not_rooms),
        _compile(json.presence),
        _compile(json.account_data),
        _compile(room.timeline),
        _compile(room.state),
        _compile(room.ephemeral),
        _compile(room.account_data),
        frozenset(wanted.ids or ()),
        b"users" if unstable is None else b"org.matrix.msc4429.users",
        len(raw),
    )


def split_path(path: str) -> tuple[str, ...]:
    """The names of a dot-separated path. spec: appendices#dot-separated-property-paths

    A backslash takes a following dot or backslash as itself; before anything else it stands for itself.
    """
    names, name, place = [], "", 0
    while place < len(path):
        character = path[place]
        if character == "\\" and path[place + 1 : place + 2] in (".", "\\"):
            name += path[place + 1]
            place += 1
        elif character == ".":
            names.append(name)
            name = ""
        else:
            name += character
        place += 1
    names.append(name)
    return tuple(names)


def pick_fields(event: dict[str, Any], paths: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    """An event with only what some paths lead to."""
    picked: dict[str, Any] = {}
    for path in paths:
        source: Any = event
        for name in path:
            if not isinstance(source, dict) or name not in source:
                break
            source = source[name]
        else:
            target = picked
            for name in path[:-1]:
                inner = target.get(name)
                if not isinstance(inner, dict):
                    inner = target[name] = {}
                target = inner
            # A path into an object that stands there whole already adds nothing.
            target.setdefault(path[-1], source)
    return picked
