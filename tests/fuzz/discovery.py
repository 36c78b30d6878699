"""Well-known documents and their headers: whatever they say, a server is found, and for a bounded time."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from federation.flows.discovery import MAX_LIFE_MS, Location, WellKnown, discover, read_well_known
from federation.flows.needs import HttpAnswer, NeedHttp, SrvRecord
from federation.ids import ServerName, parse_server_name
from tests.fuzz.harness import main, mutated

NOW_MS = 5 * 10**11
_HEADERS = st.dictionaries(
    st.sampled_from(["cache-control", "expires", "age"]),
    st.one_of(
        st.text(max_size=40),
        st.from_regex(r"max-age=[0-9]{1,30}(, no-[a-z]{1,5})?", fullmatch=True),
        st.sampled_from(["Wed, 15 Nov 2023 00:13:20 GMT", "Mon, 1 Jan 9999999 00:00:00 +0000"]),
    ),
)
_BODIES = st.one_of(
    st.binary(max_size=60),
    mutated({"m.server": "matrix.example.net:443"}).map(lambda value: json.dumps(value).encode()),
)
_RECORDS = st.lists(
    st.builds(SrvRecord, st.text(max_size=10), st.integers(0, 65535), st.integers(0, 2**31)), max_size=40
)
STRATEGY = st.tuples(st.integers(100, 599), _BODIES, _HEADERS, _RECORDS, st.integers(0, 2**70))


def _find(answer: HttpAnswer, records: list[SrvRecord]) -> Location:
    flow = discover(ServerName("example.org"), None, NOW_MS)
    reply: Any = None
    while True:
        try:
            need = flow.send(reply)
        except StopIteration as done:
            return done.value
        reply = answer if isinstance(need, NeedHttp) else records


def target(value: tuple[int, bytes, dict[str, str], list[SrvRecord], int]) -> None:
    status, body, headers, records, failures = value
    answer = HttpAnswer(status, body, headers)
    known = WellKnown(ServerName("old.example"), NOW_MS, NOW_MS - 1, failures)
    for before in (None, known):
        said = read_well_known(answer, before, NOW_MS)
        assert NOW_MS < said.until_ts_ms <= NOW_MS + MAX_LIFE_MS
        if said.delegate is not None:
            parse_server_name(said.delegate)
    location = _find(answer, records)
    assert 1 <= len(location.endpoints) <= 16
    assert NOW_MS < location.until_ts_ms <= NOW_MS + MAX_LIFE_MS


if __name__ == "__main__":
    main(STRATEGY, target)
