"""Signatures. # spec: appendices#cryptographic-test-vectors"""

from __future__ import annotations

from itertools import product
from typing import Any

from signedjson.key import decode_verify_key_bytes
from signedjson.sign import verify_signed_json
from twisted.trial.unittest import SynchronousTestCase

from federation.errors import Malformed
from federation.event import MAX_PDU_BYTES, Event, parse_untrusted, stored_bytes
from federation.hashes import decode_base64
from federation.ids import KeyId, ServerName
from federation.redaction import redact
from federation.signing import (
    SigningKey,
    hash_and_sign_event,
    merge_signatures,
    required_signers,
    sign_event,
    sign_json,
    signature_key_ids,
    verify_bytes,
    verify_event_signatures,
    verify_json,
    with_signatures,
)
from federation.verdict import Accept, Drop
from federation.versions import ROOM_VERSIONS
from tests.unit.federation.samples import KEY, KEYS, OTHER_KEY, SERVER, V1, V4, V6, V12, make

VECTOR_KEY = SigningKey.from_text(
    ServerName("domain"), "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"
)


class Vectors(SynchronousTestCase):
    def signed(self, value: dict[str, Any]) -> str:
        signature: str = value["signatures"]["domain"]["ed25519:1"]
        return signature

    def test_json(self) -> None:
        self.assertEqual(
            sign_json({}, VECTOR_KEY),
            {
                "signatures": {
                    "domain": {
                        "ed25519:1": "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"
                    }
                }
            },
        )
        self.assertEqual(
            self.signed(sign_json({"one": 1, "two": "Two"}, VECTOR_KEY)),
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
        )

    def test_minimal_event(self) -> None:
        event = {
            "room_id": "!x:domain",
            "sender": "@a:domain",
            "origin": "domain",
            "origin_server_ts": 1000000,
            "signatures": {},
            "hashes": {},
            "type": "X",
            "content": {},
            "prev_events": [],
            "auth_events": [],
            "depth": 3,
            "unsigned": {"age_ts": 1000000},
        }
        signed = hash_and_sign_event(event, V1, VECTOR_KEY)
        self.assertEqual(signed["hashes"]["sha256"], "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos")
        self.assertEqual(
            self.signed(signed),
            "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
        )
        self.assertEqual(signed["unsigned"], {"age_ts": 1000000})

    def test_redactable_event(self) -> None:
        event = {
            "content": {"body": "Here is the message content"},
            "event_id": "$0:domain",
            "origin": "domain",
            "origin_server_ts": 1000000,
            "type": "m.room.message",
            "room_id": "!r:domain",
            "sender": "@u:domain",
            "signatures": {},
            "unsigned": {"age_ts": 1000000},
        }
        signed = hash_and_sign_event(event, V1, VECTOR_KEY)
        self.assertEqual(
            self.signed(signed),
            "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
        )
        self.assertEqual(signed["content"], event["content"])


class Keys(SynchronousTestCase):
    def test_text_form(self) -> None:
        text = "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n"
        # The example sets unused bits of the last character; written out, they are zero.
        self.assertEqual(VECTOR_KEY.to_text(), text.replace("XA1", "XA0"))
        self.assertEqual(SigningKey.from_text(VECTOR_KEY.server_name, VECTOR_KEY.to_text()), VECTOR_KEY)
        self.assertEqual(VECTOR_KEY.key_id, "ed25519:1")
        self.assertEqual(
            SigningKey.from_text(VECTOR_KEY.server_name, "\n" + text + "ed25519 2 " + "A" * 43), VECTOR_KEY
        )
        self.assertNotIn("YJDBA9", repr(VECTOR_KEY))
        self.assertNotIn(repr(VECTOR_KEY._secret), repr(VECTOR_KEY))

    def test_bad_text(self) -> None:
        for text in (
            "",
            "x",
            "rsa 1 AAAA",
            "ed25519 1",
            "ed25519 a-b " + "A" * 43,
            "ed25519 1 AAAA",
            "ed25519 1 !!!!",
        ):
            self.assertRaises(Malformed, SigningKey.from_text, SERVER, text)

    def test_base64(self) -> None:
        for text in ("Zm8", "Zm8=", "Zm8=="):
            self.assertEqual(decode_base64(text), b"fo")
        self.assertEqual(decode_base64("-_8", urlsafe=True), b"\xfb\xff")
        for bad in ("Z", "Zm 8", "Zm8\n", "-_8", "é", "Zm=8", None, b"Zm8"):
            self.assertRaises(Malformed, decode_base64, bad)

    def test_verify_bytes_is_total(self) -> None:
        signature = KEY.sign(b"m")
        self.assertTrue(verify_bytes(KEY.public_key, b"m", signature))
        self.assertFalse(verify_bytes(KEY.public_key, b"n", signature))
        self.assertFalse(verify_bytes(OTHER_KEY.public_key, b"m", signature))
        for public_key, given in (
            (b"", signature),
            (KEY.public_key, b""),
            (KEY.public_key[:31], signature),
            (b"\x00" * 32, signature),
        ):
            self.assertFalse(verify_bytes(public_key, b"m", given))


class Json(SynchronousTestCase):
    def test_round_trip_and_interoperability(self) -> None:
        value = {"a": [1, {"b": None}], "unsigned": {"x": 1}, "signatures": {"other": {"ed25519:x": "sig"}}}
        signed = sign_json(value, KEY)
        self.assertEqual(signed["signatures"]["other"], {"ed25519:x": "sig"})
        self.assertEqual(value["signatures"], {"other": {"ed25519:x": "sig"}})
        self.assertTrue(verify_json(signed, SERVER, KEYS[SERVER]))
        self.assertTrue(verify_json({**signed, "unsigned": {"x": 2}}, SERVER, KEYS[SERVER]))
        verify_signed_json(signed, SERVER, decode_verify_key_bytes(KEY.key_id, KEY.public_key))

    def test_refusals(self) -> None:
        signed = sign_json({"a": 1}, KEY)
        good = signed["signatures"][SERVER][KEY.key_id]
        for entity, keys, value in (
            ("other.example", KEYS[SERVER], signed),
            (SERVER, {}, signed),
            (SERVER, {KEY.key_id: OTHER_KEY.public_key}, signed),
            (SERVER, KEYS[SERVER], {**signed, "a": 2}),
            (SERVER, KEYS[SERVER], {**signed, "b": float("nan")}),
            (SERVER, KEYS[SERVER], {"a": 1}),
            (SERVER, KEYS[SERVER], {**signed, "signatures": {SERVER: {KEY.key_id: 7}}}),
            (SERVER, KEYS[SERVER], {**signed, "signatures": {SERVER: {KEY.key_id: "!" + good}}}),
            (SERVER, KEYS[SERVER], {**signed, "signatures": {SERVER: []}}),
            (SERVER, KEYS[SERVER], {**signed, "signatures": "x"}),
            # A key of another algorithm is not looked at, even if the table holds it.
            (SERVER, {KeyId("rsa:a"): KEY.public_key}, {**signed, "signatures": {SERVER: {"rsa:a": good}}}),
        ):
            self.assertFalse(verify_json(value, entity, keys), value)

    def test_a_wrong_signature_with_a_known_key_is_fatal(self) -> None:
        second = SigningKey.from_seed(SERVER, "second", b"\x05" * 32)
        both = sign_json(sign_json({"a": 1}, KEY), second)
        keys = {KEY.key_id: KEY.public_key, second.key_id: second.public_key}
        self.assertTrue(verify_json(both, SERVER, keys))
        both["signatures"][SERVER][second.key_id] = both["signatures"][SERVER][KEY.key_id]
        self.assertFalse(verify_json(both, SERVER, keys))
        self.assertTrue(verify_json(both, SERVER, KEYS[SERVER]))

    def test_key_ids_and_merging(self) -> None:
        self.assertEqual(signature_key_ids({"a": {"ed25519:1": "", "rsa:1": ""}}, "a"), ("ed25519:1",))
        self.assertEqual(signature_key_ids({"a": []}, "a"), ())
        old = {"a": {"k": "1"}}
        self.assertEqual(
            merge_signatures(old, {"a": {"l": "2"}, "b": {"m": "3"}}),
            {"a": {"k": "1", "l": "2"}, "b": {"m": "3"}},
        )
        self.assertEqual(old, {"a": {"k": "1"}})


class Events(SynchronousTestCase):
    def test_every_version(self) -> None:
        for rules in ROOM_VERSIONS.values():
            event, _ = make(rules, state_key="s")
            servers = required_signers(event)
            self.assertEqual(servers, {SERVER})
            self.assertEqual(verify_event_signatures(event, servers, KEYS), Accept())
            redacted = parse_untrusted(redact(event.json, rules), rules)
            self.assertEqual(redacted.event_id, event.event_id)
            self.assertEqual(verify_event_signatures(redacted, servers, KEYS), Accept())
            forged = parse_untrusted({**event.json, "depth": 6}, rules)
            self.assertIsInstance(verify_event_signatures(forged, servers, KEYS), Drop)
            self.assertIsInstance(verify_event_signatures(event, servers, {}), Drop)

    def member(self, rules: Any, **changes: Any) -> Event:
        content = {"membership": "join", **changes.pop("content", {})}
        return make(rules, "m.room.member", state_key="@bob:example.org", content=content, **changes)[0]

    def test_explicit_ids_need_their_server_too(self) -> None:
        event = parse_untrusted({**make(V1)[0].json, "event_id": "$x:other.example"}, V1)
        self.assertEqual(required_signers(event), {SERVER, "other.example"})
        signed = parse_untrusted(sign_event(sign_event(event.json, V1, KEY), V1, OTHER_KEY), V1)
        self.assertEqual(verify_event_signatures(signed, required_signers(signed), KEYS), Accept())
        only_one = parse_untrusted(sign_event({**event.json, "signatures": {}}, V1, KEY), V1)
        self.assertIsInstance(verify_event_signatures(only_one, required_signers(only_one), KEYS), Drop)

    def test_restricted_joins_need_the_authorising_server(self) -> None:
        content = {"join_authorised_via_users_server": "@carol:other.example"}
        event = self.member(V12, content=content)
        self.assertEqual(required_signers(event), {SERVER, "other.example"})
        self.assertIsInstance(verify_event_signatures(event, required_signers(event), KEYS), Drop)
        signed = parse_untrusted(sign_event(event.json, V12, OTHER_KEY), V12)
        self.assertEqual(verify_event_signatures(signed, required_signers(signed), KEYS), Accept())
        self.assertEqual(required_signers(self.member(V6, content=content)), {SERVER})
        for odd in ("carol", 7, "@carol:", None):
            event = self.member(V12, content={"join_authorised_via_users_server": odd})
            self.assertEqual(required_signers(event), {SERVER})

    def test_third_party_invites_need_no_sender_signature(self) -> None:
        content = {"membership": "invite", "third_party_invite": {"signed": {}}}
        self.assertEqual(required_signers(self.member(V4, content=content)), frozenset())
        self.assertEqual(required_signers(self.member(V1, content=content)), {SERVER})
        self.assertEqual(required_signers(self.member(V4, content={"third_party_invite": {}})), {SERVER})

    def test_a_signature_counts_for_the_size(self) -> None:
        for rules in (V1, V12):
            least = make(rules, content={"body": ""})
            more = len(stored_bytes(with_signatures(least[0], {"x.example": {"ed25519:k": "sig"}})))
            for size in (MAX_PDU_BYTES, MAX_PDU_BYTES - 10):
                event, stored = make(rules, content={"body": "x" * (size - len(least[1]))})
                self.assertEqual(size, len(stored))
                for add in (
                    lambda event=event: with_signatures(event, {"x.example": {"ed25519:k": "sig"}}),
                    lambda event=event, rules=rules: sign_event(event.json, rules, OTHER_KEY),
                ):
                    error = self.assertRaises(Malformed, add)
                    self.assertEqual((413, "M_TOO_LARGE"), (error.status, error.errcode))
            event, _ = make(rules, content={"body": "x" * (MAX_PDU_BYTES - more)})
            full = with_signatures(event, {"x.example": {"ed25519:k": "sig"}})
            self.assertEqual(MAX_PDU_BYTES, len(stored_bytes(full)))

    def test_an_invite_that_is_none_when_redacted_needs_them_all(self) -> None:
        """What check 3 makes of it is what the room is told, and that must be signed as what it is."""
        claims: tuple[Any, ...] = (1, None, [], {}, {"signed": {}})
        for rules, claim in product(ROOM_VERSIONS.values(), claims):
            content = {"membership": "invite", "third_party_invite": claim}
            whole = self.member(rules, content=content)
            others = frozenset() if rules.event_ids_are_hashes else {SERVER}
            self.assertEqual(others, required_signers(whole))
            wrong = parse_untrusted({**whole.json, "hashes": {"sha256": "AAAA"}}, rules)
            redacted = parse_untrusted(redact(wrong.json, rules), rules)
            is_told = "third_party_invite" in redacted.content
            self.assertEqual(rules.redaction.keep_third_party_signed and isinstance(claim, dict), is_told)
            self.assertEqual(others if is_told else {SERVER}, required_signers(wrong), (rules, claim))
            self.assertEqual(others if is_told else {SERVER}, required_signers(redacted))

    def test_further_signatures_change_neither_id_nor_original(self) -> None:
        event, _ = make(V12)
        more = with_signatures(event, {"policy.example": {"ed25519:policy_server": "sig"}})
        self.assertEqual(more.event_id, event.event_id)
        self.assertIn(SERVER, more.json["signatures"])
        self.assertNotIn("policy.example", event.json["signatures"])
        self.assertEqual(parse_untrusted(more.json, V12).event_id, event.event_id)
