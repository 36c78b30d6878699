"""Real keys of devices and users, signed as clients sign them: for tests of encryption without a client library.

The Curve25519 keys are only bytes here: no server computes with them.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

from federation.canonical import encode
from federation.hashes import unpadded
from tests.support.app import TestApp


class Ed25519:
    """A key that signs for a user."""

    def __init__(self, user_id: str, seed: str, name: str = "") -> None:
        self.user_id = user_id
        public, self._secret = crypto_sign_seed_keypair(sha256(f"{user_id} {seed}".encode()).digest())
        self.public_key = unpadded(public)
        self.name = f"ed25519:{name or self.public_key}"

    def signature(self, value: dict[str, Any]) -> str:
        """Of an object without what is never signed."""
        bare = {name: field for name, field in value.items() if name not in ("signatures", "unsigned")}
        return unpadded(crypto_sign(encode(bare), self._secret)[:64])

    def sign(self, value: dict[str, Any]) -> dict[str, Any]:
        """The object with one more signature."""
        signatures = {user_id: dict(by_key) for user_id, by_key in value.get("signatures", {}).items()}
        signatures.setdefault(self.user_id, {})[self.name] = self.signature(value)
        return {**value, "signatures": signatures}


class KeyDevice:
    """The keys of one device."""

    def __init__(self, user_id: str, device_id: str, seed: str = "") -> None:
        self.user_id = user_id
        self.device_id = device_id
        self.key = Ed25519(user_id, f"{device_id} {seed}", device_id)
        self._seed = seed

    def curve25519(self, label: str) -> str:
        """A public key of this device."""
        return unpadded(sha256(f"{self.user_id} {self.device_id} {self._seed} {label}".encode()).digest())

    def keys(self) -> dict[str, Any]:
        """Its identity keys."""
        return self.key.sign(
            {
                "user_id": self.user_id,
                "device_id": self.device_id,
                "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
                "keys": {
                    f"curve25519:{self.device_id}": self.curve25519("identity"),
                    self.key.name: self.key.public_key,
                },
            }
        )

    def one_time_keys(self, *names: str) -> dict[str, Any]:
        """Signed one-time keys."""
        return {f"signed_curve25519:{name}": self.key.sign({"key": self.curve25519(name)}) for name in names}

    def fallback_key(self, name: str) -> dict[str, Any]:
        """A signed fallback key."""
        key = {"key": self.curve25519(name), "fallback": True}
        return {f"signed_curve25519:{name}": self.key.sign(key)}


class CrossKeys:
    """The three cross-signing keys of a user."""

    def __init__(self, user_id: str, seed: str = "") -> None:
        self.user_id = user_id
        self.master, self.self_signing, self.user_signing = (
            Ed25519(user_id, f"{usage} {seed}") for usage in ("master", "self_signing", "user_signing")
        )

    def key(self, usage: str) -> dict[str, Any]:
        """One of them, signed by the master key unless it is that."""
        one: Ed25519 = getattr(self, usage)
        found = {"user_id": self.user_id, "usage": [usage], "keys": {one.name: one.public_key}}
        return found if usage == "master" else self.master.sign(found)

    def body(self) -> dict[str, Any]:
        """All three as they are uploaded."""
        return {f"{usage}_key": self.key(usage) for usage in ("master", "self_signing", "user_signing")}


def log_in_with_keys(server: TestApp, user_id: str, device_id: str) -> str:
    """A device of somebody who has the usual password, with its keys; its access token."""
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user_id},
        "password": "correct horse",
        "device_id": device_id,
    }
    token: str = server.ok("POST", "/_matrix/client/v3/login", body)["access_token"]
    keys = KeyDevice(user_id, device_id).keys()
    server.ok("POST", "/_matrix/client/v3/keys/upload", {"device_keys": keys}, token)
    return token
