"""What a push gateway is told: the body of a notification. Pure.

# spec: push-gateway-api#post_matrixpushv1notify
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from federation.event import Event
from homeserver.store.pushers import Pusher

# COMPAT(Element X, until MSC4076 is decided): it counts by itself, what is encrypted too.
NO_BADGE: Final = "org.matrix.msc4076.disable_badge_count"
ID_ONLY: Final = "event_id_only"
# LIMIT(a name is shown in a line of a lock screen, and chosen by other people)
_NAME_MOST = 255

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Subject:
    """What a notification speaks of: an event as one user sees it."""

    event: Event
    room_name: str | None = None
    room_alias: str | None = None
    sender_name: str | None = None
    is_target: bool = False  # of a membership: it is the user's own


@dataclass(frozen=True, slots=True)
class Address:
    """Where a pusher's notifications go, and in which form."""

    url: str
    app_id: str
    pushkey: str
    pushkey_ts: int
    data: Mapping[str, Any]  # without the address
    id_only: bool
    no_badge: bool


def parse_address(pusher: Pusher) -> Address | None:
    """Of a pusher that sends to a gateway; None for what is no address."""
    data: dict[str, Any] = _decode(pusher.data)
    url = data.pop("url", None)
    if not isinstance(url, str):
        return None
    return Address(
        url,
        pusher.app_id,
        pusher.pushkey,
        pusher.created_ts_ms // 1000,
        data,
        data.get("format") == ID_ONLY,
        data.get(NO_BADGE) is True,
    )


def tweaks_of(actions: Sequence[Any]) -> dict[str, Any]:
    """The tweaks that a rule's actions set."""
    # spec: client-server-api#actions
    found: dict[str, Any] = {}
    for action in actions:
        if isinstance(action, dict) and isinstance(action.get("set_tweak"), str):
            name = action["set_tweak"]
            if "value" in action:
                found[name] = action["value"]
            elif name == "highlight":
                found[name] = True
    return found


def priority_of(event: Event, tweaks: Mapping[str, Any]) -> str:
    """Whether a telephone is to be woken at once."""
    # What makes no sound and no highlight may wait. Of what is encrypted nobody here knows whether it does.
    loud = event.type == "m.room.encrypted" or tweaks.get("sound") or tweaks.get("highlight")
    return "high" if loud else "low"


def build_notice(address: Address, subject: Subject, actions: Sequence[Any], unread: int) -> bytes:
    """A notification of an event."""
    event, tweaks = subject.event, tweaks_of(actions)
    body: dict[str, Any] = {
        "event_id": event.event_id,
        "room_id": event.room_id,
        "prio": priority_of(event, tweaks),
    }
    if not address.no_badge:
        # spec: "Counts whose value is zero should be omitted."
        body["counts"] = {"unread": unread} if unread else {}
    device = _device(address)
    if not address.id_only:
        body |= _described(subject)
        device["tweaks"] = tweaks
    body["devices"] = [device]
    return _encode({"notification": body})


def build_badge(address: Address, unread: int) -> bytes:
    """A notification that only says how much is unread."""
    # COMPAT(Sygnal, always): a count that is left out leaves the number on the icon as it is, so zero is said.
    body = {"prio": "low", "counts": {"unread": unread}, "devices": [_device(address)]}
    return _encode({"notification": body})


def _device(address: Address) -> dict[str, Any]:
    return {
        "app_id": address.app_id,
        "pushkey": address.pushkey,
        "pushkey_ts": address.pushkey_ts,
        "data": address.data,
    }


def _described(subject: Subject) -> dict[str, Any]:
    event = subject.event
    found: dict[str, Any] = {"type": event.type, "sender": event.sender, "content": event.content}
    if event.state_key is not None and event.type == "m.room.member":
        found["user_is_target"] = subject.is_target
        membership = event.content.get("membership")
        if isinstance(membership, str):
            found["membership"] = membership
    for name, value in (
        ("sender_display_name", subject.sender_name),
        ("room_name", subject.room_name),
        ("room_alias", subject.room_alias),
    ):
        if value:
            found[name] = value[:_NAME_MOST]
    return found


@dataclass(frozen=True, slots=True)
class Reply:
    """What a gateway said."""

    delivered: bool
    rejected: frozenset[str] = frozenset()


class _Body(msgspec.Struct):
    rejected: list[Any] = []


_decode_reply = msgspec.json.Decoder(_Body).decode


def parse_reply(status: int, body: bytes) -> Reply:
    """The answer of a gateway, whatever it is."""
    if not 200 <= status < 300:
        return Reply(delivered=False)
    try:
        rejected = _decode_reply(body).rejected
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError):
        # It took the notification; what it says beside that cannot be read.
        return Reply(delivered=True)
    return Reply(delivered=True, rejected=frozenset(one for one in rejected if isinstance(one, str)))
