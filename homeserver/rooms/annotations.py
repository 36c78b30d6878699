"""Nobody annotates an event twice in the same way. spec: client-server-api#avoiding-duplicate-annotations"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from federation.builder import Draft
from homeserver.http.errors import MatrixError
from homeserver.rooms.turn import Turn
from homeserver.store.relation import relation_of
from homeserver.store.relations import ANNOTATION, find_annotations


async def check_annotation(turn: Turn, draft: Draft) -> None:
    """Refuse (400) what its sender has said already, in one more reaction."""
    wanted = _annotation(draft.content)
    if wanted is None:
        return
    tools, room_nid = turn.tools, turn.head.room_nid
    for placed in turn.unstored():
        event = placed.event
        if (event.type, event.sender) == (draft.type, draft.sender) and _annotation(event.content) == wanted:
            raise _duplicate()
    # Only looked up: the event may yet be refused, and what is bound is written by the next commit, whoever's it is.
    sender_nid = await tools.interner.find_user(draft.sender)
    type_nid = await tools.interner.find_type(draft.type)
    if sender_nid is None or type_nid is None:
        return
    nids = await tools.database.read(find_annotations, room_nid, wanted[0], sender_nid, type_nid)
    for event in (await turn.events(nids)).values():
        if _annotation(event.content) == wanted:
            raise _duplicate()


def _annotation(content: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is annotated, and with which key."""
    relation = relation_of(content)
    if relation is None or relation[0] != ANNOTATION:
        return None
    key = content["m.relates_to"].get("key")
    return (relation[1], key) if isinstance(key, str) else None


def _duplicate() -> MatrixError:
    return MatrixError(400, "M_DUPLICATE_ANNOTATION", "You have said that of this event already")
