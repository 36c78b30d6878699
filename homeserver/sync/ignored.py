"""Whom each user ignores, and whose invites they are not shown: followed in memory, read once.

# spec: client-server-api#ignoring-users
# spec: client-server-api#invite-permission
"""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.moderation.types import INVITE_TYPES, InvitePermission, parse_permission
from homeserver.store.account_data import load_types_of_users
from homeserver.store.changes import Change, Kind
from homeserver.stream.undisturbed import Readings

# LIMIT(memory): the one who was loaded longest ago is read again when they sync.
MAX_USERS = 50_000


class IgnoreLists:
    """``apply`` is subscribed to the log, so what is in memory is true at the log's position."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lists: dict[int, InvitePermission] = {}
        self._readings: Readings[int] = Readings()  # by user

    def known(self, user_nid: int) -> frozenset[str] | None:
        """Whom a user ignores, if it is in memory."""
        found = self._lists.get(user_nid)
        return found.ignored if found is not None else None

    async def load(self, user_nid: int) -> frozenset[str]:
        """Whom a user ignores."""
        return (await self.load_invites(user_nid)).ignored

    async def load_invites(self, user_nid: int) -> InvitePermission:
        """Whose invites a user is shown, at the moment at which it is told; at once, if it is in memory."""
        while (known := self._lists.get(user_nid)) is None:
            reading = self._database.read(_load_permission, user_nid)
            found, may_be_kept = await self._readings.read(user_nid, reading)
            if may_be_kept:
                self._put(user_nid, found)
        return known

    kinds = frozenset({Kind.ACCOUNT_DATA})  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        for change in changes:
            if change.kind != Kind.ACCOUNT_DATA or change.ref != 0:
                continue
            user_nid = -change.topic
            payload = change.payload
            if payload is not None and payload.type not in INVITE_TYPES:
                continue
            self._lists.pop(user_nid, None)
            self._readings.overtake(user_nid)

    def _put(self, user_nid: int, found: InvitePermission) -> None:
        while len(self._lists) >= MAX_USERS:
            del self._lists[next(iter(self._lists))]
        self._lists[user_nid] = found


def _load_permission(tx: Tx, user_nid: int) -> InvitePermission:
    return parse_permission(load_types_of_users(tx, [user_nid], INVITE_TYPES).get(user_nid, {}))
