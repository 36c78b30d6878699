"""``SyncApp``: a ``TestApp`` with short ways to make things happen in rooms, and to sync."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from twisted.internet.defer import Deferred

from federation.builder import Draft
from federation.ids import RoomId, UserId
from homeserver.db.engine import SqliteEngine
from homeserver.rooms.turn import Turn
from homeserver.store.account_data import put_account_data
from tests.support.app import SERVER_NAME, TestApp
from tests.support.http import Answer

T = TypeVar("T")
SYNC = "/_matrix/client/v3/sync"


class SyncApp(TestApp):
    """Rooms are made on the actors themselves: no other part of the API is needed."""

    # --- statements ----------------------------------------------------------------------------------

    def count_statements(self, action: Callable[[], T]) -> tuple[T, list[str]]:
        """What an action returns, and the statements that it ran."""
        seen: list[str] = []
        engine = self.engine
        assert isinstance(engine, SqliteEngine)
        engine.hook = seen.append
        try:
            return action(), seen
        finally:
            engine.hook = None

    # --- rooms ---------------------------------------------------------------------------------------

    def in_room(self, room_id: str, job: Callable[[Turn], Awaitable[T]]) -> T:
        """Run a job on a room's actor."""

        async def run() -> T:
            actor = await self.app.core.rooms.find(room_id)
            return await actor.run(job)

        return self.wait(Deferred.fromCoroutine(run()))

    def make_room(self, creator: str, room_id: str = "!room:test.example", **state: dict[str, Any]) -> str:
        """A public room."""
        actor = self.app.core.rooms.start(room_id, "11")

        async def job(turn: Turn) -> None:
            user = user_id(creator)
            events: tuple[tuple[str, str, dict[str, Any]], ...] = (
                ("m.room.create", "", {"room_version": "11"}),
                ("m.room.member", user, {"membership": "join", "displayname": creator}),
                ("m.room.power_levels", "", {"users": {user: 100}, "state_default": 0}),
                ("m.room.join_rules", "", {"join_rule": "public"}),
                *((name.replace("__", "."), "", content) for name, content in state.items()),
            )
            for type_, key, content in events:
                await turn.place(draft(room_id, creator, type_, content, key))

        self.wait(actor.run(job))
        return room_id

    def place(
        self, room_id: str, sender: str, type_: str, content: dict[str, Any], state_key: str | None = None
    ) -> str:
        """Put an event into a room; its id."""

        async def job(turn: Turn) -> str:
            return (await turn.place(draft(room_id, sender, type_, content, state_key))).event.event_id

        return self.in_room(room_id, job)

    def say(self, room_id: str, sender: str, body: str) -> str:
        """Send a message."""
        return self.place(room_id, sender, "m.room.message", {"msgtype": "m.text", "body": body})

    def member(self, room_id: str, sender: str, membership: str, whom: str = "", **more: Any) -> str:
        """Change a membership."""
        content = {"membership": membership, **more}
        return self.place(room_id, sender, "m.room.member", content, user_id(whom or sender))

    def redact(self, room_id: str, sender: str, target_id: str) -> str:
        """Redact an event."""

        async def job(turn: Turn) -> str:
            one = draft(room_id, sender, "m.room.redaction", {"redacts": target_id})
            return (await turn.place(one, redacts_target=target_id)).event.event_id

        return self.in_room(room_id, job)

    def put_account_data(self, token: str, room_id: str, type_: str, content: Any) -> None:
        """Keep account data, of the account where there is no room."""
        interner = self.app.core.interner
        user_nid = self.wait(Deferred.fromCoroutine(interner.find_user(self.whoami(token))))
        room_nid = self.wait(Deferred.fromCoroutine(interner.find_room(room_id))) if room_id else 0
        assert user_nid is not None and room_nid is not None
        text = msgspec.json.encode(content).decode()
        self.wait(self.app.core.committer.work(put_account_data, user_nid, room_nid, type_, text))

    def whoami(self, token: str) -> str:
        found: str = self.ok("GET", "/_matrix/client/v3/account/whoami", None, token)["user_id"]
        return found

    # --- syncs ---------------------------------------------------------------------------------------

    def sync(self, token: str, since: str | None = None, **query: Any) -> Any:
        """A sync's JSON."""
        return self.ok("GET", SYNC, None, token, sync_query(since, query))

    def poll(self, token: str, since: str, timeout_s: float = 30, **query: Any) -> Deferred[Answer]:
        """A sync that waits."""
        return self.start(
            "GET", SYNC, None, token, sync_query(since, {"timeout": int(timeout_s * 1000), **query})
        )


def sync_query(since: str | None, query: dict[str, Any]) -> dict[str, str]:
    """The query of a sync; a filter may be given as an object."""
    found = {"since": since} if since is not None else {}
    for name, value in query.items():
        name = name.replace("__", ".")
        if isinstance(value, dict):
            found[name] = msgspec.json.encode(value).decode()
        elif isinstance(value, bool):
            found[name] = "true" if value else "false"
        else:
            found[name] = str(value)
    return found


def user_id(name: str) -> str:
    """The user id of a name."""
    return f"@{name}:{SERVER_NAME}"


def draft(
    room_id: str, sender: str, type_: str, content: dict[str, Any], state_key: str | None = None
) -> Draft:
    """An event to be."""
    return Draft(
        room_id=RoomId(room_id),
        type=type_,
        sender=UserId(user_id(sender)),
        content=content,
        state_key=state_key,
    )


def room_path(room_id: str) -> str:
    """A room's path in the API."""
    return f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}"
