"""The law of device lists: a client that does as the specification says knows everybody's keys, and follows nobody else.

After each of its syncs the people it follows are those with whom it shares a room, and what it knows of them is what is.
Whatever happened in between: joins, leaves, kicks, new keys, new devices, logouts, restarts. And it is told to follow
nobody any more with whom it was in no room since its last sync.
"""

from __future__ import annotations

import random
from typing import Any

from tests.api.keys import KeysCase
from tests.api.rooms import V3
from tests.support.app import SERVER_NAME
from tests.support.databases import SQLITE, on_each_database
from tests.support.keys import KeyDevice

NAMES = ("alice", "bob", "carol", "dave")
ROOMS = 3
STEPS = 120


class Follower:
    """A client that follows device lists. spec: client-server-api#tracking-the-device-list-for-a-user"""

    def __init__(self, case: Law, name: str, token: str) -> None:
        self.case = case
        self.user_id = f"@{name}:{SERVER_NAME}"
        self.token = token
        self.since = ""
        self.known: dict[str, Any] = {}
        self.met: set[str] = set()  # with whom they have been in a room since their last sync

    def start(self) -> None:
        """The first sync says nothing of lists: ask for everybody there is."""
        self.since = self.case.sync(self.token)["next_batch"]
        self.met = self.case.sharing(self.user_id)
        self.ask(self.met)

    def follow(self) -> None:
        """One sync, and what comes of it."""
        answer = self.case.sync(self.token, self.since)
        self.since = answer["next_batch"]
        changed, left = self.case.lists(answer)
        self.case.assertLessEqual(set(left), self.met, self.user_id)
        self.met = self.case.sharing(self.user_id)
        for user_id in left:
            self.known.pop(user_id, None)
        self.ask(changed)

    def ask(self, user_ids: Any) -> None:
        if user_ids:
            self.known.update(self.case.query(self.token, *user_ids)["device_keys"])


@on_each_database
class Law(KeysCase):
    def setUp(self) -> None:
        super().setUp()
        self.tokens = {"alice": self.alice, "bob": self.bob}
        self.tokens |= {name: self.app.register(name) for name in NAMES[2:]}
        self.devices: dict[str, dict[str, tuple[str, Any]]] = {name: {} for name in NAMES}
        self.members: dict[str, set[str]] = {}
        for _ in range(ROOMS):
            self.members[self.create(preset="public_chat")] = {"alice"}
        self.made = 0

    def sharing(self, user_id: str) -> set[str]:
        """With whom somebody shares a room."""
        name = user_id[1:].partition(":")[0]
        found = {one for members in self.members.values() if name in members for one in members}
        return {f"@{one}:{SERVER_NAME}" for one in found - {name}}

    def step(self, draws: random.Random) -> None:
        """Something happens."""
        name, room_id = draws.choice(NAMES), draws.choice(list(self.members))
        members, token = self.members[room_id], self.tokens[name]
        what = draws.randrange(10)
        if what < 4:
            if name in members:
                self.ok(token, f"/rooms/{room_id}/leave")
                members.discard(name)
            elif members:  # a room without anybody lets nobody in
                self.ok(token, f"/join/{room_id}")
                members.add(name)
        elif what < 6:
            self.made += 1
            device_id = f"D{self.made}"
            device_token, device = self.device(name, device_id)
            self.devices[name][device_id] = (device_token, device.keys())
        elif what < 8 and self.devices[name]:
            device_id = draws.choice(list(self.devices[name]))
            device_token, _ = self.devices[name][device_id]
            if draws.randrange(2):
                self.made += 1
                keys = KeyDevice(f"@{name}:{SERVER_NAME}", device_id, str(self.made)).keys()
                self.ok(device_token, "/keys/upload", {"device_keys": keys})
                self.devices[name][device_id] = (device_token, keys)
            else:
                self.ok(device_token, "/logout")
                del self.devices[name][device_id]
        elif what == 8:
            path = f"{V3}/profile/@{name}:{SERVER_NAME}/displayname"
            self.app.ok("PUT", path, {"displayname": f"{name} {draws.random()}"}, token)
            self.app.advance(1)
        elif draws.randrange(4) == 0:
            self.app.restart()

    def check(self, follower: Follower) -> None:
        """The law."""
        wanted = {
            user_id: {
                device_id: {**keys, "unsigned": {}}
                for device_id, (_, keys) in self.devices[user_id[1:].partition(":")[0]].items()
            }
            for user_id in self.sharing(follower.user_id)
        }
        known = {user_id: keys for user_id, keys in follower.known.items() if user_id != follower.user_id}
        self.assertEqual(wanted, known, follower.user_id)

    def test_stories(self) -> None:
        for seed in range(4 if self.dialect == SQLITE else 1):
            with self.subTest(seed=seed):
                draws = random.Random(seed)
                followers = [Follower(self, name, self.tokens[name]) for name in NAMES]
                for follower in followers:
                    follower.start()
                for _ in range(STEPS):
                    self.step(draws)
                    for follower in followers:
                        follower.met |= self.sharing(follower.user_id)
                    if draws.randrange(3) == 0:
                        follower = draws.choice(followers)
                        follower.follow()
                        self.check(follower)
                for follower in followers:
                    follower.follow()
                    self.check(follower)
