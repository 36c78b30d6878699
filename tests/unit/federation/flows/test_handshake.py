"""Handshakes, played by hand: who is asked, when one stops, what is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest import TestCase

from federation.flows.handshake import (
    MAX_SERVERS,
    Accepted,
    Failed,
    NeedAccepted,
    NeedSigned,
    NeedTemplate,
    Refused,
    Silent,
    Wish,
    handshake,
)
from federation.ids import RoomId, ServerName, UserId
from federation.signing import SigningKey, hash_and_sign_event
from federation.versions import ROOM_VERSIONS

KEY = SigningKey.from_seed(ServerName("b.example"), "k", b"\x08" * 32)
BOB = UserId("@bob:b.example")
ROOM = RoomId("!room:a.example")
TEMPLATE = {
    "room_version": "10",
    "event": {
        "type": "m.room.member",
        "room_id": ROOM,
        "sender": BOB,
        "state_key": BOB,
        "content": {"membership": "join"},
        "prev_events": ["$" + "x" * 43],
        "auth_events": ["$" + "y" * 43],
        "depth": 5,
    },
}


def refused(errcode: str, status: int = 403) -> Refused:
    return Refused(ServerName("?"), status, errcode, "no")


class Handshakes(TestCase):
    def play(self, answers: Mapping[str, tuple[Any, Any]], **wish: Any) -> Accepted | Failed:
        """Answers by server: to the template, and to the event. Notes in ``asked`` who was asked."""
        self.asked: list[str] = []
        flow = handshake(Wish("join", ROOM, BOB, **wish), [ServerName(name) for name in answers])
        answer: Any = None
        while True:
            try:
                need = flow.send(answer)
            except StopIteration as done:
                outcome: Accepted | Failed = done.value
                return outcome
            if isinstance(need, NeedTemplate):
                self.asked.append(need.server)
                answer = answers[need.server][0]
            elif isinstance(need, NeedSigned):
                fields = {**need.fields, "origin_server_ts": 7}
                answer = hash_and_sign_event(fields, need.rules, KEY)
            else:
                assert isinstance(need, NeedAccepted)
                answer = answers[need.server][1]

    def test_the_first_that_does_it(self) -> None:
        outcome = self.play(
            {"a": (Silent(ServerName("a"), ""), None), "b": (TEMPLATE, "done"), "c": (TEMPLATE, "x")}
        )
        assert isinstance(outcome, Accepted)
        self.assertEqual(("b", "done"), (outcome.server, outcome.answer))
        self.assertEqual(["a", "b"], self.asked)
        self.assertEqual({"membership": "join"}, outcome.event.content)

    def test_one_after_the_other(self) -> None:
        again: list[Any] = [
            Silent(ServerName("?"), ""),
            refused("M_NOT_FOUND", 404),
            refused("M_UNRECOGNIZED", 400),
            refused("M_UNABLE_TO_GRANT_JOIN", 400),
            refused("M_UNABLE_TO_AUTHORISE_JOIN", 400),
            refused("M_UNKNOWN", 500),
            refused("M_LIMIT_EXCEEDED", 429),
            {"event": {}},
        ]
        answers: dict[str, tuple[Any, Any]] = {f"s{number}": (one, None) for number, one in enumerate(again)}
        # ... whether the template or the event is refused
        answers |= {f"e{number}": (TEMPLATE, one) for number, one in enumerate(again[:-1])}
        outcome = self.play({**answers, "last": (TEMPLATE, "done")})
        self.assertIsInstance(outcome, Accepted)
        self.assertEqual(len(answers) + 1, len(self.asked))

    def test_two_refusals_end_it(self) -> None:
        no = (refused("M_FORBIDDEN"), None)
        outcome = self.play(
            {"a": no, "b": (TEMPLATE, refused("M_NOT_FOUND", 404)), "c": no, "d": (TEMPLATE, "done")}
        )
        assert isinstance(outcome, Failed)
        self.assertEqual(["a", "b", "c"], self.asked)
        refusal = outcome.refusal()
        assert refusal is not None
        self.assertEqual("M_FORBIDDEN", refusal.errcode)

    def test_what_tells_most(self) -> None:
        for said, errcode in (
            (["M_NOT_FOUND", "M_UNABLE_TO_GRANT_JOIN"], "M_UNABLE_TO_GRANT_JOIN"),
            (["M_UNABLE_TO_GRANT_JOIN", "M_FORBIDDEN"], "M_FORBIDDEN"),
            (["M_NOT_FOUND"], "M_NOT_FOUND"),
        ):
            answers = {f"s{number}": (refused(one, 400), None) for number, one in enumerate(said)}
            outcome = self.play({**answers, "z": (Silent(ServerName("z"), ""), None)})
            assert isinstance(outcome, Failed)
            refusal = outcome.refusal()
            assert refusal is not None
            self.assertEqual(errcode, refusal.errcode)

    def test_nobody_and_too_many(self) -> None:
        outcome = self.play({})
        assert isinstance(outcome, Failed)
        self.assertIsNone(outcome.refusal())
        self.play({f"s{number}": (None, None) for number in range(MAX_SERVERS + 5)})
        self.assertEqual(MAX_SERVERS, len(self.asked))

    def test_a_version_that_is_known_already(self) -> None:
        outcome = self.play({"a": (TEMPLATE, "done")}, rules=ROOM_VERSIONS["9"])
        self.assertIsInstance(outcome, Failed)
        outcome = self.play({"a": (TEMPLATE, "done")}, rules=ROOM_VERSIONS["10"])
        self.assertIsInstance(outcome, Accepted)

    def test_who_lets_the_user_in(self) -> None:
        def with_authoriser(value: Any, version: str) -> Any:
            content = {"membership": "join", "join_authorised_via_users_server": value}
            return {"room_version": version, "event": {**TEMPLATE["event"], "content": content}}  # type: ignore[dict-item]

        outcome = self.play({"a": (with_authoriser("@alice:a.example", "10"), "done")})
        assert isinstance(outcome, Accepted)
        self.assertEqual("@alice:a.example", outcome.event.content["join_authorised_via_users_server"])
        outcome = self.play({"a": (with_authoriser("@alice:a.example", "7"), "done")})
        assert isinstance(outcome, Accepted)
        self.assertEqual({"membership": "join"}, outcome.event.content)
        for wrong in (7, "alice", "@alice", ["@alice:a.example"], "@a\0:a.example"):
            self.assertIsInstance(self.play({"a": (with_authoriser(wrong, "10"), "done")}), Failed)
