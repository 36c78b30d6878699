"""A room for tests of authorisation and state resolution: events with readable ids, and the state they make.

Ids are plain words ("$create"), signatures and hashes are absent: nothing below looks at them.
"""

from collections.abc import Sequence
from typing import Any

from federation.auth.select import StateKey, auth_keys_for
from federation.event import Event, parse_stored
from federation.ids import EventId
from federation.versions import ROOM_VERSIONS

ALICE, BOB, CHARLIE, DAVE, EVE = (
    "@alice:a.test",
    "@bob:b.test",
    "@charlie:c.test",
    "@dave:a.test",
    "@eve:e.test",
)
ALL_VERSIONS = tuple(ROOM_VERSIONS)


def versions(first: int, last: int = 12) -> tuple[str, ...]:
    """The room versions from `first` to `last`, both included."""
    return tuple(str(number) for number in range(first, last + 1))


class Room:
    """Makes events. `state` is the current state; `put` moves it, `event` does not."""

    def __init__(self, version: str, create_content: dict[str, Any] | None = None) -> None:
        self.rules = ROOM_VERSIONS[version]
        self.room_id = "!create" if self.rules.room_id_is_create_hash else "!create:a.test"
        self.state: dict[StateKey, Event] = {}
        self.events: dict[str, Event] = {}
        self.count = 0
        content = {"creator": ALICE} if self.rules.creator_in_content_required else {}
        content.update(create_content or {})
        self.create = self.put("m.room.create", ALICE, content, "", event_id="$create", prev=())

    def event(
        self,
        event_type: str,
        sender: str,
        content: dict[str, Any],
        state_key: str | None = None,
        *,
        event_id: str | None = None,
        prev: Sequence[str] = ("$prev:a.test",),
        auth: Sequence[str] | None = None,
        ts: int | None = None,
        redacts: str | None = None,
    ) -> Event:
        self.count += 1
        event_id = event_id or f"${self.count:04}:a.test"
        if auth is None:
            keys = auth_keys_for(self.rules, event_type, sender, state_key, content)
            auth = [self.state[key].event_id for key in keys if key in self.state]
        event_json: dict[str, Any] = {
            "type": event_type,
            "sender": sender,
            "content": content,
            "depth": self.count,
            "origin_server_ts": self.count * 1000 if ts is None else ts,
            "prev_events": self._references(prev),
            "auth_events": self._references(auth),
        }
        if not (self.rules.room_id_is_create_hash and event_type == "m.room.create"):
            event_json["room_id"] = self.room_id
        if state_key is not None:
            event_json["state_key"] = state_key
        if redacts is not None:
            event_json["redacts"] = redacts
        event = parse_stored(EventId(event_id), event_json, self.rules)
        self.events[event_id] = event
        return event

    def put(
        self, event_type: str, sender: str, content: dict[str, Any], state_key: str = "", **fields: Any
    ) -> Event:
        event = self.event(event_type, sender, content, state_key, **fields)
        self.state[event.key()] = event
        return event

    def member(self, user_id: str, membership: str, sender: str | None = None, **content: Any) -> Event:
        """A member event that is not put into the state."""
        return self.event("m.room.member", sender or user_id, {"membership": membership, **content}, user_id)

    def put_member(self, user_id: str, membership: str, sender: str | None = None, **content: Any) -> Event:
        event = self.member(user_id, membership, sender, **content)
        self.state[event.key()] = event
        return event

    def put_power(self, sender: str = ALICE, **content: Any) -> Event:
        """Power levels; the creator is left out by itself where the version forbids to name it."""
        if self.rules.privileged_creators and isinstance(content.get("users"), dict):
            content["users"] = {key: level for key, level in content["users"].items() if key != ALICE}
        return self.put("m.room.power_levels", sender, content)

    def lookup(self, event_type: str, state_key: str) -> Event | None:
        return self.state.get((event_type, state_key))

    def auth_events(self, event: Event) -> list[Event]:
        return [self.events[event_id] for event_id in event.auth_event_ids]

    def _references(self, event_ids: Sequence[str]) -> list[Any]:
        if self.rules.references_carry_hashes:
            return [[event_id, {"sha256": "unused"}] for event_id in event_ids]
        return list(event_ids)


def usual_room(version: str, join_rule: str = "public") -> Room:
    """Alice (100, or creator) and Bob (50) are in the room, Charlie (0) too; Eve was never there."""
    room = Room(version)
    room.put("m.room.member", ALICE, {"membership": "join"}, ALICE, prev=("$create",))
    room.put_power(users={ALICE: 100, BOB: 50})
    room.put("m.room.join_rules", ALICE, {"join_rule": join_rule})
    room.put_member(BOB, "join")
    room.put_member(CHARLIE, "join")
    return room
