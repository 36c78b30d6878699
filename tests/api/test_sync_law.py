"""The sync law: an earlier sync and the increments after it say what a new initial sync says, whatever happened."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from tests.support.databases import DatabaseCase, on_each_database
from tests.support.sync import room_path
from tests.support.sync_model import ClientView, differences, falsehoods
from tests.support.sync_world import NAMELESS, PEOPLE, ROOMS, SYNC, SyncWorld

_room = st.sampled_from(ROOMS)
_person = st.sampled_from(PEOPLE)
_actions = st.one_of(
    st.tuples(st.just("say"), _room, _person),
    st.tuples(st.just("say"), _room, _person),
    st.tuples(st.sampled_from(["topic", "name", "rename"]), _room, _person),
    st.tuples(st.sampled_from(["join", "leave"]), _room, _person),
    st.tuples(st.sampled_from(["join", "leave", "quit"]), _room, st.just("bob")),
    st.tuples(st.sampled_from(["invite", "kick", "ban", "unban"]), _room, st.sampled_from(["bob", "carol"])),
    st.tuples(st.sampled_from(["redact", "redact-name", "tag", "closed", "open"]), _room, st.just("alice")),
    st.tuples(st.sampled_from(["read", "read.private"]), _room, _person),
    st.tuples(st.just("sync"), _room, st.just("bob")),
    st.tuples(st.just("sync"), _room, st.just("bob")),
    st.tuples(st.sampled_from(["restart", "lost"]), _room, st.just("bob")),
)

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("state", {}),
    "short": ("state", {"filter": {"room": {"timeline": {"limit": 2}}}}),
    "empty": ("state", {"filter": {"room": {"timeline": {"limit": 0}}}}),
    "filtered": ("state", {"filter": {"room": {"timeline": {"limit": 3, "not_types": ["m.room.topic"]}}}}),
    "not of carol": (
        "state",
        {"filter": {"room": {"timeline": {"limit": 4, "not_senders": ["@carol:test.example"]}}}},
    ),
    "after": ("state_after", {"use_state_after": True, "filter": {"room": {"timeline": {"limit": 2}}}}),
    "lazy": (
        "state",
        {"filter": {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 3}}}},
    ),
    "lazy after": (
        "state_after",
        {
            "use_state_after": True,
            "filter": {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 2}}},
        },
    ),
}


class _World(SyncWorld):
    """A client of bob's that syncs now and then."""

    def __init__(self, case: TestCase, variant: str, database: str = "sqlite::memory:") -> None:
        super().__init__(case, database)
        state_name, self.query = VARIANTS[variant]
        self.lazy = variant.startswith("lazy")
        self.deaf = variant == "not of carol"
        self.state_name = state_name
        self.view = ClientView(state_name)

    def act(self, kind: str, room_id: str, who: str) -> None:
        if kind == "sync":
            self.sync()
        elif kind == "lost":
            # The answer never arrives; the client asks again from where it is.
            self.app.sync(self.tokens["bob"], self.view.since, **self.query)
        else:
            super().act(kind, room_id, who)

    def sync(self) -> None:
        self.view.apply(self.app.sync(self.tokens["bob"], self.view.since, **self.query))

    def differences(self) -> list[str]:
        self.sync()
        fresh = ClientView(self.state_name)
        fresh.apply(self.app.sync(self.log_in(), **self.query))
        quiet = self.app.sync(self.tokens["bob"], self.view.since, **self.query)
        found = [] if "rooms" not in quiet else [f"after everything: {quiet['rooms']}"]
        found += differences(self.view, fresh, lazy=self.lazy, deaf=self.deaf)
        for room_id in self.view.rooms:
            state = self.app.ok("GET", f"{room_path(room_id)}/state", None, self.tokens["bob"])
            found += falsehoods(self.view, room_id, state, lazy=self.lazy)
        return found


class SyncLawTests(TestCase):
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(variant=st.sampled_from(sorted(VARIANTS)), actions=st.lists(_actions, min_size=4, max_size=25))
    def test_increments_make_what_a_new_sync_says(
        self, variant: str, actions: list[tuple[str, str, str]]
    ) -> None:
        world = _World(self, variant)
        for kind, room_id, who in actions:
            world.act(kind, room_id, who)
        self.assertEqual(world.differences(), [], f"{variant}: {actions}")


# What the law is most easily broken by: each is run with every kind of sync, on both databases.
_SAY = ("say", ROOMS[0], "alice")
_STORY: tuple[tuple[str, str, str], ...] = (
    ("join", ROOMS[0], "carol"),
    ("join", ROOMS[0], "bob"),
    *(_SAY for _ in range(12)),
    SYNC,
    # A gap, from the log: what changed in it is state.
    ("topic", ROOMS[0], "alice"),
    ("rename", ROOMS[0], "alice"),
    *(_SAY for _ in range(12)),
    SYNC,
    # Carol was not heard of by a client that loads members lazily; the first answer that tells of her gets lost.
    ("say", ROOMS[0], "carol"),
    ("lost", "", ""),
    ("lost", "", ""),
    SYNC,
    # A gap, from the tables.
    ("topic", ROOMS[0], "alice"),
    ("rename", ROOMS[0], "carol"),
    *(_SAY for _ in range(12)),
    ("restart", "", ""),
    SYNC,
    ("say", ROOMS[0], "carol"),
    ("read", ROOMS[0], "alice"),
    ("restart", "", ""),
    SYNC,
    ("rename", ROOMS[0], "bob"),
    ("say", ROOMS[0], "carol"),
    ("lost", "", ""),
    SYNC,
    ("closed", ROOMS[0], "alice"),
    ("kick", ROOMS[0], "bob"),
    _SAY,
    ("invite", ROOMS[1], "bob"),
    SYNC,
    ("join", ROOMS[0], "bob"),
    ("say", ROOMS[0], "carol"),
    ("redact", ROOMS[0], "alice"),
    ("tag", ROOMS[0], "bob"),
    ("restart", "", ""),
    ("join", ROOMS[1], "bob"),
    SYNC,
    # Bob sees how carol came, and not how she left: what came after her is hidden from him.
    ("open", ROOMS[1], "alice"),
    ("ban", ROOMS[1], "bob"),
    ("join", ROOMS[1], "carol"),
    ("topic", ROOMS[1], "alice"),
    ("closed", ROOMS[1], "alice"),
    ("leave", ROOMS[1], "carol"),
    ("name", ROOMS[1], "alice"),
    ("unban", ROOMS[1], "bob"),
    ("join", ROOMS[1], "bob"),
    SYNC,
    # A room loses its name: what names it then is told, from the log and, where it is in a gap, from the tables.
    *NAMELESS,
    *(_SAY for _ in range(12)),
    ("restart", "", ""),
    SYNC,
    # Who does not want to hear of carol sees how she was invited, and not how she came; from the log and from the tables.
    ("invite", ROOMS[1], "carol"),
    ("join", ROOMS[1], "carol"),
    SYNC,
    ("leave", ROOMS[1], "carol"),
    ("invite", ROOMS[1], "carol"),
    ("join", ROOMS[1], "carol"),
    ("restart", "", ""),
    SYNC,
)


@on_each_database
class SyncStoryTests(DatabaseCase):
    def test_a_story_with_every_kind_of_sync(self) -> None:
        for variant in sorted(VARIANTS):
            world = _World(self, variant, self.new_database())
            for kind, room_id, who in _STORY:
                world.act(kind, room_id, who)
                if kind == "sync":
                    self.assertEqual(world.differences(), [], variant)
            self.assertEqual(world.differences(), [], variant)
            world.act("ban", ROOMS[0], "bob")
            world.act("say", ROOMS[0], "alice")
            self.assertEqual(world.differences(), [], variant)
