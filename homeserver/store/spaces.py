"""The children of spaces, as their rooms' state has them. spec: client-server-api#spaces"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import and_, bindparam, select

from homeserver.db.schema.rooms import current_state, event_json, events, redactions, state_keys
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx

CHILD = "m.space.child"

_CHILDREN = statement(
    select(current_state.c.room_nid, state_keys.c.state_key, event_json.c.json)
    .select_from(
        current_state.join(state_keys, state_keys.c.nid == current_state.c.state_key_nid)
        .join(events, events.c.nid == current_state.c.event_nid)
        .join(event_json, event_json.c.nid == current_state.c.event_nid)
        .outerjoin(redactions, redactions.c.target_id == events.c.event_id)
    )
    .where(
        and_(
            any_of(current_state.c.room_nid, "room_nids"),
            state_keys.c.type_nid == WELL_KNOWN_TYPES[CHILD],
            # Without its content it is no child any more.
            redactions.c.by_nid.is_(None),
        )
    )
    .order_by(current_state.c.room_nid, current_state.c.state_key_nid)
    .limit(bindparam("most"))
)


class _Stored(msgspec.Struct):
    content: dict[str, Any]
    sender: str
    origin_server_ts: int


_decode = msgspec.json.Decoder(_Stored).decode


def load_children(tx: Tx, room_nids: Sequence[int], most: int) -> dict[int, list[dict[str, Any]]]:
    """The child events of rooms, stripped but for their time, ``most`` of them in all."""
    # spec: server-server-api#get_matrixfederationv1hierarchyroomid (children_state)
    found: dict[int, list[dict[str, Any]]] = {nid: [] for nid in room_nids}
    for room_nid, state_key, json in tx.all(_CHILDREN, room_nids=list(room_nids), most=most):
        stored = _decode(json)
        found[room_nid].append(
            {
                "type": CHILD,
                "state_key": state_key,
                "content": stored.content,
                "sender": stored.sender,
                "origin_server_ts": stored.origin_server_ts,
            }
        )
    return found
