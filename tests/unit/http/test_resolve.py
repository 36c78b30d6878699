"""Names: the hosts file, the system, SRV records."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock as TaskClock
from twisted.names import dns
from twisted.names.client import Resolver as NamesResolver
from twisted.names.error import DNSNameError, DNSQueryTimeoutError, DNSServerError
from twisted.trial.unittest import SynchronousTestCase

from federation.flows.needs import SrvRecord
from homeserver.http.lookups import TIMEOUT_S
from homeserver.http.race import Race
from homeserver.http.resolve import (
    ADDRESS_LIFE_S,
    FAILURE_LIFE_S,
    SILENCE_S,
    SILENT_NAMES,
    SRV_TIMEOUTS_S,
    SystemResolver,
    order_records,
    parse_hosts,
    parse_name_servers,
)
from homeserver.runtime.clock import TwistedClock
from homeserver.runtime.entropy import SeededEntropy


class System:
    """What the system says of names, as the test says."""

    def __init__(self) -> None:
        self.names: dict[str, Sequence[str] | None] = {}
        self.asked: list[str] = []

    def ask(self, name: str) -> Deferred[Sequence[str]]:
        self.asked.append(name)
        found = self.names.get(name, ())
        if found is None:
            self.waiting: Deferred[Sequence[str]] = Deferred()
            return self.waiting
        return succeed(tuple(found))


class Names:
    """A name server, as the test says."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.silent = False  # also of what every name server knows

    def lookupNameservers(self, name: str, timeout: Any) -> Deferred[Any]:
        return fail(defer.TimeoutError("no answer")) if self.silent else succeed(([], [], []))

    def lookupService(self, name: str, timeout: Any) -> Deferred[Any]:
        self.asked.append(name)
        answer = self.answers.get(name)
        if isinstance(answer, Exception):
            return fail(answer)
        if answer is None:
            return fail(DNSNameError("no such name"))
        record: Any = dns.Record_SRV
        headers = [dns.RRHeader(name.encode(), dns.SRV, dns.IN, 300, record(*one, 300)) for one in answer]
        return succeed((headers, [], []))


class Resolving(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.hosts = self.folder / "hosts"
        self.system = System()
        self.names = Names()
        self.time = TaskClock()
        self.resolver = SystemResolver(
            None,
            TwistedClock(self.time),
            SeededEntropy(1),
            self.hosts,
            self.folder / "resolv.conf",
            self.system.ask,
        )
        # The name server of the test in place of those of the machine.
        (self.folder / "resolv.conf").write_text("nameserver 192.0.2.1\n")
        self.resolver._resolver = lambda: self.names  # type: ignore[assignment, return-value, method-assign]

    def addresses(self, name: str) -> Sequence[str]:
        return self.successResultOf(self.resolver.addresses(name))

    def srv(self, name: str) -> Sequence[SrvRecord] | None:
        return self.successResultOf(self.resolver.srv(name))

    def test_the_hosts_file_comes_first_and_is_read_again(self) -> None:
        self.system.names["a.example"] = ["1.1.1.1"]
        self.assertEqual(self.addresses("a.example"), ("1.1.1.1",))
        self.hosts.write_text("127.0.0.9 A.example b.example # c.example\n::9 a.example\n")
        self.assertEqual(self.addresses("a.example"), ("127.0.0.9", "::9"))
        self.assertEqual(self.addresses("B.EXAMPLE"), ("127.0.0.9",))
        self.assertEqual(self.addresses("c.example"), ())
        self.hosts.write_text("127.0.0.8 a.example\n")
        os.utime(self.hosts, (1, 1))
        self.assertEqual(self.addresses("a.example"), ("127.0.0.8",))

    def test_addresses_are_themselves(self) -> None:
        for address in ("1.2.3.4", "::1"):
            self.assertEqual(self.addresses(address), (address,))
        self.assertEqual(self.system.asked, [])

    def test_answers_are_kept_for_a_while_and_failures_for_a_moment(self) -> None:
        self.assertEqual([self.addresses("a.example") for _ in range(2)], [(), ()])
        self.assertEqual(len(self.system.asked), 1)
        self.system.names["a.example"] = ["1.1.1.1", "::2"]
        self.time.advance(FAILURE_LIFE_S)
        self.assertEqual([self.addresses("a.example") for _ in range(2)], [("1.1.1.1", "::2")] * 2)
        self.time.advance(ADDRESS_LIFE_S)
        self.addresses("a.example")
        self.assertEqual(len(self.system.asked), 3)

    def test_one_look_up_at_a_time_and_not_for_ever(self) -> None:
        self.system.names["slow.example"] = None
        waiting = [self.resolver.addresses("slow.example") for _ in range(3)]
        waiting[0].addErrback(lambda _: None)
        waiting[0].cancel()
        self.assertEqual(len(self.system.asked), 1)
        self.time.advance(TIMEOUT_S)
        self.assertEqual([self.successResultOf(one) for one in waiting[1:]], [(), ()])
        # What comes too late is lost.
        self.system.waiting.callback(("1.1.1.1",))
        self.system.names["slow.example"] = ("2.2.2.2",)
        self.assertEqual((), self.addresses("slow.example"))
        self.time.advance(FAILURE_LIFE_S)
        self.assertEqual(("2.2.2.2",), self.addresses("slow.example"))

    def test_records(self) -> None:
        self.names.answers["_matrix-fed._tcp.a.example"] = [
            (10, 0, 8448, "two.example"),
            (5, 0, 1, "one.example"),
        ]
        self.assertEqual(
            self.srv("_matrix-fed._tcp.a.example"),
            (SrvRecord("one.example", 1, 300), SrvRecord("two.example", 8448, 300)),
        )
        self.assertEqual(self.srv("_matrix-fed._tcp.b.example"), ())

    def test_a_name_of_the_hosts_file_has_no_records(self) -> None:
        self.hosts.write_text("127.0.0.9 a.example\n")
        self.assertEqual(self.srv("_matrix-fed._tcp.a.example"), ())
        self.assertEqual(self.names.asked, [])

    def time_out(self, *hosts: str) -> None:
        """Names of which the name servers say nothing, as Twisted tells it in the end."""
        for host in hosts:
            for service in ("_matrix-fed", "_matrix"):
                self.names.answers[f"{service}._tcp.{host}"] = defer.TimeoutError(host)

    def test_name_servers_that_do_not_answer_are_left_alone(self) -> None:
        self.time_out("a.example", "b.example", "c.example", "d.example")
        self.names.silent = True
        for host in ("a.example", "b.example", "c.example"):
            # Both names of one server count once.
            self.assertIsNone(self.srv(f"_matrix-fed._tcp.{host}"))
            self.assertIsNone(self.srv(f"_matrix._tcp.{host}"))
        self.assertEqual(2 * SILENT_NAMES - 1, len(self.names.asked))
        # What is not asked is not known; a name of the hosts file still is.
        self.assertIsNone(self.srv("_matrix._tcp.there.example"))
        self.hosts.write_text("127.0.0.9 here.example\n")
        self.assertEqual((), self.srv("_matrix._tcp.here.example"))
        self.assertEqual(2 * SILENT_NAMES - 1, len(self.names.asked))
        # Later one is enough, as long as nothing was answered.
        self.time.advance(SILENCE_S)
        self.assertIsNone(self.srv("_matrix._tcp.d.example"))
        self.assertIsNone(self.srv("_matrix._tcp.there.example"))
        self.assertEqual(2 * SILENT_NAMES, len(self.names.asked))
        self.time.advance(SILENCE_S)
        self.assertEqual((), self.srv("_matrix._tcp.there.example"))
        self.assertIsNone(self.srv("_matrix-fed._tcp.d.example"))
        self.assertEqual((), self.srv("_matrix._tcp.else.example"))

    def test_dead_domains_among_others_silence_nobody(self) -> None:
        dead = [f"dead{number}.example" for number in range(20)]
        self.time_out(*dead)
        for number, host in enumerate(dead):
            self.assertIsNone(self.srv(f"_matrix-fed._tcp.{host}"))
            if number % 2:
                # Also that there is no such name, or that they could not find out, is an answer.
                self.names.answers[f"_matrix-fed._tcp.n{number}.example"] = DNSServerError("later")
                self.assertEqual((), self.srv(f"_matrix{'-fed' * (number % 4 == 1)}._tcp.n{number}.example"))
        self.names.answers["_matrix-fed._tcp.a.example"] = [(1, 0, 1, "one.example")]
        self.assertEqual((SrvRecord("one.example", 1, 300),), self.srv("_matrix-fed._tcp.a.example"))
        # One domain alone, asked for again and again.
        for _ in range(20):
            self.assertIsNone(self.srv("_matrix-fed._tcp.dead0.example"))
            self.time.advance(FAILURE_LIFE_S)
        self.names.answers["_matrix-fed._tcp.b.example"] = [(1, 0, 1, "one.example")]
        self.assertEqual((SrvRecord("one.example", 1, 300),), self.srv("_matrix-fed._tcp.b.example"))

    def test_one_dead_domain_with_many_names_silences_nobody(self) -> None:
        hosts = [f"{name}.dead.example" for name in "abcdef"]
        self.time_out(*hosts)
        self.names.answers["_matrix-fed._tcp.a.example"] = [(1, 0, 1, "one.example")]
        for host in hosts:
            self.assertIsNone(self.srv(f"_matrix-fed._tcp.{host}"))
        self.assertEqual((SrvRecord("one.example", 1, 300),), self.srv("_matrix-fed._tcp.a.example"))

    def test_what_twisted_says_when_its_time_is_up(self) -> None:
        del self.resolver._resolver  # its own, of which nothing but the packets is made up
        asked: list[Any] = []

        def query(_: NamesResolver, address: Any, *_args: Any) -> Deferred[Any]:
            asked.append(address)
            return fail(DNSQueryTimeoutError(1))

        self.patch(NamesResolver, "_query", query)
        for number in range(SILENT_NAMES + 1):
            self.assertIsNone(self.srv(f"_matrix._tcp.s{number}.example"))
        # With them, what every name server knows.
        self.assertEqual(len(SRV_TIMEOUTS_S) * (SILENT_NAMES + 1), len(asked))

    def test_files_of_any_content(self) -> None:
        self.assertEqual(
            parse_hosts("\0\n\n#\n1.2.3.4\nx y\n1.2.3 a\n fe80::1%eth0 z\n"), {"z": ("fe80::1%eth0",)}
        )
        self.assertEqual(
            parse_name_servers("search x\nnameserver\nnameserver 1.1.1.1\nnameserver ::1 \n"),
            ("1.1.1.1", "::1"),
        )
        self.hosts.write_bytes(b"\xff\xfe 1 2\n127.0.0.9 a.example\n")
        self.assertEqual(self.addresses("a.example"), ("127.0.0.9",))
        self.hosts.unlink()
        self.assertEqual(self.addresses("a.example"), ())


class Order(SynchronousTestCase):
    def records(self, *weights: int) -> list[tuple[Any, int]]:
        return [
            (
                SimpleNamespace(
                    priority=1, weight=weight, port=number, target=SimpleNamespace(name=b"h.example")
                ),
                60,
            )
            for number, weight in enumerate(weights)
        ]

    def test_a_draw_by_weight(self) -> None:
        entropy = SeededEntropy(7)
        first = [order_records(self.records(0, 10, 90), entropy)[0].port for _ in range(2000)]
        counts = [first.count(number) for number in range(3)]
        self.assertLess(counts[0], 60)
        self.assertGreater(counts[0], 0)
        self.assertTrue(130 < counts[1] < 270, counts)
        self.assertEqual(len(order_records(self.records(*range(50)), entropy)), 50)
        self.assertEqual(order_records([], entropy), ())


class Races(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = TaskClock()
        self.ways: list[Deferred[str]] = [Deferred(self.cancelled) for _ in range(3)]
        self.begun = 0
        self.ended: list[int] = []

    def cancelled(self, way: Deferred[str]) -> None:
        self.ended.append(self.ways.index(way))

    def begin(self) -> Deferred[str]:
        self.begun += 1
        return self.ways[self.begun - 1]

    def race(self) -> Deferred[str]:
        return Race([self.begin] * 3, TwistedClock(self.time), 1.0).result

    def test_the_next_begins_when_one_takes_long_or_fails(self) -> None:
        result = self.race()
        self.assertEqual(self.begun, 1)
        self.time.advance(1)
        self.assertEqual(self.begun, 2)
        self.ways[0].errback(ValueError("first"))
        self.assertEqual(self.begun, 3)
        self.ways[2].callback("third")
        self.assertEqual(self.successResultOf(result), "third")
        self.assertEqual(self.ended, [1])
        self.assertEqual(self.time.getDelayedCalls(), [])

    def test_all_fail(self) -> None:
        result = self.race()
        for number, way in enumerate(self.ways):
            self.assertNoResult(result)
            way.errback(ValueError(str(number)))
        self.assertEqual(str(self.failureResultOf(result, ValueError).value), "2")

    def test_given_up(self) -> None:
        result = self.race()
        self.time.advance(1)
        result.cancel()
        self.failureResultOf(result)
        self.assertEqual(self.ended, [0, 1])
        self.assertEqual((self.begun, self.time.getDelayedCalls()), (2, []))

    def test_ways_that_fail_at_once(self) -> None:
        self.ways = [fail(ValueError()), fail(ValueError()), succeed("third")]
        self.assertEqual(self.successResultOf(self.race()), "third")
