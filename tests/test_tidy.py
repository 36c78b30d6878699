"""The house rules hold for the tree, and each rule finds what it is there for.

One test a rule, so that a report names the rule; one sample a rule, so that no rule passes because it sees nothing.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from twisted.trial import unittest

from tests.support import tidy
from tests.support.tidy import Finding, Rule, Source

REPOSITORY = Path(__file__).resolve().parents[1]
PRODUCT = ("homeserver", "federation", "synapse-compat/synapse_compat")
OTHER = ("tests", "scripts")


@functools.cache
def sources(folder: str) -> tuple[Source, ...]:
    """The Python files below a folder."""
    paths = sorted((REPOSITORY / folder).rglob("*.py"))
    relative = [path for path in paths if "node_modules" not in path.parts]
    return tuple(Source(str(path.relative_to(REPOSITORY)), path.read_text("utf-8")) for path in relative)


def findings(rule: Rule, folders: tuple[str, ...]) -> list[Finding]:
    return [finding for folder in folders for source in sources(folder) for finding in rule(source)]


class Tree(unittest.TestCase):
    """The rules on the code that is there; a test for each is added below."""

    def _check(self, rule: Rule, folders: tuple[str, ...]) -> None:
        found = findings(rule, folders)
        if found:
            self.fail(f"{rule.__doc__}\n" + "\n".join(map(str, found)))

    def test_there_is_something_to_look_at(self) -> None:
        # A rule over no files would always hold.
        self.assertGreater(len(sources("homeserver")), 10)
        self.assertGreater(len(sources("federation")), 5)

    def test_changelog_fragments_are_named_for_what_they_say(self) -> None:
        for path in (REPOSITORY / "changelog.d").iterdir():
            if path.name != "README.md":
                self.assertTrue(
                    re.fullmatch(r"[a-z0-9-]+\.(added|changed|fixed|removed)\.md", path.name), path.name
                )


def _add_tests() -> None:
    for rules, folders in ((tidy.PRODUCT_RULES, PRODUCT), (tidy.COMMON_RULES, PRODUCT + OTHER)):
        for rule in rules:

            def test(self: Tree, rule: Rule = rule, folders: tuple[str, ...] = folders) -> None:
                self._check(rule, folders)

            test.__doc__ = rule.__doc__
            setattr(Tree, f"test_{rule.__name__}", test)


_add_tests()

HOME = "homeserver/rooms/x.py"
CORE = "federation/x.py"

# rule, path, a source that breaks it, and one close by that does not.
SAMPLES: tuple[tuple[Rule, str, str, str], ...] = (
    (
        tidy.layers,
        "homeserver/store/x.py",
        "from homeserver.rooms import actor",
        "from homeserver.db import engine",
    ),
    (tidy.layers, HOME, "from homeserver.sync import v3", "from homeserver.sync.types import Section"),
    (tidy.layers, HOME, "from homeserver.sync import types_of_rooms", "from homeserver.sync import types"),
    (tidy.layers, HOME, "from ..api import client", "from ..store import events"),
    (tidy.layers, CORE, "import homeserver.db", "import federation.ids"),
    (tidy.layers, "homeserver/app.py", "import synapse_compat", "import homeserver.api"),
    (tidy.known_area, "homeserver/helpers/x.py", "a = 1", ""),
    (tidy.pure_core, CORE, "import time", "import json"),
    (tidy.pure_core, CORE, "from os import urandom", "from nacl.signing import SigningKey"),
    (tidy.pure_core, CORE, "import treq", "import msgspec"),
    (tidy.pure_core, CORE, "open('x')", "x.open()"),
    (tidy.sql_libraries, HOME, "from sqlalchemy import select", "from homeserver.store import events"),
    (tidy.transport, HOME, "from twisted.web import server", "from twisted.internet.defer import Deferred"),
    (tidy.transport, HOME, "import aiortc", "import msgspec"),
    (
        tidy.injected,
        HOME,
        "from twisted.internet import reactor",
        "from homeserver.runtime.clock import Clock",
    ),
    (tidy.injected, HOME, "import time\nx = time.time()", "import time\nx = time.strftime('%Y')"),
    (
        tidy.injected,
        HOME,
        "from time import monotonic as now\nx = now()",
        "from json import loads as now\nx = now()",
    ),
    (
        tidy.injected,
        HOME,
        "from datetime import datetime\nx = f(datetime.now)",
        "def f(time):\n    return time.time2()",
    ),
    (tidy.injected, HOME, "import random", "import re"),
    (tidy.injected, HOME, "import os\nx = os.urandom(4)", "import os\nx = os.path"),
    (
        tidy.injected,
        HOME,
        "from twisted.internet.threads import deferToThread",
        "from twisted.internet import defer",
    ),
    (tidy.rule_names, CORE, "if room.version == '6': pass", "if rules.knocking: pass"),
    (tidy.rule_names, CORE, "if version in ('6', '7'): pass", "if version is None: pass"),
    (tidy.set_order, CORE, "for x in {1, 2}: pass", "for x in sorted({1, 2}): pass"),
    (
        tidy.set_order,
        CORE,
        "def f(a: set[int]):\n    return [x for x in a]",
        "def f(a: set[int]):\n    return {x for x in a}",
    ),
    (
        tidy.set_order,
        HOME,
        "b = set(a) - c\nfor x in b: pass",
        "b = set(a)\nfor x in b: pass  # any order: only counts",
    ),
    (tidy.set_order, HOME, "x = list(a.union(b))", "x = sorted(y for y in a.union(b))"),
    (tidy.plain_sql, HOME, "f'SELECT a FROM {t}'", "f'SELECTED {t}'"),
    (tidy.plain_sql, HOME, "'DELETE FROM %s' % t", "'UPDATE %s soon' % t"),
    (tidy.plain_sql, HOME, "'INSERT INTO {}'.format(t)", "text('INSERT INTO a VALUES (:b)')"),
    (tidy.metric_labels, HOME, "Counter('a', 'b', ['room_id'])", "Counter('a', 'b', ['method'])"),
    (tidy.metric_labels, HOME, "Gauge('a', 'b', labelnames=('user',))", "Gauge('room', 'of a user')"),
    (
        tidy.route_anchors,
        HOME,
        "Route(method='GET')",
        "Route(method='GET', spec='client-server-api#syncing')",
    ),
    (tidy.route_anchors, HOME, "Route(spec='sync')", "Route(spec=ANCHOR)"),
    (tidy.whole_imports, HOME, "def f():\n    import json", "import json"),
    (
        tidy.whole_imports,
        HOME,
        "import typing\nif typing.TYPE_CHECKING: pass",
        "import typing\nif typing.X: pass",
    ),
    (tidy.module_state, HOME, "CACHE: dict[str, int] = {}", "TABLE = {'a': 1}"),
    (tidy.module_state, HOME, "NOTHING: set[int] = set()", "NOTHING: Mapping[str, int] = {}"),
    (tidy.module_state, HOME, "from collections import defaultdict\nx = defaultdict()", "x = frozenset()"),
    (tidy.module_state, HOME, "def f():\n    global x", "def f():\n    x = []"),
    (tidy.swallowed, HOME, "try: f()\nexcept Exception: pass", "try: f()\nexcept KeyError: pass"),
    (tidy.size, HOME, "def f():\n" + "    x = 1\n" * 70, "def f():\n" + "    x = 1\n" * 69),
    (tidy.size, HOME, "x = 1\n" * 601, "x = 1\n" * 600),
    (tidy.typing_comments, HOME, "x = 1  # type: ignore", "x = '# type: ignore'"),
    (tidy.typing_comments, HOME, "x = 1  # noqa", "x = 1  # noqa: E501"),
    (tidy.purpose, HOME, "x = 1", '"""For this."""\nx = 1'),
)


class Rules(unittest.TestCase):
    """Each rule on a sample that breaks it and on one that does not."""

    def test_samples(self) -> None:
        for rule, path, bad, good in SAMPLES:
            found = list(rule(Source(path, bad)))
            self.assertEqual(len(found), 1, f"{rule.__name__} on {bad!r}: {found}")
            self.assertIn(": ", str(found[0]))
            self.assertEqual(list(rule(Source(path, good))), [], f"{rule.__name__} on {good!r}")

    def test_every_rule_has_a_sample(self) -> None:
        tried = {rule.__name__ for rule, *_ in SAMPLES}
        self.assertEqual(tried, {rule.__name__ for rule in (*tidy.PRODUCT_RULES, *tidy.COMMON_RULES)})
