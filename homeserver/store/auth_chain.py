"""Auth chains: all that authorises some events, recursively, in one statement.

The databases walk the graph themselves, a layer at a time, and visit nothing twice: neither depth nor a cycle matters.

# spec: server-server-api#retrieving-event-authorisation-information
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import and_, bindparam, select

from homeserver.db.schema.rooms import auth_edges, events
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx

_cited = (
    select(auth_edges.c.parent_nid.label("nid"))
    .where(any_of(auth_edges.c.child_nid, "nids"))
    .cte("chain", recursive=True)
)
_chain = _cited.union(select(auth_edges.c.parent_nid).where(auth_edges.c.child_nid == _cited.c.nid))
_CHAIN = statement(
    select(_chain.c.nid)
    .select_from(_chain.join(events, events.c.nid == _chain.c.nid))
    .order_by(events.c.auth_rank, events.c.nid)
)
_NIDS = statement(
    select(events.c.nid).where(
        and_(any_of(events.c.event_id, "ids"), events.c.room_nid == bindparam("room_nid"))
    )
)


def load_auth_chain(tx: Tx, nids: Collection[int]) -> list[int]:
    """All that state events cite, directly or not, those cited first before those who cite them.

    An event of ``nids`` is in the answer where another one cites it.
    """
    return tx.column(_CHAIN, nids=list(nids))


def load_auth_chain_of(tx: Tx, room_nid: int, auth_event_ids: Collection[str]) -> list[int]:
    """The chain of an event that cites these: they themselves, and all that they cite."""
    cited = tx.column(_NIDS, ids=list(auth_event_ids), room_nid=room_nid)
    found = dict.fromkeys(load_auth_chain(tx, cited))
    found.update(dict.fromkeys(cited))
    return list(found)
