"""Previews of links, for as long as they are kept. spec: client-server-api#get_matrixclientv1mediapreview_url"""

from __future__ import annotations

from sqlalchemy import bindparam, delete, select

from homeserver.db.schema.media import url_previews
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.media import Upload, drop_old_remote, insert_remote

# Whoever keeps one removes as many of those whose time is over: the table never holds more than is kept.
DROPPED_BESIDE = 50

_P = url_previews.c
_ONE = statement(
    select(_P.body).where(_P.url_hash == bindparam("the_hash"), _P.expires_ts_ms > bindparam("now_ms"))
)
_DROP = statement(delete(url_previews).where(_P.url_hash == bindparam("the_hash")))
_over = (
    select(_P.url_hash)
    .where(_P.expires_ts_ms <= bindparam("now_ms"))
    .order_by(_P.expires_ts_ms)
    .limit(bindparam("most"))
)
_DROP_OVER = statement(delete(url_previews).where(_P.url_hash.in_(_over)))
_DROP_UNTIL = statement(delete(url_previews).where(_P.expires_ts_ms < bindparam("the_ts_ms")))
_INSERT = rows(url_previews, "url_hash", "body", "expires_ts_ms")


def load_preview(tx: Tx, url_hash: str, now_ms: int) -> bytes | None:
    """The preview of an address (JSON), unless its time is over."""
    found = tx.one(_ONE, the_hash=url_hash, now_ms=now_ms)
    return None if found is None else bytes(found[0])


def keep_preview(
    tx: WriteTx,
    server_name: str,
    url_hash: str,
    body: bytes,
    now_ms: int,
    expires_ts_ms: int,
    image: tuple[str, Upload] | None,
) -> None:
    """Keep one, with the address of its picture, whose file MUST be durable already.

    The picture is nobody's upload, so it goes as files of other servers do.
    """
    if image is not None:
        media_id, upload = image
        insert_remote(tx, server_name, media_id, upload, now_ms)
    drop_old_previews(tx, now_ms, DROPPED_BESIDE)
    tx.run(_DROP, the_hash=url_hash)
    tx.insert(_INSERT, [(url_hash, body, expires_ts_ms)])


def drop_old_previews(tx: WriteTx, now_ms: int, most: int) -> None:
    """Forget those whose time is over, the oldest first."""
    tx.run(_DROP_OVER, now_ms=now_ms, most=most)


def drop_cached(tx: WriteTx, before_ts_ms: int, kept_ms: int, most: int) -> int:
    """See ``drop_old_remote``; the previews of that time, which are kept for so long, go with their pictures."""
    tx.run(_DROP_UNTIL, the_ts_ms=before_ts_ms + kept_ms)
    return drop_old_remote(tx, before_ts_ms, most)
