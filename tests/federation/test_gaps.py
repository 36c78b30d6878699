"""Two servers between which messages get lost: what one lacks, the other gives.

# spec: server-server-api#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from federation.ids import ServerName
from homeserver.http.transport import PeerRequest, PeerResponse, Unreachable
from tests.federation.people import A, B, C, NetCase
from tests.support.databases import on_each_database
from tests.support.federation import NetServer


class LosingCase(NetCase):
    """A room of alice's that bob is in from elsewhere; what is said in it can be lost on the way."""

    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.create(self.a, self.alice, preset="public_chat")
        self.assertEqual(200, self.join(self.b, self.bob, self.room_id, A).status)
        self.net.settle()

    def lose(self, origin: str) -> None:
        """Transactions of a server get lost, and it believes that they were taken, so it does not send them again."""

        def drop(sender: ServerName, request: PeerRequest) -> Any:
            return taken if sender == origin and "/send/" in request.uri else None

        taken = PeerResponse(200, b'{"pdus":{}}')
        self.net.tamper(drop)

    def texts(self, server: NetServer, token: str, most: int = 100) -> list[str]:
        """The newest messages, oldest first."""
        path = f"/rooms/{quote(self.room_id)}/messages"
        chunk = self.ok(server, token, "GET", path, None, {"dir": "b", "limit": most})["chunk"]
        return [one["content"]["body"] for one in reversed(chunk) if one["type"] == "m.room.message"]


@on_each_database
class LostMessages(LosingCase):
    def test_some_messages(self) -> None:
        self.lose(A)
        for number in range(30):
            self.say(self.a, self.alice, self.room_id, f"lost {number}")
        self.net.settle()
        self.assertEqual([], self.texts(self.b, self.bob))
        self.net.untamper()
        self.say(self.a, self.alice, self.room_id, "found")
        self.net.settle()
        wanted = [*(f"lost {number}" for number in range(30)), "found"]
        self.assertEqual(wanted, self.texts(self.b, self.bob))
        self.assertEqual(2, len(self.net.sent("get_missing_events", origin=B)))
        self.assertEqual([], self.net.sent("state_ids"))

    def test_state_that_both_sides_changed(self) -> None:
        path = f"/rooms/{quote(self.room_id)}/state"
        levels = self.ok(self.a, self.alice, "GET", path + "/m.room.power_levels")
        levels["users"][f"@bob:{B}"] = 50
        self.ok(self.a, self.alice, "PUT", path + "/m.room.power_levels", levels)
        self.net.settle()
        self.lose(A)
        self.lose(B)
        self.ok(self.a, self.alice, "PUT", path + "/m.room.topic", {"topic": "alice's"})
        self.ok(self.b, self.bob, "PUT", path + "/m.room.topic", {"topic": "bob's"})
        self.ok(self.b, self.bob, "PUT", path + "/m.room.name", {"name": "bob's"})
        self.say(self.a, self.alice, self.room_id, "lost by alice")
        self.say(self.b, self.bob, self.room_id, "lost by bob")
        self.net.settle()
        self.net.untamper()
        self.say(self.a, self.alice, self.room_id, "alice")
        self.net.settle()
        self.say(self.b, self.bob, self.room_id, "bob")
        self.net.settle()
        self.assert_same_state(self.room_id, (self.a, self.alice), (self.b, self.bob))
        self.assertEqual({"name": "bob's"}, self.ok(self.a, self.alice, "GET", path + "/m.room.name"))
        self.assertEqual(
            sorted(self.texts(self.a, self.alice)), sorted(self.texts(self.b, self.bob)), "the same messages"
        )
        self.assertEqual(4, len(self.texts(self.a, self.alice)))

    def test_a_very_long_gap(self) -> None:
        """Longer than what is asked for at once: the room goes on, and what is between stays to be fetched by readers."""
        self.lose(A)
        for number in range(450):
            self.say(self.a, self.alice, self.room_id, f"lost {number}")
        self.ok(
            self.a, self.alice, "PUT", f"/rooms/{quote(self.room_id)}/state/m.room.topic", {"topic": "unseen"}
        )
        for number in range(450):
            self.say(self.a, self.alice, self.room_id, f"later {number}")
        self.net.settle()
        self.net.untamper()
        self.say(self.a, self.alice, self.room_id, "found")
        self.net.settle()
        self.assertEqual("found", self.texts(self.b, self.bob, 5)[-1])
        self.assert_same_state(self.room_id, (self.a, self.alice), (self.b, self.bob))
        self.assertEqual(1, len(self.net.sent("state_ids", origin=B)))
        self.say(self.b, self.bob, self.room_id, "back")
        self.net.settle()
        self.assertEqual(["found", "back"], self.texts(self.a, self.alice, 5)[-2:])

    def test_a_member_whose_keys_are_late_is_not_left_out_at_once(self) -> None:
        """Messages make the server try often; a state without her would refuse for good what she says."""
        c = self.server(C)
        carol = c.register("carol")

        def silent(sender: ServerName, request: PeerRequest) -> Any:
            of_c = request.destination == C or "/key/v2" in request.uri
            return Unreachable("cut") if sender == B and of_c else None

        def drop(sender: ServerName, request: PeerRequest) -> Any:
            return taken if request.destination == B and "/send/" in request.uri else None

        taken = PeerResponse(200, b'{"pdus":{}}')
        self.net.tamper(silent)
        self.net.tamper(drop)
        self.assertEqual(200, self.join(c, carol, self.room_id, A).status)
        self.net.settle()
        for number in range(450):
            self.say(self.a, self.alice, self.room_id, f"lost {number}")
        self.net.settle()
        self.net.untamper()
        self.net.tamper(silent)
        for number in range(3):
            self.say(self.a, self.alice, self.room_id, f"found {number}")
            self.net.settle()
            self.net.advance(9)
        self.net.untamper()
        self.net.advance(300)
        self.say(c, carol, self.room_id, "still here")
        self.net.settle()
        self.net.advance(300)
        self.assertEqual(["found 2", "still here"], self.texts(self.b, self.bob, 5)[-2:])
        self.assert_same_state(self.room_id, (self.a, self.alice), (self.b, self.bob))

    def test_a_restart_in_between(self) -> None:
        self.lose(A)
        self.say(self.a, self.alice, self.room_id, "lost")
        self.net.settle()
        self.net.untamper()

        def silent(sender: ServerName, request: PeerRequest) -> Any:
            return Unreachable("cut") if sender == B else None

        self.net.tamper(silent)
        self.say(self.a, self.alice, self.room_id, "found")
        self.net.settle()
        self.assertEqual([], self.texts(self.b, self.bob))
        self.b.restart()
        self.net.untamper()
        self.net.advance(120)
        self.assertEqual(["lost", "found"], self.texts(self.b, self.bob))
