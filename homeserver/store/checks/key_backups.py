"""Invariants of key backups."""

from __future__ import annotations

from sqlalchemy import and_, exists, func, literal, or_, select

from homeserver.db.schema.accounts import accounts
from homeserver.db.schema.key_backups import backed_up_keys, dropped_keys, key_backups
from homeserver.store.checks.rules import Rule, none_of, points_nowhere, rule

_B = key_backups.c
_K = backed_up_keys.c
_in_backup = exists(select(literal(1)).where(_B.keys_nid == _K.keys_nid))
_is_dropped = exists(select(literal(1)).where(dropped_keys.c.keys_nid == _K.keys_nid))
_others = key_backups.alias("others")
_counted = (
    select(_K.keys_nid, func.count().label("count"), func.sum(_K.size).label("size"))
    .group_by(_K.keys_nid)
    .subquery()
)

KEY_BACKUPS: tuple[Rule, ...] = (
    points_nowhere(_B.user_nid, accounts.c.user_nid),
    rule("a key belongs to no backup", select(_K.keys_nid).where(and_(~_in_backup, ~_is_dropped))),
    rule(
        "the keys of a backup are to be taken away",
        select(_B.user_nid, _B.version).where(
            exists(select(literal(1)).where(dropped_keys.c.keys_nid == _B.keys_nid))
        ),
    ),
    rule(
        "a backup does not count its keys rightly",
        select(_B.user_nid, _B.version)
        .select_from(key_backups.outerjoin(_counted, _counted.c.keys_nid == _B.keys_nid))
        .where(
            or_(
                _B.key_count != func.coalesce(_counted.c["count"], 0),
                _B.size != func.coalesce(_counted.c["size"], 0),
            )
        ),
    ),
    rule(
        "two backups have the same keys",
        select(_B.user_nid, _B.version).where(
            _B.keys_nid != 0,
            _others.c.keys_nid == _B.keys_nid,
            or_(_others.c.user_nid != _B.user_nid, _others.c.version != _B.version),
        ),
    ),
    rule(
        "a deleted backup that is not its user's newest",
        select(_B.user_nid, _B.version).where(
            _B.keys_nid == 0, _others.c.user_nid == _B.user_nid, _others.c.version > _B.version
        ),
    ),
    rule("a flag is neither 0 nor 1", select(_K.keys_nid).where(none_of(_K.verified, [0, 1]))),
)
