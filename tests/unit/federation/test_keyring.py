"""Keys of other servers. # spec: server-server-api#retrieving-server-keys"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from federation import keyring
from federation.errors import Malformed
from federation.hashes import unpadded
from federation.ids import KeyId, ServerName
from federation.keyring import MAX_VALIDITY_MS, ServerKeys, VerifyKey, merge, parse_key_response
from federation.signing import SigningKey, sign_json, verify_json
from federation.versions import ROOM_VERSIONS
from tests.unit.federation.samples import KEY, NOW_MS, OTHER_KEY, SERVER, V4, V12, make

OLD = VerifyKey(KeyId("ed25519:old"), b"\x09" * 32, NOW_MS - 1000, expired=True)
DAY_MS = 24 * 3600 * 1000
SECOND = SigningKey.from_seed(SERVER, "second", b"\x03" * 32)


def response(valid_until_ts_ms: int = NOW_MS + DAY_MS, **changes: Any) -> dict[str, Any]:
    data = keyring.build_key_response([KEY], [OLD], valid_until_ts_ms)
    data.update(changes)
    return sign_json(
        {key: item for key, item in data.items() if key != "signatures" and item is not ...}, KEY
    )


def parse(data: Any) -> ServerKeys:
    return parse_key_response(data, SERVER, NOW_MS)


class Parsing(SynchronousTestCase):
    def test_own_response_parses(self) -> None:
        keys = parse(keyring.build_key_response([KEY, SECOND], [OLD], NOW_MS + DAY_MS))
        self.assertEqual(set(keys.keys), {KEY.key_id, SECOND.key_id, OLD.key_id})
        self.assertEqual(keys.keys[OLD.key_id], OLD)
        self.assertEqual(keys.keys[KEY.key_id], VerifyKey(KEY.key_id, KEY.public_key, NOW_MS + DAY_MS))
        self.assertEqual(keys.refresh_after_ts_ms(), NOW_MS + DAY_MS // 2)
        self.assertRaises(ValueError, keyring.build_key_response, [], [], 0)

    def test_validity_is_capped(self) -> None:
        keys = parse(response(NOW_MS + 365 * DAY_MS))
        self.assertEqual(keys.valid_until_ts_ms, NOW_MS + MAX_VALIDITY_MS)
        self.assertEqual(keys.keys[KEY.key_id].valid_until_ts_ms, NOW_MS + MAX_VALIDITY_MS)

    def test_refusals(self) -> None:
        key = {"key": unpadded(KEY.public_key)}
        changes: Any
        for changes in (
            {"server_name": "other.example"},
            {"server_name": ...},
            {"valid_until_ts": ...},
            {"valid_until_ts": "1"},
            {"valid_until_ts": True},
            {"valid_until_ts": -1},
            {"valid_until_ts": 2**63},
            {"verify_keys": ...},
            {"verify_keys": []},
            {"verify_keys": {KEY.key_id: key["key"]}},
            {"verify_keys": {KEY.key_id: {}}},
            {"verify_keys": {KEY.key_id: {"key": "AAAA"}}},
            {"verify_keys": {KEY.key_id: {"key": "?"}}},
            {"verify_keys": {KEY.key_id: {"key": unpadded(OTHER_KEY.public_key)}}},
            {"verify_keys": {KEY.key_id: key, **{f"ed25519:{number}": key for number in range(300)}}},
            {"old_verify_keys": {OLD.key_id: key}},
            {"old_verify_keys": {OLD.key_id: {**key, "expired_ts": "x"}}},
            {"old_verify_keys": {OLD.key_id: "x"}},
        ):
            self.assertRaises(Malformed, parse, response(**changes))
        data: Any
        for data in (None, [], {}, {**response(), "signatures": {}}, {**response(), "extra": 1}):
            self.assertRaises(Malformed, parse, data)

    def test_other_algorithms_and_odd_names_are_passed_over(self) -> None:
        key = {"key": unpadded(KEY.public_key)}
        keys = parse(response(verify_keys={KEY.key_id: key, "rsa:1": 7, "ed25519:a-b": key, "ed25519:": key}))
        self.assertEqual(set(keys.keys), {KEY.key_id, OLD.key_id})

    def test_notary(self) -> None:
        notary_keys = {OTHER_KEY.key_id: OTHER_KEY.public_key}
        good = keyring.notarise(response(), OTHER_KEY)
        self.assertTrue(verify_json(good, SERVER, {KEY.key_id: KEY.public_key}))
        unsigned_by_origin = keyring.notarise({**response(), "signatures": {}}, OTHER_KEY)
        entries = [
            good,
            response(),
            unsigned_by_origin,
            None,
            {"server_name": 7},
            keyring.notarise({"server_name": 7}, OTHER_KEY),
        ]
        found = keyring.parse_notary_response(
            {"server_keys": entries}, OTHER_KEY.server_name, notary_keys, NOW_MS
        )
        self.assertEqual([keys.server_name for keys in found], [SERVER])
        bad: Any
        for bad in (None, {}, {"server_keys": {}}, {"server_keys": [{}] * 1000}):
            self.assertRaises(
                Malformed, keyring.parse_notary_response, bad, OTHER_KEY.server_name, notary_keys, NOW_MS
            )


class Validity(SynchronousTestCase):
    def test_for_events(self) -> None:
        current = VerifyKey(KEY.key_id, KEY.public_key, 1000)
        for rules in ROOM_VERSIONS.values():
            enforced = int(rules.version) >= 5
            self.assertTrue(current.is_valid_for_event(1000, rules))
            self.assertEqual(current.is_valid_for_event(1001, rules), not enforced)
            expired = VerifyKey(KEY.key_id, KEY.public_key, 1000, expired=True)
            self.assertTrue(expired.is_valid_for_event(1000, rules))
            self.assertFalse(expired.is_valid_for_event(1001, rules))

    def test_selection(self) -> None:
        keys = parse(response())
        recent, _ = make(V12, origin_server_ts=NOW_MS)
        before, _ = make(V12, origin_server_ts=NOW_MS - 2000)
        future, _ = make(V12, origin_server_ts=NOW_MS + 2 * DAY_MS)
        future_v4, _ = make(V4, origin_server_ts=NOW_MS + 2 * DAY_MS)
        self.assertEqual(set(keys.for_event(recent)), {KEY.key_id})
        self.assertEqual(set(keys.for_event(before)), {KEY.key_id, OLD.key_id})
        self.assertEqual(keys.for_event(future), {})
        self.assertEqual(keys.for_event(future_v4), {KEY.key_id: KEY.public_key})
        self.assertEqual(keys.for_requests(NOW_MS + DAY_MS), {KEY.key_id: KEY.public_key})
        self.assertEqual(keys.for_requests(NOW_MS + DAY_MS + 1), {})

    def test_sufficient(self) -> None:
        keys = parse(response())
        self.assertTrue(keyring.is_sufficient(keys, [KEY.key_id], NOW_MS, V12))
        self.assertFalse(keyring.is_sufficient(keys, [KEY.key_id], NOW_MS + 2 * DAY_MS, V12))
        self.assertTrue(keyring.is_sufficient(keys, [KEY.key_id], NOW_MS + 2 * DAY_MS, V4))
        self.assertFalse(keyring.is_sufficient(keys, [OLD.key_id], NOW_MS, V4))
        self.assertFalse(keyring.is_sufficient(keys, [KeyId("ed25519:no")], NOW_MS, V4))
        self.assertFalse(keyring.is_sufficient(None, [KEY.key_id], NOW_MS, V12))


class Merging(SynchronousTestCase):
    def keys(self, *keys: VerifyKey, valid_until_ts_ms: int = 5000) -> ServerKeys:
        return ServerKeys(SERVER, {key.key_id: key for key in keys}, 1000, valid_until_ts_ms)

    def test_rules(self) -> None:
        a_short, a_long = (VerifyKey(KeyId("ed25519:a"), b"a" * 32, ts) for ts in (2000, 9000))
        a_expired = VerifyKey(KeyId("ed25519:a"), b"a" * 32, 3000, expired=True)
        a_expired_later = VerifyKey(KeyId("ed25519:a"), b"a" * 32, 8000, expired=True)
        a_other = VerifyKey(KeyId("ed25519:a"), b"z" * 32, 2000)
        b = VerifyKey(KeyId("ed25519:b"), b"b" * 32, 2000)
        for old, new, expected in (
            ([a_short], [a_long], [a_long]),
            ([a_long], [a_short], [a_long]),
            ([a_long], [a_expired], [a_expired]),
            ([a_expired], [a_long], [a_expired]),
            ([a_expired_later], [a_expired], [a_expired]),
            ([a_long], [a_other], [a_other]),
            ([a_long], [b], [a_long, b]),
        ):
            self.assertEqual(
                dict(merge(self.keys(*old), self.keys(*new)).keys), {key.key_id: key for key in expected}
            )
        self.assertEqual(merge(None, self.keys(b)), self.keys(b))
        other = ServerKeys(ServerName("other.example"), {}, 0, 0)
        self.assertRaises(ValueError, merge, self.keys(b), other)

    def test_bounded(self) -> None:
        known = self.keys()
        for number in range(600):
            known = merge(known, self.keys(VerifyKey(KeyId(f"ed25519:{number}"), b"k" * 32, number)))
        self.assertEqual(len(known.keys), keyring.MAX_KEYS)
        self.assertIn("ed25519:599", known.keys)
