"""Which threads people want to hear of. proposal: MSC4306

A row is the newest state of one user's subscription of one thread, also after it ended: other devices hear of that too.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, select, tuple_, update

from homeserver.db.schema.rooms import events
from homeserver.db.schema.sync import thread_subscriptions
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind

# LIMIT(one user must not fill the disk; beyond it those that ended longest ago go)
MOST_PER_USER = 20_000

_S = thread_subscriptions.c
_ONE = and_(
    _S.user_nid == bindparam("of_user"), _S.room_nid == bindparam("in_room"), _S.root_nid == bindparam("root")
)
_GET = statement(select(_S.subscribed, _S.automatic, _S.unsubscribed_pos).where(_ONE))
_PUT = rows(
    thread_subscriptions,
    "user_nid",
    "room_nid",
    "root_nid",
    "subscribed",
    "automatic",
    "unsubscribed_pos",
    "pos",
    keys=("user_nid", "room_nid", "root_nid"),
    update=("subscribed", "automatic", "unsubscribed_pos", "pos"),
)
_SET_POS = statement(update(thread_subscriptions).where(_ONE).values(pos=bindparam("new_pos")))
_COUNT = statement(select(func.count()).where(_S.user_nid == bindparam("of_user")))
_KEY = (_S.user_nid, _S.room_nid, _S.root_nid)
_ended = (
    select(*_KEY)
    .where(and_(_S.user_nid == bindparam("of_user"), _S.subscribed == 0))
    .order_by(_S.pos)
    .limit(bindparam("most"))
)
_DROP_ENDED = statement(delete(thread_subscriptions).where(tuple_(*_KEY).in_(_ended)).returning(_S.root_nid))
_WITH_ROOTS = thread_subscriptions.join(events, events.c.nid == _S.root_nid)
_CHANGES = statement(
    select(_S.pos, _S.room_nid, events.c.event_id, _S.subscribed, _S.automatic)
    .select_from(_WITH_ROOTS)
    .where(
        and_(
            _S.user_nid == bindparam("of_user"),
            _S.pos > bindparam("since"),
            _S.pos <= bindparam("upto"),
            _S.subscribed >= bindparam("least"),
        )
    )
    .order_by(_S.pos.desc())
    .limit(bindparam("most"))
)
_OF_USERS = statement(
    select(_S.user_nid, _S.room_nid, events.c.event_id)
    .select_from(_WITH_ROOTS)
    .where(and_(any_of(_S.user_nid, "user_nids"), _S.subscribed == 1))
)


@dataclass(frozen=True, slots=True)
class SubscriptionChanged:
    """Payload of ``Kind.THREAD_SUBSCRIPTION``."""

    user_nid: int
    room_nid: int
    root_id: str
    subscribed: bool
    automatic: bool


class Subscription(NamedTuple):
    """What somebody has of a thread."""

    subscribed: bool
    automatic: bool
    unsubscribed_pos: int


class SubscriptionChange(NamedTuple):
    """The newest state of a subscription, and when it came to be."""

    pos: int
    room_nid: int
    root_id: str
    subscribed: bool
    automatic: bool


@dataclass(frozen=True, slots=True)
class Thread:
    """Whose view of which thread."""

    user_nid: int
    room_nid: int
    root_nid: int
    root_id: str


class UnsubscribedSinceError(Exception):
    """They unsubscribed after the event that would subscribe them."""


class TooManySubscriptionsError(Exception):
    """The user has as many as a user may have."""


def load_subscription(tx: Tx, user_nid: int, room_nid: int, root_nid: int) -> Subscription | None:
    """What somebody has of a thread; None: nothing, and never had."""
    row = tx.one(_GET, of_user=user_nid, in_room=room_nid, root=root_nid)
    return None if row is None else Subscription(bool(row[0]), bool(row[1]), row[2])


def subscribe(tx: WriteTx, thread: Thread, cause_pos: int | None) -> None:
    """A unit of work. ``cause_pos``: where the event stands that subscribes them by itself; None: they did it.

    Raises UnsubscribedSinceError and TooManySubscriptionsError.
    """
    known = load_subscription(tx, thread.user_nid, thread.room_nid, thread.root_nid)
    automatic = cause_pos is not None
    if known is not None and known.subscribed:
        # What they did themselves stays so.
        if automatic or not known.automatic:
            return
    elif known is not None and cause_pos is not None and cause_pos <= known.unsubscribed_pos:
        raise UnsubscribedSinceError
    if known is None and tx.value(_COUNT, of_user=thread.user_nid) >= MOST_PER_USER:
        if not tx.all(_DROP_ENDED, of_user=thread.user_nid, most=100):
            raise TooManySubscriptionsError
    _put(tx, thread, Subscription(True, automatic, 0))


def unsubscribe(tx: WriteTx, thread: Thread, seen_pos: int) -> None:
    """A unit of work: they do not want to hear of it, having seen the room up to a position."""
    known = load_subscription(tx, thread.user_nid, thread.room_nid, thread.root_nid)
    if known is not None and known.subscribed:
        _put(tx, thread, Subscription(False, False, seen_pos))


def _put(tx: WriteTx, thread: Thread, new: Subscription) -> None:
    user_nid, room_nid, root_nid = thread.user_nid, thread.room_nid, thread.root_nid
    # At once, so that a later unit of the same transaction sees it; the position comes at the transaction's end.
    tx.insert(
        _PUT,
        [(user_nid, room_nid, root_nid, int(new.subscribed), int(new.automatic), new.unsubscribed_pos, 0)],
    )

    def write(tx: Tx, pos: int) -> None:
        tx.run(_SET_POS, of_user=user_nid, in_room=room_nid, root=root_nid, new_pos=pos)

    payload = SubscriptionChanged(user_nid, room_nid, thread.root_id, new.subscribed, new.automatic)
    tx.claim(Kind.THREAD_SUBSCRIPTION, -user_nid, room_nid, write, payload)


def load_changes_of(
    tx: Tx, user_nid: int, since: int, upto: int, most: int, *, ended: bool = True
) -> list[SubscriptionChange]:
    """What changed in ``(since, upto]``, the newest first; ``ended``: also subscriptions that are over."""
    found = tx.all(_CHANGES, of_user=user_nid, since=since, upto=upto, least=0 if ended else 1, most=most)
    return [SubscriptionChange(row[0], row[1], row[2], bool(row[3]), bool(row[4])) for row in found]


def load_subscribed(tx: Tx, user_nids: Collection[int]) -> dict[int, set[tuple[int, str]]]:
    """The threads that users are subscribed to: (room nid, the root's event id)."""
    found: dict[int, set[tuple[int, str]]] = {}
    for user_nid, room_nid, root_id in tx.all(_OF_USERS, user_nids=list(user_nids)):
        found.setdefault(user_nid, set()).add((room_nid, root_id))
    return found
