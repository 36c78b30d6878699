"""What we owe other servers: who is behind since when, and the events that they have not got.

There is no row for a message that waits: a destination that could not be reached has one row that says up to where it
has everything (``caught_up_to``), and the rest is read from the timelines of the rooms that it is in.

# spec: server-server-api#transactions
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import and_, bindparam, delete, func, select

from federation.canonical import encode_by_rules
from federation.event import parse_stored
from federation.ids import EventId
from federation.queue import PduRef
from federation.redaction import redact
from federation.versions import ROOM_VERSIONS
from homeserver.db.schema.accounts import accounts
from homeserver.db.schema.peers import destinations, relays
from homeserver.db.schema.rooms import event_json, events, redactions, room_heads, rooms, timeline, user_ids
from homeserver.db.schema.sticky import sticky_events
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.hearsay import load_hearsay
from homeserver.store.past import IS_NEWS
from homeserver.store.stays import Stay, load_stays, server_of

# Beyond so many a destination gets the newest of each room, and fetches what is between of its own accord.
OWED_MOST = 500
_EXTREMITIES_MOST = 10

_LOAD = statement(
    select(
        destinations.c.server_name,
        destinations.c.caught_up_to,
        destinations.c.devices_after,
        destinations.c.failures,
        destinations.c.retry_at_ts_ms,
    ).order_by(destinations.c.server_name)
)
_PUT = rows(
    destinations,
    "server_name",
    "caught_up_to",
    "devices_after",
    "failures",
    "retry_at_ts_ms",
    keys=("server_name",),
    update=("caught_up_to", "devices_after", "failures", "retry_at_ts_ms"),
)
_FORGET = statement(delete(destinations).where(any_of(destinations.c.server_name, "names")))
_PUT_RELAY = rows(relays, "pos", "event_nid", "only_to")
_TRIM_RELAYS = statement(delete(relays).where(relays.c.pos <= bindparam("upto")))

_OURS = timeline.join(events, events.c.nid == timeline.c.event_nid).join(
    accounts, accounts.c.user_nid == events.c.sender_nid
)
_IN_SPAN = and_(
    any_of(timeline.c.room_nid, "room_nids"),
    timeline.c.pos > bindparam("after"),
    timeline.c.pos <= bindparam("upto"),
    IS_NEWS,
)
_OWED = statement(
    select(timeline.c.pos, events.c.event_id, timeline.c.room_nid)
    .select_from(_OURS)
    .where(_IN_SPAN)
    .order_by(timeline.c.pos)
    .limit(bindparam("most"))
)
_NEWEST = statement(
    select(timeline.c.room_nid, func.max(timeline.c.pos))
    .select_from(_OURS)
    .where(_IN_SPAN)
    .group_by(timeline.c.room_nid)
)
_NEWEST_BEFORE = statement(
    select(timeline.c.pos).select_from(_OURS).where(_IN_SPAN).order_by(timeline.c.pos.desc()).limit(1)
)
_STUCK = statement(
    select(timeline.c.pos)
    .select_from(_OURS.join(sticky_events, sticky_events.c.event_nid == timeline.c.event_nid))
    .where(and_(_IN_SPAN, sticky_events.c.pos > 0, sticky_events.c.until_ts_ms > bindparam("now_ms")))
)
_RELAYED = statement(
    select(relays.c.pos, events.c.event_id, events.c.room_nid, user_ids.c.user_id, relays.c.only_to)
    .select_from(
        relays.join(events, events.c.nid == relays.c.event_nid).join(
            user_ids, user_ids.c.nid == events.c.sender_nid
        )
    )
    .where(and_(relays.c.pos > bindparam("after"), relays.c.pos <= bindparam("upto")))
    .order_by(relays.c.pos)
)
_RELAYED_ROOMS = statement(
    select(events.c.room_nid)
    .select_from(relays.join(events, events.c.nid == relays.c.event_nid))
    .where(relays.c.pos > bindparam("after"))
    .group_by(events.c.room_nid)
)
_PLACED = (timeline.c.pos, events.c.event_id, timeline.c.room_nid, user_ids.c.user_id)
_FROM_PLACED = timeline.join(events, events.c.nid == timeline.c.event_nid).join(
    user_ids, user_ids.c.nid == events.c.sender_nid
)
_AT = statement(
    select(*_PLACED).select_from(_FROM_PLACED).where(and_(_IN_SPAN, any_of(timeline.c.pos, "positions")))
)
_BY_NID = statement(select(*_PLACED).select_from(_FROM_PLACED).where(any_of(timeline.c.event_nid, "nids")))
_HEADS = statement(select(room_heads.c.extremities).where(any_of(room_heads.c.room_nid, "room_nids")))
_RELAY = statement(
    select(events.c.event_id, events.c.room_nid, user_ids.c.user_id, event_json.c.json, relays.c.only_to)
    .select_from(
        relays.join(events, events.c.nid == relays.c.event_nid)
        .join(event_json, event_json.c.nid == events.c.nid)
        .join(user_ids, user_ids.c.nid == events.c.sender_nid)
    )
    .where(relays.c.pos == bindparam("pos"))
)
_TEXTS = statement(
    select(events.c.event_id, event_json.c.json, rooms.c.version, redactions.c.by_nid)
    .select_from(
        events.join(event_json, event_json.c.nid == events.c.nid)
        .join(rooms, rooms.c.nid == events.c.room_nid)
        .outerjoin(redactions, redactions.c.target_id == events.c.event_id)
    )
    .where(any_of(events.c.event_id, "ids"))
)
_decode_nids = msgspec.json.Decoder(list[int]).decode


class Owing(NamedTuple):
    """A destination that is behind, or does not answer."""

    server_name: str
    caught_up_to: int  # it has every event for it up to here
    devices_after: int  # it has what devices have for it up to here; 0: it has all
    failures: int
    retry_at_ts_ms: int  # 0: now


class Relay(NamedTuple):
    """The payload of ``Kind.RELAYED``: an event that is to be sent on, to one server or to those of its room."""

    event_id: EventId
    room_nid: int
    sender: str
    json: bytes
    only_to: str | None = None

    @property
    def weight(self) -> int:
        """See ``Change.weight``."""
        return len(self.json)


def relay(tx: WriteTx, event_nid: int, payload: Relay) -> None:
    """Send an event on to the servers of its room: for the server that gave it to us we are the room.

    It goes to the transaction that places the event (``turn.extra``), so that neither is stored without the other.
    """

    # spec: server-server-api#put_matrixfederationv2send_joinroomideventid
    def write(tx: Tx, pos: int) -> None:
        tx.insert(_PUT_RELAY, [(pos, event_nid, payload.only_to)])

    # On no room's topic: nobody who waits has anything to learn from it.
    tx.claim(Kind.RELAYED, 0, event_nid, write, payload)


def is_sent_on(server: str, sender: str, only_to: str | None) -> bool:
    """Whether a relay is for a server of its room. The sender's own gave us the event, unless the relay names it."""
    return server == only_to if only_to is not None else server != server_of(sender)


# --- destinations ------------------------------------------------------------------------------------------------


def load_destinations(tx: Tx) -> list[Owing]:
    """Every destination that is behind or does not answer."""
    return [Owing(*row) for row in tx.all(_LOAD)]


def store_destinations(tx: Tx, owing: Sequence[Owing], forget: Sequence[str], relayed_upto: int = 0) -> None:
    """Remember how far destinations are; ``forget`` those that have everything, and relays that everybody has."""
    tx.insert(_PUT, list(owing))
    if forget:
        tx.run(_FORGET, names=list(forget))
    if relayed_upto:
        tx.run(_TRIM_RELAYS, upto=relayed_upto)


# --- events ------------------------------------------------------------------------------------------------------


def load_shared(tx: Tx, server: str, room_nids: Collection[int], after: int) -> dict[int, Stay]:
    """Of some rooms, and those with something to send on, in which ones a server was at any time after a position."""
    relayed = tx.column(_RELAYED_ROOMS, after=after)
    wanted = sorted({*room_nids, *relayed})
    stays = load_stays(tx, server, wanted, after)
    for one in load_hearsay(tx, wanted, after):
        if server in one.servers:
            stay = stays.get(one.room_nid, Stay(False, ()))
            stays[one.room_nid] = stay._replace(hearsay=(*stay.hearsay, (one.since, one.upto)))
    return stays


def load_owed(
    tx: Tx, server: str, stays: Mapping[int, Stay], after: int, upto: int, now_ms: int
) -> tuple[list[PduRef], int]:
    """The events in ``(after, upto]`` for a destination, oldest first, and up to which position these are all.

    Where they are more than ``OWED_MOST``: of each room the newest of ours, what of ours is sticky, and the newest of all.
    """
    room_nids = sorted(stays)
    found = tx.all(_OWED, room_nids=room_nids, after=after, upto=upto, most=OWED_MOST + 1)
    if len(found) > OWED_MOST:
        refs = _newest(tx, server, stays, after, upto, now_ms)
    else:
        refs = {pos: EventId(event_id) for pos, event_id, room_nid in found if stays[room_nid].hears(pos)}
    for pos, event_id, room_nid, sender, only_to in tx.all(_RELAYED, after=after, upto=upto):
        stay = stays.get(room_nid)
        if is_sent_on(server, sender, only_to) and stay is not None and stay.around(pos):
            refs[pos] = EventId(event_id)
    chosen = [PduRef(pos, refs[pos]) for pos in sorted(refs)[:OWED_MOST]]
    return chosen, upto if len(chosen) == len(refs) else chosen[-1].pos


def _newest(
    tx: Tx, server: str, stays: Mapping[int, Stay], after: int, upto: int, now_ms: int
) -> dict[int, EventId]:
    """Of each room our newest event for the destination, and the room's extremities whoever made them.

    So the destination comes to know the room's newest events, and asks for those between. It would ask for a few only,
    and what is sticky has to come whatever else there is.
    """
    span = {"after": after, "upto": upto}
    positions: list[int] = [pos for stay in stays.values() for pos in stay.removals]
    # spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4354
    positions += tx.column(_STUCK, room_nids=sorted(stays), now_ms=now_ms, **span)
    still_in: list[int] = []
    for room_nid, newest in tx.all(_NEWEST, room_nids=sorted(stays), **span):
        stay = stays[room_nid]
        if stay.around(newest):
            positions.append(newest)
            still_in.append(room_nid)
        ends = {*stay.changes, *(end for _, end in stay.hearsay)}
        for change in sorted(ends, reverse=True):
            if stay.around(newest):
                break
            # It has left meanwhile: our newest before that.
            pos = tx.value(_NEWEST_BEFORE, room_nids=[room_nid], after=after, upto=min(upto, change))
            if pos is not None and stay.around(pos):
                positions.append(pos)
                break
    found = tx.all(_AT, room_nids=sorted(stays), positions=positions, **span)
    nids = [
        nid
        for text in tx.column(_HEADS, room_nids=still_in)
        for nid in _decode_nids(text)[-_EXTREMITIES_MOST:]
    ]
    found += [row for row in tx.all(_BY_NID, nids=nids) if after < row[0] <= upto]
    return {
        pos: EventId(event_id)
        for pos, event_id, room_nid, sender in found
        if server_of(sender) != server and stays[room_nid].hears(pos)
    }


def load_relay(tx: Tx, pos: int) -> Relay | None:
    """What is to be sent on by the change at a position (that another process has stored)."""
    row = tx.one(_RELAY, pos=pos)
    return None if row is None else Relay(EventId(row[0]), row[1], row[2], row[3].encode(), row[4])


def load_pdus(tx: Tx, event_ids: Collection[str]) -> dict[str, bytes]:
    """The bytes of events as other servers get them: as they were signed, or redacted where they have been."""
    found: dict[str, bytes] = {}
    for event_id, text, version, redacted_by in tx.all(_TEXTS, ids=list(event_ids)):
        json: bytes = text.encode()
        if redacted_by is not None:
            rules = ROOM_VERSIONS[version]
            event = parse_stored(EventId(event_id), json, rules)
            json = encode_by_rules(redact(event.json, rules), strict=rules.strict_canonical_json)
        found[event_id] = json
    return found
