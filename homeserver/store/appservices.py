"""How far each application service has been told, and what one that was away has not been told.

As for other servers there is no row for what waits: a position, and the timelines of the rooms that concern it. One
transaction of each is kept whole, for it must be repeated byte for byte, after a restart too.

# spec: application-service-api#pushing-events
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import and_, bindparam, delete, select

from homeserver.db.schema.accounts import access_tokens, accounts, devices, receipts
from homeserver.db.schema.appservices import appservice_positions, appservice_transactions
from homeserver.db.schema.e2ee import device_keys, to_device
from homeserver.db.schema.rooms import (
    aliases,
    events,
    members,
    rooms,
    state_keys,
    state_log,
    timeline,
    user_ids,
)
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import forget_cursor
from homeserver.store.events import load_memberships
from homeserver.store.outside import Told, load_told
from homeserver.store.past import IS_NEWS
from homeserver.store.placement import Membership
from homeserver.store.receipts import CHANGE_COLUMNS, CHANGE_ROWS, ReceiptChange
from homeserver.store.stays import Stay
from homeserver.store.timeline import load_cited
from homeserver.store.to_device import drop_delivered

_MEMBER_TYPE = WELL_KNOWN_TYPES["m.room.member"]
_JOIN = int(Membership.JOIN)
_P, _T, _R = appservice_positions.c, appservice_transactions.c, receipts.c

_POSITIONS = statement(
    select(_P.service_id, _P.caught_up_to, _P.failures, _P.retry_at_ts_ms).order_by(_P.service_id)
)
_PUT_POSITION = rows(
    appservice_positions,
    "service_id",
    "caught_up_to",
    "failures",
    "retry_at_ts_ms",
    keys=("service_id",),
    update=("caught_up_to", "failures", "retry_at_ts_ms"),
)
_FORGET_POSITIONS = statement(delete(appservice_positions).where(any_of(_P.service_id, "service_ids")))
_TRANSACTIONS = statement(
    select(_T.service_id, _T.txn_id, _T.upto, _T.body, _T.delivered).order_by(_T.service_id)
)
_PUT_TRANSACTION = rows(
    appservice_transactions,
    "service_id",
    "txn_id",
    "upto",
    "body",
    "delivered",
    keys=("service_id",),
    update=("txn_id", "upto", "body", "delivered"),
)
_FORGET_TRANSACTIONS = statement(delete(appservice_transactions).where(any_of(_T.txn_id, "txn_ids")))
_FORGET_ALL = statement(delete(appservice_transactions).where(any_of(_T.service_id, "service_ids")))
_FORGET_EVERY_POSITION = statement(delete(appservice_positions))
_FORGET_EVERY_TRANSACTION = statement(delete(appservice_transactions))

_USERS = statement(
    select(user_ids.c.nid, user_ids.c.user_id).where(
        user_ids.c.user_id.like(bindparam("pattern"), escape="!")
    )
)
_ROOMS = statement(select(rooms.c.nid, rooms.c.room_id))
_ALIASES = statement(select(aliases.c.room_nid, aliases.c.alias))
_MEMBERSHIPS = statement(
    select(members.c.room_nid, members.c.user_nid, members.c.membership).where(
        any_of(members.c.user_nid, "user_nids")
    )
)
_MOVES = statement(
    select(state_log.c.room_nid, state_log.c.pos, user_ids.c.nid, state_log.c.event_nid, state_log.c.prev_nid)
    .select_from(
        state_log.join(state_keys, state_keys.c.nid == state_log.c.state_key_nid).join(
            user_ids, user_ids.c.user_id == state_keys.c.state_key
        )
    )
    .where(
        and_(
            any_of(user_ids.c.nid, "user_nids"),
            state_keys.c.type_nid == _MEMBER_TYPE,
            any_of(state_log.c.room_nid, "room_nids"),
            state_log.c.pos > bindparam("since"),
        )
    )
    .order_by(state_log.c.pos.desc())
)
_EVENTS = statement(
    select(
        timeline.c.pos,
        timeline.c.room_nid,
        timeline.c.event_nid,
        events.c.sender_nid,
        events.c.type_nid,
        state_keys.c.state_key,
        state_log.c.prev_nid,
    )
    .select_from(
        timeline.join(events, events.c.nid == timeline.c.event_nid)
        .outerjoin(state_keys, state_keys.c.nid == events.c.state_key_nid)
        .outerjoin(
            state_log,
            and_(
                state_log.c.room_nid == timeline.c.room_nid,
                state_log.c.pos == timeline.c.pos,
                state_log.c.state_key_nid == events.c.state_key_nid,
            ),
        )
    )
    .where(
        and_(
            any_of(timeline.c.room_nid, "room_nids"),
            timeline.c.pos > bindparam("after"),
            timeline.c.pos <= bindparam("upto"),
            IS_NEWS,
        )
    )
    .order_by(timeline.c.pos)
    .limit(bindparam("most"))
)
_RECEIPTS = statement(
    select(_R.pos, *CHANGE_COLUMNS)
    .select_from(CHANGE_ROWS)
    .where(and_(any_of(_R.room_nid, "room_nids"), _R.pos > bindparam("after"), _R.pos <= bindparam("upto")))
    .order_by(_R.pos)
    .limit(bindparam("most"))
)
_MESSAGES = statement(
    select(to_device.c.pos, to_device.c.device_nid)
    .select_from(to_device.join(devices, devices.c.nid == to_device.c.device_nid))
    .where(
        and_(
            any_of(devices.c.user_nid, "user_nids"),
            to_device.c.pos > bindparam("after"),
            to_device.c.pos <= bindparam("upto"),
        )
    )
    .order_by(to_device.c.pos)
    .limit(bindparam("most"))
)
_OUTSIDE = statement(
    select(members.c.pos, members.c.user_nid, members.c.room_nid)
    .where(
        and_(
            any_of(members.c.user_nid, "user_nids"),
            members.c.outside == 1,
            members.c.pos > bindparam("after"),
            members.c.pos <= bindparam("upto"),
        )
    )
    .order_by(members.c.pos)
    .limit(bindparam("most"))
)
_DEVICES = statement(
    select(devices.c.nid, user_ids.c.user_id, devices.c.device_id, accounts.c.appservice_id)
    .select_from(
        devices.join(user_ids, user_ids.c.nid == devices.c.user_nid).outerjoin(
            accounts, accounts.c.user_nid == devices.c.user_nid
        )
    )
    .where(any_of(devices.c.nid, "device_nids"))
)
_WITH_TOKENS = statement(
    select(access_tokens.c.device_nid)
    .where(any_of(access_tokens.c.device_nid, "device_nids"))
    .group_by(access_tokens.c.device_nid)
)
_EXCESS = statement(
    select(to_device.c.pos)
    .where(and_(to_device.c.device_nid == bindparam("device_nid"), to_device.c.pos <= bindparam("upto")))
    .order_by(to_device.c.pos.desc())
    .limit(1)
    .offset(bindparam("keep"))
)
_WITH_KEYS = statement(
    select(device_keys.c.device_nid)
    .where(any_of(device_keys.c.user_nid, "user_nids"))
    .order_by(device_keys.c.device_nid)
    .limit(bindparam("most"))
)

_encode = msgspec.json.Encoder().encode
_decode_delivered = msgspec.json.Decoder(list[tuple[int, int]]).decode


class Progress(NamedTuple):
    """How far one application service is."""

    service_id: str
    caught_up_to: int
    failures: int = 0
    retry_at_ts_ms: int = 0  # 0: now


class Pending(NamedTuple):
    """A transaction that an application service has not confirmed yet."""

    service_id: str
    txn_id: str
    upto: int
    body: bytes
    delivered: tuple[tuple[int, int], ...] = ()  # (device, position): messages up to there are over with it


class OwedEvent(NamedTuple):
    """An event of a timeline; ``prev_nid``: the state event that it replaced, or 0. ``own``: a membership of its user."""

    pos: int
    room_nid: int
    event_nid: int
    prev_nid: int
    own: bool = False


class OwedReceipt(NamedTuple):
    """A receipt that was moved."""

    pos: int
    receipt: ReceiptChange


class OwedMessage(NamedTuple):
    """A message that came for a device."""

    pos: int
    device_nid: int


class OwedInvite(NamedTuple):
    """A membership of a room that this server is not in."""

    pos: int
    told: Told


Owed = OwedEvent | OwedReceipt | OwedMessage | OwedInvite


# --- how far they are ------------------------------------------------------------------------------------------------


def load_progress(tx: Tx) -> tuple[dict[str, Progress], dict[str, Pending]]:
    """Of each application service that was told anything: its position, and its open transaction."""
    found = {row[0]: Progress(*row) for row in tx.all(_POSITIONS)}
    pending = {
        row[0]: Pending(row[0], row[1], row[2], bytes(row[3]), tuple(_decode_delivered(row[4])))
        for row in tx.all(_TRANSACTIONS)
    }
    return found, pending


def store_progress(tx: WriteTx, progress: Sequence[Progress], confirmed: Sequence[str]) -> None:
    """Remember positions; forget transactions that were confirmed, by their ids."""
    tx.insert(_PUT_POSITION, list(progress))
    if confirmed:
        tx.run(_FORGET_TRANSACTIONS, txn_ids=list(confirmed))


def forget_services(tx: WriteTx, service_ids: Sequence[str]) -> None:
    """These are not configured any more; should one come back, it begins with what is new then."""
    tx.run(_FORGET_POSITIONS, service_ids=list(service_ids))
    tx.run(_FORGET_ALL, service_ids=list(service_ids))


def forget_all_services(tx: WriteTx, follower: str) -> None:
    """None is configured any more: nobody follows the log for them, and of none is known how far it was."""
    forget_cursor(tx, follower)
    tx.run(_FORGET_EVERY_POSITION)
    tx.run(_FORGET_EVERY_TRANSACTION)


def put_transaction(tx: WriteTx, pending: Pending) -> None:
    """Keep a transaction before it is sent for the first time, in the place of the one before it."""
    delivered = _encode(pending.delivered).decode()
    row = (pending.service_id, pending.txn_id, pending.upto, pending.body, delivered)
    tx.insert(_PUT_TRANSACTION, [row])


def confirm_messages(tx: WriteTx, pending: Pending, progress: Progress) -> None:
    """The messages to devices in a confirmed transaction are over, and so is the transaction.

    ``progress``: with its row goes all that says what was in it, so the position is stored at the same time.
    """
    tx.insert(_PUT_POSITION, [progress])
    for device_nid, upto in pending.delivered:
        drop_delivered(tx, device_nid, upto)
    tx.run(_FORGET_TRANSACTIONS, txn_ids=[pending.txn_id])


# --- who and where they are ------------------------------------------------------------------------------------------


def load_users_of(tx: Tx, server_name: str) -> list[tuple[int, str]]:
    """Every user of a server that was ever named here, with or without an account."""
    pattern = "%:" + server_name.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return [(nid, user_id) for nid, user_id in tx.all(_USERS, pattern=pattern)]


def load_all_aliases(tx: Tx) -> list[tuple[int, str]]:
    """(room, alias) of every alias of this server."""
    return [(room_nid, alias) for room_nid, alias in tx.all(_ALIASES)]


def load_all_rooms(tx: Tx) -> list[tuple[int, str]]:
    """Every room that was ever named here."""
    return [(room_nid, room_id) for room_nid, room_id in tx.all(_ROOMS)]


def load_joined_at(tx: Tx, user_nids: Collection[int], at: int) -> dict[int, set[int]]:
    """Room -> those of the users who were joined to it at a position."""
    joined, room_nids = _load_joined(tx, user_nids)
    moves = tx.all(_MOVES, user_nids=list(user_nids), room_nids=sorted(room_nids), since=at)
    words = _words(tx, moves)
    for room_nid, _, user_nid, _, prev_nid in moves:
        # The newest first: so the oldest has the last word.
        if words.get(prev_nid) == "join":
            joined.setdefault(room_nid, set()).add(user_nid)
        else:
            joined.get(room_nid, set()).discard(user_nid)
    return {room_nid: users for room_nid, users in joined.items() if users}


def _load_joined(tx: Tx, user_nids: Collection[int]) -> tuple[dict[int, set[int]], set[int]]:
    """Who is joined where, and every room that one of them is or was anything to."""
    joined: dict[int, set[int]] = {}
    room_nids: set[int] = set()
    for room_nid, user_nid, membership in tx.all(_MEMBERSHIPS, user_nids=list(user_nids)):
        room_nids.add(room_nid)
        if membership == _JOIN:
            joined.setdefault(room_nid, set()).add(user_nid)
    return joined, room_nids


def _words(tx: Tx, moves: Sequence[Any]) -> dict[int, str]:
    nids = {nid for move in moves for nid in (move[3], move[4]) if nid}
    return load_memberships(tx, sorted(nids))


# --- what they have not been told ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """Whose news of ``(after, upto]`` are wanted. ``rooms``: where something happened since; ``named``: of these, those
    that concern it whoever is in them; ``all_named``: all that do, as receipts may be the only thing that happened."""

    user_nids: frozenset[int]
    user_ids: frozenset[str]
    rooms: frozenset[int]
    named: frozenset[int]
    all_named: frozenset[int]
    after: int
    upto: int
    most: int
    ephemeral: bool  # receipts and messages to devices too


def load_owed(tx: Tx, ask: Ask) -> tuple[list[Owed], int]:
    """What an application service has not been told, oldest first, and up to which position this is all."""
    stays = _load_stays(tx, ask)
    room_nids = sorted((ask.rooms & stays.keys()) | ask.named)
    span = {"after": ask.after, "upto": ask.upto, "most": ask.most}
    timelines: list[OwedEvent] = []
    upto = ask.upto
    rows_ = tx.all(_EVENTS, room_nids=room_nids, **span) if room_nids else []
    if len(rows_) == ask.most:
        upto = rows_[-1][0]
    for pos, room_nid, event_nid, sender_nid, type_nid, state_key, prev_nid in rows_:
        concerned = room_nid in ask.named or sender_nid in ask.user_nids or stays[room_nid].around(pos)
        own = type_nid == _MEMBER_TYPE and state_key in ask.user_ids
        if concerned or own:
            timelines.append(OwedEvent(pos, room_nid, event_nid, prev_nid or 0, own))
    found = _with_accepted(tx, timelines)
    users = sorted(ask.user_nids)
    invites = tx.all(_OUTSIDE, user_nids=users, **span)
    upto = _cut(invites, ask.most, upto)
    for pos, user_nid, room_nid in invites:
        told = load_told(tx, user_nid, room_nid)
        if told is not None and told.event_id:  # else no event says so: see ``put_vanished``
            found.append(OwedInvite(pos, told))
    if ask.ephemeral:
        here = sorted({nid for nid, stay in stays.items() if stay.at_last} | ask.all_named)
        moved = tx.all(_RECEIPTS, room_nids=here, **span)
        messages = tx.all(_MESSAGES, user_nids=users, **span)
        upto = _cut(messages, ask.most, _cut(moved, ask.most, upto))
        found += [OwedReceipt(row[0], ReceiptChange(*row[1:])) for row in moved]
        found += [OwedMessage(pos, device_nid) for pos, device_nid in messages]
    return sorted((one for one in found if one.pos <= upto), key=lambda one: one.pos), upto


def _with_accepted(tx: Tx, found: Sequence[OwedEvent]) -> list[Owed]:
    """Where their users come into a room of another server: see ``load_cited``."""
    own = [one.event_nid for one in found if one.own]
    cited = load_cited(tx, own) if own else {}
    return [one._replace(prev_nid=cited.get(one.event_nid, one.prev_nid)) for one in found]


def _cut(rows_: Sequence[Any], most: int, upto: int) -> int:
    return min(upto, rows_[-1][0]) if len(rows_) == most else upto


def _load_stays(tx: Tx, ask: Ask) -> dict[int, Stay]:
    """In which rooms one of the users was at any time after the position, and when."""
    joined, room_nids = _load_joined(tx, ask.user_nids)
    moves = tx.all(_MOVES, user_nids=list(ask.user_nids), room_nids=sorted(room_nids), since=ask.after)
    words = _words(tx, moves)
    turns: dict[int, list[int]] = {}
    for room_nid, pos, user_nid, event_nid, prev_nid in moves:
        after, before = words.get(event_nid) == "join", words.get(prev_nid) == "join"
        if after == before:
            continue
        users = joined.setdefault(room_nid, set())
        was_there = bool(users)
        if before:
            users.add(user_nid)
        else:
            users.discard(user_nid)
        if bool(users) != was_there:
            turns.setdefault(room_nid, []).append(pos)
    return {
        room_nid: Stay(bool(joined.get(room_nid)), tuple(reversed(turns.get(room_nid, ()))))
        for room_nid in room_nids
    }


# --- devices ---------------------------------------------------------------------------------------------------------


class DeviceName(NamedTuple):
    """A device; ``made_by``: the application service that made its user's account."""

    user_id: str
    device_id: str
    made_by: str | None


def load_device_names(tx: Tx, device_nids: Collection[int]) -> dict[int, DeviceName]:
    """Of devices; those that are gone are absent."""
    return {row[0]: DeviceName(*row[1:]) for row in tx.all(_DEVICES, device_nids=list(device_nids))}


def load_logged_in(tx: Tx, device_nids: Collection[int]) -> frozenset[int]:
    """Those of the devices that have a token of their own: somebody may sync with them."""
    return frozenset(tx.column(_WITH_TOKENS, device_nids=list(device_nids)))


def find_excess(tx: Tx, device_nid: int, upto: int, keep: int) -> int | None:
    """Of a device's messages up to a position, where those end that are older than the newest ``keep``."""
    found: int | None = tx.value(_EXCESS, device_nid=device_nid, upto=upto, keep=keep)
    return found


def load_devices_with_keys(tx: Tx, user_nids: Collection[int], most: int) -> list[int]:
    """Devices of some users that have uploaded keys."""
    return tx.column(_WITH_KEYS, user_nids=list(user_nids), most=most)
