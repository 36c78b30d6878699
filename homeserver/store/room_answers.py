"""What another server is given of a room that it joins: numbers of events first, their texts in chunks afterwards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import and_, bindparam, select

from federation.ids import domain_of
from homeserver.db.schema.rooms import events, members, user_ids
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.auth_chain import load_auth_chain
from homeserver.store.events import load_rows
from homeserver.store.placement import Membership
from homeserver.store.state import BaseCache, load_snapshot

_HEROES = 6  # one more than a summary tells: the one who joins is not among their own
# So few members are sent at once, as that takes less than to be asked for them.
FEW_MEMBERS = 100
_MEMBER = WELL_KNOWN_TYPES["m.room.member"]

_TYPES = statement(select(events.c.nid, events.c.type_nid).where(any_of(events.c.nid, "nids")))
_OTHERS = statement(
    select(user_ids.c.user_id)
    .select_from(members.join(user_ids, user_ids.c.nid == members.c.user_nid))
    .where(
        and_(
            members.c.room_nid == bindparam("room_nid"),
            members.c.membership == int(Membership.JOIN),
            members.c.user_nid != bindparam("but_nid"),
        )
    )
)
_FIRST_MEMBERS = statement(
    select(members.c.event_nid)
    .where(
        and_(
            members.c.room_nid == bindparam("room_nid"),
            any_of(members.c.membership, "memberships"),
            members.c.outside == 0,
        )
    )
    .order_by(members.c.pos, members.c.user_nid)
    .limit(_HEROES)
)


@dataclass(frozen=True, slots=True)
class JoinAnswer:
    """The events of an answer to send_join, by nid, in the order in which they are sent."""

    state: Sequence[int]
    auth_chain: Sequence[int]
    servers: Sequence[str] | None  # of the room; None: the members are all in the state
    members_omitted: bool = False


def load_join_answer(
    tx: Tx, join_nid: int, bases: BaseCache, *, omit_members: bool, naming: Collection[int]
) -> JoinAnswer:
    """What a server that joined by an event is told; ``naming`` are the keys of a room's name and canonical alias.

    # spec: server-server-api#put_matrixfederationv2send_joinroomideventid
    """
    row = load_rows(tx, [join_nid])[join_nid]
    snapshot = load_snapshot(tx, row.state_before or 0, bases)
    pairs = list(snapshot.items())
    state = [nid for _, nid in pairs]
    if not omit_members:
        return JoinAnswer(state, load_auth_chain(tx, [join_nid, *state]), None)
    is_named = any(key in naming for key, _ in pairs)
    present = [int(Membership.JOIN), int(Membership.INVITE)]
    kept = set(() if is_named else tx.column(_FIRST_MEMBERS, room_nid=row.room_nid, memberships=present))
    types: dict[int, int] = dict(tx.all(_TYPES, nids=state))
    if sum(one == _MEMBER for one in types.values()) <= FEW_MEMBERS:
        return JoinAnswer(state, load_auth_chain(tx, [join_nid, *state]), None)
    state = [nid for nid in state if types.get(nid) != _MEMBER or nid in kept]
    told = set(state)
    chain = [nid for nid in load_auth_chain(tx, [join_nid, *state]) if nid not in told]
    return JoinAnswer(state, chain, _load_servers(tx, row.room_nid, row.sender_nid), members_omitted=True)


def _load_servers(tx: Tx, room_nid: int, but_nid: int) -> list[str]:
    """The servers in a room without one of its users, who has just joined."""
    return sorted({domain_of(user_id) for user_id in tx.column(_OTHERS, room_nid=room_nid, but_nid=but_nid)})
