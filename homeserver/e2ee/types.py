"""What the parts of encryption hand to each other, and to the endpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

DEFAULT_TIMEOUT_S = 10.0
MAX_TIMEOUT_S = 60.0


class Requester(Protocol):
    """Who asks (``homeserver.accounts.types.Requester`` is one)."""

    @property
    def user_id(self) -> str: ...
    @property
    def user_nid(self) -> int: ...
    @property
    def device_nid(self) -> int: ...
    @property
    def device_id(self) -> str | None: ...


Wanted = Mapping[str, Sequence[str]]
"""Users, and which of their devices; none named: all."""
Claims = Sequence[tuple[str, str, str]]
"""(user, device, algorithm)."""


@dataclass(slots=True)
class UserKeys:
    """Everything that others may see of one user's keys."""

    devices: dict[str, dict[str, Any]] = field(default_factory=dict)
    signing: dict[str, dict[str, Any]] = field(default_factory=dict)  # by usage

    def only(self, device_ids: Sequence[str]) -> UserKeys:
        """Of all devices those that were asked for."""
        if not device_ids:
            return self
        return UserKeys(
            {name: self.devices[name] for name in device_ids if name in self.devices}, self.signing
        )


@dataclass(slots=True)
class Found:
    """Keys by user, and the servers that did not answer, each with an error."""

    users: dict[str, UserKeys] = field(default_factory=dict)
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class FoundKeys:
    """One-time keys by user, device and name, and the servers that did not answer."""

    keys: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)


class RemoteKeys(Protocol):
    """The keys of other servers' users."""

    async def query(self, wanted: Wanted, timeout_s: float) -> Found:
        """Device lists, kept or asked for."""

    async def claim(self, claims: Claims, timeout_s: float) -> FoundKeys:
        """One-time keys."""
