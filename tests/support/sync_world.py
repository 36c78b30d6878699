"""A small world in which things happen, for the law of both kinds of sync."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from twisted.trial.unittest import TestCase

from homeserver.http.errors import MatrixError
from tests.support.sync import SyncApp, room_path

ROOMS = ("!one:test.example", "!two:test.example")
SYNC = ("sync", "", "")
# A room loses its name, once in sight; before the second time is told, a story may put something between.
NAMELESS = (
    ("name", ROOMS[0], "alice"),
    SYNC,
    ("redact-name", ROOMS[0], "alice"),
    SYNC,
    ("name", ROOMS[0], "alice"),
    SYNC,
    ("redact-name", ROOMS[0], "alice"),
)
HOME = "!home:test.example"  # where everybody stays
PEOPLE = ("alice", "bob", "carol")


class SyncWorld:
    """Two rooms of alice's, and bob, who listens."""

    def __init__(self, case: TestCase, database: str = "sqlite::memory:") -> None:
        self.app = SyncApp(case, database)
        self.tokens = {name: self.app.register(name) for name in PEOPLE}
        for room_id in ROOMS:
            self.app.make_room("alice", room_id)
        self.app.make_room("alice", HOME)
        for name in PEOPLE[1:]:
            self.app.member(HOME, name, "join")
        self.last: dict[str, str] = {}
        self.named: dict[str, str] = {}
        self.count = 0

    def act(self, kind: str, room_id: str, who: str) -> None:
        """Do it, if the room's rules let it."""
        self.count += 1
        try:
            self._act(kind, room_id, who)
        except MatrixError as refused:
            if refused.status != 403:
                raise

    def _act(self, kind: str, room_id: str, who: str) -> None:
        app = self.app
        if kind == "say":
            self.last[room_id] = app.say(room_id, who, f"{self.count}")
        elif kind == "topic":
            app.place(room_id, who, "m.room.topic", {"topic": f"{self.count}"}, "")
        elif kind == "name":
            self.named[room_id] = app.place(room_id, who, "m.room.name", {"name": f"{self.count}"}, "")
        elif kind == "rename":
            app.member(room_id, who, "join", displayname=f"{who}{self.count}")
        elif kind in ("join", "leave") and who != "alice":
            app.member(room_id, who, kind)
        elif kind == "quit":
            app.member(room_id, who, "leave")
            app.call("POST", f"{room_path(room_id)}/forget", {}, self.tokens[who])
        elif kind in ("invite", "kick", "ban", "unban"):
            membership = {"kick": "leave", "unban": "leave"}.get(kind, kind)
            app.member(room_id, "alice", membership, who)
        elif kind == "redact" and room_id in self.last:
            app.redact(room_id, "alice", self.last[room_id])
        elif kind == "redact-name" and room_id in self.named:
            app.redact(room_id, "alice", self.named[room_id])
        elif kind == "tag":
            app.put_account_data(self.tokens["bob"], room_id, "m.tag", {"n": self.count})
            app.put_account_data(self.tokens["bob"], "", "org.example", {"n": self.count})
        elif kind == "direct":
            rooms: dict[str, Any] = {"@alice:test.example": [room_id] if self.count % 2 else []}
            app.put_account_data(self.tokens["bob"], "", "m.direct", rooms)
        elif kind.startswith("read") and room_id in self.last:
            path = f"{room_path(room_id)}/receipt/m.{kind}/{quote(self.last[room_id], safe='')}"
            app.call("POST", path, {}, self.tokens[who])
        elif kind in ("open", "closed"):
            value = "shared" if kind == "open" else "joined"
            app.place(room_id, "alice", "m.room.history_visibility", {"history_visibility": value}, "")
        elif kind == "restart":
            app.restart()

    def log_in(self) -> str:
        """Another device of bob's: it must not disturb what the server remembers of the first."""
        answer = self.app.ok(
            "POST",
            "/_matrix/client/v3/login",
            {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": "bob"},
                "password": "correct horse",
            },
        )
        token: str = answer["access_token"]
        return token
