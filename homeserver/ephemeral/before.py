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
        self._is_running = False

    async def load(self) -> None:
        """The server starts; or a command does, which is none and only looks."""
        known = await self._database.read(load_fact, _FACT)
        self._typing.recall(_decode(known or _NOWHERE))

    def begin(self) -> None:
        """It is a server: what it knows at its end counts."""
        self._is_running = True

    async def save(self) -> None:
        """The server stops."""
        if not self._is_running:
            return
        text = msgspec.json.encode(self._typing.recent()).decode()
        with suppress(DatabaseUnavailable):  # which is no reason to stop otherwise
            await self._worker.work(store_fact, _FACT, text)
