"""Events that are checked in another process: as in this one, or then in this one."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock as TaskClock
from twisted.trial.unittest import TestCase

from federation.canonical import MAX_INTEGER, encode_checked
from federation.flows.join_events import Checked, Terms, check_events
from federation.ids import RoomId, ServerName
from federation.keyring import ServerKeys, VerifyKey
from federation.signing import SigningKey, hash_and_sign_event
from federation.versions import ROOM_VERSIONS
from homeserver.rooms.federated import check_processes, check_worker
from homeserver.rooms.federated.check_processes import CheckProcess, CheckProcesses, Lost
from homeserver.rooms.federated.check_worker import read_frame, write_frame
from homeserver.runtime.clock import TwistedClock
from homeserver.runtime.log import MemoryLog
from tests.support.app import run_at_once

ROOM = RoomId("!room:a.example")
KEY = SigningKey.from_seed(ServerName("a.example"), "k", b"\x07" * 32)
KEYS = {
    KEY.server_name: ServerKeys(
        KEY.server_name, {KEY.key_id: VerifyKey(KEY.key_id, KEY.public_key, MAX_INTEGER)}, 0, MAX_INTEGER
    )
}
TERMS = Terms(ROOM, "11", KEYS)


def make(name: str, **fields: Any) -> bytes:
    """The text of a member's join, signed."""
    user_id = f"@{name}:a.example"
    event = {
        "type": "m.room.member",
        "room_id": ROOM,
        "sender": user_id,
        "state_key": user_id,
        "content": {"membership": "join"},
        "prev_events": ["$" + "p" * 43],
        "auth_events": ["$" + "c" * 43],
        "depth": 1,
        "origin_server_ts": 1,
        **fields,
    }
    return encode_checked(hash_and_sign_event(event, ROOM_VERSIONS["11"], KEY), strict=True)


TEXTS = [
    make("alice"),
    make("bob").replace(b'"depth":1', b'"depth":2'),  # no longer what was signed
    make("carol").replace(b'"join"', b'"join","displayname":"Eve"'),  # no longer what was hashed
    b"[" * 10_000,
    b'"\xff"',
    make("dave", room_id="!other:a.example"),
    b" " + make("erin"),
]


class ProcessTests(TestCase):
    """Real processes, each call of which blocks."""

    def setUp(self) -> None:
        self.time = TaskClock()
        self.log = MemoryLog()
        self.started: list[CheckProcess] = []
        self.program = Path(check_worker.__file__)
        self.pool = self.make_pool(2)

    def make_pool(self, most: int) -> CheckProcesses:
        pool = CheckProcesses(run_at_once, TwistedClock(self.time), self.log, most, self.start)
        self.addCleanup(pool.stop)
        return pool

    def start(self) -> CheckProcess:
        process = CheckProcess(self.program)
        self.started.append(process)
        return process

    def check(self, terms: Terms = TERMS) -> Checked:
        checking = Deferred.fromCoroutine(self.pool.check(TEXTS, terms))
        return self.successResultOf(checking)

    def test_as_in_this_process(self) -> None:
        self.pool.prepare()
        self.assertEqual(2, self.pool.running)
        here = check_events(TEXTS, TERMS)
        self.assertEqual([0, 2, 6], [one.place for one in here.passed])
        self.assertEqual([False, True, True], [one.text is not None for one in here.passed])
        self.assertEqual(here, self.check())
        self.assertEqual(here, self.check())  # by the terms of before
        silent = Terms(ROOM, "11", {}, frozenset({KEY.server_name}))
        self.assertEqual([KEY.server_name] * 4, check_events(TEXTS, silent).lacking)
        self.assertEqual(check_events(TEXTS, silent), self.check(silent))
        self.assertEqual(here, self.check())

    def test_without_any(self) -> None:
        self.pool = self.make_pool(0)
        self.pool.prepare()
        self.assertEqual((0, []), (self.pool.running, self.started))
        self.assertEqual(check_events(TEXTS, TERMS), self.check())

    def test_one_that_dies(self) -> None:
        self.pool.prepare()
        for process in self.started:
            process.kill()
        self.assertEqual(check_events(TEXTS, TERMS), self.check())
        self.assertEqual(check_events(TEXTS, TERMS), self.check())
        self.assertEqual(0, self.pool.running)
        self.assertEqual(2, len(self.log.entries))
        self.pool.prepare()
        self.assertEqual(0, self.pool.running)  # not at once
        self.time.advance(61)
        self.pool.prepare()
        self.assertEqual(2, self.pool.running)
        self.assertEqual(check_events(TEXTS, TERMS), self.check())

    def test_they_end_when_nothing_comes(self) -> None:
        self.pool.prepare()
        self.time.advance(50)
        self.check()
        self.time.advance(50)
        self.assertEqual(2, self.pool.running)
        self.time.advance(11)
        self.assertEqual(0, self.pool.running)
        self.pool.prepare()
        self.assertEqual(2, self.pool.running)

    def test_stop(self) -> None:
        self.pool.prepare()
        self.pool.stop()
        self.pool.prepare()
        self.assertEqual((0, 2), (self.pool.running, len(self.started)))
        self.assertEqual(check_events(TEXTS, TERMS), self.check())
        self.assertEqual([], self.time.getDelayedCalls())

    def test_a_program_that_cannot_be_started(self) -> None:
        def fail() -> CheckProcess:
            raise OSError("no memory")

        self.pool = CheckProcesses(run_at_once, TwistedClock(self.time), self.log, 2, fail)
        self.pool.prepare()
        self.assertEqual(check_events(TEXTS, TERMS), self.check())
        self.assertEqual(1, len(self.log.entries))

    def test_a_program_that_is_another(self) -> None:
        for text in ("", "print('hello')", "import sys; sys.stdout.buffer.write(b'\\0\\0\\0\\2ab')"):
            self.program = Path(self.mktemp()).absolute()
            self.program.write_text(text)
            self.pool = self.make_pool(1)
            self.pool.prepare()
            self.assertEqual(0, self.pool.running)
            self.assertEqual(check_events(TEXTS, TERMS), self.check())

    def test_an_answer_that_is_none(self) -> None:
        self.program = Path(self.mktemp()).absolute()
        self.program.write_text("import sys; sys.stdout.buffer.write(b'\\0' * 4 + b'\\0\\0\\0\\1\\xc0')")
        process = self.start()
        self.addCleanup(process.bury)
        self.addCleanup(process.kill)
        process.wait_until_ready()
        self.assertRaises(Lost, process.check, TEXTS, TERMS)


class FakeProcess:
    """One that does nothing."""

    def __init__(self) -> None:
        self.killed = 0

    def kill(self) -> None:
        self.killed += 1

    def wait_until_ready(self) -> None:
        """Called by nobody: see ``WaitingTests.run_later``."""

    check = bury = wait_until_ready


class WaitingTests(TestCase):
    """Threads that have not come back yet."""

    def setUp(self) -> None:
        self.time = TaskClock()
        self.calls: list[tuple[str, Deferred[Any]]] = []
        self.process = FakeProcess()
        start: Any = lambda: self.process  # noqa: E731
        self.pool = CheckProcesses(self.run_later, TwistedClock(self.time), MemoryLog(), 1, start)

    def run_later(self, function: Callable[..., Any], *_: Any) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred()
        self.calls.append((function.__name__, waiting))
        return waiting

    def come_back(self, result: Any = None) -> None:
        self.calls.pop(0)[1].callback(result)

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def get_ready(self) -> None:
        self.pool.prepare()
        self.come_back(self.process)
        self.come_back()
        self.assertEqual([], self.calls)

    def check(self) -> Deferred[Checked]:
        return Deferred.fromCoroutine(self.pool.check(TEXTS, TERMS))

    def test_nobody_waits_for_one_to_start(self) -> None:
        self.pool.prepare()
        self.check()
        self.come_back(self.process)
        self.check()
        self.assertEqual(["check_events", "wait_until_ready", "check_events"], self.names())
        self.pool.prepare()
        self.assertEqual(3, len(self.calls))

    def test_one_job_at_a_time(self) -> None:
        self.get_ready()
        first, second = self.check(), self.check()
        self.assertEqual(
            ["wait_until_ready", "check_events"], self.names()
        )  # in the process, and in a thread
        self.come_back(Checked([], []))
        self.assertEqual(Checked([], []), self.successResultOf(first))
        self.assertNoResult(second)
        self.check()
        self.assertEqual(["check_events", "wait_until_ready"], self.names())

    def test_one_that_takes_too_long(self) -> None:
        self.get_ready()
        checking = self.check()
        self.time.advance(check_processes.JOB_LIMIT_S - 1)
        self.assertEqual(0, self.process.killed)
        self.time.advance(1)
        self.assertEqual(1, self.process.killed)
        self.calls.pop(0)[1].errback(Lost())  # as its pipes say then
        self.assertEqual(
            ["wait_until_ready", "check_events"], self.names()
        )  # it is buried, and a thread checks
        self.calls[1][1].callback(Checked([], []))
        self.assertEqual(Checked([], []), self.successResultOf(checking))

    def test_one_of_a_job_that_nobody_waits_for_is_not_used_again(self) -> None:
        self.get_ready()
        checking = self.check()
        checking.cancel()
        self.failureResultOf(checking, CancelledError)
        self.assertEqual((1, 0), (self.process.killed, self.pool.running))
        self.check()
        self.assertEqual("check_events", self.names()[-1])

    def test_a_stop_while_one_starts(self) -> None:
        self.pool.prepare()
        self.pool.stop()
        self.come_back(self.process)
        self.come_back()
        self.assertEqual(0, self.pool.running)
        self.assertEqual([], self.time.getDelayedCalls())


class FrameTests(TestCase):
    def test_frames(self) -> None:
        pipe = io.BytesIO()
        for data in (b"", b"abc"):
            write_frame(pipe, data)
        pipe.write(b"\0\0\0\5abc")
        pipe.seek(0)
        self.assertEqual([b"", b"abc", None, None], [read_frame(pipe) for _ in range(4)])
        self.assertRaises(ValueError, read_frame, io.BytesIO(b"\xff" * 9))
        self.patch(check_worker, "MAX_FRAME_BYTES", 2)
        self.assertRaises(ValueError, write_frame, pipe, b"abc")
