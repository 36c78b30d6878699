"""Ports for the servers that tests start as processes, each given out once while this process lives.

Whoever asks the kernel for a free port and lets it go again has it only until somebody else asks: the suites run side
by side, and any connection out takes a number too. So these ports lie below the range that the kernel gives out, and a
socket on an address of which no server knows holds each number until the process ends.
"""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

LOWEST, HIGHEST = 18_000, 32_000
_HOLDING_ADDRESS = "127.255.255.254"
_ATTEMPTS = 500

_held: list[socket.socket] = []
# Not the seeded numbers of a test: two processes with one seed would want the same ports in the same order.
_draws = random.SystemRandom()


class NoPortError(Exception):
    """Nothing was free in many attempts: somebody listens on most of the range."""


def take_port(address: str = "127.0.0.1") -> int:
    """A port of a loopback address that nothing listens on and that no other call gives, here or in another process."""
    for _ in range(_ATTEMPTS):
        port = _draws.randint(LOWEST, HIGHEST)
        if _hold(port, address):
            return port
    raise NoPortError(f"no free port of {address} between {LOWEST} and {HIGHEST} in {_ATTEMPTS} attempts")


def _hold(port: int, address: str) -> bool:
    with ExitStack() as stack:
        holder = stack.enter_context(socket.socket())
        probe = stack.enter_context(socket.socket())
        try:
            holder.bind((_HOLDING_ADDRESS, port))
            probe.bind((address, port))
        except OSError:
            return False
        _held.append(socket.socket(fileno=holder.detach()))
        return True
