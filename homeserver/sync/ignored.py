"""Whom each user ignores: followed in memory, read once. spec: client-server-api#ignoring-users"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from homeserver.db.threads import Database
from homeserver.store.account_data import load_account_data
from homeserver.store.changes import Change, Kind

IGNORED_USERS = "m.ignored_user_list"
NOBODY: frozenset[str] = frozenset()
# LIMIT(memory): the one who was loaded longest ago is read again when they sync.
MAX_USERS = 50_000
_decode = msgspec.json.Decoder().decode


class IgnoreLists:
    """``apply`` is subscribed to the log, so what is in memory is true at the log's position."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lists: dict[int, frozenset[str]] = {}
        self._loading: dict[int, int] = {}  # user -> how many changes came while loading

    def known(self, user_nid: int) -> frozenset[str] | None:
        """Whom a user ignores, if it is in memory."""
        return self._lists.get(user_nid)

    async def load(self, user_nid: int) -> frozenset[str]:
        """Whom a user ignores."""
        while (known := self._lists.get(user_nid)) is None:
            before = self._loading.setdefault(user_nid, 0)
            content = await self._database.read(load_account_data, user_nid, 0, IGNORED_USERS)
            if self._loading.get(user_nid, before) == before:
                self._loading.pop(user_nid, None)
                self._put(user_nid, parse_ignored(content))
        return known

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        for change in changes:
            if change.kind != Kind.ACCOUNT_DATA or change.ref != 0:
                continue
            user_nid = -change.topic
            payload = change.payload
            if payload is not None and payload.type != IGNORED_USERS:
                continue
            self._lists.pop(user_nid, None)
            if user_nid in self._loading:
                self._loading[user_nid] += 1
            elif payload is not None:
                self._put(user_nid, parse_ignored(payload.content))

    def _put(self, user_nid: int, ignored: frozenset[str]) -> None:
        while len(self._lists) >= MAX_USERS:
            del self._lists[next(iter(self._lists))]
        self._lists[user_nid] = ignored


def parse_ignored(content: str | None) -> frozenset[str]:
    """The user ids of an ``m.ignored_user_list``; a client may have written anything there."""
    body: Any = _decode(content) if content is not None else None
    users = body.get("ignored_users") if isinstance(body, dict) else None
    return frozenset(users) if isinstance(users, dict) else NOBODY
