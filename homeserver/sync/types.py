"""What sync needs of others.

The protocols are implemented elsewhere (typing and presence in ``homeserver.ephemeral``, unread counts in
``homeserver.push``, keys and to-device messages in ``homeserver.e2ee``) and given to ``SyncService`` by the
composition root.
"""

# ruff: noqa: ARG002 (the empty implementations look at nothing)

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from homeserver.stream.tokens import SyncToken


class Requester(Protocol):
    """Who syncs (``homeserver.accounts.types.Requester`` is one)."""

    @property
    def user_id(self) -> str: ...
    @property
    def user_nid(self) -> int: ...
    @property
    def device_nid(self) -> int: ...
    @property
    def device_id(self) -> str | None: ...


class Typing(Protocol):
    """Who is typing where. ``counter`` grows with every change, and starts again with the process."""

    @property
    def counter(self) -> int: ...

    def users_in(self, room_nid: int) -> Sequence[str]:
        """The users who are typing in a room."""

    def changed_since(self, room_nids: Collection[int], counter: int) -> Collection[int]:
        """Which of these rooms had a change after the counter had that value."""


class Presence(Protocol):
    """Who is online. ``counter`` as above."""

    @property
    def counter(self) -> int: ...

    def changes_for(self, user_nid: int, since_counter: int) -> Sequence[Mapping[str, Any]]:
        """The ``m.presence`` events that concern a user, of what changed after the counter had that value."""

    def changed(self, user_nid: int, since_counter: int) -> bool:
        """Whether there are any."""

    def newly_seen(self, user_nid: int, since: int, upto: int) -> Sequence[Mapping[str, Any]]:
        """The ``m.presence`` events of those with whom a user has come to share a room between two positions."""


class Tally(Protocol):
    """Unread notifications of a room or of a thread."""

    @property
    def notification_count(self) -> int: ...
    @property
    def highlight_count(self) -> int: ...


class Counts(Tally, Protocol):
    """Unread notifications of a room: its main timeline, and each thread by its root's event id."""

    @property
    def threads(self) -> Mapping[str, Tally]: ...


class Unread(Protocol):
    """Counts unread notifications. ``notification_count`` of the answer covers the main timeline alone."""

    def unread(self, user_nid: int, room_nid: int, upto: int) -> Counts | Awaitable[Counts]:
        """The counts of a user in a room at a position."""

    def prepare(self, user_nid: int, room_nids: Collection[int]) -> Awaitable[None] | None:
        """Before ``unread`` is called for many rooms of a user: read together what it would read room by room.

        None: there is nothing to wait for.
        """


@dataclass(frozen=True, slots=True)
class DeviceAnswer:
    """The sections of encryption in one answer."""

    members: Sequence[bytes]  # JSON members without braces, in parts: they may be megabytes
    told: bool  # whether anything in them is news
    inbox: int  # the position up to which the device has its messages after this


@dataclass(frozen=True, slots=True)
class Inbox:
    """Messages for a device, and the position up to which it has its messages after them."""

    events: bytes  # JSON, with commas between them; empty where there are none
    upto: int


class DeviceSections(Protocol):
    """The sections of encryption: keys, device lists, to-device messages."""

    def changed(self, requester: Requester, at: SyncToken, upto: int) -> bool:
        """Whether there may be anything for this device between a token and a position; from memory."""

    def prepare(self, requester: Requester) -> Awaitable[None] | None:
        """Before an answer is made: read what is to be in memory. None: there is nothing to wait for."""

    def load(
        self, requester: Requester, at: SyncToken | None, upto: int
    ) -> DeviceAnswer | Awaitable[DeviceAnswer]:
        """What to put into the answer; no token at an initial sync."""

    def has_messages(self, requester: Requester, since: int) -> bool:
        """Whether there may be messages for this device after a position; from memory."""

    async def messages(self, requester: Requester, since: int, upto: int, most: int) -> Inbox:
        """The messages in ``(since, upto]``; the device has those before them."""

    def keys_changed(self, requester: Requester, at: SyncToken, upto: int) -> bool:
        """Whether there may be news of keys for this device between a token and a position; from memory."""

    async def keys(self, requester: Requester, at: SyncToken | None, upto: int) -> tuple[bytes, bool]:
        """What is said of keys, as JSON members without braces, and whether it is news; no token: all is new."""


DefaultData = Callable[[str], Mapping[str, str]]
"""The global account data (type -> content, as JSON) that a user id has before anything is stored: the push rules."""


def no_defaults(_: str) -> Mapping[str, str]:
    """Nothing but what is stored."""
    return {}


_NO_KEYS = b'"device_one_time_keys_count":{},"device_unused_fallback_key_types":[]'


class NoEncryption:
    """Without encryption: no keys, no messages. Clients insist on the two members."""

    def changed(self, requester: Requester, at: SyncToken, upto: int) -> bool:
        return False

    def prepare(self, requester: Requester) -> None:
        return None

    def load(self, requester: Requester, at: SyncToken | None, upto: int) -> DeviceAnswer:
        return DeviceAnswer((_NO_KEYS,), False, upto)

    def has_messages(self, requester: Requester, since: int) -> bool:
        return False

    async def messages(self, requester: Requester, since: int, upto: int, most: int) -> Inbox:
        return Inbox(b"", upto)

    def keys_changed(self, requester: Requester, at: SyncToken, upto: int) -> bool:
        return False

    async def keys(self, requester: Requester, at: SyncToken | None, upto: int) -> tuple[bytes, bool]:
        return _NO_KEYS, False


class NoTyping:
    """Nobody types."""

    counter = 0

    def users_in(self, room_nid: int) -> Sequence[str]:
        return ()

    def changed_since(self, room_nids: Collection[int], counter: int) -> Collection[int]:
        return ()


class NoPresence:
    """Presence is switched off."""

    counter = 0

    def changes_for(self, user_nid: int, since_counter: int) -> Sequence[Mapping[str, Any]]:
        return ()

    def changed(self, user_nid: int, since_counter: int) -> bool:
        return False

    def newly_seen(self, user_nid: int, since: int, upto: int) -> Sequence[Mapping[str, Any]]:
        return ()


class _Zero:
    notification_count = 0
    highlight_count = 0
    threads: Mapping[str, Tally] = {}


class NoUnread:
    """Nothing notifies."""

    def unread(self, user_nid: int, room_nid: int, upto: int) -> Counts:
        return _Zero()

    def prepare(self, user_nid: int, room_nids: Collection[int]) -> None:
        return None
