"""Invariants of the text search."""

from __future__ import annotations

from homeserver.db.schema.rooms import events
from homeserver.db.schema.search import search_documents, search_queue
from homeserver.store.checks.rules import points_nowhere

SEARCH = (
    points_nowhere(search_documents.c.event_nid, events.c.nid),
    points_nowhere(search_queue.c.event_nid, events.c.nid),
)
