"""Parsing PDUs. # spec: server-server-api#pdus"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from federation.canonical import MAX_DEPTH, loads_object
from federation.errors import Malformed
from federation.event import MAX_PDU_BYTES, Event, parse_stored, parse_untrusted, stored_bytes
from federation.versions import ROOM_VERSIONS, RoomRules
from tests.unit.federation.samples import ALICE, V1, V4, V6, V11, V12, make, room_of, some_refs


def pdu(rules: RoomRules, **changes: Any) -> dict[str, Any]:
    """A valid PDU; a change to ... removes the field."""
    data = {**make(rules)[0].json, **changes}
    return {key: value for key, value in data.items() if value is not ...}


class Untrusted(SynchronousTestCase):
    def refuses(self, rules: RoomRules, errcode: str = "M_BAD_JSON", **changes: Any) -> None:
        error = self.assertRaises(Malformed, parse_untrusted, pdu(rules, **changes), rules)
        self.assertEqual(error.errcode, errcode, (rules.version, list(changes)))

    def test_fields(self) -> None:
        for rules in ROOM_VERSIONS.values():
            event = parse_untrusted(pdu(rules, unsigned={"age": 1.5}), rules)
            self.assertEqual((event.type, event.sender, event.depth), ("m.room.message", ALICE, 5))
            self.assertEqual(event.room_id, room_of(rules))
            self.assertEqual(event.prev_event_ids, tuple(ref.event_id for ref in some_refs(rules, 1)))
            self.assertEqual(event.auth_event_ids, tuple(ref.event_id for ref in some_refs(rules, 3)))
            self.assertNotIn("unsigned", event.json)
            self.assertFalse(event.is_state())
            self.assertRaises(ValueError, event.key)

    def test_state(self) -> None:
        event = parse_untrusted(pdu(V12, state_key=""), V12)
        self.assertTrue(event.is_state())
        self.assertEqual(event.key(), ("m.room.message", ""))

    def test_missing_and_mistyped_fields(self) -> None:
        wrong: dict[str, tuple[Any, ...]] = {
            "type": (..., 1, None),
            "sender": (..., 1, "alice", "@a", "@a\x00:b"),
            "room_id": (..., 1, "x", "!a"),
            "content": (..., [], "x", None),
            "origin_server_ts": (..., "1", True, 1.0, 2**53),
            "depth": (..., "1", True, -1, 2**53),
            "prev_events": (..., {}, "x", ["x"], [1], [["$a", {}]], ["$a"] * 21),
            "auth_events": (..., {}, [None], ["$a"] * 11),
            "state_key": (None, 1, []),
            "hashes": (..., {}, [], {"sha256": 1}),
            "signatures": (..., [], {"a": 1}, {"a": {"b": 1}}, {"a": {"b": None}}),
        }
        for rules in (V6, V11, V12):
            for name, values in wrong.items():
                for value in values:
                    self.refuses(rules, **{name: value})
        for value in (["$a:b"], [["$a:b"]], [["$a:b", {}, 1]], [["$a:b", {"sha256": 1}]], [[1, {}]]):
            self.refuses(V1, prev_events=value)
        self.refuses(V1, event_id="$nodomain")
        self.refuses(V1, event_id=...)
        self.refuses(V4, redacts=7)
        not_a_pdu: Any
        for not_a_pdu in ([], None, "x", 1):
            self.assertRaises(Malformed, parse_untrusted, not_a_pdu, V12)

    def test_old_events_may_name_more_of_others(self) -> None:
        # spec: server-server-api#get_matrixfederationv1backfillroomid
        many: dict[str, Any] = {"prev_events": ["$a"] * 200, "auth_events": ["$b"] * 50}
        for name, value in many.items():
            self.refuses(V11, **{name: value})
        event = parse_untrusted(pdu(V11, **many), V11, is_old=True)
        self.assertEqual((200, 50), (len(event.prev_event_ids), len(event.auth_event_ids)))
        for value in (..., {}, ["x"], [1], ["$a"] * MAX_PDU_BYTES):
            self.assertRaises(Malformed, parse_untrusted, pdu(V11, prev_events=value), V11, is_old=True)

    def test_sizes(self) -> None:
        self.refuses(V12, "M_TOO_LARGE", type="x" * 256)
        self.refuses(V12, "M_TOO_LARGE", state_key="é" * 128)
        self.refuses(V12, sender="@" + "x" * 254 + ":b")
        self.assertEqual(parse_untrusted(pdu(V12, state_key="é" * 127), V12).state_key, "é" * 127)
        room = MAX_PDU_BYTES - len(stored_bytes(parse_untrusted(pdu(V12, content={"k": ""}), V12)))
        parse_untrusted(pdu(V12, content={"k": "x" * room}), V12)
        self.refuses(V12, "M_TOO_LARGE", content={"k": "x" * (room + 1)})
        parse_untrusted(pdu(V12, unsigned={"k": "x" * MAX_PDU_BYTES}), V12)

    def test_depth_of_nesting(self) -> None:
        deep: Any = 1
        for _ in range(300):
            deep = [deep]
        self.refuses(V12, content={"k": deep})
        self.refuses(V1, content={"k": deep})

    def test_what_is_an_event_is_one_inside_of_others_bodies_too(self) -> None:
        """Else one event of a stranger would keep a whole transaction from being read."""
        deep: Any = 1
        accepted = 0
        for _ in range(MAX_DEPTH):
            deep = [deep]
            try:
                event = parse_untrusted(pdu(V12, content={"k": deep}), V12)
            except Malformed:
                break
            accepted += 1
            loads_object(b'{"pdus":[{"event":{"pdu":[' + stored_bytes(event) + b"]}}]}")
        self.assertGreater(accepted, 150)
        self.assertLess(accepted, MAX_DEPTH - 10)

    def test_canonical_json_by_version(self) -> None:
        for value in (1.5, 2**53, -(2**53)):
            self.refuses(V6, content={"k": value})
            event = parse_untrusted(pdu(V4, content={"k": value}), V4)
            self.assertEqual(parse_stored(event.event_id, stored_bytes(event), V4).content, {"k": value})
        self.refuses(V12, content={"k": "\ud800"})
        self.refuses(V1, content={"k": "\ud800"})
        parse_untrusted(pdu(V4, depth=2**63 - 1), V4)
        self.refuses(V4, depth=2**63)

    def test_room_ids_by_version(self) -> None:
        self.refuses(V11, room_id="!" + "R" * 43)
        self.refuses(V12, room_id="!room:example.org")
        self.refuses(V12, type="m.room.create")
        self.refuses(V11, type="m.room.create", room_id=...)
        create = parse_untrusted(pdu(V12, type="m.room.create", room_id=..., prev_events=[]), V12)
        self.assertEqual(create.room_id, "!" + create.event_id[1:])

    def test_redacts(self) -> None:
        target = "$" + "t" * 43
        for rules, content, top, expected in (
            (V4, {"redacts": "$no"}, target, target),
            (V4, {}, ..., None),
            (V11, {"redacts": target}, "$no", target),
            (V11, {"redacts": 7}, ..., None),
            (V11, {}, target, None),
            (V4, {}, "$\0", None),
            (V11, {"redacts": "$\0"}, ..., None),
        ):
            event = parse_untrusted(pdu(rules, type="m.room.redaction", content=content, redacts=top), rules)
            self.assertEqual(event.redacts, expected)
        self.assertIsNone(parse_untrusted(pdu(V4, redacts=target), V4).redacts)

    def test_argument_is_left_alone(self) -> None:
        data = pdu(V12, unsigned={"age": 1})
        before = dict(data)
        parse_untrusted(data, V12)
        self.assertEqual(data, before)


class Stored(SynchronousTestCase):
    @given(
        st.sampled_from(sorted(ROOM_VERSIONS)),
        st.dictionaries(
            st.text(max_size=8), st.one_of(st.text(max_size=20), st.integers(-5, 5), st.none()), max_size=5
        ),
        st.one_of(st.none(), st.text(max_size=10)),
    )
    def test_round_trip(self, version: str, content: dict[str, Any], state_key: str | None) -> None:
        rules = ROOM_VERSIONS[version]
        built, stored = make(rules, content=content, state_key=state_key)
        received = parse_untrusted(built.json, rules)
        loaded = parse_stored(built.event_id, stored, rules)
        from_dict = parse_stored(built.event_id, built.json, rules)
        for event in (received, loaded, from_dict):
            self.assertEqual(_plain(event), _plain(built))
            self.assertEqual(stored_bytes(event), stored)
            self.assertEqual(event.reference(), built.reference())


def _plain(event: Event) -> tuple[Any, ...]:
    return tuple(getattr(event, name) for name in Event.__slots__)
