"""EDUs: nothing about another server's users gets through."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from federation.edus import Presence, Receipts, Typing, parse_edu
from federation.ids import ServerName, domain_of
from tests.fuzz.harness import JSON, main, mutated, only_malformed

ORIGIN = ServerName("example.org")
_USER = "@u:example.org"
_CONTENTS: dict[str, Any] = {
    "m.typing": {"room_id": "!r:example.org", "user_id": _USER, "typing": True},
    "m.receipt": {"!r:b": {"m.read": {_USER: {"event_ids": ["$e"], "data": {"ts": 1, "thread_id": "main"}}}}},
    "m.presence": {
        "push": [{"user_id": _USER, "presence": "online", "last_active_ago": 5, "status_msg": "x"}]
    },
    "m.direct_to_device": {
        "sender": _USER,
        "type": "t",
        "message_id": "m",
        "messages": {"@a:b": {"D": {"k": 1}}},
    },
    "m.device_list_update": {
        "user_id": _USER,
        "device_id": "D",
        "stream_id": 3,
        "prev_id": [1, 2],
        "keys": {"user_id": _USER, "device_id": "D"},
    },
    "m.signing_key_update": {
        "user_id": _USER,
        "master_key": {"user_id": _USER, "usage": ["master"], "keys": {}},
        "self_signing_key": {"user_id": _USER, "usage": ["self_signing"], "keys": {}},
    },
}
STRATEGY = st.one_of(
    JSON,
    *(mutated({"edu_type": edu_type, "content": content}) for edu_type, content in _CONTENTS.items()),
)


def target(value: Any) -> None:
    edu = only_malformed(lambda: parse_edu(value, ORIGIN))
    if isinstance(edu, Typing):
        assert domain_of(edu.user_id) == ORIGIN
    elif isinstance(edu, Receipts):
        assert all(domain_of(receipt.user_id) == ORIGIN for receipt in edu.receipts)
    elif isinstance(edu, Presence):
        assert all(domain_of(update.user_id) == ORIGIN for update in edu.updates)


if __name__ == "__main__":
    main(STRATEGY, target)
