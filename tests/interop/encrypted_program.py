"""Two people with matrix-nio on two servers, end-to-end encrypted: run by an environment that has nio's crypto.

python encrypted_program.py FOLDER FIRST_BASE_URL FIRST_USER FIRST_PASSWORD SECOND_BASE_URL SECOND_USER SECOND_PASSWORD
It prints what it checked, and ends with status 0 when all of it held.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nio

PATIENCE_S = 40.0
POLL_MS = 500


class Person:
    """One device with a crypto store."""

    def __init__(self, folder: Path, base_url: str, user_id: str, password: str) -> None:
        folder.mkdir(parents=True)
        config = nio.AsyncClientConfig(store_sync_tokens=True, encryption_enabled=True)
        self.client = nio.AsyncClient(base_url, user_id, store_path=str(folder), config=config)
        self.password = password
        self.read: list[tuple[str, str]] = []  # sender, text; of what could be decrypted
        self.unread: list[str] = []  # event ids of what could not
        self.client.add_event_callback(self._note, nio.RoomMessageText)
        self.client.add_event_callback(self._note_failure, nio.MegolmEvent)

    async def _note(self, _: Any, event: Any) -> None:
        assert event.decrypted, "a message came in clear"
        self.read.append((event.sender, event.body))

    async def _note_failure(self, _: Any, event: Any) -> None:
        self.unread.append(event.event_id)

    async def log_in(self) -> None:
        answer = await self.client.login(self.password, device_name="encrypted program")
        check(isinstance(answer, nio.LoginResponse), f"{self.client.user_id} logs in: {answer}")
        await self.sync(0)

    async def sync(self, timeout_ms: int) -> None:
        """One sync, and what a client does after it: keys uploaded, asked for, claimed."""
        answer = await self.client.sync(timeout_ms, full_state=False)
        if not isinstance(answer, nio.SyncResponse):
            raise SystemExit(f"{self.client.user_id}: sync: {answer}")
        await self.client.run_response_callbacks([answer])
        await self.client.send_to_device_messages()
        if self.client.should_upload_keys:
            await self.client.keys_upload()
        if self.client.should_query_keys:
            await self.client.keys_query()
        if self.client.should_claim_keys:
            await self.client.keys_claim(self.client.get_users_for_key_claiming())

    async def until(self, what: str, holds: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.client.user_id}: waited in vain until {what}; unread: {self.unread}")
            await self.sync(POLL_MS)
        check(True, what)

    async def say(self, room_id: str, text: str) -> None:
        content = {"msgtype": "m.text", "body": text}
        answer = await self.client.room_send(
            room_id, "m.room.message", content, ignore_unverified_devices=True
        )
        check(isinstance(answer, nio.RoomSendResponse), f"{self.client.user_id} says {text!r}: {answer}")


def check(holds: bool, what: str) -> None:
    if not holds:
        raise SystemExit(f"not so: {what}")
    print(f"checked: {what}", flush=True)


async def talk(first: Person, second: Person) -> None:
    await first.log_in()
    await second.log_in()
    encryption = {
        "type": "m.room.encryption",
        "state_key": "",
        "content": {"algorithm": "m.megolm.v1.aes-sha2"},
    }
    created = await first.client.room_create(
        preset=nio.RoomPreset.private_chat, invite=[second.client.user_id], initial_state=[encryption]
    )
    check(isinstance(created, nio.RoomCreateResponse), f"the room is made: {created}")
    room_id = created.room_id
    await second.until("the invite has come", lambda: room_id in second.client.invited_rooms)
    joined = await second.client.join(room_id)
    check(isinstance(joined, nio.JoinResponse), f"the other side joins: {joined}")
    for person, other in ((first, second), (second, first)):
        await person.until(f"{other.client.user_id} is seen in the room", _sees(person, other, room_id))
        await person.until(f"the keys of {other.client.user_id} are known", _knows(person, other))
    for number in range(3):
        for person, other in ((first, second), (second, first)):
            text = f"secret {number} of {person.client.user_id}"
            await person.say(room_id, text)
            await other.until(f"{text!r} is decrypted", _has_read(other, person, text))
    check(not first.unread and not second.unread, "nothing stayed unread")
    # What the servers have of it is not the text.
    stored = await second.client.room_messages(room_id, start="", limit=50)
    kinds = [event for event in stored.chunk if isinstance(event, nio.RoomMessageText)]
    check(all(event.decrypted for event in kinds), "no message lies in clear on a server")


def _sees(person: Person, other: Person, room_id: str) -> Callable[[], bool]:
    def holds() -> bool:
        room = person.client.rooms.get(room_id)
        return room is not None and room.encrypted and other.client.user_id in room.users

    return holds


def _knows(person: Person, other: Person) -> Callable[[], bool]:
    return lambda: other.client.device_id in person.client.device_store[other.client.user_id]


def _has_read(reader: Person, writer: Person, text: str) -> Callable[[], bool]:
    return lambda: (writer.client.user_id, text) in reader.read


async def main() -> None:
    folder = Path(sys.argv[1])
    first, second = Person(folder / "first", *sys.argv[2:5]), Person(folder / "second", *sys.argv[5:8])
    try:
        await talk(first, second)
    finally:
        await first.client.close()
        await second.client.close()


asyncio.run(main())
