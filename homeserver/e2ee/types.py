"""What the parts of encryption hand to each other, and to the endpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from federation.ids import domain_of

DEFAULT_TIMEOUT_S = 10.0
MAX_TIMEOUT_S = 60.0
# Bytes of a user's keys for which there is room in every answer: twenty devices take no more. So large lists, of which
# somebody may put any number into a room, leave out none but large ones.
SMALL_LIST_BYTES = 16 * 1024
# LIMIT(bytes of one answer beyond that, all lists together: clients ask for some hundred users at a time)
LARGE_LISTS_BYTES = 32 * 1024 * 1024

Failure = dict[str, Any]


def failed(errcode: str, error: str) -> Failure:
    """Why a server's keys are lacking, as clients are told."""
    return {"errcode": errcode, "error": error}


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
    size: int = 0  # of the JSON text of all that there is, nearly

    def only(self, device_ids: Sequence[str]) -> UserKeys:
        """Of all devices those that were asked for."""
        if not device_ids:
            return self
        return UserKeys(
            {name: self.devices[name] for name in device_ids if name in self.devices}, self.signing, self.size
        )


@dataclass(slots=True)
class Found:
    """Keys by user, and the servers that did not answer, or whose users have too many keys, each with an error."""

    users: dict[str, UserKeys] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    room: int = field(default_factory=lambda: LARGE_LISTS_BYTES)

    def add(self, user_id: str, keys: UserKeys) -> None:
        """The keys of one more user, or a failure of their server where there is no room for so many."""
        beyond = max(0, keys.size - SMALL_LIST_BYTES)
        if beyond > self.room:
            too_large = failed("M_TOO_LARGE", "These are more keys than one answer has room for")
            self.failures[domain_of(user_id)] = too_large
            return
        self.room -= beyond
        self.users[user_id] = keys


@dataclass(slots=True)
class FoundKeys:
    """One-time keys by user, device and name, and the servers that did not answer."""

    keys: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)


class RemoteKeys(Protocol):
    """The keys of other servers' users."""

    async def query(self, asker: str, wanted: Wanted, timeout_s: float) -> Found:
        """Device lists, kept or asked for on behalf of a user of ours."""

    async def claim(self, asker: str, claims: Claims, timeout_s: float) -> FoundKeys:
        """One-time keys, on behalf of a user of ours."""
