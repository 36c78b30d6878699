"""What one finds: room lists, spaces, media, history, and servers that are not welcome."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from tests.interop.client import CLIENT, Client, room_path
from tests.interop.pair import eventually
from tests.interop.stories.base import Story, segment

HISTORY = 500
# A PNG of one red pixel.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc000000301"
    "0100c9fe92ef0000000049454e44ae426082"
)


class Places(Story):
    """See the module."""

    def test_public_room_list(self) -> None:
        """The other server's list, whole, searched and in pages."""
        word = secrets.token_hex(6)
        rooms = [self.create_room(name=f"Room {number} {word}", visibility="public") for number in range(3)]
        query = {"server": self.here.server_name}
        search = {"filter": {"generic_search_term": word}}

        def find() -> list[Any] | None:
            chunk: list[Any] = self.bob.ok("POST", f"{CLIENT}/publicRooms", search, query)["chunk"]
            return chunk if len(chunk) == len(rooms) else None

        # Synapse lists rooms by statistics that it brings up to date a moment later.
        found = eventually("three rooms in the list", find, self.bob)
        self.assertEqual({room["room_id"] for room in found}, set(rooms))
        (first,) = (room for room in found if room["room_id"] == rooms[0])
        self.assertEqual((first["name"], first["num_joined_members"]), (f"Room 0 {word}", 1))
        listed: list[str] = []
        since: dict[str, str] = {}
        while True:
            page = self.bob.ok("POST", f"{CLIENT}/publicRooms", {**search, "limit": 2, **since}, query)
            listed += [room["room_id"] for room in page["chunk"]]
            if "next_batch" not in page:
                break
            since = {"since": page["next_batch"]}
        self.assertEqual(sorted(listed), sorted(rooms))
        everything = self.bob.ok("GET", f"{CLIENT}/publicRooms", query=query)
        self.assertTrue(set(rooms) <= {room["room_id"] for room in everything["chunk"]})

    def test_alias(self) -> None:
        """An alias of the other server, and one that does not exist."""
        name = secrets.token_hex(6)
        room_id = self.create_room(room_alias_name=name)
        path = f"{CLIENT}/directory/room/{segment(f'#{name}:{self.here.server_name}')}"
        found = self.bob.ok("GET", path)
        self.assertEqual(found["room_id"], room_id)
        self.assertIn(self.here.server_name, found["servers"])
        missing = segment(f"#missing{name}:{self.here.server_name}")
        self.bob.refused("M_NOT_FOUND", "GET", f"{CLIENT}/directory/room/{missing}")

    def test_space(self) -> None:
        """A space's tree, read by a server that is only in the space, and by one that is in nothing of it."""
        space = self.create_room(name="Space", creation_content={"type": "m.space"})
        public = self.create_room(name="Public child")
        private = self.create_room(name="Private child", preset="private_chat")
        inner = self.create_room(name="Inner space", creation_content={"type": "m.space"})
        leaf = self.create_room(name="Leaf")
        via = {"via": [self.here.server_name]}
        for child in (public, private, inner):
            self.alice.put_state(space, "m.space.child", via, child)
        self.alice.put_state(inner, "m.space.child", via, leaf)
        self.bob.join(space, via=self.here.server_name)
        self.bob.is_in(space, "join")
        tree = self._hierarchy(self.bob, space)
        self.assertEqual(set(tree), {space, public, inner, leaf})
        self.assertEqual(tree[leaf]["name"], "Leaf")
        self.assertEqual(
            {event["state_key"] for event in tree[space]["children_state"]}, {public, private, inner}
        )
        self.assertEqual({event["state_key"] for event in tree[inner]["children_state"]}, {leaf})
        self.alice.invite(private, self.bob.user_id)
        self.bob.is_in(private, "invite")
        self.bob.join(private)
        self.bob.is_in(private, "join")
        self.assertIn(private, self._hierarchy(self.bob, space))

    def test_space_of_another_server(self) -> None:
        """A space of the other server in one's own, without being in anything of it; and its rooms one by one."""
        theirs = self.create_room(name="Theirs", creation_content={"type": "m.space"})
        public = self.create_room(name="Public child", topic="Come in")
        private = self.create_room(name="Private child", preset="private_chat")
        inner = self.create_room(name="Inner space", creation_content={"type": "m.space"})
        leaf = self.create_room(name="Leaf")
        via = {"via": [self.here.server_name]}
        for child in (public, private, inner):
            self.alice.put_state(theirs, "m.space.child", via, child)
        self.alice.put_state(inner, "m.space.child", via, leaf)
        own = self.create_room(self.bob, name="Own", creation_content={"type": "m.space"})
        self.bob.put_state(own, "m.space.child", via, theirs)
        tree = self._hierarchy(self.bob, own)
        self.assertEqual(set(tree), {own, theirs, public, inner, leaf})
        self.assertEqual(
            {event["state_key"] for event in tree[theirs]["children_state"]}, {public, private, inner}
        )
        query = {"via": self.here.server_name}
        path = "/_matrix/client/v1/room_summary"
        found = self.bob.ok("GET", f"{path}/{segment(public)}", query=query)
        self.assertEqual(
            (found["room_id"], found["name"], found["topic"], found["join_rule"], found["membership"]),
            (public, "Public child", "Come in", "public", "leave"),
        )
        self.assertEqual(self.bob.ask("GET", f"{path}/{segment(private)}", query=query)[0], 404)

    def _hierarchy(self, client: Client, space: str) -> dict[str, Any]:
        rooms: dict[str, Any] = {}
        query: dict[str, Any] = {"limit": 2}
        while True:
            page = client.ok("GET", f"/_matrix/client/v1/rooms/{segment(space)}/hierarchy", query=query)
            rooms |= {room["room_id"]: room for room in page["rooms"]}
            if "next_batch" not in page:
                return rooms
            query["from"] = page["next_batch"]

    def test_media(self) -> None:
        """A file and a picture of one side, downloaded and made smaller on the other; nothing without a login."""
        for owner, reader in self.both_ways():
            content = secrets.token_bytes(300_000)
            uri = _upload(owner, content, "application/octet-stream", "noise.bin")
            path = f"/_matrix/client/v1/media/download/{uri}"
            status, loaded = reader.ask("GET", path)
            self.assertEqual(status, 200, loaded)
            self.assertEqual(hashlib.sha256(loaded).digest(), hashlib.sha256(content).digest())
            again = reader.ask("GET", path)
            self.assertEqual((again[0], len(again[1])), (200, len(content)))
            self.assertEqual(Client(reader.process).ask("GET", path)[0], 401)
            uri = _upload(owner, PIXEL, "image/png", "pixel.png")
            query = {"width": 32, "height": 32, "method": "scale"}
            status, picture = reader.ask("GET", f"/_matrix/client/v1/media/thumbnail/{uri}", query=query)
            self.assertEqual(status, 200, picture)
            self.assertIn(picture[:4], (b"\x89PNG", b"\xff\xd8\xff\xe0"))
            missing = f"{owner.user_id.partition(':')[2]}/{secrets.token_hex(12)}"
            reader.refused("M_NOT_FOUND", "GET", f"/_matrix/client/v1/media/download/{missing}")

    def test_backfill(self) -> None:
        """The newcomer pages back over everything that was said before, in order, and finds days in it."""
        room_id = self.create_room()
        said = [self.alice.send(room_id, f"line {number}") for number in range(HISTORY)]
        self.bob.join(room_id, via=self.here.server_name)
        self.bob.is_in(room_id, "join")
        self.alice.sees_member(room_id, self.bob.user_id, "join")
        events = self.bob.history(room_id)
        read = [event["event_id"] for event in reversed(events) if event["type"] == "m.room.message"]
        self.assertEqual(read, said)
        self.assertEqual(events[-1]["type"], "m.room.create")
        self.agree(room_id)

    def test_timestamps(self) -> None:
        """A day of before the join is found by asking the others, and its event can be looked at."""
        room_id = self.create_room()
        said = [self.alice.send(room_id, f"line {number}") for number in range(40)]
        shown = self.alice.ok("GET", f"{room_path(room_id)}/event/{segment(said[3])}")
        self.bob.join(room_id, via=self.here.server_name)
        self.bob.is_in(room_id, "join")
        query = {"ts": shown["origin_server_ts"], "dir": "f"}
        found = self.bob.ok(
            "GET", f"/_matrix/client/v1/rooms/{segment(room_id)}/timestamp_to_event", query=query
        )
        self.assertIn(found["event_id"], said[:4])
        context = self.bob.ok("GET", f"{room_path(room_id)}/context/{segment(found['event_id'])}")
        self.assertEqual(context["event"]["event_id"], found["event_id"])

    def test_server_acl(self) -> None:
        """A server that is locked out neither hears nor is heard, and does not get in again."""
        room_id = self.meet()
        self.exchange(room_id, "Before")
        # Our own name is an address like the other's: allow it alone.
        acl = {"allow": [self.here.server_name], "deny": [], "allow_ip_literals": True}
        self.alice.put_state(room_id, "m.room.server_acl", acl)
        self.alice.sees_state(room_id, "m.room.server_acl", acl)
        unheard = self._shout(room_id)
        # Said in a room that both share: when it has come, the other would have come as well.
        other = self.meet()
        self.exchange(other, "After")
        self.alice.sync()
        self.assertNotIn(unheard, [event["event_id"] for event in self.alice.timelines[room_id]])
        carol = self.register(self.there, "carol")
        third = self.create_room(
            initial_state=[{"type": "m.room.server_acl", "state_key": "", "content": acl}]
        )
        status, _ = carol.ask("POST", f"{CLIENT}/join/{segment(third)}", {}, {"via": self.here.server_name})
        self.assertIn(status, (403, 404, 502))

    def _shout(self, room_id: str) -> str:
        # Whether bob's server lets him speak depends on whether the ACL has reached it.
        status, answer = self.bob.ask(
            "PUT",
            f"{room_path(room_id)}/send/m.room.message/{secrets.token_hex(6)}",
            {"msgtype": "m.text", "body": "Can you hear me?"},
        )
        return str(answer.get("event_id")) if status == 200 else ""


def _upload(owner: Client, content: bytes, content_type: str, name: str) -> str:
    status, answer = owner.ask(
        "POST", "/_matrix/media/v3/upload", content, {"filename": name}, content_type=content_type
    )
    assert status == 200, answer
    uri: str = answer["content_uri"]
    return uri.removeprefix("mxc://")
