"""What servers say of restricted rooms to servers whose users meet a condition.

# spec: server-server-api#restricted-rooms
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from federation.canonical import encode
from federation.event import MAX_PDU_BYTES
from federation.hashes import compute_event_id
from federation.signing import hash_and_sign_event
from federation.versions import ROOM_VERSIONS
from tests.federation.people import A, B, NetCase
from tests.support.databases import on_each_database

ALICE, BOB = f"@alice:{A}", f"@bob:{B}"
EVE = "@eve:evil.example"


@on_each_database
class Granting(NetCase):
    """Eve is in the club whose members may join alice's room; bob is in both."""

    def setUp(self) -> None:
        super().setUp()
        self.eve = self.net.stranger("evil.example")
        self.club = self.create(self.a, self.alice, preset="public_chat", room_version="11")
        rules = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": self.club}]}
        state = [{"type": "m.room.join_rules", "content": rules}]
        self.room = self.create(self.a, self.alice, initial_state=state, room_version="11")
        for room_id in (self.club, self.room):
            self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.assertEqual(200, self.hand_over(A, self.template(A, self.club)[1])[0])
        self.net.settle()

    def template(self, server: str, room_id: str) -> tuple[int, Any]:
        """What ``make_join`` answers: its event, or its error."""
        path = f"/_matrix/federation/v1/make_join/{quote(room_id)}/{quote(EVE)}?ver=11"
        status, json = self.eve.ask(server, "GET", path)
        return status, json.get("event", json.get("errcode"))

    def hand_over(
        self, server: str, template: dict[str, Any], size: int | None = None
    ) -> tuple[int, str | None]:
        """What ``send_join`` answers; ``size``: how many bytes the join is to have."""
        rules = ROOM_VERSIONS["11"]
        fields = {**template, "origin_server_ts": self.net.now_ms}
        event = hash_and_sign_event(fields, rules, self.eve.key)
        if size is not None:
            reason = "x" * (size - len(encode(event)) - len(',"reason":""'))
            fields["content"] = {**template["content"], "reason": reason}
            event = hash_and_sign_event(fields, rules, self.eve.key)
            self.assertEqual(size, len(encode(event)))
        event_id = compute_event_id(event, rules)
        path = f"/_matrix/federation/v2/send_join/{quote(template['room_id'])}/{quote(event_id)}"
        status, json = self.eve.ask(server, "PUT", path, event)
        return status, json.get("errcode")

    def let_bob_alone_invite(self) -> None:
        path = f"/rooms/{quote(self.room)}/state/m.room.power_levels"
        levels = self.ok(self.a, self.alice, "GET", path)
        self.ok(self.a, self.alice, "PUT", path, {**levels, "invite": 50, "users": {ALICE: 0, BOB: 50}})
        self.net.settle()

    def test_who_may_not_grant_says_so(self) -> None:
        status, template = self.template(A, self.room)
        self.assertEqual(
            (200, ALICE), (status, template["content"]["join_authorised_via_users_server"]), template
        )
        self.let_bob_alone_invite()
        # Both who is asked for a template now, and who is held to one of a moment ago.
        self.assertEqual((400, "M_UNABLE_TO_GRANT_JOIN"), self.template(A, self.room))
        self.assertEqual((400, "M_UNABLE_TO_GRANT_JOIN"), self.hand_over(A, template))
        status, template = self.template(B, self.room)
        self.assertEqual((200, BOB), (status, template["content"]["join_authorised_via_users_server"]))
        self.assertEqual((200, None), self.hand_over(B, template))

    def test_who_is_named_must_be_there(self) -> None:
        template = self.template(A, self.room)[1]
        named = {"membership": "join", "join_authorised_via_users_server": f"@nobody:{A}"}
        self.assertEqual((400, "M_UNABLE_TO_GRANT_JOIN"), self.hand_over(A, {**template, "content": named}))

    def test_who_meets_no_condition_is_told_that_first(self) -> None:
        template = self.template(A, self.room)[1]
        self.let_bob_alone_invite()
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(self.club)}/kick", {"user_id": EVE})
        self.net.settle()
        self.assertEqual((403, "M_FORBIDDEN"), self.hand_over(A, template))
        self.assertEqual((403, "M_FORBIDDEN"), self.template(A, self.room))

    def test_a_join_that_grows_too_large_by_our_signature(self) -> None:
        """Everybody else would refuse it: eve would be in the room for a alone."""
        template = self.template(A, self.room)[1]
        before = self.state(self.a, self.alice, self.room)
        self.assertEqual((413, "M_TOO_LARGE"), self.hand_over(A, template, MAX_PDU_BYTES))
        self.assertEqual(before, self.state(self.a, self.alice, self.room))
        self.assertEqual((200, None), self.hand_over(A, template, MAX_PDU_BYTES - 200))
        self.net.settle()
        self.assertIn(("m.room.member", EVE), self.state(self.a, self.alice, self.room))
        self.assert_same_state(self.room, (self.a, self.alice), (self.b, self.bob))
