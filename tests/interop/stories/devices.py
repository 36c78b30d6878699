"""Devices and keys across servers: lists that change, keys that are claimed, a conversation that is encrypted."""

from __future__ import annotations

import base64
import secrets
from typing import Any

from tests.interop.client import CLIENT, Client
from tests.interop.pair import eventually
from tests.interop.stories.base import Story


class Devices(Story):
    """See the module. The keys here are only numbers; see `encrypted.py` for those that encrypt."""

    def test_device_keys_and_changes(self) -> None:
        """Keys are asked for over federation; a new device and one that is gone are heard of."""
        self.meet()
        for owner, asker in self.both_ways():
            self._follow_devices(owner, asker)

    def _follow_devices(self, owner: Client, asker: Client) -> None:
        asker.sync()
        asker.changed_devices.clear()
        _upload_keys(owner)
        asker.until("the change of the device list", lambda: owner.user_id in asker.changed_devices)
        self.assertEqual(self._device_ids(asker, owner), {owner.device_id})
        asker.changed_devices.clear()
        second = _log_in(owner)
        _upload_keys(second)
        asker.until("the second device", lambda: owner.user_id in asker.changed_devices)
        eventually(
            "the keys of both devices",
            lambda: self._device_ids(asker, owner) == {owner.device_id, second.device_id},
            asker,
        )
        asker.changed_devices.clear()
        second.ok("POST", f"{CLIENT}/logout", {})
        asker.until("the logout", lambda: owner.user_id in asker.changed_devices)
        eventually(
            "the first device alone",
            lambda: self._device_ids(asker, owner) == {owner.device_id},
            asker,
        )
        second.close()

    def _device_ids(self, asker: Client, owner: Client) -> set[str]:
        answer = asker.ok("POST", f"{CLIENT}/keys/query", {"device_keys": {owner.user_id: []}})
        self.assertEqual(answer.get("failures", {}), {})
        return set(answer["device_keys"].get(owner.user_id, {}))

    def test_cross_signing_keys(self) -> None:
        """The public ones are seen on the other side, and a change of them is heard of."""
        self.meet()
        for owner, asker in self.both_ways():
            self._follow_cross_signing(owner, asker)

    def _follow_cross_signing(self, owner: Client, asker: Client) -> None:
        asker.sync()
        asker.changed_devices.clear()
        master = _cross_signing_key(owner, "master")
        body: dict[str, Any] = {"master_key": master}
        status, answer = owner.ask("POST", f"{CLIENT}/keys/device_signing/upload", body)
        if status == 401:
            body["auth"] = _password_auth(owner, answer["session"])
            owner.ok("POST", f"{CLIENT}/keys/device_signing/upload", body)
        asker.until("the new master key", lambda: owner.user_id in asker.changed_devices)

        def has_key() -> bool:
            answer = asker.ok("POST", f"{CLIENT}/keys/query", {"device_keys": {owner.user_id: []}})
            key = answer.get("master_keys", {}).get(owner.user_id, {})
            return bool(key.get("keys") == master["keys"])

        eventually("the master key in an answer", has_key, asker)

    def test_one_time_keys(self) -> None:
        """Each is given out once, over federation as at home; then the fallback key, again and again."""
        self.meet()
        for owner, asker in self.both_ways():
            _upload_keys(owner, one_time_keys=3, fallback=True)
            claimed = [self._claim(asker, owner) for _ in range(5)]
            self.assertEqual(len(set(claimed[:3])), 3)
            self.assertEqual(claimed[3:], ["fallback", "fallback"])

    def _claim(self, asker: Client, owner: Client) -> str:
        body = {"one_time_keys": {owner.user_id: {owner.device_id: "signed_curve25519"}}}
        answer = asker.ok("POST", f"{CLIENT}/keys/claim", body)
        self.assertEqual(answer.get("failures", {}), {})
        (key,) = answer["one_time_keys"][owner.user_id][owner.device_id].values()
        return "fallback" if key.get("fallback") else str(key["key"])


def _upload_keys(owner: Client, one_time_keys: int = 0, *, fallback: bool = False) -> None:
    body: dict[str, Any] = {
        "device_keys": {
            "user_id": owner.user_id,
            "device_id": owner.device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {f"curve25519:{owner.device_id}": _key(), f"ed25519:{owner.device_id}": _key()},
            "signatures": {owner.user_id: {f"ed25519:{owner.device_id}": _key(64)}},
        }
    }
    if one_time_keys:
        body["one_time_keys"] = {
            f"signed_curve25519:{secrets.token_hex(4)}": _signed(owner) for _ in range(one_time_keys)
        }
    if fallback:
        key = {**_signed(owner), "fallback": True}
        body["fallback_keys"] = {f"signed_curve25519:{secrets.token_hex(4)}": key}
    owner.ok("POST", f"{CLIENT}/keys/upload", body)


def _signed(owner: Client) -> dict[str, Any]:
    return {"key": _key(), "signatures": {owner.user_id: {f"ed25519:{owner.device_id}": _key(64)}}}


def _cross_signing_key(owner: Client, usage: str) -> dict[str, Any]:
    key = _key()
    return {"user_id": owner.user_id, "usage": [usage], "keys": {f"ed25519:{key}": key}}


def _password_auth(owner: Client, session: str) -> dict[str, Any]:
    name = owner.user_id[1:].partition(":")[0]
    return {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": owner.user_id},
        "password": f"the password of {name}",
        "session": session,
    }


def _log_in(owner: Client) -> Client:
    body = _password_auth(owner, "")
    del body["session"]
    client = Client(owner.process, owner.user_id)
    answer = client.ok("POST", f"{CLIENT}/login", body)
    client.token, client.device_id = answer["access_token"], answer["device_id"]
    return client


def _key(size: int = 32) -> str:
    """Unpadded base64, as the protocol has it."""
    return base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=")
