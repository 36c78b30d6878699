"""Events that are built on a room's head and not placed: a template for another server, an invite to be signed off.

Both go through another server before they come back as arrivals, so the head moves on meanwhile; what they cite is the
head of the turn in which they were made.
"""

from __future__ import annotations

from typing import Any

from federation.auth.rules import check_state_dependent, check_state_independent
from federation.auth.select import auth_keys_for
from federation.builder import Draft, build
from federation.errors import Malformed
from federation.event import MAX_PREV_EVENTS, Event
from federation.verdict import Accept
from homeserver.http.errors import MatrixError, forbidden
from homeserver.rooms.turn import RoomTools, Turn

_CREATE = ("m.room.create", "")
_UNSIGNED_PARTS = ("hashes", "signatures", "event_id")


async def compose(turn: Turn, tools: RoomTools, draft: Draft) -> tuple[Event, bytes]:
    """The event that a draft makes on the head, and its stored form; refuses (403) what the room's rules refuse."""
    head = turn.head
    keys = auth_keys_for(head.rules, draft.type, draft.sender, draft.state_key, draft.content)
    await turn.load([*keys, _CREATE])
    auth = [event for key in keys if (event := turn.lookup(*key)) is not None]
    try:
        event, json = build(
            draft,
            prev_events=[one.reference for one in head.extremities[-MAX_PREV_EVENTS:]],
            auth_events=[one.reference() for one in auth],
            depth=head.depth + 1,
            rules=head.rules,
            signer=tools.signer,
            now_ms=tools.clock.now_ms(),
            local_id="" if head.rules.event_ids_are_hashes else tools.entropy.token(24),
        )
    except Malformed as error:
        raise MatrixError(error.status, error.errcode, str(error)) from error
    verdict = check_state_independent(event, auth, create=turn.lookup(*_CREATE))
    if isinstance(verdict, Accept):
        verdict = check_state_dependent(event, turn.lookup, await turn.power_levels())
    if not isinstance(verdict, Accept):
        raise forbidden(verdict.reason)
    return event, json


async def make_template(turn: Turn, tools: RoomTools, draft: Draft) -> dict[str, Any]:
    """What the sender's server is to fill in, hash and sign.

    # spec: server-server-api#get_matrixfederationv1make_joinroomiduserid
    """
    event, _ = await compose(turn, tools, draft)
    template = {key: value for key, value in event.json.items() if key not in _UNSIGNED_PARTS}
    return {**template, "origin": tools.signer.server_name}
