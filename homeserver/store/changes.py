"""The log: positions, the change at each, and the cursors of its followers.

A topic is where a change happened: a room by its nid, a user by the negative of theirs, 0 for the whole server.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

from msgspec import json
from sqlalchemy import bindparam, delete, func, select, update

from homeserver.db.schema.stream import changes, followers, stream
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx
from homeserver.store.facts import load_fact, store_fact


class Kind(IntEnum):
    """What kind of fact a change is. Numbers are stored: never reuse one."""

    EVENT = 1  # topic room, ref event nid; payload homeserver.rooms.types.Placed
    RECEIPT = 2  # topic room, ref user nid
    ACCOUNT_DATA = 3  # topic user, ref room nid or 0
    DEVICES = 4  # topic user: devices or tokens came or went
    PROFILE = 5  # topic user
    ACCOUNT = 6  # topic user: created, deactivated, administrator
    FORGOTTEN = 7  # topic user, ref room nid
    DIRECTORY = 8  # topic room: aliases or published
    TO_DEVICE = 9  # topic user, ref device nid
    DEVICE_LIST = 10  # topic user
    PUSHER = 11  # topic user
    TRUNCATED = 12  # topic room: purged
    STATE_MOVED = (
        13  # topic room: its current state moved without an event; payload store.placement.StateMoved
    )
    OUTSIDE = (
        14  # topic user, ref room nid: a membership of a room that this server is not in; store/outside.py
    )
    DEVICE_KEYS = 15  # topic user: one-time or fallback keys came or went
    SIGNING_KEYS = 16  # topic user: cross-signing keys
    JOIN_PROGRESS = 17  # topic room: how much of a join is done
    RELAYED = 18  # topic 0, ref event nid: to be sent on to the room's servers; payload store.outgoing.Relay
    THREAD_SUBSCRIPTION = 19  # topic user, ref room nid: store/thread_subscriptions.py
    REPORT = 28  # topic 0, ref the reporter's nid; payload store.reports.Report
    BLOCKED = 33  # topic 0, ref a room's nid, or the negative of it where it is blocked no longer
    STICKY = 32  # topic room (0: it is soft-failed), ref event nid; payload store.sticky.Sticky
    RESTORED = 34  # topic 0: what came before it is from a backup


# LIMIT(positions that a server gave after a backup was taken: a restored one begins beyond them)
SKIPPED: Final = 2**40
_SKIPPED_FACT: Final = "skipped"


class Change(NamedTuple):
    """One durable fact. ``payload`` only in the process that wrote it; its ``weight`` says what it takes where that is much."""

    pos: int
    kind: int
    topic: int
    ref: int
    payload: Any = None

    @property
    def weight(self) -> int:
        """About how many bytes the payload takes, beside a few hundred that any takes."""
        weight: int = getattr(self.payload, "weight", 0)
        return weight


def weigh_json(text: bytes) -> int:
    """About how many bytes a JSON text takes together with what is parsed of it: some for each value."""
    return len(text) + 100 * (text.count(b",") + text.count(b"{") + text.count(b"["))


_TAKE = statement(
    update(stream)
    .where(stream.c.id == 1)
    .values(pos=stream.c.pos + bindparam("count"))
    .returning(stream.c.pos)
)
_TAKE_NEXT = statement(
    update(stream)
    .where(stream.c.id == 1, stream.c.pos == bindparam("known"))
    .values(pos=stream.c.pos + bindparam("count"))
    .returning(stream.c.pos)
)
_POSITION = statement(select(stream.c.pos).where(stream.c.id == 1))
INSERT_CHANGES = rows(changes, "pos", "kind", "topic", "ref")
_READ = statement(
    select(changes.c.pos, changes.c.kind, changes.c.topic, changes.c.ref)
    .where(changes.c.pos > bindparam("after"))
    .order_by(changes.c.pos)
    .limit(bindparam("most"))
)
_FIRST = statement(select(func.min(changes.c.pos)))
_TRIM = statement(delete(changes).where(changes.c.pos <= bindparam("upto")))
_CURSORS = statement(select(followers.c.name, followers.c.pos))
_SET_CURSOR = rows(followers, "name", "pos", keys=("name",), update=("pos",))
_FORGET_CURSOR = statement(delete(followers).where(followers.c.name == bindparam("name")))


def take_positions(tx: Tx, count: int) -> int:
    """Take ``count`` positions; returns the last. MUST be the last thing before what carries them is written."""
    return int(tx.value(_TAKE, count=count))


def take_next_positions(tx: Tx, count: int, known: int) -> int:
    """The same where the newest position is presumed to be ``known``: ``Conflict`` where it is another (see ``Tx.require``)."""
    tx.require(1, _TAKE_NEXT, count=count, known=known)
    return known + count


def skip_positions(tx: Tx) -> None:
    """Begin, in a restored database, beyond every position that may have been given after the backup was taken.

    Clients and other servers come back with such positions. What happens from now on must be news to all of them, and
    a message to a device must not count as delivered by a position that meant something else.
    """
    first = load_position(tx) + 1
    pos = take_positions(tx, SKIPPED)
    tx.insert(INSERT_CHANGES, [(pos, int(Kind.RESTORED), 0, 0)])
    store_fact(tx, _SKIPPED_FACT, json.encode([*load_skipped(tx), (first, pos - 1)]).decode())


def load_skipped(tx: Tx) -> list[tuple[int, int]]:
    """The first and the last of positions that were skipped, each time: whoever looks through positions leaves these out."""
    text = load_fact(tx, _SKIPPED_FACT)
    return [] if text is None else json.decode(text, type=list[tuple[int, int]])


def load_position(tx: Tx) -> int:
    """The position of the newest committed change."""
    return int(tx.value(_POSITION))


def load_changes(tx: Tx, after: int, most: int) -> list[Change]:
    """The changes after a position, oldest first."""
    return [Change(*row) for row in tx.all(_READ, after=after, most=most)]


def load_cursors(tx: Tx) -> dict[str, int]:
    """How far each follower has read."""
    cursors: dict[str, int] = dict(tx.all(_CURSORS))
    return cursors


def store_cursors(tx: Tx, cursors: Sequence[tuple[str, int]]) -> None:
    """Remember how far followers have read."""
    if cursors:
        tx.insert(_SET_CURSOR, list(cursors))


def forget_cursor(tx: Tx, name: str) -> None:
    """A follower that is no more must not hold the log back."""
    tx.run(_FORGET_CURSOR, name=name)


def trim_changes(tx: Tx, keep: int) -> None:
    """Drop the log behind the slowest follower, but keep the newest ``keep`` rows."""
    cursors = load_cursors(tx)
    upto = min([*cursors.values(), load_position(tx) - keep])
    if upto > 0:
        tx.run(_TRIM, upto=upto)


def first_kept(tx: Tx) -> int:
    """The oldest position that the log still has, or 0."""
    return int(tx.value(_FIRST) or 0)
