"""Server ACLs: any content parses, and a decision always comes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from federation.acl import ServerAcl
from tests.fuzz.harness import JSON, main, mutated

_GLOB = st.text("*?ab.A[\\]", max_size=12)
_CONTENT = st.fixed_dictionaries(
    {"allow": st.lists(_GLOB, max_size=4), "deny": st.lists(_GLOB, max_size=4)},
    optional={"allow_ip_literals": st.one_of(st.booleans(), JSON)},
)
STRATEGY = st.tuples(
    st.one_of(_CONTENT, mutated({"allow": ["*"], "deny": ["*.evil"], "allow_ip_literals": False})),
    st.text("ab.A1[:]", max_size=10),
)


def simple_match(pattern: str, name: str) -> bool:
    """The obvious matcher, for comparison."""
    reachable = {0}
    for char in pattern:
        if char == "*":
            reachable = set(range(min(reachable), len(name) + 1)) if reachable else set()
        else:
            reachable = {at + 1 for at in reachable if at < len(name) and char in ("?", name[at])}
    return len(name) in reachable


def target(value: tuple[Any, str]) -> None:
    content, name = value
    allowed = ServerAcl.parse(content).allows(name)
    if (
        not isinstance(content.get("allow"), list)
        or "[" in name
        or ":" in name
        or name.replace(".", "").isdigit()
    ):
        return
    deny = content.get("deny") if isinstance(content.get("deny"), list) else []
    lists = [
        [item.lower() for item in patterns if isinstance(item, str)] for patterns in (content["allow"], deny)
    ]
    allow_match, deny_match = (
        any(simple_match(item, name.lower()) for item in patterns) for patterns in lists
    )
    assert allowed == (allow_match and not deny_match)


if __name__ == "__main__":
    main(STRATEGY, target)
