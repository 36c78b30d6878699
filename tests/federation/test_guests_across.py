"""Guests and rooms of other servers. spec: client-server-api#guest-access"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from federation.canonical import encode_checked
from federation.ids import ServerName
from homeserver.config.schema import Registration
from homeserver.http.transport import PeerRequest, PeerResponse
from homeserver.rooms.federated import admission, remote_invites
from tests.federation.people import V3, VERSIONS, A, C, NetCase
from tests.support.databases import on_each_database

_ACCESS = "m.room.guest_access"


@on_each_database
class GuestsAcross(NetCase):
    """A guest of c, where nobody is in any room, and rooms of alice's at a."""

    def setUp(self) -> None:
        super().setUp()
        self.c = self.server(C, registration=Registration(mode="open", guests=True))
        answer = self.net.wait(self.c.start("POST", f"{V3}/register", {}, None, {"kind": "guest"})).json
        self.guest_id, self.guest = answer["user_id"], answer["access_token"]

    def room(self, access: str | None, preset: str = "private_chat", **body: Any) -> str:
        content = {} if access is None else {"guest_access": access}
        state = [{"type": _ACCESS, "state_key": "", "content": content}]
        return self.create(self.a, self.alice, preset=preset, initial_state=state, **body)

    def invite(self, room_id: str) -> None:
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": self.guest_id})

    def set_access(self, room_id: str, access: str) -> None:
        path = f"/rooms/{quote(room_id)}/state/{_ACCESS}"
        self.ok(self.a, self.alice, "PUT", path, {"guest_access": access})

    def membership(self, room_id: str) -> str | None:
        """What alice's server says that the guest is."""
        path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(self.guest_id)}"
        found: str | None = (self.call(self.a, self.alice, "GET", path).json or {}).get("membership")
        return found

    def keeps_out(self, room_id: str, before: str | None) -> None:
        """The guest is not let in, and asks for no join."""
        answer = self.join(self.c, self.guest, room_id, A)
        self.refused(answer, 403, "M_GUEST_ACCESS_FORBIDDEN")
        self.net.settle()
        self.assertEqual(before, self.membership(room_id))
        self.assertEqual([], self.net.sent("send_join"))

    def test_invited_to_a_room_that_admits_guests(self) -> None:
        for version in VERSIONS:
            room_id = self.room("can_join", room_version=version)
            self.invite(room_id)
            # The inviter's server is known without being named.
            self.assertEqual(200, self.join(self.c, self.guest, room_id).status, version)
            self.say(self.c, self.guest, room_id, "hello")
            self.net.settle()
            self.assertEqual("join", self.membership(room_id))

    def test_a_public_room_that_admits_guests(self) -> None:
        room_id = self.room("can_join", "public_chat")
        self.assertEqual(200, self.join(self.c, self.guest, room_id, A).status)
        self.net.settle()
        self.assertEqual("join", self.membership(room_id))

    def test_rooms_that_do_not(self) -> None:
        for access in (None, "forbidden", "nonsense"):
            room_id = self.room(access)
            self.invite(room_id)
            self.keeps_out(room_id, "invite")
            self.keeps_out(self.room(access, "public_chat"), None)

    def test_a_room_of_which_nothing_is_told(self) -> None:
        room_id = self.room("can_join")
        self.keeps_out(room_id, None)

    def test_what_the_invite_says(self) -> None:
        """A server may tell of guests with the invite; what forbids them is believed, what admits them is looked at."""
        load = admission.load_stripped

        def tells(access: str) -> None:
            content = {"guest_access": access}
            entry = {"content": content, "sender": f"@alice:{A}", "state_key": "", "type": _ACCESS}

            async def told(*args: Any) -> list[bytes]:
                return [*await load(*args), encode_checked(entry, strict=True)]

            self.patch(remote_invites, "load_stripped", told)

        room_id = self.room("can_join")
        tells("forbidden")
        self.invite(room_id)
        self.keeps_out(room_id, "invite")
        tells("can_join")
        room_id = self.room("forbidden")
        self.invite(room_id)
        self.put_out(room_id)
        self.assertEqual([], self.net.sent("hierarchy"))

    def test_a_room_that_has_changed_its_mind(self) -> None:
        """What a server tells of a room may be old, or no truth: the room's own state decides."""

        def tamper(origin: ServerName, request: PeerRequest, answer: PeerResponse) -> PeerResponse | None:
            if "/hierarchy/" not in request.uri:
                return None
            told = msgspec.json.decode(answer.body)
            told["room"]["guest_can_join"] = True
            return PeerResponse(200, msgspec.json.encode(told))

        self.net.tamper_answers(tamper)
        room_id = self.room("forbidden")
        self.invite(room_id)
        since = self.sync(self.c, self.guest)["next_batch"]
        self.put_out(room_id)
        rooms = self.sync(self.c, self.guest, since)["rooms"]
        self.assertNotIn(room_id, rooms.get("join", {}))
        self.assertEqual([], self.ok(self.c, self.guest, "GET", "/joined_rooms")["joined_rooms"])

    def put_out(self, room_id: str) -> None:
        """The guest has come in by what was told, and is out at once, on both sides."""
        self.refused(self.join(self.c, self.guest, room_id, A), 403, "M_GUEST_ACCESS_FORBIDDEN")
        self.net.settle()
        self.assertEqual("leave", self.membership(room_id))

    def test_a_user_with_an_account_is_not_asked_about(self) -> None:
        room_id = self.room("forbidden", "public_chat")
        carol = self.c.register("carol")
        self.assertEqual(200, self.join(self.c, carol, room_id, A).status)
        self.assertEqual([], self.net.sent("hierarchy"))
