"""Registration files of application services: what is understood, and every way to get one wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from homeserver.config.load import ConfigError
from homeserver.config.registrations import (
    AppserviceRegistration,
    Pattern,
    any_matches,
    load_registrations,
    parse_registration,
)
from homeserver.config.schema import Config

SERVER = "chat.example.org"

# As the specification's example, with what a bridge of today adds.
GOOD = r"""
id: "IRC Bridge"
url: "http://127.0.0.1:1234/base/"
as_token: "as-secret"
hs_token: "hs-secret"
sender_localpart: "_irc_bot"
namespaces:
  users:
    - exclusive: true
      regex: '@_irc_bridge_.*:chat\.example\.org'
  aliases:
    - {exclusive: false, regex: "#_irc_bridge_.*", group_id: "+old"}
  rooms: []
rate_limited: false
protocols: [irc, irc]
receive_ephemeral: true
de.sorunome.msc2409.push_ephemeral: true
org.matrix.msc3202: true
io.element.msc4190: true
com.example.unknown: {anything: 1}
"""


def parse(text: str) -> AppserviceRegistration:
    return parse_registration(text.encode(), SERVER, "irc.yaml")


class Parsing(SynchronousTestCase):
    def problems(self, text: str) -> list[str]:
        with self.assertRaises(ConfigError) as caught:
            parse(text)
        return caught.exception.problems

    def test_good(self) -> None:
        found = parse(GOOD)
        self.assertEqual(("IRC Bridge", "http://127.0.0.1:1234/base"), (found.id, found.url))
        self.assertEqual(("as-secret", "hs-secret"), (found.as_token, found.hs_token))
        self.assertEqual(("irc",), found.protocols)
        self.assertFalse(found.rate_limited)
        self.assertTrue(found.wants_ephemeral and found.encryption)
        self.assertTrue(any_matches(found.users, "@_irc_bridge_x:chat.example.org", exclusive=True))
        self.assertFalse(any_matches(found.users, "@x:chat.example.org"))
        self.assertTrue(any_matches(found.aliases, "#_irc_bridge_#x:chat.example.org"))
        self.assertFalse(any_matches(found.aliases, "#_irc_bridge_#x:chat.example.org", exclusive=True))

    def test_defaults(self) -> None:
        found = parse("{id: a, url: null, as_token: b, hs_token: c, sender_localpart: d, namespaces: {}}")
        self.assertIsNone(found.url)
        self.assertTrue(found.rate_limited)
        self.assertFalse(found.wants_ephemeral or found.encryption)

    def test_one_line_for_each_mistake(self) -> None:
        for before, after, expected in (
            ('id: "IRC Bridge"', "", "id: required"),
            ('id: "IRC Bridge"', "id: 5", "id: must be text; put it into quotes"),
            ("http://127.0.0.1:1234/base/", "ftp://x", "url: must be a URL like https://chat.example.org"),
            ("http://127.0.0.1:1234/base/", "http://x:99999", "url: is not a well-formed URL"),
            ("as-secret", "two words", "as_token: must be ASCII without spaces, as it stands in a header"),
            ("_irc_bot", "Upper Case", "sender_localpart: 'Upper Case' makes no user id"),
            ("exclusive: true", "exclusive: maybe", "namespaces.users[0].exclusive: must be true or false"),
            ("rooms: []", "rooms: 5", "namespaces.rooms: must be a list of at most 1000 items"),
            ("rooms: []", "rooms: [5]", "namespaces.rooms[0]: must hold exclusive and regex"),
            ("rate_limited: false", "rate_limited: 1", "rate_limited: must be true or false"),
            ("[irc, irc]", "[5]", "protocols: must be names"),
            ("[irc, irc]", "irc", "protocols: must be a list of at most 100 names"),
        ):
            self.assertEqual([f"irc.yaml: {expected}"], self.problems(GOOD.replace(before, after, 1)), after)
        (problem,) = self.problems(GOOD.replace("#_irc_bridge_.*", "(#", 1))
        self.assertTrue(
            problem.startswith("irc.yaml: namespaces.aliases[0].regex: not an expression"), problem
        )
        self.assertEqual(["irc.yaml: namespaces: required"], self.problems(GOOD.partition("namespaces")[0]))
        self.assertEqual(["irc.yaml: expected keys and values, not a list"], self.problems("[]"))
        self.assertIn("irc.yaml:1:", self.problems("id: [")[0])

    def test_tokens_are_not_shown(self) -> None:
        shown = "\n".join(self.problems(GOOD.replace("as-secret", "very secret")))
        self.assertNotIn("very", shown)

    @given(st.text(max_size=200))
    @settings(max_examples=100)
    def test_any_text(self, text: str) -> None:
        try:
            parse(text)
        except ConfigError as error:
            self.assertTrue(error.problems)

    def test_no_expression_takes_long(self) -> None:
        # An engine that tries every way would not end within this century, and the runner would say so.
        self.assertFalse(Pattern("@(a*)*b").matches("@" + "a" * 250))
        for refused in ("(?!a)", r"(a)\1", "((((a{100}){100}){100}){100})"):
            with self.assertRaises(ValueError):
                Pattern(refused)


class Loading(SynchronousTestCase):
    def config(self, *texts: str) -> Config:
        folder = Path(self.mktemp())
        folder.mkdir()
        paths = []
        for number, text in enumerate(texts):
            paths.append(folder / f"{number}.yaml")
            paths[-1].write_text(text)
        return replace(Config(server_name=SERVER), appservices=tuple(paths))

    def test_several(self) -> None:
        other = GOOD.replace("IRC Bridge", "x").replace("-secret", "-2").replace("_irc_bot", "_x")
        found = load_registrations(self.config(GOOD, other))
        self.assertEqual(["IRC Bridge", "x"], [one.id for one in found])
        self.assertEqual((), load_registrations(self.config()))

    def test_twice_the_same(self) -> None:
        with self.assertRaises(ConfigError) as caught:
            load_registrations(self.config(GOOD, GOOD))
        self.assertEqual(
            [
                f"appservices: IRC Bridge and IRC Bridge have the same {what}"
                for what in ("id", "as_token", "hs_token", "sender_localpart")
            ],
            caught.exception.problems,
        )

    def test_missing_file(self) -> None:
        config = replace(Config(server_name=SERVER), appservices=(Path("/nowhere/x.yaml"),))
        with self.assertRaises(ConfigError) as caught:
            load_registrations(config)
        self.assertEqual(
            ["appservices: /nowhere/x.yaml: No such file or directory"], caught.exception.problems
        )
