"""Where our users may begin a thread: not at what relates to another event itself.

# spec: client-server-api#validation-of-mthread-relationships
"""

from __future__ import annotations

from federation.builder import Draft
from federation.event import Event
from homeserver.db.tx import Tx
from homeserver.http.errors import MatrixError
from homeserver.rooms.turn import Turn
from homeserver.store.events import find_row, load_redactions
from homeserver.store.parsed import EventCache, load_events
from homeserver.store.relation import relation_of
from homeserver.store.relations import IN_THREAD


async def check_thread(turn: Turn, draft: Draft) -> None:
    """Refuse (400) a thread whose root is the child of another event; of what is not here nobody knows."""
    relation = relation_of(draft.content)
    if relation is None or relation[0] != IN_THREAD:
        return
    # Whoever knows its id has been told of it, so it is stored.
    tools = turn.tools
    root = await tools.database.read(_load_unredacted, turn.head.room_nid, relation[1], tools.events)
    # "any event without a `rel_type` can become a thread root": a rich reply may, whatever else the text says of
    # `m.relates_to`.
    if root is not None and relation_of(root.content) is not None:
        raise MatrixError(400, "M_UNKNOWN", "No thread begins at an event that relates to another one")


def _load_unredacted(tx: Tx, room_nid: int, event_id: str, cache: EventCache) -> Event | None:
    """An event of the room; None where it was redacted, and so relates to nothing."""
    row = find_row(tx, event_id)
    if row is None or row.room_nid != room_nid:
        return None
    event = load_events(tx, [row.nid], cache)[row.nid]
    return None if relation_of(event.content) is not None and load_redactions(tx, [row.nid]) else event
