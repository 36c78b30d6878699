"""Invites of mail addresses, through an identity server."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from federation.hashes import unpadded
from homeserver.accounts.types import stand_in
from homeserver.http.client import HttpResponse
from homeserver.http.transport import Unreachable
from homeserver.rooms.first_invites import PATIENCE_S
from homeserver.rooms.third_party import KEYS_MOST
from tests.support.app import TestApp, test_key
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.identity import FakeIdentityServer, hashed

V3 = "/_matrix/client/v3"
ALICE, BOB = "@alice:test.example", "@bob:test.example"
THIRD = {
    "id_server": "id.example",
    "id_access_token": "idtoken",
    "medium": "email",
    "address": "Bob@Example.org",
}


@on_each_database
class AddressInvites(DatabaseCase):
    def setUp(self) -> None:
        self.identity = FakeIdentityServer()
        self.app = TestApp(self, self.new_database(), http=self.identity)
        self.alice, self.bob = self.app.register("alice"), self.app.register("bob")
        self.room = self.create()

    def create(self, **fields: Any) -> str:
        body = {"preset": "private_chat", "name": "Den", **fields}
        room_id: str = self.app.ok("POST", f"{V3}/createRoom", body, self.alice)["room_id"]
        return room_id

    def invite(self, token: str | None = None, **fields: Any) -> tuple[int, Any]:
        path = f"{V3}/rooms/{self.room}/invite"
        return self.app.call("POST", path, {**THIRD, **fields}, token or self.alice)

    def state(self, kind: str, key: str, room_id: str = "") -> tuple[int, Any]:
        path = f"{V3}/rooms/{room_id or self.room}/state/{kind}/{key}"
        return self.app.call("GET", path, token=self.alice)

    def says(self, expected: tuple[int, str], found: tuple[int, Any]) -> None:
        self.assertEqual(expected, (found[0], found[1].get("errcode")))

    def test_an_owner_that_is_known(self) -> None:
        self.identity.owners["email", "bob@example.org"] = BOB
        self.assertEqual(self.invite(reason="come"), (200, {}))
        self.assertEqual(self.state("m.room.member", BOB)[1]["membership"], "invite")
        self.assertEqual(self.state("m.room.member", BOB)[1]["reason"], "come")
        lookup = self.identity.asked[1]
        self.assertEqual(lookup[:2], ("POST", "/lookup"))
        self.assertEqual(
            lookup[2],
            {
                "addresses": [hashed("bob@example.org", "email")],
                "algorithm": "sha256",
                "pepper": "matrixrocks",
            },
        )
        self.assertEqual(self.identity.invites, [])

    def test_an_address_without_an_owner(self) -> None:
        self.assertEqual(self.invite(), (200, {}))
        told = self.identity.invites[0]
        self.assertEqual(
            told,
            {
                "medium": "email", "address": "bob@example.org", "room_id": self.room, "sender": ALICE, "room_name": "Den",
                "room_join_rules": "invite", "sender_display_name": "alice",
            },
        )  # fmt: skip
        status, offer = self.state("m.room.third_party_invite", "sometoken")
        self.assertEqual((status, offer["display_name"]), (200, "a...@b..."))
        self.assertEqual(offer["public_keys"][0]["public_key"], offer["public_key"])

    def test_what_is_redacted_is_told_to_no_identity_server(self) -> None:
        path = f"{V3}/rooms/{self.room}"
        query = {"format": "event"}
        name = self.app.ok("GET", f"{path}/state/m.room.name", None, self.alice, query)["event_id"]
        self.app.ok("PUT", f"{path}/redact/{name}/1", {}, self.alice)
        self.assertEqual(self.invite(), (200, {}))
        self.assertNotIn("room_name", self.identity.invites[0])

    def test_the_owner_comes(self) -> None:
        self.invite()
        body = {"third_party_signed": self.identity.sign(BOB, sender=ALICE)}
        path = f"{V3}/rooms/{self.room}/join"
        self.identity.key_is_valid = False
        self.says((403, "M_FORBIDDEN"), self.app.call("POST", path, body, self.bob))
        self.identity.down = True
        self.says((403, "M_FORBIDDEN"), self.app.call("POST", path, body, self.bob))
        self.identity.key_is_valid, self.identity.down = True, False
        self.app.ok("POST", path, body, self.bob)
        self.assertEqual(self.state("m.room.member", BOB)[1]["membership"], "join")

    def test_the_key_that_signed_is_asked_about_however_it_is_written(self) -> None:
        """URL-safe base64, and a key that the offer names again and again before it."""
        keys = (test_key("id.example", seed=seed) for seed in range(100))
        self.identity.key = next(key for key in keys if "/" in unpadded(key.public_key))
        url = "https://id.example/_matrix/identity/v2/pubkey/isvalid"
        other = {"public_key": unpadded(test_key("id.example", seed=100).public_key), "key_validity_url": url}
        key = unpadded(self.identity.key.public_key).replace("+", "-").replace("/", "_")
        named = {"public_key": key, "key_validity_url": url}
        offer = {"display_name": "b", **other, "public_keys": [other] * (KEYS_MOST + 1) + [named]}
        room = f"{V3}/rooms/{self.room}"
        self.app.ok("PUT", f"{room}/state/m.room.third_party_invite/sometoken", offer, self.alice)
        body = {"third_party_signed": self.identity.sign(BOB, sender=ALICE)}
        self.identity.key_is_valid = False
        self.says((403, "M_FORBIDDEN"), self.app.call("POST", f"{room}/join", body, self.bob))
        self.identity.key_is_valid = True
        self.app.ok("POST", f"{room}/join", body, self.bob)

    def test_the_key_that_signed_is_asked_about_whatever_stands_before_it(self) -> None:
        """What is no key at all, and one key with as many addresses as are asked."""
        url = "https://id.example/_matrix/identity/v2/pubkey/isvalid"
        other = unpadded(test_key("id.example", seed=100).public_key)
        named = {"public_key": unpadded(self.identity.key.public_key), "key_validity_url": url}
        numbers = range(KEYS_MOST + 1)
        junk = [{"public_key": f"junk{number}", "key_validity_url": url} for number in numbers]
        repeated = [{"public_key": other, "key_validity_url": f"{url}?{number}"} for number in numbers]
        room = f"{V3}/rooms/{self.room}"
        body = {"third_party_signed": self.identity.sign(BOB, sender=ALICE)}
        for before in (junk, repeated):
            offer = {"display_name": "b", **before[0], "public_keys": [*before[1:], named]}
            self.app.ok("PUT", f"{room}/state/m.room.third_party_invite/sometoken", offer, self.alice)
            self.identity.key_is_valid = False
            self.says((403, "M_FORBIDDEN"), self.app.call("POST", f"{room}/join", body, self.bob))
        self.identity.key_is_valid = True
        self.app.ok("POST", f"{room}/join", body, self.bob)

    def test_the_key_that_signed_is_asked_about_whatever_stands_beside_its_signature(self) -> None:
        self.invite()
        signed = self.identity.sign(BOB, sender=ALICE)
        signed["signatures"]["id.example"]["ed25519:junk"] = unpadded(b"\0" * 64)
        body = {"third_party_signed": signed}
        path = f"{V3}/rooms/{self.room}/join"
        self.identity.key_is_valid = False
        self.says((403, "M_FORBIDDEN"), self.app.call("POST", path, body, self.bob))
        self.identity.key_is_valid = True
        self.app.ok("POST", path, body, self.bob)

    def bound(self) -> dict[str, Any]:
        """What the identity server tells when the address has become bob's."""
        return {
            "medium": "email",
            "address": "bob@example.org",
            "mxid": BOB,
            "invites": [
                {
                    "address": "bob@example.org",
                    "medium": "email",
                    "mxid": BOB,
                    "room_id": self.room,
                    "sender": ALICE,
                    "signed": self.identity.sign(BOB),
                }
            ],
        }

    def test_the_identity_server_tells(self) -> None:
        self.invite()
        self.app.ok("PUT", "/_matrix/federation/v1/3pid/onbind", self.bound())
        self.assertEqual(self.state("m.room.member", BOB)[1]["membership"], "invite")
        self.app.ok("POST", f"{V3}/rooms/{self.room}/join", {}, self.bob)

    def test_a_blocked_room(self) -> None:
        self.invite()
        self.identity.asked.clear()
        services, nid = self.app.app.services, self.app.app.core.interner.known_user(ALICE)
        assert nid is not None
        blocking = services.rooms.blocks.block(stand_in(ALICE, nid), self.room)
        self.app.wait(Deferred.fromCoroutine(blocking))
        self.says((403, "M_FORBIDDEN"), self.invite())
        self.assertEqual([], self.identity.asked)
        self.app.ok("PUT", "/_matrix/federation/v1/3pid/onbind", self.bound())
        self.says((404, "M_NOT_FOUND"), self.state("m.room.member", BOB))

    def test_a_new_room_and_an_identity_server_that_does_not_answer(self) -> None:
        asked: list[Deferred[HttpResponse]] = []

        def request(*_: Any, **__: Any) -> Deferred[HttpResponse]:
            asked.append(Deferred())
            return asked[-1]

        self.patch(self.identity, "request", request)
        addresses = [{**THIRD, "address": f"{number}@example.org"} for number in range(5)]
        call = self.app.start("POST", f"{V3}/createRoom", {"invite_3pid": addresses}, self.alice)
        while not asked:
            self.app.advance(0)
        self.app.advance(PATIENCE_S)
        self.assertEqual(200, self.app.wait(call).status)
        # The first is waited for in the background, and the others would fare no better.
        asked[0].errback(Unreachable("it took too long"))
        self.app.advance(0)
        self.assertEqual(1, len(asked))
        logged = [event for _, event, _ in self.app.log.entries]
        self.assertEqual(1, logged.count("address not invited"))

    def test_with_a_new_room(self) -> None:
        self.identity.owners["email", "bob@example.org"] = BOB
        room_id = self.create(invite_3pid=[THIRD], is_direct=True)
        member = self.state("m.room.member", BOB, room_id)[1]
        self.assertEqual((member["membership"], member["is_direct"]), ("invite", True))
        # An identity server that is down keeps nobody from a room of their own.
        self.identity.down = True
        self.create(invite_3pid=[THIRD])

    def test_who_may(self) -> None:
        self.says((403, "M_FORBIDDEN"), self.invite(self.bob))
        levels = self.state("m.room.power_levels", "")[1]
        self.app.ok(
            "PUT", f"{V3}/rooms/{self.room}/state/m.room.power_levels", {**levels, "invite": 50}, self.alice
        )
        self.app.ok("POST", f"{V3}/rooms/{self.room}/invite", {"user_id": BOB}, self.alice)
        self.app.ok("POST", f"{V3}/join/{self.room}", {}, self.bob)
        self.says((403, "M_FORBIDDEN"), self.invite(self.bob))
        self.assertEqual(self.identity.asked, [])

    def test_refusals(self) -> None:
        for fields, expected in (
            ({"id_access_token": "wrong"}, (403, "M_UNAUTHORIZED")),
            ({"id_server": "elsewhere.example"}, (502, "M_UNKNOWN")),
            ({"id_server": "a/b"}, (400, "M_INVALID_PARAM")),
            ({"id_access_token": "a\nb"}, (400, "M_INVALID_PARAM")),
            ({"medium": "pigeon"}, (400, "M_INVALID_PARAM")),
            ({"address": "a\0"}, (400, "M_INVALID_PARAM")),
            ({"address": ""}, (400, "M_INVALID_PARAM")),
            ({"address": "x" * 1000}, (400, "M_INVALID_PARAM")),
            ({"id_server": None}, (400, "M_MISSING_PARAM")),
        ):
            self.says(expected, self.invite(**fields))

    def test_answers_that_make_no_sense(self) -> None:
        for path, body in (
            ("/hash_details", b"{}"), ("/hash_details", b'{"lookup_pepper":1,"algorithms":[]}'), ("/hash_details", b"\xff"),
            ("/lookup", b'{"mappings":{"' + hashed("bob@example.org", "email").encode() + b'":"bob"}}'),
            ("/store-invite", b"{}"), ("/store-invite", b'{"token":"a","public_keys":[]}'),
            ("/store-invite", b'{"token":"a\\u0000","public_keys":[{}]}'),
            ("/store-invite", b'{"token":"a","public_keys":[{"public_key":"k"}]}'),
        ):  # fmt: skip
            self.identity.answers = {path: (200, body)}
            self.says((502, "M_UNKNOWN"), self.invite())
        self.identity.answers = {"/lookup": (200, b'{"mappings":[]}')}
        self.assertEqual(self.invite()[0], 200)
        self.identity.answers = {"/hash_details": (200, b'{"lookup_pepper":"x","algorithms":["md5"]}')}
        self.says((400, "M_INVALID_PARAM"), self.invite())
