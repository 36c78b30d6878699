"""Unread counts against a naive model, which knows nothing but what was sent and what was answered.

spec: client-server-api#marking-notifications-as-read, #threaded-read-receipts
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from homeserver.push import counts as counting
from homeserver.push.recent import Room
from tests.api.test_counts import V3, CountsCase
from tests.support.databases import on_each_database

NAMES = ("alice", "bob", "carol")
HOPS = 3


@dataclass
class Said:
    """One event of the room, in the order of the timeline."""

    event_id: str
    sender: str
    relation: tuple[str, str] | None = None
    mentions: tuple[str, ...] = ()
    to_all: bool = False
    redacted: bool = False


@dataclass
class Model:
    """Who has read what, word by word as the specification says it."""

    said: list[Said] = field(default_factory=list)
    # (reader, thread) -> place read up to; thread None: everything
    read: dict[tuple[str, str | None], int] = field(default_factory=dict)

    def messages(self) -> list[Said]:
        return [one for one in self.said if one.event_id.startswith("$")]

    def find(self, event_id: str) -> Said | None:
        return next((one for one in self.said if one.event_id == event_id), None)

    def thread_of(self, one: Said) -> str:
        for _ in range(HOPS + 1):
            if one.relation is None:
                return "main"
            kind, parent_id = one.relation
            if kind == "m.thread":
                return parent_id
            parent = self.find(parent_id)
            if parent is None:
                return "main"
            one = parent
        return "main"

    def say(self, one: Said) -> None:
        self.said.append(one)
        if one.relation is None or one.relation[0] == "m.thread":
            # A message says that its sender has read its part of the room; what is put on one event does not.
            self.mark(one.sender, self.thread_of(one), len(self.said))

    def mark(self, reader: str, thread: str | None, place: int) -> None:
        key = (reader, thread)
        self.read[key] = max(self.read.get(key, 0), place)

    def receipt(self, reader: str, thread: str | None, event_id: str) -> None:
        place = next(place for place, one in enumerate(self.said, 1) if one.event_id == event_id)
        self.mark(reader, thread, place)

    def counts(self, reader: str) -> tuple[tuple[int, int], dict[str, tuple[int, int]]]:
        found: dict[str, list[int]] = {}
        for place, one in enumerate(self.said, 1):
            thread = self.thread_of(one)
            is_read = place <= max(self.read.get((reader, None), 0), self.read.get((reader, thread), 0))
            if one.sender != reader and not one.redacted and not is_read:
                tally = found.setdefault(thread, [0, 0])
                tally[0] += 1
                tally[1] += reader in one.mentions or (one.to_all and one.sender == "alice")
        main = found.pop("main", [0, 0])
        return (main[0], main[1]), {thread: (one[0], one[1]) for thread, one in found.items()}


@on_each_database
class NaiveModel(CountsCase):
    def token(self, name: str) -> str:
        token: str = getattr(self, name)
        return token

    def say(self, model: Model, choice: Random, name: str) -> None:
        said = Said("", name)
        content: dict[str, Any] = {}
        if model.messages() and choice.random() < 0.6:
            near = model.messages()[-6:]
            # No thread begins at what relates to something itself.
            roots = [one for one in near if one.relation is None]
            kind = choice.choice(("m.thread", "m.thread", "m.reference")) if roots else "m.reference"
            said.relation = (kind, choice.choice(roots if kind == "m.thread" else near).event_id)
            content["m.relates_to"] = {"rel_type": kind, "event_id": said.relation[1]}
        if choice.random() < 0.4:
            said.mentions = tuple(one for one in NAMES if choice.random() < 0.5)
            said.to_all = choice.random() < 0.3
            ids = [f"@{one}:test.example" for one in said.mentions]
            content["m.mentions"] = {"user_ids": ids, "room": said.to_all}
        said.event_id = self.send(self.token(name), content=content)
        model.say(said)

    def mark(self, model: Model, choice: Random, name: str) -> None:
        one = choice.choice(model.messages()[-8:])
        threads = [None, "main", model.thread_of(one), choice.choice(model.messages()).event_id]
        thread = choice.choice(threads)
        marker = choice.choice(("m.read", "m.read.private"))
        path = f"{V3}/rooms/{self.room_id}/receipt/{marker}/{one.event_id}"
        body = {} if thread is None else {"thread_id": thread}
        status, _ = self.app.call("POST", path, body, self.token(name))
        # Which receipts are refused is for test_receipts; one that fits must be taken.
        if thread in (None, model.thread_of(one)):
            self.assertEqual(200, status)
        if status == 200:
            model.receipt(name, thread, one.event_id)

    def redact(self, model: Model, choice: Random) -> None:
        one = choice.choice(model.messages()[-8:])
        self.number += 1
        path = f"{V3}/rooms/{self.room_id}/redact/{one.event_id}/{self.number}"
        self.app.ok("PUT", path, {}, self.alice)
        one.redacted = True
        # A place in the timeline that notifies nobody.
        model.said.append(Said(f"redaction {self.number}", "alice", ("none", ""), redacted=True))

    def come_back(self, model: Model, name: str) -> None:
        for way in (f"rooms/{self.room_id}/leave", f"join/{self.room_id}"):
            self.app.ok("POST", f"{V3}/{way}", {}, self.token(name))
            model.said.append(Said(f"membership {len(model.said)}", name, ("none", ""), redacted=True))
        model.mark(name, None, len(model.said))

    def check(self, model: Model, name: str, note: object) -> None:
        main, threads = self.counts(self.token(name), threads=True)
        found: tuple[tuple[int, int], Mapping[str, tuple[int, int]]] = (main, threads)
        self.assertEqual(model.counts(name), found, (name, note))

    def test_as_the_model_says(self) -> None:
        for seed in range(3):
            choice, model = Random(f"counts {seed}"), Model()
            for name in NAMES:
                self.counts(self.token(name))  # from now on
            created = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.alice)
            self.room_id = created["room_id"]
            for name in NAMES[1:]:
                self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, self.token(name))
            for step in range(90):
                name = choice.choice(NAMES)
                kind = choice.random()
                if kind < 0.55 or len(model.messages()) < 2:
                    self.say(model, choice, name)
                elif kind < 0.85:
                    self.mark(model, choice, name)
                elif kind < 0.93:
                    self.redact(model, choice)
                elif kind < 0.97 and name != "alice":
                    self.come_back(model, name)
                elif kind > 0.985:
                    self.app.restart()
                if choice.random() < 0.4:
                    for one in NAMES:
                        self.check(model, one, (seed, step))
            for one in NAMES:
                self.check(model, one, (seed, "end"))

    def test_as_the_model_says_where_memory_is_short(self) -> None:
        self.patch(counting, "ITEMS_MOST", 8)
        self.patch(counting, "ITEMS_KEPT", 2)
        made: list[Room] = []

        def make(floor: int) -> Room:
            made.append(Room(floor))
            return made[-1]

        self.patch(counting, "Room", make)
        self.test_as_the_model_says()
        # More than that come at once only between two looks.
        self.assertLessEqual(max(len(room.items) for room in made), 8)
