"""Randomness as an argument: the `Entropy` protocol, the operating system's and a seeded one.

Contract:
1. `OsEntropy` is fit for secrets. `SeededEntropy` is not: it exists so that a simulation can be replayed.
2. `id()` is uniform over its alphabet (no modulo bias); `token()` carries exactly `nbytes` of entropy.
3. The draws of `SeededEntropy` depend on the seed and on the order of the calls, and on nothing else:
   neither the interpreter's version nor its hash seed.
"""

from __future__ import annotations

import os
import string
from base64 import urlsafe_b64encode
from hashlib import blake2b
from typing import Protocol, TypeAlias

# The methods `bytes` and `id` hide the builtins inside the classes below.
Octets: TypeAlias = bytes

ALPHANUMERIC = string.ascii_letters + string.digits
LETTERS = string.ascii_letters
# Without characters that people confuse when they read a code aloud: 0 O o 1 I l.
READABLE = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


class Entropy(Protocol):
    """Every draw that the server makes."""

    def bytes(self, size: int) -> Octets:
        """`size` random bytes."""

    def token(self, nbytes: int = 32) -> str:
        """`nbytes` of entropy as unpadded base64 that is safe in a URL."""

    def id(self, length: int, alphabet: str = ALPHANUMERIC) -> str:
        """`length` characters of `alphabet`, uniformly drawn."""

    def jitter(self, low: float, high: float) -> float:
        """A number in [low, high), uniformly drawn."""


class _Draws:
    """The derived draws, from one source of bytes. Subclasses supply `bytes`."""

    __slots__ = ("_alphabets",)

    def __init__(self) -> None:
        # alphabet -> (translation table, bytes to drop); small, as alphabets are constants of the code.
        self._alphabets: dict[str, tuple[Octets, Octets]] = {}

    def bytes(self, size: int) -> Octets:
        raise NotImplementedError

    def token(self, nbytes: int = 32) -> str:
        return urlsafe_b64encode(self.bytes(nbytes)).rstrip(b"=").decode("ascii")

    def id(self, length: int, alphabet: str = ALPHANUMERIC) -> str:
        """Rejection sampling in bulk: bytes past the last whole multiple of the alphabet are dropped."""
        prepared = self._alphabets.get(alphabet)
        if prepared is None:
            prepared = self._alphabets[alphabet] = _prepare_alphabet(alphabet)
        table, dropped = prepared
        drawn = b""
        while len(drawn) < length:
            drawn += self.bytes(length - len(drawn) + 8).translate(table, dropped)
        return drawn[:length].decode("ascii")

    def jitter(self, low: float, high: float) -> float:
        fraction = (int.from_bytes(self.bytes(7), "big") >> 3) / (1 << 53)
        return low + (high - low) * fraction


class OsEntropy(_Draws):
    """The operating system's generator: for every secret and every identifier in production."""

    __slots__ = ()

    def bytes(self, size: int) -> Octets:
        return os.urandom(size)


class SeededEntropy(_Draws):
    """A replayable generator: blocks of BLAKE2b over a counter, keyed by the seed."""

    __slots__ = ("_buffer", "_counter", "_key")

    def __init__(self, seed: int | str | Octets) -> None:
        super().__init__()
        self._key = blake2b(_encode_seed(seed), digest_size=32, person=b"chaos-seed").digest()
        self._counter = 0
        self._buffer = b""

    def bytes(self, size: int) -> Octets:
        parts = [self._buffer]
        available = len(self._buffer)
        while available < size:
            block = blake2b(self._counter.to_bytes(16, "big"), key=self._key, digest_size=64).digest()
            self._counter += 1
            parts.append(block)
            available += len(block)
        stream = b"".join(parts)
        self._buffer = stream[size:]
        return stream[:size]

    def child(self, label: str) -> SeededEntropy:
        """An independent generator, so that one server's draws do not shift another's."""
        return SeededEntropy(
            blake2b(label.encode(), key=self._key, digest_size=32, person=b"chaos-child").digest()
        )


def _prepare_alphabet(alphabet: str) -> tuple[Octets, Octets]:
    symbols = alphabet.encode("ascii")
    if not 2 <= len(symbols) <= 256 or len(set(symbols)) != len(symbols):
        raise ValueError("an alphabet is 2 to 256 distinct ASCII characters")
    repeats = 256 // len(symbols)
    table = (symbols * repeats).ljust(256, b"\0")
    return table, Octets(range(len(symbols) * repeats, 256))


def _encode_seed(seed: int | str | Octets) -> Octets:
    """The three kinds never collide: 1, "1" and b"1" are three seeds."""
    if isinstance(seed, int):
        return b"i" + str(seed).encode()
    if isinstance(seed, str):
        return b"s" + seed.encode()
    return b"b" + seed
