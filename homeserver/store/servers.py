"""Which servers are in a room: those of its members."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from sqlalchemy import and_, bindparam, select

from federation.ids import ServerName, domain_of
from homeserver.db.schema.rooms import members, user_ids
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.placement import Membership

_MEMBERS = members.join(user_ids, user_ids.c.nid == members.c.user_nid)
_USERS = statement(
    select(user_ids.c.user_id)
    .select_from(_MEMBERS)
    .where(
        and_(members.c.room_nid == bindparam("room_nid"), members.c.membership == bindparam("the_membership"))
    )
)
_OF_SERVER = statement(
    select(members.c.room_nid, user_ids.c.user_id)
    .select_from(_MEMBERS)
    .where(
        and_(
            any_of(members.c.room_nid, "room_nids"),
            any_of(members.c.membership, "memberships"),
            user_ids.c.user_id.like(bindparam("pattern")),
        )
    )
)


def load_servers(tx: Tx, room_nid: int, most: int) -> list[ServerName]:
    """The servers with the most joined members, those first. Reads every member's name."""
    users = tx.column(_USERS, room_nid=room_nid, the_membership=int(Membership.JOIN))
    counts = Counter(domain_of(user_id) for user_id in users)
    return sorted(counts, key=lambda name: (-counts[name], name))[:most]


def find_rooms_with(
    tx: Tx, room_nids: Sequence[int], server_name: str, memberships: Collection[Membership]
) -> set[int]:
    """Those of the rooms in which somebody of a server is (say) joined or invited."""
    found = tx.all(
        _OF_SERVER,
        room_nids=list(room_nids),
        memberships=[int(one) for one in memberships],
        # A server name has none of the signs that LIKE reads; but what ends alike may be a port of another server.
        pattern=f"%:{server_name}",
    )
    return {room_nid for room_nid, user_id in found if domain_of(user_id) == server_name}
