"""What the other parts of the server know of an account: the requester of a request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Requester:
    """Who makes a request, as the access token says."""

    user_id: str
    user_nid: int
    device_id: str | None
    device_nid: int
    """0 where the token belongs to no device."""
    is_admin: bool
    is_guest: bool
    token_hash: bytes
    expires_ts_ms: int | None = None
    rate_limited: bool = True
    appservice_id: str | None = None
    """Where it is an application service that acts as this user."""
    is_suspended: bool = False
    is_locked: bool = False
    rate: tuple[int, int] | None = None
    """What they may do in a second and at once, where administrators said so; else the configuration does."""
