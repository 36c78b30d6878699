"""The signing key file, in Synapse's format: one `ed25519 <version> <base64 seed>` a line, the first one signs.

Key IDs are `ed25519:<version>`; versions are letters, digits and underscores.
spec: appendices#signing-details, server-server-api#retrieving-server-keys
"""

from __future__ import annotations

import os
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass, field
from pathlib import Path

from homeserver.runtime.entropy import LETTERS, Entropy

SEED_BYTES = 32
MAX_FILE_BYTES = 64 * 1024

_VERSION = re.compile(r"[A-Za-z0-9_]{1,100}")


class SigningKeyError(Exception):
    """The key file cannot be used; the message is one clear line without key material."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key of the file."""

    version: str
    seed: bytes = field(repr=False)

    @property
    def key_id(self) -> str:
        return f"ed25519:{self.version}"


def new_signing_key(entropy: Entropy) -> StoredKey:
    return StoredKey(version=f"a_{entropy.id(4, LETTERS)}", seed=entropy.bytes(SEED_BYTES))


def format_signing_key(key: StoredKey) -> str:
    return f"ed25519 {key.version} {b64encode(key.seed).rstrip(b'=').decode('ascii')}\n"


def parse_signing_keys(text: str, name: str = "signing key") -> tuple[StoredKey, ...]:
    """All keys of a file, at least one. Empty lines are skipped."""
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        problem = "expected: ed25519 <version> <base64 of 32 bytes>"
        if len(words) != 3 or words[0] != "ed25519" or not _VERSION.fullmatch(words[1]):
            raise SigningKeyError(f"{name}, line {number}: {problem}")
        try:
            seed = b64decode(words[2] + "=" * (-len(words[2]) % 4), validate=True)
        except (Base64Error, ValueError) as error:
            raise SigningKeyError(f"{name}, line {number}: {problem}") from error
        if len(seed) != SEED_BYTES:
            raise SigningKeyError(f"{name}, line {number}: {problem}")
        keys.append(StoredKey(words[1], seed))
    if not keys:
        raise SigningKeyError(f"{name}: holds no key")
    return tuple(keys)


def read_signing_keys(path: Path) -> tuple[StoredKey, ...]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SigningKeyError(f"{path}: {error.strerror or error}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise SigningKeyError(f"{path}: too large for a key file")
    try:
        return parse_signing_keys(raw.decode("ascii"), str(path))
    except UnicodeDecodeError as error:
        raise SigningKeyError(f"{path}: not a key file") from error


def write_signing_key(path: Path, key: StoredKey) -> None:
    """Create the file, readable by its owner only. An existing file is never touched (FileExistsError)."""
    create_private_file(path, format_signing_key(key))


def create_private_file(path: Path, text: str) -> None:
    """Write a new file with mode 0600, on the disk before we return: a lost key cannot be made again."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
