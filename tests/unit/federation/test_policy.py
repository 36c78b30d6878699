"""Policy servers. # spec: server-server-api#policy-servers"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from federation import policy
from federation.errors import Malformed
from federation.event import Event
from federation.hashes import redacted_bytes, unpadded
from federation.ids import ServerName
from federation.signing import SigningKey, with_signatures
from federation.verdict import ACCEPT, SoftFail
from tests.unit.federation.samples import V1, V12, make

NAME = ServerName("policy.example")
KEY = SigningKey.from_seed(NAME, "policy_server", b"\x0b" * 32)
CONTENT = {"via": NAME, "public_keys": {"ed25519": unpadded(KEY.public_key)}}
POLICY = policy.PolicyServer(NAME, KEY.public_key)


def approve(event: Event, key: SigningKey = KEY) -> Event:
    signature = unpadded(key.sign(redacted_bytes(event.json, event.rules)))
    return with_signatures(event, policy.parse_sign_response({NAME: {key.key_id: signature}}, POLICY))


class Configuration(SynchronousTestCase):
    def test_valid(self) -> None:
        self.assertEqual(policy.parse_policy(CONTENT), POLICY)

    def test_not_enabled(self) -> None:
        contents: tuple[dict[str, Any], ...] = (
            {},
            {"via": NAME},
            {**CONTENT, "via": 7},
            {**CONTENT, "via": "a b"},
            {**CONTENT, "public_keys": []},
            {**CONTENT, "public_keys": {}},
            {**CONTENT, "public_keys": {"ed25519": 7}},
        )
        for content in contents:
            self.assertIsNone(policy.parse_policy(content), content)

    def test_a_string_that_is_no_key_enables_but_never_verifies(self) -> None:
        for text in ("", "?", "AAAA"):
            server = policy.parse_policy({**CONTENT, "public_keys": {"ed25519": text}})
            assert server is not None
            self.assertIsInstance(policy.check(approve(make(V12)[0]), server), SoftFail)


class Approval(SynchronousTestCase):
    def test_check(self) -> None:
        for rules in (V1, V12):
            event, _ = make(rules)
            self.assertEqual(policy.check(event, None), ACCEPT)
            self.assertIsInstance(policy.check(event, POLICY), SoftFail)
            self.assertEqual(policy.check(approve(event), POLICY), ACCEPT)
            wrong = SigningKey.from_seed(NAME, "policy_server", b"\x0c" * 32)
            self.assertIsInstance(policy.check(approve(event, wrong), POLICY), SoftFail)
            other = make(rules, depth=6)[0]
            moved = with_signatures(other, {NAME: approve(event).json["signatures"][NAME]})
            self.assertIsInstance(policy.check(moved, POLICY), SoftFail)
            for odd in ("?", "AAAA", ""):
                bad = with_signatures(event, {NAME: {"ed25519:policy_server": odd}})
                self.assertIsInstance(policy.check(bad, POLICY), SoftFail)

    def test_exemption(self) -> None:
        self.assertEqual(policy.check(make(V12, "m.room.policy", state_key="")[0], POLICY), ACCEPT)
        for event in (
            make(V12, "m.room.policy")[0],
            make(V12, "m.room.policy", state_key="x")[0],
            make(V12, "m.room.member", state_key="")[0],
        ):
            self.assertIsInstance(policy.check(event, POLICY), SoftFail)

    def test_answers(self) -> None:
        good = {"ed25519:policy_server": unpadded(b"s" * 64), "ed25519:other": "x"}
        self.assertEqual(
            policy.parse_sign_response({NAME: good, "evil.example": {"ed25519:1": "x"}}, POLICY),
            {NAME: {"ed25519:policy_server": unpadded(b"s" * 64)}},
        )
        bad: Any
        for bad in (
            None,
            [],
            {},
            {NAME: []},
            {NAME: {}},
            {NAME: {"ed25519:policy_server": 7}},
            {NAME: {"ed25519:policy_server": "AAAA"}},
        ):
            self.assertRaises(Malformed, policy.parse_sign_response, bad, POLICY)
