"""The sync law where other servers make forks: the state moves by resolution, back and forth, and so do memberships.

Only with ``use_state_after`` can a client know the state of a room with forks: without it, a state event in the timeline
that loses a resolution looks as if it had won.
"""

from __future__ import annotations

from random import Random
from typing import Any

from homeserver.rooms.arrivals import Arrival, arrive
from homeserver.rooms.turn import Turn
from tests.api.test_sync_law import VARIANTS
from tests.support.databases import SQLITE, DatabaseCase, on_each_database
from tests.support.peer import FakePeer
from tests.support.peer_rooms import PeerRoom
from tests.support.sync import SyncApp, user_id
from tests.support.sync_model import ClientView, differences

ROOM, HOME = "!room:test.example", "!home:test.example"
SEEDS = range(1, 6)
STEPS = 40


class ForkedStory:
    """Alice and bob are here; mallory of the peer has as much power as alice, and eve has none."""

    def __init__(self, case: DatabaseCase, variant: str, seed: int) -> None:
        url = "sqlite::memory:" if case.dialect == SQLITE else case.new_database()
        self.app = SyncApp(case, url)
        self.random = Random(f"{variant} {seed}")
        self.tokens = {name: self.app.register(name) for name in ("alice", "bob")}
        for room_id in (ROOM, HOME):
            self.app.make_room("alice", room_id)
            self.app.member(room_id, "bob", "join")
        peer = FakePeer()
        self.mallory, self.eve = peer.user(), peer.user("eve")
        levels = {"users": {self.mallory: 100, user_id("alice"): 100}, "state_default": 0}
        self.app.place(ROOM, "alice", "m.room.power_levels", levels, "")
        self.room: PeerRoom = peer.follow(self.app, ROOM)
        self.arrive(self.room.join(self.mallory))
        self.arrive(self.room.join(self.eve))
        self.peer = peer
        self.count = 0
        self.lazy = "lazy" in variant
        self.begin(variant)

    def begin(self, variant: str) -> None:
        """The clients know nothing yet."""
        self.state_name, self.query = VARIANTS[variant]
        self.views = {name: ClientView(self.state_name) for name in self.tokens}

    def arrive(self, *events: Any) -> None:
        async def job(turn: Turn) -> None:
            await arrive(turn, [Arrival(event) for event in events])

        self.app.in_room(ROOM, job)

    def step(self) -> None:
        random, app = self.random, self.app
        self.count += 1
        match random.randrange(10):
            case 0:
                name = random.choice(("alice", "bob"))
                try:
                    match random.randrange(3):
                        case 0:
                            app.say(ROOM, name, f"{self.count}")
                        case 1:
                            app.place(ROOM, name, "m.room.topic", {"topic": f"{self.count}"}, "")
                        case _:
                            app.member(ROOM, name, "join", displayname=f"{name}{self.count}")
                except Exception as refused:  # noqa: BLE001 (the rules may refuse it)
                    assert getattr(refused, "status", 0) == 403, refused
                self.peer.follow(app, ROOM)
            case 1 | 2:
                self.sync(random.choice(("alice", "bob")))
            case 3:
                if random.random() < 0.3:
                    app.restart()
            case _:
                self.arrive(*[self.draw() for _ in range(random.choice((1, 1, 2, 4)))])

    def draw(self) -> Any:
        """Somebody elsewhere does something on some of the later events; often what they may not do."""
        random, room = self.random, self.room
        ids = list(room.events)
        prev = sorted({ids[-1 - random.randrange(min(8, len(ids)))] for _ in range(random.choice((1, 1, 2)))})
        where: dict[str, Any] = {"prev": prev, "ts": 1_700_000_000_000 + random.randrange(50_000)}
        sender = random.choice((self.mallory, self.mallory, self.eve))
        match random.randrange(6):
            case 0:
                return room.say(f"{self.count}", sender=sender, **where)
            case 1:
                return room.add(
                    "m.room.topic", {"topic": f"{self.count}"}, sender=sender, state_key="", **where
                )
            case 2:
                return room.add(
                    "m.room.name", {"name": f"{self.count}"}, sender=sender, state_key="", **where
                )
            case 3:
                return room.join(self.eve, **where)
            case _:
                target = random.choice((user_id("bob"), user_id("bob"), user_id("alice"), self.eve))
                word = random.choice(("leave", "ban", "invite", "leave"))
                return room.add(
                    "m.room.member", {"membership": word}, sender=self.mallory, state_key=target, **where
                )

    def sync(self, name: str) -> None:
        view = self.views[name]
        view.apply(self.app.sync(self.tokens[name], view.since, **self.query))

    def log_in(self, name: str) -> str:
        """Another device."""
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": name},
            "password": "correct horse",
        }
        token: str = self.app.ok("POST", "/_matrix/client/v3/login", login)["access_token"]
        return token

    def differences(self) -> list[str]:
        found: list[str] = []
        for name in self.tokens:
            self.sync(name)
            fresh = ClientView(self.state_name)
            fresh.apply(self.app.sync(self.log_in(name), **self.query))
            quiet = self.app.sync(self.tokens[name], self.views[name].since, **self.query)
            if "rooms" in quiet:
                found.append(f"{name} after everything: {quiet['rooms']}")
            # No answer can say that a key of the state is gone: clients go on believing in it.
            for room_id, view in self.views[name].rooms.items():
                held = fresh.rooms[room_id].state if room_id in fresh.rooms else view.state
                view.state = {
                    key: event_id
                    for key, event_id in view.state.items()
                    if key in held or (self.lazy and key[0] == "m.room.member")
                }
            found += [f"{name}: {one}" for one in differences(self.views[name], fresh, lazy=self.lazy)]
        return found


@on_each_database
class ForkedLaw(DatabaseCase):
    """Each seed is a story of its own."""

    def _hold(self, variant: str) -> None:
        # What differs between databases shows with few seeds, and each costs a database of its own.
        for seed in SEEDS if self.dialect == SQLITE else SEEDS[:1]:
            story = ForkedStory(self, variant, seed)
            for number in range(STEPS):
                story.step()
                if number % 10 == 9:
                    self.assertEqual([], story.differences(), f"{variant} {seed} {number}")

    def test_state_after(self) -> None:
        self._hold("after")

    def test_state_after_with_lazy_members(self) -> None:
        self._hold("lazy after")
