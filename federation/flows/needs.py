"""What a flow may ask for. A flow yields a need and is sent its answer; who drives it looks that up, or asks the network.

A flow never waits, never loops on time and never fails for want of an answer: "there was none" is an answer too. The
limits of an answer (bytes, seconds) are fields of the need, kept by the driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from federation.ids import EventId, ServerName


@dataclass(frozen=True, slots=True)
class NeedHttp:
    """A GET of an ``https`` address with an ordinary certificate. Answered with an HttpAnswer, or None: nobody spoke."""

    url: str
    max_bytes: int
    timeout_s: float
    max_redirects: int = 0


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The last answer after all redirects, names of its headers in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NeedSrv:
    """SRV records of a name like `_matrix-fed._tcp.example.org`. Answered with SrvRecords; none: there are none.

    None: nobody could tell."""

    name: str


@dataclass(frozen=True, slots=True)
class SrvRecord:
    """One record. The order in which they are tried is the driver's: it has the entropy for the weights."""

    host: str
    port: int
    ttl_s: int = 0


@dataclass(frozen=True, slots=True)
class NeedPeer:
    """An unsigned request to another server. Answered with the JSON object of a 2xx answer, or None."""

    destination: ServerName
    method: str
    uri: str
    content: Mapping[str, Any] | None
    max_bytes: int
    timeout_s: float
    insist: bool = True
    """False: not worth a try where that server did not answer lately."""


@dataclass(frozen=True, slots=True)
class NeedKeys:
    """The keys with which a server signs now. Answered with public keys by id; none: they cannot be had."""

    server_name: ServerName


# --- events of rooms -------------------------------------------------------------------------------------
# Whoever answers these MUST have put every event to checks 1 to 3 (format, signatures, hash: redacted where that
# failed) and hold it to be of the flow's room: what comes in as an Event can be trusted to be what its author signed.


@dataclass(frozen=True, slots=True)
class Limits:
    """What one answer may cost. Another server is tried where one has nothing, up to ``servers`` of them."""

    max_bytes: int
    timeout_s: float
    servers: int


@dataclass(frozen=True, slots=True)
class NeedKnown:
    """What is stored here of these events. Answered with Known; nobody else is asked."""

    event_ids: tuple[EventId, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """Events that this server has. ``placed`` ones have a state, so that others can come after them."""

    stored: frozenset[EventId]
    placed: frozenset[EventId]


@dataclass(frozen=True, slots=True)
class NeedMissing:
    """The events between some that are here and some that are not placed yet. Answered with a sequence of Events."""

    earliest: tuple[EventId, ...]
    latest: tuple[EventId, ...]
    count: int
    min_depth: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class NeedBackfill:
    """Events and what precedes them. Answered with a sequence of Events, at most so many, that hang together."""

    event_ids: tuple[EventId, ...]
    count: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class NeedEvents:
    """Events by their ids, stored ones too. Answered with a sequence of those that could be had."""

    event_ids: tuple[EventId, ...]
    limits: Limits


@dataclass(frozen=True, slots=True)
class NeedStateIds:
    """The state before an event. Answered with StateIds, or None."""

    event_id: EventId
    limits: Limits


@dataclass(frozen=True, slots=True)
class StateIds:
    """What a server says that the state is, and all that authorises it."""

    state: tuple[EventId, ...]
    auth_chain: tuple[EventId, ...]


@dataclass(frozen=True, slots=True)
class NeedState:
    """The same as whole events, for where many are missing. Answered with a sequence of Events, state and chain."""

    event_id: EventId
    limits: Limits


@dataclass(frozen=True, slots=True)
class NeedAuthChain:
    """All that authorises an event. Answered with a sequence of Events."""

    event_id: EventId
    limits: Limits


RoomNeed = NeedKnown | NeedMissing | NeedBackfill | NeedEvents | NeedStateIds | NeedState | NeedAuthChain
