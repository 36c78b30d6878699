"""Resolver: addresses and SRV records of names. The hosts file comes first, then the system, then the name servers.

MUSTs: 1. every look-up is bounded in time, and what is remembered in number; 2. a name that is looked up already is not
looked up twice; 3. failure is an answer: no addresses, no records; 4. that name servers said nothing is not told as if they
had said that there is nothing. A name of the hosts file has no SRV records: whoever wrote it there has said where it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.names import dns
from twisted.names.client import Resolver as NamesResolver
from twisted.python.failure import Failure

from federation.flows.discovery import is_address
from federation.flows.needs import SrvRecord
from homeserver.http.lookups import AskSystem, LookUps, system_in_threads
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy

ADDRESS_LIFE_S: Final = 60.0
FAILURE_LIFE_S: Final = 5.0
SRV_TIMEOUTS_S: Final = (1, 2)
MAX_NAMES: Final = 10_000
MAX_FILE_BYTES: Final = 1024 * 1024
# No name server has answered for so many hosts in a row, nor what every name server knows: for so long none is asked. The
# first alone says nothing of ours: domains whose own are dead let look-ups end like that, and anybody can have us look.
SILENCE_S: Final = 30.0
SILENT_NAMES: Final = 3

_SERVICE: Final = re.compile(r"_[^.]+\._[^.]+\.")

T = TypeVar("T")


class Resolver(Protocol):
    """What connections and discovery ask."""

    def addresses(self, name: str) -> Deferred[Sequence[str]]:
        """IP addresses of a name (or of an address: itself), the preferred first; none where there are none."""

    def srv(self, name: str) -> Deferred[Sequence[SrvRecord] | None]:
        """SRV records in the order in which they are to be tried; None where no name server answers."""


class _Shared(Generic[T]):
    """Results by name: one look-up at a time for each, remembered for a while."""

    def __init__(self, clock: Clock, look_up: Callable[[str], Deferred[tuple[T, float]]]) -> None:
        self._clock = clock
        self._look_up = look_up
        self._known: dict[str, tuple[T, float]] = {}
        self._running: dict[str, list[Deferred[T]]] = {}

    def get(self, name: str) -> Deferred[T]:
        result: Deferred[T] = Deferred()
        known = self._known.get(name)
        if known is not None and self._clock.monotonic() < known[1]:
            result.callback(known[0])
        elif name in self._running:
            self._running[name].append(result)
        else:
            self._running[name] = [result]
            self._look_up(name).addCallback(self._found, name)
        return result

    def _found(self, found: tuple[T, float], name: str) -> None:
        value, life_s = found
        self._known.pop(name, None)
        self._known[name] = (value, self._clock.monotonic() + life_s)
        if len(self._known) > MAX_NAMES:
            del self._known[next(iter(self._known))]
        for waiting in self._running.pop(name):
            if not waiting.called:
                waiting.callback(value)


class WatchedFile(Generic[T]):
    """A small file that is read again when it has changed. One that cannot be read is empty."""

    def __init__(self, path: Path, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._seen: tuple[int, int, int] | None = (-1, -1, -1)
        self._value = parse("")

    def get(self) -> T:
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            seen = None
        if seen != self._seen:
            self._seen = seen
            self._value = self._parse(self._read())
        return self._value

    def _read(self) -> str:
        try:
            with self._path.open("rb") as file:
                return file.read(MAX_FILE_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""


def parse_hosts(text: str) -> Mapping[str, tuple[str, ...]]:
    """Addresses by name, in the order of the lines."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) < 2 or not is_address(words[0]):
            continue
        for name in words[1:]:
            known = found.get(name.lower(), ())
            if words[0] not in known:
                found[name.lower()] = (*known, words[0])
    return found


def parse_name_servers(text: str) -> tuple[str, ...]:
    """The name servers of a resolv.conf."""
    lines = (line.split() for line in text.splitlines())
    return tuple(
        words[1] for words in lines if len(words) >= 2 and words[0] == "nameserver" and is_address(words[1])
    )


class SystemResolver:
    """Asks the machine, as its administrator set it up."""

    def __init__(
        self,
        reactor: Any,
        clock: Clock,
        entropy: Entropy,
        hosts_file: Path = Path("/etc/hosts"),
        resolv_file: Path = Path("/etc/resolv.conf"),
        ask_system: AskSystem | None = None,
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._entropy = entropy
        self._hosts = WatchedFile(hosts_file, parse_hosts)
        self._name_servers = WatchedFile(resolv_file, parse_name_servers)
        self._names: NamesResolver | None = None
        self._names_of: tuple[str, ...] = ()
        self._unanswered: set[str] = set()  # hosts, since anything was answered
        self._is_asking = False  # who serves the root of all names
        self._silent_until_s = 0.0
        self._look_ups = LookUps(clock, ask_system or system_in_threads(reactor))
        self._addresses: _Shared[Sequence[str]] = _Shared(clock, self._look_up_addresses)
        self._records: _Shared[Sequence[SrvRecord] | None] = _Shared(clock, self._look_up_srv)

    def addresses(self, name: str) -> Deferred[Sequence[str]]:
        """IP addresses of a name (or of an address: itself), the preferred first; none where there are none."""
        result: Deferred[Sequence[str]] = Deferred()
        if is_address(name):
            result.callback((name,))
            return result
        known = self._hosts.get().get(name.lower())
        if known is not None:
            result.callback(known)
            return result
        return self._addresses.get(name.lower())

    def srv(self, name: str) -> Deferred[Sequence[SrvRecord] | None]:
        """SRV records in the order in which they are to be tried; None where no name server answers."""
        is_named = _host_of(name) in self._hosts.get()
        if is_named or self._clock.monotonic() < self._silent_until_s:
            result: Deferred[Sequence[SrvRecord] | None] = Deferred()
            result.callback(() if is_named else None)
            return result
        return self._records.get(name.lower())

    def _look_up_addresses(self, name: str) -> Deferred[tuple[Sequence[str], float]]:
        def found(addresses: Sequence[str]) -> tuple[Sequence[str], float]:
            return addresses, ADDRESS_LIFE_S if addresses else FAILURE_LIFE_S

        return self._look_ups.addresses(name).addCallback(found)

    # --- SRV, from the name servers ------------------------------------------------------------------

    def _look_up_srv(self, name: str) -> Deferred[tuple[Sequence[SrvRecord] | None, float]]:
        result: Deferred[tuple[Sequence[SrvRecord] | None, float]] = Deferred()
        names = self._resolver()
        if names is None:
            result.callback(((), FAILURE_LIFE_S))
            return result

        def found(answer: Any) -> tuple[Sequence[SrvRecord], float]:
            self._unanswered.clear()
            headers = [header for header in answer[0] if header.type == dns.SRV]
            records = [(header.payload, header.ttl) for header in headers]
            return order_records(records, self._entropy), FAILURE_LIFE_S

        def failed(failure: Failure) -> tuple[Sequence[SrvRecord] | None, float]:
            # Whatever went wrong: discovery has a next step.
            if not failure.check(defer.TimeoutError):
                self._unanswered.clear()
                return (), FAILURE_LIFE_S
            if len(self._unanswered) < SILENT_NAMES:
                self._unanswered.add(_host_of(name))
            if len(self._unanswered) >= SILENT_NAMES:
                self._ask_what_all_know(names)
            return None, FAILURE_LIFE_S

        looking = names.lookupService(name, timeout=SRV_TIMEOUTS_S)
        looking.addCallback(found).addErrback(failed).chainDeferred(result)
        return result

    def _ask_what_all_know(self, names: NamesResolver) -> None:
        """Whether our name servers are silent, and not those of the names that others had us look for."""
        if self._is_asking:
            return
        self._is_asking = True

        def told(result: Any) -> None:
            self._is_asking = False
            if isinstance(result, Failure) and result.check(defer.TimeoutError):
                self._silent_until_s = self._clock.monotonic() + SILENCE_S
            else:
                self._unanswered.clear()

        names.lookupNameservers("", timeout=SRV_TIMEOUTS_S).addBoth(told)

    def _resolver(self) -> NamesResolver | None:
        servers = self._name_servers.get()
        if servers != self._names_of:
            self._names_of = servers
            self._names = (
                NamesResolver(servers=[(one, dns.PORT) for one in servers], reactor=self._reactor)
                if servers
                else None
            )
        return self._names


def _host_of(name: str) -> str:
    """Whose records a name like `_matrix-fed._tcp.example.org` is for."""
    return _SERVICE.sub("", name.lower(), count=1)


def order_records(records: Sequence[tuple[Any, int]], entropy: Entropy) -> tuple[SrvRecord, ...]:
    """By priority; among equals a draw by weight. # spec: RFC 2782"""
    ordered: list[SrvRecord] = []
    left = sorted(records, key=lambda one: (one[0].priority, one[0].weight))
    while left:
        equals = [one for one in left if one[0].priority == left[0][0].priority]
        drawn = int(entropy.jitter(0, sum(payload.weight for payload, _ in equals) + 1))
        # Those without a weight come first, so that they are drawn now and then.
        sums = accumulate(payload.weight for payload, _ in equals)
        one = next(one for one, reached in zip(equals, sums, strict=True) if reached >= drawn)
        left.remove(one)
        payload, ttl_s = one
        ordered.append(SrvRecord(payload.target.name.decode("ascii", "replace"), payload.port, ttl_s))
    return tuple(ordered)
