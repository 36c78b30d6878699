"""What an upgrade reads of a room beyond a few state events, and what it moves.

spec: client-server-api#room-upgrades
"""

from __future__ import annotations

from sqlalchemy import and_, bindparam, select

from homeserver.db.schema.rooms import current_state, events, members, state_keys, user_ids
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.aliases import move_aliases
from homeserver.store.directory import move_published
from homeserver.store.placement import Membership

_BANNED = statement(
    select(user_ids.c.user_id)
    .select_from(members.join(user_ids, user_ids.c.nid == members.c.user_nid))
    .where(and_(members.c.room_nid == bindparam("room_nid"), members.c.membership == int(Membership.BAN)))
    .order_by(members.c.pos)
    .limit(bindparam("most"))
)
_STATE_KEYS = statement(
    select(state_keys.c.state_key)
    .select_from(
        current_state.join(state_keys, state_keys.c.nid == current_state.c.state_key_nid).join(
            events, events.c.nid == current_state.c.event_nid
        )
    )
    .where(
        and_(
            current_state.c.room_nid == bindparam("room_nid"), state_keys.c.type_nid == bindparam("type_nid")
        )
    )
    .order_by(events.c.ts_ms, state_keys.c.state_key)
    .limit(bindparam("most"))
)


def load_banned(tx: Tx, room_nid: int, most: int) -> list[str]:
    """The users who are banned from a room, the longest first."""
    return tx.column(_BANNED, room_nid=room_nid, most=most)


def load_space_children(tx: Tx, room_nid: int, most: int) -> list[str]:
    """The state keys of a space's children, in the order in which they were added."""
    return tx.column(_STATE_KEYS, room_nid=room_nid, type_nid=WELL_KNOWN_TYPES["m.space.child"], most=most)


def move_names(tx: WriteTx, old_nid: int, new_nid: int) -> None:
    """Aliases and the place in the directory go to the new room."""
    move_aliases(tx, old_nid, new_nid)
    move_published(tx, old_nid, new_nid)
