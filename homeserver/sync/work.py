"""One answer on its way: what was asked, the moment that it is of, and what was planned."""

from __future__ import annotations

from dataclasses import dataclass, field

from homeserver.moderation.types import InvitePermission
from homeserver.stream.log import ChangeLog
from homeserver.stream.tokens import SyncToken
from homeserver.sync.filters import SyncFilter
from homeserver.sync.plan import Plan
from homeserver.sync.timelines import Keys, Reader
from homeserver.sync.types import Presence, Requester, Typing
from homeserver.sync.window import Window

# A token has one number for what is only in memory: typing above, presence below.
_PRESENCE_BITS = 29
_PRESENCE_MASK = (1 << _PRESENCE_BITS) - 1


def join_counters(typing: int, presence: int) -> int:
    """The ephemeral part of a token."""
    return (typing << _PRESENCE_BITS) | (presence & _PRESENCE_MASK)


def split_counters(ephemeral: int) -> tuple[int, int]:
    """The counters of typing and of presence in the ephemeral part of a token."""
    return ephemeral >> _PRESENCE_BITS, ephemeral & _PRESENCE_MASK


class Moments:
    """Where the log, typing and presence are: one token for the three of them."""

    def __init__(self, log: ChangeLog, typing: Typing, presence: Presence, boot: str) -> None:
        self._log = log
        self._typing = typing
        self._presence = presence
        self._boot = boot

    def now(self) -> SyncToken:
        """The token of this moment."""
        ephemeral = join_counters(self._typing.counter, self._presence.counter)
        return SyncToken(self._log.position, ephemeral, self._boot)

    def stands(self, at: SyncToken) -> bool:
        """Whether nothing at all has happened since a token."""
        now = self.now()
        return (now.pos, now.ephemeral) == (at.pos, at.ephemeral)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    requester: Requester
    filter: SyncFilter
    since: SyncToken | None = None
    timeout_s: float = 0.0
    full_state: bool = False
    state_name: bytes = b"state"  # or the name that state at the end of the timeline goes by

    @property
    def state_after(self) -> bool:
        return self.state_name != b"state"


@dataclass(slots=True)
class Work:
    """See the module."""

    ask: Ask
    at: SyncToken | None  # what the client has; None: nothing
    token: SyncToken  # what it has after this
    window: Window | None
    plan: Plan
    own_key: int
    inviters: InvitePermission  # whose invites the reader is shown, and whom they ignore altogether
    now_ms: int
    names: dict[int, str] = field(default_factory=dict)

    @property
    def ignored(self) -> frozenset[str]:
        """Whom the reader ignores."""
        return self.inviters.ignored

    @property
    def initial(self) -> bool:
        return self.at is None

    @property
    def since(self) -> int:
        return self.at.pos if self.at is not None else 0

    @property
    def typing_since(self) -> int:
        """The counter of typing that the client knows of."""
        return split_counters(self.at.ephemeral)[0] if self.at is not None else 0

    @property
    def presence_since(self) -> int:
        """The counter of presence that the client knows of."""
        return split_counters(self.at.ephemeral)[1] if self.at is not None else 0

    def reader(self, keys: Keys) -> Reader:
        """Who reads, for those who build rooms."""
        requester = self.ask.requester
        return Reader(
            requester.user_id,
            requester.user_nid,
            requester.device_nid,
            keys,
            self.ignored,
            self.ask.filter,
            self.now_ms,
            self.ask.state_after,
        )


@dataclass(slots=True)
class Answer:
    """The body, whether there is anything in it, and the token that it ends with."""

    body: bytes
    told: bool
    token: SyncToken
