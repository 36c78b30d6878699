"""What a flow may ask for. A flow yields a need and is sent its answer; who drives it looks that up, or asks the network.

A flow never waits, never loops on time and never fails for want of an answer: "there was none" is an answer too. The
limits of an answer (bytes, seconds) are fields of the need, kept by the driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from federation.ids import ServerName


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
    """SRV records of a name like `_matrix-fed._tcp.example.org`. Answered with SrvRecords; none: there are none."""

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


@dataclass(frozen=True, slots=True)
class NeedKeys:
    """The keys with which a server signs now. Answered with public keys by id; none: they cannot be had."""

    server_name: ServerName
