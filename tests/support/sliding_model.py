"""A client's view of its rooms, built from answers of sliding sync: for the sync law.

The law: what answers add up to is what a new connection is told of the same rooms, whatever windows the client looked
through on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.sync_model import is_same_offer

Key = tuple[str, str]
# Of a room result: members that replace what was there, and stay while nothing is said of them.
_MEMBERS = (
    "name",
    "avatar",
    "joined_count",
    "invited_count",
    "heroes",
    "is_dm",
    "bump_stamp",
    "membership",
    "notification_count",
    "highlight_count",
)


@dataclass
class SlidingRoom:
    """One room as a client sees it."""

    members: dict[str, Any] = field(default_factory=dict)
    state: dict[Key, str] = field(default_factory=dict)
    timeline: list[str] = field(default_factory=list)
    senders: dict[str, str] = field(default_factory=dict)
    stripped: Any = None
    account_data: dict[str, Any] = field(default_factory=dict)
    own_receipts: dict[tuple[str, str], str] = field(default_factory=dict)


class SlidingView:
    """What a client knows."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.rooms: dict[str, SlidingRoom] = {}
        self.account_data: dict[str, Any] = {}
        self.counts: dict[str, int] = {}
        self.pos: str | None = None
        self.to_device: str | None = None
        self.messages: list[Any] = []

    def apply(self, answer: Any) -> None:
        """Take in one answer."""
        self.pos = answer["pos"]
        self.counts = {name: one["count"] for name, one in answer.get("lists", {}).items()}
        for room_id, room in answer.get("rooms", {}).items():
            self._room(room_id, room)
        extensions = answer.get("extensions", {})
        to_device = extensions.get("to_device")
        if to_device is not None:
            self.to_device = to_device["next_batch"]
            self.messages += to_device["events"]
        account_data = extensions.get("account_data", {})
        for event in account_data.get("global", []):
            self.account_data[event["type"]] = event["content"]
        for room_id, events in account_data.get("rooms", {}).items():
            for event in events:
                self.rooms[room_id].account_data[event["type"]] = event["content"]
        for room_id, event in extensions.get("receipts", {}).get("rooms", {}).items():
            self._receipts(self.rooms[room_id], event["content"])

    def _room(self, room_id: str, room: Any) -> None:
        view = self.rooms.get(room_id)
        if view is None or room.get("initial"):
            if view is None and not room.get("initial"):
                raise AssertionError(f"{room_id} is told of for the first time without saying so: {room}")
            kept = view
            view = self.rooms[room_id] = SlidingRoom()
            if kept is not None:
                view.account_data, view.own_receipts = kept.account_data, kept.own_receipts
        for name in _MEMBERS:
            if name in room:
                view.members[name] = room[name]
        if view.members.get("is_dm") is False:
            del view.members["is_dm"]  # no longer; of a room that never was nothing is said
        if "name" in room:
            view.members.pop("heroes", None) if room["name"] is not None else None
        if view.members.get("name", "") is None:
            del view.members["name"]
        if view.members.get("avatar", "") is None:
            del view.members["avatar"]
        view.stripped = room.get("invite_state")
        if room.get("limited") or room.get("unstable_expanded_timeline"):
            view.timeline.clear()
        for event in room["required_state"]:
            key = (event["type"], event["state_key"])
            if "content" in event:
                view.state[key] = event["event_id"]
            else:
                view.state.pop(key, None)
        for event in room["timeline"]:
            if event["event_id"] in view.timeline:
                if view.members.get("membership") in ("leave", "ban"):
                    continue  # that it is over another server told first, and now the room itself does
                raise AssertionError(f"{event['event_id']} was told twice")
            view.timeline.append(event["event_id"])
            view.senders[event["event_id"]] = event["sender"]

    def _receipts(self, view: SlidingRoom, content: Any) -> None:
        for event_id, kinds in content.items():
            for kind, users in kinds.items():
                receipt = users.get(self.user_id)
                if receipt is not None:
                    view.own_receipts[(kind, receipt.get("thread_id", ""))] = event_id


def differences(
    old: SlidingView, new: SlidingView, *, lazy: bool, exact: bool = False, forked: bool = False
) -> list[str]:
    """How a view that was built up differs from that of a new client, as far as the new one has been told.

    ``exact``: it may not have more state either; it asked for the same all the time.
    ``forked``: other servers act in the rooms; an invite is not told again when more comes to be known of its room.
    """
    found: list[str] = []
    if old.account_data != new.account_data:
        found.append(f"account data: {old.account_data} for {new.account_data}")
    for room_id in sorted(old.rooms):
        inside = old.rooms[room_id].members.get("membership") not in ("leave", "ban")
        if inside and room_id not in new.rooms:
            found.append(f"{room_id} is still shown: {old.rooms[room_id].members}")
    for room_id in sorted(new.rooms):
        if room_id not in old.rooms:
            found.append(f"{room_id} is not shown")
        else:
            mine, theirs = old.rooms[room_id], new.rooms[room_id]
            found += [f"{room_id} {one}" for one in _room_differences(mine, theirs, lazy, exact, forked)]
    return found


def falsehoods(room: SlidingRoom, room_id: str, state: Sequence[Any], *, whole: bool) -> list[str]:
    """How a view of a room differs from the room's state, as ``/state`` has it; where it is not ``whole`` it may lack."""
    truth = {(event["type"], event["state_key"]): event["event_id"] for event in state}
    keys = room.state.keys() | truth.keys() if whole else room.state.keys()
    return [
        f"{room_id} state {key}: {room.state.get(key)} where it is {truth.get(key)}"
        for key in sorted(keys)
        if room.state.get(key) != truth.get(key)
    ]


def _room_differences(old: SlidingRoom, new: SlidingRoom, lazy: bool, exact: bool, forked: bool) -> list[str]:
    found: list[str] = []
    membership = new.members.get("membership")
    if old.members.get("membership") != membership:
        return [f"membership: {old.members.get('membership')} for {membership}"]
    if (old.stripped is None) != (new.stripped is None) or (
        new.stripped is not None and not is_same_offer(old.stripped, new.stripped, forked=forked)
    ):
        found.append(f"stripped state: {old.stripped} for {new.stripped}")
    if membership in ("leave", "ban"):
        return found
    if old.members != new.members:
        found.append(f"members: {old.members} for {new.members}")
    shorter = min(len(old.timeline), len(new.timeline))
    if shorter < len(new.timeline):
        found.append(f"a timeline that is too short: {old.timeline} for {new.timeline}")
    if shorter and old.timeline[-shorter:] != new.timeline[-shorter:]:
        found.append(f"timeline: {old.timeline} for {new.timeline}")
    for key in sorted(old.state.keys() | new.state.keys()):
        mine, theirs = old.state.get(key), new.state.get(key)
        # A client may know more members than it needs now, and more state than it asks for now.
        if mine != theirs and (exact or theirs is not None):
            found.append(f"state {key}: {mine} for {theirs}")
    if lazy:
        for event_id in new.timeline:
            key = ("m.room.member", new.senders[event_id])
            if key not in old.state and not (forked and key not in new.state):
                found.append(f"lacks the member {new.senders[event_id]}")
    if old.account_data != new.account_data:
        found.append(f"account data: {old.account_data} for {new.account_data}")
    if any(
        _is_lost(key, old.own_receipts, new.own_receipts) for key in {*old.own_receipts, *new.own_receipts}
    ):
        found.append(f"receipts: {old.own_receipts} for {new.own_receipts}")
    return found


def _is_lost(key: Key, old: Mapping[Key, str], new: Mapping[Key, str]) -> bool:
    """Whether a receipt is missing or another one, and that not for want of a place.

    An answer has one place for an event, a kind and a user, which the receipt for everything takes, or that of some thread.
    """
    kind, thread = key
    if old.get(key) == new.get(key):
        return False
    if not thread:
        return True
    if key not in new:
        return old[key] not in [at for (one, _), at in new.items() if one == kind]
    return not any(one == kind and other != thread for one, other in old)
