"""Rulesets and their evaluation. spec: client-server-api#push-rules"""

from __future__ import annotations

from typing import Any
from unittest import TestCase

import msgspec

from homeserver.http.errors import MatrixError, UserLimitReachedError
from homeserver.push import rules as module
from homeserver.push import rulesets
from homeserver.push.conditions import ME as OWNER
from homeserver.push.rules import Actions, compile_rules, evaluate
from homeserver.push.rulesets import Ruleset, parse_ruleset
from tests.unit.push.samples import ME, ROOM, facts, power, view

NOTIFY = ["notify"]
HIGHLIGHT = ["notify", {"set_tweak": "highlight"}]
SOUND = {"set_tweak": "sound", "value": "default"}


def run(ruleset: Ruleset, *args: Any, joined: int = 10, levels: Any = None, **kwargs: Any) -> Actions:
    return evaluate(compile_rules(ruleset.kinds), view(*args, **kwargs), facts(joined, levels=levels))


class Defaults(TestCase):
    def check(self, actions: list[Any], *args: Any, **kwargs: Any) -> None:
        # A user's own set, and the one that all share who never changed it.
        for owner in (ME, OWNER):
            self.assertEqual(actions, list(run(parse_ruleset(None, owner), *args, **kwargs).json))

    def test_messages(self) -> None:
        self.check(NOTIFY)
        self.check(["notify", SOUND], joined=2)
        self.check([], content={"msgtype": "m.notice", "body": "x"})
        self.check([], content={"body": "x", "m.relates_to": {"rel_type": "m.replace", "event_id": "$x"}})
        self.check(NOTIFY, "m.room.encrypted", {})
        self.check(["notify", SOUND], "m.room.encrypted", {}, joined=2)
        self.check([], "m.room.topic", {}, state_key="")
        self.check([], "m.reaction", {})
        self.check(["notify", {"set_tweak": "sound", "value": "ring"}], "m.call.invite", {})

    def test_polls(self) -> None:
        for poll in ("m.poll", "org.matrix.msc3381.poll"):
            for what in ("start", "end"):
                self.check(NOTIFY, f"{poll}.{what}", {})
                self.check(["notify", SOUND], f"{poll}.{what}", {}, joined=2)
                # Unlike a pattern, a value is as it is.
                self.check([], f"{poll}.{what}".upper(), {})
            self.check([], f"{poll}.response", {}, joined=2)

    def test_mentions(self) -> None:
        self.check(["notify", SOUND, {"set_tweak": "highlight"}], content={"m.mentions": {"user_ids": [ME]}})
        self.check(NOTIFY, content={"m.mentions": {"user_ids": ["@you:x"]}})
        self.check(NOTIFY, content={"m.mentions": {"room": True}})
        self.check(HIGHLIGHT, content={"m.mentions": {"room": True}}, levels=power({"@other:x": 50}))
        self.check(NOTIFY, content={"m.mentions": {"room": 1}}, levels=power({"@other:x": 50}))

    def test_state(self) -> None:
        self.check(["notify", SOUND], "m.room.member", {"membership": "invite"}, state_key=ME)
        self.check([], "m.room.member", {"membership": "invite"}, state_key="@you:x")
        self.check([], "m.room.member", {"membership": "join"}, state_key=ME)
        self.check(HIGHLIGHT, "m.room.tombstone", {}, state_key="")
        self.check([], "m.room.tombstone", {})
        self.check([], "m.room.server_acl", {}, state_key="")

    def test_all_of_the_specification(self) -> None:
        kinds = parse_ruleset(None, ME).kinds
        self.assertEqual(
            ["master", "suppress_notices", "invite_for_me", "member_event", "is_user_mention", "is_room_mention",
             "tombstone", "reaction", "room.server_acl", "poll_response",
             ".org.matrix.msc3930.rule.poll_response", "suppress_edits"],
            [rule["rule_id"].removeprefix(".m.rule.") for rule in kinds["override"]],
        )  # fmt: skip
        self.assertEqual(
            ["call", "encrypted_room_one_to_one", "room_one_to_one", "message", "encrypted"],
            [rule["rule_id"].removeprefix(".m.rule.") for rule in kinds["underride"]][:5],
        )
        # MSC3930 gives the order.
        polls = ["poll_start_one_to_one", "poll_start", "poll_end_one_to_one", "poll_end"]
        self.assertEqual(
            [prefix + name for prefix in (".m.rule.", ".org.matrix.msc3930.rule.") for name in polls],
            [rule["rule_id"] for rule in kinds["underride"]][5:],
        )
        self.assertEqual([[], [], []], [kinds[kind] for kind in ("content", "room", "sender")])


class Order(TestCase):
    def test_kinds(self) -> None:
        """Each kind wins over those after it."""
        ruleset = parse_ruleset(None, ME)
        for kind, rule_id in (
            ("underride", "u"), ("sender", "@other:x"), ("room", ROOM), ("content", "c"), ("override", "o"),
        ):  # fmt: skip
            body = {"actions": ["notify", {"set_tweak": "from", "value": kind}], "pattern": "hello"}
            ruleset.put(kind, rule_id, body, None, None)
            self.assertEqual(kind, run(ruleset).json[1]["value"])
        ruleset.set_enabled("override", ".m.rule.master", True)
        self.assertEqual(module.NOTHING, run(ruleset))

    def test_own_rules_come_before_the_servers(self) -> None:
        ruleset = parse_ruleset(None, ME)
        ruleset.put("override", "own", {"actions": NOTIFY}, None, None)
        self.assertEqual(
            [".m.rule.master", "own"], [rule["rule_id"] for rule in ruleset.kinds["override"]][:2]
        )
        self.assertTrue(run(ruleset, "m.reaction", {}).notify)

    def test_places(self) -> None:
        ruleset = parse_ruleset(None, ME)

        def put(rule_id: str, before: str | None = None, after: str | None = None) -> str:
            ruleset.put("content", rule_id, {"actions": [], "pattern": "x"}, before, after)
            return "".join(rule["rule_id"] for rule in ruleset.kinds["content"])

        self.assertEqual(
            ["a", "ba", "bca", "bcad", "bcade", "ebcad", "ebcad", "bcdae"],
            [put("a"), put("b"), put("c", "a"), put("d", None, "a"), put("e", None, "d"), put("e", "b"), put("e"),
             put("e", "d", "b") and put("d", "a") and "".join(r["rule_id"] for r in ruleset.kinds["content"])],
        )  # fmt: skip

    def test_update_keeps_place_and_switch(self) -> None:
        ruleset = parse_ruleset(None, ME)
        for rule_id in ("a", "b"):
            ruleset.put("room", rule_id, {"actions": []}, None, None)
        ruleset.set_enabled("room", "a", False)
        ruleset.put("room", "a", {"actions": NOTIFY}, None, None)
        expected = {"rule_id": "a", "default": False, "enabled": False, "actions": NOTIFY}
        self.assertEqual(expected, ruleset.kinds["room"][1])


class Compiling(TestCase):
    def test_many_types(self) -> None:
        """Beyond the types that have lists of their own, rules work all the same."""
        ruleset = parse_ruleset(None, ME)
        for number in range(100):
            condition = {"kind": "event_match", "key": "type", "pattern": f"t{number}"}
            actions = ["notify", {"set_tweak": "n", "value": number}]
            ruleset.put("override", f"r{number}", {"actions": actions, "conditions": [condition]}, None, None)
        for number in range(100):
            self.assertEqual(number, run(ruleset, f"T{number}", {}).json[1]["value"])
        self.assertEqual(NOTIFY, list(run(ruleset).json))
        self.assertEqual(module.NOTHING, run(ruleset, "t100", {}))

    def test_rules_of_many_rooms(self) -> None:
        """Clients mute a room by a rule that names it: it counts there alone, and in the order of all rules."""
        ruleset = parse_ruleset(None, ME)
        words = {"kind": "event_match", "key": "content.body", "pattern": "hello"}
        ruleset.put("override", "word", {"actions": HIGHLIGHT, "conditions": [words]}, None, None)
        for number in range(300):
            room = {"kind": "event_match", "key": "room_id", "pattern": f"!{number}:{'x' * 40}"}
            ruleset.put("override", f"r{number}", {"actions": [], "conditions": [room]}, None, None)
        self.assertEqual(HIGHLIGHT, list(run(ruleset).json))
        here = {"kind": "event_match", "key": "room_id", "pattern": ROOM.upper()}
        topic = {"kind": "event_match", "key": "type", "pattern": "m.room.topic"}
        ruleset.put("override", "topics", {"actions": NOTIFY, "conditions": [here, topic]}, None, None)
        ruleset.put("override", "mute", {"actions": [], "conditions": [here]}, None, "word")
        for _ in range(2):
            rules = compile_rules(ruleset.kinds)
            found = [
                list(evaluate(rules, one, facts()).json)
                for one in (view(), view(content={"body": "x"}), view("m.room.topic", {}, state_key=""))
            ]
            self.assertEqual([HIGHLIGHT, [], NOTIFY], found)
        ruleset.put("override", "mute", {"actions": [], "conditions": [here]}, "word", None)
        self.assertEqual([], list(run(ruleset).json))

    def test_two_types_at_once(self) -> None:
        ruleset = parse_ruleset(None, ME)
        both = [{"kind": "event_match", "key": "type", "pattern": name} for name in ("a", "b")]
        ruleset.put("override", "r", {"actions": NOTIFY, "conditions": both}, None, None)
        self.assertEqual([False] * 2, [run(ruleset, name, {}).notify for name in ("a", "b")])

    def test_highlight(self) -> None:
        for actions, expected in (
            (HIGHLIGHT, True),
            (["notify", {"set_tweak": "highlight", "value": True}], True),
            (["notify", {"set_tweak": "highlight", "value": False}], False),
            (["notify", {"set_tweak": "highlight", "value": 1}], False),
            ([{"set_tweak": "highlight"}], False),
            (NOTIFY, False),
        ):
            self.assertEqual(expected, module.parse_actions(actions).highlight, actions)


class Stored(TestCase):
    def test_round_trip(self) -> None:
        ruleset = parse_ruleset(None, ME)
        ruleset.put("content", "c", {"actions": NOTIFY, "pattern": "x"}, None, None)
        ruleset.set_actions("underride", ".m.rule.message", [])
        ruleset.set_enabled("override", ".m.rule.reaction", False)
        again = parse_ruleset(ruleset.to_json().decode(), ME)
        self.assertEqual(ruleset.kinds, again.kinds)

    def test_todays_defaults_with_the_users_choices(self) -> None:
        stored = {
            "global": {
                "override": [
                    {"rule_id": ".m.rule.reaction", "default": True, "enabled": False, "actions": NOTIFY},
                    {"rule_id": ".m.rule.gone", "default": True, "enabled": True, "actions": NOTIFY},
                ]
            }
        }
        ruleset = parse_ruleset(msgspec.json.encode(stored).decode(), ME)
        rule = ruleset.find("override", ".m.rule.reaction")
        self.assertEqual((False, NOTIFY, 1), (rule["enabled"], rule["actions"], len(rule["conditions"])))
        self.assertEqual(12, len(ruleset.kinds["override"]))


class Refusals(TestCase):
    def refuse(self, errcode: str, kind: str, rule_id: str, body: Any, *places: str | None) -> None:
        ruleset = parse_ruleset(None, ME)
        before, after = (*places, None, None)[:2]
        with self.assertRaises(MatrixError) as caught:
            ruleset.put(kind, rule_id, body, before, after)
        self.assertEqual(errcode, caught.exception.errcode, body)

    def test_rule_ids_and_places(self) -> None:
        body = {"actions": [], "pattern": "x"}
        for rule_id in (".own", "a/b", "a\\b", "x" * 256):
            self.refuse("M_INVALID_PARAM", "content", rule_id, body)
        self.refuse("M_INVALID_PARAM", "device", "x", body)
        self.refuse("M_UNKNOWN", "override", "x", body, "absent")
        self.refuse("M_UNKNOWN", "override", "x", body, None, "absent")
        self.refuse("M_INVALID_PARAM", "override", "x", body, ".m.rule.reaction")
        self.refuse("M_INVALID_PARAM", "override", "x", body, "x")

    def test_bodies(self) -> None:
        for errcode, body in (
            ("M_MISSING_PARAM", {}),
            ("M_BAD_JSON", {"actions": {}}),
            ("M_BAD_JSON", {"actions": [1]}),
            ("M_BAD_JSON", {"actions": [{"x": 1}]}),
            ("M_INVALID_PARAM", {"actions": ["x"] * 100}),
            ("M_BAD_JSON", {"actions": [], "conditions": {}}),
            ("M_BAD_JSON", {"actions": [], "conditions": [1]}),
            ("M_MISSING_PARAM", {"actions": [], "conditions": [{}]}),
            ("M_INVALID_PARAM", {"actions": [], "conditions": [{"kind": "x"}] * 100}),
            ("M_MISSING_PARAM", {"actions": [], "conditions": [{"kind": "event_match", "key": "x"}]}),
            (
                "M_BAD_JSON",
                {"actions": [], "conditions": [{"kind": "event_match", "key": 1, "pattern": "x"}]},
            ),
            (
                "M_INVALID_PARAM",
                {"actions": [], "conditions": [{"kind": "event_match", "key": "." * 600, "pattern": "x"}]},
            ),
            ("M_BAD_JSON", {"actions": [], "conditions": [{"kind": "x", "pattern": 1}]}),
            ("M_MISSING_PARAM", {"actions": [], "conditions": [{"kind": "room_member_count"}]}),
            ("M_MISSING_PARAM", {"actions": [], "conditions": [{"kind": "event_property_is", "key": "x"}]}),
            (
                "M_BAD_JSON",
                {"actions": [], "conditions": [{"kind": "event_property_is", "key": "x", "value": {}}]},
            ),
        ):
            self.refuse(errcode, "override", "x", body)
        self.refuse("M_MISSING_PARAM", "content", "x", {"actions": []})
        self.refuse("M_BAD_JSON", "content", "x", {"actions": [], "pattern": 1})
        with self.assertRaises(UserLimitReachedError):
            parse_ruleset(None, ME).put("content", "x", {"actions": [], "pattern": "x" * 5_000}, None, None)

    def test_words_and_globs_are_bounded_together(self) -> None:
        ruleset = parse_ruleset(None, ME)
        long = "x" * 2_000
        for number, (key, pattern) in enumerate(
            (("room_id", long), ("content.body", long), ("type", f"{long}*"), ("sender", long))
        ):
            condition = {"kind": "event_match", "key": key, "pattern": pattern}
            ruleset.put("override", f"r{number}", {"actions": [], "conditions": [condition]}, None, None)
        ruleset.set_actions("override", "r1", NOTIFY)
        with self.assertRaises(UserLimitReachedError):
            ruleset.put("content", "one more", {"actions": [], "pattern": "x" * 100}, None, None)

    def test_amount(self) -> None:
        ruleset = parse_ruleset(None, ME)
        for number in range(rulesets.MAX_RULES):
            ruleset.kinds["room"].append(
                {"rule_id": str(number), "default": False, "enabled": True, "actions": []}
            )
        with self.assertRaises(UserLimitReachedError):
            ruleset.put("room", "one more", {"actions": []}, None, None)

    def test_historical_actions_are_dropped(self) -> None:
        ruleset = parse_ruleset(None, ME)
        ruleset.put("room", "r", {"actions": ["dont_notify", "coalesce", "notify"]}, None, None)
        self.assertEqual(NOTIFY, ruleset.find("room", "r")["actions"])
