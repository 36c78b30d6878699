"""The accounts of this server as lists of them show them: found by name and kind, in many orders, page by page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Integer, and_, bindparam, cast, func, not_, or_, select

from homeserver.db.schema.accounts import accounts, devices, profiles
from homeserver.db.schema.rooms import user_ids
from homeserver.db.statements import Statement, any_of, statement
from homeserver.db.tx import Row, Tx

_A = accounts.c
_names, _avatars = profiles.alias("names"), profiles.alias("avatars")
_ESCAPE: Final = "!"
_LAST_SEEN = (
    select(func.max(devices.c.last_seen_ts_ms)).where(devices.c.user_nid == _A.user_nid).scalar_subquery()
)
_FROM = (
    accounts.join(user_ids, user_ids.c.nid == _A.user_nid)
    .outerjoin(_names, and_(_names.c.user_nid == _A.user_nid, _names.c.field == "displayname"))
    .outerjoin(_avatars, and_(_avatars.c.user_nid == _A.user_nid, _avatars.c.field == "avatar_url"))
)
_COLUMNS = (
    user_ids.c.user_id,
    _A.user_nid,
    _A.created_ts_ms,
    _A.admin,
    _A.guest,
    _A.deactivated,
    _A.erased,
    _A.suspended,
    _A.locked,
    _A.user_type,
    _A.appservice_id,
    _names.c.value,
    _avatars.c.value,
    _LAST_SEEN,
)
# Between the @ and the colon before the server's name.
_LOCALPART = func.substr(
    user_ids.c.user_id, 2, cast(func.length(user_ids.c.user_id) - bindparam("around"), Integer)
)


def _is_flag(column: ColumnElement[int], name: str) -> ColumnElement[bool]:
    """Whether a flag has the value of a parameter, of which one below 0 asks for nothing."""
    return or_(bindparam(name) < 0, column == bindparam(name))


_WANTED = and_(
    user_ids.c.user_id.ilike(bindparam("id_like"), escape=_ESCAPE),
    or_(
        _LOCALPART.ilike(bindparam("localpart_like"), escape=_ESCAPE),
        _names.c.value.ilike(bindparam("name_like"), escape=_ESCAPE),
    ),
    _is_flag(_A.guest, "guest"),
    _is_flag(_A.admin, "admin"),
    _is_flag(_A.deactivated, "deactivated"),
    _is_flag(_A.locked, "locked"),
    not_(any_of(func.coalesce(_A.user_type, ""), "not_types")),
)
_ORDERS: Mapping[str, ColumnElement[Any]] = MappingProxyType(
    {
        "name": user_ids.c.user_id,
        "is_guest": _A.guest,
        "admin": _A.admin,
        "user_type": func.coalesce(_A.user_type, ""),
        "deactivated": _A.deactivated,
        "shadow_banned": user_ids.c.user_id,  # nobody is
        "displayname": func.coalesce(_names.c.value, ""),
        "avatar_url": func.coalesce(_avatars.c.value, ""),
        "creation_ts": _A.created_ts_ms,
        "last_seen_ts": func.coalesce(_LAST_SEEN, 0),
    }
)
ORDERS: Final = frozenset(_ORDERS)
_LISTED = select(*_COLUMNS).select_from(_FROM)
_PAGE = _LISTED.where(_WANTED).limit(bindparam("most")).offset(bindparam("skip"))


def _pages(order: ColumnElement[Any]) -> tuple[Statement, Statement]:
    """Upwards and downwards; who is equal comes in the order of the user ids."""
    by_id = user_ids.c.user_id
    return statement(_PAGE.order_by(order, by_id)), statement(_PAGE.order_by(order.desc(), by_id))


_PAGES: Mapping[str, tuple[Statement, Statement]] = MappingProxyType(
    {name: _pages(order) for name, order in _ORDERS.items()}
)
_COUNT = statement(select(func.count()).select_from(_FROM).where(_WANTED))
_ONE = statement(_LISTED.where(_A.user_nid == bindparam("the_user_nid")))

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class ListedUser(NamedTuple):
    """An account with what its profile shows."""

    user_id: str
    user_nid: int
    created_ts_ms: int
    admin: int
    guest: int
    deactivated: int
    erased: int
    suspended: int
    locked: int
    user_type: str | None
    appservice_id: str | None
    display_name: str | None
    avatar_url: str | None
    last_seen_ts_ms: int | None


@dataclass(frozen=True, slots=True)
class UsersWanted:
    """Which accounts; None and empty: whatever it is."""

    user_id: str = ""
    """Part of the user id; not looked at where there is a name."""
    name: str = ""
    """Part of the localpart or of the display name."""
    guest: bool | None = None
    admin: bool | None = None
    deactivated: bool | None = None
    locked: bool | None = None
    not_types: tuple[str, ...] = ()
    """An empty one: no type."""
    order_by: str = "name"
    backwards: bool = False


def load_listed_users(
    tx: Tx, server_name: str, wanted: UsersWanted, skip: int, most: int
) -> tuple[list[ListedUser], int]:
    """A page of the accounts, and how many there are in all. ``order_by`` MUST be one of ``ORDERS``."""
    upwards, downwards = _PAGES[wanted.order_by]
    # A display name is stored as JSON.
    written = _encode(wanted.name).decode()[1:-1]
    which: dict[str, Any] = {
        "id_like": _containing("" if wanted.name else wanted.user_id),
        "localpart_like": _containing(wanted.name),
        "name_like": _containing(written),
        "around": 2 + len(server_name),
        "guest": _flag(wanted.guest),
        "admin": _flag(wanted.admin),
        "deactivated": _flag(wanted.deactivated),
        "locked": _flag(wanted.locked),
        "not_types": list(wanted.not_types),
    }
    page = downwards if wanted.backwards else upwards
    found = [_listed(row) for row in tx.all(page, **which, most=most, skip=skip)]
    return found, tx.value(_COUNT, **which)


def load_listed_user(tx: Tx, user_nid: int) -> ListedUser | None:
    """One account."""
    row = tx.one(_ONE, the_user_nid=user_nid)
    return None if row is None else _listed(row)


def _containing(text: str) -> str:
    for mark in (_ESCAPE, "%", "_"):
        text = text.replace(mark, _ESCAPE + mark)
    return f"%{text}%"


def _flag(value: bool | None) -> int:
    return -1 if value is None else int(value)


def _listed(row: Row) -> ListedUser:
    user = ListedUser(*row)
    return user._replace(display_name=_text(user.display_name), avatar_url=_text(user.avatar_url))


def _text(value: str | None) -> str | None:
    decoded = None if value is None else _decode(value)
    return decoded if isinstance(decoded, str) else None
