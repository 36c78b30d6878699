"""Addresses of local users, and where they are bound. spec: client-server-api#adding-account-administrative-contact-information"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, func, select

from homeserver.db.schema.push import pushers
from homeserver.db.schema.threepids import threepid_bindings, threepids
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.open_accounts import is_open
from homeserver.store.pushers import drop_pusher

EMAIL = "email"
# LIMIT(a person's addresses and the identity servers that know them do not come near)
MAX_PER_USER = 50
MAX_BINDINGS = 100


class Threepid(NamedTuple):
    """An address of a user."""

    medium: str
    address: str
    validated_ts_ms: int
    added_ts_ms: int


class Binding(NamedTuple):
    """An address that an identity server was told to be a user's."""

    medium: str
    address: str
    id_server: str


class ThreepidInUseError(Exception):
    """The address belongs to another account."""


class TooManyThreepidsError(Exception):
    """The user has as many as a user may have."""


_T, _B = threepids.c, threepid_bindings.c
_OWNER = statement(
    select(_T.user_nid).where(and_(_T.medium == bindparam("medium"), _T.address == bindparam("address")))
)
_OF_USER = statement(
    select(_T.medium, _T.address, _T.validated_ts_ms, _T.added_ts_ms)
    .where(_T.user_nid == bindparam("user_nid"))
    .order_by(_T.added_ts_ms, _T.medium, _T.address)
)
_COUNT = statement(select(func.count()).select_from(threepids).where(_T.user_nid == bindparam("user_nid")))
_PUT = rows(
    threepids,
    "medium",
    "address",
    "user_nid",
    "validated_ts_ms",
    "added_ts_ms",
    keys=("medium", "address"),
    update=("validated_ts_ms",),
)
_DROP = statement(
    delete(threepids)
    .where(
        and_(
            _T.user_nid == bindparam("user_nid"),
            _T.medium == bindparam("medium"),
            _T.address == bindparam("address"),
        )
    )
    .returning(_T.address)
)
_DROP_ALL = statement(
    delete(threepids).where(_T.user_nid == bindparam("user_nid")).returning(_T.medium, _T.address)
)
_MAIL_PUSHERS = statement(
    select(pushers.c.app_id).where(
        and_(
            pushers.c.user_nid == bindparam("user_nid"),
            pushers.c.kind == "email",
            pushers.c.pushkey == bindparam("address"),
        )
    )
)
_BIND = rows(threepid_bindings, "user_nid", "medium", "address", "id_server", ignore=True)
_BINDINGS = statement(
    select(_B.medium, _B.address, _B.id_server)
    .where(_B.user_nid == bindparam("user_nid"))
    .order_by(_B.medium, _B.address, _B.id_server)
)
_UNBIND = statement(
    delete(threepid_bindings).where(
        and_(
            _B.user_nid == bindparam("user_nid"),
            _B.medium == bindparam("medium"),
            _B.address == bindparam("address"),
            _B.id_server == bindparam("id_server"),
        )
    )
)


def find_owner(tx: Tx, medium: str, address: str) -> int | None:
    """Whose address it is."""
    owner: int | None = tx.value(_OWNER, medium=medium, address=address)
    return owner


def load_threepids(tx: Tx, user_nid: int) -> list[Threepid]:
    """A user's addresses, the oldest first."""
    return [Threepid(*row) for row in tx.all(_OF_USER, user_nid=user_nid)]


def load_mail_addresses(tx: Tx, user_nid: int) -> list[str]:
    """A user's mail addresses."""
    return [one.address for one in load_threepids(tx, user_nid) if one.medium == EMAIL]


def put_threepid(tx: WriteTx, user_nid: int, threepid: Threepid) -> None:
    """Give an address to a user. Raises ThreepidInUseError or TooManyThreepidsError."""
    owner = find_owner(tx, threepid.medium, threepid.address)
    if owner not in (None, user_nid):
        raise ThreepidInUseError
    if owner is None and tx.value(_COUNT, user_nid=user_nid) >= MAX_PER_USER:
        raise TooManyThreepidsError
    row = (threepid.medium, threepid.address, user_nid, threepid.validated_ts_ms, threepid.added_ts_ms)
    tx.insert(_PUT, [row])


def drop_threepid(tx: WriteTx, user_nid: int, medium: str, address: str) -> bool:
    """Take an address away, and with it the mail that goes there. Whether it was the user's."""
    if tx.value(_DROP, user_nid=user_nid, medium=medium, address=address) is None:
        return False
    if medium == EMAIL:
        for app_id in tx.column(_MAIL_PUSHERS, user_nid=user_nid, address=address):
            drop_pusher(tx, user_nid, app_id, address)
    return True


def drop_all_threepids(tx: WriteTx, user_nid: int) -> list[tuple[str, str]]:
    """The account is gone: the media and addresses that it had.

    What is bound elsewhere stays known, for as long as it takes to unbind it.
    """
    return [(medium, address) for medium, address in tx.all(_DROP_ALL, user_nid=user_nid)]


def replace_threepids(tx: WriteTx, user_nid: int, wanted: Sequence[Threepid]) -> None:
    """Let a user have these addresses and no others. Raises ThreepidInUseError or TooManyThreepidsError."""
    kept = {(one.medium, one.address) for one in wanted}
    present = {(one.medium, one.address) for one in load_threepids(tx, user_nid)}
    for medium, address in sorted(present - kept):
        drop_threepid(tx, user_nid, medium, address)
    for threepid in wanted:
        if (threepid.medium, threepid.address) not in present:
            put_threepid(tx, user_nid, threepid)


def load_bindings(tx: Tx, user_nid: int) -> Sequence[Binding]:
    """Where a user's addresses are bound."""
    return [Binding(*row) for row in tx.all(_BINDINGS, user_nid=user_nid)]


def store_binding(tx: WriteTx, user_nid: int, binding: Binding) -> bool:
    """Remember where an address was bound; beyond MAX_BINDINGS it is the client's to remember.

    False where the account has ended meanwhile: who ended it did not know of this one, and it is to be unbound.
    """
    if len(tx.all(_BINDINGS, user_nid=user_nid)) < MAX_BINDINGS:
        tx.insert(_BIND, [(user_nid, *binding)])
    return is_open(tx, user_nid)


def forget_binding(tx: WriteTx, user_nid: int, binding: Binding) -> None:
    """It is bound there no longer."""
    tx.run(_UNBIND, user_nid=user_nid, **binding._asdict())
