"""Invites of users of other servers that come with a new room. spec: client-server-api#post_matrixclientv3createroom"""

from __future__ import annotations

from urllib.parse import quote

from homeserver.rooms.first_invites import AT_ONCE, PATIENCE_S
from tests.federation.people import B, NetCase
from tests.support.databases import on_each_database

BOB = f"@bob:{B}"


@on_each_database
class FirstInvites(NetCase):
    """alice of a makes rooms, and invites bob of b to them."""

    def membership(self, room_id: str, user_id: str = BOB) -> str | None:
        """What alice's server says that somebody is."""
        path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user_id)}"
        found: str | None = (self.call(self.a, self.alice, "GET", path).json or {}).get("membership")
        return found

    def test_who_is_invited_hears_of_it(self) -> None:
        room_id = self.create(
            self.a, self.alice, invite=[BOB, "@eve:nowhere.example"], is_direct=True, name="Us"
        )
        (room,) = self.sync(self.b, self.bob)["rooms"]["invite"].values()
        content = room["invite_state"]["events"][-1]["content"]
        self.assertEqual((True, "invite"), (content["is_direct"], content["membership"]))
        self.assertIsNone(self.membership(room_id, "@eve:nowhere.example"))

    def test_servers_that_are_away(self) -> None:
        """Each is waited for once; whoever else is invited is, and the log says who was not."""
        silent = self.net.stranger("silent.example")
        silent.answers["PUT", "/_matrix/federation/"] = None
        refusing = self.net.stranger("refusing.example")
        refusing.answers["PUT", "/_matrix/federation/"] = lambda _: (403, {"errcode": "M_FORBIDDEN"})
        away = [f"@{name}:silent.example" for name in ("eve", "mallory", "trent")]
        refused = [f"@{name}:refusing.example" for name in ("peggy", "victor")]
        room_id = self.create(self.a, self.alice, invite=[*away, *refused, BOB])
        self.assertEqual("invite", self.membership(room_id))
        self.net.advance(30)
        self.assertEqual(1, len(self.net.sent("/invite/", destination="silent.example")))
        self.assertEqual(2, len(self.net.sent("/invite/", destination="refusing.example")))
        (fields,) = [fields for _, event, fields in self.a.log.entries if event == "not all were invited"]
        self.assertEqual({*away, *refused}, set(fields["reasons"]))

    def test_many_servers_that_are_away(self) -> None:
        """They are waited for together and not for long; who is invited after them is, also when the room is there already."""
        names = [f"silent{number}.example" for number in range(AT_ONCE + 2)]
        for name in names:
            self.net.stranger(name).answers["PUT", "/_matrix/federation/"] = None
        began_s = self.net.time.seconds()
        room_id = self.create(self.a, self.alice, invite=[*(f"@eve:{name}" for name in names), BOB])
        self.assertLess(self.net.time.seconds() - began_s, PATIENCE_S + 2)
        self.assertIsNone(self.membership(room_id))
        self.assertEqual(AT_ONCE, len(self.net.sent("/invite/")))
        self.net.advance(60)
        self.assertEqual("invite", self.membership(room_id))
        self.assertEqual(len(names) + 1, len(self.net.sent("/invite/")))
        (fields,) = [fields for _, event, fields in self.a.log.entries if event == "not all were invited"]
        self.assertEqual({f"@eve:{name}" for name in names}, set(fields["reasons"]))
