"""What a client asks for in sliding sync, checked. proposal: MSC4186

Two forms are understood, whichever path they come to: the one of the accepted proposal, and the experimental one that
clients of today speak (``ranges``, pairs in ``required_state``, ``is_invite``, position and time limit in the query).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated, Any

import msgspec

from homeserver.http.errors import invalid_param, missing_param
from homeserver.http.request import decode_json
from homeserver.sync.sliding.required import Element, Required, parse_pairs

MAX_LISTS = 100
# COMPAT(clients of the experimental form, which named no limit: they subscribe to whatever was on the screen)
MAX_SUBSCRIPTIONS = 1_000
MAX_SUBSCRIPTIONS_STABLE = 100
MAX_RANGES = 100
MAX_TIMELINE = 100
# LIMIT(what is compared for each piece of state of each room)
MAX_ELEMENTS = 500
MAX_NAMES = 1_000
MAX_NAME_LENGTH = 255
_HIGHEST = 2**53
_OPAQUE = re.compile(r"[0-9A-Za-z._~-]+")

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Pairs = list[tuple[str, str]]


class _ElementJson(msgspec.Struct):
    type: str | None = None
    state_key: str | None = None


class _RequiredJson(msgspec.Struct):
    include: list[_ElementJson] = []
    exclude: list[_ElementJson] = []
    lazy_members: bool = False


class _FilterJson(msgspec.Struct):
    is_dm: bool | None = None
    spaces: list[str] | None = None
    is_encrypted: bool | None = None
    is_invited: bool | None = None
    is_invite: bool | None = None
    room_types: list[str | None] | None = None
    not_room_types: list[str | None] | None = None
    tags: list[str] | None = None
    not_tags: list[str] | None = None
    room_name_like: str | None = None


class _RoomJson(msgspec.Struct):
    timeline_limit: _Count | None = None
    required_state: _Pairs | _RequiredJson | None = None


class _ListJson(_RoomJson):
    range: tuple[_Count, _Count] | None = None
    ranges: list[tuple[_Count, _Count]] | None = None
    filters: _FilterJson | None = None


class _ScopedJson(msgspec.Struct):
    enabled: bool | None = None
    lists: list[str] | None = None
    rooms: list[str] | None = None
    fields: list[str] | None = None


class _ToDeviceJson(msgspec.Struct):
    enabled: bool | None = None
    limit: _Count | None = None
    since: str | None = None


class _ExtensionsJson(msgspec.Struct):
    to_device: _ToDeviceJson | None = None
    e2ee: _ScopedJson | None = None
    account_data: _ScopedJson | None = None
    receipts: _ScopedJson | None = None
    typing: _ScopedJson | None = None
    threads: _ToDeviceJson | None = msgspec.field(
        default=None, name="io.element.msc4308.thread_subscriptions"
    )
    profiles: _ScopedJson | None = msgspec.field(default=None, name="org.matrix.msc4262.profiles")
    sticky: _ToDeviceJson | None = msgspec.field(default=None, name="org.matrix.msc4354.sticky_events")


class _BodyJson(msgspec.Struct):
    conn_id: str | None = None
    txn_id: str | None = None
    pos: str | None = None
    timeout: _Count | None = None
    set_presence: str | None = None
    lists: dict[str, _ListJson] | None = None
    room_subscriptions: dict[str, _RoomJson] | None = None
    extensions: _ExtensionsJson | None = None


@dataclass(frozen=True, slots=True)
class Filters:
    """Which rooms belong to a list. None: whatever."""

    is_dm: bool | None = None
    is_encrypted: bool | None = None
    is_invited: bool | None = None
    spaces: frozenset[str] | None = None
    room_types: frozenset[str | None] | None = None
    not_room_types: frozenset[str | None] = frozenset()
    tags: frozenset[str] | None = None
    not_tags: frozenset[str] = frozenset()
    name_like: str | None = None

    @property
    def by_room(self) -> bool:
        """Whether what a room is decides."""
        return (
            self.is_encrypted is not None
            or self.room_types is not None
            or bool(self.not_room_types)
            or self.name_like is not None
        )

    @property
    def by_user(self) -> bool:
        """Whether the user's account data decides."""
        return self.is_dm is not None or self.tags is not None or bool(self.not_tags)

    @property
    def by_name(self) -> bool:
        """Whether it takes the rooms' ids to decide."""
        return self.is_dm is not None or self.spaces is not None


NO_FILTERS = Filters()


@dataclass(frozen=True, slots=True)
class RoomConfig:
    """What to tell of a room."""

    limit: int
    required: Required


@dataclass(frozen=True, slots=True)
class ListAsked:
    """A window onto the rooms that pass some filters."""

    ranges: tuple[tuple[int, int], ...] | None  # inclusive, in order and apart; None: all of it
    filters: Filters
    config: RoomConfig


@dataclass(frozen=True, slots=True)
class Scope:
    """The rooms that an extension is asked for. None: those of every list, or of every subscription."""

    lists: frozenset[str] | None = None
    rooms: frozenset[str] | None = None

    def covers(self, room_id: str, lists: Mapping[str, object], subscribed: bool) -> bool:
        """Whether a room is among them, given the lists that show it and whether it is subscribed to."""
        if subscribed and (self.rooms is None or "*" in self.rooms or room_id in self.rooms):
            return True
        if self.lists is None or "*" in self.lists:
            return bool(lists)
        return any(name in self.lists for name in lists)


@dataclass(frozen=True, slots=True)
class Extensions:
    """What is asked for beside rooms; None and False: not asked for."""

    to_device: bool = False
    to_device_since: str | None = None
    to_device_limit: int | None = None
    e2ee: bool = False
    account_data: Scope | None = None
    receipts: Scope | None = None
    typing: Scope | None = None
    threads_limit: int | None = None
    profiles: Scope | None = None
    profile_fields: frozenset[str] | None = None  # None: all of them
    sticky_limit: int | None = None
    sticky_since: str | None = None

    @property
    def of_device(self) -> bool:
        """Whether anything is asked for that is the device's own."""
        return self.to_device or self.e2ee


@dataclass(frozen=True, slots=True)
class Asked:
    """A request's body."""

    conn_id: str
    txn_id: str | None
    pos: str | None
    timeout_ms: int | None
    set_presence: str | None
    lists: Mapping[str, ListAsked] = field(default_factory=dict)
    subscriptions: Mapping[str, RoomConfig] = field(default_factory=dict)
    extensions: Extensions = Extensions()


def parse_request(body: bytes, user_id: str, *, stable: bool) -> Asked:
    """A body as a client sent it; 400 with the specified code for anything that is none."""
    json: _BodyJson = decode_json(body or b"{}", _BodyJson)
    lists, subscriptions = json.lists or {}, json.room_subscriptions or {}
    if len(lists) > MAX_LISTS:
        raise invalid_param(f"There are more than {MAX_LISTS} lists")
    if len(subscriptions) > (MAX_SUBSCRIPTIONS_STABLE if stable else MAX_SUBSCRIPTIONS):
        raise invalid_param("There are too many room subscriptions")
    conn_id = json.conn_id or ""
    for name in (conn_id, json.txn_id or "", *lists):
        _check_name(name)
    if stable:
        _check_accepted(lists, (*lists.values(), *subscriptions.values()))
    return Asked(
        conn_id,
        json.txn_id,
        json.pos,
        json.timeout,
        json.set_presence,
        {name: _list(one, user_id) for name, one in lists.items()},
        # Nothing is called by a NUL, and not every database takes one.
        {room_id: _config(one, user_id) for room_id, one in subscriptions.items() if "\0" not in room_id},
        _extensions(json.extensions or _ExtensionsJson()),
    )


def _check_name(name: str) -> None:
    # A connection's name is kept, and a text column holds neither a NUL nor half a character.
    if len(name) > MAX_NAME_LENGTH or "\0" in name:
        raise invalid_param("The name of a list or connection is too long or holds a NUL")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise invalid_param("The name of a list or connection is not valid Unicode") from None


def _check_accepted(names: Iterable[str], rooms: Iterable[_RoomJson]) -> None:
    """What the accepted proposal asks for, and clients of the experimental form do not keep to."""
    # spec: appendices#opaque-identifiers
    if any(_OPAQUE.fullmatch(name) is None for name in names):
        raise invalid_param("The name of a list may hold letters, digits and any of -._~")
    for one in rooms:
        if one.timeline_limit is None or one.required_state is None:
            raise missing_param("A list or subscription has no timeline_limit or required_state")


def _list(json: _ListJson, user_id: str) -> ListAsked:
    ranges: tuple[tuple[int, int], ...] | None = None
    if json.range is not None:
        ranges = (json.range,)
    elif json.ranges is not None:
        if len(json.ranges) > MAX_RANGES:
            raise invalid_param(f"A list has more than {MAX_RANGES} ranges")
        ranges = tuple(json.ranges)
    for first, last in ranges or ():
        if first > last or last > _HIGHEST:
            raise invalid_param("A range must go up, and not beyond 2^53")
    merged = None if ranges is None else _merge(ranges)
    return ListAsked(merged, _filters(json.filters), _config(json, user_id))


def _merge(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same places, each in one range: however often they are named, a list is gone through once."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def _config(json: _RoomJson, user_id: str) -> RoomConfig:
    asked = json.required_state
    if asked is None:
        required = Required()
    elif isinstance(asked, _RequiredJson):
        _check_length(len(asked.include) + len(asked.exclude), MAX_ELEMENTS, "required_state")
        required = Required(_elements(asked.include), _elements(asked.exclude), asked.lazy_members)
    else:
        _check_length(len(asked), MAX_ELEMENTS, "required_state")
        required = parse_pairs(asked, user_id)
    elements = chain.from_iterable((*required.include, *required.exclude))
    _check_texts(elements, "A type or state key in required_state")
    return RoomConfig(min(json.timeline_limit or 0, MAX_TIMELINE), required)


def _elements(found: list[_ElementJson]) -> frozenset[Element]:
    return frozenset((one.type, one.state_key) for one in found)


def _check_texts(texts: Iterable[str | None], what: str) -> None:
    # Nothing is called by more, and what was asked for is kept. spec: client-server-api#size-limits
    for text in texts:
        if text is not None and len(text.encode()) > MAX_NAME_LENGTH:
            raise invalid_param(f"{what} is longer than {MAX_NAME_LENGTH} bytes")


def _check_length(length: int, most: int, what: str) -> None:
    if length > most:
        raise invalid_param(f"{what} has more than {most} entries")


def _names(found: list[Any] | None, what: str) -> frozenset[Any] | None:
    if found is None:
        return None
    _check_length(len(found), MAX_NAMES, what)
    return frozenset(found)


def _spaces(found: list[str] | None) -> frozenset[str] | None:
    names = _names(found, "spaces")
    # Nothing is called by a NUL, and not every database takes one. In no space at all is no room.
    return None if names is None else frozenset(name for name in names if "\0" not in name)


def _filters(json: _FilterJson | None) -> Filters:
    if json is None:
        return NO_FILTERS
    invited = json.is_invite if json.is_invited is None else json.is_invited
    return Filters(
        json.is_dm,
        json.is_encrypted,
        invited,
        _spaces(json.spaces),
        # COMPAT(clients that send an empty list for no filter, always: no room would pass it)
        _names(json.room_types or None, "room_types"),
        _names(json.not_room_types, "not_room_types") or frozenset(),
        _names(json.tags or None, "tags"),
        _names(json.not_tags, "not_tags") or frozenset(),
        json.room_name_like.casefold() if json.room_name_like else None,
    )


def _extensions(json: _ExtensionsJson) -> Extensions:
    to_device = json.to_device or _ToDeviceJson()
    threads = json.threads or _ToDeviceJson()
    sticky = json.sticky or _ToDeviceJson()
    return Extensions(
        bool(to_device.enabled),
        to_device.since,
        to_device.limit,
        json.e2ee is not None and bool(json.e2ee.enabled),
        _scope(json.account_data),
        _scope(json.receipts),
        _scope(json.typing),
        (100 if threads.limit is None else threads.limit) if threads.enabled else None,
        _scope(json.profiles),
        _profile_fields(json.profiles),
        (100 if sticky.limit is None else sticky.limit) if sticky.enabled else None,
        sticky.since,
    )


def _profile_fields(json: _ScopedJson | None) -> frozenset[str] | None:
    if json is None or not json.enabled or json.fields is None:
        return None
    fields: frozenset[str] | None = _names(json.fields, "fields")
    _check_texts(fields or (), "A field in fields")
    return fields


def _scope(json: _ScopedJson | None) -> Scope | None:
    if json is None or not json.enabled:
        return None
    return Scope(_names(json.lists, "lists"), _names(json.rooms, "rooms"))
