"""Transactions and answers with something wrong in them at random: never a fault of ours, never a room that is broken."""

from __future__ import annotations

import json
from copy import deepcopy
from random import Random
from typing import Any

from tests.api.receiving import ReceiveCase
from tests.api.rooms import V3
from tests.support.databases import on_each_database
from tests.support.peer import FEDERATION, random_id

ROUNDS = 150
NASTY: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    2**53,
    2**64,
    -(2**70),
    "",
    "\0",
    "x" * 300,
    "\U0001f600",
    "@:x",
    "@a:b",
    "!x:y",
    "$x",
    random_id("nowhere"),
    [],
    {},
    [[]],
    [None],
    {"": {}},
    {"\0": "\0"},
    [random_id("nowhere")] * 25,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key in value:
            found += _places(value[key], (*path, key))
    elif isinstance(value, list):
        for number in range(len(value)):
            found += _places(value[number], (*path, number))
    return found


def _damaged(draws: Random, value: Any) -> Any:
    """A copy in which something is another, or is not there."""
    damaged = deepcopy(value)
    for _ in range(draws.randint(1, 3)):
        places = _places(damaged)
        if not places:
            break
        *path, last = draws.choice(places)
        container = damaged
        for key in path:
            container = container[key]
        if draws.random() < 0.5:
            container[last] = deepcopy(draws.choice(NASTY))
        else:
            del container[last]
    return damaged


@on_each_database
class Damaged(ReceiveCase):
    def setUp(self) -> None:
        super().setUp()
        self.enter()
        self.number = 0
        self.levels = self.state("m.room.power_levels")

    def send(self, body: Any) -> int:
        """Whatever it is, as Python writes it; signed."""
        self.number += 1
        text = json.dumps(body, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
        return self.peer.call(self.app, "PUT", f"{FEDERATION}/send/d{self.number}", text)[0]

    def test_transactions(self) -> None:
        """What is damaged may be signed anew, so that it gets further."""
        for seed in range(ROUNDS):
            draws = Random(seed)
            kind = draws.choice(["m.room.message", "m.room.member", "m.room.power_levels", "m.room.topic"])
            content = {"membership": "join", "users": {self.peer.user(): 100}, "topic": "t", "body": "b"}
            key = None if kind == "m.room.message" else self.peer.user() if kind == "m.room.member" else ""
            pdu = self.room.make_json(kind, content, state_key=key)
            damaged = _damaged(draws, pdu)
            if draws.random() < 0.7:
                try:
                    damaged = self.peer.sign(damaged, self.version)
                except Exception:  # noqa: BLE001 (it cannot even be signed)
                    damaged = pdu
            typing: Any = {"room_id": self.room_id, "user_id": self.peer.user(), "typing": True}
            edu = {"edu_type": "m.typing", "content": typing}
            body = {"pdus": [damaged, pdu], "edus": [_damaged(draws, edu)]}
            if draws.random() < 0.1:
                body = _damaged(draws, body)
            self.assertIn(self.send(body), (200, 400, 401, 413), seed)
            self.settle()
        self.assertEqual(self.levels, self.state("m.room.power_levels"))
        self.assertIn("m.room.message", {event["type"] for event in self.messages()})

    def messages(self) -> list[Any]:
        path = f"{V3}/rooms/{self.room_id}/messages"
        chunk: list[Any] = self.app.ok("GET", path, None, self.alice, {"dir": "b", "limit": 100})["chunk"]
        return chunk

    def test_answers(self) -> None:
        for seed in range(ROUNDS):
            draws = Random(seed)
            unseen = self.room.say(f"unseen {seed}")
            late = self.room.say(f"late {seed}")
            truth = {
                ("POST", f"{FEDERATION}/get_missing_events/"): {"events": [unseen.json]},
                ("GET", f"{FEDERATION}/event/"): self.peer.transaction([unseen]),
                ("GET", f"{FEDERATION}/state_ids/"): self.room.state_ids_answer(unseen.event_id),
                ("GET", f"{FEDERATION}/state/"): self.room.state_answer(unseen.event_id),
                ("GET", f"{FEDERATION}/event_auth/"): self.room.event_auth_answer(late.event_id),
            }
            for place, answer in truth.items():
                if draws.random() < 0.8:
                    self.peer.answers[place] = json.dumps(
                        _damaged(draws, answer), ensure_ascii=False
                    ).encode()
            self.assertEqual(200, self.send(self.peer.transaction([late])))
            self.settle()
            # An honest answer, and the room goes on.
            self.peer.answers.clear()
            self.settle(6)
            self.settle(31)
            self.assertEqual((late.event_id, 0), (self.timeline()[-1], self.staged()), seed)
        self.assertEqual(self.levels, self.state("m.room.power_levels"))
