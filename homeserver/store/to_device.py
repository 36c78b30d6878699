"""Messages to devices: an inbox for each device of this server, and what waits for other servers.

1. A message is a row until its device says that it has it: by the token of its next sync.
2. A message of a client or of another server is stored once, however often it is sent: the transaction id of the one,
   and the message id of the other, are rows in the same transaction.

# spec: client-server-api#send-to-device-messaging
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, insert, select, tuple_

from homeserver.db.schema.accounts import devices
from homeserver.db.schema.e2ee import device_transactions, to_device, to_device_out, to_device_seen
from homeserver.db.statements import any_of, rows, statement, to_utf8, utf8
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.device_life import check_alive

# LIMIT(what waits for one device that does not come: beyond it the newest messages are lost, for its keys are stale)
INBOX_MOST = 20_000
# LIMIT(what waits for one server that does not come: beyond it the newest messages are lost)
OUTBOX_MOST = 100_000
# LIMIT(ids of one server that are remembered, whatever it sends)
SEEN_MOST = 20_000
# LIMIT(bytes of messages in one answer; a message alone may still be larger)
PAGE_BYTES = 4 * 1024 * 1024
# Messages that are read by one statement, so that large ones do not pile up unseen; more where those before were small.
_READ_FIRST = 101
_READ_MOST = 404
_SMALL_BYTES = PAGE_BYTES // 4
ALL_DEVICES = "*"

_T = to_device.c
_OUT = to_device_out.c
_SEEN = to_device_seen.c
_X = device_transactions.c
_before = (
    select(_T.place)
    .where(_T.device_nid == bindparam("of_device"))
    .order_by(_T.pos.desc())
    .limit(1)
    .scalar_subquery()
)
# It runs last in its transaction: a later unit of that may have ended the device.
_APPEND = statement(
    insert(to_device).from_select(
        ["device_nid", "pos", "message", "place"],
        select(
            devices.c.nid,
            bindparam("pos", type_=_T.pos.type),
            bindparam("message", type_=_T.message.type),
            func.coalesce(_before, 0) + 1,
        ).where(devices.c.nid == bindparam("of_device")),
    )
)
# PostgreSQL is not told how many are wanted: of a table that fills and empties it knows next to nothing, takes an inbox
# for a handful of rows, and would read and sort all of it where it takes that handful to be fewer than the limit.
_SOME = select(bindparam("most")).scalar_subquery()
_WAITING = statement(
    select(_T.pos, utf8(_T.message))
    .where(
        and_(
            _T.device_nid == bindparam("device_nid"),
            _T.pos > bindparam("since"),
            _T.pos <= bindparam("upto"),
        )
    )
    .order_by(_T.pos)
    .limit(_SOME)
)
_ENDS = statement(select(func.min(_T.pos), func.max(_T.pos)).where(_T.device_nid == bindparam("device_nid")))
_ends = [
    select(_T.place).where(_T.device_nid == devices.c.nid).order_by(order).limit(1).scalar_subquery()
    for order in (_T.pos, _T.pos.desc())
]
_COUNTS = statement(select(devices.c.nid, *_ends).where(any_of(devices.c.nid, "nids")))
_DROP = statement(
    delete(to_device).where(and_(_T.device_nid == bindparam("the_device"), _T.pos <= bindparam("upto")))
)
_DEVICES = statement(
    select(devices.c.user_nid, devices.c.device_id, devices.c.nid)
    .where(any_of(devices.c.user_nid, "user_nids"))
    .order_by(devices.c.nid)
)
_PUT_TRANSACTION = rows(device_transactions, "device_nid", "txn_key", "ts_ms")
_HAS_TRANSACTION = statement(
    select(_X.ts_ms).where(and_(_X.device_nid == bindparam("device_nid"), _X.txn_key == bindparam("txn_key")))
)
_INSERT_OUT = rows(to_device_out, "pos", "destination", "content")
_OUT_AFTER = statement(
    select(_OUT.pos, _OUT.content)
    .where(
        and_(
            _OUT.destination == bindparam("destination"),
            _OUT.pos > bindparam("after"),
            _OUT.pos <= bindparam("upto"),
        )
    )
    .order_by(_OUT.pos)
    .limit(_SOME)
)
_OUT_COUNT = statement(select(func.count()).where(_OUT.destination == bindparam("destination")))
_out_ends = [
    select(_OUT.pos).where(_OUT.destination == bindparam("destination")).order_by(order).limit(1)
    for order in (_OUT.pos, _OUT.pos.desc())
]
_OUT_ENDS = statement(select(*(end.scalar_subquery() for end in _out_ends)))
_OUT_DESTINATION = statement(select(_OUT.pos, _OUT.destination).where(any_of(_OUT.pos, "positions")))
_OUT_DESTINATIONS = statement(select(_OUT.destination, func.min(_OUT.pos)).group_by(_OUT.destination))
_FORGET_OUT = statement(
    delete(to_device_out).where(
        and_(_OUT.destination == bindparam("the_destination"), _OUT.pos <= bindparam("upto"))
    )
)
_PUT_SEEN = rows(to_device_seen, "origin", "message_id", "ts_ms")
_HAS_SEEN = statement(
    select(_SEEN.ts_ms).where(
        and_(_SEEN.origin == bindparam("origin"), _SEEN.message_id == bindparam("message_id"))
    )
)
_SEEN_COUNTS = statement(
    select(_SEEN.origin, func.count()).group_by(_SEEN.origin).having(func.count() > bindparam("most"))
)
_nth = (
    select(_SEEN.ts_ms)
    .where(_SEEN.origin == bindparam("of_origin"))
    .order_by(_SEEN.ts_ms.desc())
    .limit(1)
    .offset(bindparam("most"))
    .scalar_subquery()
)
_TRIM_SEEN = statement(
    delete(to_device_seen).where(and_(_SEEN.origin == bindparam("of_origin"), _SEEN.ts_ms <= _nth))
)
_SEEN_KEY = (_SEEN.origin, _SEEN.message_id)
_old_seen = (
    select(*_SEEN_KEY)
    .where(_SEEN.ts_ms < bindparam("before_ts_ms"))
    .order_by(_SEEN.ts_ms)
    .limit(bindparam("most"))
)
_SWEEP_SEEN = statement(
    delete(to_device_seen).where(tuple_(*_SEEN_KEY).in_(_old_seen)).returning(_SEEN.origin)
)
_X_KEY = (_X.device_nid, _X.txn_key)
_old_transactions = (
    select(*_X_KEY).where(_X.ts_ms < bindparam("before_ts_ms")).order_by(_X.ts_ms).limit(bindparam("most"))
)
_SWEEP_TRANSACTIONS = statement(
    delete(device_transactions).where(tuple_(*_X_KEY).in_(_old_transactions)).returning(_X.device_nid)
)


class ToDevice(NamedTuple):
    """One message for one device of a user, or for all of them (``*``); ``message`` is JSON text."""

    user_nid: int
    device_id: str
    message: str


class Outgoing(NamedTuple):
    """Messages for devices of one other server: the content of one EDU."""

    destination: str
    content: str


class Received(NamedTuple):
    """Messages that another server sent under one id."""

    message_id: str
    messages: Sequence[ToDevice]


Waiting = tuple[int, bytes]
"""A message that waits: its position, and JSON text as UTF-8. Plain, for there may be thousands."""


@dataclass(frozen=True, slots=True)
class OutgoingStored:
    """Payload of ``Kind.TO_DEVICE`` with topic 0: something waits for another server."""

    destination: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What one request of a client sends."""

    user_nid: int
    device_nid: int  # of no device: below 0
    txn_key: str
    now_ms: int
    local: Sequence[ToDevice]
    remote: Sequence[Outgoing]


# --- sending ---------------------------------------------------------------------------------------------------------


def send_batch(tx: WriteTx, batch: Batch) -> Sequence[str]:
    """Store what a client sends, once. Raises NoDeviceError.

    Returns the servers for which so much waits that no more is taken: one that is gone must not keep the others' messages.
    """
    if batch.device_nid > 0:
        check_alive(tx, batch.user_nid, batch.device_nid)
    if tx.value(_HAS_TRANSACTION, device_nid=batch.device_nid, txn_key=batch.txn_key) is not None:
        return ()
    tx.insert(_PUT_TRANSACTION, [(batch.device_nid, batch.txn_key, batch.now_ms)])
    deliver(tx, batch.local)
    destinations = dict.fromkeys(one.destination for one in batch.remote)
    full = [destination for destination in destinations if _is_full(tx, destination)]
    for one in batch.remote:
        if one.destination not in full:
            _send_out(tx, one)
    return full


def _is_full(tx: Tx, destination: str) -> bool:
    first, last = tx.one(_OUT_ENDS, destination=destination) or (None, None)
    # Each message has a position of its own: nearly always its first and last ones say that they cannot be so many.
    if first is None or last - first + 1 < OUTBOX_MOST:
        return False
    return int(tx.value(_OUT_COUNT, destination=destination)) >= OUTBOX_MOST


def _send_out(tx: WriteTx, one: Outgoing) -> None:
    def write(tx: Tx, pos: int) -> None:
        tx.insert(_INSERT_OUT, [(pos, one.destination, one.content)])

    tx.claim(Kind.TO_DEVICE, 0, 0, write, OutgoingStored(one.destination))


def receive(tx: WriteTx, origin: str, received: Sequence[Received], now_ms: int) -> None:
    """Store what another server sends, each once. Nothing is noted where nobody is addressed."""
    for one in received:
        if tx.value(_HAS_SEEN, origin=origin, message_id=one.message_id) is None and deliver(
            tx, one.messages
        ):
            tx.insert(_PUT_SEEN, [(origin, one.message_id, now_ms)])


def deliver(tx: WriteTx, messages: Sequence[ToDevice]) -> int:
    """Put messages into inboxes, each of a device once; those for devices that are not there are passed over."""
    addressed = _addressees(tx, messages)
    if not addressed:
        return 0
    found = tx.all(_COUNTS, nids=[nid for _, nid, _ in addressed])
    # What other units of the same transaction put there is not counted yet: a few too many are no harm.
    counts = {nid: 0 if first is None else last - first + 1 for nid, first, last in found}
    delivered = 0
    for user_nid, device_nid, message in addressed:
        if counts.get(device_nid, 0) >= INBOX_MOST:
            continue
        delivered += 1

        def write(tx: Tx, pos: int, device_nid: int = device_nid, message: str = message) -> None:
            tx.run(_APPEND, of_device=device_nid, pos=pos, message=message)

        tx.claim(Kind.TO_DEVICE, -user_nid, device_nid, write)
    return delivered


def _addressees(tx: Tx, messages: Sequence[ToDevice]) -> list[tuple[int, int, str]]:
    """(user, device, message), no device twice."""
    by_user: dict[int, dict[str, int]] = {}
    for user_nid, device_id, nid in tx.all(_DEVICES, user_nids=sorted({one.user_nid for one in messages})):
        by_user.setdefault(user_nid, {})[device_id] = nid
    found: dict[int, tuple[int, int, str]] = {}
    # One for the device itself goes before one for all.
    for one in sorted(messages, key=lambda one: one.device_id == ALL_DEVICES):
        known = by_user.get(one.user_nid, {})
        if one.device_id == ALL_DEVICES:
            nids = list(known.values())
        else:
            nids = [known[one.device_id]] if one.device_id in known else []
        for nid in nids:
            found.setdefault(nid, (one.user_nid, nid, one.message))
    return list(found.values())


# --- a device's inbox ------------------------------------------------------------------------------------------------


def load_waiting(tx: Tx, device_nid: int, since: int, upto: int, most: int) -> list[Waiting]:
    """The oldest messages in ``(since, upto]``."""
    found = tx.all(_WAITING, device_nid=device_nid, since=since, upto=upto, most=most)
    return [(pos, to_utf8(message)) for pos, message in found]


class Page(NamedTuple):
    """Messages in their order, and whether more wait."""

    messages: Sequence[Waiting]
    has_more: bool


def load_page(tx: Tx, device_nid: int, since: int, upto: int, most: int) -> Page:
    """The oldest messages in ``(since, upto]``: as many as fit into one answer, at least one of them."""
    shown: list[Waiting] = []
    size = 0
    at_once = _READ_FIRST
    while True:
        wanted = min(at_once, most + 1 - len(shown))
        found = load_waiting(tx, device_nid, since, upto, wanted)
        together = size + sum([len(message) for _, message in found])
        if together > PAGE_BYTES:
            fitting = min(_fitting(found, size, is_first=not shown), most - len(shown))
            has_more = fitting < len(found) or len(found) == wanted
            return Page([*shown, *found[:fitting]], has_more)
        shown += found
        if len(shown) > most:
            return Page(shown[:most], has_more=True)
        if len(found) < wanted:
            return Page(shown, has_more=False)
        size, since = together, found[-1][0]
        at_once = _READ_MOST if size < _SMALL_BYTES else _READ_FIRST


def _fitting(found: Sequence[Waiting], size: int, *, is_first: bool) -> int:
    """How many of these still fit into a page, the very first in any case."""
    for number, (_, message) in enumerate(found):
        size += len(message)
        if size > PAGE_BYTES and not (is_first and number == 0):
            return number
    return len(found)


def load_ends(tx: Tx, device_nid: int) -> tuple[int, int]:
    """The positions of the oldest and of the newest message of an inbox; zeros where it is empty."""
    row = tx.one(_ENDS, device_nid=device_nid)
    return (row[0] or 0, row[1] or 0) if row is not None else (0, 0)


def drop_delivered(tx: WriteTx, device_nid: int, upto: int) -> None:
    """The device has everything up to a position."""
    tx.run(_DROP, the_device=device_nid, upto=upto)


# --- what waits for other servers ------------------------------------------------------------------------------------


def load_outgoing(tx: Tx, destination: str, after: int, upto: int, most: int) -> list[tuple[int, str]]:
    """What waits for a server in ``(after, upto]``, the oldest first: (position, content of an EDU)."""
    found = tx.all(_OUT_AFTER, destination=destination, after=after, upto=upto, most=most)
    return [(row[0], row[1]) for row in found]


def load_outgoing_destinations(tx: Tx) -> Mapping[str, int]:
    """Every server for which something waits, with the oldest position."""
    found: dict[str, int] = dict(tx.all(_OUT_DESTINATIONS))
    return found


def load_destinations_at(tx: Tx, positions: Collection[int]) -> dict[int, str]:
    """For which server what was stored at a position is."""
    return dict(tx.all(_OUT_DESTINATION, positions=list(positions)))


def forget_sent(tx: WriteTx, destination: str, upto: int) -> None:
    """A server has everything up to a position."""
    tx.run(_FORGET_OUT, the_destination=destination, upto=upto)


# --- what is over ----------------------------------------------------------------------------------------------------


def sweep_ids(tx: Tx, before_ts_ms: int, most: int) -> int:
    """Forget old ids of transactions and of messages, and of a server that sends too many all but the newest."""
    swept = len(tx.all(_SWEEP_TRANSACTIONS, before_ts_ms=before_ts_ms, most=most))
    swept = max(swept, len(tx.all(_SWEEP_SEEN, before_ts_ms=before_ts_ms, most=most)))
    for origin, _ in tx.all(_SEEN_COUNTS, most=SEEN_MOST):
        tx.run(_TRIM_SEEN, of_origin=origin, most=SEEN_MOST)
    return swept
