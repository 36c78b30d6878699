"""Keys of devices and users, from clients and from other servers: refused properly, or fit to be stored and told."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from hypothesis import strategies as st

from homeserver.e2ee.foreign import parse_claimed, parse_list, parse_query
from homeserver.e2ee.shapes import MAX_KEYS_BYTES, check_device_keys, check_one_time_keys, check_signing_key
from homeserver.store.remote_lists import RemoteDevice
from tests.fuzz.harness import JSON, main, mutated
from tests.fuzz.queries import refused_properly
from tests.support.keys import CrossKeys, KeyDevice

_USER = "@u:far.example"
_DEVICE = KeyDevice(_USER, "D")
_MASTER = CrossKeys(_USER).key("master")
_ANSWER = {
    "user_id": _USER,
    "stream_id": 3,
    "devices": [{"device_id": "D", "keys": _DEVICE.keys(), "device_display_name": "x"}],
    "master_key": _MASTER,
    "device_keys": {_USER: {"D": {**_DEVICE.keys(), "unsigned": {"device_display_name": "x"}}}},
    "master_keys": {_USER: _MASTER},
    "one_time_keys": {_USER: {"D": _DEVICE.one_time_keys("a")}},
}
STRATEGY = st.tuples(
    st.one_of(JSON, mutated(_DEVICE.keys())),
    st.one_of(JSON, mutated({**_DEVICE.one_time_keys("a"), "curve25519:b": "x"})),
    st.one_of(JSON, mutated(_MASTER)),
    mutated(_ANSWER),
)


def target(value: tuple[Any, Any, Any, Any]) -> None:
    keys, one_time, signing, answer = value
    text = refused_properly(partial(check_device_keys, keys, _USER, "D"))
    if text is not None:
        _is_stored(text)
    for one in refused_properly(partial(check_one_time_keys, one_time, "one_time_keys")) or ():
        assert "\0" not in one.algorithm + one.key_id
        msgspec.json.decode(one.key)
        assert "\0" not in one.key
    found = refused_properly(partial(check_signing_key, signing, _USER, "master", 1))
    if found is not None:
        _is_stored(found.key)
        assert found.public_key == _MASTER["keys"][f"ed25519:{found.public_key}"]
    if isinstance(answer, dict):
        for listed in (parse_query(answer, _USER, 1), parse_list(answer, _USER, 1)):
            for device in () if listed is None else listed.devices:
                _is_told(device)
        for by_device in parse_claimed(answer, {_USER: {"D": "signed_curve25519"}}).values():
            assert list(by_device) == ["D"]
            assert all(name.startswith("signed_curve25519:") for name in by_device["D"])


def _is_stored(text: str) -> None:
    assert len(text.encode()) <= MAX_KEYS_BYTES
    assert "\0" not in text
    assert msgspec.json.decode(text)["user_id"] == _USER


def _is_told(device: RemoteDevice) -> None:
    _is_stored(device.json)
    assert "\0" not in device.device_id + (device.display_name or "")
    assert msgspec.json.decode(device.json)["device_id"] == device.device_id


if __name__ == "__main__":
    main(STRATEGY, target)
