"""The extension of sliding sync that tells of profiles. proposal: MSC4262

Whatever changes of the profiles of those with whom the user shares a room is told. Profiles as a whole come with the
rooms that are told for the first time: of every member, or where members are loaded as they are needed, with them.
"""

from __future__ import annotations

from collections.abc import Mapping

from homeserver.sync.lazy import LazyMemory
from homeserver.sync.profiles import Fields, ProfileNews, Update, Updates, merge
from homeserver.sync.serialise import encode
from homeserver.sync.sliding.connections import JOINED, LIVE, NEVER, NEW_ACCOUNT, Told
from homeserver.sync.sliding.news import RoomNews
from homeserver.sync.sliding.plan import Work
from homeserver.sync.sliding.request import Extensions
from homeserver.sync.sliding.required import Required, is_lazy
from homeserver.sync.types import Requester

NAME = b"org.matrix.msc4262.profiles"


class ProfileExtension:
    """See the module."""

    def __init__(self, news: ProfileNews, lazy: LazyMemory) -> None:
        self._news = news
        self._lazy = lazy

    def changed(self, requester: Requester, asked: Extensions, pos: int) -> bool:
        """Whether there may be anything after a position; from memory."""
        return asked.profiles is not None and self._news.changed(
            requester.user_nid, pos, asked.profile_fields
        )

    async def write(self, work: Work, news: Mapping[int, RoomNews], told: dict[int, Told]) -> bytes | None:
        """The extension, or None where there is nothing; ``told``: what the connection was told after it."""
        asked = work.asked.extensions
        fields = asked.profile_fields
        account = told.get(0) or work.state.get(0, NEW_ACCOUNT)
        user_nid = work.requester.user_nid
        if asked.profiles is None:
            if (
                account.sent == LIVE
                and work.at is not None
                and self._news.changed(user_nid, work.since, None)
            ):
                told[0] = account._replace(sent=work.since)
            return None
        updates: Updates = {}
        if account.sent != NEVER:
            since = account.sent or work.since
            if self._news.changed(user_nid, since, fields):
                updates = await self._news.updates(user_nid, since, work.token.pos, fields)
            updates.update(await self._news.departed(user_nid, since, work.token.pos, fields))
        asked_for = _wishes(fields)
        more = account.sent == NEVER or bool(asked_for - account.wishes)
        users = await self._users(work, news, told, everywhere=more)
        updates = merge(await self._news.full(user_nid, users, fields), updates)
        if (account.sent, account.wishes) != (LIVE, asked_for):
            told[0] = account._replace(sent=LIVE, wishes=asked_for)
        if not updates:
            return None
        named = await self._news.name(updates)
        users_json = [encode(user_id) + b":" + _write(one) for user_id, one in sorted(named.items())]
        return b'{"users":{%b}}' % b",".join(users_json)

    async def _users(
        self, work: Work, news: Mapping[int, RoomNews], told: Mapping[int, Told], *, everywhere: bool
    ) -> dict[int, None]:
        """Whose whole profiles are to be told."""
        scope = work.asked.extensions.profiles
        assert scope is not None
        rooms: list[int] = []
        names: dict[str, None] = {}
        for nid, relevant in work.windows.rooms.items():
            entry = told.get(nid) or work.state.get(nid)
            if entry is None or entry.kind != JOINED:
                continue
            if not scope.covers(work.windows.names[nid], relevant.lists, relevant.subscribed):
                continue
            one = news.get(nid)
            first = everywhere or (one is not None and one.initial)
            if not is_lazy(relevant.wishes):
                if first:
                    rooms.append(nid)
                continue
            if one is not None:
                names.update(dict.fromkeys(one.members))
                if one.summary is not None:
                    names.update(dict.fromkeys(one.summary.heroes))
            if everywhere:
                names.update(dict.fromkeys(self._lazy.sent(work.device, nid)))
        found = dict.fromkeys(await self._news.members(rooms, work.asked.extensions.profile_fields))
        found.update(dict.fromkeys(await self._news.numbers(names)))
        if everywhere:
            found[work.requester.user_nid] = None  # their own, that another device may have set
        return found


def _wishes(fields: Fields) -> frozenset[Required]:
    """The fields that were asked for, in the form in which an entry of a connection keeps what was wanted."""
    if fields is None:
        return frozenset({Required(frozenset({(None, None)}))})
    return frozenset(Required(frozenset({(name, None)})) for name in fields)


def _write(update: Update | None) -> bytes:
    if update is None:
        return b"null"
    parts = []
    if update.updated:
        values = [encode(name) + b":" + value.encode() for name, value in update.updated.items()]
        parts.append(b'"updated":{%b}' % b",".join(values))
    if update.removed:
        parts.append(b'"removed":' + encode(update.removed))
    return b"{" + b",".join(parts) + b"}"
