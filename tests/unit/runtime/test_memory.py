"""When the garbage collector looks through everything."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from unittest import TestCase
from unittest.mock import Mock, patch

from twisted.internet.task import Clock as TaskClock

from homeserver.runtime import memory
from homeserver.runtime.clock import TwistedClock


class FakeCollector:
    """What the module asks the interpreter's collector for."""

    def __init__(self) -> None:
        self.young = 0
        self.calls: list[str] = []

    def collect(self) -> None:
        self.calls.append("collect")
        self.young = 0

    def freeze(self) -> None:
        self.calls.append("freeze")

    def set_threshold(self, *thresholds: int) -> None:
        self.calls.append(f"thresholds {thresholds[0]}")

    def get_count(self) -> tuple[int, int, int]:
        return 0, self.young, 0


class Looking(TestCase):
    def setUp(self) -> None:
        self.gc, self.time, self.used_s = FakeCollector(), TaskClock(), 0.0
        for name, value in (("gc", self.gc), ("sys", self)):
            patcher = patch.object(memory, name, value)
            patcher.start()
            self.addCleanup(patcher.stop)
        self.collector = memory.Collector(TwistedClock(self.time), lambda: self.used_s)
        self.collector.start()
        self.assertEqual(["collect", "freeze", "thresholds 2000"], self.gc.calls)
        self.gc.calls.clear()

    def setswitchinterval(self, interval_s: float) -> None:
        """Stands for that of ``sys``."""

    def looked(self, young: int, share: float) -> bool:
        """Whether half a minute of such a load ends in a look through everything."""
        self.gc.young = young
        self.used_s += share * memory.LOOK_EVERY_S
        self.time.advance(memory.LOOK_EVERY_S)
        calls, self.gc.calls = self.gc.calls, []
        return calls == ["collect"]

    def test_when_nobody_is_there_and_it_is_worth_while(self) -> None:
        self.assertFalse(self.looked(memory.WORTH_WHILE, memory.QUIET_SHARE * 2))
        self.assertFalse(self.looked(memory.WORTH_WHILE - 1, 0))
        self.assertTrue(self.looked(memory.WORTH_WHILE, memory.QUIET_SHARE / 2))
        self.assertFalse(self.looked(0, 0))

    def test_when_it_was_put_off_for_too_long(self) -> None:
        self.assertFalse(self.looked(memory.OVERDUE - 1, 1))
        self.assertTrue(self.looked(memory.OVERDUE, 1))

    def test_the_end(self) -> None:
        self.collector.stop()
        self.assertEqual([], self.time.getDelayedCalls())
        self.assertFalse(self.looked(memory.OVERDUE, 1))


class Allocator(TestCase):
    def test_threads_share_one_arena(self) -> None:
        """Of a process that has set it, threads that allocate have no arena of their own."""
        program = (
            "import sys, threading\n"
            "from homeserver.runtime.memory import share_one_arena\n"
            "done = sys.argv[1] == 'set' and share_one_arena()\n"
            "blocks = []\n"
            "def allocate():\n"
            "    blocks.extend(bytes(100_000) for _ in range(10))\n"
            "threads = [threading.Thread(target=allocate) for _ in range(4)]\n"
            "[thread.start() for thread in threads]\n"
            "[thread.join() for thread in threads]\n"
            "import ctypes, os\n"
            "ctypes.CDLL(None).malloc_stats()\n"
            "print(done)\n"
        )
        if not hasattr(ctypes.CDLL(None), "mallopt"):
            self.skipTest("this C library has no mallopt")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        arenas = {}
        for wanted in ("set", "leave"):
            command = [sys.executable, "-c", program, wanted]
            ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            self.assertEqual(str(wanted == "set"), ran.stdout.strip())
            arenas[wanted] = ran.stderr.count("Arena ")
        self.assertEqual(1, arenas["set"])
        self.assertGreater(arenas["leave"], 1)

    def test_another_library(self) -> None:
        """As on musl, or where there is no library to ask."""
        for library in (Mock(spec=[]), Mock(side_effect=OSError)):
            loads = library if library.side_effect else Mock(return_value=library)
            with patch.object(ctypes, "CDLL", loads):
                self.assertFalse(memory.share_one_arena())


class Interpreter(TestCase):
    def test_counts_young_collections(self) -> None:
        """What is relied on: the second count goes up with each young collection, and back with one of everything."""
        before = gc.get_threshold()
        self.addCleanup(gc.set_threshold, *before)
        gc.set_threshold(100, 2**31 - 1, 2**31 - 1)
        gc.collect()
        kept = [[number] for number in range(5_000)]
        self.assertGreaterEqual(gc.get_count()[1], 40)
        del kept
        gc.collect()
        self.assertLess(gc.get_count()[1], 40)
