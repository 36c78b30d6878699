"""Pages of inboxes, the next of which is read while its device still takes the last.

What waits for a device never changes before it is deleted, and nothing comes between: a page that was full when it was
read ahead is the page that is asked for. One that was not is read anew, unless it is asked for up to the same position.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.db.errors import DatabaseError
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.store.to_device import load_page
from homeserver.sync.types import Inbox

# LIMIT(pages of four megabytes that wait to be asked for)
_AHEAD_MOST: Final = 4


@dataclass(frozen=True, slots=True)
class _Ahead:
    since: int
    upto: int
    most: int
    reading: Deferred[Inbox | None]  # None: it could not be read


class InboxPages:
    """Reads them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ahead: OrderedDict[int, _Ahead] = OrderedDict()

    async def read(self, device_nid: int, since: int, upto: int, most: int, then: int) -> Inbox:
        """The oldest messages in ``(since, upto]``, at most ``most``. ``then``: how many the next page may hold."""
        found = await self._find(device_nid, since, upto, most)
        if found is None:
            found = await self._database.read(load_inbox, device_nid, since, upto, most)
        if found.upto < upto:
            reading = self._database.read(load_inbox, device_nid, found.upto, upto, then)
            self._ahead[device_nid] = _Ahead(found.upto, upto, then, reading.addErrback(_give_up))
            if len(self._ahead) > _AHEAD_MOST:
                self._ahead.popitem(last=False)
        return found

    async def _find(self, device_nid: int, since: int, upto: int, most: int) -> Inbox | None:
        ahead = self._ahead.pop(device_nid, None)
        if ahead is None or (ahead.since, ahead.most) != (since, most):
            return None
        page = await ahead.reading
        is_whole = page is not None and (page.upto < ahead.upto <= upto or ahead.upto == upto)
        return page if is_whole else None


def _give_up(failure: Failure) -> None:
    # Who asks for the page reads it, and is told what is wrong.
    failure.trap(DatabaseError)


def load_inbox(tx: Tx, device_nid: int, since: int, upto: int, most: int) -> Inbox:
    """One page, as it is told."""
    page = load_page(tx, device_nid, since, upto, most)
    end = upto if not page.has_more else page.messages[-1][0] if page.messages else since
    return Inbox(b",".join([message for _, message in page.messages]), end)
