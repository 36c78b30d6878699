"""Building events: what is built is what a receiver accepts. # spec: server-server-api#signing-events"""

from __future__ import annotations

from typing import Any

from canonicaljson import encode_canonical_json
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from federation.canonical import MAX_INTEGER
from federation.errors import Malformed
from federation.event import MAX_PDU_BYTES, parse_untrusted
from federation.hashes import check_content_hash
from federation.signing import hash_and_sign_event, required_signers, verify_event_signatures
from federation.verdict import Accept
from federation.versions import ROOM_VERSIONS, RoomRules
from tests.unit.federation.samples import (
    ALICE,
    KEY,
    KEYS,
    NOW_MS,
    SERVER,
    V1,
    V4,
    V6,
    V10,
    V11,
    V12,
    make,
    room_of,
    some_refs,
)

TYPES = (
    "m.room.message",
    "m.room.member",
    "m.room.power_levels",
    "m.room.redaction",
    "m.room.join_rules",
    "im.chaos.x",
)


class Building(SynchronousTestCase):
    @given(
        st.sampled_from(sorted(ROOM_VERSIONS)),
        st.sampled_from(TYPES),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["membership", "users", "ban", "redacts", "join_rule"]), st.text(max_size=5)
            ),
            st.one_of(st.text(max_size=9), st.integers(-9, 9), st.lists(st.none()), st.just({"a": {"b": 1}})),
            max_size=6,
        ),
        st.one_of(st.none(), st.text(max_size=9)),
    )
    def test_accepted_by_a_receiver(
        self, version: str, event_type: str, content: Any, state_key: str | None
    ) -> None:
        rules = ROOM_VERSIONS[version]
        event, stored = make(rules, event_type, content=content, state_key=state_key)
        self.assertEqual(stored, encode_canonical_json(event.json))
        received = parse_untrusted(event.json, rules)
        self.assertEqual((received.event_id, received.room_id), (event.event_id, event.room_id))
        self.assertEqual(received.redacts, event.redacts)
        self.assertTrue(check_content_hash(event.json, rules))
        self.assertEqual(verify_event_signatures(received, required_signers(received), KEYS), Accept())

    def test_equals_the_step_by_step_way(self) -> None:
        for rules in ROOM_VERSIONS.values():
            content = {"body": "x", "membership": "join", "users": {"@a:b": 1}}
            event, _ = make(rules, "m.room.power_levels", content=content, state_key="")
            bare = {key: value for key, value in event.json.items() if key not in ("hashes", "signatures")}
            self.assertEqual(hash_and_sign_event(bare, rules, KEY), event.json)

    def test_with_the_origin_named(self) -> None:
        """It is signed only where it outlasts a redaction."""
        for rules in ROOM_VERSIONS.values():
            event, _ = make(rules, "m.room.member", content={"membership": "invite"}, origin=SERVER)
            self.assertEqual(SERVER, event.json["origin"])
            bare = {key: value for key, value in event.json.items() if key not in ("hashes", "signatures")}
            self.assertEqual(hash_and_sign_event(bare, rules, KEY), event.json)
            received = parse_untrusted(event.json, rules)
            self.assertEqual(event.event_id, received.event_id)

    def test_fields(self) -> None:
        event, _ = make(V12, depth=9)
        self.assertEqual((event.depth, event.origin_server_ts, event.sender), (9, NOW_MS, ALICE))
        self.assertEqual(event.json["prev_events"], ["$" + "a" * 43])
        self.assertEqual(make(V12, origin_server_ts=5)[0].origin_server_ts, 5)
        self.assertEqual(make(V12, depth=2**60)[0].depth, MAX_INTEGER)
        self.assertEqual(make(V6, depth=2**60)[0].depth, MAX_INTEGER)
        event, _ = make(V1)
        self.assertEqual(event.json["prev_events"], [["$" + "a" * 43 + ":example.org", {"sha256": "a" * 43}]])
        self.assertEqual(event.event_id, f"$local1:{SERVER}")

    def test_depths_of_old_rooms(self) -> None:
        """Theirs go further, and what we say is no less deep than what it follows."""
        for version in ("1", "4", "5"):
            rules = ROOM_VERSIONS[version]
            for depth, expected in ((2**60, 2**60), (2**63 - 1, 2**63 - 1), (2**63, 2**63 - 1)):
                event, _ = make(rules, depth=depth)
                self.assertEqual(expected, event.depth)
                self.assertEqual(expected, parse_untrusted(event.json, rules).depth)

    def create(self, rules: RoomRules, **changes: Any) -> Any:
        options = {
            "state_key": "",
            "content": {"room_version": rules.version},
            "prev_events": [],
            "auth_events": [],
        }
        return make(rules, "m.room.create", depth=1, **{**options, **changes})[0]

    def test_create_event_names_its_room(self) -> None:
        event = self.create(V12, room_id=None)
        self.assertEqual(event.room_id, "!" + event.event_id[1:])
        self.assertNotIn("room_id", event.json)
        self.assertEqual(parse_untrusted(event.json, V12).room_id, event.room_id)
        self.assertEqual(self.create(V11).room_id, room_of(V11))
        self.assertRaises(ValueError, self.create, V12)
        self.assertRaises(ValueError, self.create, V11, room_id=None)
        self.assertRaises(ValueError, make, V12, room_id=None)

    def test_redactions(self) -> None:
        target = "$" + "t" * 43
        old, _ = make(V10, "m.room.redaction", redacts=target, content={"reason": "r"})
        self.assertEqual((old.json["redacts"], old.content, old.redacts), (target, {"reason": "r"}, target))
        received = parse_untrusted(old.json, V10)
        self.assertEqual(received.event_id, old.event_id)
        self.assertEqual(verify_event_signatures(received, required_signers(received), KEYS), Accept())
        content = {"reason": "r"}
        new, _ = make(V11, "m.room.redaction", redacts=target, content=content)
        self.assertEqual((new.content, new.redacts), ({"reason": "r", "redacts": target}, target))
        self.assertNotIn("redacts", new.json)
        self.assertEqual(content, {"reason": "r"})

    def refuses(self, errcode: str, status: int, rules: RoomRules = V12, **changes: Any) -> None:
        error = self.assertRaises(Malformed, make, rules, **changes)
        self.assertEqual((error.errcode, error.status), (errcode, status))

    def test_limits(self) -> None:
        self.refuses("M_TOO_LARGE", 413, content={"body": "x" * MAX_PDU_BYTES})
        self.refuses("M_TOO_LARGE", 413, state_key="x" * 256)
        self.refuses("M_TOO_LARGE", 413, state_key="é" * 128)
        error = self.assertRaises(Malformed, make, V12, "t" * 256)
        self.assertEqual(error.errcode, "M_TOO_LARGE")
        size = len(make(V12, content={"b": ""})[1])
        self.assertEqual(len(make(V12, content={"b": "x" * (MAX_PDU_BYTES - size)})[1]), MAX_PDU_BYTES)
        self.refuses("M_TOO_LARGE", 413, content={"b": "x" * (MAX_PDU_BYTES - size + 1)})
        self.assertRaises(ValueError, make, V12, prev_events=some_refs(V12, 21))
        self.assertRaises(ValueError, make, V12, auth_events=some_refs(V12, 11))

    def test_bad_content(self) -> None:
        for value in (1.5, float("nan"), 2**53, "\ud800", b"x"):
            self.refuses("M_BAD_JSON", 400, content={"k": value})
        self.refuses("M_BAD_JSON", 400, state_key="\ud800")
        self.refuses("M_BAD_JSON", 400, origin_server_ts=2**53)
        self.refuses("M_BAD_JSON", 400, V4, content={"k": float("nan")})
        event, stored = make(
            V4, "m.room.power_levels", content={"ban": 1e20, "x": 1.5, "users": {"@a:b": 2.0}}
        )
        self.assertEqual(stored, encode_canonical_json(event.json))
        self.assertEqual(parse_untrusted(event.json, V4).event_id, event.event_id)
