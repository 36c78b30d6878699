"""The system's look-ups: with hanging ones about, in a process of its own and as the test says."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as TaskClock
from twisted.trial.unittest import SynchronousTestCase

from homeserver.http import lookups
from homeserver.http.lookups import TIMEOUT_S, LookUps, domain_of
from homeserver.runtime.clock import TwistedClock

# Whatever is below dead.example hangs for ever. Everything else is there.
PROGRAM = """
import os, signal, socket, sys, threading

def getaddrinfo(host, *args, **options):
    name = host if isinstance(host, str) else host.decode()
    if name.endswith(".dead.example"):
        threading.Event().wait()
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 0))]

socket.getaddrinfo = getaddrinfo

from pathlib import Path
from twisted.internet import reactor
from homeserver.http.resolve import SystemResolver
from homeserver.runtime.clock import ReactorClock
from homeserver.runtime.entropy import OsEntropy
from homeserver.runtime.log import MemoryLog
from homeserver.runtime.process import run_server

clock = ReactorClock(reactor)
none = Path(sys.argv[1])

class Life:
    ending = ""

    async def start(self):
        resolver = SystemResolver(reactor, clock, OsEntropy(), none, none)
        for number in range(500):
            resolver.addresses(f"x{number}.dead.example")
        print(await resolver.addresses("alive.example"), flush=True)
        signal.raise_signal(signal.SIGTERM)

    async def stop(self):
        pass

    def reload(self):
        pass

run_server(reactor, clock, MemoryLog(), Life())
print("stopped", flush=True)
"""


class Process(SynchronousTestCase):
    def test_look_ups_that_hang_hold_up_neither_others_nor_the_end(self) -> None:
        command = [sys.executable, "-c", PROGRAM, str(Path(self.mktemp()).absolute())]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        except subprocess.TimeoutExpired as late:
            self.fail(f"it does not end: {late.stdout!r} {late.stderr!r}")
        self.assertEqual(("('192.0.2.7',)\nstopped\n", "", 0), (ran.stdout, ran.stderr, ran.returncode))


class Order(SynchronousTestCase):
    def setUp(self) -> None:
        for name, value in (("PLACES", 4), ("PLACES_EACH", 2), ("WAITING", 4), ("WAITING_EACH", 3)):
            self.patch(lookups, name, value)
        self.time = TaskClock()
        self.asked: dict[str, Deferred[Sequence[str]]] = {}
        self.look_ups = LookUps(TwistedClock(self.time), self.ask)

    def ask(self, name: str) -> Deferred[Sequence[str]]:
        self.asked[name] = Deferred()
        return self.asked[name]

    def look_up(self, *names: str) -> list[Deferred[Sequence[str]]]:
        return [self.look_ups.addresses(name) for name in names]

    def end(self, name: str) -> None:
        self.asked.pop(name).callback((name,))

    def under_way(self, *names: str) -> None:
        self.assertEqual(list(names), list(self.asked))

    def test_a_domain_has_a_part_of_the_places(self) -> None:
        third = self.look_up("a.dead.example", "b.dead.example", "c.dead.example")[2]
        alive = self.look_up("alive.example")[0]
        self.under_way("a.dead.example", "b.dead.example", "alive.example")
        self.end("alive.example")
        self.assertEqual(("alive.example",), self.successResultOf(alive))
        self.end("a.dead.example")
        self.under_way("b.dead.example", "c.dead.example")
        self.end("c.dead.example")
        self.assertEqual(("c.dead.example",), self.successResultOf(third))
        self.end("b.dead.example")
        self.assertEqual([], self.time.getDelayedCalls())

    def test_a_place_is_free_when_its_look_up_has_ended(self) -> None:
        first, second, waiting = self.look_up("a.dead.example", "b.dead.example", "c.dead.example")
        self.time.advance(TIMEOUT_S)
        self.assertEqual([(), (), ()], [self.successResultOf(one) for one in (first, second, waiting)])
        # Nobody waits for them any more, and both are still in the system.
        later = self.look_up("d.dead.example")[0]
        self.under_way("a.dead.example", "b.dead.example")
        self.end("a.dead.example")
        # What waited until its time was up is not begun: nobody wants to know.
        self.under_way("b.dead.example", "d.dead.example")
        self.end("d.dead.example")
        self.assertEqual(("d.dead.example",), self.successResultOf(later))

    def test_all_places(self) -> None:
        self.look_up("a.one", "b.one", "a.two", "b.two", "a.three")
        self.under_way("a.one", "b.one", "a.two", "b.two")
        self.end("b.two")
        self.under_way("a.one", "b.one", "a.two", "a.three")

    def test_failures_are_answers_and_give_places_back(self) -> None:
        answers = self.look_up("a.one", "b.one", "c.one")
        self.asked.pop("a.one").errback(RuntimeError("can't start new thread"))
        self.assertEqual((), self.successResultOf(answers[0]))
        self.under_way("b.one", "c.one")

    def test_too_many_that_wait(self) -> None:
        answers = self.look_up(*(f"{letter}.dead.example" for letter in "abcdef"))
        for answer in answers[:5]:
            self.assertNoResult(answer)
        self.assertEqual((), self.successResultOf(answers[5]))
        self.look_up("a.alive.example")
        self.under_way("a.dead.example", "b.dead.example", "a.alive.example")

    def test_domains(self) -> None:
        for name, domain in (
            ("x.y.example.org", "example.org"),
            ("example.org", "example.org"),
            ("x.example.org.", "example.org"),
            ("localhost", "localhost"),
            ("", ""),
        ):
            self.assertEqual(domain, domain_of(name))


class System(SynchronousTestCase):
    def test_what_the_system_says(self) -> None:
        def found(*_args: Any, **_options: Any) -> list[tuple[Any, ...]]:
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0)),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
            ]

        self.patch(socket, "getaddrinfo", found)
        self.assertEqual(("2001:db8::1", "192.0.2.1"), lookups._ask_system("a.example"))

        def nothing(*_args: Any, **_options: Any) -> list[tuple[Any, ...]]:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")

        self.patch(socket, "getaddrinfo", nothing)
        self.assertEqual((), lookups._ask_system("a.example"))

    def test_what_cannot_be_a_name(self) -> None:
        for name in ("a..example", "x" * 64 + ".example", "nul\0.example"):
            self.assertEqual((), lookups._ask_system(name))
