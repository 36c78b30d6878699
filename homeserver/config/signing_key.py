"""The signing key file, in Synapse's format: one `ed25519 <version> <base64 seed>` a line, the first one signs.

A key that is no longer used is kept as `ed25519 <version> <expired, ms since 1970> <base64 public key>`, the form of
Synapse's files of old keys: what it has signed stays good. Key IDs are `ed25519:<version>`; versions are letters,
digits and underscores.
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


@dataclass(frozen=True, slots=True)
class OldKey:
    """A key of the past: only others use it, to verify."""

    version: str
    expired_ts_ms: int
    public_key: bytes


@dataclass(frozen=True, slots=True)
class KeyFile:
    """Everything in the file."""

    keys: tuple[StoredKey, ...]
    old_keys: tuple[OldKey, ...] = ()


def new_signing_key(entropy: Entropy) -> StoredKey:
    return StoredKey(version=f"a_{entropy.id(4, LETTERS)}", seed=entropy.bytes(SEED_BYTES))


def format_signing_key(key: StoredKey) -> str:
    return f"ed25519 {key.version} {b64encode(key.seed).rstrip(b'=').decode('ascii')}\n"


def parse_signing_keys(text: str, name: str = "signing key") -> tuple[StoredKey, ...]:
    """The keys of a file that sign, at least one."""
    return parse_key_file(text, name).keys


def parse_key_file(text: str, name: str = "signing key") -> KeyFile:
    """All keys of a file, at least one that signs. Empty lines are skipped."""
    keys: list[StoredKey] = []
    old_keys: list[OldKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        problem = SigningKeyError(
            f"{name}, line {number}: expected: ed25519 <version> <base64 of 32 bytes>, "
            "for an old key with the time when it expired before the base64"
        )
        if len(words) not in (3, 4) or words[0] != "ed25519" or not _VERSION.fullmatch(words[1]):
            raise problem
        try:
            key = b64decode(words[-1] + "=" * (-len(words[-1]) % 4), validate=True)
        except (Base64Error, ValueError) as error:
            raise problem from error
        if len(key) != SEED_BYTES:
            raise problem
        if len(words) == 3:
            keys.append(StoredKey(words[1], key))
        elif words[2].isascii() and words[2].isdigit() and len(words[2]) <= 16:
            old_keys.append(OldKey(words[1], int(words[2]), key))
        else:
            raise problem
    if not keys:
        raise SigningKeyError(f"{name}: holds no key")
    versions = [key.version for key in keys] + [key.version for key in old_keys]
    if len(set(versions)) != len(versions):
        raise SigningKeyError(f"{name}: two keys have the same version")
    return KeyFile(tuple(keys), tuple(old_keys))


def read_signing_keys(path: Path) -> tuple[StoredKey, ...]:
    """The keys of the file that sign, at least one."""
    return read_key_file(path).keys


def read_key_file(path: Path) -> KeyFile:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SigningKeyError(f"{path}: {error.strerror or error}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise SigningKeyError(f"{path}: too large for a key file")
    try:
        return parse_key_file(raw.decode("ascii"), str(path))
    except UnicodeDecodeError as error:
        raise SigningKeyError(f"{path}: not a key file") from error


def write_signing_key(path: Path, key: StoredKey) -> None:
    """Create the file, readable by its owner only. An existing file is never touched (FileExistsError)."""
    create_private_file(path, format_signing_key(key))


def create_private_file(path: Path, text: str) -> None:
    """Write a new file with mode 0600, on the disk before we return: a lost key cannot be made again.

    Where that fails (the disk is full, say) there is no file: half a key would be in the way of a whole one.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
