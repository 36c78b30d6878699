"""Who is in a room by the word of the server that let us in, while our own state does not name everybody.

1. From a join until it is complete what we send goes to these servers as well.
2. That holds however late somebody looks at what was sent then: a server may have been away, or this process. So when the
   join is complete the names are kept, with the position up to which they count, for as long as one of them is behind it.
3. Nothing before the join goes to anybody by this, and nothing after it was complete.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import and_, bindparam, delete, func, insert, literal, select, union_all

from homeserver.db.schema.peers import destinations
from homeserver.db.schema.rooms import earlier_joins, hearsay, partial_joins, timeline
from homeserver.db.schema.stream import stream
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.changes import load_cursors, load_position

# The join is not complete: up to no position as yet.
OPEN: Final = 2**63 - 1
# LIMIT(of so many joins; who was away for longer than these gets what is left out here when it fetches the room's past)
HEARSAY_MOST: Final = 1_000

_UNFINISHED = (partial_joins, earlier_joins)
_KEEP = [
    statement(
        insert(hearsay).from_select(
            ["room_nid", "join_nid", "upto", "servers"],
            select(
                table.c.room_nid, table.c.join_nid, select(stream.c.pos).scalar_subquery(), table.c.servers
            ).where(and_(table.c.room_nid == bindparam("of_room"), table.c.join_nid == bindparam("of_join"))),
        )
    )
    for table in _UNFINISHED
]
_LOAD = statement(
    union_all(
        *(
            select(table.c.room_nid, timeline.c.pos, upto, table.c.servers)
            .select_from(table.join(timeline, timeline.c.event_nid == table.c.join_nid))
            .where(and_(any_of(table.c.room_nid, "room_nids"), upto > bindparam("after")))
            for table, upto in (
                *((table, literal(OPEN, type_=hearsay.c.upto.type)) for table in _UNFINISHED),
                (hearsay, hearsay.c.upto),
            )
        )
    )
)
_UPTO = statement(select(hearsay.c.room_nid, func.max(hearsay.c.upto)).group_by(hearsay.c.room_nid))
_KEPT = statement(
    select(hearsay.c.join_nid, hearsay.c.upto, hearsay.c.servers).order_by(hearsay.c.upto.desc())
)
_CAUGHT_UP = statement(select(destinations.c.server_name, destinations.c.caught_up_to))
_FORGET = statement(delete(hearsay).where(any_of(hearsay.c.join_nid, "nids")))
_decode = msgspec.json.Decoder(list[str]).decode


class Hearsay(NamedTuple):
    """Servers that are sent what we say in a room, from one position up to another one."""

    room_nid: int
    since: int
    upto: int
    servers: tuple[str, ...]


def keep_hearsay(tx: Tx, room_nid: int, join_nid: int) -> None:
    """A join is complete, and its row about to go. Whatever was placed before MUST be stored already."""
    for keep in _KEEP:
        tx.run(keep, of_room=room_nid, of_join=join_nid)


def load_hearsay(tx: Tx, room_nids: Collection[int], after: int) -> list[Hearsay]:
    """Who is or was sent anything after a position by the word of others."""
    found = tx.all(_LOAD, room_nids=list(room_nids), after=after)
    return [Hearsay(room_nid, since, upto, tuple(_decode(text))) for room_nid, since, upto, text in found]


def load_heard_of(tx: Tx, room_nid: int, pos: int) -> list[str]:
    """Who was sent an event at a position by the word of others."""
    found = load_hearsay(tx, [room_nid], pos - 1)
    return [server for one in found if one.since <= pos for server in one.servers]


def load_hearsay_upto(tx: Tx) -> dict[int, int]:
    """The rooms of which that is kept, and up to where (at the start)."""
    return dict(tx.all(_UPTO))


def sweep_hearsay(tx: Tx, follower: str) -> None:
    """Forget the names of joins that none of them is behind of; ``follower`` is who sends."""
    sent = load_cursors(tx).get(follower, load_position(tx))
    behind: dict[str, int] = dict(tx.all(_CAUGHT_UP))
    over = [
        join_nid
        for number, (join_nid, upto, text) in enumerate(tx.all(_KEPT))
        if number >= HEARSAY_MOST or upto <= min([sent, *(behind.get(name, sent) for name in _decode(text))])
    ]
    tx.run(_FORGET, nids=over)
