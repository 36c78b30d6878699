"""Answers to make_join and send_join: whatever a server says, we sign nothing but our own, and believe what holds."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from federation.canonical import MAX_INTEGER
from federation.event import parse_stored, parse_untrusted
from federation.flows.handshake import Wish, fill_in
from federation.flows.join import Lot, read_answer, read_state
from federation.flows.join_events import check_events
from federation.hashes import compute_event_id
from federation.ids import RoomId, ServerName, UserId
from federation.keyring import ServerKeys, VerifyKey
from federation.signing import SigningKey, hash_and_sign_event
from federation.versions import ROOM_VERSIONS
from tests.fuzz.harness import JSON, main, mutated, only_malformed

RULES = ROOM_VERSIONS["2"]  # whose ids are free, so that events can go in circles
KEY = SigningKey.from_seed(ServerName("a.example"), "k", b"\x07" * 32)
OWN = SigningKey.from_seed(ServerName("b.example"), "k", b"\x08" * 32)
ROOM, ALICE, BOB = RoomId("!room:a.example"), UserId("@alice:a.example"), UserId("@bob:b.example")


def _event(name: str, event_type: str, content: Any, state_key: str, auth: list[str], **fields: Any) -> Any:
    event = {
        "event_id": f"${name}:a.example",
        "type": event_type,
        "room_id": ROOM,
        "sender": ALICE,
        "state_key": state_key,
        "content": content,
        "prev_events": [] if name == "create" else [["$create:a.example", {"sha256": "x"}]],
        "auth_events": [[f"${one}:a.example", {"sha256": "x"}] for one in auth],
        "depth": 1,
        "origin_server_ts": 1,
        **fields,
    }
    return hash_and_sign_event(event, RULES, KEY)


CREATE = _event("create", "m.room.create", {"creator": ALICE, "room_version": "2"}, "", [])
MEMBER = _event("alice", "m.room.member", {"membership": "join"}, ALICE, ["create"])
RULE = _event("rule", "m.room.join_rules", {"join_rule": "public"}, "", ["create", "alice"])
LOOP_A = _event("loop-a", "m.room.topic", {}, "", ["create", "alice", "loop-b"])
LOOP_B = _event("loop-b", "m.room.name", {}, "", ["create", "alice", "loop-a"])
TEMPLATE = {
    "room_version": "2",
    "event": {
        "type": "m.room.member",
        "room_id": ROOM,
        "sender": BOB,
        "state_key": BOB,
        "content": {"membership": "join"},
        "prev_events": [["$rule:a.example", {"sha256": "x"}]],
        "auth_events": [["$create:a.example", {"sha256": "x"}], ["$rule:a.example", {"sha256": "x"}]],
        "depth": 5,
    },
}
WISH = Wish("join", ROOM, BOB, {"displayname": "bob"})
ANSWER = {
    "state": [CREATE, MEMBER, RULE, LOOP_A],
    "auth_chain": [CREATE, LOOP_B],
    "servers_in_room": ["a.example"],
}
STRATEGY = st.one_of(
    JSON, mutated(TEMPLATE), mutated(ANSWER), mutated({"pdus": [CREATE, RULE], "auth_chain": [MEMBER]})
)

_JOIN = parse_untrusted(
    hash_and_sign_event(
        {**fill_in(TEMPLATE, WISH)[0], "event_id": "$join:b.example", "origin_server_ts": 1}, RULES, OWN
    ),
    RULES,
)


def target(value: Any) -> None:
    filled = only_malformed(lambda: fill_in(value, WISH))
    if filled is not None:
        fields, rules = filled
        assert (fields["sender"], fields["state_key"], fields["room_id"]) == (BOB, BOB, ROOM)
        assert fields["type"] == "m.room.member" and fields["content"]["membership"] == "join"
        assert set(fields["content"]) <= {"membership", "displayname", "join_authorised_via_users_server"}
        assert rules.version in ROOM_VERSIONS
    try:
        body = msgspec.json.encode(value)
    except (UnicodeEncodeError, TypeError, OverflowError):
        return
    for read in (read_answer, read_state):
        answer = only_malformed(lambda read=read: read(body))  # type: ignore[misc]
        if answer is not None:
            _check(Lot(answer, ROOM, RULES))


def _check(lot: Lot) -> None:
    key = VerifyKey(KEY.key_id, KEY.public_key, MAX_INTEGER)
    known = {KEY.server_name: ServerKeys(KEY.server_name, {KEY.key_id: key}, 0, MAX_INTEGER)}
    for one in lot.peek():
        assert one.key_ids
    terms = lot.terms(known, {OWN.server_name})
    lot.take(0, check_events(lot.texts(0, lot.creates), terms))
    problem = lot.find_create()
    if problem is not None:
        return
    lot.judge(lot.size)
    terms = lot.terms(known, {OWN.server_name})
    for start in range(lot.creates, lot.size, 2):
        lot.take(start, check_events(lot.texts(start, 2), terms))
        lot.judge(lot.size)
    seen: set[str] = set()
    for held in lot.held(0, len(lot)):
        event = parse_stored(held.event_id, held.text, RULES)
        assert held.prev_ids == event.prev_event_ids and held.key == event.key()
        assert event.room_id == ROOM and compute_event_id(event.json, RULES) == event.event_id
        assert all(auth_id in seen for auth_id in event.auth_event_ids)
        assert not event.event_id.startswith("$loop")
        seen.add(event.event_id)
    conclusion = lot.conclude(_JOIN)
    if conclusion.problem is None:
        assert ("m.room.create", "") in conclusion.state
        assert set(conclusion.state.values()) <= seen


if __name__ == "__main__":
    main(STRATEGY, target)
