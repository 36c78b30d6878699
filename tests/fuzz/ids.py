"""Identifiers: whatever parses comes back unchanged, within 255 bytes and without NUL."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import strategies as st

from federation import ids
from tests.fuzz.harness import TEXT, main, only_malformed

PARSERS = (
    ids.parse_server_name,
    ids.parse_user_id,
    ids.parse_user_id_historical,
    ids.parse_room_id,
    ids.parse_event_id,
    ids.parse_event_id_with_domain,
    ids.parse_room_alias,
    ids.parse_room_id_or_alias,
)
STRATEGY = st.one_of(
    TEXT,
    st.from_regex(r"[@!$#][a-zA-Z\x00é]{0,5}(:[a-z0-9.\-\[\]:]{0,20})?", fullmatch=True),
    st.builds(lambda sigil, rest: sigil + rest, st.sampled_from("@!$#"), st.text(max_size=300)),
)


def target(value: Any) -> None:
    for parse in PARSERS:
        parsed = only_malformed(partial(parse, value))
        if parsed is not None:
            assert parsed == value
            assert len(value.encode()) <= 255
            assert "\x00" not in value
            assert only_malformed(partial(ids.domain_of, parsed)) != ""
            ids.localpart_of(parsed)
    ids.is_valid_new_localpart(value)


if __name__ == "__main__":
    main(STRATEGY, target)
