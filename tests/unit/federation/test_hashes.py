"""Content hashes, reference hashes and event ids, against an independent calculation with the reference library."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from canonicaljson import encode_canonical_json
from twisted.trial.unittest import SynchronousTestCase

from federation.errors import Malformed
from federation.hashes import (
    check_content_hash,
    compute_event_id,
    content_hash,
    hash_in_event_id,
    reference_hash,
    unpadded,
)
from federation.redaction import redact
from federation.versions import ROOM_VERSIONS
from tests.unit.federation.samples import V1, V3, V4, V12, make


def slow_hash(value: dict[str, Any], *, without: tuple[str, ...], urlsafe: bool = False) -> str:
    kept = {key: item for key, item in value.items() if key not in without}
    digest = hashlib.sha256(encode_canonical_json(kept)).digest()
    return (base64.urlsafe_b64encode if urlsafe else base64.b64encode)(digest).decode().rstrip("=")


class Hashes(SynchronousTestCase):
    def test_unpadded_base64_examples(self) -> None:
        for text, expected in (("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")):
            self.assertEqual(unpadded(text.encode()), expected)

    def test_content_hash_of_the_specification(self) -> None:
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
        expected = "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g"
        self.assertEqual(content_hash(event), expected)
        self.assertEqual(content_hash({**event, "hashes": {"sha256": "x"}}), expected)
        self.assertTrue(check_content_hash({**event, "hashes": {"sha256": expected}}, V1))
        self.assertTrue(check_content_hash({**event, "hashes": {"sha256": expected + "="}}, V1))
        # The same bytes with other unused bits in the last character.
        self.assertTrue(check_content_hash({**event, "hashes": {"sha256": expected[:-1] + "h"}}, V1))
        hashes: Any
        for hashes in ({}, None, {"sha256": 5}, {"sha256": "é"}, {"sha256": expected[:-1] + "k"}, []):
            self.assertFalse(check_content_hash({**event, "hashes": hashes}, V1))

    def test_reference_hash_and_event_id(self) -> None:
        for rules in ROOM_VERSIONS.values():
            event, _ = make(rules, state_key="x", content={"a": 1})
            redacted = redact(event.json, rules)
            reference = slow_hash(redacted, without=("signatures", "unsigned"))
            self.assertEqual(reference_hash(event.json, rules), reference)
            self.assertEqual(event.reference().sha256, reference)
            if rules.event_ids_are_hashes:
                self.assertEqual(hash_in_event_id(event.event_id, rules), reference)
                urlsafe = rules.version != "3"
                expected = slow_hash(redacted, without=("signatures", "unsigned"), urlsafe=urlsafe)
                self.assertEqual(event.event_id, "$" + expected)
            else:
                self.assertEqual(event.event_id, "$local1:example.org")

    def test_ids_ignore_signatures_and_unsigned_and_redaction(self) -> None:
        event, _ = make(V12)
        changed = {
            **event.json,
            "signatures": {"x": {"y": "z"}},
            "unsigned": {"a": 1},
            "content": {"other": 1},
        }
        self.assertEqual(compute_event_id(changed, V12), event.event_id)
        self.assertNotEqual(compute_event_id({**event.json, "depth": 6}, V12), event.event_id)
        self.assertFalse(check_content_hash(changed, V12))

    def test_url_safety_by_version(self) -> None:
        with_slash = next(
            event
            for event in (make(V3, depth=depth)[0] for depth in range(1, 200))
            if {"/", "+"} <= set(event.event_id)
        )
        self.assertEqual(
            compute_event_id(with_slash.json, V4), with_slash.event_id.replace("/", "_").replace("+", "-")
        )

    def test_missing_explicit_id(self) -> None:
        self.assertRaises(Malformed, compute_event_id, {"type": "x"}, V1)
