"""Conditions of push rules: compiled once, then asked for each event.

``EventView`` is what rules see of an event; it remembers what was looked up, because the hundred members of a room ask
the same of the same event. ``Facts`` is what they may ask of the room; a fact that is not at hand raises
``FactMissing``, and the caller loads it and evaluates again.

# spec: client-server-api#conditions-1
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from federation.auth.power import PowerLevels
from federation.event import Event
from homeserver.push.defaults import BY_THREAD
from homeserver.push.globs import Words, compile_whole, compile_words

Path = tuple[str, ...]

ME: Final = "\0"
"""Stands for the rules' owner in rules that everybody shares; no string from outside holds a NUL in its place."""

BY_NAME: Final = "contains_display_name"

_MISSING: Final = object()
_MEMO_MOST = 200
BODY: Final[Path] = ("content", "body")
_MENTIONED: Path = ("content", "m.mentions", "user_ids")
_STATE_KEY: Path = ("state_key",)
TYPE: Final[Path] = ("type",)
ROOM: Final[Path] = ("room_id",)
_RELATION: Path = ("content", "m.relates_to", "rel_type")
_RELATED: Path = ("content", "m.relates_to", "event_id")
_COUNT = re.compile(r"(==|<=|>=|<|>)?([0-9]{1,10})")
_TOP = frozenset({"type", "sender", "state_key", "event_id", "room_id", "origin_server_ts"})
_INTEGER_END = 2**53


class FactMissing(Exception):  # noqa: N818 (an answer, and nobody's error)
    """A condition asks for something of the room that has not been loaded."""


@dataclass(slots=True)
class Facts:
    """What conditions ask of a room; None: not loaded. ``display_name`` of the rules' owner: "" where they have none."""

    joined: int | None = None
    power: PowerLevels | None = None
    display_name: str | None = None
    user_id: str = ""  # the rules' owner
    threads: frozenset[str] | None = (
        None  # the roots that they subscribed to; None: they never did such a thing
    )


class EventView:
    """What rules see of an event."""

    __slots__ = ("_event", "_lower", "_memo", "sender", "type")

    def __init__(self, event: Event) -> None:
        self._event = event
        self._memo: dict[Path, Any] = {}
        self._lower: dict[Path, str | None] = {}
        self.type = event.type
        self.sender: str = event.sender

    def get(self, path: Path) -> Any:
        """The value at a path, or ``_MISSING``."""
        memo = self._memo
        value = memo.get(path, memo)
        if value is memo:
            value = self._find(path)
            if len(memo) < _MEMO_MOST:
                memo[path] = value
        return value

    def lower(self, path: Path) -> str | None:
        """The string at a path in lower case; None where there is no string."""
        known = self._lower
        if path in known:
            return known[path]
        value = self.get(path)
        text = value.lower() if isinstance(value, str) else None
        if len(known) < _MEMO_MOST:
            known[path] = text
        return text

    def _find(self, path: Path) -> Any:
        event, first = self._event, path[0]
        if first == "content":
            value: Any = event.content
        elif first in _TOP:
            value = getattr(event, first)
            if value is None:
                return _MISSING
        else:
            # Nothing else of an event (hashes, signatures, depth) is shown to clients.
            return _MISSING
        for name in path[1:]:
            if not isinstance(value, dict) or name not in value:
                return _MISSING
            value = value[name]
        return value


def named_in(view: EventView) -> frozenset[str]:
    """Those whom default rules can tell from everybody else who has the same rules."""
    mentioned = view.get(_MENTIONED)
    target = view.get(_STATE_KEY)
    names = mentioned if isinstance(mentioned, list) else ()
    return frozenset(one for one in (*names, target) if isinstance(one, str))


def thread_root(view: EventView) -> str | None:
    """The root of the thread that an event says that it is in."""
    root = view.get(_RELATED)
    return root if view.get(_RELATION) == "m.thread" and isinstance(root, str) else None


Test = Callable[[EventView, Facts], bool]


class Condition(NamedTuple):
    """One condition. ``event_type``: it can only hold of this type (in lower case); ``only``: and says nothing else.

    ``room``: it can only hold in this room (in lower case).
    """

    test: Test
    event_type: str | None = None
    only: bool = False
    room: str | None = None


def never(view: EventView, facts: Facts) -> bool:  # noqa: ARG001
    """An unknown condition matches nothing."""
    return False


NEVER = Condition(never)


def parse_path(key: str) -> Path:
    """The names in a dot-separated path."""
    # spec: appendices#dot-separated-property-paths
    names: list[str] = []
    name: list[str] = []
    escaped = False
    for one in key:
        if escaped:
            name.append(one if one in "\\." else "\\" + one)
            escaped = False
        elif one == "\\":
            escaped = True
        elif one == ".":
            names.append("".join(name))
            name = []
        else:
            name.append(one)
    if escaped:
        name.append("\\")
    return (*names, "".join(name))


def compile_condition(json: Mapping[str, Any]) -> Condition:
    """A condition of a rule; one that is unknown or makes no sense never holds."""
    compile_kind = _KINDS.get(json.get("kind", ""))
    return NEVER if compile_kind is None else compile_kind(json)


def event_match(key: str, pattern: str) -> Condition:
    """A glob against a property."""
    path = parse_path(key)
    if pattern == ME:
        return Condition(lambda view, facts: view.get(path) == facts.user_id)
    if path == BODY:
        return Condition(body_has(compile_words(pattern)))
    glob = compile_whole(pattern)
    if glob.literal is None:

        def match(view: EventView, facts: Facts) -> bool:  # noqa: ARG001
            text = view.lower(path)
            return text is not None and glob.matches(text)

        return Condition(match)
    literal = glob.literal

    def equal(view: EventView, facts: Facts) -> bool:  # noqa: ARG001
        return view.lower(path) == literal

    return Condition(
        equal, literal if path == TYPE else None, only=True, room=literal if path == ROOM else None
    )


def body_has(words: Words) -> Test:
    """Words in ``content.body``."""

    def match(view: EventView, facts: Facts) -> bool:  # noqa: ARG001
        text = view.lower(BODY)
        return text is not None and words.matches(text)

    return match


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same simple value; true is not 1."""
    return type(one) is type(other) and one == other


def is_simple(value: Any) -> bool:
    """Whether conditions can compare with a value."""
    return (
        value is None
        or isinstance(value, bool | str)
        or (type(value) is int and -_INTEGER_END < value < _INTEGER_END)
    )


def _event_match(json: Mapping[str, Any]) -> Condition:
    key, pattern = json.get("key"), json.get("pattern")
    if not isinstance(key, str) or not isinstance(pattern, str):
        return NEVER
    return event_match(key, pattern)


def _property_is(json: Mapping[str, Any]) -> Condition:
    key, value = json.get("key"), json.get("value", _MISSING)
    if not isinstance(key, str) or not is_simple(value):
        return NEVER
    path = parse_path(key)

    def equal(view: EventView, facts: Facts) -> bool:  # noqa: ARG001
        return same(view.get(path), value)

    # It minds upper and lower case, which the lists of rules by type do not: it is asked all the same.
    return Condition(equal, value.lower() if path == TYPE and isinstance(value, str) else None)


def _property_contains(json: Mapping[str, Any]) -> Condition:
    key, value = json.get("key"), json.get("value", _MISSING)
    if not isinstance(key, str) or not is_simple(value):
        return NEVER
    path = parse_path(key)

    def contains(view: EventView, facts: Facts) -> bool:
        found = view.get(path)
        if not isinstance(found, list):
            return False
        wanted = facts.user_id if value == ME else value
        return any(same(one, wanted) for one in found)

    return Condition(contains)


def _display_name(json: Mapping[str, Any]) -> Condition:  # noqa: ARG001
    def contains(view: EventView, facts: Facts) -> bool:
        name = facts.display_name
        if name is None:
            raise FactMissing
        text = view.lower(BODY)
        if not name or text is None:
            return False
        # A name is no glob.
        return re.search(rf"(?<![A-Za-z0-9_]){re.escape(name.lower())}(?![A-Za-z0-9_])", text) is not None

    return Condition(contains)


_COMPARE: Mapping[str, Callable[[int, int], bool]] = {
    "==": lambda one, other: one == other,
    "<": lambda one, other: one < other,
    ">": lambda one, other: one > other,
    "<=": lambda one, other: one <= other,
    ">=": lambda one, other: one >= other,
}


def _member_count(json: Mapping[str, Any]) -> Condition:
    text = json.get("is")
    found = _COUNT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return NEVER
    compare, number = _COMPARE[found[1] or "=="], int(found[2])

    def count(view: EventView, facts: Facts) -> bool:  # noqa: ARG001
        if facts.joined is None:
            raise FactMissing
        return compare(facts.joined, number)

    return Condition(count)


def _permission(json: Mapping[str, Any]) -> Condition:
    key = json.get("key")
    if not isinstance(key, str):
        return NEVER

    def may(view: EventView, facts: Facts) -> bool:
        if facts.power is None:
            raise FactMissing
        return facts.power.user(view.sender) >= facts.power.notification(key)

    return Condition(may)


def _thread(json: Mapping[str, Any]) -> Condition:
    subscribed = json.get("subscribed")
    if not isinstance(subscribed, bool):
        return NEVER

    def is_it(view: EventView, facts: Facts) -> bool:
        # COMPAT(clients without subscriptions of threads, until all have them): who never subscribed to any hears of
        # threads as of everything else, or they would hear of none.
        root = None if facts.threads is None else thread_root(view)
        return root is not None and facts.threads is not None and (root in facts.threads) is subscribed

    return Condition(is_it)


_KINDS: Mapping[str, Callable[[Mapping[str, Any]], Condition]] = {
    "event_match": _event_match,
    "event_property_is": _property_is,
    "event_property_contains": _property_contains,
    BY_NAME: _display_name,
    BY_THREAD: _thread,
    "room_member_count": _member_count,
    "sender_notification_permission": _permission,
}
