"""Messages from device to device. spec: client-server-api#send-to-device-messaging

Those for users of this server go into inboxes, those for others into what waits for their servers; one request is one
transaction, done once however often it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from federation.canonical import encode, encode_checked
from federation.errors import Malformed
from federation.ids import domain_of, parse_user_id
from homeserver.e2ee.shapes import is_name
from homeserver.e2ee.types import Requester
from homeserver.http.errors import bad_json, invalid_param, too_large, unknown_token
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log
from homeserver.store.device_life import NoDeviceError
from homeserver.store.ids import Interner
from homeserver.store.to_device import Batch, Outgoing, ToDevice, send_batch
from homeserver.store.work import Worker

# LIMIT(a message is a key or a signal: encrypted by Olm, and with the keys of its sender's device, some 2,300 bytes. Some
# clients send a room's key to all devices in one request, and to nobody where that is refused)
MAX_MESSAGE_BYTES = 128 * 1024
MAX_MESSAGES = 10_000
MAX_TYPE = 255
# LIMIT(a server may refuse larger EDUs; a message alone may still be larger)
EDU_BYTES = 60_000

Messages = Mapping[str, Mapping[str, dict[str, Any]]]
_encode = msgspec.json.Encoder().encode


class ToDeviceMessages:
    """Sends messages for clients."""

    def __init__(
        self, server_name: str, worker: Worker, interner: Interner, clock: Clock, entropy: Entropy, log: Log
    ) -> None:
        self._server_name = server_name
        self._worker = worker
        self._interner = interner
        self._clock = clock
        self._entropy = entropy
        self._log = log

    async def send(self, requester: Requester, event_type: str, txn_id: str, messages: Messages) -> None:
        """Send messages by user and device (``*``: all devices of the user)."""
        if len(event_type) > MAX_TYPE:
            raise invalid_param("The type is too long")
        local: list[tuple[str, str, str]] = []
        remote: dict[str, dict[str, dict[str, Any]]] = {}
        if sum(map(len, messages.values())) > MAX_MESSAGES:
            raise too_large(f"More than {MAX_MESSAGES} messages in one request")
        for user_id, by_device in messages.items():
            domain = _domain(user_id)
            for device_id, content in by_device.items():
                _check(device_id, content, is_local=domain == self._server_name)
                if domain == self._server_name:
                    local.append((user_id, device_id, build_message(requester.user_id, event_type, content)))
                else:
                    remote.setdefault(domain, {}).setdefault(user_id, {})[device_id] = content
        nids = await self._interner.find_users({user_id for user_id, _, _ in local})
        batch = Batch(
            requester.user_nid,
            # An application service need not act as one of the devices: then it is told apart by its user.
            requester.device_nid or -requester.user_nid,
            f"{event_type}/{txn_id}",
            self._clock.now_ms(),
            [ToDevice(nids[one[0]], one[1], one[2]) for one in local if one[0] in nids],
            self._outgoing(requester.user_id, event_type, remote),
        )
        try:
            full = await self._worker.work(send_batch, batch)
        except NoDeviceError:
            raise unknown_token() from None
        for destination in full:
            # Nobody is told: the sender could do nothing about it, and whoever is to have the others has them.
            self._log.info(
                "messages to devices are dropped: too many wait for their server", destination=destination
            )

    def _outgoing(
        self, sender: str, event_type: str, remote: Mapping[str, Mapping[str, Mapping[str, Any]]]
    ) -> list[Outgoing]:
        """EDUs by server, none larger than it must be."""
        found: list[Outgoing] = []
        for destination, by_user in remote.items():
            part: dict[str, dict[str, Any]] = {}
            size = 0
            for user_id, by_device in by_user.items():
                for device_id, content in by_device.items():
                    weight = len(_encode(content)) + len(user_id) + len(device_id) + 16
                    if part and size + weight > EDU_BYTES:
                        found.append(self._edu(destination, sender, event_type, part))
                        part, size = {}, 0
                    part.setdefault(user_id, {})[device_id] = content
                    size += weight
            if part:
                found.append(self._edu(destination, sender, event_type, part))
        return found

    def _edu(self, destination: str, sender: str, event_type: str, messages: Mapping[str, Any]) -> Outgoing:
        # spec: server-server-api#send-to-device-messaging (an id of at most 32 code points)
        content = {
            "sender": sender,
            "type": event_type,
            "message_id": self._entropy.id(24),
            "messages": messages,
        }
        # Canonical: it goes into a signed request as it is.
        return Outgoing(destination, encode(content).decode())


def build_message(sender: str, event_type: str, content: Mapping[str, Any]) -> str:
    """The event as sync tells it."""
    return _encode({"content": content, "sender": sender, "type": event_type}).decode()


def _domain(user_id: str) -> str:
    try:
        return domain_of(parse_user_id(user_id))
    except Malformed:
        raise invalid_param("messages: not a user ID") from None


def _check(device_id: str, content: Mapping[str, Any], *, is_local: bool) -> None:
    """Raise MatrixError. What goes to another server is signed, so it must have a canonical form."""
    if not is_name(device_id):
        raise invalid_param("messages: not a device ID")
    try:
        size = len(encode_checked(content, strict=not is_local))
    except Malformed as error:
        raise bad_json(f"messages: {error.message}") from None
    if size > MAX_MESSAGE_BYTES:
        raise too_large(f"A message takes more than {MAX_MESSAGE_BYTES} bytes")
