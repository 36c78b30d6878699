"""An event is evaluated once for all who have the same rules, and each still gets their own answer.

spec: client-server-api#receiving-notifications
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from homeserver.push import recent
from homeserver.push.conditions import EventView, Facts
from homeserver.push.rules import Actions, CompiledRules
from tests.api.test_counts import V3, CountsCase

EVERYBODY = ("bob", "carol", "dan", "erin")


class SharedVerdicts(CountsCase):
    def setUp(self) -> None:
        super().setUp()
        self.tokens = {"bob": self.bob, "carol": self.carol}
        for name in ("dan", "erin"):
            self.tokens[name] = self.app.register(name)
            self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, self.tokens[name])
        for token in self.tokens.values():
            self.counts(token)
        self.evaluated = 0
        evaluate = CompiledRules.evaluate

        def counted(rules: CompiledRules, view: EventView, facts: Facts) -> Actions:
            self.evaluated += 1
            return evaluate(rules, view, facts)

        self.patch(CompiledRules, "evaluate", counted)

    def new_database(self, *args: Any, **kwargs: Any) -> str:
        return "sqlite::memory:"

    def every(self, threads: bool = False) -> Mapping[str, Any]:
        return {name: self.counts(token, threads) for name, token in self.tokens.items()}

    def all_but(self, others: Any, **own: Any) -> Mapping[str, Any]:
        return {name: own.get(name, others) for name in EVERYBODY}

    def mention(self, *names: str) -> str:
        mentioned = {"user_ids": [f"@{name}:test.example" for name in names]}
        return self.send(self.alice, content={"m.mentions": mentioned})

    def test_once_for_all(self) -> None:
        for _ in range(5):
            self.send(self.alice)
        self.assertEqual(self.all_but((5, 0)), self.every())
        # One more look: the first who asked had to learn how many are in the room.
        self.assertLessEqual(self.evaluated, 6)

    def test_whom_it_names_is_asked_for_alone(self) -> None:
        self.mention("bob")
        self.mention("dan", "bob")
        self.mention()
        self.assertEqual(self.all_but((3, 0), bob=(3, 2), dan=(3, 1)), self.every())
        self.mention("erin")
        self.assertEqual((4, 1), self.counts(self.tokens["erin"]))
        self.assertEqual(self.all_but((4, 0), bob=(4, 2), dan=(4, 1), erin=(4, 1)), self.every())

    def test_whom_it_names_may_be_very_many(self) -> None:
        self.patch(recent, "_NAMED_MOST_CHARACTERS", 30)
        self.mention(*(f"nobody{number}" for number in range(9)), "carol")
        self.assertEqual(self.all_but((1, 0), carol=(1, 1)), self.every())

    def test_ones_own_ignored_and_redacted(self) -> None:
        ignored: Any = {"ignored_users": {"@bob:test.example": {}}}
        self.app.ok(
            "PUT",
            f"{V3}/user/@dan:test.example/account_data/m.ignored_user_list",
            ignored,
            self.tokens["dan"],
        )
        self.send(self.bob)
        gone = self.send(self.alice)
        self.send(self.carol)
        self.assertEqual((2, 0), self.counts(self.bob))
        self.app.ok("PUT", f"{V3}/rooms/{self.room_id}/redact/{gone}/1", {}, self.alice)
        self.assertEqual({"bob": (1, 0), "carol": (0, 0), "dan": (1, 0), "erin": (2, 0)}, self.every())

    def test_who_subscribed_to_the_thread(self) -> None:
        root, other = self.send(self.alice), self.send(self.alice)
        for name, token in self.tokens.items():
            self.read(token, other)
            for one in {"bob": [root], "carol": [other], "dan": [root, other]}.get(name, []):
                path = f"/_matrix/client/unstable/io.element.msc4306/rooms/{self.room_id}/thread/{quote(one)}"
                self.app.ok("PUT", f"{path}/subscription", {}, token)
        for _ in range(2):
            self.in_thread(self.alice, root)
        heard: Any = ((0, 0), {root: (2, 0)})
        nothing: Any = ((0, 0), {})
        # Who never subscribed to any hears of all.
        for _ in range(2):
            self.assertEqual(
                {"bob": heard, "carol": nothing, "dan": heard, "erin": heard}, self.every(threads=True)
            )

    def test_own_rules_have_verdicts_of_their_own(self) -> None:
        for number, (name, token) in enumerate(self.tokens.items()):
            body = {"pattern": f"word{number}", "actions": ["notify", {"set_tweak": "highlight"}]}
            self.app.ok("PUT", f"{V3}/pushrules/global/content/{name}", body, token)
        self.patch(recent, "_RULES_MOST", 2)
        for number in range(3):
            self.send(self.alice, f"word{number}")
            highlighted = {name: (number + 1, int(place <= number)) for place, name in enumerate(EVERYBODY)}
            self.assertEqual(highlighted, self.every())

    def test_names_are_their_owners(self) -> None:
        named = {
            "conditions": [{"kind": "contains_display_name"}],
            "actions": ["notify", {"set_tweak": "highlight"}],
        }
        for token in self.tokens.values():
            self.app.ok("PUT", f"{V3}/pushrules/global/override/named", named, token)
        self.send(self.alice, "Hello bob!")
        self.send(self.alice, "Dan and Erin, hello!")
        self.assertEqual(self.all_but((2, 1), carol=(2, 0)), self.every())

    def test_what_moves_facts_ends_verdicts(self) -> None:
        two = {"conditions": [{"kind": "room_member_count", "is": "4"}], "actions": []}
        for name in ("bob", "carol"):
            self.app.ok("PUT", f"{V3}/pushrules/global/override/four", two, self.tokens[name])
        self.send(self.alice)
        self.assertEqual((1, 0), self.counts(self.bob))
        self.app.ok("POST", f"{V3}/rooms/{self.room_id}/leave", {}, self.tokens["erin"])
        self.send(self.alice)
        # Four are left: of what came since Carol looked nothing notifies by the rules and facts of the moment.
        self.assertEqual([(1, 0), (0, 0)], [self.counts(token) for token in (self.bob, self.carol)])

    def test_after_the_oldest_were_let_go(self) -> None:
        self.patch(recent, "MOST", 6)
        self.patch(recent, "_SLACK", 3)
        mentioned = 0
        for number in range(24):
            mentioned += number % 4 == 0
            self.mention(*(["bob"] if number % 4 == 0 else []))
            asked = (*(["bob"] if number % 2 else []), "carol", *(["dan"] if number % 5 == 0 else []))
            for name in asked:
                expected = (number + 1, mentioned if name == "bob" else 0)
                self.assertEqual(expected, self.counts(self.tokens[name]), (name, number))
