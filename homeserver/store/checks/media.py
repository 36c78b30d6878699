"""Invariants of media."""

from __future__ import annotations

from sqlalchemy import and_, func, or_, select

from homeserver.db.schema.media import media, media_usage
from homeserver.store.checks.rules import Rule, rule

_M = media.c
_U = media_usage.c
_counted = (
    select(_M.user_nid, func.count().label("files"), func.sum(_M.size).label("size"))
    .where(and_(_M.user_nid.is_not(None), _M.sha256.is_not(None)))
    .group_by(_M.user_nid)
    .subquery()
)

MEDIA: tuple[Rule, ...] = (
    rule(
        "what a user has uploaded is not counted rightly",
        select(_counted.c.user_nid)
        .select_from(_counted.outerjoin(media_usage, _U.user_nid == _counted.c.user_nid))
        .where(
            or_(
                _counted.c["files"] != func.coalesce(_U["files"], 0),
                _counted.c["size"] != func.coalesce(_U["size"], 0),
            )
        ),
    ),
    rule(
        "a user has uploaded less than is counted",
        select(_U.user_nid)
        .select_from(media_usage.outerjoin(_counted, _U.user_nid == _counted.c.user_nid))
        .where(_U["files"] > func.coalesce(_counted.c["files"], 0)),
    ),
)
