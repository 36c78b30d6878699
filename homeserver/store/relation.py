"""What an event says that it relates to. Pure.

Content is other people's: a relationship that does not match the schema is none, and what is given here can be looked
for in every database.

# spec: client-server-api#forming-relationships-between-events
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from federation.errors import Malformed
from federation.ids import parse_event_id

# LIMIT(the keys of tables: the specification's size of an identifier)
_NAME_MOST = 255


def relation_of(content: Mapping[str, Any]) -> tuple[str, str] | None:
    """(rel_type, event id) of a content, whatever shape it has."""
    return read_relation(content.get("m.relates_to"))


def read_relation(relates_to: object) -> tuple[str, str] | None:
    """The same of the value of ``m.relates_to``."""
    if not isinstance(relates_to, dict):
        return None
    rel_type, event_id = relates_to.get("rel_type"), relates_to.get("event_id")
    if not isinstance(rel_type, str) or not isinstance(event_id, str):
        return None
    if not 0 < len(rel_type.encode()) <= _NAME_MOST or "\0" in rel_type:
        return None
    try:
        return rel_type, parse_event_id(event_id)
    except Malformed:
        return None
