"""What passes: typing, receipts, presence, messages from device to device."""

from __future__ import annotations

import secrets

from tests.interop.client import CLIENT, Client, room_path
from tests.interop.stories.base import Story, segment


class Ephemeral(Story):
    """See the module."""

    def test_typing(self) -> None:
        room_id = self.meet()
        for typist, watcher in self.both_ways():
            self._type(room_id, typist, watcher)

    def _type(self, room_id: str, typist: Client, watcher: Client) -> None:
        path = f"{room_path(room_id)}/typing/{segment(typist.user_id)}"
        typist.ok("PUT", path, {"typing": True, "timeout": 30_000})
        watcher.until(f"{typist.user_id} types", lambda: typist.user_id in watcher.typing.get(room_id, ()))
        typist.ok("PUT", path, {"typing": False})
        watcher.until(f"{typist.user_id} stops", lambda: watcher.typing.get(room_id) == [])

    def test_receipts(self) -> None:
        """Of the room, of the main timeline, and of a thread."""
        room_id = self.meet()
        for writer, reader in self.both_ways():
            self._read(room_id, writer, reader)

    def _read(self, room_id: str, writer: Client, reader: Client) -> None:
        root = writer.send(room_id, "Root")
        content = {
            "msgtype": "m.text",
            "body": "In the thread",
            "m.relates_to": {"rel_type": "m.thread", "event_id": root},
        }
        reply = writer.send_event(room_id, "m.room.message", content)
        reader.sees(room_id, reply)
        for event_id, thread in ((root, "main"), (reply, root), (reply, "")):
            path = f"{room_path(room_id)}/receipt/m.read/{segment(event_id)}"
            reader.ok("POST", path, {"thread_id": thread} if thread else {})
            wanted = (event_id, reader.user_id, thread)
            writer.until(f"the receipt {wanted}", lambda wanted=wanted: wanted in writer.receipts)  # type: ignore[misc]

    def test_a_private_receipt_stays_at_home(self) -> None:
        room_id = self.meet()
        first, last = self.alice.send(room_id, "First"), self.alice.send(room_id, "Last")
        self.bob.sees(room_id, last)
        self.bob.ok("POST", f"{room_path(room_id)}/receipt/m.read.private/{segment(last)}", {})
        self.bob.ok("POST", f"{room_path(room_id)}/receipt/m.read/{segment(first)}", {})
        self.alice.until("the public receipt", lambda: (first, self.bob.user_id, "") in self.alice.receipts)
        self.assertNotIn(last, [event_id for event_id, _, _ in self.alice.receipts])

    def test_presence(self) -> None:
        self.meet()
        for speaker, watcher in self.both_ways():
            self._show(speaker, watcher)

    def _show(self, speaker: Client, watcher: Client) -> None:
        status = f"gone fishing {secrets.token_hex(3)}"
        path = f"{CLIENT}/presence/{segment(speaker.user_id)}/status"
        speaker.ok("PUT", path, {"presence": "unavailable", "status_msg": status})
        watcher.until(
            f"the presence of {speaker.user_id}",
            lambda: watcher.presence.get(speaker.user_id, {}).get("status_msg") == status,
        )

    def test_to_device(self) -> None:
        """To one device, to all devices; once each."""
        self.meet()
        for sender, receiver in self.both_ways():
            self._hand_over(sender, receiver)

    def _hand_over(self, sender: Client, receiver: Client) -> None:
        for device in (receiver.device_id, "*"):
            text = secrets.token_hex(6)
            self._send_to_device(sender, receiver, device, text)
            receiver.until(text, lambda text=text: _count(receiver, text))  # type: ignore[misc]
            # The next message comes after it: by then a second copy would have come, too.
            marker = secrets.token_hex(6)
            self._send_to_device(sender, receiver, receiver.device_id, marker)
            receiver.until(marker, lambda marker=marker: _count(receiver, marker))  # type: ignore[misc]
            self.assertEqual(_count(receiver, text), 1)
            (shown,) = (one for one in receiver.to_device if one["content"].get("text") == text)
            self.assertEqual((shown["sender"], shown["type"]), (sender.user_id, "im.chaos.test"))

    def _send_to_device(self, sender: Client, receiver: Client, device: str, text: str) -> None:
        path = f"{CLIENT}/sendToDevice/im.chaos.test/{secrets.token_hex(6)}"
        sender.ok("PUT", path, {"messages": {receiver.user_id: {device: {"text": text}}}})

    def test_profiles(self) -> None:
        """Asked for by a server that shares no room, and shown in the member event of one that does."""
        for owner, asker in self.both_ways():
            path = f"{CLIENT}/profile/{segment(owner.user_id)}"
            owner.ok("PUT", f"{path}/displayname", {"displayname": f"The {owner.user_id}"})
            shown = asker.ok("GET", path)
            self.assertEqual(shown["displayname"], f"The {owner.user_id}")
            one = asker.ok("GET", f"{path}/displayname")
            self.assertEqual(one, {"displayname": f"The {owner.user_id}"})
        room_id = self.meet()
        for owner, watcher in self.both_ways():
            path = f"{CLIENT}/profile/{segment(owner.user_id)}/displayname"
            owner.ok("PUT", path, {"displayname": "Renamed"})
            watcher.sees_state(room_id, "m.room.member", {"displayname": "Renamed"}, owner.user_id)
        self.alice.refused(
            "M_NOT_FOUND", "GET", f"{CLIENT}/profile/{segment(f'@nobody:{self.there.server_name}')}"
        )


def _count(receiver: Client, text: str) -> int:
    return sum(one["content"].get("text") == text for one in receiver.to_device)
