"""The ports that the suites give to their servers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from twisted.trial import unittest

from tests.support import ports
from tests.support.ports import HIGHEST, LOWEST, NoPortError, take_port

KERNEL_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"


class TakePort(unittest.SynchronousTestCase):
    """`take_port`: for one server, as long as the process lives."""

    def test_can_be_listened_on_again_and_again(self) -> None:
        port = take_port("127.0.0.10")
        for _ in range(2):
            with socket.create_server(("127.0.0.10", port)):
                pass

    def test_is_given_once(self) -> None:
        port = take_port()
        self.patch(ports, "LOWEST", port)
        self.patch(ports, "HIGHEST", port)
        for address in ("127.0.0.1", "127.0.0.10"):
            with self.assertRaisesRegex(NoPortError, f"no free port of {address}"):
                take_port(address)

    def test_is_given_to_one_process(self) -> None:
        port = take_port()
        program = (
            "from tests.support import ports\n"
            f"ports.LOWEST = ports.HIGHEST = {port}\n"
            "try:\n    print(ports.take_port())\nexcept ports.NoPortError:\n    print('none')\n"
        )
        other = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual(other.stdout, "none\n")

    def test_is_free_where_it_was_asked_for(self) -> None:
        with socket.create_server(("127.0.0.10", 0)) as listener:
            port = listener.getsockname()[1]
            self.patch(ports, "LOWEST", port)
            self.patch(ports, "HIGHEST", port)
            with self.assertRaises(NoPortError):
                take_port("127.0.0.10")
            self.assertEqual(take_port("127.0.0.11"), port)

    def test_is_none_of_those_that_the_kernel_gives(self) -> None:
        try:
            with open(KERNEL_RANGE, encoding="ascii") as stored:
                lowest = int(stored.read().split()[0])
        except FileNotFoundError:
            raise unittest.SkipTest("this kernel does not say which ports it gives out") from None
        self.assertLess(HIGHEST, lowest)
        self.assertGreater(LOWEST, 1023)
