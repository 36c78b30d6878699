"""Where somebody typed shortly before the server stopped: clients that come back go on showing it until they hear otherwise.

What counts ephemeral facts begins anew with each process, and of a process before it knows nothing. Whoever waits when a
server stops in order hears that nobody types any more; the others are told when they come back, of these rooms alone.
LIMIT(as many facts as one process has): not who was away while two processes stopped, or while one was killed.

spec: client-server-api#typing-notifications
"""

from __future__ import annotations

from contextlib import suppress

import msgspec

from homeserver.db.errors import DatabaseUnavailable
from homeserver.db.threads import Database
from homeserver.ephemeral.typing import Typing
from homeserver.store.facts import load_fact, store_fact
from homeserver.store.work import Worker

_FACT = "typing"
_NOWHERE = "[]"
_decode = msgspec.json.Decoder(list[int]).decode


class TypingBefore:
    """See the module."""

    def __init__(self, database: Database, worker: Worker, typing: Typing) -> None:
        self._database = database
        self._worker = worker
        self._typing = typing
        self._stored = _NOWHERE

    async def load(self) -> None:
        """The server starts."""
        known = await self._database.read(load_fact, _FACT)
        self._stored = known or _NOWHERE
        self._typing.recall(_decode(self._stored))

    async def save(self) -> None:
        """The server stops."""
        text = msgspec.json.encode(self._typing.recent()).decode()
        if text == self._stored:
            return
        with suppress(DatabaseUnavailable):  # which is no reason to stop otherwise
            await self._worker.work(store_fact, _FACT, text)
