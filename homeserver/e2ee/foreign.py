"""What another server says of its users' keys: read with care, the rest left out.

# spec: server-server-api#end-to-end-encryption
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from federation.canonical import MAX_INTEGER
from homeserver.e2ee.assembly import decode, foreign_device
from homeserver.e2ee.shapes import foreign_device_keys, foreign_one_time_key, foreign_signing_key
from homeserver.e2ee.types import UserKeys
from homeserver.store.cross_signing import MASTER, SELF_SIGNING, SigningKey
from homeserver.store.remote_lists import MAX_DEVICES, RemoteDevice, believed

_MAX_NAME = 255
_FOREIGN_USAGES = (MASTER, SELF_SIGNING)


@dataclass(frozen=True, slots=True)
class Listed:
    """One user's list."""

    devices: Sequence[RemoteDevice]
    signing: Sequence[SigningKey]
    stream_id: int = 0

    @property
    def keys(self) -> UserKeys:
        """As a client is told."""
        devices = {one.device_id: foreign_device(one) for one in self.devices}
        size = sum(len(one.json) for one in self.devices) + sum(len(one.key) for one in self.signing)
        return UserKeys(devices, {one.usage: decode(one.key) for one in self.signing}, size)


def parse_query(answer: Mapping[str, Any], user_id: str, user_nid: int) -> Listed:
    """One user of an answer to ``user/keys/query``."""
    devices: list[RemoteDevice] = []
    for device_id, keys in _items(_at(answer.get("device_keys"), user_id)):
        unsigned = _at(keys, "unsigned")
        device = read_device(user_id, user_nid, device_id, keys, _at(unsigned, "device_display_name"))
        if device is not None and len(devices) < MAX_DEVICES:
            devices.append(device)
    signing = [
        foreign_signing_key(_at(answer.get(f"{usage}_keys"), user_id), user_id, usage, user_nid)
        for usage in _FOREIGN_USAGES
    ]
    return Listed(believed(devices), [one for one in signing if one is not None])


def parse_list(answer: Mapping[str, Any], user_id: str, user_nid: int) -> Listed | None:
    """An answer to ``user/devices``; None where it is none."""
    stream_id, listed = answer.get("stream_id"), answer.get("devices")
    if answer.get("user_id") != user_id or not isinstance(listed, list) or type(stream_id) is not int:
        return None
    if not 0 <= stream_id <= MAX_INTEGER:
        return None
    devices: dict[str, RemoteDevice] = {}
    for one in listed[:MAX_DEVICES]:
        device_id = _at(one, "device_id")
        if isinstance(device_id, str):
            name = _at(one, "device_display_name")
            device = read_device(user_id, user_nid, device_id, _at(one, "keys"), name)
            if device is not None:
                devices[device_id] = device
    signing = [
        foreign_signing_key(answer.get(f"{usage}_key"), user_id, usage, user_nid) for usage in _FOREIGN_USAGES
    ]
    return Listed(believed(list(devices.values())), [one for one in signing if one is not None], stream_id)


def read_device(user_id: str, user_nid: int, device_id: str, keys: Any, name: Any) -> RemoteDevice | None:
    """A device, None where its keys are none."""
    text = foreign_device_keys(keys, user_id, device_id)
    if text is None:
        return None
    named = isinstance(name, str) and "\0" not in name
    return RemoteDevice(user_nid, device_id, text, name[:_MAX_NAME] if named else None)


def parse_claimed(
    answer: Mapping[str, Any], wanted: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """One key for each device that was asked for, of the algorithm that was asked for."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    claimed = answer.get("one_time_keys")
    for user_id, by_device in wanted.items():
        for device_id, algorithm in by_device.items():
            for name, key in _items(_at(_at(claimed, user_id), device_id)):
                right = name.startswith(f"{algorithm}:") and len(name) <= 2 * _MAX_NAME
                if right and foreign_one_time_key(key) is not None:
                    found.setdefault(user_id, {})[device_id] = {name: key}
                    break
    return found


def _at(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []
