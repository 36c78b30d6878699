"""Anything at all to the endpoints that read rooms and send into them: a refusal or an answer, and never a 500."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.talk import TalkCase

_WORDS = (
    "t0",
    "t-5",
    "s1_0_x",
    "b",
    "f",
    "join",
    "event",
    "{}",
    '{"lazy_load_members":true}',
    "-1",
    "0",
    "9" * 19,
)
_VALUES = st.one_of(st.sampled_from(_WORDS), st.text(max_size=20))
_NAMES = ("dir", "from", "to", "limit", "filter", "at", "membership", "not_membership", "format", "ts")
_QUERIES = st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=6)
_PARTS = st.lists(
    st.one_of(
        st.sampled_from(
            ("messages", "state", "event", "context", "members", "initialSync", "send", "redact")
        ),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    ),
    min_size=1,
    max_size=4,
)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


class Hostile(TalkCase):
    """See the module; the server's log is checked for errors at the end of each test."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.make_room()
        self.event_id = self.say("alice", self.room_id, "x")

    def check(self, method: str, path: str, body: object, query: dict[str, str]) -> None:
        status, json = self.app.call(method, path, body, self.tokens["alice"], query)
        self.assertLess(status, 500, (path, query, body))
        if status >= 400:
            self.assertTrue(json["errcode"].startswith("M_"), json)

    @_SETTINGS
    @given(_QUERIES)
    def test_queries(self, query: dict[str, str]) -> None:
        for parts in (("messages",), ("members",), ("state",), ("state", "m.room.create"), ("initialSync",)):
            self.check("GET", self.path(self.room_id, *parts), None, query)
        self.check("GET", self.path(self.room_id, "context", self.event_id), None, query)
        timestamps = self.path(self.room_id, "timestamp_to_event").replace("/v3/", "/v1/")
        self.check("GET", timestamps, None, query)

    @_SETTINGS
    @given(_PARTS, _JSON)
    def test_paths_and_bodies(self, parts: list[str], body: object) -> None:
        for method in ("GET", "PUT"):
            self.check(method, self.path(self.room_id, *parts), body if method == "PUT" else None, {})

    @_SETTINGS
    @given(st.dictionaries(st.text(max_size=8), _JSON, max_size=4), st.text(max_size=10))
    def test_contents(self, content: dict[str, object], name: str) -> None:
        for event_type in ("m.room.message", "m.room.redaction", "m.room.power_levels", "m.room.member"):
            self.send("alice", self.room_id, content, event_type)
            self.check("PUT", self.path(self.room_id, "state", event_type, name), content, {})
        self.check("GET", self.path(self.room_id, "messages"), None, {"dir": "b"})
