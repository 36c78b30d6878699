"""Tokens that clients carry between requests.

A sync token is ``s<pos>_<ephemeral>_<boot>``: the position in the log up to which the client has everything, and the
counter of ephemeral facts (typing, presence), which means something only to the process that counted (``boot``). After
a restart the ephemeral part reads as 0: everything changed. Where more messages waited for the device than one answer
takes, ``_<pos>`` follows: up to there it has them. A timeline token is ``t<pos>``: a point between events,
after the event at ``pos``. Where a reader waits there for history that other servers have, ``_<n>`` follows: so often
they have asked in vain. Wherever a timeline token is asked for, a sync token serves as well, and so does the position of
a sliding sync, ``<epoch>.<version>/<sync token>``: which connection, what it was told (``sync/sliding``), and when.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from homeserver.http.errors import invalid_param

_SYNC = re.compile(r"s([0-9]{1,18})_([0-9]{1,18})_([A-Za-z0-9]{1,16})(?:_([0-9]{1,18}))?\Z")
_TIMELINE = re.compile(r"t(-?[0-9]{1,18})(?:_([0-9]{1,3}))?\Z")
_SLIDING = re.compile(r"([A-Za-z0-9]{1,16})\.([0-9]{1,18})/(s[^/]*)\Z")


class SyncToken(NamedTuple):
    """Where a client is."""

    pos: int
    ephemeral: int
    boot: str
    behind: int | None = None  # where the device's messages end, if before ``pos``

    def __str__(self) -> str:
        behind = "" if self.behind is None else f"_{self.behind}"
        return f"s{self.pos}_{self.ephemeral}_{self.boot}{behind}"

    @property
    def inbox(self) -> int:
        """Up to where the device has the messages that were sent to it."""
        return self.pos if self.behind is None else min(self.behind, self.pos)


def parse_sync_token(text: str, boot: str) -> SyncToken:
    """A sync token as a client gave it back; 400 M_INVALID_PARAM for anything else."""
    match = _SYNC.match(text)
    if match is None:
        raise invalid_param("Not a sync token of this server")
    same = match[3] == boot
    behind = None if match[4] is None else int(match[4])
    return SyncToken(int(match[1]), int(match[2]) if same else 0, boot, behind)


class SlidingToken(NamedTuple):
    """Where a connection of sliding sync is."""

    epoch: str
    version: int
    at: SyncToken

    def __str__(self) -> str:
        return f"{self.epoch}.{self.version}/{self.at}"


def parse_sliding_token(text: str, boot: str) -> SlidingToken | None:
    """A position as a client gave it back; None for anything else."""
    match = _SLIDING.match(text)
    if match is None or _SYNC.match(match[3]) is None:
        return None
    return SlidingToken(match[1], int(match[2]), parse_sync_token(match[3], boot))


def timeline_token(pos: int, in_vain: int = 0) -> str:
    """The point after the event at ``pos``; ``in_vain``: how often its bearer has asked there for more."""
    return f"t{pos}_{in_vain}" if in_vain else f"t{pos}"


def parse_timeline_token(text: str) -> int:
    """The position of a timeline or sync token; 400 M_INVALID_PARAM for anything else."""
    sliding = _SLIDING.match(text)
    match = _TIMELINE.match(text) or _SYNC.match(sliding[3] if sliding is not None else text)
    if match is None:
        raise invalid_param("Not a pagination token of this server")
    return int(match[1])


def asked_in_vain(text: str | None) -> int:
    """How often the bearer of a timeline token has asked there for more and got nothing."""
    match = _TIMELINE.match(text) if text is not None else None
    return int(match[2] or 0) if match is not None else 0
