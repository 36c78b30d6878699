"""The catalogue of tables: every table once, with the reason of each index. Migrations bring a database to it."""

from __future__ import annotations

from homeserver.db.schema import (
    accounts,
    appservices,
    delayed,
    e2ee,
    key_backups,
    media,
    moderation,
    oauth,
    peers,
    push,
    relations,
    rooms,
    sticky,
    stream,
    sync,
    threepids,
)
from homeserver.db.schema.base import metadata

__all__ = [
    "accounts",
    "appservices",
    "delayed",
    "e2ee",
    "key_backups",
    "media",
    "metadata",
    "moderation",
    "oauth",
    "peers",
    "push",
    "relations",
    "rooms",
    "sticky",
    "stream",
    "sync",
    "threepids",
]
