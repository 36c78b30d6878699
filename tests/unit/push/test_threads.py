"""Rules on threads. proposal: MSC4306"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import TestCase

from homeserver.push.conditions import compile_condition
from homeserver.push.rules import Actions, compile_rules, evaluate
from homeserver.push.rulesets import Ruleset, parse_ruleset
from tests.unit.push.samples import ME, ROOM, facts, view

IN_THREAD = {"body": "hello", "m.relates_to": {"rel_type": "m.thread", "event_id": "$root"}}
SUBSCRIBED = frozenset({"$root", "$other"})
OTHERS = frozenset({"$other"})


def run(threads: frozenset[str] | None, content: Any = IN_THREAD, ruleset: Ruleset | None = None) -> Actions:
    rules = compile_rules((ruleset or parse_ruleset(None, ME)).kinds)
    return evaluate(rules, view(content=content), replace(facts(), threads=threads))


class Threads(TestCase):
    def test_who_subscribed(self) -> None:
        self.assertEqual(["notify", {"set_tweak": "sound", "value": "default"}], list(run(SUBSCRIBED).json))
        self.assertFalse(run(OTHERS).notify)
        self.assertFalse(run(frozenset()).notify)
        # A mention is told all the same, and what is in no thread.
        self.assertTrue(run(OTHERS, {**IN_THREAD, "m.mentions": {"user_ids": [ME]}}).highlight)
        self.assertEqual(["notify"], list(run(OTHERS, {"body": "hello"}).json))

    def test_who_knows_no_subscriptions(self) -> None:
        self.assertEqual(["notify"], list(run(None).json))

    def test_between_content_and_room(self) -> None:
        ruleset = parse_ruleset(None, ME)
        ruleset.put("room", ROOM, {"actions": []}, None, None)
        self.assertTrue(run(SUBSCRIBED, ruleset=ruleset).notify)
        ruleset.put("content", "hello", {"pattern": "hello", "actions": ["notify"]}, None, None)
        self.assertTrue(run(OTHERS, ruleset=ruleset).notify)
        for rule in ruleset.kinds["postcontent"]:
            ruleset.set_enabled("postcontent", rule["rule_id"], False)
        ruleset.drop("content", "hello")
        self.assertFalse(run(SUBSCRIBED, ruleset=ruleset).notify)

    def test_nonsense(self) -> None:
        for subscribed in (1, None, "true"):
            json = {"kind": "io.element.msc4306.thread_subscription", "subscribed": subscribed}
            test = compile_condition(json).test
            self.assertFalse(test(view(content=IN_THREAD), replace(facts(), threads=SUBSCRIBED)))
        nonsense: tuple[Any, ...] = (
            [],
            "x",
            {"rel_type": "m.thread"},
            {"rel_type": "m.thread", "event_id": 1},
        )
        for relates_to in nonsense:
            self.assertTrue(run(OTHERS, {"body": "hello", "m.relates_to": relates_to}).notify)
