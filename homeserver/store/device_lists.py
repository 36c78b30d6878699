"""When somebody's keys changed, and who is to hear of it.

A change is a row with its position. Of users of this server the newest ones are kept one by one: they are the chain of
``stream_id`` and ``prev_id`` that other servers follow. Of everybody else the newest suffices.

# spec: client-server-api#tracking-the-device-list-for-a-user
# spec: server-server-api#device-management
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, select

from homeserver.db.schema.accounts import accounts
from homeserver.db.schema.e2ee import list_changes
from homeserver.db.schema.rooms import members, state_keys, state_log, user_ids
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.placement import Membership

# LIMIT(a server that missed more of one user's changes fetches the whole list)
CHANGES_KEPT = 200
# LIMIT(the keys of one user's devices together, as text: a thousand honest ones take two thirds of it)
MAX_LIST_LENGTH = 1024 * 1024
SIGNING_KEYS = ""  # in the place of a device id
_CHANGES = (Kind.DEVICE_LIST, Kind.SIGNING_KEYS)

_JOINED = members.c.membership == int(Membership.JOIN)
_L = list_changes.c
_INSERT = rows(list_changes, "pos", "user_nid", "device_id")
_kept = (
    select(_L.pos)
    .where(_L.user_nid == bindparam("of_user"))
    .order_by(_L.pos.desc())
    .limit(1)
    .offset(bindparam("most"))
    .scalar_subquery()
)
_TRIM = statement(delete(list_changes).where(and_(_L.user_nid == bindparam("of_user"), _L.pos <= _kept)))
_NEWEST = statement(select(func.max(_L.pos)).where(_L.user_nid == bindparam("user_nid")))
_NEWEST_OF_DEVICES = statement(
    select(func.max(_L.pos)).where(
        and_(_L.user_nid == bindparam("user_nid"), _L.device_id != SIGNING_KEYS, _L.pos <= bindparam("upto"))
    )
)
_ROOMS = statement(
    select(members.c.room_nid).where(and_(members.c.user_nid == bindparam("user_nid"), _JOINED))
)
_CHANGED = statement(
    select(_L.user_nid)
    .where(and_(_L.pos > bindparam("since"), _L.pos <= bindparam("upto")))
    .group_by(_L.user_nid)
)
_SHARING = statement(
    select(members.c.user_nid)
    .where(and_(any_of(members.c.user_nid, "user_nids"), any_of(members.c.room_nid, "room_nids"), _JOINED))
    .group_by(members.c.user_nid)
)
_MEMBERS = statement(
    select(members.c.user_nid)
    .where(and_(any_of(members.c.room_nid, "room_nids"), _JOINED))
    .group_by(members.c.user_nid)
)
_MEMBERS_BY_ROOM = statement(
    select(members.c.room_nid, members.c.user_nid).where(
        and_(any_of(members.c.room_nid, "room_nids"), _JOINED)
    )
)
_STANDINGS = statement(
    select(members.c.user_nid, members.c.room_nid, members.c.pos).where(
        and_(any_of(members.c.user_nid, "user_nids"), _JOINED)
    )
)
_CHANGED_ACCOUNTS = statement(
    select(_L.user_nid)
    .select_from(list_changes.join(accounts, accounts.c.user_nid == _L.user_nid))
    .where(and_(_L.pos > bindparam("since"), _L.pos <= bindparam("upto")))
    .group_by(_L.user_nid)
    .order_by(_L.user_nid)
)
_LOCAL_STAYS = statement(
    select(members.c.user_nid, members.c.room_nid, members.c.pos)
    .select_from(members.join(accounts, accounts.c.user_nid == members.c.user_nid))
    .where(and_(any_of(members.c.room_nid, "room_nids"), _JOINED))
)
_CHAIN = statement(
    select(_L.pos, _L.device_id)
    .where(
        and_(_L.user_nid == bindparam("user_nid"), _L.pos > bindparam("since"), _L.pos <= bindparam("upto"))
    )
    .order_by(_L.pos)
)
_MOVES = statement(
    select(state_log.c.room_nid, user_ids.c.nid, state_log.c.event_nid, state_log.c.prev_nid, state_log.c.pos)
    .select_from(
        state_log.join(state_keys, state_keys.c.nid == state_log.c.state_key_nid).join(
            user_ids, user_ids.c.user_id == state_keys.c.state_key
        )
    )
    .where(
        and_(
            any_of(state_log.c.room_nid, "room_nids"),
            state_log.c.pos > bindparam("since"),
            state_log.c.pos <= bindparam("upto"),
            state_keys.c.type_nid == WELL_KNOWN_TYPES["m.room.member"],
        )
    )
    .order_by(state_log.c.room_nid, state_log.c.pos)
)


@dataclass(frozen=True, slots=True)
class ListChanged:
    """Payload of ``Kind.DEVICE_LIST`` and ``Kind.SIGNING_KEYS``: whose keys, and the rooms that hear of it."""

    user_nid: int
    device_id: str = SIGNING_KEYS
    room_nids: list[int] = field(default_factory=list)

    @property
    def weight(self) -> int:
        """See ``Change.weight``."""
        return 40 * len(self.room_nids)


class MemberMove(NamedTuple):
    """A membership that moved: the state event before (0: none) and after (0: gone)."""

    room_nid: int
    user_nid: int
    event_nid: int
    prev_nid: int
    pos: int


class JoinedSince(NamedTuple):
    """That somebody is in a room, and since which position without a doubt."""

    user_nid: int
    room_nid: int
    pos: int


def note_list_change(
    tx: WriteTx,
    user_nid: int,
    device_ids: Sequence[str],
    kind: Kind = Kind.DEVICE_LIST,
    *,
    keep: int = CHANGES_KEPT,
) -> None:
    """Something about a user's keys is not what it was; each device takes a position of its own."""
    room_nids: list[int] = []
    for place, device_id in enumerate(device_ids):
        first, last = place == 0, place == len(device_ids) - 1

        def write(
            tx: Tx, pos: int, device_id: str = device_id, first: bool = first, last: bool = last
        ) -> None:
            tx.insert(_INSERT, [(pos, user_nid, device_id)])
            if first:
                # So late, or an event of this very transaction would not count.
                room_nids.extend(load_rooms_of(tx, user_nid))
            if last:
                tx.run(_TRIM, of_user=user_nid, most=keep)

        tx.claim(kind, -user_nid, write=write, payload=ListChanged(user_nid, device_id, room_nids))


def note_signing_change(tx: WriteTx, user_nid: int, *, keep: int = CHANGES_KEPT) -> None:
    """A user's cross-signing keys are not what they were."""
    note_list_change(tx, user_nid, [SIGNING_KEYS], Kind.SIGNING_KEYS, keep=keep)


def load_rooms_of(tx: Tx, user_nid: int) -> list[int]:
    """The rooms that somebody is in, of this server or not."""
    return tx.column(_ROOMS, user_nid=user_nid)


def has_changed(tx: WriteTx, user_nid: int, since: int) -> bool:
    """Whether a user's keys have changed after a position, or earlier in this very transaction."""
    # What this transaction has noted becomes rows at its end, with their positions. A claim that names somebody else
    # says whose key the user signed.
    if any(one.topic == -user_nid and one.kind in _CHANGES and not one.ref for one in tx.claims):
        return True
    return (tx.value(_NEWEST, user_nid=user_nid) or 0) > since


def load_stream_id(tx: Tx, user_nid: int, upto: int) -> int:
    """The position of the newest change of a user's devices up to another one, or 0: what other servers call
    ``stream_id``."""
    return tx.value(_NEWEST_OF_DEVICES, user_nid=user_nid, upto=upto) or 0


def load_changed_users(tx: Tx, since: int, upto: int) -> list[int]:
    """Whose newest change, or one that is kept, lies in ``(since, upto]``."""
    return tx.column(_CHANGED, since=since, upto=upto)


def load_sharing(tx: Tx, user_nids: Collection[int], room_nids: Collection[int]) -> set[int]:
    """Those of the users who are in one of the rooms."""
    if not user_nids or not room_nids:
        return set()
    return set(tx.column(_SHARING, user_nids=list(user_nids), room_nids=list(room_nids)))


def load_joined(tx: Tx, room_nids: Collection[int]) -> set[int]:
    """Everybody who is in one of the rooms."""
    return set(tx.column(_MEMBERS, room_nids=list(room_nids))) if room_nids else set()


def load_joined_by_room(tx: Tx, room_nids: Collection[int]) -> dict[int, set[int]]:
    """Everybody who is in each of the rooms."""
    found: dict[int, set[int]] = {room_nid: set() for room_nid in room_nids}
    if room_nids:
        for room_nid, user_nid in tx.all(_MEMBERS_BY_ROOM, room_nids=list(room_nids)):
            found[room_nid].add(user_nid)
    return found


def load_joined_since(tx: Tx, user_nids: Collection[int]) -> list[JoinedSince]:
    """The rooms of users, each with the position of the membership event that says so."""
    return [JoinedSince(*row) for row in tx.all(_STANDINGS, user_nids=list(user_nids))]


def load_member_moves(tx: Tx, room_nids: Collection[int], since: int, upto: int) -> list[MemberMove]:
    """How memberships moved in ``(since, upto]``, by room, oldest first."""
    if not room_nids:
        return []
    found = tx.all(_MOVES, room_nids=list(room_nids), since=since, upto=upto)
    return [MemberMove(*row) for row in found]


# --- for other servers -----------------------------------------------------------------------------------------------


def load_changed_accounts(tx: Tx, after: int, upto: int) -> list[int]:
    """The users of this server with a change in ``(after, upto]``."""
    return tx.column(_CHANGED_ACCOUNTS, since=after, upto=upto)


def load_local_stays(tx: Tx, room_nids: Collection[int]) -> list[JoinedSince]:
    """The users of this server who are in some rooms."""
    return [JoinedSince(*row) for row in tx.all(_LOCAL_STAYS, room_nids=list(room_nids))]


def load_chain(tx: Tx, user_nid: int, after: int, upto: int) -> list[tuple[int, str]]:
    """A user's kept changes in ``(after, upto]``, oldest first: position, and device (or ``SIGNING_KEYS``)."""
    found = tx.all(_CHAIN, user_nid=user_nid, since=after, upto=upto)
    return [(row[0], row[1]) for row in found]
