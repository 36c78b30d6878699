"""JSON from outside: what parses and is canonical is a fixed point of encoding and parsing."""

from __future__ import annotations

import json
from functools import partial

from hypothesis import strategies as st

from federation import canonical
from tests.fuzz.harness import JSON, main, only_malformed

STRATEGY = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda value, cut, junk: (text := json.dumps(value).encode())[: cut % (len(text) + 1)] + junk,
        JSON,
        st.integers(0, 10**6),
        st.binary(max_size=4),
    ),
    st.integers(1, 5000).map(lambda depth: b"[" * depth + b"]" * depth),
    st.integers(1, 5000).map(lambda depth: b'{"a":' * depth + b"1" + b"}" * depth),
)


def target(data: bytes) -> None:
    value = only_malformed(lambda: canonical.loads_untrusted(data))
    only_malformed(lambda: canonical.loads_untrusted(data, refuse_duplicate_keys=True))
    if value is None:
        return
    for strict in (True, False):
        encoded = only_malformed(partial(canonical.encode_checked, value, strict=strict))
        if encoded is not None:
            again = canonical.loads_untrusted(encoded)
            assert again == value
            assert canonical.encode_checked(again, strict=strict) == encoded


if __name__ == "__main__":
    main(STRATEGY, target)
