"""Where our users may begin a thread: not at what relates to another event itself.

# spec: client-server-api#validation-of-mthread-relationships
"""

from __future__ import annotations

from federation.builder import Draft
from homeserver.db.tx import Tx
from homeserver.http.errors import MatrixError
from homeserver.rooms.turn import Turn
from homeserver.store.events import load_redacting
from homeserver.store.parsed import EventCache, load_event_of_room
from homeserver.store.relation import relation_of
from homeserver.store.relations import IN_THREAD


async def check_thread(turn: Turn, draft: Draft) -> None:
    """Refuse (400) a thread whose root is the child of another event; of what is not here nobody knows."""
    relation = relation_of(draft.content)
    if relation is None or relation[0] != IN_THREAD:
        return
    # Whoever knows its id has been told of it, so it is stored.
    tools = turn.tools
    # "any event without a `rel_type` can become a thread root": a rich reply may, whatever else the text says of
    # `m.relates_to`.
    if await tools.database.read(_relates, relation[1], turn.head.room_nid, tools.events):
        raise MatrixError(400, "M_UNKNOWN", "No thread begins at an event that relates to another one")


def _relates(tx: Tx, event_id: str, room_nid: int, cache: EventCache) -> bool:
    """Whether an event of the room relates to another one; what was redacted does not any more."""
    event = load_event_of_room(tx, event_id, room_nid, cache)
    return event is not None and relation_of(event.content) is not None and not load_redacting(tx, [event_id])
