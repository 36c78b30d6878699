"""A bridge of mautrix-python: its ghosts, a double puppet, and everything that the server told it.

Runs in an environment of its own (``test_mautrix.py``), so it imports nothing of ours but ``tests.clients.notes``.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from mautrix.appservice import AppService
from mautrix.appservice.api.intent import IntentAPI
from mautrix.appservice.state_store import ASStateStore, FileASStateStore
from mautrix.types import UserID

from tests.clients.notes import CheckError, check

WAIT_S = 60.0


class Bridge:
    """One process of the bridge. ``registrations``: what the server reads, the bridge's own and the puppets'."""

    def __init__(
        self,
        base_url: str,
        registrations: dict[str, Any],
        folder: Path,
        *,
        state_store: ASStateStore | None = None,
        encrypts: bool = False,
    ) -> None:
        own, self.puppets = registrations["bridge"], registrations["puppets"]
        self.domain: str = registrations["server_name"]
        self.base_url = base_url
        self.port: int = registrations["port"]
        self.events: list[Any] = []
        self.ephemeral: list[Any] = []
        self.transactions: list[str] = []
        self.asked: list[str] = []
        self._is_ready = asyncio.Event()
        self.service = AppService(
            server=base_url,
            domain=self.domain,
            as_token=own["as_token"],
            hs_token=own["hs_token"],
            bot_localpart=own["sender_localpart"],
            id=own["id"],
            ephemeral_events=True,
            encryption_events=encrypts,
            bridge_name="tests",
            query_user=self._query_user,
            query_alias=self._query_alias,
            state_store=state_store
            or FileASStateStore(path=str(folder / "mautrix-state.json"), binary=False),
            aiohttp_params={"middlewares": [self._middleware]},
        )
        self.service.matrix_event_handler(self._on_event)

    async def start(self) -> None:
        await self.listen()
        self.take_transactions()

    async def listen(self) -> None:
        """Whoever cannot take transactions yet lets them wait: what is for the bridge then the library may drop."""
        await self.service.start("127.0.0.1", self.port)

    def take_transactions(self) -> None:
        self._is_ready.set()

    async def stop(self) -> None:
        await self.service.stop()

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> Any:
        """Note transactions before the library sees them, so that repetitions are seen too."""
        if "/transactions/" in request.path:
            await self._is_ready.wait()
            self.transactions.append(request.path.rpartition("/")[2])
        return await handler(request)

    async def _on_event(self, event: Any) -> None:
        kind = str(event.type)
        if kind in ("m.typing", "m.receipt", "m.presence"):
            self.ephemeral.append(event)
        else:
            self.events.append(event)

    async def _query_user(self, user_id: UserID) -> dict[str, Any] | None:
        self.asked.append(user_id)
        if not user_id.startswith("@mx_asked"):
            return None
        await self.ghost("asked").ensure_registered()
        return {"made": True}  # the library takes an empty answer for a no

    async def _query_alias(self, alias: str) -> dict[str, Any] | None:
        self.asked.append(alias)
        if not alias.startswith("#mx_asked"):
            return None
        await self.bot.create_room(alias_localpart="mx_asked", name="asked for")
        return {"made": True}

    # --- who acts ------------------------------------------------------------------------------------

    @property
    def bot(self) -> IntentAPI:
        return self.service.intent

    def ghost_id(self, name: str) -> UserID:
        return UserID(f"@mx_{name}:{self.domain}")

    def ghost(self, name: str) -> IntentAPI:
        return self.bot.user(self.ghost_id(name))

    def double_puppet(self, user_id: str) -> IntentAPI:
        """A real person, by the second registration, as bridges of today do it."""
        return self.bot.user(UserID(user_id), token=self.puppets["as_token"], as_token=True)

    # --- what was told -------------------------------------------------------------------------------

    def texts(self, room_id: str) -> list[str]:
        """The messages of a room, in the order of their coming."""
        return [
            str(event.content.body)
            for event in self.events
            if event.room_id == room_id and str(event.type) == "m.room.message"
        ]

    async def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not holds():
            if time.monotonic() > deadline_s:
                raise CheckError(f"waited {WAIT_S:.0f} s in vain until: {what}")
            await asyncio.sleep(0.02)
        check(True, what)


def load_registrations(path: Path) -> dict[str, Any]:
    """What ``test_mautrix.py`` wrote."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found
