"""m.room.policy contents and answers of policy servers."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from federation import policy
from tests.fuzz.harness import JSON, main, mutated, only_malformed

_CONTENT = {"via": "policy.example", "public_keys": {"ed25519": "a" * 43}}
_ANSWER = {"policy.example": {"ed25519:policy_server": "a" * 86}}
STRATEGY = st.tuples(mutated(_CONTENT), st.one_of(JSON, mutated(_ANSWER)))


def target(value: tuple[Any, Any]) -> None:
    content, answer = value
    server = policy.parse_policy(content)
    if server is not None:
        assert len(server.public_key) in (0, 32)
        signatures = only_malformed(lambda: policy.parse_sign_response(answer, server))
        assert signatures is None or list(signatures) == [server.server_name]


if __name__ == "__main__":
    main(STRATEGY, target)
