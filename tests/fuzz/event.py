"""PDUs: whatever parses survives storing, redacting and the checks that follow, in every room version."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from federation import policy
from federation.event import MAX_PDU_BYTES, parse_stored, parse_untrusted, stored_bytes
from federation.hashes import check_content_hash, compute_event_id
from federation.redaction import redact
from federation.signing import required_signers, verify_event_signatures
from federation.versions import ROOM_VERSIONS
from tests.fuzz.harness import main, mutated, only_malformed

_COMMON = {
    "type": "m.room.member",
    "sender": "@alice:example.org",
    "state_key": "@bob:example.org",
    "content": {
        "membership": "join",
        "join_authorised_via_users_server": "@carol:example.com",
        "third_party_invite": {"signed": {"mxid": "@bob:example.org", "token": "t", "signatures": {}}},
    },
    "origin_server_ts": 1234,
    "depth": 7,
    "hashes": {"sha256": "abc"},
    "signatures": {"example.org": {"ed25519:a": "c2ln"}},
    "unsigned": {"age": 4},
}
_V1 = {
    **_COMMON,
    "event_id": "$a:example.org",
    "room_id": "!r:example.org",
    "prev_events": [["$p:example.org", {"sha256": "x"}]],
    "auth_events": [["$q:example.org", {"sha256": "x"}]],
}
_V4 = {**_COMMON, "room_id": "!r:example.org", "prev_events": ["$p"], "auth_events": ["$q"]}
_V12 = {**_V4, "room_id": "!" + "a" * 43}
_CREATE = {key: value for key, value in _V12.items() if key != "room_id"} | {"type": "m.room.create"}
_REDACTION = {**_V4, "type": "m.room.redaction", "redacts": "$x", "content": {"redacts": "$x"}}

STRATEGY = st.tuples(
    st.one_of(*(mutated(template) for template in (_V1, _V4, _V12, _CREATE, _REDACTION))),
    st.sampled_from(sorted(ROOM_VERSIONS)),
)


def target(value: tuple[Any, str]) -> None:
    data, version = value
    rules = ROOM_VERSIONS[version]
    event = only_malformed(lambda: parse_untrusted(data, rules))
    if event is None:
        return
    stored = stored_bytes(event)
    assert len(stored) <= MAX_PDU_BYTES
    again = parse_stored(event.event_id, stored, rules)
    assert (again.json, again.room_id, again.redacts) == (event.json, event.room_id, event.redacts)
    redacted = redact(event.json, rules)
    assert compute_event_id(redacted, rules) == event.event_id
    assert redact(redacted, rules) == redacted
    check_content_hash(event.json, rules)
    servers = required_signers(event)
    verify_event_signatures(event, servers, {server: {} for server in servers})
    server = policy.parse_policy({"via": "example.org", "public_keys": {"ed25519": "a" * 43}})
    assert server is not None
    policy.check(event, server)
    event.reference()


if __name__ == "__main__":
    main(STRATEGY, target)
