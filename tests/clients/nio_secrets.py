"""Two people who talk in secret with matrix-nio: `python -m tests.clients.nio_secrets BASE_URL`.

spec: client-server-api#end-to-end-encryption
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import tempfile
from pathlib import Path

import nio

from tests.clients.nio_person import Person, demand
from tests.clients.notes import check

ENCRYPTION = {
    "type": "m.room.encryption",
    "state_key": "",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}
PASSPHRASE = "carried by hand"


async def appear(base_url: str, name: str, folder: Path) -> tuple[Person, str]:
    """Somebody new on a device with keys, which the server has; and the password."""
    localpart, password = f"{name}-{secrets.token_hex(4)}", secrets.token_urlsafe(16)
    first = Person(base_url, localpart)
    demand(await first.client.register(localpart, password), nio.RegisterResponse, "registration")
    demand(await first.client.logout(), nio.LogoutResponse, "logout")
    await first.client.close()
    return await log_in(base_url, localpart, password, folder / name), password


async def log_in(base_url: str, name: str, password: str, folder: Path) -> Person:
    folder.mkdir(parents=True)
    person = Person(base_url, name, store=folder)
    await person.log_in(password)
    await person.sync()
    check(not person.client.should_upload_keys, f"{person.user_id} has uploaded keys")
    return person


async def meet(alice: Person, bob: Person) -> str:
    """An encrypted room of two."""
    answer = await alice.client.room_create(
        preset=nio.RoomPreset.private_chat, initial_state=[ENCRYPTION], invite=[bob.user_id]
    )
    room_id = str(demand(answer, nio.RoomCreateResponse, "room creation").room_id)
    await bob.wait_until(lambda: room_id in bob.client.invited_rooms, "bob is invited")
    demand(await bob.client.join(room_id), nio.JoinResponse, "join")
    await alice.wait_until(lambda: alice.sees_member(room_id, bob.user_id), "alice sees bob join")
    await bob.wait_until(lambda: bob.sees_member(room_id, bob.user_id), "and so does he")
    for person in (alice, bob):
        check(person.client.rooms[room_id].encrypted, f"{person.user_id} knows that the room is encrypted")
    return room_id


async def verify(checker: Person, owner: Person) -> None:
    """Compare the fingerprint that the server gave with what the other one's screen shows, and trust the device."""
    theirs = checker.client.device_store[owner.user_id]
    device = theirs[str(owner.client.device_id)]
    shown = owner.client.olm.account.identity_keys["ed25519"]
    check(device.ed25519 == shown, f"{checker.user_id} compares the fingerprint of {owner.user_id}'s device")
    check(checker.client.verify_device(device), "and trusts it")


async def read(reader: Person, event_id: str, body: str) -> nio.RoomMessageText:
    """The message as the reader's client shows it, decrypted."""
    await reader.wait_until(lambda: bool(reader.seen(event_id)), f"{reader.user_id} sees the message")
    (shown,) = reader.seen(event_id)
    check(isinstance(shown, nio.RoomMessageText) and shown.body == body, f"and reads {body!r}")
    check(shown.decrypted, "which was encrypted")
    return shown


async def converse(alice: Person, bob: Person, room_id: str) -> str:
    """Nobody is told anything before the devices are verified; afterwards both are, by verified senders."""
    try:
        await alice.say(room_id, "To nobody")
    except nio.OlmUnverifiedDeviceError as error:
        check(
            error.device.user_id == bob.user_id,
            "alice's client does not encrypt for a device it cannot trust",
        )
    else:
        check(False, "alice's client refuses a device that she has not verified")
    await verify(alice, bob)
    await verify(bob, alice)
    secret = await alice.say(room_id, "The key is under the mat")
    shown = await read(bob, secret, "The key is under the mat")
    check(shown.verified, "by a device that bob has verified")
    stranger = Person(bob.client.homeserver, bob.user_id)
    stranger.resume(bob.account(""))
    raw = (await stranger.fetch(room_id, secret)).source
    await stranger.client.close()
    check(raw["type"] == "m.room.encrypted" and "body" not in raw["content"], "the server cannot read it")
    await read(alice, await bob.say(room_id, "I moved it"), "I moved it")
    return secret


async def with_another_device(
    base_url: str, alice: Person, bob: Person, password: str, folder: Path, room_id: str, secret: str
) -> None:
    """It reads what was said before with the keys that are carried to it, and what is said from then on by itself."""
    exported = str(folder / "keys.txt")
    await bob.client.export_keys(exported, PASSPHRASE)
    second = await log_in(base_url, bob.user_id, password, folder / "second")
    before = await second.fetch(room_id, secret)
    check(isinstance(before, nio.MegolmEvent), "bob's new device cannot read what was said before it came")
    await second.client.import_keys(exported, PASSPHRASE)
    after = second.client.decrypt_event(before)
    check(isinstance(after, nio.RoomMessageText), "with the keys of the first it can")
    check(after.body == "The key is under the mat", "and reads what alice wrote")

    devices = alice.client.device_store
    await alice.wait_until(
        lambda: str(second.client.device_id) in devices[bob.user_id], "alice's client hears of the new device"
    )
    await verify(alice, second)
    later = await alice.say(room_id, "For all of your devices")
    await read(second, later, "For all of your devices")
    await read(bob, later, "For all of your devices")
    demand(await second.client.logout(), nio.LogoutResponse, "logout")
    await second.client.close()
    gone = str(second.client.device_id)
    await alice.wait_until(
        lambda: gone not in {device.id for device in devices.active_user_devices(bob.user_id)},
        "alice's client hears that it is gone",
    )
    await read(bob, await alice.say(room_id, "Just us"), "Just us")


async def tell(base_url: str, folder: Path) -> None:
    alice, _ = await appear(base_url, "alice", folder)
    bob, password = await appear(base_url, "bob", folder)
    room_id = await meet(alice, bob)
    secret = await converse(alice, bob, room_id)
    await with_another_device(base_url, alice, bob, password, folder, room_id, secret)
    await alice.client.close()
    await bob.client.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.clients.nio_secrets", description=__doc__)
    parser.add_argument("base_url")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nio-") as folder:
        asyncio.run(tell(arguments.base_url, Path(folder)))


if __name__ == "__main__":
    main()
