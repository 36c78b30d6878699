"""Which addresses may be called."""

from __future__ import annotations

import unittest
from ipaddress import ip_network

from homeserver.http.addresses import AddressFilter


class Addresses(unittest.TestCase):
    def test_public_ones_may(self) -> None:
        for address in (
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00::1",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
        ):
            self.assertTrue(AddressFilter().allows(address), address)

    def test_all_others_may_not(self) -> None:
        for address in (
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:a9fe:a9fe",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fe80::1%eth0",
            "fec0::1",
            "ff02::1",
            "",
            "localhost",
            "127.1",
            "0x7f000001",
            "2130706433",
        ):
            self.assertFalse(AddressFilter().allows(address), address)

    def test_but_for_the_ranges_that_are_allowed(self) -> None:
        allowing = AddressFilter([ip_network("127.0.0.0/8"), ip_network("fd00::/8")])
        for address in ("127.0.0.1", "::ffff:127.0.0.1", "fd12::1", "1.1.1.1"):
            self.assertTrue(allowing.allows(address), address)
        for address in ("10.0.0.1", "::1", "fc00::1"):
            self.assertFalse(allowing.allows(address), address)
