"""Signals arrive once, in the reactor's thread; the service manager is told where it listens."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from homeserver.runtime.signals import handle_signals, notify_service_manager


class FakeReactor:
    """Collects what is to run in the reactor's thread."""

    def __init__(self) -> None:
        self.calls: list[Callable[..., object]] = []

    def callFromThread(self, function: Callable[..., object], /, *args: object) -> object:
        self.calls.append(function)
        return None


class SignalTests(SynchronousTestCase):
    def setUp(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.reactor = FakeReactor()
        self.happened: list[str] = []

    def deliver(self, number: signal.Signals) -> None:
        os.kill(os.getpid(), number)
        for call in self.reactor.calls:
            call()
        self.reactor.calls.clear()

    def test_stop_comes_once_and_reload_not_after_it(self) -> None:
        handle_signals(
            self.reactor,
            stop=lambda: self.happened.append("stop"),
            reload=lambda: self.happened.append("reload"),
        )
        self.deliver(signal.SIGHUP)
        self.deliver(signal.SIGTERM)
        self.deliver(signal.SIGINT)
        self.deliver(signal.SIGHUP)
        self.assertEqual(self.happened, ["reload", "stop"])

    def test_a_hangup_without_a_reload_is_ignored(self) -> None:
        handle_signals(self.reactor, stop=lambda: self.happened.append("stop"))
        self.deliver(signal.SIGHUP)
        self.assertEqual(self.happened, [])


class NotifyTests(SynchronousTestCase):
    def test_the_service_manager_gets_the_message(self) -> None:
        # A socket's path may have 107 characters only, which trial's temporary names exceed.
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(receiver.close)
        receiver.bind(f"{folder.name}/notify")
        self.assertTrue(notify_service_manager({"NOTIFY_SOCKET": f"{folder.name}/notify"}, "READY=1"))
        self.assertEqual(receiver.recv(100), b"READY=1")

    def test_nothing_happens_without_a_listener(self) -> None:
        for environment in (
            {},
            {"NOTIFY_SOCKET": "/nowhere/at/all"},
            {"NOTIFY_SOCKET": "x"},
            {"NOTIFY_SOCKET": "@gone"},
        ):
            self.assertFalse(notify_service_manager(environment, "READY=1"))
