"""What may become of a received event, as values.

Drop: not even stored. Reject: stored, takes no part in state, is not relayed. SoftFail: stored and part of the
graph, but neither sent to clients nor used as a forward extremity.

# spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Accept:
    """All checks passed."""


@dataclass(frozen=True, slots=True)
class Reject:
    """The event failed an authorisation check against its own auth events or the state before it."""

    reason: str


@dataclass(frozen=True, slots=True)
class SoftFail:
    """The event is allowed where it stands in the graph but not by the current state of the room.

    ``final``: not for want of a membership or a power, so it is not looked at again when these change.
    """

    reason: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class Drop:
    """The event is malformed or not validly signed: forget it."""

    reason: str


Verdict = Accept | Reject | SoftFail | Drop

ACCEPT: Final = Accept()
