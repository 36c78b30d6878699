"""What was verified of a joined room, into the database: events without a place yet, in chunks, auth events first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from federation.event import Event
from federation.ids import EventId
from federation.verdict import Drop
from homeserver.rooms.actor import RoomActor
from homeserver.rooms.arrivals import Arrived, Missing, Placed, store_outliers
from homeserver.rooms.join_checks import CHUNK, RunInThread, Verified
from homeserver.rooms.turn import Turn

Tell = Callable[[int, int], Awaitable[None]]
"""Hears how many events are stored, and of how many."""


async def store_events(
    actor: RoomActor, verified: Verified, run_in_thread: RunInThread, tell: Tell | None = None
) -> list[EventId]:
    """Store the events; the state before the join, without those that could not be stored.

    An event that has the id of another room's is such a one: in old rooms anybody chooses their ids.
    """
    lot = verified.lot
    refused: set[EventId] = set()
    for start in range(0, len(lot), CHUNK):
        if tell is not None:
            await tell(start, len(lot))
        events: list[Event] = await run_in_thread(lot.accepted, start, CHUNK)
        arrived = await actor.run(partial(_store, events))
        refused.update(event.event_id for event, one in zip(events, arrived, strict=True) if _is_refused(one))
    return [event_id for event_id in verified.conclusion.state.values() if event_id not in refused]


async def _store(events: Sequence[Event], turn: Turn) -> list[Arrived]:
    return await store_outliers(turn, events)


def _is_refused(arrived: Arrived) -> bool:
    return isinstance(arrived, Missing) or (isinstance(arrived, Placed) and isinstance(arrived.verdict, Drop))
