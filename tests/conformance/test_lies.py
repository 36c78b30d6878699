"""Answers with one thing wrong in them, for our servers to believe or not: clients still get what they are promised.

The scenes do not come off as they should then, and need not; what our servers ask and answer meanwhile must hold.
"""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec

from federation.ids import ServerName
from homeserver.http.transport import PeerRequest, PeerResponse
from tests.conformance import scenes_history, scenes_membership, scenes_queries
from tests.conformance.mutants import mutants
from tests.conformance.stage import Scene, StageCase
from tests.conformance.watch import Watch

SCENES: tuple[Scene, ...] = (
    scenes_membership.restricted_joins,
    scenes_membership.invites,
    scenes_membership.knocks,
    scenes_membership.third_party_invites,
    scenes_history.secrets,
    scenes_history.gaps,
    scenes_history.a_member_of_many,
    scenes_queries.keys,
    scenes_queries.queries,
    scenes_queries.directory,
    scenes_queries.spaces,
    scenes_queries.media,
)
TIMES_EACH = 2


class Lies(StageCase):
    """On SQLite alone; the same texts reach PostgreSQL in requests (see `test_server_server.py`)."""

    def test_answers_that_are_wrong_somewhere(self) -> None:
        problems: set[str] = set()
        for seed in range(TIMES_EACH * len(SCENES)):
            watch = Watch(self.specification)
            self.open(watch)
            rng = random.Random(seed)

            def lie(_: ServerName, request: PeerRequest, response: PeerResponse) -> PeerResponse | None:
                return self.lie(rng, request, response)  # noqa: B023 (called in this turn of the loop alone)

            self.net.tamper_answers(lie)
            try:
                SCENES[seed % len(SCENES)](self)
            except (AssertionError, LookupError, TypeError) as error:
                # What the scene wanted; but servers that never answer would be a fault.
                self.assertNotIn(str(error), ("still waiting", "the servers do not come to rest"))
            self.net.advance(60)
            problems.update(f"seed {seed}: {problem}" for problem in watch.problems)
        self.assertEqual([], sorted(problems))

    def lie(self, rng: random.Random, request: PeerRequest, response: PeerResponse) -> PeerResponse | None:
        """Now and then another answer; but keys are true, for without them nothing is said at all."""
        if response.status != 200 or request.uri == "/_matrix/key/v2/server" or rng.random() > 0.3:
            return None
        try:
            body = msgspec.json.decode(response.body)
        except msgspec.DecodeError:
            return replace(response, body=response.body[: rng.randrange(len(response.body))])
        wrong = list(mutants(body))
        return replace(response, body=msgspec.json.encode(rng.choice(wrong))) if wrong else None
