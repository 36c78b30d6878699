"""AddressFilter: which addresses the server may call, whoever asks it to (SSRF).

What a name resolves to is checked, and then that very address is connected to: what the name says a moment later does
not matter. Not an allow list of "global" addresses as Python's ipaddress knows it, which differs between its versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Network = IPv4Network | IPv6Network

# spec: RFC 6890 and the IANA registries of special-purpose addresses
REFUSED: Final[Sequence[Network]] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # behind a provider's translation
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: clouds keep their secrets there
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "::/96",  # unspecified, loopback, IPv4-compatible
        "64:ff9b:1::/48",  # local translation
        "100::/64",  # discard
        "100:0:0:1::/64",
        "2001::/23",  # protocol assignments, Teredo
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",
        "5f00::/16",  # segment routing
        "fc00::/7",  # unique local
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local
        "ff00::/8",  # multicast
    )
)
# For addresses that are the administrator's own choice.
EVERYWHERE: Final[Sequence[Network]] = (ip_network("0.0.0.0/0"), ip_network("::/0"))
# An IPv4 address at the end of an IPv6 one is judged as what it is.
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")


class AddressFilter:
    """Refuses what is not public, but for the ranges that the administrator allows."""

    def __init__(self, allowed: Sequence[Network] = ()) -> None:
        self._allowed = tuple(allowed)

    def allows(self, text: str) -> bool:
        """Whether this address may be connected to. What is no address may not."""
        try:
            address = ip_address(text)
        except ValueError:
            return False
        # A zone (fe80::1%eth0) is not part of the number that is compared.
        plain = _unwrap(address)
        if any(one in network for network in self._allowed for one in (address, plain)):
            return True
        return not any(plain in network for network in REFUSED)


def _unwrap(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv6Address) and (address in _MAPPED or address in _NAT64):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
