"""Who asks: what the domain knows of a requester, so that it needs nothing of how they logged in."""

from __future__ import annotations

from typing import Protocol


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
