"""Two people with matrix-nio: `python -m tests.clients.nio_program talk|burst|verify BASE_URL NOTES_FILE`.

spec: client-server-api
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import secrets
from collections import Counter
from pathlib import Path

import aiohttp
import nio
from nio.api import RelationshipType

from tests.clients.nio_person import Person, demand
from tests.clients.notes import CheckError, Notes, check

HISTORY_LENGTH = 35
BURST_SENDERS = 4
IMAGE_BYTES = 300_000


async def meet(base_url: str, notes: Notes) -> tuple[Person, Person]:
    """Register two users, log in anew, and throw the first logins away."""
    people = []
    for name in ("alice", "bob"):
        localpart, password = f"{name}-{secrets.token_hex(4)}", secrets.token_urlsafe(16)
        first = Person(base_url, localpart)
        answer = await first.client.register(localpart, password, "first device")
        registered = demand(answer, nio.RegisterResponse, "registration")
        check(registered.user_id.startswith(f"@{localpart}:"), f"{name} is registered by the chosen name")
        person = Person(base_url, localpart)
        await person.log_in(password)
        check(person.user_id == registered.user_id, f"{name} logs in with the password as the same user")
        check(person.client.device_id != first.client.device_id, f"{name}'s login is a new device")
        demand(await first.client.logout(), nio.LogoutResponse, "logout")
        first.client.access_token = registered.access_token
        refused = demand(await first.client.whoami(), nio.WhoamiError, "whoami after logout")
        check(
            refused.status_code == "M_UNKNOWN_TOKEN",
            f"{name}'s first token is worth nothing after the logout",
        )
        await first.client.close()
        stranger = Person(base_url, localpart)
        wrong = demand(await stranger.client.login("wrong"), nio.LoginError, "login with a wrong password")
        check(wrong.status_code == "M_FORBIDDEN", f"{name}'s account refuses a wrong password")
        await stranger.client.close()
        setattr(notes, name, person.account(password))
        people.append(person)
    alice, bob = people
    demand(
        await alice.client.set_displayname("Alice in Nio"), nio.ProfileSetDisplayNameResponse, "display name"
    )
    return alice, bob


async def make_room(alice: Person, bob: Person, notes: Notes) -> str:
    await alice.sync()
    await bob.sync()
    created = demand(
        await alice.client.room_create(name="The Nio Room", topic="Talk", preset=nio.RoomPreset.private_chat),
        nio.RoomCreateResponse,
        "room creation",
    )
    room_id: str = created.room_id
    notes.room_id = room_id
    refused = demand(await bob.client.join(room_id), nio.JoinError, "joining uninvited")
    check(refused.status_code == "M_FORBIDDEN", "bob cannot join a private room uninvited")
    demand(await alice.client.room_invite(room_id, bob.user_id), nio.RoomInviteResponse, "invite")
    await bob.wait_until(lambda: room_id in bob.client.invited_rooms, "bob sees the invite")
    invited = bob.client.invited_rooms[room_id]
    check(
        invited.inviter == alice.user_id and invited.name == "The Nio Room",
        "the invite names inviter and room",
    )
    demand(await bob.client.join(room_id), nio.JoinResponse, "join")
    await bob.wait_until(lambda: room_id in bob.client.rooms, "bob's sync has the joined room")
    await alice.wait_until(lambda: alice.sees_member(room_id, bob.user_id), "alice sees bob join")
    room = bob.client.rooms[room_id]
    check(room.name == "The Nio Room" and room.topic == "Talk", "bob sees the room's name and topic")
    check(room.user_name(alice.user_id) == "Alice in Nio", "bob sees alice's display name")
    return room_id


async def converse(alice: Person, bob: Person, room_id: str, notes: Notes) -> None:
    """Send, react, edit, redact; each looks at what the other did."""
    hello = await alice.say(room_id, "Hello Bob")
    await bob.wait_until(lambda: bool(bob.seen(hello)), "bob sees alice's message")
    (shown,) = bob.seen(hello)
    check(isinstance(shown, nio.RoomMessageText) and shown.body == "Hello Bob", "with its body")
    check(shown.sender == alice.user_id, "with its sender")

    relation = {"rel_type": "m.annotation", "event_id": hello, "key": "👋"}
    notes.reaction_id, notes.reaction_key = (
        await bob.send(room_id, {"m.relates_to": relation}, "m.reaction"),
        "👋",
    )
    await alice.wait_until(lambda: bool(alice.seen(notes.reaction_id)), "alice sees bob's reaction")
    (reaction,) = alice.seen(notes.reaction_id)
    check(isinstance(reaction, nio.ReactionEvent), "as a reaction")
    check((reaction.reacts_to, reaction.key) == (hello, "👋"), "to her message, with its key")

    notes.edited_id, notes.edited_body = hello, "Hello dear Bob"
    edit = {
        "msgtype": "m.text",
        "body": "* Hello dear Bob",
        "m.new_content": {"msgtype": "m.text", "body": notes.edited_body},
        "m.relates_to": {"rel_type": "m.replace", "event_id": hello},
    }
    edit_id = await alice.send(room_id, edit)
    await bob.wait_until(lambda: bool(bob.seen(edit_id)), "bob sees alice's edit")
    notes.messages |= {hello: "Hello Bob", edit_id: "* Hello dear Bob"}
    await check_relations(bob, notes)

    notes.redacted_id = await alice.say(room_id, "Forget this at once")
    await bob.wait_until(lambda: bool(bob.seen(notes.redacted_id)), "bob sees what alice will regret")
    redaction = demand(
        await alice.client.room_redact(room_id, notes.redacted_id, "regret"),
        nio.RoomRedactResponse,
        "redaction",
    )
    await bob.wait_until(lambda: bool(bob.seen(redaction.event_id)), "bob sees the redaction")
    (event,) = bob.seen(redaction.event_id)
    check(isinstance(event, nio.RedactionEvent) and event.redacts == notes.redacted_id, "of that message")
    await check_redacted(bob, notes)


async def check_relations(reader: Person, notes: Notes) -> None:
    """The server's own aggregations of the edit and the reaction.

    spec: client-server-api#aggregations-of-child-events
    """
    event = await reader.fetch(notes.room_id, notes.edited_id)
    bundled = event.source["unsigned"]["m.relations"]["m.replace"]
    check(
        bundled["content"]["m.new_content"]["body"] == notes.edited_body,
        "the edit is bundled with the message",
    )
    kind = RelationshipType.annotation
    related = [
        event.event_id
        async for event in reader.client.room_get_event_relations(notes.room_id, notes.edited_id, kind)
    ]
    check(related == [notes.reaction_id], "the reaction is listed among the message's relations")


async def check_redacted(reader: Person, notes: Notes) -> None:
    event = await reader.fetch(notes.room_id, notes.redacted_id)
    check(isinstance(event, nio.RedactedEvent), "the message is shown as redacted")
    check(event.source["content"] == {}, "its content is gone")


async def exchange_file(alice: Person, bob: Person, room_id: str, notes: Notes) -> None:
    content = b"\x89PNG\r\n\x1a\n" + secrets.token_bytes(IMAGE_BYTES)
    notes.media_uri = await alice.upload(content, "image/png", "picture.png")
    notes.media_sha256 = hashlib.sha256(content).hexdigest()
    image = await alice.send(room_id, {"msgtype": "m.image", "body": "picture.png", "url": notes.media_uri})
    notes.messages[image] = "picture.png"
    await bob.wait_until(lambda: bool(bob.seen(image)), "bob sees the picture's message")
    (shown,) = bob.seen(image)
    check(
        isinstance(shown, nio.RoomMessageImage) and shown.url == notes.media_uri, "with the media's address"
    )
    await check_media(bob, notes)
    path = f"/_matrix/client/v1/media/download/{notes.media_uri.removeprefix('mxc://')}"
    async with aiohttp.ClientSession() as session, session.get(bob.client.homeserver + path) as answer:
        check(answer.status == 401, "nobody downloads without a login")


async def check_media(reader: Person, notes: Notes) -> None:
    loaded = await reader.download(notes.media_uri)
    check(hashlib.sha256(loaded.body).hexdigest() == notes.media_sha256, "the picture downloads bit for bit")
    check(loaded.content_type == "image/png", "with its content type")
    check(loaded.filename == "picture.png", "with its file name")


async def page_back(alice: Person, bob: Person, room_id: str, notes: Notes) -> None:
    """A new login of bob's gets the end of the room, and pages back to its beginning."""
    for number in range(HISTORY_LENGTH):
        notes.messages[await alice.say(room_id, f"line {number}")] = f"line {number}"
    reader = Person(bob.client.homeserver, bob.user_id)
    await reader.log_in(notes.bob.password)
    await check_history(reader, notes)
    demand(await reader.client.logout(), nio.LogoutResponse, "logout of the reader")
    await reader.client.close()


async def check_history(reader: Person, notes: Notes) -> list[nio.Event]:
    """The whole room, oldest first: one limited sync and pages back; all that was acknowledged, once, in order."""
    await reader.sync(sync_filter={"room": {"timeline": {"limit": 5}}}, full_state=True)
    recent = reader.timeline[-5:]
    check(
        notes.room_id in reader.prev_batch, "the first sync's timeline is limited and says where to page on"
    )
    older = await reader.read_back(notes.room_id, reader.prev_batch[notes.room_id])
    events = [*reversed(older), *recent]
    counts = Counter(event.event_id for event in events)
    check(max(counts.values()) == 1, f"none of the {len(events)} events comes twice")
    check(events[0].source["type"] == "m.room.create", "the oldest is the room's creation")
    missing = [body for event_id, body in notes.messages.items() if event_id not in counts]
    check(not missing, f"all {len(notes.messages)} acknowledged messages are there (missing: {missing})")
    order = [event.event_id for event in events if event.event_id in talked(notes)]
    check(order == talked(notes), "in the order in which they were acknowledged")
    wrong = [
        event.event_id
        for event in events
        if event.event_id in notes.messages
        and event.source["content"]["body"] != notes.messages[event.event_id]
    ]
    check(not wrong, "with the bodies that were sent")
    return events


def talked(notes: Notes) -> list[str]:
    """The messages of the conversation, sent one after the other; those of the burst have no common order."""
    return [event_id for event_id, body in notes.messages.items() if not body.startswith("burst")]


async def watch_each_other(alice: Person, bob: Person, room_id: str, notes: Notes) -> None:
    """Typing, receipts, unread counts, presence."""
    await bob.sync()
    bob.typing.clear()
    demand(await alice.client.room_typing(room_id, True, 20_000), nio.RoomTypingResponse, "typing")
    await bob.wait_until(lambda: [alice.user_id] in bob.typing, "bob sees alice type")
    demand(await alice.client.room_typing(room_id, False), nio.RoomTypingResponse, "typing no more")
    await bob.wait_until(lambda: bob.typing[-1] == [], "bob sees alice stop")

    last = await alice.say(room_id, "Did you read this?")
    notes.messages[last] = "Did you read this?"
    await bob.wait_until(lambda: bool(bob.seen(last)), "bob sees the question")
    await bob.wait_until(
        lambda: bob.client.rooms[room_id].unread_notifications > 0, "bob has unread messages"
    )
    notes.receipt_id = last
    marked = await bob.client.update_receipt_marker(room_id, last)
    demand(marked, nio.UpdateReceiptMarkerResponse, "receipt")
    await alice.wait_until(lambda: has_receipt(alice, bob.user_id, last), "alice sees bob's receipt")
    await bob.wait_until(
        lambda: bob.client.rooms[room_id].unread_notifications == 0, "bob has none unread any more"
    )

    status = "gone fishing"
    # Alice's, since bob has had another device, which may still count as online.
    demand(await alice.client.set_presence("unavailable", status), nio.PresenceSetResponse, "presence")
    wanted = (alice.user_id, "unavailable", status)
    await bob.wait_until(
        lambda: wanted in [(seen.user_id, seen.presence, seen.status_msg) for seen in bob.presence],
        "bob's sync has alice's presence",
    )
    asked = demand(
        await bob.client.get_presence(alice.user_id), nio.PresenceGetResponse, "asking for presence"
    )
    shown = (alice.user_id, asked.presence, asked.status_msg)
    check(shown == wanted, f"bob can ask for it as well, and is told {shown}")


def has_receipt(watcher: Person, reader_id: str, event_id: str) -> bool:
    return any((seen.user_id, seen.event_id) == (reader_id, event_id) for seen in watcher.receipts)


async def talk(base_url: str, path: Path) -> None:
    notes = Notes()
    alice, bob = await meet(base_url, notes)
    room_id = await make_room(alice, bob, notes)
    await converse(alice, bob, room_id, notes)
    await exchange_file(alice, bob, room_id, notes)
    await page_back(alice, bob, room_id, notes)
    await watch_each_other(alice, bob, room_id, notes)
    notes.save(path)
    await alice.client.close()
    await bob.client.close()


async def burst(base_url: str, path: Path) -> None:
    """Several senders without pause, until the server is gone; each acknowledgement is printed for the test."""
    notes = Notes.load(path)
    alice = Person(base_url, notes.alice.user_id)
    alice.resume(notes.alice)

    async def send_on(sender: int) -> None:
        number = 0
        while True:
            number += 1
            txn, body = f"burst-{sender}-{number}", f"burst {sender} {number}"
            notes.in_flight[txn] = body
            event_id = await alice.say(notes.room_id, body, txn)
            del notes.in_flight[txn]
            notes.messages[event_id] = body
            print(f"acknowledged {txn}", flush=True)

    endings = await asyncio.gather(
        *(send_on(sender) for sender in range(BURST_SENDERS)), return_exceptions=True
    )
    for ending in endings:
        if not isinstance(ending, aiohttp.ClientError | OSError | asyncio.TimeoutError):
            raise CheckError(f"the burst ended otherwise than by losing the server: {ending!r}")
    notes.save(path)
    await alice.client.close()


async def verify(base_url: str, path: Path) -> None:
    notes = Notes.load(path)
    alice, bob = Person(base_url, notes.alice.user_id), Person(base_url, notes.bob.user_id)
    alice.resume(notes.alice)
    bob.resume(notes.bob)
    # A client that got no answer sends again with the same transaction id, and must not double its message.
    for txn, body in notes.in_flight.items():
        event_id = await alice.say(notes.room_id, body, txn)
        again = await alice.say(notes.room_id, body, txn)
        check(event_id == again, f"{txn}, sent again, is one event")
        notes.messages[event_id] = body
    events = await check_history(bob, notes)
    bodies = [str(event.source["content"].get("body")) for event in events]
    for sender in range(BURST_SENDERS):
        prefix = f"burst {sender} "
        sent = [body for body in notes.messages.values() if body.startswith(prefix)]
        there = [body for body in bodies if body.startswith(prefix)]
        check(
            there == sent,
            f"all {len(sent)} messages of burst {sender} are there once, in order, and no other",
        )
    await check_relations(bob, notes)
    await check_redacted(bob, notes)
    await check_media(bob, notes)
    await alice.sync()
    check(has_receipt(alice, bob.user_id, notes.receipt_id), "bob's receipt is still there")
    room = alice.client.rooms[notes.room_id]
    check(room.name == "The Nio Room" and bob.user_id in room.users, "and the room's name and members")
    last = await alice.say(notes.room_id, "Still here")
    await bob.wait_until(lambda: len(bob.seen(last)) == 1, "and the conversation goes on")
    await alice.client.close()
    await bob.client.close()


def main() -> None:
    phases = {"talk": talk, "burst": burst, "verify": verify}
    parser = argparse.ArgumentParser(prog="python -m tests.clients.nio_program", description=__doc__)
    parser.add_argument("phase", choices=tuple(phases))
    parser.add_argument("base_url")
    parser.add_argument("notes", type=Path)
    arguments = parser.parse_args()
    asyncio.run(phases[arguments.phase](arguments.base_url, arguments.notes))


if __name__ == "__main__":
    main()
