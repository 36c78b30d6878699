"""Reads that only syncs need: summaries of rooms, a device's transaction ids, raw events."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import and_, bindparam, case, func, or_, select

from federation.ids import may_stand_alone
from federation.redaction import redact
from federation.versions import ROOM_VERSIONS
from homeserver.db.schema.rooms import client_transactions, members, user_ids
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Ask, Tx
from homeserver.store.events import load_json, load_redactions
from homeserver.store.placement import ClientTransaction, Membership

HEROES = 5

_PRESENT = or_(members.c.membership == int(Membership.JOIN), members.c.membership == int(Membership.INVITE))
# What another server told of a room is none of its state: an invite may be known to the invited alone.
_IN_STATE = members.c.outside == 0
_COUNTS = statement(
    select(members.c.room_nid, members.c.membership, func.count())
    .where(and_(any_of(members.c.room_nid, "room_nids"), _PRESENT, _IN_STATE))
    .group_by(members.c.room_nid, members.c.membership)
)
# One more than is told: the reader is never among their own heroes.
_CHOSEN: Final = HEROES + 1
# LIMIT(members of a room that are looked at where those who came first have names that cannot be told)
_LOOKED_AT_MOST: Final = 1000
_RANK = (
    func.row_number()
    .over(
        partition_by=members.c.room_nid,
        order_by=(case((_PRESENT, 0), else_=1), members.c.pos, members.c.user_nid),
    )
    .label("rank")
)
_RANKED = (
    select(members.c.room_nid, members.c.user_nid, members.c.membership, _RANK)
    .where(
        and_(
            any_of(members.c.room_nid, "room_nids"),
            members.c.membership != int(Membership.KNOCK),
            _IN_STATE,
        )
    )
    .subquery("ranked")
)
_HEROES = statement(
    select(_RANKED.c.room_nid, user_ids.c.user_id, _RANKED.c.membership)
    .select_from(_RANKED.join(user_ids, user_ids.c.nid == _RANKED.c.user_nid))
    .where(_RANKED.c.rank <= bindparam("most"))
    .order_by(_RANKED.c.room_nid, _RANKED.c.rank)
)
_TRANSACTIONS = statement(
    select(
        client_transactions.c.event_nid,
        client_transactions.c.device_nid,
        client_transactions.c.txn_key,
        client_transactions.c.ts_ms,
    ).where(
        and_(
            any_of(client_transactions.c.device_nid, "device_nids"),
            any_of(client_transactions.c.room_nid, "room_nids"),
            any_of(client_transactions.c.event_nid, "nids"),
        )
    )
)
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Summary:
    """How many are in a room, and who could name it. spec: client-server-api#get_matrixclientv3sync"""

    joined: int
    invited: int
    unnamed: bool  # only then are heroes told
    present: tuple[str, ...]  # the first who are joined or invited
    gone: tuple[str, ...]  # then those who left or are banned; only where the first are few

    def heroes(self, user_id: str) -> list[str]:
        """The heroes as one member sees them."""
        if not self.unnamed:
            return []
        others = [one for one in self.present if one != user_id] or [
            one for one in self.gone if one != user_id
        ]
        return others[:HEROES]


def load_summaries(tx: Tx, room_nids: Collection[int], unnamed: Collection[int]) -> dict[int, Summary]:
    """The summaries of rooms; heroes only of those that have no name."""
    counts = {(row[0], row[1]): int(row[2]) for row in tx.ask(ask_counts(room_nids))}
    candidates = _choose_heroes(tx, unnamed) if unnamed else {}
    return {
        nid: Summary(
            counts.get((nid, int(Membership.JOIN)), 0),
            counts.get((nid, int(Membership.INVITE)), 0),
            nid in unnamed,
            tuple(user_id for user_id, there in candidates.get(nid, ()) if there),
            tuple(user_id for user_id, there in candidates.get(nid, ()) if not there),
        )
        for nid in room_nids
    }


def _choose_heroes(tx: Tx, room_nids: Collection[int]) -> dict[int, list[tuple[str, bool]]]:
    """The first members of rooms whose names can be told, and whether they are there.

    Only of what is read can be chosen. Hardly ever is that too little: then more is read.
    """
    chosen: dict[int, list[tuple[str, bool]]] = {}
    wanted, most = list(room_nids), _CHOSEN
    while wanted:
        read = dict.fromkeys(wanted, 0)
        chosen.update((nid, []) for nid in wanted)
        for room_nid, user_id, membership in tx.all(_HEROES, room_nids=wanted, most=most):
            read[room_nid] += 1
            if len(chosen[room_nid]) < _CHOSEN and may_stand_alone(user_id):
                chosen[room_nid].append((user_id, membership in (Membership.JOIN, Membership.INVITE)))
        if most == _LOOKED_AT_MOST:
            break
        wanted = [nid for nid in wanted if read[nid] == most and len(chosen[nid]) < _CHOSEN]
        most = _LOOKED_AT_MOST
    return chosen


def ask_counts(room_nids: Collection[int]) -> Ask:
    """What :func:`load_summaries` asks of every room."""
    return Ask(_COUNTS, {"room_nids": list(room_nids)})


def load_transaction_keys(
    tx: Tx, user_nid: int, device_nid: int, room_nids: Collection[int], event_nids: Collection[int]
) -> dict[int, str]:
    """By which keys a user's device knows some of their events: event nid -> key."""
    found = tx.ask(ask_transaction_keys(user_nid, device_nid, room_nids, event_nids))
    # What a token without a device has sent is nobody else's; what was delayed, all of the user's.
    transactions = [(nid, ClientTransaction(*row)) for nid, *row in found]
    return {nid: one.txn_key for nid, one in transactions if one.is_for(user_nid, device_nid)}


def ask_transaction_keys(
    user_nid: int, device_nid: int, room_nids: Collection[int], event_nids: Collection[int]
) -> Ask:
    """What :func:`load_transaction_keys` asks."""
    params = {
        "device_nids": [device_nid, -user_nid],
        "room_nids": sorted(room_nids),
        "nids": list(event_nids),
    }
    return Ask(_TRANSACTIONS, params)


def load_raw_events(tx: Tx, nids: Collection[int], erased: Collection[int]) -> dict[int, bytes]:
    """Events as servers exchange them, redacted where they were redacted or are ``erased`` for the reader."""
    if not nids:
        return {}
    redacted = {*load_redactions(tx, list(nids)), *erased}
    found: dict[int, bytes] = {}
    for row in load_json(tx, nids):
        found[row.nid] = (
            _encode(redact(_decode(row.json), ROOM_VERSIONS[row.version]))
            if row.nid in redacted
            else row.json
        )
    return found
