"""Plays a scene: one sentence a line, `#` for remarks, names for people and rooms, texts in quotes.

    alice creates room den inviting bob
    bob joins den
    alice sends 'hi' to den
    bob sees 'hi' from alice in den
    carol cannot join den

What people see is folded from their own incremental syncs and from nothing else. `cannot` before a verb expects the
server to refuse (403). A sentence that no rule below knows fails the scene.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.support.app import SERVER_NAME, TestApp
from tests.support.keys import KeyDevice

V3 = "/_matrix/client/v3"
_TEXT = r"'([^']*)'"
_NAME = r"(\w+)"


class SceneError(AssertionError):
    """A line of a scene does not come true."""


@dataclass(slots=True)
class Person:
    """Somebody, and what they know by their syncs."""

    name: str
    token: str
    since: str = ""
    events: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # every timeline event that they were sent
    redacted: set[str] = field(default_factory=set)
    state: dict[str, dict[tuple[str, str], Any]] = field(default_factory=dict)  # joined rooms
    invited: set[str] = field(default_factory=set)
    typing: dict[str, list[str]] = field(default_factory=dict)
    receipts: dict[tuple[str, str], str] = field(default_factory=dict)
    device: KeyDevice | None = None
    keys: int = 0  # published so far
    sync: dict[str, Any] = field(default_factory=dict)  # the last one
    lists: dict[str, str] = field(default_factory=dict)  # user id -> what the last news of their keys was
    whispers: list[tuple[str, str]] = field(default_factory=list)  # text and sender

    @property
    def user_id(self) -> str:
        """As the server knows them."""
        return f"@{self.name}:{SERVER_NAME}"

    def fold(self, sync: dict[str, Any]) -> None:
        """Take in one sync."""
        self.since = sync["next_batch"]
        self.sync = sync
        for how, user_ids in sync.get("device_lists", {}).items():
            self.lists.update(dict.fromkeys(user_ids, how))
        for event in sync.get("to_device", {}).get("events", []):
            self.whispers.append((event["content"]["text"], event["sender"]))
        rooms = sync.get("rooms", {})
        for room_id, room in (*rooms.get("join", {}).items(), *rooms.get("leave", {}).items()):
            self.invited.discard(room_id)
            state = self.state.setdefault(room_id, {})
            for event in (*room["state"]["events"], *room["timeline"]["events"]):
                if "state_key" in event:
                    state[(event["type"], event["state_key"])] = event["content"]
            for event in room["timeline"]["events"]:
                self.events[event["event_id"]] = {**event, "room_id": room_id}
                if event["type"] == "m.room.redaction":
                    self.redacted.add(event["content"].get("redacts") or event.get("redacts"))
            for event in room.get("ephemeral", {}).get("events", []):
                if event["type"] == "m.typing":
                    self.typing[room_id] = event["content"]["user_ids"]
                else:
                    self._fold_receipts(room_id, event["content"])
        for room_id in rooms.get("leave", {}):
            del self.state[room_id]
        self.invited |= set(rooms.get("invite", {}))

    def _fold_receipts(self, room_id: str, content: dict[str, Any]) -> None:
        for event_id, kinds in content.items():
            for users in kinds.values():
                for user_id in users:
                    self.receipts[(room_id, user_id)] = event_id


class Stage:
    """The server, the people and the rooms of one scene."""

    def __init__(self, server: TestApp) -> None:
        self.server = server
        self.people: dict[str, Person] = {}
        self.rooms: dict[str, str] = {}
        self.said: dict[str, str] = {}  # text -> event id of the newest event that says it
        self._txn = 0

    def play(self, text: str) -> None:
        """Every line in order."""
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.partition("#")[0].strip()
            if not line:
                continue
            try:
                self._play_line(line)
            except AssertionError as error:
                raise SceneError(f"line {number}: {line}: {error}") from error

    def _play_line(self, line: str) -> None:
        refused = " cannot " in line
        said = line.replace(" cannot ", " ", 1) if refused else line
        for pattern, rule in _RULES:
            found = pattern.fullmatch(said)
            if found:
                rule(self, 403 if refused else 200, *found.groups())
                return
        raise SceneError("no rule knows this sentence")

    # --- the server ----------------------------------------------------------------------------------

    def person(self, name: str) -> Person:
        """Somebody; registered when first spoken of."""
        if name not in self.people:
            self.people[name] = Person(name, self.server.register(name))
        return self.people[name]

    def call(self, wanted: int, name: str, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """A request of somebody's, with the expected status."""
        status, json = self.server.call(method, f"{V3}{path}", body, self.person(name).token, query or None)
        if status != wanted:
            raise SceneError(f"{method} {path} was answered with {status}: {json}")
        return json

    def room(self, name: str) -> str:
        """The start of a room's paths."""
        return f"/rooms/{quote(self.rooms[name], safe='')}"

    def txn(self) -> str:
        """A new transaction id."""
        self._txn += 1
        return f"t{self._txn}"

    def send(self, wanted: int, name: str, room: str, event_type: str, content: Any) -> str:
        """Send an event; its id."""
        path = f"{self.room(room)}/send/{event_type}/{self.txn()}"
        return self.call(wanted, name, "PUT", path, content).get("event_id", "")

    def look(self, name: str) -> Person:
        """Somebody after their next sync."""
        person = self.person(name)
        query: dict[str, Any] = {"since": person.since} if person.since else {}
        person.fold(self.call(200, name, "GET", "/sync", **query))
        return person

    def require(self, truth: bool, otherwise: str) -> None:
        """Fail the line unless it is so."""
        if not truth:
            raise SceneError(otherwise)

    # --- doing ---------------------------------------------------------------------------------------

    def enter(self, _: int, names: str) -> None:
        for name in re.findall(r"\w+", names.replace(" and ", " ")):
            self.person(name)
            self.look(name)

    def create(
        self, wanted: int, name: str, kind: str | None, room: str, version: str | None, guests: str | None
    ) -> None:
        body: dict[str, Any] = {"preset": f"{kind or 'private'}_chat", "name": room}
        if version:
            body["room_version"] = version
        if guests:
            body["invite"] = [self.person(guest).user_id for guest in guests.split(" and ")]
        self.rooms[room] = self.call(wanted, name, "POST", "/createRoom", body).get("room_id", "")

    def restrict(self, wanted: int, name: str, room: str, to: str) -> None:
        allow = [{"type": "m.room_membership", "room_id": self.rooms[to]}]
        path = f"{self.room(room)}/state/m.room.join_rules/"
        self.call(wanted, name, "PUT", path, {"join_rule": "restricted", "allow": allow})

    def show_history(self, wanted: int, name: str, room: str, to: str) -> None:
        path = f"{self.room(room)}/state/m.room.history_visibility/"
        self.call(wanted, name, "PUT", path, {"history_visibility": to})

    def go(self, wanted: int, name: str, verb: str, room: str) -> None:
        self.call(wanted, name, "POST", f"{self.room(room)}/{verb}", {})

    def act_on(self, wanted: int, name: str, verb: str, other: str, room: str) -> None:
        self.call(wanted, name, "POST", f"{self.room(room)}/{verb}", {"user_id": self.person(other).user_id})

    def say(self, wanted: int, name: str, text: str, room: str) -> None:
        self.said[text] = self.send(wanted, name, room, "m.room.message", {"msgtype": "m.text", "body": text})

    def edit(self, wanted: int, name: str, old: str, new: str, room: str) -> None:
        content = {
            "msgtype": "m.text",
            "body": f"* {new}",
            "m.new_content": {"msgtype": "m.text", "body": new},
            "m.relates_to": {"rel_type": "m.replace", "event_id": self.said[old]},
        }
        self.said[new] = self.send(wanted, name, room, "m.room.message", content)

    def react(self, wanted: int, name: str, key: str, text: str, room: str) -> None:
        relation = {"rel_type": "m.annotation", "event_id": self.said[text], "key": key}
        self.send(wanted, name, room, "m.reaction", {"m.relates_to": relation})

    def redact(self, wanted: int, name: str, text: str, room: str) -> None:
        path = f"{self.room(room)}/redact/{quote(self.said[text], safe='')}/{self.txn()}"
        self.call(wanted, name, "PUT", path, {})

    def set_topic(self, wanted: int, name: str, room: str, topic: str) -> None:
        self.call(wanted, name, "PUT", f"{self.room(room)}/state/m.room.topic/", {"topic": topic})

    def type(self, wanted: int, name: str, verb: str, room: str) -> None:
        body = {"typing": True, "timeout": 30_000} if verb == "types" else {"typing": False}
        path = f"{self.room(room)}/typing/{quote(self.person(name).user_id, safe='')}"
        self.call(wanted, name, "PUT", path, body)

    def read(self, wanted: int, name: str, text: str, room: str) -> None:
        self.call(
            wanted, name, "POST", f"{self.room(room)}/receipt/m.read/{quote(self.said[text], safe='')}", {}
        )

    def publish_keys(self, wanted: int, name: str, count: str) -> None:
        person = self.person(name)
        if person.device is None:
            device_id = self.call(200, name, "GET", "/account/whoami")["device_id"]
            person.device = KeyDevice(person.user_id, device_id)
        first, person.keys = person.keys, person.keys + int(count)
        body = {
            "device_keys": {**person.device.keys(), "unsigned": {}, "org.example.edition": person.keys},
            "one_time_keys": person.device.one_time_keys(*(f"k{n}" for n in range(first, person.keys))),
            "fallback_keys": person.device.fallback_key(f"f{person.keys}"),
        }
        self.call(wanted, name, "POST", "/keys/upload", body)

    def whisper(self, wanted: int, name: str, text: str, other: str) -> None:
        user_id = self.person(other).user_id
        devices = self.call(200, name, "POST", "/keys/query", {"device_keys": {user_id: []}})
        claims = dict.fromkeys(devices["device_keys"][user_id], "signed_curve25519")
        claimed = self.call(200, name, "POST", "/keys/claim", {"one_time_keys": {user_id: claims}})
        found = claimed["one_time_keys"].get(user_id, {})
        self.require(list(found) == list(claims) and bool(found), f"there are keys for {list(found)}")
        body = {"messages": {user_id: {device_id: {"text": text} for device_id in found}}}
        self.call(wanted, name, "PUT", f"/sendToDevice/org.example.whisper/{self.txn()}", body)

    def upgrade(self, wanted: int, name: str, room: str, version: str, new: str) -> None:
        answer = self.call(wanted, name, "POST", f"{self.room(room)}/upgrade", {"new_version": version})
        self.rooms[new] = answer.get("replacement_room", "")

    def wait(self, _: int, seconds: str) -> None:
        self.server.advance(float(seconds))

    def restart(self, _: int) -> None:
        self.server.restart()

    # --- seeing --------------------------------------------------------------------------------------

    def sees(
        self, _: int, name: str, negated: str | None, text: str, sender: str | None, room: str | None
    ) -> None:
        person = self.look(name)
        found = [
            event
            for event in person.events.values()
            if event["content"].get("body") == text
            and (sender is None or event["sender"] == self.person(sender).user_id)
            and (room is None or event["room_id"] == self.rooms[room])
        ]
        self.require(
            bool(found) != bool(negated),
            f"{name} saw {[one['content'].get('body') for one in person.events.values()]}",
        )

    def sees_edit(self, _: int, name: str, old: str, new: str) -> None:
        edits = self._related(name, "m.replace", self.said[old])
        self.require(new in [one["content"]["m.new_content"]["body"] for one in edits], f"there are {edits}")

    def sees_reaction(self, _: int, name: str, key: str, sender: str, text: str) -> None:
        found = self._related(name, "m.annotation", self.said[text])
        pairs = [(one["content"]["m.relates_to"]["key"], one["sender"]) for one in found]
        self.require((key, self.person(sender).user_id) in pairs, f"there are {pairs}")

    def _related(self, name: str, rel_type: str, event_id: str) -> list[dict[str, Any]]:
        relations = ((one, one["content"].get("m.relates_to", {})) for one in self.look(name).events.values())
        return [
            one for one, to in relations if to.get("rel_type") == rel_type and to.get("event_id") == event_id
        ]

    def sees_redaction(self, _: int, name: str, text: str, room: str) -> None:
        self.require(self.said[text] in self.look(name).redacted, "no redaction of it was seen")
        event = self.call(200, name, "GET", f"{self.room(room)}/event/{quote(self.said[text], safe='')}")
        self.require(event["content"] == {}, f"it still says {event['content']}")
        self.require("redacted_because" in event["unsigned"], "it does not say why")

    def sees_typing(self, _: int, name: str, who: str, room: str) -> None:
        typing = self.look(name).typing.get(self.rooms[room], [])
        wanted = [] if who == "nobody" else [self.person(who).user_id]
        self.require(typing == wanted, f"typing are {typing}")

    def sees_receipt(self, _: int, name: str, who: str, text: str, room: str) -> None:
        key = (self.rooms[room], self.person(who).user_id)
        found = self.look(name).receipts.get(key)
        self.require(found == self.said[text], f"they read {found}")

    def hears_of_keys(self, _: int, name: str, other: str, how: str) -> None:
        person = self.look(name)
        wanted = "left" if how == "no more" else how
        found = person.lists.pop(self.person(other).user_id, None)
        self.require(found == wanted, f"they heard that {other} has {found}")

    def hears_whisper(self, _: int, name: str, text: str, other: str) -> None:
        found = self.look(name).whispers
        self.require((text, self.person(other).user_id) in found, f"{name} heard {found}")
        self.require(len(set(found)) == len(found), f"{name} heard something twice: {found}")

    def has_keys(self, _: int, name: str, count: str) -> None:
        found = self.look(name).sync["device_one_time_keys_count"]
        self.require(found.get("signed_curve25519", 0) == int(count), f"there are {found}")

    def needs_fallback(self, _: int, name: str) -> None:
        found = self.look(name).sync["device_unused_fallback_key_types"]
        self.require(found == [], f"unused are {found}")

    def hears_nothing(self, _: int, name: str) -> None:
        person = self.look(name)
        news = {key: person.sync[key] for key in ("to_device", "device_lists") if key in person.sync}
        self.require(not news, f"{name} was told {news}")

    def sees_topic(self, _: int, name: str, topic: str, room: str) -> None:
        found = self.look(name).state.get(self.rooms[room], {}).get(("m.room.topic", ""), {}).get("topic")
        self.require(found == topic, f"the topic is {found!r}")

    def stands(self, _: int, name: str, negated: str | None, how: str, room: str) -> None:
        person = self.look(name)
        where = person.state if how == "in" else person.invited
        self.require((self.rooms[room] in where) != bool(negated), f"{name} is in {sorted(person.state)}")

    def moved(self, _: int, name: str, old: str, new: str) -> None:
        tombstone = self.look(name).state[self.rooms[old]].get(("m.room.tombstone", ""), {})
        self.require(tombstone.get("replacement_room") == self.rooms[new], f"its tombstone is {tombstone}")

    def finds(self, _: int, name: str, negated: str | None, text: str, room: str) -> None:
        path = f"{self.room(room)}/messages"
        found: list[str] = []
        token: str | None = None
        while True:
            query = {"dir": "b", "limit": 50} | ({"from": token} if token else {})
            page = self.call(200, name, "GET", path, **query)
            found += [event["content"].get("body", event["type"]) for event in page["chunk"]]
            token = page.get("end")
            if token is None:
                break
        self.require((text in found) != bool(negated), f"the history holds {found}")


def _rules() -> list[tuple[re.Pattern[str], Callable[..., None]]]:
    """The sentences, and what each means."""
    patterns: list[tuple[str, Callable[..., None]]] = [
        (r"here are (.+)", Stage.enter),
        (
            rf"{_NAME} creates? (?:(public|private) )?room {_NAME}(?: in version (\w+))?(?: inviting (.+))?",
            Stage.create,
        ),
        (rf"{_NAME} restricts? {_NAME} to members of {_NAME}", Stage.restrict),
        (
            rf"{_NAME} shows? the history of {_NAME} to (joined|invited|shared|world_readable)",
            Stage.show_history,
        ),
        (rf"{_NAME} (join|leave|forget)s? {_NAME}", Stage.go),
        (rf"{_NAME} (invite|kick|ban|unban)s? {_NAME} (?:to|from|in) {_NAME}", Stage.act_on),
        (rf"{_NAME} sends? {_TEXT} to {_NAME}", Stage.say),
        (rf"{_NAME} edits? {_TEXT} to {_TEXT} in {_NAME}", Stage.edit),
        (rf"{_NAME} reacts? {_TEXT} to {_TEXT} in {_NAME}", Stage.react),
        (rf"{_NAME} redacts? {_TEXT} in {_NAME}", Stage.redact),
        (rf"{_NAME} sets? the topic of {_NAME} to {_TEXT}", Stage.set_topic),
        (rf"{_NAME} (types|stops typing) in {_NAME}", Stage.type),
        (rf"{_NAME} reads? {_TEXT} in {_NAME}", Stage.read),
        (rf"{_NAME} upgrades? {_NAME} to version (\w+) as {_NAME}", Stage.upgrade),
        (r"(\d+) seconds pass", Stage.wait),
        (r"the server restarts", Stage.restart),
        (rf"{_NAME} (?:sees|does (not) see) {_TEXT}(?: from {_NAME})?(?: in {_NAME})?", Stage.sees),
        (rf"{_NAME} sees {_TEXT} edited to {_TEXT}", Stage.sees_edit),
        (rf"{_NAME} sees the reaction {_TEXT} of {_NAME} to {_TEXT}", Stage.sees_reaction),
        (rf"{_NAME} sees that {_TEXT} was redacted in {_NAME}", Stage.sees_redaction),
        (rf"{_NAME} sees {_NAME} typing in {_NAME}", Stage.sees_typing),
        (rf"{_NAME} sees that {_NAME} read {_TEXT} in {_NAME}", Stage.sees_receipt),
        (rf"{_NAME} publish(?:es)? keys with (\d+) for one use", Stage.publish_keys),
        (rf"{_NAME} whispers? {_TEXT} to {_NAME}", Stage.whisper),
        (rf"{_NAME} hears the whisper {_TEXT} from {_NAME}", Stage.hears_whisper),
        (rf"{_NAME} hears that the keys of {_NAME} have (changed)", Stage.hears_of_keys),
        (rf"{_NAME} hears that {_NAME} is followed (no more)", Stage.hears_of_keys),
        (rf"{_NAME} has (\d+) keys? left", Stage.has_keys),
        (rf"{_NAME} must make a new fallback key", Stage.needs_fallback),
        (rf"{_NAME} is told nothing more", Stage.hears_nothing),
        (rf"{_NAME} sees the topic {_TEXT} of {_NAME}", Stage.sees_topic),
        (rf"{_NAME} is (?:(not) )?(in|invited to) {_NAME}", Stage.stands),
        (rf"{_NAME} sees that {_NAME} moved to {_NAME}", Stage.moved),
        (rf"{_NAME} (?:finds|does (not) find) {_TEXT} in the history of {_NAME}", Stage.finds),
    ]
    return [(re.compile(pattern), rule) for pattern, rule in patterns]


_RULES = tuple(_rules())
