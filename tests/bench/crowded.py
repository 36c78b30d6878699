"""Rows of the table in a room of more local members than an API could make in the time of a run.

A few members are real. The rest are put into the tables while the server is stopped: into those that say who is in the
room, from which each server learns for whom it has to evaluate an event. They have no devices and change no rules, as
most of a large room's members.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, text

from tests.bench.crowd import Crowd
from tests.bench.figures import Measured, Scale
from tests.bench.present import measure_presence
from tests.bench.searching import measure_search
from tests.bench.targets import Target
from tests.bench.wire import BlockingConnection, expect_ok
from tests.bench.world import User, World, join_request, sync_request
from tests.interop.synapse import REGISTRATION_SECRET

ASKING = 10
WARM_UP = 3
# Far beyond the numbers that a server gives out in a run.
_FIRST_NID = 10**12


def measure_push(crowd: Crowd) -> Measured:
    """One of 10,000 local members writes; from the start of the send until it is answered and ten of the others, one
    after the other, have been told by a sync how much they have not read. The median over the rounds.

    Synapse finds out for each member whether the message notifies them before it answers; CHAOS finds it out for those
    who ask, and for those who have a pusher.
    """
    server = crowd.server
    world = World(server.port, REGISTRATION_SECRET)
    users, late, room_id = _gather(world)
    server.stop()
    engine = crowd.open_database()
    _FILL[crowd.product](engine, room_id, crowd.scale.crowd)
    engine.dispose()
    server.start()
    # One more, so that nobody goes by what they remember of the room.
    world.ask(join_request(late, room_id))
    tokens = {user: world.current_token(user) for user in users[1:]}
    taken_ms: list[float] = []
    with BlockingConnection(server.port) as connection:
        for number in range(1, WARM_UP + crowd.scale.crowd_rounds + 1):
            request = world.message_request(users[0], room_id)
            started_s = time.perf_counter()
            expect_ok(connection.request(request))
            for user, since in tokens.items():
                answer = expect_ok(connection.request(sync_request(user, since))).json()
                _check(answer["rooms"]["join"][room_id], number)
                tokens[user] = answer["next_batch"]
            taken_ms.append((time.perf_counter() - started_s) * 1000)
    return {"push_ms": statistics.median(taken_ms[WARM_UP:])}


def _gather(world: World) -> tuple[list[User], User, str]:
    """Those who are real, one who comes later, and their room."""
    users = asyncio.run(world.register(ASKING + 2))
    room_id = str(world.ask(world.room_request(users[0])).json()["room_id"])
    for user in users[1:-1]:
        world.ask(join_request(user, room_id))
    return users[:-1], users[-1], room_id


def _check(room: dict[str, Any], expected: int) -> None:
    found = room["unread_notifications"]["notification_count"]
    if found != expected:
        raise AssertionError(f"{found} unread, and not {expected}")


# --- the rest of the crowd ---------------------------------------------------------------------------------------


def fill_chaos(engine: Engine, room_id: str, count: int) -> None:
    """Accounts, and their memberships by the event of somebody who is in the room."""
    with engine.begin() as connection:
        room_nid = connection.execute(
            text("SELECT nid FROM rooms WHERE room_id = :room_id"), {"room_id": room_id}
        ).scalar_one()
        event_nid, pos, member_id = connection.execute(
            text(
                "SELECT event_nid, pos, user_id FROM members JOIN user_ids ON nid = user_nid"
                " WHERE room_nid = :room_nid LIMIT 1"
            ),
            {"room_nid": room_nid},
        ).one()
        server_name = str(member_id).partition(":")[2]
        rows = [
            {
                "nid": _FIRST_NID + number,
                "user_id": f"@crowd{number}:{server_name}",
                "room_nid": room_nid,
                "event_nid": event_nid,
                "pos": pos,
            }
            for number in range(count)
        ]
        for statement in (
            "INSERT INTO user_ids (nid, user_id) VALUES (:nid, :user_id)",
            "INSERT INTO accounts (user_nid, created_ts_ms) VALUES (:nid, 0)",
            (
                "INSERT INTO members (room_nid, user_nid, membership, event_nid, pos)"
                " VALUES (:room_nid, :nid, 1, :event_nid, :pos)"
            ),
        ):
            connection.execute(text(statement), rows)


def fill_synapse(engine: Engine, room_id: str, count: int) -> None:
    """Memberships where it looks for those whom an event may notify, and for how many are in the room."""
    with engine.begin() as connection:
        creator = connection.execute(
            text("SELECT user_id FROM local_current_membership WHERE room_id = :room_id LIMIT 1"),
            {"room_id": room_id},
        ).scalar_one()
        server_name = str(creator).partition(":")[2]
        rows = [
            {
                "room_id": room_id,
                "user_id": f"@crowd{number}:{server_name}",
                "event_id": f"$crowd{number}",
            }
            for number in range(count)
        ]
        for statement in (
            (
                "INSERT INTO local_current_membership (room_id, user_id, event_id, membership)"
                " VALUES (:room_id, :user_id, :event_id, 'join')"
            ),
            (
                "INSERT INTO current_state_events (event_id, room_id, type, state_key, membership)"
                " VALUES (:event_id, :room_id, 'm.room.member', :user_id, 'join')"
            ),
        ):
            connection.execute(text(statement), rows)


_FILL = {"CHAOS": fill_chaos, "Synapse": fill_synapse}
_FILE = {"CHAOS": "data/chaos.sqlite3", "Synapse": "homeserver.db"}

Row = Callable[[Crowd], Measured]
ROWS: Mapping[str, Row] = {"push": measure_push, "presence": measure_presence, "search": measure_search}


def run_crowded(
    name: str, target: Target, new_database: Callable[[str], str], scale: Scale, say: Callable[[str], None]
) -> Measured:
    """The figures of one row, on a server of its own on an empty database."""
    found = _run_row(ROWS[name], target, new_database(name), scale)
    say(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in found.items()))
    return found


def _run_row(row: Row, target: Target, database: str, scale: Scale) -> Measured:
    product = target.name.split()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"bench-{product.lower()}-")))
        server = stack.enter_context(target.prepare(folder / "server", database))
        server.start()

        def open_database() -> Engine:
            if database == "sqlite":
                return create_engine(f"sqlite:///{folder / 'server' / _FILE[product]}")
            return create_engine(database.replace("postgresql://", "postgresql+psycopg2://", 1))

        try:
            return row(Crowd(server, product, open_database, scale))
        except Exception as error:
            raise AssertionError(server.explain(f"failed in a crowded row ({error!r})")) from error
