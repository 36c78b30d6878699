"""What is the clients' own affair goes through as it is: image packs, polls, locations, voice messages, encryption."""

from __future__ import annotations

from typing import Any

from tests.api.talk import TalkCase, user
from tests.support.databases import on_each_database

MXC = "mxc://test.example/abc"
PACK = {
    "images": {
        "ada": {
            "url": MXC,
            "body": "Ada",
            "info": {"w": 256, "h": 256, "mimetype": "image/png"},
            "usage": ["sticker"],
        },
        "ü😀": {"url": MXC},
    },
    "pack": {"display_name": "Kings", "avatar_url": MXC, "usage": ["emoticon"], "attribution": "CC"},
}
STATE: tuple[tuple[str, str, Any], ...] = (
    ("m.room.image_pack", "kings", PACK),
    ("im.ponies.room_emotes", "", PACK),
    ("m.beacon_info", user("alice"), {"live": True, "timeout": 60_000, "m.asset": {"type": "m.self"}}),
    ("org.matrix.msc3672.beacon_info", user("alice"), {"live": False}),
    ("m.room.encryption", "", {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 100}),
    ("im.vector.modular.widgets", "w", {"type": "m.custom", "url": "https://example.org", "data": {}}),
)
MESSAGES: tuple[tuple[str, Any], ...] = (
    ("m.sticker", {"body": "Ada", "url": MXC, "info": {"w": 1, "h": 1}}),
    (
        "m.poll.start",
        {
            "m.text": [{"body": "Tea?\n1. Yes", "mimetype": "text/plain"}],
            "m.poll": {
                "kind": "m.disclosed",
                "max_selections": 1,
                "question": {"m.text": [{"body": "Tea?"}]},
                "answers": [{"m.id": "yes", "m.text": [{"body": "Yes"}]}],
            },
        },
    ),
    ("org.matrix.msc3381.poll.start", {"org.matrix.msc3381.poll.start": {"answers": [], "kind": "x"}}),
    ("m.location", {"m.location": {"uri": "geo:51.5,0.1;u=35", "description": "here"}, "m.ts": 1}),
    (
        "m.room.message",
        {
            "msgtype": "m.location",
            "body": "here",
            "geo_uri": "geo:51.5008,0.1247;u=35",
            "m.asset": {"type": "m.pin"},
        },
    ),
    ("m.room.message", {"msgtype": "m.audio", "body": "v", "url": MXC, "org.matrix.msc3245.voice": {}}),
    ("m.room.encrypted", {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AwgA", "session_id": "s"}),
    ("im.chaos.nudge", {"body": "nudge"}),
)


@on_each_database
class PassedThrough(TalkCase):
    """Alice sends, bob reads by every way."""

    def test_state(self) -> None:
        room_id = self.make_room(joined=("bob",))
        since = self.ok("bob", "/_matrix/client/v3/sync")["next_batch"]
        for event_type, state_key, content in STATE:
            self.set_state("alice", room_id, event_type, content, state_key)
            path = self.path(room_id, "state", event_type, state_key)
            self.assertEqual(content, self.ok("bob", path))
        timeline = self.ok("bob", "/_matrix/client/v3/sync", since=since)["rooms"]["join"][room_id][
            "timeline"
        ]
        self.assertEqual(
            list(STATE), [(one["type"], one["state_key"], one["content"]) for one in timeline["events"]]
        )

    def test_messages(self) -> None:
        room_id = self.make_room(joined=("bob",))
        since = self.ok("bob", "/_matrix/client/v3/sync")["next_batch"]
        ids = []
        for event_type, content in MESSAGES:
            status, json = self.send("alice", room_id, content, event_type)
            self.assertEqual(200, status, json)
            ids.append(json["event_id"])
        timeline = self.ok("bob", "/_matrix/client/v3/sync", since=since)["rooms"]["join"][room_id][
            "timeline"
        ]
        self.assertEqual(list(MESSAGES), [(one["type"], one["content"]) for one in timeline["events"]])
        for event_id, (event_type, content) in zip(ids, MESSAGES, strict=True):
            event = self.ok("bob", self.path(room_id, "event", event_id))
            self.assertEqual((event_type, content), (event["type"], event["content"]))

    def test_votes_are_collected(self) -> None:
        room_id = self.make_room(joined=("bob",))
        status, json = self.send("alice", room_id, dict(MESSAGES[1][1]), "m.poll.start")
        poll_id = json["event_id"]
        for kind, more in (("m.poll.response", {"m.selections": ["yes"]}), ("m.poll.end", {"m.text": []})):
            relates_to = {"rel_type": "m.reference", "event_id": poll_id}
            status, json = self.send("bob", room_id, {**more, "m.relates_to": relates_to}, kind)
            self.assertEqual(200, status, json)
        path = f"/_matrix/client/v1/rooms/{room_id}/relations/{poll_id}/m.reference"
        found = self.ok("alice", path)["chunk"]
        self.assertEqual(["m.poll.end", "m.poll.response"], [event["type"] for event in found])
        votes = self.ok("alice", f"{path}/m.poll.response")["chunk"]
        self.assertEqual([["yes"]], [event["content"]["m.selections"] for event in votes])

    def test_packs_and_others_in_account_data(self) -> None:
        for kind, content in (
            ("m.image_pack.rooms", {"rooms": {"!a:b": {"kings": {}}}}),
            ("im.ponies.user_emotes", PACK),
            ("m.widgets", {"w": {"type": "m.widget"}}),
        ):
            path = f"/_matrix/client/v3/user/{user('alice')}/account_data/{kind}"
            self.app.ok("PUT", path, content, self.tokens["alice"])
            self.assertEqual(content, self.ok("alice", path))
