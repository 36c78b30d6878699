"""A door in front of a server's federation port, which a test closes to cut it off from other servers.

It passes bytes, so TLS goes through it from end to end. Closed, it refuses connections and has cut those that were
open: what a partition looks like to the one who calls.
"""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress

_CHUNK = 65_536


class Gate:
    """Forwards `address:port` to `address:inner_port`, in a thread of its own, while it is open."""

    def __init__(self, address: str, port: int, inner_port: int) -> None:
        self._outside = (address, port)
        self._inside = (address, inner_port)
        self._selector = selectors.DefaultSelector()
        self._commands, self._wake = socket.socketpair()
        self._selector.register(self._commands, selectors.EVENT_READ, None)
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._done = threading.Event()
        self._thread.start()
        self.open()

    def open(self) -> None:
        """Let everybody in."""
        self._order(b"o")

    def shut(self) -> None:
        """Cut who is in, and refuse who comes."""
        self._order(b"s")

    def end(self) -> None:
        """For good."""
        self._order(b"e")
        self._thread.join(10)

    def _order(self, command: bytes) -> None:
        with self._lock:
            self._done.clear()
            self._wake.sendall(command)
            if not self._done.wait(10):
                raise RuntimeError("the gate does not obey")

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._commands:
                    command = self._commands.recv(1)
                    self._obey(command)
                    self._done.set()
                    if command == b"e":
                        return
                elif key.fileobj is self._listener:
                    self._accept()
                elif self._selector.get_map() and key.fd in self._selector.get_map():
                    self._pass_on(key.fileobj, key.data)  # type: ignore[arg-type]

    def _obey(self, command: bytes) -> None:
        if command == b"o" and self._listener is None:
            self._listener = socket.create_server(self._outside, backlog=128)
            self._selector.register(self._listener, selectors.EVENT_READ, None)
        elif command in (b"s", b"e"):
            for key in list(self._selector.get_map().values()):
                if key.fileobj is not self._commands:
                    self._selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
            self._listener = None

    def _accept(self) -> None:
        assert self._listener is not None
        outer, _ = self._listener.accept()
        try:
            inner = socket.create_connection(self._inside, timeout=10)
        except OSError:
            # The server behind it is down: the caller is cut off, as it would be without a gate.
            outer.close()
            return
        for one, other in ((outer, inner), (inner, outer)):
            one.settimeout(10)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(one, selectors.EVENT_READ, other)

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            data = source.recv(_CHUNK)
            if data:
                sink.sendall(data)
                return
        except OSError:
            pass
        for one in (source, sink):
            with suppress(KeyError, ValueError):
                self._selector.unregister(one)
            one.close()
