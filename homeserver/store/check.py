"""Every invariant of the database, for ``chaos check-db``, for the end of every test, and for the simulator.

It reads everything that it compares and trusts no cache. Cost: some 70 queries, 0.1 ms for each event looked into,
and the state of one room at a time in memory.
"""

from __future__ import annotations

from homeserver.db.tx import Tx
from homeserver.store.checks.events import event_problems
from homeserver.store.checks.relations import RULES
from homeserver.store.checks.rooms import room_problems

PROBLEMS_MOST = 1_000
# What is checked of a room and of an event, beside the queries.
CHECKED = len(RULES) + 16


def check_db(tx: Tx, hashed_most: int = 20_000) -> list[str]:
    """What is wrong, in plain words; nothing where the database is sound.

    Of more than ``hashed_most`` events only about so many are parsed and hashed again (always the same).
    """
    problems: list[str] = []
    for rule in RULES:
        problems += rule.problems(tx)
    for found in (room_problems(tx), event_problems(tx, hashed_most)):
        for problem in found:
            problems.append(problem)
            if len(problems) >= PROBLEMS_MOST:
                return [*problems, "and more: the rest was not looked at"]
    return problems
