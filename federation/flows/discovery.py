"""Where a server is: from its name to the places to connect to, with the certificate and the Host header of each.

A pure flow (see `needs.py`). What `/.well-known` said is handed in and out, so that the shell remembers it by host.

# spec: server-server-api#resolving-server-names
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import mktime_tz, parsedate_tz
from typing import Any, Final

from federation.canonical import loads_object
from federation.errors import Malformed
from federation.flows.needs import HttpAnswer, NeedHttp, NeedSrv, SrvRecord
from federation.ids import ServerName, parse_server_name

DEFAULT_PORT: Final = 8448
WELL_KNOWN_BYTES: Final = 50 * 1024
# Part of the time of the first request to a server, which has to have time left for its answer.
WELL_KNOWN_TIMEOUT_S: Final = 7.0
WELL_KNOWN_REDIRECTS: Final = 5

_HOUR_MS: Final = 3600 * 1000
DEFAULT_LIFE_MS: Final = 24 * _HOUR_MS
MAX_LIFE_MS: Final = 48 * _HOUR_MS
# LIMIT(an answer that is good for a second would be asked for with every request)
MIN_LIFE_MS: Final = 5 * 60 * 1000
# Errors: the wait doubles, up to an hour. Where nobody spoke at all it begins much shorter: servers restart.
ERROR_LIFE_MS: Final = 5 * 60 * 1000
SILENCE_LIFE_MS: Final = 30 * 1000
MAX_ERROR_LIFE_MS: Final = _HOUR_MS
# SRV records are believed for as long as they say, within these bounds; that there are none, for ten minutes. Where nobody
# could tell, what is known by that is good for as long as other silence.
MIN_SRV_LIFE_MS: Final = 60 * 1000
MAX_SRV_LIFE_MS: Final = _HOUR_MS
NO_SRV_LIFE_MS: Final = 10 * 60 * 1000
MAX_SRV_RECORDS: Final = 16

_PORT: Final = re.compile(r":([0-9]{1,5})\Z")
_MAX_AGE: Final = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?([0-9]{1,12})", re.IGNORECASE)
_NO_CACHE: Final = re.compile(r"(?:^|[,\s])no-(?:cache|store)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place to connect to."""

    host: str
    """A name to look up, or an address without brackets."""
    port: int
    certificate_name: str
    """The name or the address that the certificate must be for; a name is also what TLS asks for (SNI)."""
    host_header: str


@dataclass(frozen=True, slots=True)
class WellKnown:
    """What a host's `/.well-known/matrix/server` said, for the shell to remember."""

    delegate: ServerName | None
    """None: nothing that counts, so the host itself is the server."""
    until_ts_ms: int
    fetched_ts_ms: int
    """When the delegate was last said; for a failure, when it failed."""
    failures: int = 0
    """How many attempts in a row have failed."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a server is, the best place first, and until when to believe it."""

    endpoints: tuple[Endpoint, ...]
    until_ts_ms: int
    well_known: WellKnown | None = None


Flow = Generator[NeedHttp | NeedSrv, Any, Location]


def split_name(server_name: ServerName) -> tuple[str, int | None]:
    """Host (an IPv6 address without its brackets) and port."""
    match = _PORT.search(server_name)
    host = server_name if match is None else server_name[: match.start()]
    return host.removeprefix("[").removesuffix("]"), None if match is None else int(match[1])


def is_address(host: str) -> bool:
    """Whether a host, as `split_name` gives it or in a configuration, is an IP literal."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def needs_well_known(server_name: ServerName) -> str | None:
    """The host whose `/.well-known` is asked; None where the name says everything itself."""
    host, port = split_name(server_name)
    return None if port is not None or is_address(host) else host


def discover(server_name: ServerName, known: WellKnown | None, now_ms: int) -> Flow:
    """Find a server. `known` is what was remembered of its host, however old."""
    hostname = needs_well_known(server_name)
    if hostname is None:
        return Location((_explicit(server_name),), now_ms + MAX_LIFE_MS)
    well_known = known
    if well_known is None or now_ms >= well_known.until_ts_ms:
        answer: HttpAnswer | None = yield NeedHttp(
            f"https://{hostname}/.well-known/matrix/server",
            WELL_KNOWN_BYTES,
            WELL_KNOWN_TIMEOUT_S,
            WELL_KNOWN_REDIRECTS,
        )
        well_known = read_well_known(answer, known, now_ms)
    delegate = well_known.delegate or ServerName(hostname)
    if needs_well_known(delegate) is None:
        return Location((_explicit(delegate),), well_known.until_ts_ms, well_known)
    endpoints, until_ts_ms = yield from _by_records(delegate, now_ms)
    return Location(endpoints, min(until_ts_ms, well_known.until_ts_ms), well_known)


def _explicit(server_name: ServerName) -> Endpoint:
    """Steps 1, 2, 3.1 and 3.2: an address, or a name with a port. The Host header is the name as it is."""
    host, port = split_name(server_name)
    return Endpoint(host, DEFAULT_PORT if port is None else port, host, server_name)


def _by_records(
    hostname: ServerName, now_ms: int
) -> Generator[NeedSrv, Sequence[SrvRecord] | None, tuple[tuple[Endpoint, ...], int]]:
    """Steps 3.3 to 3.5 and 4 to 6: SRV records under the registered name, under the old one, or port 8448."""
    is_told = True
    for service in ("_matrix-fed", "_matrix"):
        records = yield NeedSrv(f"{service}._tcp.{hostname}")
        is_told = is_told and records is not None
        # A lone dot as target: decidedly no such service (RFC 2782).
        usable = [record for record in records or () if record.host.strip(".")][:MAX_SRV_RECORDS]
        if usable:
            life_ms = 1000 * min(record.ttl_s for record in usable)
            life_ms = max(MIN_SRV_LIFE_MS, min(life_ms, MAX_SRV_LIFE_MS)) if is_told else SILENCE_LIFE_MS
            # Whoever answers there proves that it may by the certificate of the name that was looked up.
            return tuple(
                Endpoint(record.host.rstrip("."), record.port, hostname, hostname) for record in usable
            ), now_ms + life_ms
    life_ms = NO_SRV_LIFE_MS if is_told else SILENCE_LIFE_MS
    return (Endpoint(hostname, DEFAULT_PORT, hostname, hostname),), now_ms + life_ms


def read_well_known(answer: HttpAnswer | None, known: WellKnown | None, now_ms: int) -> WellKnown:
    """What an answer (or none) means, after what was known before."""
    delegate = None if answer is None or answer.status != 200 else _delegate(answer.body)
    if answer is not None and delegate is not None:
        life_ms = _life_ms(answer.headers, now_ms)
        life_ms = DEFAULT_LIFE_MS if life_ms is None else max(MIN_LIFE_MS, min(life_ms, MAX_LIFE_MS))
        return WellKnown(delegate, now_ms + life_ms, now_ms)
    failures = 0 if known is None else known.failures
    is_silent = answer is None or answer.status >= 500 or answer.status == 429
    life_ms = (SILENCE_LIFE_MS if is_silent else ERROR_LIFE_MS) << min(failures, 20)
    wished_ms = None if answer is None else _life_ms(answer.headers, now_ms)
    life_ms = min(max(life_ms, wished_ms or 0), MAX_ERROR_LIFE_MS)
    if is_silent and known is not None and known.delegate is not None:
        end_ts_ms = known.fetched_ts_ms + MAX_LIFE_MS
        if now_ms < end_ts_ms:
            # A host that is away for a moment has not taken its word back; but it is not believed beyond the most.
            return replace(known, until_ts_ms=min(now_ms + life_ms, end_ts_ms), failures=failures + 1)
    return WellKnown(None, now_ms + life_ms, now_ms, failures + 1)


def _delegate(body: bytes) -> ServerName | None:
    try:
        return parse_server_name(loads_object(body, max_bytes=WELL_KNOWN_BYTES).get("m.server", ""))
    except Malformed:
        return None


def _life_ms(headers: Mapping[str, str], now_ms: int) -> int | None:
    """What the cache control headers ask for; None where they say nothing. # spec: RFC 9111, section 4.2.1"""
    control = headers.get("cache-control", "")
    if _NO_CACHE.search(control):
        return 0
    max_age = _MAX_AGE.search(control)
    if max_age is not None:
        age = headers.get("age", "").strip()
        spent_s = int(age) if age.isascii() and age.isdigit() and len(age) <= 12 else 0
        return max(0, int(max_age[1]) - spent_s) * 1000
    expires = headers.get("expires")
    if expires is None:
        return None
    try:
        parsed = parsedate_tz(expires)
        # A date that is none ("0" is common) lies in the past.
        return 0 if parsed is None else max(0, int(mktime_tz(parsed)) * 1000 - now_ms)
    except (ValueError, OverflowError, TypeError, IndexError):
        return 0
