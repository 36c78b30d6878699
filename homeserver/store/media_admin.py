"""Media as those in charge see it and take it away: what a user has uploaded, what is quarantined, what a room refers to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, and_, bindparam, delete, func, null, or_, select, update

from homeserver.db.schema.media import media, media_usage, quarantined_files
from homeserver.db.schema.rooms import event_json, timeline, user_ids
from homeserver.db.statements import Statement, any_of, rows, statement, to_utf8, utf8
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.history import BEGINNING, find_floor
from homeserver.store.media import HIDE

Address = tuple[str, str]
"""A server's name, and the id of a file there."""

# LIMIT(so much of a timeline is gone through in one unit of work)
PIECE: Final = 1_000

_M = media.c
_KEY = and_(_M.origin == bindparam("the_origin"), _M.media_id == bindparam("the_media_id"))
_FILE = statement(select(_M.sha256).where(_KEY))
# A file of another server that is not here: it will not be fetched.
_REMEMBER = rows(media, "origin", "media_id", "created_ts_ms", ignore=True)
_SAME = or_(_KEY, _M.sha256 == bindparam("name"))
_QUARANTINE = statement(
    update(media)
    .where(and_(_SAME, _M.quarantined == 0))
    .values(quarantined=1, quarantined_by_nid=bindparam("by_nid"))
    .returning(_M.media_id)
)
_RELEASE = statement(
    update(media).where(and_(_SAME, _M.quarantined == 1)).values(quarantined=0, quarantined_by_nid=null())
)
_KEEP = rows(quarantined_files, "sha256", ignore=True)
_FREE = statement(delete(quarantined_files).where(quarantined_files.c.sha256 == bindparam("name")))
_FORGET = statement(delete(media).where(and_(_KEY, _M.user_nid.is_(None), _M.sha256.is_(None))))
_OF_USER = statement(
    select(_M.origin, _M.media_id).where(
        and_(_M.user_nid == bindparam("the_user_nid"), _M.sha256.is_not(None), _M.quarantined == 0)
    )
)
_IS_UPLOADED = and_(_M.user_nid == bindparam("the_user_nid"), _M.sha256.is_not(None))
_FROM = media.outerjoin(user_ids, user_ids.c.nid == _M.quarantined_by_nid)
_LISTED = (
    select(
        _M.media_id,
        _M.created_ts_ms,
        _M.last_access_ts_ms,
        _M.size,
        _M.content_type,
        _M.file_name,
        user_ids.c.user_id,
        _M.quarantined,
    )
    .select_from(_FROM)
    .where(_IS_UPLOADED)
    .limit(bindparam("most"))
    .offset(bindparam("skip"))
)
_ORDERS: Mapping[str, ColumnElement[Any]] = MappingProxyType(
    {
        "media_id": _M.media_id,
        "upload_name": func.coalesce(_M.file_name, ""),
        "created_ts": _M.created_ts_ms,
        "last_access_ts": func.coalesce(_M.last_access_ts_ms, 0),
        "media_length": _M.size,
        "media_type": func.coalesce(_M.content_type, ""),
        "quarantined_by": func.coalesce(user_ids.c.user_id, ""),
        "safe_from_quarantine": _M.media_id,  # none is
    }
)
ORDERS: Final = frozenset(_ORDERS)


def _pages(order: ColumnElement[Any]) -> tuple[Statement, Statement]:
    """Upwards and downwards; what is equal comes in the order of the ids."""
    return statement(_LISTED.order_by(order, _M.media_id)), statement(
        _LISTED.order_by(order.desc(), _M.media_id)
    )


_PAGES: Mapping[str, tuple[Statement, Statement]] = MappingProxyType(
    {name: _pages(order) for name, order in _ORDERS.items()}
)
_COUNT = statement(select(func.count()).select_from(media).where(_IS_UPLOADED))
_DROP = statement(
    delete(media)
    .where(
        and_(_M.origin == bindparam("the_origin"), any_of(_M.media_id, "media_ids"), _M.user_nid.is_not(None))
    )
    .returning(_M.media_id, _M.user_nid, _M.sha256, _M.size, _M.quarantined)
)
_UNCOUNT = statement(
    update(media_usage)
    .where(media_usage.c.user_nid == bindparam("the_user_nid"))
    .values(files=media_usage.c.files - 1, size=media_usage.c.size - bindparam("bytes"))
)
_TEXTS = statement(
    select(utf8(event_json.c.json))
    .select_from(timeline.join(event_json, event_json.c.nid == timeline.c.event_nid))
    .where(
        and_(
            timeline.c.room_nid == bindparam("room_nid"),
            timeline.c.pos > bindparam("low"),
            timeline.c.pos <= bindparam("high"),
        )
    )
)


class ListedMedia(NamedTuple):
    """One upload."""

    media_id: str
    created_ts_ms: int
    last_access_ts_ms: int | None
    size: int
    content_type: str | None
    file_name: str | None
    quarantined_by: str | None
    quarantined: int


class Dropped(NamedTuple):
    """What is gone, and the files that it led to (perhaps others still do)."""

    media_ids: Sequence[str]
    names: frozenset[str]


def quarantine(tx: WriteTx, addresses: Collection[Address], by_nid: int, now_ms: int, *, local: str) -> int:
    """Show files to nobody any more, under whatever address; how many addresses that are.

    Of another server's file that is not here it is remembered. ``local``: the name of this server.
    """
    count = 0
    for origin, media_id in addresses:
        key = {"the_origin": origin, "the_media_id": media_id}
        name: str | None = tx.value(_FILE, **key)
        if name is None and origin != local:
            tx.insert(_REMEMBER, [(origin, media_id, now_ms)])
        count += len(tx.all(_QUARANTINE, **key, name=name, by_nid=by_nid))
    return count


def release(tx: WriteTx, origin: str, media_id: str) -> None:
    """Show a file again, under whatever address."""
    key = {"the_origin": origin, "the_media_id": media_id}
    name: str | None = tx.value(_FILE, **key)
    tx.run(_RELEASE, **key, name=name)
    if name is not None:
        tx.run(_FREE, name=name)
    tx.run(_FORGET, **key)


def load_addresses_of(tx: Tx, user_nid: int) -> list[Address]:
    """What a user has uploaded, as far as it is not quarantined."""
    return [(origin, media_id) for origin, media_id in tx.all(_OF_USER, the_user_nid=user_nid)]


def load_user_media(
    tx: Tx, user_nid: int, order_by: str, skip: int, most: int, *, backwards: bool
) -> tuple[list[ListedMedia], int]:
    """A page of what a user has uploaded, and how much it is in all. ``order_by`` MUST be one of ``ORDERS``."""
    upwards, downwards = _PAGES[order_by]
    found = tx.all(downwards if backwards else upwards, the_user_nid=user_nid, skip=skip, most=most)
    return [ListedMedia(*row) for row in found], tx.value(_COUNT, the_user_nid=user_nid)


def drop_media(tx: WriteTx, origin: str, media_ids: Sequence[str]) -> Dropped:
    """Uploads of users of this server are no more; those that are not there are passed over.

    Of what was quarantined it is remembered: the same may come again.
    """
    found = tx.all(_DROP, the_origin=origin, media_ids=list(media_ids))
    for _, user_nid, name, size, quarantined in found:
        if name is None:
            continue
        tx.run(_UNCOUNT, the_user_nid=user_nid, bytes=size)
        if quarantined:
            tx.insert(_KEEP, [(name,)])
            tx.run(HIDE, name=name)
    return Dropped(sorted(row[0] for row in found), frozenset(row[2] for row in found if row[2] is not None))


class _Content(msgspec.Struct):
    url: Any = None
    info: Any = None
    file: Any = None


class _Event(msgspec.Struct):
    content: _Content


_decode = msgspec.json.Decoder(_Event).decode


def load_media_of_room(tx: Tx, room_nid: int, high: int) -> tuple[set[str], int | None]:
    """The content URIs in events at or below a place in the timeline; where to go on, if anywhere.

    Of encrypted events nobody knows which they are.
    """
    low = find_floor(tx, room_nid, high, PIECE)
    texts = tx.column(_TEXTS, room_nid=room_nid, low=BEGINNING if low is None else low, high=high)
    return {uri for text in texts for uri in _uris(_decode(to_utf8(text)).content)}, low


def _uris(content: _Content) -> Iterator[str]:
    info = content.info if isinstance(content.info, dict) else {}
    places = [content.url, info.get("thumbnail_url")]
    places += [one.get("url") for one in (content.file, info.get("thumbnail_file")) if isinstance(one, dict)]
    yield from (place for place in places if isinstance(place, str) and place.startswith("mxc://"))
