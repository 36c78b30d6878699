"""The row of searches in a million messages."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.bench.crowd import Crowd
from tests.bench.figures import Measured
from tests.bench.text_filling import FILL
from tests.bench.texts import OUTSIDE_EVERY, ROOMS, SENDERS, Talk, Words
from tests.bench.wire import BlockingConnection, build_request, expect_ok
from tests.bench.world import CLIENT, User, World
from tests.interop.synapse import REGISTRATION_SECRET

# What Element asks for around each result.
CONTEXT = {"before_limit": 1, "after_limit": 1, "include_profile": True}


@dataclass(frozen=True, slots=True)
class Question:
    """One kind of search: its words, and what else is asked."""

    terms: tuple[str, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    second_page: bool = False


def questions(words: Words, room_id: str) -> dict[str, Question]:
    """The mix: each kind is asked as often as every other."""
    recent, context = {"order_by": "recent"}, {"event_context": CONTEXT}
    pairs = tuple(f"{one} {other}" for one, other in itertools.pairwise(words.common))
    return {
        "rare": Question(words.rare, recent),
        "seldom": Question(words.seldom, recent),
        "common": Question(words.common, recent),
        "common, second page": Question(words.common, recent, second_page=True),
        "common, with context": Question(words.common, {**recent, **context}),
        "common, in one room": Question(words.common, {**recent, "filter": {"rooms": [room_id]}}),
        "two words": Question(pairs, recent),
        "a common and a seldom word": Question(
            tuple(map(" ".join, zip(words.common, words.seldom, strict=False))), recent
        ),
        "rare, by rank": Question(words.rare, {"order_by": "rank"}),
        "seldom, by rank, with context": Question(words.seldom, {"order_by": "rank", **context}),
        "common, by rank": Question(words.common, {"order_by": "rank"}),
    }


def measure_search(crowd: Crowd) -> Measured:
    """A member of 16 of 20 rooms looks for words in 1,000,000 messages of two languages: rare, seldom (of 1,000 or so) and
    common ones (up to a quarter of all), two at once, in one room, the newest or the best first, with what was said
    around them, and the second page. The median over all searches, as many of each kind; after one of each that is not
    counted. The messages are put into the tables while the server is stopped.
    """
    server, scale = crowd.server, crowd.scale
    world = World(server.port, REGISTRATION_SECRET)
    searcher, room_ids, firsts = asyncio.run(_gather(world))
    server.stop()
    talk = Talk(scale.texts)
    engine = crowd.open_database()
    started_s = time.perf_counter()
    FILL[crowd.product](engine, talk, firsts)
    engine.dispose()
    print(f"  filled in {time.perf_counter() - started_s:.0f} s", file=sys.stderr, flush=True)
    server.start()
    taken_ms: list[float] = []
    with BlockingConnection(server.port) as connection:
        for kind, question in questions(talk.words_to_ask(), room_ids[0]).items():
            found = _ask(connection, searcher, question, scale.searches)
            print(f"  {kind}: {found.describe()}", file=sys.stderr, flush=True)
            taken_ms += found.taken_ms
    return {"search_ms": statistics.median(taken_ms)}


async def _gather(world: World) -> tuple[User, list[str], list[list[str]]]:
    """The searcher, the rooms, and of each room the first message of every sender, in the order of these."""
    searcher, *senders = await world.register(SENDERS + 1)
    room_ids = await world.create_rooms(senders[:1] * ROOMS)
    await world.join((sender, room_id) for sender in senders[1:] for room_id in room_ids)
    await world.join(
        (searcher, room_id) for number, room_id in enumerate(room_ids) if (number + 1) % OUTSIDE_EVERY
    )
    firsts = [
        [
            str(world.ask(world.message_request(sender, room_id, "begin")).json()["event_id"])
            for sender in senders
        ]
        for room_id in room_ids
    ]
    return searcher, room_ids, firsts


@dataclass(slots=True)
class _Found:
    taken_ms: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def describe(self) -> str:
        return f"median {statistics.median(self.taken_ms):.2f} ms, worst {max(self.taken_ms):.2f} ms, counts {self.counts}"


def _ask(connection: BlockingConnection, user: User, question: Question, times: int) -> _Found:
    found = _Found()
    terms = itertools.islice(itertools.cycle(question.terms), times + 1)
    for number, term in enumerate(terms):
        answer, taken_ms = _ask_once(connection, _request(user, term, question.fields))
        if question.second_page:
            request = _request(user, term, question.fields, answer["next_batch"])
            answer, taken_ms = _ask_once(connection, request)
        if not answer["results"]:
            raise AssertionError(f"nothing found of {term}")
        if number:
            found.taken_ms.append(taken_ms)
            found.counts.append(answer["count"])
    return found


def _ask_once(connection: BlockingConnection, request: bytes) -> tuple[dict[str, Any], float]:
    response, taken_ms = connection.timed(request)
    answer: dict[str, Any] = expect_ok(response).json()["search_categories"]["room_events"]
    return answer, taken_ms


def _request(user: User, term: str, fields: Mapping[str, Any], token: str | None = None) -> bytes:
    content = {
        "search_categories": {"room_events": {"search_term": term, "keys": ["content.body"], **fields}}
    }
    query = None if token is None else {"next_batch": token}
    return build_request("POST", f"{CLIENT}/search", user.token, content, query)
