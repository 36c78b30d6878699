"""KeysCase: a server with people and their devices, and the calls of encryption."""

from __future__ import annotations

from typing import Any

from tests.api.rooms import V3, RoomsCase
from tests.support.app import SERVER_NAME
from tests.support.keys import KeyDevice


class KeysCase(RoomsCase):
    """Tests of encryption; alice and bob have no keys yet."""

    def device(self, name: str, device_id: str) -> tuple[str, KeyDevice]:
        """Log in once more, with keys: the token and the keys."""
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": name},
            "password": "correct horse",
            "device_id": device_id,
        }
        token = self.app.ok("POST", f"{V3}/login", body)["access_token"]
        device = KeyDevice(f"@{name}:{SERVER_NAME}", device_id)
        self.ok(token, "/keys/upload", {"device_keys": device.keys()})
        return token, device

    def query(self, token: str, *user_ids: str, **more: Any) -> Any:
        """Everything about some users' keys."""
        return self.ok(token, "/keys/query", {"device_keys": {user_id: [] for user_id in user_ids}, **more})

    def claim(self, token: str, user_id: str, device_id: str, algorithm: str = "signed_curve25519") -> Any:
        """One key of a device by its name, or an empty object."""
        found = self.ok(token, "/keys/claim", {"one_time_keys": {user_id: {device_id: algorithm}}})
        return found["one_time_keys"].get(user_id, {}).get(device_id, {})

    def send_to(
        self, token: str, messages: Any, txn_id: str = "t1", event_type: str = "m.room_key_request"
    ) -> tuple[int, Any]:
        """PUT sendToDevice."""
        path = f"{V3}/sendToDevice/{event_type}/{txn_id}"
        return self.app.call("PUT", path, {"messages": messages}, token)

    def sync(self, token: str, since: str | None = None, **query: Any) -> Any:
        """One sync, at once."""
        wanted = {"timeout": 0, **query} if since is None else {"timeout": 0, **query, "since": since}
        return self.app.ok("GET", f"{V3}/sync", None, token, wanted)

    def lists(self, answer: Any) -> tuple[list[str], list[str]]:
        """Whose keys changed, and who is not followed any more."""
        found = answer.get("device_lists", {})
        return found.get("changed", []), found.get("left", [])

    def messages(self, answer: Any) -> list[Any]:
        """The contents of the messages to the device."""
        return [one["content"] for one in answer.get("to_device", {}).get("events", [])]
