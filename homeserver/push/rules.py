"""Evaluation of push rules: pure, compiled once for each version of a user's rules.

``compile_rules`` sorts the rules that could match by the event's type, so that a plain message meets a handful of
tests; room and sender rules are looked up and not walked, and so are override rules of one room, by which clients mute.

# spec: client-server-api#push-rules
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.push.conditions import (
    BY_NAME,
    ROOM,
    TYPE,
    Condition,
    EventView,
    Facts,
    Test,
    body_has,
    compile_condition,
)
from homeserver.push.defaults import MASTER, POSTCONTENT
from homeserver.push.globs import compile_words

# LIMIT(memory: each of these types has a list of the rules that fit it)
_MAX_TYPES = 32
# LIMIT(memory: lists of rooms with rules of their own, and types, that are kept for each user)
_MAX_KEPT = 32


@dataclass(frozen=True, slots=True)
class Actions:
    """What a matching rule asks for. ``json`` is its list of actions as the user wrote it."""

    notify: bool
    highlight: bool
    json: Sequence[Any]


NOTHING = Actions(notify=False, highlight=False, json=())


def parse_actions(json: Sequence[Any]) -> Actions:
    """A rule's actions; what is unknown or historical counts for nothing."""
    # spec: client-server-api#actions
    notify = "notify" in json
    highlight = False
    for action in json:
        if isinstance(action, dict) and action.get("set_tweak") == "highlight":
            # Without a value it is true; only true is true.
            highlight = action.get("value", True) is True
    return Actions(notify, notify and highlight, tuple(json))


@dataclass(frozen=True, slots=True)
class _Rule:
    """An override, content or underride rule."""

    tests: tuple[Test, ...]
    actions: Actions
    event_type: str | None = None  # in lower case; None: of any type
    beside: tuple[Test, ...] = ()  # the tests without that of the type
    room: str | None = None  # in lower case; None: of any room


_Listed = tuple[tuple[tuple[Test, ...], Actions], ...]


class CompiledRules:
    """One user's rules in the order in which they decide."""

    __slots__ = (
        "_after",
        "_before",
        "_before_in",
        "_kept",
        "_own",
        "_rooms",
        "_senders",
        "_types",
        "by_name",
        "silent",
    )

    def __init__(
        self,
        before: Sequence[_Rule],
        rooms: Mapping[str, Actions],
        senders: Mapping[str, Actions],
        after: Sequence[_Rule],
        silent: bool,
        by_name: bool,
    ) -> None:
        self._rooms = rooms
        self._senders = senders
        self.silent = silent
        self.by_name = by_name  # they ask for their owner's display name
        # Only types that a rule names have lists of their own: what events are called is other people's choice.
        named = [rule.event_type for rule in (*after, *before) if rule.event_type is not None]
        self._types = frozenset(list(dict.fromkeys(named))[:_MAX_TYPES])
        self._before = _by_type([rule for rule in before if rule.room is None], self._types)
        self._own = tuple(before)
        self._before_in = frozenset(rule.room for rule in before if rule.room is not None)
        self._kept: dict[tuple[str | None, str], _Listed] = {}
        self._after = _by_type(after, self._types)

    def evaluate(self, view: EventView, facts: Facts) -> Actions:
        """What to do for an event. Raises ``FactMissing`` where it depends on a fact that was not loaded."""
        if self.silent:
            return NOTHING
        event_type = view.lower(TYPE) or ""
        if event_type not in self._types:
            event_type = ""
        before = self._in_room(view.lower(ROOM), event_type) if self._before_in else self._before[event_type]
        for tests, actions in before:
            for test in tests:
                if not test(view, facts):
                    break
            else:
                return actions
        if self._rooms:
            found = self._rooms.get(view.get(ROOM))
            if found is not None:
                return found
        if self._senders:
            found = self._senders.get(view.sender)
            if found is not None:
                return found
        for tests, actions in self._after[event_type]:
            for test in tests:
                if not test(view, facts):
                    break
            else:
                return actions
        return NOTHING

    def _in_room(self, room: str | None, event_type: str) -> _Listed:
        """What comes before room rules: in a room that some of it is about, that too, in the order of all of it."""
        if room not in self._before_in:
            return self._before[event_type]
        listed = self._kept.get((room, event_type))
        if listed is None:
            rules = [rule for rule in self._own if rule.room in (None, room)]
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            listed = self._kept[room, event_type] = _of_type(rules, event_type, self._types)
        return listed


def _by_type(rules: Sequence[_Rule], types: frozenset[str]) -> dict[str, _Listed]:
    return {name: _of_type(rules, name, types) for name in (*sorted(types), "")}


def _of_type(rules: Sequence[_Rule], name: str, types: frozenset[str]) -> _Listed:
    """Those that may match events of a type; of all types that are not named where it is empty."""
    if not name:
        return tuple((rule.tests, rule.actions) for rule in rules if rule.event_type not in types)
    return tuple(
        (rule.beside if rule.event_type == name else rule.tests, rule.actions)
        for rule in rules
        if rule.event_type == name or rule.event_type not in types
    )


def evaluate(rules: CompiledRules, view: EventView, facts: Facts) -> Actions:
    """What to do for an event by a user's rules."""
    return rules.evaluate(view, facts)


def compile_rules(ruleset: Mapping[str, Sequence[Mapping[str, Any]]]) -> CompiledRules:
    """A user's whole ruleset (kind -> rules, the most important first) in the form that decides quickly."""
    before: list[_Rule] = []
    silent = False
    for rule in _enabled(ruleset.get("override", ())):
        if rule["rule_id"] == MASTER and not parse_actions(rule["actions"]).notify:
            silent = True
        before.append(_conditional(rule))
    for rule in _enabled(ruleset.get("content", ())):
        pattern = rule.get("pattern")
        if isinstance(pattern, str):
            before.append(_Rule((body_has(compile_words(pattern)),), parse_actions(rule["actions"])))
    before += [_conditional(rule) for rule in _enabled(ruleset.get(POSTCONTENT, ()))]
    after = [_conditional(rule) for rule in _enabled(ruleset.get("underride", ()))]
    rooms = {rule["rule_id"]: parse_actions(rule["actions"]) for rule in _enabled(ruleset.get("room", ()))}
    senders = {
        rule["rule_id"]: parse_actions(rule["actions"]) for rule in _enabled(ruleset.get("sender", ()))
    }
    by_name = any(
        condition.get("kind") == BY_NAME
        for kind in ("override", "underride")
        for rule in _enabled(ruleset.get(kind, ()))
        for condition in rule.get("conditions", ())
    )
    return CompiledRules(before, rooms, senders, after, silent, by_name)


def _enabled(rules: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [rule for rule in rules if rule["enabled"]]


def _conditional(rule: Mapping[str, Any]) -> _Rule:
    conditions: list[Condition] = [compile_condition(one) for one in rule.get("conditions", ())]
    tests = tuple(one.test for one in conditions)
    types = {one.event_type for one in conditions if one.event_type is not None}
    # (Of two rooms at once is no event, and the tests say so.)
    room = next((one.room for one in conditions if one.room is not None), None)
    if len(types) != 1:
        # Of two types at once is no event: the tests say so.
        return _Rule(tests, parse_actions(rule["actions"]), room=room)
    beside = tuple(one.test for one in conditions if one.event_type is None or not one.only)
    return _Rule(tests, parse_actions(rule["actions"]), types.pop(), beside, room)
