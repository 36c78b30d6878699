"""As ``test_every_fault``, of keys and messages between devices: each is given out once, and comes once.

A claim that failed took nothing, a message whose answer was lost is sent again and is one, and an upload is whole or
was never made.
"""

from __future__ import annotations

from typing import Any

from tests.sim.test_every_fault import Breakable, FaultCase
from tests.support.app import SERVER_NAME
from tests.support.keys import CrossKeys, KeyDevice

ALICE, BOB = f"@alice:{SERVER_NAME}", f"@bob:{SERVER_NAME}"
_CLIENT = "/_matrix/client/v3"
_DEHYDRATED = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


def whisper(server: Breakable) -> list[str]:
    """Bob writes to alice's device; what she has of him in the end, and what others see of her."""

    def ok(method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        status, json = server.insist(method, f"{_CLIENT}{path}", body, token)
        assert status == 200, (method, path, status, json)
        return json

    alice, bob = server.enter("alice"), server.enter("bob")
    device_id = ok("GET", "/account/whoami", None, alice)["device_id"]
    device, cross = KeyDevice(ALICE, device_id), CrossKeys(ALICE)
    keys = {"device_keys": device.keys(), "one_time_keys": device.one_time_keys("a", "b")}
    ok("POST", "/keys/upload", {**keys, "fallback_keys": device.fallback_key("f")}, alice)
    ok("POST", "/keys/device_signing/upload", cross.body(), alice)
    signed = cross.self_signing.sign(device.keys())
    assert ok("POST", "/keys/signatures/upload", {ALICE: {device_id: signed}}, alice) == {"failures": {}}
    claim = {"one_time_keys": {ALICE: {device_id: "signed_curve25519"}}}
    claimed: list[str] = []
    for number in range(3):
        claimed += ok("POST", "/keys/claim", claim, bob)["one_time_keys"][ALICE][device_id]
        messages = {ALICE: {device_id: {"n": number}}, BOB: {"*": {"n": number}}, "@c:far.example": {"X": {}}}
        ok("PUT", f"/sendToDevice/m.dummy/{number}", {"messages": messages}, bob)
    assert sorted(claimed) == [f"signed_curve25519:{name}" for name in ("a", "b", "f")], claimed
    server.heal()
    sync = server.ok("GET", f"{_CLIENT}/sync", token=alice)
    found = server.ok("POST", f"{_CLIENT}/keys/query", {"device_keys": {ALICE: []}}, bob)
    signatures = found["device_keys"][ALICE][device_id]["signatures"]
    assert signatures == signed["signatures"], signatures
    assert found["master_keys"][ALICE] == cross.key("master")
    assert sync["device_unused_fallback_key_types"] == []
    return [str(event["content"]["n"]) for event in sync["to_device"]["events"]]


def keep(server: Breakable) -> list[str]:
    """Alice keeps keys here, and a dehydrated device in place of another; what is there in the end."""

    def ok(method: str, path: str, body: Any = None) -> Any:
        status, json = server.insist(method, path, body, alice)
        assert status == 200, (method, path, status, json)
        return json

    def keys(*sessions: str, first: int = 1) -> Any:
        one = {"first_message_index": first, "forwarded_count": 0, "is_verified": False, "session_data": {}}
        return {"rooms": {"!a:far.example": {"sessions": dict.fromkeys(sessions, one)}}}

    alice = server.enter("alice")
    backup = f"{_CLIENT}/room_keys"
    version = ok("POST", f"{backup}/version", {"algorithm": "a", "auth_data": {}})["version"]
    where = f"{backup}/keys?version={version}"
    ok("PUT", where, keys("a", "b"))
    ok("DELETE", where)
    ok("PUT", where, keys("b", "c", "d"))
    ok("PUT", where, keys("b", first=0))
    told = ok("DELETE", f"{backup}/keys/!a:far.example/c?version={version}")
    assert told["count"] == 2, told
    for name in ("dry", "drier"):
        device = KeyDevice(ALICE, name)
        data = {"device_data": {"algorithm": "a"}, "device_keys": device.keys()}
        more = {"one_time_keys": device.one_time_keys("a"), "fallback_keys": device.fallback_key("f")}
        ok("PUT", _DEHYDRATED, {"device_id": name, **data, **more})
    server.heal()
    found = server.ok("GET", where, token=alice)["rooms"]["!a:far.example"]["sessions"]
    listed = server.ok("POST", f"{_CLIENT}/keys/query", {"device_keys": {ALICE: []}}, alice)
    assert list(listed["device_keys"][ALICE]) == ["drier"], listed
    dehydrated = server.ok("GET", _DEHYDRATED, token=alice)["device_id"]
    return [f"{name} {one['first_message_index']}" for name, one in sorted(found.items())] + [dehydrated]


class EveryFaultOfKeys(FaultCase):
    """See the module."""

    def test_failing_once(self) -> None:
        self.assertEqual(["0", "1", "2"], whisper(Breakable(self, -1, once=True)))
        self.play(whisper, once=True, every=1)

    def test_failing_from_then_on(self) -> None:
        self.play(whisper, once=False, every=3)

    def test_backups_failing_once(self) -> None:
        self.assertEqual(["b 0", "d 1", "drier"], keep(Breakable(self, -1, once=True)))
        self.play(keep, once=True, every=1)

    def test_backups_failing_from_then_on(self) -> None:
        self.play(keep, once=False, every=3)
