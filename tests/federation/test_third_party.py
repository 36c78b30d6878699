"""Third-party invites between servers. spec: server-server-api#third-party-invites"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from federation.hashes import unpadded
from federation.ids import ServerName
from federation.signing import SigningKey, sign_json
from tests.federation.people import A, B, NetCase
from tests.support.databases import on_each_database
from tests.support.http import Answer

ALICE, BOB = f"@alice:{A}", f"@bob:{B}"


@on_each_database
class Offers(NetCase):
    """alice of a made an offer to an address, and bob of b proves that it is his."""

    def setUp(self) -> None:
        super().setUp()
        self.key = SigningKey.from_seed(ServerName("id.example"), "0", b"\x07" * 32)
        self.room = self.create(self.a, self.alice, name="Room")
        self.offer()

    def offer(self, **others: Any) -> None:
        content = {
            "display_name": "b...",
            "public_key": unpadded(self.key.public_key),
            "key_validity_url": "",
            **others,
        }
        path = f"/rooms/{quote(self.room)}/state/m.room.third_party_invite/token"
        self.ok(self.a, self.alice, "PUT", path, content)

    def proof(self, **others: Any) -> dict[str, Any]:
        return sign_json({"sender": ALICE, "mxid": BOB, "token": "token", **others}, self.key)

    def join_with(self, signed: Any) -> Answer:
        body = {"third_party_signed": signed}
        return self.call(self.b, self.bob, "POST", f"/join/{quote(self.room)}", body, {"via": [A]})

    def bind(self, *others: Any) -> None:
        """The identity server tells b that the address is bob's, and of the offers."""
        invite = {
            "medium": "email",
            "address": "b@b.example",
            "mxid": BOB,
            "room_id": self.room,
            "sender": ALICE,
            "signed": self.proof(),
        }
        invites = [*others, {**invite, "signed": 1}, invite]
        body = {"medium": "email", "address": "b@b.example", "mxid": BOB, "invites": invites}
        answer = self.net.wait(self.b.start("PUT", "/_matrix/federation/v1/3pid/onbind", body))
        self.assertEqual((200, {}), (answer.status, answer.json))
        self.net.settle()

    def bring_in_dave(self) -> str:
        """A user of b is in the room; his token."""
        dave = self.b.register("dave")
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(self.room)}/invite", {"user_id": f"@dave:{B}"})
        self.assertEqual(200, self.join(self.b, dave, self.room).status)
        self.net.settle()
        return dave

    def memberships(self) -> list[str]:
        path = f"/rooms/{quote(self.room)}/messages"
        chunk = self.ok(self.a, self.alice, "GET", path, None, {"dir": "f", "limit": 100})["chunk"]
        return [one["content"]["membership"] for one in chunk if one.get("state_key") == BOB]

    def test_the_owner_of_the_address_comes_in(self) -> None:
        answer = self.join_with(self.proof())
        self.assertEqual(200, answer.status, answer.json)
        self.net.settle()
        self.assertEqual(["invite", "join"], self.memberships())
        self.assert_same_state(self.room, (self.a, self.alice), (self.b, self.bob))

    def test_false_proofs(self) -> None:
        for wrong in ({"token": "other"}, {"mxid": ALICE}, {"mxid": "@x:y.example"}):
            self.assertEqual(403, self.join_with(self.proof(**wrong)).status, wrong)
        self.assertEqual(403, self.join_with({**self.proof(), "more": 1}).status)
        self.assertEqual(502, self.join_with(self.proof(sender="@x:nowhere.example")).status)
        self.assertEqual([], self.memberships())
        self.assertNotIn("rooms", self.sync(self.b, self.bob))

    def test_what_is_no_exchange(self) -> None:
        eve = self.net.stranger("evil.example")
        path = f"/_matrix/federation/v1/exchange_third_party_invite/{quote(self.room)}"
        third = {"display_name": "b...", "signed": self.proof()}
        body: dict[str, Any] = {
            "type": "m.room.member",
            "room_id": self.room,
            "sender": ALICE,
            "state_key": "@eve:evil.example",
            "content": {"membership": "invite", "third_party_invite": third},
        }
        changes: tuple[dict[str, Any], ...] = (
            {"type": "m.room.name"},
            {"room_id": "!a:b"},
            {"sender": 1},
            {"sender": BOB},
            {"state_key": BOB},
            {"state_key": ["x"]},
            {"content": []},
            {"content": {"membership": "join", "third_party_invite": third}},
            {"content": {"membership": "invite", "third_party_invite": {"signed": {}}}},
            {"content": {"membership": "invite"}},
            {},  # the proof is of another user
        )
        for change in changes:
            status, json = eve.ask(A, "PUT", path, {**body, **change})
            self.assertIn(status, (400, 403), (change, json))
        self.assertEqual([], self.memberships())

    def test_an_address_is_bound(self) -> None:
        """The identity server tells b, which has alice's server make the invite."""
        self.bind(1, {})
        self.assertEqual(["invite"], self.memberships())
        self.assertIn(self.room, self.sync(self.b, self.bob)["rooms"]["invite"])

    def test_an_address_of_a_user_of_another_server(self) -> None:
        """Identity servers tell the server of the user; for others nothing is asked in anybody's name."""
        proof = self.proof(mxid="@bob:c.example")
        invite = {"mxid": "@bob:c.example", "room_id": self.room, "sender": ALICE, "signed": proof}
        body = {"medium": "email", "address": "b@c.example", "mxid": "@bob:c.example", "invites": [invite]}
        for server in (self.a, self.b):
            answer = self.net.wait(server.start("PUT", "/_matrix/federation/v1/3pid/onbind", body))
            self.refused(answer, 400, "M_INVALID_PARAM")
        self.net.settle()
        self.assertEqual([], self.net.sent("exchange_third_party_invite"))
        state = self.state(self.a, self.alice, self.room)
        self.assertNotIn(("m.room.member", "@bob:c.example"), state)

    def test_a_server_in_the_room_does_it_itself(self) -> None:
        dave = self.bring_in_dave()
        self.assertEqual(200, self.join_with(self.proof()).status)
        self.net.settle()
        self.assertEqual([], self.net.sent("exchange_third_party_invite"))
        self.assertEqual(["invite", "join"], self.memberships())
        self.assert_same_state(self.room, (self.a, self.alice), (self.b, self.bob), (self.b, dave))

    def test_the_server_of_who_made_the_offer_hears_of_an_invite_that_another_one_makes(self) -> None:
        dave = self.bring_in_dave()
        self.bind()
        self.assertEqual([], self.net.sent("exchange_third_party_invite"))
        self.assertEqual(["invite"], self.memberships())
        self.assertIn(self.room, self.sync(self.b, self.bob)["rooms"]["invite"])
        self.assert_same_state(self.room, (self.a, self.alice), (self.b, dave))

    def test_the_server_of_who_made_the_offer_is_away(self) -> None:
        dave = self.bring_in_dave()
        self.net.down(A)
        # From the first failure on what it lacks is read from the tables.
        self.say(self.b, dave, self.room, "unheard")
        self.net.settle()
        self.bind()
        self.assertEqual([], self.memberships())
        self.net.up(A)
        self.net.advance(60)
        self.assertEqual(["invite"], self.memberships())
        self.assert_same_state(self.room, (self.a, self.alice), (self.b, dave))
