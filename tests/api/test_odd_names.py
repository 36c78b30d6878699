"""Members with names that are no names: old ones with characters that are not allowed any more, and what was never one.

Servers take what events say of them; to clients they are told in events, and nowhere else.

# spec: appendices#historical-user-ids
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from tests.api.receiving import ReceiveCase
from tests.api.rooms import ALICE, V3
from tests.support.databases import on_each_database

_OLD = ("@é ü:peer.example", "@:peer.example", "@a\u0007b:peer.example")
_NONE = ("", "x", "@nocolon", "@x:y z", "!a:b.example", "@x:")
_V1 = "/_matrix/client/v1"
_SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"


@on_each_database
class OddNames(ReceiveCase):
    def setUp(self) -> None:
        super().setUp()
        self.mallory = self.peer.user()
        self.path = f"{V3}/rooms/{quote(self.room_id)}"
        encryption = {"algorithm": "m.megolm.v1.aes-sha2"}
        self.app.ok("PUT", f"{self.path}/state/m.room.encryption/", encryption, self.alice)
        levels = {"users": {ALICE: 100, self.mallory: 50}}
        self.app.ok("PUT", f"{self.path}/state/m.room.power_levels/", levels, self.alice)
        self.peer.follow(self.app, self.room_id)
        self.since = self.sync()["next_batch"]
        self.slid = self.slide()["pos"]
        for user_id in (*_OLD, self.mallory):
            self.push("m.room.member", {"membership": "join"}, user_id, user_id)

    def push(self, event_type: str, content: Any, state_key: str, sender: str) -> None:
        event = self.room.add(event_type, content, state_key=state_key, sender=sender)
        self.assert_taken(self.peer.push(self.app, event), event)

    def sync(self, **query: Any) -> Any:
        return self.app.ok("GET", f"{V3}/sync", None, self.alice, query)

    def slide(self, **query: Any) -> Any:
        asked = {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": []}
        body = {"lists": {"all": asked}, "extensions": {"e2ee": {"enabled": True}}}
        return self.app.ok("POST", _SLIDING, body, self.alice, query)

    def test_device_lists(self) -> None:
        told = self.sync(since=self.since)
        self.assertEqual({"changed": [self.mallory], "left": []}, told["device_lists"])
        slid = self.slide(pos=self.slid)
        self.assertEqual([self.mallory], slid["extensions"]["e2ee"]["device_lists"]["changed"])
        for user_id in (*_OLD, self.mallory):
            self.push("m.room.member", {"membership": "leave"}, user_id, user_id)
        later = self.sync(since=told["next_batch"])
        self.assertEqual({"changed": [], "left": [self.mallory]}, later["device_lists"])
        query = {"from": told["next_batch"], "to": later["next_batch"]}
        changes = self.app.ok("GET", f"{V3}/keys/changes", None, self.alice, query)
        self.assertEqual(later["device_lists"], changes)

    def test_heroes(self) -> None:
        for name in _NONE:
            self.push("m.room.member", {"membership": "invite"}, name, self.mallory)
        for token in (None, self.since):
            query = {} if token is None else {"since": token}
            room = self.sync(**query)["rooms"]["join"][self.room_id]
            self.assertEqual([self.mallory], room["summary"]["m.heroes"])
            self.assertEqual(2 + len(_OLD), room["summary"]["m.joined_member_count"])
        (room,) = self.slide()["rooms"].values()
        self.assertEqual([self.mallory], [hero["user_id"] for hero in room["heroes"]])
        for name in _NONE:
            self.push("m.room.member", {"membership": "ban"}, name, self.mallory)
        self.push("m.room.member", {"membership": "leave"}, self.mallory, self.mallory)
        # Those who are gone name it now.
        (room,) = self.slide()["rooms"].values()
        self.assertEqual([], [hero["user_id"] for hero in room["heroes"] if hero["user_id"] in _NONE])

    def test_heroes_behind_odd_names(self) -> None:
        """Those who came first cannot be told; the next ones name the room."""
        for name in _NONE:
            self.push("m.room.member", {"membership": "invite"}, name, self.mallory)
        others = [f"@guest{number}:{self.peer.server_name}" for number in range(6)]
        for user_id in others:
            self.push("m.room.member", {"membership": "join"}, user_id, user_id)
        told = [self.mallory, *others[:4]]
        summary = self.sync()["rooms"]["join"][self.room_id]["summary"]
        self.assertEqual(told, summary["m.heroes"])
        (room,) = self.slide()["rooms"].values()
        self.assertEqual(told, [hero["user_id"] for hero in room["heroes"]])

    def test_heroes_who_are_gone_behind_odd_names(self) -> None:
        others = [f"@guest{number}:{self.peer.server_name}" for number in range(3)]
        for user_id in others:
            self.push("m.room.member", {"membership": "join"}, user_id, user_id)
        for name in _NONE:
            self.push("m.room.member", {"membership": "invite"}, name, self.mallory)
        for user_id in (*others, self.mallory):
            self.push("m.room.member", {"membership": "leave"}, user_id, user_id)
        summary = self.sync()["rooms"]["join"][self.room_id]["summary"]
        self.assertEqual([*others, self.mallory], summary["m.heroes"])

    def test_a_nul(self) -> None:
        """PostgreSQL's texts have none: it is asked for such a name as it is stored."""
        name = "@a\0b:peer.example"
        self.push("m.room.member", {"membership": "invite"}, name, self.mallory)
        wish = {"ranges": [[0, 9]], "timeline_limit": 5, "required_state": [["m.room.member", "$LAZY"]]}
        slid = self.app.ok("POST", _SLIDING, {"lists": {"all": wish}}, self.alice)
        (room,) = slid["rooms"].values()
        self.assertIn(name, [event["state_key"] for event in room["required_state"]])
        lazy = json.dumps({"room": {"state": {"lazy_load_members": True}}})
        told = self.sync(filter=lazy, use_state_after="true")["rooms"]["join"][self.room_id]
        self.assertIn(name, [event["state_key"] for event in told["state_after"]["events"]])

    def test_types_and_members_that_are_asked_for(self) -> None:
        name = "@a\0b:peer.example"
        self.push("m.room.member", {"membership": "invite"}, name, self.mallory)
        pairs = [["m.room.member", name]]
        for event_type in ("a\0b", "\x01a"):
            self.push(event_type, {}, "", self.mallory)
            pairs.append([event_type, ""])
        wish = {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": pairs}
        slid = self.app.ok("POST", _SLIDING, {"lists": {"all": wish}}, self.alice)
        (room,) = slid["rooms"].values()
        told = [[event["type"], event["state_key"]] for event in room["required_state"]]
        self.assertEqual(sorted(pairs), sorted(told))

    def test_a_type_of_what_relates(self) -> None:
        root = self.room.say("root")
        relation = {"m.relates_to": {"rel_type": "m.reference", "event_id": root.event_id}}
        child = self.room.add("\x01a", relation)
        self.assert_taken(self.peer.push(self.app, root, child), root, child)
        path = f"{_V1}/rooms/{quote(self.room_id)}/relations/{quote(root.event_id)}/m.reference/%01a"
        chunk = self.app.ok("GET", path, None, self.alice)["chunk"]
        self.assertEqual([child.event_id], [event["event_id"] for event in chunk])

    def test_who_is_there(self) -> None:
        joined = self.app.ok("GET", f"{self.path}/joined_members", None, self.alice)["joined"]
        self.assertEqual({ALICE, self.mallory}, set(joined))
        # The events themselves say whatever they say.
        chunk = self.app.ok("GET", f"{self.path}/members", None, self.alice)["chunk"]
        self.assertEqual({ALICE, self.mallory, *_OLD}, {event["state_key"] for event in chunk})

    def test_the_user_directory(self) -> None:
        found = self.app.ok("POST", f"{V3}/user_directory/search", {"search_term": "peer"}, self.alice)
        self.assertEqual([self.mallory], [one["user_id"] for one in found["results"]])

    def test_pictures_that_are_none(self) -> None:
        for url in ("x", "https://peer.example/", "mxc://peer.example/m"):
            content = {"membership": "join", "displayname": "Mallory", "avatar_url": url}
            self.push("m.room.member", content, self.mallory, self.mallory)
            shown = {"display_name": "Mallory", **({"avatar_url": url} if url.startswith("mxc:") else {})}
            joined = self.app.ok("GET", f"{self.path}/joined_members", None, self.alice)["joined"]
            self.assertEqual(shown, joined[self.mallory])
            found = self.app.ok("POST", f"{V3}/user_directory/search", {"search_term": "mall"}, self.alice)
            self.assertEqual([{"user_id": self.mallory, **shown}], found["results"])
