"""The process itself: signals, and word to the service manager.

Signals only ever call a function in the reactor's thread; what stopping means is the caller's business.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Protocol


class SignalReactor(Protocol):
    """The part of a reactor that this module needs."""

    def callFromThread(self, function: Callable[..., object], /, *args: object) -> object:  # noqa: N802
        """Call a function in the reactor's thread, soon, from anywhere, signal handlers included."""


def handle_signals(
    reactor: SignalReactor, *, stop: Callable[[], object], reload: Callable[[], object] | None = None
) -> None:
    """Call `stop` on SIGTERM and SIGINT, `reload` on SIGHUP. Call this when the reactor runs already:
    it sets handlers of its own at its start.

    `stop` is called once. A terminal's Ctrl-C reaches make and the server both, and make passes it on, so a
    second signal does not mean impatience.
    """
    stopping = False

    def on_stop(_: int, __: FrameType | None) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            reactor.callFromThread(stop)

    def on_reload(_: int, __: FrameType | None) -> None:
        if reload is not None and not stopping:
            reactor.callFromThread(reload)

    signal.signal(signal.SIGTERM, on_stop)
    signal.signal(signal.SIGINT, on_stop)
    signal.signal(signal.SIGHUP, on_reload)


def notify_service_manager(environment: Mapping[str, str], message: str) -> bool:
    """Tell systemd (`READY=1`, `STOPPING=1`) where it asked to be told. Never fails: it is a courtesy."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # Linux's abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(message.encode(), address)
    except OSError:
        return False
    return True


def leave_now(status: int) -> None:
    """End the process without waiting for threads: for a stop that takes longer than was promised."""
    os._exit(status)
