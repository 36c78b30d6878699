"""Who names the kinds of change that concern them is called for these, and names all that they look at."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any
from unittest import TestCase

import homeserver
from homeserver.store.changes import Change, Kind
from homeserver.store.placement import MOVING
from homeserver.stream.log import ChangeLog

_NAMED = re.compile(r"\bKind\.([A-Z_]+)")


class Kinds(TestCase):
    def test_a_commit_without_any_of_them_is_passed_over(self) -> None:
        log = ChangeLog(0)
        heard: list[tuple[str, list[int]]] = []

        def hear(name: str) -> Callable[[Sequence[Change]], None]:
            return lambda changes: heard.append((name, [change.pos for change in changes]))

        log.subscribe(hear("all"))
        log.subscribe(hear("keys"), {Kind.DEVICE_KEYS})
        log.subscribe(hear("none"), ())
        log.publish([Change(1, Kind.EVENT, 1, 1)])
        log.publish([Change(2, Kind.EVENT, 1, 1), Change(3, Kind.DEVICE_KEYS, -1, 1)])
        self.assertEqual([("all", [1]), ("all", [2, 3]), ("keys", [2, 3])], heard)
        self.assertEqual(3, log.position)

    def test_subscribers_name_all_that_they_look_at(self) -> None:
        """As far as their source says it: in ``apply``, and in the methods that it hands a change to."""
        found = 0
        for one in _subscribers():
            source = inspect.getsource(one.apply)
            for name in re.findall(r"self\.(\w+)\(change\)", source):
                source += inspect.getsource(getattr(one, name))
            looked_at = {Kind[name] for name in _NAMED.findall(source)}
            if "moves_of(" in source:
                looked_at |= {Kind(kind) for kind in MOVING}
            self.assertLessEqual(looked_at, set(one.kinds), one)
            found += 1
        self.assertLess(15, found)


def _subscribers() -> Iterator[Any]:
    for module in pkgutil.walk_packages(homeserver.__path__, "homeserver."):
        if module.name.endswith("__main__") or ".migrations" in module.name:
            continue
        for value in vars(import_module(module.name)).values():
            if inspect.isclass(value) and value.__module__ == module.name and hasattr(value, "apply"):
                if hasattr(value, "kinds"):
                    yield value
