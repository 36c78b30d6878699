"""Who asks: what the domain knows of a requester, so that it needs nothing of how they logged in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from federation.ids import RoomId, ServerName


class Requester(Protocol):
    """The user and device behind a request (``homeserver.accounts.auth.Requester`` is one)."""

    @property
    def user_id(self) -> str: ...
    @property
    def user_nid(self) -> int: ...
    @property
    def device_nid(self) -> int: ...
    @property
    def device_id(self) -> str | None: ...


ServersOf: TypeAlias = Callable[[int, RoomId, Sequence[ServerName]], Awaitable[Sequence[ServerName]]]
"""The servers to ask about a room that this one is not in: those that were named, then what is known here of a user's
invite, and of the room."""
