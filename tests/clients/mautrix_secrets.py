"""A bridge that encrypts and a person who does: run as `python -m tests.clients.mautrix_secrets FILE PHASE URL NOTES`.

The bridge is mautrix-python's with its own encryption (devices by MSC4190, keys and messages to devices in transactions,
MSC3202 and MSC2409; libolm); alice has matrix-nio (vodozemac).

talk    the bot makes its device; alice and the bridge read each other; a ghost speaks; the bridge goes away
verify  the server was killed meanwhile. Alice speaks with new keys while the bridge is away; it comes back and reads that
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nio
from mautrix.appservice.state_store.asyncpg import PgASStateStore
from mautrix.bridge.e2ee import EncryptionManager
from mautrix.types import EventType, MessageType, TextMessageEventContent
from mautrix.util.async_db import Database

from tests.clients.mautrix_bridge import Bridge, load_registrations
from tests.clients.nio_person import Person, demand
from tests.clients.nio_secrets import ENCRYPTION, appear, read
from tests.clients.notes import Notes, check

CONFIG = {
    "bridge.encryption.verification_levels": {
        "send": "unverified",
        "share": "unverified",
        "receive": "unverified",
    },
    "bridge.encryption.allow_key_sharing": True,
    "bridge.encryption.appservice": True,
    "bridge.encryption.msc4190": True,
    "bridge.encryption.self_sign": False,
    "bridge.encryption.delete_keys": {},
    "bridge.encryption.rotation.disable_device_change_key_rotation": False,
}
# Of the bridge's own tables the encryption knows one.
PORTAL = "CREATE TABLE IF NOT EXISTS portal (mxid TEXT PRIMARY KEY, encrypted BOOLEAN)"


class SecretBridge:
    """One process of the bridge; what it knows is in a folder that outlasts it."""

    def __init__(self, base_url: str, registrations: dict[str, Any], folder: Path) -> None:
        self._database = Database.create(
            f"sqlite:///{folder / 'state.db'}", upgrade_table=PgASStateStore.upgrade_table
        )
        self._base_url = base_url
        self._keys_url = f"sqlite:///{folder / 'state.db'}"
        state_store = PgASStateStore(self._database)
        self.bridge = Bridge(base_url, registrations, folder, state_store=state_store, encrypts=True)
        self.keys: EncryptionManager
        self.read: dict[str, str] = {}  # event id -> what it said
        self._tasks: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        await self._database.start()
        await self._database.execute(PORTAL)
        service = self.bridge.service

        async def portal(room_id: str) -> Any:
            return SimpleNamespace(encrypted=await service.state_store.is_encrypted(room_id))

        stands_for = SimpleNamespace(
            az=service,
            loop=asyncio.get_running_loop(),
            config=CONFIG,
            name="tests",
            state_store=service.state_store,
            get_portal=portal,
        )
        own = self.bridge.ghost_id("")
        prefix, _, domain = own.partition(":")
        self.keys = EncryptionManager(stands_for, self._base_url, prefix, f":{domain}", self._keys_url)
        service.matrix_event_handler(self._on_event)
        await self.bridge.listen()
        await self.bridge.bot.ensure_registered()
        await self.keys.start()
        # Before that the library knows of no device of its own, and drops what is for one: keys of rooms.
        self.bridge.take_transactions()

    async def stop(self) -> None:
        await self.bridge.stop()
        await self.keys.stop()
        await self._database.stop()

    async def enter(self, room_id: str) -> None:
        """What bridges do with a room that they were invited to: note who is there already."""
        members = await self.bridge.bot.get_joined_members(room_id)
        await self.bridge.service.state_store.set_members(room_id, members)
        await self._database.execute("INSERT INTO portal (mxid, encrypted) VALUES ($1, true)", room_id)

    async def _on_event(self, event: Any) -> None:
        if event.type == EventType.ROOM_MEMBER:
            await self.keys.handle_member_event(event)
        elif event.type == EventType.ROOM_ENCRYPTED and event.sender.startswith("@alice"):
            # Not here: the keys may come with a later transaction, which waits for the end of this one.
            self._tasks.append(asyncio.ensure_future(self._decrypt(event)))

    async def _decrypt(self, event: Any) -> None:
        self.read[event.event_id] = (await self.keys.decrypt(event)).content.body

    async def say(self, room_id: str, text: str, speaker: Any) -> str:
        """Encrypted with the bot's device, whoever of the bridge says it."""
        kind, content = await self.keys.encrypt(
            room_id, EventType.ROOM_MESSAGE, TextMessageEventContent(msgtype=MessageType.TEXT, body=text)
        )
        return str(await speaker.send_message_event(room_id, kind, content))

    async def reads(self, event_id: str, body: str) -> None:
        await self.bridge.wait_until(
            lambda: self.read.get(event_id) == body, f"the bridge reads {body!r}, which was encrypted"
        )


async def trust(alice: Person, bridge: SecretBridge) -> None:
    """Compare the fingerprint that the server gave with the bridge's own."""
    bot = bridge.bridge.service.bot_mxid
    device_id = str(bridge.keys.client.device_id)
    devices = alice.client.device_store
    await alice.wait_until(lambda: device_id in devices[bot], "alice hears of the bot's device")
    device = devices[bot][device_id]
    check(device.ed25519 == bridge.keys.crypto.account.signing_key, "which is the one that the bot has")
    alice.client.verify_device(device)


async def talk(alice: Person, bridge: SecretBridge, notes: Notes) -> None:
    bot, ghost = bridge.bridge.bot, bridge.bridge.ghost("bob")
    await ghost.ensure_registered()
    answer = await alice.client.room_create(
        preset=nio.RoomPreset.private_chat,
        initial_state=[ENCRYPTION],
        invite=[bot.mxid, bridge.bridge.ghost_id("bob")],
    )
    notes.room_id = room_id = str(demand(answer, nio.RoomCreateResponse, "room creation").room_id)
    for one in (bot, ghost):
        await one.ensure_joined(room_id)
        await alice.wait_until(partial(alice.sees_member, room_id, one.mxid), f"alice sees {one.mxid}")
    await bridge.enter(room_id)
    await trust(alice, bridge)
    await bridge.reads(await alice.say(room_id, "A secret for the bridge"), "A secret for the bridge")
    await read(alice, await bridge.say(room_id, "It is safe", bot), "It is safe")
    await read(alice, await bridge.say(room_id, "From elsewhere", ghost), "From elsewhere")


async def speak_to_nobody(alice: Person, notes: Notes) -> str:
    """With new keys, while the bridge is away; the message."""
    await alice.sync(full_state=True)
    alice.client.invalidate_outbound_session(notes.room_id)
    return await alice.say(notes.room_id, "While you were away")


async def verify(alice: Person, bridge: SecretBridge, notes: Notes, away: str) -> None:
    room_id = notes.room_id
    await bridge.reads(away, "While you were away")
    check(
        str(bridge.keys.client.device_id) == notes.in_flight["device"], "the bot goes on with the same device"
    )
    await bridge.reads(await alice.say(room_id, "And now"), "And now")
    await read(alice, await bridge.say(room_id, "We go on", bridge.bridge.bot), "We go on")


async def main(registrations: str, phase: str, base_url: str, notes_file: str) -> None:
    path = Path(notes_file)
    folder = path.parent / "secrets"
    folder.mkdir(exist_ok=True)
    own = load_registrations(Path(registrations))

    bridge, away = SecretBridge(base_url, own, folder), ""
    if phase == "talk":
        notes = Notes()
        alice, password = await appear(base_url, "alice", folder)
        notes.alice = alice.account(password)
    else:
        notes = Notes.load(path)
        alice = Person(base_url, notes.alice.user_id, store=folder / "alice")
        alice.resume(notes.alice)
        away = await speak_to_nobody(alice, notes)
    try:
        await bridge.start()
        if phase == "talk":
            await talk(alice, bridge, notes)
            notes.in_flight["device"] = str(bridge.keys.client.device_id)
            notes.save(path)
        else:
            await verify(alice, bridge, notes, away)
    finally:
        await bridge.stop()
        await alice.client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
