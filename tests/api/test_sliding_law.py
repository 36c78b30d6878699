"""The sync law for sliding sync: windows that grow, shrink and move, and rooms that come and go, add up to the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from tests.support.databases import DatabaseCase, on_each_database
from tests.support.sliding_model import SlidingView, differences, falsehoods
from tests.support.sync import room_path
from tests.support.sync_world import NAMELESS, PEOPLE, ROOMS, SYNC, SyncWorld

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"

_Action = tuple[str, str, str]
_room = st.sampled_from(ROOMS)
_person = st.sampled_from(PEOPLE)
_bob = st.just("bob")
_actions = st.one_of(
    st.tuples(st.just("say"), _room, _person),
    st.tuples(st.just("say"), _room, _person),
    st.tuples(st.sampled_from(["topic", "name", "rename"]), _room, _person),
    st.tuples(st.sampled_from(["join", "leave"]), _room, _person),
    st.tuples(st.sampled_from(["join", "leave", "quit"]), _room, _bob),
    st.tuples(st.sampled_from(["invite", "kick", "ban", "unban"]), _room, st.sampled_from(["bob", "carol"])),
    st.tuples(
        st.sampled_from(["redact", "redact-name", "tag", "direct", "closed", "open"]), _room, st.just("alice")
    ),
    st.tuples(st.sampled_from(["read", "read.private"]), _room, _person),
    st.tuples(st.sampled_from(["sync", "narrow", "none", "subscribe", "bare"]), _room, _bob),
    st.tuples(st.sampled_from(["sync", "narrow", "none", "subscribe", "bare"]), _room, _bob),
    st.tuples(st.sampled_from(["restart", "lost", "forget"]), _room, _bob),
)

_STATE = [["m.room.name", ""], ["m.room.topic", ""], ["m.room.create", ""], ["m.room.history_visibility", ""]]
VARIANTS: dict[str, list[list[str]]] = {
    "everything": [["*", "*"]],
    "lazy": [*_STATE, ["m.room.member", "$LAZY"], ["m.room.member", "$ME"]],
    "some": [*_STATE, ["m.room.member", "$ME"]],
    "everything lazily": [["*", "*"], ["m.room.member", "$LAZY"]],
    "no receipts": [*_STATE, ["m.room.member", "$ME"]],
}


def sliding_body(variant: str, kind: str, room_id: str, since: str | None) -> dict[str, Any]:
    """A request; the kinds differ in which rooms they show, and how."""
    required = VARIANTS[variant]
    scope: dict[str, Any] = {"enabled": True}
    lists: dict[str, Any] = {"all": {"ranges": [[0, 99]], "timeline_limit": 3, "required_state": required}}
    subscriptions: dict[str, Any] = {}
    if kind == "narrow":
        lists["all"] |= {"ranges": [[0, 0]], "timeline_limit": 1}
    elif kind == "none":
        lists = {}
    elif kind == "subscribe":
        lists["all"] |= {"ranges": [[0, 1]], "timeline_limit": 1, "required_state": [["m.room.name", ""]]}
        subscriptions = {room_id: {"timeline_limit": 5, "required_state": required}}
        scope["lists"] = []
    elif kind == "bare":
        lists["all"]["required_state"] = []
        scope["rooms"] = []
    device = {"enabled": True} if since is None else {"enabled": True, "since": since}
    extensions: dict[str, Any] = {"account_data": scope, "to_device": device}
    if variant != "no receipts":
        extensions["receipts"] = scope
    return {
        "conn_id": "law",
        "lists": lists,
        "room_subscriptions": subscriptions,
        "extensions": extensions,
    }


class SlidingWorld(SyncWorld):
    """A client of bob's that looks through windows."""

    def __init__(self, case: TestCase, variant: str, database: str = "sqlite::memory:") -> None:
        super().__init__(case, database)
        self.variant = variant
        self.view = SlidingView("@bob:test.example")

    def ask(self, kind: str, room_id: str) -> Any:
        query = {} if self.view.pos is None else {"pos": self.view.pos}
        body = sliding_body(self.variant, kind, room_id, self.view.to_device)
        return self.app.ok("POST", SLIDING, body, self.tokens["bob"], query)

    def act(self, kind: str, room_id: str, who: str) -> None:
        if kind in ("sync", "narrow", "none", "subscribe", "bare"):
            self.view.apply(self.ask(kind, room_id))
        elif kind == "lost":
            self.ask("sync" if self.count % 2 else "narrow", room_id)
        elif kind == "forget":
            self.view = SlidingView(self.view.user_id)
        else:
            super().act(kind, room_id, who)

    def differences(self) -> list[str]:
        self.act("sync", "", "")
        fresh = SlidingView(self.view.user_id)
        fresh.apply(
            self.app.ok("POST", SLIDING, sliding_body(self.variant, "sync", "", None), self.log_in(), {})
        )
        found = differences(
            self.view, fresh, lazy="lazy" in self.variant or self.variant == "everything lazily"
        )
        for room_id, room in self.view.rooms.items():
            if room.members.get("membership") == "join":
                state = self.app.ok("GET", f"{room_path(room_id)}/state", None, self.tokens["bob"])
                found += falsehoods(room, room_id, state, whole=self.variant == "everything")
        quiet = self.ask("sync", "")
        if quiet["rooms"]:
            found.append(f"after everything: {quiet['rooms']}")
        self.view.apply(quiet)
        return found


class SlidingLawTests(TestCase):
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(variant=st.sampled_from(sorted(VARIANTS)), actions=st.lists(_actions, min_size=4, max_size=25))
    def test_answers_add_up_to_what_a_new_connection_is_told(
        self, variant: str, actions: Sequence[_Action]
    ) -> None:
        world = SlidingWorld(self, variant)
        for kind, room_id, who in actions:
            world.act(kind, room_id, who)
        self.assertEqual(world.differences(), [], f"{variant}: {actions}")


# What the law is most easily broken by: each is run with every kind of request, on both databases.
_SAY = ("say", ROOMS[0], "alice")
_NARROW = ("narrow", "", "")
_STORY: tuple[_Action, ...] = (
    ("join", ROOMS[0], "carol"),
    ("join", ROOMS[0], "bob"),
    *(_SAY for _ in range(6)),
    ("bare", "", ""),
    _NARROW,
    SYNC,
    # A gap, from the log, in a room that is out of sight.
    ("topic", ROOMS[0], "alice"),
    ("rename", ROOMS[0], "carol"),
    *(_SAY for _ in range(6)),
    ("say", "!home:test.example", "alice"),
    _NARROW,
    ("read", ROOMS[0], "bob"),
    ("tag", ROOMS[0], "bob"),
    _NARROW,
    SYNC,
    # Members that a lost answer carried.
    ("say", ROOMS[0], "carol"),
    ("lost", "", ""),
    ("lost", "", ""),
    ("subscribe", ROOMS[0], ""),
    SYNC,
    # A gap, from the tables.
    ("name", ROOMS[0], "alice"),
    ("rename", ROOMS[0], "carol"),
    *(_SAY for _ in range(6)),
    ("read", ROOMS[0], "bob"),
    ("restart", "", ""),
    _NARROW,
    SYNC,
    ("rename", ROOMS[0], "bob"),
    ("direct", ROOMS[0], ""),
    ("say", ROOMS[0], "carol"),
    SYNC,
    ("closed", ROOMS[0], "alice"),
    ("kick", ROOMS[0], "bob"),
    _SAY,
    ("invite", ROOMS[1], "bob"),
    ("none", "", ""),
    SYNC,
    ("join", ROOMS[0], "bob"),
    ("redact", ROOMS[0], "alice"),
    ("tag", ROOMS[0], "bob"),
    ("restart", "", ""),
    ("join", ROOMS[1], "bob"),
    SYNC,
    ("leave", ROOMS[1], "bob"),
    ("none", "", ""),
    ("restart", "", ""),
    # They read elsewhere what they cannot see here: the counts are another.
    SYNC,
    _SAY,
    SYNC,
    ("say", "!home:test.example", "alice"),
    _NARROW,
    ("read", ROOMS[0], "bob"),
    _NARROW,
    SYNC,
    _SAY,
    SYNC,
    ("say", "!home:test.example", "alice"),
    _NARROW,
    ("read", ROOMS[0], "bob"),
    ("restart", "", ""),
    _NARROW,
    SYNC,
    # A room loses its name, in sight and out of it.
    *NAMELESS,
    ("say", "!home:test.example", "alice"),
    _NARROW,
    ("restart", "", ""),
    SYNC,
    # What becomes of who forgot a room.
    ("join", ROOMS[1], "bob"),
    SYNC,
    ("quit", ROOMS[1], "bob"),
    SYNC,
    ("ban", ROOMS[1], "bob"),
    SYNC,
    ("restart", "", ""),
    ("unban", ROOMS[1], "bob"),
    SYNC,
)


@on_each_database
class SlidingStoryTests(DatabaseCase):
    def test_a_story_with_every_kind_of_request(self) -> None:
        for variant in sorted(VARIANTS):
            world = SlidingWorld(self, variant, self.new_database())
            for kind, room_id, who in _STORY:
                world.act(kind, room_id, who)
                if kind == "sync":
                    self.assertEqual(world.differences(), [], variant)
            world.act("ban", ROOMS[0], "bob")
            world.act("say", ROOMS[0], "alice")
            self.assertEqual(world.differences(), [], variant)
