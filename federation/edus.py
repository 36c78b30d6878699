"""Typed EDUs. Parsing bounds everything and keeps only what the origin may speak about: its own users.

A malformed EDU raises Malformed and is ignored by the caller; malformed or foreign entries inside a collective
EDU (receipts, presence) are left out alone. Whether a user is in a room, or the room's ACL, is not known here.

# spec: server-server-api#edus
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from federation.canonical import MAX_INTEGER, encode_checked
from federation.errors import Malformed
from federation.ids import (
    DeviceId,
    EventId,
    RoomId,
    ServerName,
    UserId,
    domain_of,
    parse_event_id,
    parse_room_id,
    parse_user_id,
)

# LIMIT(a to-device EDU carries one message for each of maybe thousands of devices)
MAX_EDU_BYTES: Final = 4 * 1024 * 1024
MAX_RECEIPTS: Final = 5000
MAX_PRESENCE: Final = 1000
MAX_MESSAGES: Final = 5000
MAX_PREV_IDS: Final = 1000
MAX_STATUS_BYTES: Final = 4096
MAX_MESSAGE_ID: Final = 255
"""The specification says 32 code points; deployed servers exceed it, so only a bound is enforced."""
_PRESENCE: Final = frozenset(("online", "unavailable", "offline", "org.matrix.msc3026.busy"))


@dataclass(frozen=True, slots=True)
class Typing:
    """# spec: server-server-api#typing-notifications"""

    room_id: RoomId
    user_id: UserId
    typing: bool


@dataclass(frozen=True, slots=True)
class Receipt:
    """One user's receipt in one room. `thread_id` None is the unthreaded one."""

    room_id: RoomId
    receipt_type: str
    user_id: UserId
    event_id: EventId
    ts_ms: int
    thread_id: str | None


@dataclass(frozen=True, slots=True)
class Receipts:
    """# spec: server-server-api#receipts"""

    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, slots=True)
class PresenceUpdate:
    user_id: UserId
    presence: str
    status_msg: str | None
    last_active_ago_ms: int
    currently_active: bool


@dataclass(frozen=True, slots=True)
class Presence:
    """# spec: server-server-api#presence"""

    updates: tuple[PresenceUpdate, ...]


@dataclass(frozen=True, slots=True)
class ToDeviceMessage:
    """For one device; `*` stands for all devices of the user."""

    user_id: UserId
    device_id: DeviceId
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DirectToDevice:
    """# spec: server-server-api#send-to-device-messaging"""

    sender: UserId
    type: str
    message_id: str
    messages: tuple[ToDeviceMessage, ...]


@dataclass(frozen=True, slots=True)
class DeviceListUpdate:
    """# spec: server-server-api#device-management"""

    user_id: UserId
    device_id: DeviceId
    stream_id: int
    prev_ids: tuple[int, ...]
    deleted: bool
    display_name: str | None
    keys: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class SigningKeyUpdate:
    """# spec: server-server-api#end-to-end-encryption"""

    user_id: UserId
    master_key: dict[str, Any] | None
    self_signing_key: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class UnknownEdu:
    """An EDU of a type that we do not handle: to be ignored."""

    edu_type: str


Edu = Typing | Receipts | Presence | DirectToDevice | DeviceListUpdate | SigningKeyUpdate | UnknownEdu


def parse_edu(data: Any, origin: ServerName) -> Edu:
    """Parse one entry of a transaction's `edus`. Raises Malformed."""
    edu_type = _get(data, "edu_type", str)
    if len(edu_type) > 255:
        raise Malformed("edu_type is too long")
    content = _get(data, "content", dict)
    if len(encode_checked(content, strict=False)) > MAX_EDU_BYTES:
        raise Malformed("EDU is too large", errcode="M_TOO_LARGE", status=413)
    match edu_type:
        case "m.typing":
            return _parse_typing(content, origin)
        case "m.receipt":
            return _parse_receipts(content, origin)
        case "m.presence":
            return _parse_presence(content, origin)
        case "m.direct_to_device":
            return _parse_direct_to_device(content, origin)
        case "m.device_list_update":
            return _parse_device_list_update(content, origin)
        case "m.signing_key_update":
            return _parse_signing_key_update(content, origin)
        case _:
            return UnknownEdu(edu_type)


def _get(data: Any, key: str, kind: type) -> Any:
    if type(data) is not dict:
        raise Malformed("Expected a JSON object")
    value = data.get(key)
    if type(value) is not kind:
        raise Malformed(f"{key} is missing or of the wrong type")
    return value


def _get_optional(data: dict[str, Any], key: str, kind: type) -> Any:
    """None where the key is missing or null."""
    return None if data.get(key) is None else _get(data, key, kind)


def _own_user(value: str, origin: ServerName) -> UserId:
    # Outside events only compliant ids count. # spec: appendices#historical-user-ids
    user_id = parse_user_id(value)
    if domain_of(user_id) != origin:
        raise Malformed("EDU speaks about a user of another server", errcode="M_FORBIDDEN", status=403)
    return user_id


def _text(data: dict[str, Any], key: str, limit: int) -> str:
    value: str = _get(data, key, str)
    if len(value) > limit:
        raise Malformed(f"{key} is too long")
    return value


def _integer(data: dict[str, Any], key: str) -> int:
    value: int = _get(data, key, int)
    if not 0 <= value <= MAX_INTEGER:
        raise Malformed(f"{key} is out of range")
    return value


def _parse_typing(content: dict[str, Any], origin: ServerName) -> Typing:
    user_id = _own_user(_get(content, "user_id", str), origin)
    return Typing(parse_room_id(_get(content, "room_id", str)), user_id, _get(content, "typing", bool))


def _parse_receipts(content: dict[str, Any], origin: ServerName) -> Receipts:
    receipts: list[Receipt] = []
    for room_id, by_type in content.items():
        for receipt_type, by_user in by_type.items() if type(by_type) is dict else ():
            for user_id, receipt in by_user.items() if type(by_user) is dict else ():
                if len(receipts) >= MAX_RECEIPTS:
                    raise Malformed("Too many receipts in one EDU")
                try:
                    receipts.append(_parse_receipt(room_id, receipt_type, user_id, receipt, origin))
                except Malformed:
                    continue
    return Receipts(tuple(receipts))


def _parse_receipt(
    room_id: str, receipt_type: str, user_id: str, receipt: Any, origin: ServerName
) -> Receipt:
    event_ids = _get(receipt, "event_ids", list)
    data = _get(receipt, "data", dict)
    if not event_ids or type(event_ids[0]) is not str or not 0 < len(receipt_type) <= 255:
        raise Malformed("Receipt names no event")
    thread_id = _get_optional(data, "thread_id", str)
    if thread_id is not None and not 0 < len(thread_id) <= 255:
        raise Malformed("thread_id is empty or too long")
    return Receipt(
        parse_room_id(room_id),
        receipt_type,
        _own_user(user_id, origin),
        parse_event_id(event_ids[0]),
        _integer(data, "ts"),
        thread_id,
    )


def _parse_presence(content: dict[str, Any], origin: ServerName) -> Presence:
    push = _get(content, "push", list)
    if len(push) > MAX_PRESENCE:
        raise Malformed("Too many presence updates in one EDU")
    updates: list[PresenceUpdate] = []
    for entry in push:
        try:
            updates.append(_parse_presence_update(entry, origin))
        except Malformed:
            continue
    return Presence(tuple(updates))


def _parse_presence_update(entry: Any, origin: ServerName) -> PresenceUpdate:
    user_id = _own_user(_get(entry, "user_id", str), origin)
    presence = _get(entry, "presence", str)
    if presence not in _PRESENCE:
        raise Malformed("Unknown presence state")
    status_msg = None if entry.get("status_msg") is None else _text(entry, "status_msg", MAX_STATUS_BYTES)
    # Required by the schema, but servers leave it out for users who were never active.
    last_active_ago_ms = _integer(entry, "last_active_ago") if "last_active_ago" in entry else 0
    active = _get_optional(entry, "currently_active", bool) or False
    return PresenceUpdate(user_id, presence, status_msg, last_active_ago_ms, active)


def _parse_direct_to_device(content: dict[str, Any], origin: ServerName) -> DirectToDevice:
    sender = _own_user(_get(content, "sender", str), origin)
    messages: list[ToDeviceMessage] = []
    for target, by_device in _get(content, "messages", dict).items():
        user_id = parse_user_id(target)
        if type(by_device) is not dict:
            raise Malformed("messages must be objects by device id")
        for device_id, body in by_device.items():
            if type(body) is not dict or not 0 < len(device_id) <= 255:
                raise Malformed("messages must hold objects by device id")
            messages.append(ToDeviceMessage(user_id, DeviceId(device_id), body))
    if len(messages) > MAX_MESSAGES:
        raise Malformed("Too many messages in one EDU")
    message_id = _text(content, "message_id", MAX_MESSAGE_ID)
    return DirectToDevice(sender, _text(content, "type", 255), message_id, tuple(messages))


def _parse_device_list_update(content: dict[str, Any], origin: ServerName) -> DeviceListUpdate:
    user_id = _own_user(_get(content, "user_id", str), origin)
    device_id = _text(content, "device_id", 255)
    prev_ids = _get_optional(content, "prev_id", list) or []
    if len(prev_ids) > MAX_PREV_IDS or not all(
        type(item) is int and 0 <= item <= MAX_INTEGER for item in prev_ids
    ):
        raise Malformed("prev_id must be a bounded list of integers")
    keys = _get_optional(content, "keys", dict)
    if keys is not None and (keys.get("user_id") != user_id or keys.get("device_id") != device_id):
        raise Malformed("Device keys belong to another device")
    display_name = _get_optional(content, "device_display_name", str)
    return DeviceListUpdate(
        user_id,
        DeviceId(device_id),
        _integer(content, "stream_id"),
        tuple(prev_ids),
        _get_optional(content, "deleted", bool) or False,
        None if display_name is None else display_name[:255],
        keys,
    )


def _parse_signing_key_update(content: dict[str, Any], origin: ServerName) -> SigningKeyUpdate:
    user_id = _own_user(_get(content, "user_id", str), origin)
    found: list[dict[str, Any] | None] = []
    for name, usage in (("master_key", "master"), ("self_signing_key", "self_signing")):
        key = _get_optional(content, name, dict)
        if key is not None:
            usages = key.get("usage")
            if key.get("user_id") != user_id or type(usages) is not list or usage not in usages:
                raise Malformed(f"{name} is not a {usage} key of that user")
        found.append(key)
    return SigningKeyUpdate(user_id, *found)
