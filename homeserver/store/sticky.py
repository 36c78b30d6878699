"""Sticky events: which are on, and from which position. spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4354"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, bindparam, delete, exists, select

from federation.ids import EventId
from homeserver.db.schema.rooms import events, redactions, user_ids
from homeserver.db.schema.sticky import sticky_events
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Row, Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.events import load_json, load_redactions
from homeserver.store.outgoing import Relay, relay

_S = sticky_events.c
_PUT = rows(
    sticky_events,
    "event_nid",
    "room_nid",
    "pos",
    "until_ts_ms",
    keys=("event_nid",),
    update=("pos",),
)
_COLUMNS = (_S.event_nid, _S.room_nid, events.c.event_id, user_ids.c.user_id, _S.until_ts_ms, _S.pos)
_FROM = sticky_events.join(events, events.c.nid == _S.event_nid).join(
    user_ids, user_ids.c.nid == events.c.sender_nid
)
_ALL = statement(
    select(*_COLUMNS)
    .select_from(_FROM)
    .where(
        and_(
            _S.until_ts_ms > bindparam("now_ms"),
            ~exists().where(redactions.c.target_id == events.c.event_id),
        )
    )
    .order_by(_S.pos, _S.event_nid)
)
_SOME = statement(select(*_COLUMNS).select_from(_FROM).where(any_of(_S.event_nid, "nids")))
_SWEEP = statement(delete(sticky_events).where(_S.until_ts_ms <= bindparam("now_ms")))


@dataclass(frozen=True, slots=True)
class Sticky:
    """A sticky event. Payload of ``Kind.STICKY``; ``pos`` is that of the change, 0 while nobody is shown it."""

    event_nid: int
    room_nid: int
    event_id: str
    sender_id: str
    until_ts_ms: int
    pos: int = 0


def stick(tx: WriteTx, sticky: Sticky, *, shown: bool) -> None:
    """An event is sticky from now on: shown to those in its room, or (soft-failed) to nobody as yet."""

    def write(inner: Tx, pos: int) -> None:
        one = sticky
        inner.insert(_PUT, [(one.event_nid, one.room_nid, pos if shown else 0, one.until_ts_ms)])

    # What nobody is shown is on no room's topic: nobody who waits has anything to learn from it.
    tx.claim(Kind.STICKY, sticky.room_nid if shown else 0, sticky.event_nid, write, sticky)


def stick_again(tx: WriteTx, sticky: Sticky, *, shown: bool) -> None:
    """The same of an event that was here before: who has been shown it is not shown it anew."""
    before = find_sticky(tx, sticky.event_nid)
    if before is None or (shown and not before.pos):
        stick(tx, sticky, shown=shown)


def load_sticky(tx: Tx, now_ms: int) -> list[Sticky]:
    """All that are not over nor redacted (at the start), in the order in which they are shown."""
    return [_sticky(row) for row in tx.all(_ALL, now_ms=now_ms)]


def find_sticky(tx: Tx, event_nid: int) -> Sticky | None:
    """One of them (that another process has stored)."""
    found = tx.all(_SOME, nids=[event_nid])
    return _sticky(found[0]) if found else None


def load_ends(tx: Tx, event_nids: Sequence[int]) -> dict[int, int]:
    """By event, when it is no longer sticky, of those that are not forgotten."""
    return {row[0]: row[4] for row in tx.all(_SOME, nids=list(event_nids))}


def _sticky(row: Row) -> Sticky:
    return Sticky(row[0], row[1], row[2], row[3], row[4], row[5])


def sweep_sticky(tx: Tx, now_ms: int) -> None:
    """Forget those that are over."""
    tx.run(_SWEEP, now_ms=now_ms)


def relay_sticky(tx: WriteTx, found: Sequence[Sticky], server: str) -> None:
    """Send them to a server that is new to their room, in their order."""
    nids = [one.event_nid for one in found]
    texts, redacted = {row.nid: row for row in load_json(tx, nids)}, load_redactions(tx, nids)
    for one in found:
        row = texts.get(one.event_nid)
        if row is not None and one.event_nid not in redacted:
            payload = Relay(EventId(one.event_id), one.room_nid, one.sender_id, row.json, server)
            relay(tx, one.event_nid, payload)
