"""Signatures that other servers put beside ours: of them is taken what was verified, and they count for the size.

# spec: client-server-api#size-limits
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec

from federation.event import MAX_PDU_BYTES
from federation.flows.join import MAX_TEXT_BYTES
from federation.ids import ServerName
from federation.redaction import redact
from federation.signing import sign_event
from federation.versions import ROOM_VERSIONS
from homeserver.http.transport import PeerRequest, PeerResponse
from tests.federation.people import A, B, NetCase
from tests.support.databases import on_each_database
from tests.support.federation import NetServer
from tests.support.peer_rooms import read_room

BOB, EVE = f"@bob:{B}", "@eve:evil.example"
RULES = ROOM_VERSIONS["11"]


class CoSigned(NetCase):
    def member(self, server: NetServer, room_id: str, user_id: str) -> dict[str, Any] | None:
        """The newest membership event of a user that a server has of a room."""
        events = server.wait(server.database.read(read_room, room_id))[1]
        found = [pdu for _, text in events if (pdu := msgspec.json.decode(text)).get("state_key") == user_id]
        return found[-1] if found else None


@on_each_database
class Invites(CoSigned):
    """alice of a invites eve, whose server is none of ours, or bob."""

    def setUp(self) -> None:
        super().setUp()
        self.eve = self.net.stranger("evil.example")
        self.room_id = self.create(self.a, self.alice, room_version="11")
        self.junk: dict[str, str] = {}
        self.refusing = False
        self.sizes: list[int] = []
        self.eve.answers["PUT", "/_matrix/federation/v2/invite/"] = self.sign

    def sign(self, request: PeerRequest) -> tuple[int, Any]:
        assert request.body is not None
        event = msgspec.json.decode(request.body)["event"]
        self.sizes.append(len(msgspec.json.encode(event)))
        if self.refusing:
            return 403, {"errcode": "M_FORBIDDEN"}
        # It is the same event without what is not signed of it: there is room for more.
        signed = sign_event({**redact(event, RULES), "signatures": {}}, RULES, self.eve.key)
        signed["signatures"]["evil.example"].update(self.junk)
        signed["signatures"]["other.example"] = {"ed25519:1": "AAAA"}
        return 200, {"event": signed}

    def invite(self, user_id: str, reason: str = "") -> Any:
        path = f"/rooms/{quote(self.room_id)}/invite"
        return self.call(self.a, self.alice, "POST", path, {"user_id": user_id, "reason": reason})

    def test_nothing_is_taken_but_what_was_verified(self) -> None:
        self.junk = {"ed25519:none": "A" * 60_000, "rsa:1": "x", "ed25519:more": "B" * 4_000}
        answer = self.invite(EVE, "x" * 60_000)
        self.assertEqual(200, answer.status, answer.json)
        invite = self.member(self.a, self.room_id, EVE)
        assert invite is not None
        self.assertEqual({A, "evil.example"}, invite["signatures"].keys())
        self.assertEqual([self.eve.key.key_id], list(invite["signatures"]["evil.example"]))

    def test_what_grows_too_large_is_not_placed(self) -> None:
        """As nobody else would take it."""
        self.refusing = True
        self.refused(self.invite(EVE, "x"), 403, "M_FORBIDDEN")
        self.refusing = False
        reason = "x" * (1 + MAX_PDU_BYTES - self.sizes[0])
        self.refused(self.invite(EVE, reason), 413, "M_TOO_LARGE")
        self.assertEqual(MAX_PDU_BYTES, self.sizes[1])
        self.assertIsNone(self.member(self.a, self.room_id, EVE))
        # And by a server that says so itself.
        also = f"@bobby1:{B}"
        self.assertEqual(len(EVE), len(also))
        token = self.b.register("bobby1")
        self.refused(self.invite(also, reason), 413, "M_TOO_LARGE")
        self.assertIsNone(self.member(self.a, self.room_id, also))
        self.assertNotIn("rooms", self.sync(self.b, token))
        self.assertEqual(1, len(self.net.sent("/invite/", destination=B)))


@on_each_database
class Joins(CoSigned):
    """bob of b is let into a restricted room by a server that adds to its signature."""

    def make_restricted(self) -> str:
        """A room for the members of another one, of which bob is."""
        club = self.create(self.a, self.alice, preset="public_chat")
        self.assertEqual(200, self.join(self.b, self.bob, club, A).status)
        rules = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": club}]}
        state = [{"type": "m.room.join_rules", "content": rules}]
        return self.create(self.a, self.alice, initial_state=state, room_version="11")

    def give_back(self, change: Callable[[dict[str, Any]], None]) -> None:
        """The event that a signed comes back changed."""

        def tamper(_: ServerName, request: PeerRequest, response: PeerResponse) -> PeerResponse | None:
            if "/send_join/" not in request.uri:
                return None
            body = msgspec.json.decode(response.body)
            change(body["event"])
            return PeerResponse(response.status, msgspec.json.encode(body), response.headers)

        self.net.tamper_answers(tamper)

    def test_nothing_is_taken_but_what_was_verified(self) -> None:
        room_id = self.make_restricted()
        self.give_back(lambda event: event["signatures"][A].update({"ed25519:none": "A" * 60_000}))
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        join = self.member(self.b, room_id, BOB)
        assert join is not None
        self.assertEqual({A, B}, join["signatures"].keys())
        self.assertEqual(1, len(join["signatures"][A]))

    def test_what_is_given_back_with_too_much(self) -> None:
        """It is the event that was sent; what else is there is not even decoded."""
        room_id = self.make_restricted()
        self.give_back(lambda event: event.update(unsigned={"a": [[]] * MAX_TEXT_BYTES}))
        self.refused(self.join(self.b, self.bob, room_id, A), 502, "M_UNKNOWN")
        self.net.untamper()
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
