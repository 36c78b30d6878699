"""A bridge and a person: run as `python -m tests.clients.mautrix_program FILE PHASE URL NOTES`.

talk    ghosts, a portal, a double puppet, profiles, media, questions, and everything that alice says comes to the bridge
burst   alice and a ghost talk until the server is gone
verify  a new process of the bridge, and of the server: whatever was acknowledged came, in order; and they go on
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession
from mautrix.errors import MatrixError, MatrixResponseError
from mautrix.types import EventType, MessageType, TextMessageEventContent

from tests.clients.mautrix_bridge import Bridge, load_registrations
from tests.clients.notes import Account, Notes, check

PASSWORD = "correct horse battery"
V3 = "/_matrix/client/v3"
BURST = 400


class Person:
    """Alice, by plain requests: she knows nothing of bridges."""

    def __init__(self, session: ClientSession, base_url: str, account: Account | None = None) -> None:
        self._session = session
        self._base_url = base_url
        self.account = account or Account()
        self._number = 0

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.account.token}"} if self.account.token else {}
        async with self._session.request(method, self._base_url + path, json=body, headers=headers) as answer:
            content = await answer.json()
            if answer.status != 200:
                raise AssertionError(f"{method} {path}: {answer.status} {content}")
            return content

    async def register(self, name: str) -> None:
        body = {"username": name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        answer = await self.ask("POST", f"{V3}/register", body)
        self.account = Account(answer["user_id"], PASSWORD, answer["access_token"], answer["device_id"])

    async def say(self, room_id: str, text: str) -> str:
        path = f"{V3}/rooms/{room_id}/send/m.room.message/{text.replace(' ', '-')}"
        answer = await self.ask("PUT", path, {"msgtype": "m.text", "body": text})
        return str(answer["event_id"])

    async def read(self, room_id: str, event_id: str) -> Any:
        return await self.ask("GET", f"{V3}/rooms/{room_id}/event/{event_id}")


async def talk(bridge: Bridge, alice: Person, notes: Notes) -> None:
    await bridge.bot.ensure_registered()
    check(await bridge.service.ping_self("meow") >= 0, "the server reaches the bridge")
    await alice.register("alice")
    ghost = bridge.ghost("bob")
    await ghost.ensure_registered()
    await ghost.set_displayname("Bob from elsewhere")
    profile = await alice.ask("GET", f"{V3}/profile/{bridge.ghost_id('bob')}")
    check(profile["displayname"] == "Bob from elsewhere", "a ghost has a name")

    notes.room_id = room_id = str(await ghost.create_room(name="portal", invitees=[alice.account.user_id]))
    await alice.ask("POST", f"{V3}/join/{room_id}", {})
    await bridge.wait_until(
        lambda: any(
            e.room_id == room_id
            and e.type == EventType.ROOM_MEMBER
            and e.state_key == alice.account.user_id
            and e.content.membership.value == "join"
            and e.unsigned.prev_content.membership.value == "invite"
            for e in bridge.events
        ),
        "the bridge hears that alice came, and that she was invited",
    )
    await alice.say(room_id, "hello bridge")
    await bridge.wait_until(lambda: "hello bridge" in bridge.texts(room_id), "the bridge hears alice")

    event_id = await ghost.send_text(room_id, "long ago", timestamp=1_234_567_890)
    event = await alice.read(room_id, event_id)
    check(event["sender"] == bridge.ghost_id("bob"), "alice hears a ghost")
    check(event["origin_server_ts"] == 1_234_567_890, "and when it was said elsewhere")
    uri = await ghost.upload_media(b"a file", mime_type="text/plain", filename="f.txt")
    check(str(uri).startswith("mxc://"), "a ghost uploads a file")

    puppet = bridge.double_puppet(alice.account.user_id)
    content = TextMessageEventContent(msgtype=MessageType.TEXT, body="from my phone")
    own = await alice.read(room_id, await puppet.send_message(room_id, content))
    check(own["sender"] == alice.account.user_id, "a double puppet speaks as alice")
    await puppet.mark_read(room_id, event_id)
    await bridge.wait_until(
        lambda: any(str(e.type) == "m.receipt" and e.room_id == room_id for e in bridge.ephemeral),
        "the bridge hears how far alice has read",
    )
    await alice.ask(
        "PUT", f"{V3}/rooms/{room_id}/typing/{alice.account.user_id}", {"typing": True, "timeout": 5000}
    )
    await bridge.wait_until(
        lambda: any(
            str(e.type) == "m.typing" and alice.account.user_id in e.content.user_ids
            for e in bridge.ephemeral
        ),
        "the bridge hears that alice types",
    )
    await questions(bridge, alice)
    await refusals(bridge)
    notes.alice = alice.account


async def questions(bridge: Bridge, alice: Person) -> None:
    """The bridge makes what is asked for."""
    profile = await alice.ask("GET", f"{V3}/profile/{bridge.ghost_id('asked')}")
    check("displayname" in profile, "a ghost is there once somebody asks for it")
    alias = f"%23mx_asked:{bridge.domain}"
    room = await alice.ask("GET", f"{V3}/directory/room/{alias}")
    check(room["room_id"].startswith("!"), "and so is a room")
    check(len(bridge.asked) == 2, "the bridge was asked once for each")


async def refusals(bridge: Bridge) -> None:
    stranger = bridge.bot.user(f"@stranger:{bridge.domain}")
    try:
        await stranger.whoami()
    except MatrixError as error:
        check(error.http_status == 403, "a bridge is nobody but its own users")
    else:
        check(False, "a bridge is nobody but its own users")


async def burst(bridge: Bridge, alice: Person, notes: Notes, path: Path) -> None:
    """Until the server is gone; what was acknowledged is noted."""
    ghost = bridge.ghost("bob")

    async def speak(name: str, say: Any) -> None:
        for number in range(BURST):
            text = f"{name} {number}"
            try:
                event_id = str(await say(text))
            except (ClientError, MatrixResponseError, MatrixError, OSError, AssertionError):
                return
            notes.messages[event_id] = text
            print(f"acknowledged {event_id}", flush=True)

    async def as_alice(text: str) -> str:
        return await alice.say(notes.room_id, text)

    async def as_ghost(text: str) -> Any:
        return await ghost.send_text(notes.room_id, text)

    await asyncio.gather(speak("alice", as_alice), speak("ghost", as_ghost))
    notes.in_flight = {str(number): text for number, text in enumerate(bridge.texts(notes.room_id))}
    notes.save(path)


async def verify(bridge: Bridge, alice: Person, notes: Notes) -> None:
    wanted = list(notes.messages.values())
    heard_before = list(notes.in_flight.values())

    def heard() -> list[str]:
        # What the first process had in hand when it ended may come again under another id: at least once.
        return list(dict.fromkeys([*heard_before, *bridge.texts(notes.room_id)]))

    await alice.say(notes.room_id, "the last word")
    await bridge.wait_until(
        lambda: "the last word" in heard(), "the bridge hears what is said after the restart"
    )
    missing = [text for text in wanted if text not in heard()]
    check(
        not missing,
        f"nothing that was acknowledged is missing ({len(wanted)} messages, missing {missing[:5]})",
    )
    for name in ("alice", "ghost"):
        order = [int(text.split()[1]) for text in heard() if text.startswith(f"{name} ")]
        check(order == sorted(order), f"what {name} said came in order")
    repeated = len(bridge.transactions) - len(set(bridge.transactions))
    check(repeated == 0, "no transaction was told twice to a bridge that answers")
    await bridge.ghost("bob").send_text(notes.room_id, "we go on")
    await bridge.wait_until(lambda: "we go on" in heard(), "and it goes on")
    # It raises where the ping fails, and gives -1 for a duration of less than a millisecond.
    await bridge.service.ping_self()
    check(True, "the server still reaches the bridge")


async def main(registrations: str, phase: str, base_url: str, notes_file: str) -> None:
    path = Path(notes_file)
    notes = Notes() if phase == "talk" else Notes.load(path)
    with tempfile.TemporaryDirectory(prefix="mautrix-") as folder:
        async with ClientSession() as session:
            bridge = Bridge(base_url, load_registrations(Path(registrations)), Path(folder))
            alice = Person(session, base_url, None if phase == "talk" else notes.alice)
            await bridge.start()
            try:
                if phase == "talk":
                    await talk(bridge, alice, notes)
                elif phase == "burst":
                    await burst(bridge, alice, notes, path)
                else:
                    await verify(bridge, alice, notes)
                notes.save(path)
            finally:
                await bridge.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
