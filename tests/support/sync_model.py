"""A client's view of its rooms, built from syncs as the specification tells clients to: for the sync law.

The law: an initial sync and any increments after it give the view that a new initial sync gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Key = tuple[str, str]


@dataclass
class RoomView:
    """One joined room."""

    state: dict[Key, Any] = field(default_factory=dict)
    timeline: list[str] = field(default_factory=list)
    senders: dict[str, str] = field(default_factory=dict)  # event id -> who sent it
    account_data: dict[str, Any] = field(default_factory=dict)
    receipts: dict[tuple[str, str, str], str] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    threads: dict[str, dict[str, int]] = field(
        default_factory=dict
    )  # what is unread there, for who asks for it
    joined: int = 0
    invited: int = 0
    heroes: list[str] | None = None


def _keep(kept: dict[str, Any], event: Any) -> None:
    """Account data; an empty object says that it was deleted (MSC3391)."""
    if event["content"]:
        kept[event["type"]] = event["content"]
    else:
        kept.pop(event["type"], None)


class ClientView:
    """What a client knows. ``state_name``: which of the state sections it asked for."""

    def __init__(self, state_name: str = "state") -> None:
        self.state_name = state_name
        self.rooms: dict[str, RoomView] = {}
        self.invites: dict[str, Any] = {}
        self.account_data: dict[str, Any] = {}
        self.since: str | None = None

    def apply(self, answer: Any) -> None:
        """Take in one answer."""
        self.since = answer["next_batch"]
        for event in answer.get("account_data", {}).get("events", []):
            _keep(self.account_data, event)
        rooms = answer.get("rooms", {})
        for room_id, room in rooms.get("join", {}).items():
            self.invites.pop(room_id, None)
            self._join(self.rooms.setdefault(room_id, RoomView()), room)
        for room_id in rooms.get("leave", {}):
            self.invites.pop(room_id, None)
            self.rooms.pop(room_id, None)
        for section, name in (("invite", "invite_state"), ("knock", "knock_state")):
            for room_id, room in rooms.get(section, {}).items():
                self.rooms.pop(room_id, None)
                self.invites[room_id] = (section, room[name]["events"])

    def _join(self, view: RoomView, room: Any) -> None:
        timeline = room["timeline"]
        if timeline.get("limited"):
            view.timeline.clear()
        for event in room[self.state_name]["events"]:
            view.state[(event["type"], event["state_key"])] = event["event_id"]
        for event in timeline["events"]:
            if event["event_id"] in view.timeline:
                raise AssertionError(f"{event['event_id']} was told twice")
            view.timeline.append(event["event_id"])
            view.senders[event["event_id"]] = event["sender"]
            if "state_key" in event and self.state_name == "state":
                view.state[(event["type"], event["state_key"])] = event["event_id"]
        for event in room["account_data"]["events"]:
            _keep(view.account_data, event)
        for event in room["ephemeral"]["events"]:
            if event["type"] == "m.receipt":
                self._receipts(view, event["content"])
        view.unread = room.get("unread_notifications", view.unread)
        view.threads = room.get("unread_thread_notifications", {})
        summary = room.get("summary")
        if summary is not None:
            view.joined = summary["m.joined_member_count"]
            view.invited = summary["m.invited_member_count"]
            view.heroes = summary.get("m.heroes")

    def _receipts(self, view: RoomView, content: Any) -> None:
        for event_id, kinds in content.items():
            for kind, users in kinds.items():
                for user_id, receipt in users.items():
                    view.receipts[(user_id, kind, receipt.get("thread_id", ""))] = event_id


def differences(
    old: ClientView, new: ClientView, *, lazy: bool = False, deaf: bool = False, forked: bool = False
) -> list[str]:
    """How a view that was built up differs from that of a new client. With ``lazy`` it may lack members.

    ``deaf``: to messages by somebody; nothing is told of a room because of them, so its counts may be old.
    ``forked``: other servers act in the rooms. That a resolution took a state event away without another in its place no
    sync can tell; nor is an invite told again when more comes to be known of its room.
    """
    found: list[str] = []
    if old.rooms.keys() != new.rooms.keys():
        found.append(f"joined: {sorted(old.rooms)} for {sorted(new.rooms)}")
    if not _are_alike(old.invites, new.invites, forked):
        found.append(f"invites: {old.invites} for {new.invites}")
    if old.account_data != new.account_data:
        found.append(f"account data: {old.account_data} for {new.account_data}")
    for room_id in sorted(old.rooms.keys() & new.rooms.keys()):
        mine, theirs = old.rooms[room_id], new.rooms[room_id]
        found += [f"{room_id} {one}" for one in _room_differences(mine, theirs, lazy, forked)]
        if mine.unread != theirs.unread and not deaf:
            found.append(f"{room_id} unread: {mine.unread} for {theirs.unread}")
        if mine.threads != theirs.threads and not deaf:
            found.append(f"{room_id} threads: {mine.threads} for {theirs.threads}")
    return found


def _are_alike(old: Mapping[str, Any], new: Mapping[str, Any], forked: bool) -> bool:
    """Whether two clients know of the same invites and knocks."""
    return old.keys() == new.keys() and all(
        old[room_id][0] == section and is_same_offer(old[room_id][1], events, forked=forked)
        for room_id, (section, events) in new.items()
    )


def is_same_offer(old: Sequence[Any], new: Sequence[Any], *, forked: bool) -> bool:
    """Whether a client that was told of an invite or a knock earlier knows of it what a new client is told.

    ``forked``: it is not told again when more comes to be known of the room, so the user's own membership alone counts;
    nor when that is redacted: whoever is not in a room sees no redactions there, and stripped state has nothing that
    would say so.
    spec: client-server-api#stripped-state
    """
    if not forked or not old or not new:
        return old == new
    mine, theirs = old[-1], new[-1]
    return mine == theirs or _as_redacted(mine) == {
        key: value for key, value in theirs.items() if key != "unsigned"
    }


def _as_redacted(event: Any) -> Any:
    content = {"membership": event["content"]["membership"]}
    return {key: value for key, value in event.items() if key != "unsigned"} | {"content": content}


def falsehoods(
    view: ClientView, room_id: str, state: Sequence[Any], *, lazy: bool = False, forked: bool = False
) -> list[str]:
    """How a view of a room differs from the room's state, as ``/state`` has it. With ``lazy`` it may lack members.

    ``forked``: as for :func:`differences`.
    """
    told = view.rooms[room_id].state
    truth = {(event["type"], event["state_key"]): event["event_id"] for event in state}
    return [
        f"{room_id} state {key}: {told.get(key)} where it is {truth.get(key)}"
        for key in sorted(told.keys() | truth.keys())
        if told.get(key) != truth.get(key)
        and not (lazy and key[0] == "m.room.member" and key not in told)
        and not (forked and key not in truth)
    ]


def _room_differences(old: RoomView, new: RoomView, lazy: bool, forked: bool) -> list[str]:
    found: list[str] = []
    shorter = min(len(old.timeline), len(new.timeline))
    if shorter and old.timeline[-shorter:] != new.timeline[-shorter:]:
        found.append(f"timeline: {old.timeline} for {new.timeline}")
    for key in sorted(old.state.keys() | new.state.keys()):
        may_lack = lazy and key[0] == "m.room.member"
        mine, theirs = old.state.get(key), new.state.get(key)
        if (
            mine != theirs
            and not (forked and theirs is None)
            and not (may_lack and (mine is None or theirs is None))
        ):
            found.append(f"state {key}: {mine} for {theirs}")
    if lazy:
        for event_id in old.timeline:
            if ("m.room.member", old.senders[event_id]) not in old.state:
                found.append(f"lacks the member {old.senders[event_id]}")
    if (old.joined, old.invited, old.heroes) != (new.joined, new.invited, new.heroes):
        found.append(
            f"summary: {old.joined, old.invited, old.heroes} for {new.joined, new.invited, new.heroes}"
        )
    if old.account_data != new.account_data:
        found.append(f"account data: {old.account_data} for {new.account_data}")
    if old.receipts != new.receipts:
        found.append(f"receipts: {old.receipts} for {new.receipts}")
    return found
