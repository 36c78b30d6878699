"""Account data: what a user's clients keep with us, for the account or for one room.

`room_nid` 0 is the account. A row holds its content as compact JSON text, ready to be spliced into a sync. The empty
object means that the piece was deleted (MSC3391): those who sync are told so, a new client never hears of it.
spec: client-server-api#client-config
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from sys import getsizeof
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import BindParameter, and_, bindparam, delete, func, select, update

from homeserver.db.schema.accounts import account_data
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Ask, Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.open_accounts import is_open
from homeserver.store.work import short

# LIMIT(one user must not fill the disk: clients keep some tens of types, and a few for each room)
MAX_ROWS_PER_USER = 20_000
# LIMIT(every sync carries it: counted as it is kept, where 1e15 is 18 characters. Clients and bridges write all direct chats
# of somebody as one, some hundred bytes for each)
MAX_CONTENT_BYTES = 2 * 1024 * 1024
# LIMIT(a first sync carries all of it: characters of all that a user keeps; a short piece is not looked at for this,
# as clients write most of these, and the number of rows bounds what they take)
MAX_LENGTH_PER_USER = 16 * 1024 * 1024
SHORT_LENGTH = 1_024
# LIMIT(tags of a room are read and written as one)
MAX_TAGS_PER_ROOM = 100
MAX_TAGS_BYTES = 256 * 1024

TAG = "m.tag"
# The server's own, and one for a room: it is not counted, or nothing would be read any more where there are too many.
FULLY_READ = "m.fully_read"
DELETED = "{}"

_D = account_data.c
_USER: BindParameter[int] = bindparam("user_nid")
_ROOM: BindParameter[int] = bindparam("room_nid")
_COLUMNS = (_D.room_nid, _D.type, _D.content)
_ONE = statement(
    select(_D.content).where(and_(_D.user_nid == _USER, _D.room_nid == _ROOM, _D.type == bindparam("type")))
)
_COUNT = statement(
    select(func.count()).select_from(account_data).where(and_(_D.user_nid == _USER, _D.type != FULLY_READ))
)
_LENGTH = statement(select(func.coalesce(func.sum(func.length(_D.content)), 0)).where(_D.user_nid == _USER))
_PUT = rows(
    account_data,
    "user_nid",
    "room_nid",
    "type",
    "content",
    "pos",
    keys=("user_nid", "room_nid", "type"),
    update=("content", "pos"),
)
_SET_POS = statement(
    update(account_data)
    .where(and_(_D.user_nid == _USER, _D.room_nid == _ROOM, _D.type == bindparam("the_type")))
    .values(pos=bindparam("new_pos"))
)
_SINCE = statement(
    select(*_COLUMNS)
    .where(and_(_D.user_nid == _USER, _D.pos > bindparam("since"), _D.pos <= bindparam("upto")))
    .order_by(_D.pos)
)
_OF_ROOMS = statement(
    select(*_COLUMNS)
    .where(and_(_D.user_nid == _USER, any_of(_D.room_nid, "rooms"), _D.pos <= bindparam("upto")))
    .order_by(_D.room_nid, _D.type)
)
_OF_USERS = statement(
    select(_D.user_nid, _D.type, _D.content).where(
        and_(any_of(_D.user_nid, "user_nids"), _D.room_nid == 0, any_of(_D.type, "types"))
    )
)
_OF_ROOMS_KEPT = statement(
    select(*_COLUMNS)
    .where(
        and_(
            _D.user_nid == _USER,
            any_of(_D.room_nid, "rooms"),
            _D.pos <= bindparam("upto"),
            _D.content != DELETED,
        )
    )
    .order_by(_D.room_nid, _D.type)
)
_FORGET_DELETED = statement(
    delete(account_data).where(and_(_D.user_nid == _USER, _D.content == DELETED)).returning(_D.type)
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class AccountDatum(NamedTuple):
    """One piece of account data."""

    room_nid: int
    type: str
    content: str


@dataclass(frozen=True, slots=True)
class AccountDataChanged:
    """Payload of ``Kind.ACCOUNT_DATA``."""

    user_nid: int
    room_nid: int
    type: str
    content: str

    @property
    def weight(self) -> int:
        """See ``Change.weight``."""
        return getsizeof(self.content)


class TooMuchAccountDataError(Exception):
    """The user keeps as much as a user may keep."""


def load_account_data(tx: Tx, user_nid: int, room_nid: int, type_: str) -> str | None:
    """The content of one piece; ``DELETED`` where it was deleted, which is also an empty object to who looks inside."""
    return tx.value(_ONE, user_nid=user_nid, room_nid=room_nid, type=type_)  # type: ignore[no-any-return]


def load_account_data_since(tx: Tx, user_nid: int, since: int, upto: int) -> list[AccountDatum]:
    """What changed in (since, upto], in that order; of rooms and of the account (room 0)."""
    return [AccountDatum(*row) for row in tx.all(_SINCE, user_nid=user_nid, since=since, upto=upto)]


def load_account_data_of(
    tx: Tx, user_nid: int, room_nids: list[int], upto: int, *, deleted: bool = False
) -> list[AccountDatum]:
    """Everything kept for some rooms (0: for the account) and not changed after a position.

    For initial syncs; who may have heard of the rooms before must also hear what was ``deleted``.
    """
    return [
        AccountDatum(*row) for row in tx.ask(ask_account_data_of(user_nid, room_nids, upto, deleted=deleted))
    ]


def ask_account_data_of(user_nid: int, room_nids: list[int], upto: int, *, deleted: bool = False) -> Ask:
    """What :func:`load_account_data_of` asks."""
    params = {"user_nid": user_nid, "rooms": room_nids, "upto": upto}
    return Ask(_OF_ROOMS if deleted else _OF_ROOMS_KEPT, params)


def load_types_of_users(tx: Tx, user_nids: Sequence[int], types: Sequence[str]) -> dict[int, dict[str, str]]:
    """Some types of some accounts: by user, then by type."""
    found: dict[int, dict[str, str]] = {}
    for user_nid, type_, content in tx.all(_OF_USERS, user_nids=list(user_nids), types=list(types)):
        found.setdefault(user_nid, {})[type_] = content
    return found


def check_length(tx: Tx, user_nid: int, room_nid: int, type_: str, content: str) -> None:
    """Refuse a piece of more than ``SHORT_LENGTH`` with which the user would keep too much: TooMuchAccountDataError.

    Not a part of what keeps it: to add all of it up takes a tenth of a second where it is as much as may be, and there is
    one writer. What is put at the same time may go beyond by as much.
    """
    grown = len(content) - len(load_account_data(tx, user_nid, room_nid, type_) or "")
    if grown > 0 and tx.value(_LENGTH, user_nid=user_nid) + grown > MAX_LENGTH_PER_USER:
        raise TooMuchAccountDataError


@short
def put_account_data(tx: WriteTx, user_nid: int, room_nid: int, type_: str, content: str) -> None:
    """Keep a piece. Raises TooMuchAccountDataError where the user keeps as many as one may."""
    known = load_account_data(tx, user_nid, room_nid, type_)
    is_counted = known is None and type_ != FULLY_READ
    if is_counted and tx.value(_COUNT, user_nid=user_nid) >= MAX_ROWS_PER_USER:
        # What is deleted counts too, as long as there is room. A client that was away keeps it then.
        if not tx.column(_FORGET_DELETED, user_nid=user_nid):
            raise TooMuchAccountDataError
    _put(tx, user_nid, room_nid, type_, content)


def delete_account_data(tx: WriteTx, user_nid: int, room_nid: int, type_: str) -> None:
    """Keep a piece no more, if it is there."""
    if load_account_data(tx, user_nid, room_nid, type_) not in (None, DELETED):
        _put(tx, user_nid, room_nid, type_, DELETED)


def _put(tx: WriteTx, user_nid: int, room_nid: int, type_: str, content: str) -> None:
    if not is_open(tx, user_nid):
        return  # the account has ended meanwhile, and what was to be erased with it has been
    # At once, so that a later unit of the same transaction sees it; the position comes at the transaction's end.
    tx.insert(_PUT, [(user_nid, room_nid, type_, content, 0)])

    def write(tx: Tx, pos: int) -> None:
        tx.run(_SET_POS, user_nid=user_nid, room_nid=room_nid, the_type=type_, new_pos=pos)

    payload = AccountDataChanged(user_nid, room_nid, type_, content)
    tx.claim(Kind.ACCOUNT_DATA, -user_nid, room_nid, write, payload)


def load_tags(tx: Tx, user_nid: int, room_nid: int) -> dict[str, Any]:
    """A room's tags by name."""
    # spec: client-server-api#room-tagging
    content = load_account_data(tx, user_nid, room_nid, TAG)
    if content is None:
        return {}
    # A client may have written anything there, as plain account data.
    tags = _decode(content).get("tags")
    return tags if isinstance(tags, dict) else {}


def put_tag(tx: WriteTx, user_nid: int, room_nid: int, tag: str, content: dict[str, Any]) -> None:
    """Tag a room. Raises TooMuchAccountDataError."""
    tags = load_tags(tx, user_nid, room_nid)
    if tag not in tags and len(tags) >= MAX_TAGS_PER_ROOM:
        raise TooMuchAccountDataError
    tags[tag] = content
    encoded = _encode({"tags": tags})
    if len(encoded) > MAX_TAGS_BYTES:
        raise TooMuchAccountDataError
    put_account_data(tx, user_nid, room_nid, TAG, encoded.decode())


def drop_tag(tx: WriteTx, user_nid: int, room_nid: int, tag: str) -> None:
    """Remove a tag, if it is there."""
    tags = load_tags(tx, user_nid, room_nid)
    if tag in tags:
        del tags[tag]
        _put(tx, user_nid, room_nid, TAG, _encode({"tags": tags}).decode())
