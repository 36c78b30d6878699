"""The section of classic sync that tells of profiles, for who asks for some of their fields. proposal: MSC4429"""

from __future__ import annotations

from collections.abc import Mapping

from homeserver.sync.profiles import ProfileNews, Update, Updates, merge
from homeserver.sync.sections import Piece
from homeserver.sync.serialise import encode
from homeserver.sync.work import Work


class ProfileSection:
    """See the module."""

    def __init__(self, news: ProfileNews) -> None:
        self._news = news

    def changed(self, user_nid: int, since: int, fields: frozenset[str]) -> bool:
        """Whether there may be anything after a position; from memory."""
        return bool(fields) and self._news.changed(user_nid, since, fields)

    async def write(self, work: Work, pieces: Mapping[int, Piece]) -> bytes:
        """The member of the answer, or nothing."""
        filter_ = work.ask.filter
        fields = filter_.profile_fields
        if not fields:
            return b""
        user_nid = work.ask.requester.user_nid
        updates: Updates = {}
        if not work.initial:
            if self._news.changed(user_nid, work.since, fields):
                updates = await self._news.updates(user_nid, work.since, work.token.pos, fields)
            updates.update(await self._news.departed(user_nid, work.since, work.token.pos, fields))
        # Of users whom the client hears of for the first time it is told all that it asks for.
        joined = {nid: piece for nid, piece in pieces.items() if nid not in work.plan.left}
        if filter_.lazy:
            names = dict.fromkeys(user_id for piece in joined.values() for user_id in piece.members)
            users = await self._news.numbers(names)
        else:
            fresh = [nid for nid, piece in joined.items() if piece.fresh or work.initial]
            users = await self._news.members(fresh, fields)
        if work.initial:
            users = {*users, user_nid}  # their own, that another device may have set
        updates = merge(await self._news.full(user_nid, users, fields), updates)
        if not updates:
            return b""
        named = await self._news.name(updates)
        bodies = [encode(user_id) + b":" + _write(one) for user_id, one in sorted(named.items())]
        return b'"%b":{%b}' % (filter_.profiles_name, b",".join(bodies))


def _write(update: Update | None) -> bytes:
    if update is None:
        return b'{"profile_updates":null}'
    parts = [encode(name) + b":" + value.encode() for name, value in update.updated.items()]
    parts += [encode(name) + b":null" for name in update.removed]
    return b'{"profile_updates":{%b}}' % b",".join(parts)
