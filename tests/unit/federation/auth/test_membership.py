"""The member rules in every version."""

import base64
from typing import Any

from nacl.signing import SigningKey
from twisted.trial.unittest import SynchronousTestCase

from federation.auth.rules import check_state_dependent
from federation.auth.third_party import MAX_KEYS, MAX_SIGNATURES
from federation.canonical import encode
from federation.event import Event
from federation.verdict import Accept, Reject
from tests.unit.federation.auth.room import ALICE, ALL_VERSIONS, BOB, CHARLIE, DAVE, EVE, Room, usual_room

MEMBERSHIPS = (None, "join", "invite", "leave", "ban", "knock")


class MembershipCase(SynchronousTestCase):
    def allows(self, room: Room, event: Event) -> bool:
        verdict = check_state_dependent(event, room.lookup)
        self.assertIsInstance(verdict, (Accept, Reject))
        return isinstance(verdict, Accept)

    def set_membership(self, room: Room, user_id: str, membership: str | None) -> None:
        if membership is None:
            room.state.pop(("m.room.member", user_id), None)
        else:
            room.put_member(user_id, membership)


class ShapeTests(MembershipCase):
    def test_malformed(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            self.assertFalse(self.allows(room, room.event("m.room.member", BOB, {"membership": "join"})))
            content: Any
            for content in (
                {},
                {"membership": None},
                {"membership": ["join"]},
                {"membership": "x"},
                {"membership": {}},
            ):
                self.assertFalse(self.allows(room, room.event("m.room.member", BOB, content, BOB)))


class JoinTests(MembershipCase):
    def test_first_join_of_the_creator(self) -> None:
        for version in ALL_VERSIONS:
            room = Room(version, {"creator": ALICE, "additional_creators": [DAVE]})
            for user_id, prev, allowed in (
                (ALICE, ["$create"], True),
                (ALICE, ["$other"], False),
                (ALICE, ["$create", "$other"], False),
                (BOB, ["$create"], False),
                (DAVE, ["$create"], False),
            ):
                event = room.event("m.room.member", user_id, {"membership": "join"}, user_id, prev=prev)
                self.assertEqual(self.allows(room, event), allowed, (version, user_id, prev))

    def test_whose_content_creator_counts(self) -> None:
        for version in ALL_VERSIONS:
            room = Room(version, {"creator": BOB})
            for user_id, allowed in ((BOB, int(version) <= 10), (ALICE, int(version) >= 11)):
                event = room.event(
                    "m.room.member", user_id, {"membership": "join"}, user_id, prev=["$create"]
                )
                self.assertEqual(self.allows(room, event), allowed, (version, user_id))

    def test_join_rules(self) -> None:
        since = {"knock": 7, "restricted": 8, "knock_restricted": 10}
        for version in ALL_VERSIONS:
            for rule in (
                "public",
                "invite",
                "private",
                "knock",
                "restricted",
                "knock_restricted",
                None,
                3,
                ["public"],
            ):
                room = usual_room(version, rule)  # type: ignore[arg-type]
                known = int(version) >= since.get(rule, 1) if isinstance(rule, str) else False
                for membership in MEMBERSHIPS:
                    self.set_membership(room, EVE, membership)
                    if membership == "ban" or not known or rule == "private":
                        allowed = False
                    else:
                        allowed = rule == "public" or membership in ("join", "invite")
                    self.assertEqual(
                        self.allows(room, room.member(EVE, "join")), allowed, (version, rule, membership)
                    )

    def test_no_join_rules_means_invite(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            del room.state[("m.room.join_rules", "")]
            self.assertFalse(self.allows(room, room.member(EVE, "join")))
            room.put_member(EVE, "invite")
            self.assertTrue(self.allows(room, room.member(EVE, "join")))

    def test_nobody_joins_for_another(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            self.assertFalse(self.allows(room, room.member(EVE, "join", sender=ALICE)))

    def test_restricted(self) -> None:
        for version in ALL_VERSIONS:
            for rule, since in (("restricted", 8), ("knock_restricted", 10)):
                room = usual_room(version, rule)
                room.put_power(users={ALICE: 100, BOB: 50}, invite=50)
                for authoriser_id, allowed in (
                    (BOB, True),
                    (CHARLIE, False),
                    (DAVE, False),
                    (3, False),
                    (None, False),
                ):
                    event = room.member(EVE, "join", join_authorised_via_users_server=authoriser_id)
                    self.assertEqual(self.allows(room, event), allowed and int(version) >= since)
                event = room.member(EVE, "join", join_authorised_via_users_server=BOB)
                room.put_member(BOB, "leave")
                self.assertFalse(self.allows(room, event))
                event = room.member(EVE, "join", join_authorised_via_users_server=ALICE)
                room.put_member(EVE, "ban", ALICE)
                self.assertFalse(self.allows(room, event))

    def test_whoever_authorises_must_have_a_server_that_can_sign(self) -> None:
        """Whether it did is a question of signatures; a name of no server is an answer to it."""
        for version in ALL_VERSIONS:
            room = usual_room(version)
            for authoriser_id in (3, None, [BOB], "bob", "@bob", "@bob:", "bob:b.test", "@bob:b..c"):
                for membership, sender in (("join", EVE), ("invite", ALICE), ("ban", ALICE)):
                    event = room.member(
                        EVE, membership, sender, join_authorised_via_users_server=authoriser_id
                    )
                    self.assertEqual(
                        self.allows(room, event), int(version) < 8, (version, authoriser_id, membership)
                    )
            event = room.member(EVE, "join", join_authorised_via_users_server=BOB)
            self.assertTrue(self.allows(room, event))


class InviteTests(MembershipCase):
    def test_by_target_membership(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            for membership in MEMBERSHIPS:
                self.set_membership(room, EVE, membership)
                allowed = membership not in ("join", "ban")
                self.assertEqual(self.allows(room, room.member(EVE, "invite", ALICE)), allowed)

    def test_by_sender(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            room.put_power(users={ALICE: 100, BOB: 50}, invite=50)
            for sender, allowed in ((ALICE, True), (BOB, True), (CHARLIE, False), (DAVE, False)):
                self.assertEqual(self.allows(room, room.member(EVE, "invite", sender)), allowed)
            room.put_member(ALICE, "leave")
            self.assertFalse(self.allows(room, room.member(EVE, "invite", ALICE)))


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


class ThirdPartyInviteTests(MembershipCase):
    key = SigningKey(b"k" * 32)
    other = SigningKey(b"o" * 32)

    def setUp(self) -> None:
        self.room = usual_room("11")
        self.offer(public_key=base64_of(bytes(self.key.verify_key)))

    def offer(self, **content: Any) -> None:
        self.room.put("m.room.third_party_invite", BOB, content, "token")

    def signed(self, key: SigningKey, **changes: Any) -> dict[str, Any]:
        body = {"mxid": EVE, "token": "token", **changes}
        signature = base64_of(key.sign(encode(body)).signature)
        return {**body, "signatures": {"id.test": {"ed25519:0": signature}}}

    def invited(self, signed: Any, sender: str = BOB) -> bool:
        event = self.room.member(EVE, "invite", sender, third_party_invite={"signed": signed})
        return self.allows(self.room, event)

    def test_valid(self) -> None:
        self.assertTrue(self.invited(self.signed(self.key)))
        self.offer(
            public_keys=[{"public_key": base64_of(bytes(k.verify_key))} for k in (self.other, self.key)]
        )
        self.assertTrue(self.invited(self.signed(self.key)))
        raw = bytes(self.key.verify_key)
        self.offer(public_key=base64.urlsafe_b64encode(raw).decode())
        self.assertTrue(self.invited(self.signed(self.key)))

    def test_the_inviter_may_have_left(self) -> None:
        self.room.put_member(BOB, "leave")
        self.assertTrue(self.invited(self.signed(self.key)))

    def test_invalid(self) -> None:
        good = self.signed(self.key)
        self.assertFalse(self.invited(self.signed(self.other)))
        self.assertFalse(self.invited(good, sender=ALICE))
        self.assertFalse(self.invited(self.signed(self.key, mxid=DAVE)))
        self.assertFalse(self.invited(self.signed(self.key, token="unknown")))
        self.assertFalse(self.invited({**good, "extra": 1}))
        for name in good:
            self.assertFalse(self.invited({key: value for key, value in good.items() if key != name}), name)
        self.room.put_member(EVE, "ban", ALICE)
        self.assertFalse(self.invited(good))

    def test_without_signed_it_is_no_ordinary_invite(self) -> None:
        value: Any
        for value in (None, {}, {"signed": {}}, {"signed": 3}, "x", []):
            event = self.room.member(EVE, "invite", ALICE, third_party_invite=value)
            self.assertFalse(self.allows(self.room, event), value)

    def test_hostile_keys_and_signatures(self) -> None:
        good = self.signed(self.key)
        signatures: Any
        for signatures in (
            3,
            [],
            {"id.test": 3},
            {"id.test": {"ed25519:0": 3}},
            {"id.test": {"ed25519:0": "!!"}},
        ):
            self.assertFalse(self.invited({**good, "signatures": signatures}))
        self.assertFalse(self.invited({**good, "signatures": {"id.test": {"rsa:0": "AAAA"}}}))
        for content in (
            {},
            {"public_key": 3},
            {"public_key": "AA"},
            {"public_keys": 3},
            {"public_keys": [3, {}]},
        ):
            self.offer(**content)
            self.assertFalse(self.invited(good), content)

    def test_work_is_bounded(self) -> None:
        good = self.signed(self.key)
        many = {f"ed25519:{n:03}": base64_of(n.to_bytes(64, "big")) for n in range(MAX_SIGNATURES)}
        late = {**many, "ed25519:zzz": good["signatures"]["id.test"]["ed25519:0"]}
        self.assertFalse(self.invited({**good, "signatures": {"id.test": late}}))
        keys = [base64_of(bytes(SigningKey(n.to_bytes(32, "big")).verify_key)) for n in range(MAX_KEYS)]
        keys.append(base64_of(bytes(self.key.verify_key)))
        self.offer(public_keys=[{"public_key": key} for key in keys])
        self.assertFalse(self.invited(good))
        self.offer(public_keys=[{"public_key": key} for key in keys[1:]])
        self.assertTrue(self.invited(good))


class LeaveTests(MembershipCase):
    def test_by_oneself(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            for membership in MEMBERSHIPS:
                self.set_membership(room, EVE, membership)
                allowed = membership in ("join", "invite") or (membership == "knock" and int(version) >= 7)
                self.assertEqual(self.allows(room, room.member(EVE, "leave")), allowed, (version, membership))

    def test_kicks(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            room.put_power(users={ALICE: 100, BOB: 50, DAVE: 50}, kick=50)
            for sender, target, allowed in (
                (BOB, CHARLIE, True),
                (BOB, DAVE, False),
                (BOB, ALICE, False),
                (ALICE, BOB, True),
                (CHARLIE, EVE, False),
                (DAVE, CHARLIE, False),
            ):
                self.assertEqual(
                    self.allows(room, room.member(target, "leave", sender)), allowed, (version, sender)
                )

    def test_unbans(self) -> None:
        for version in ALL_VERSIONS:
            for ban, allowed in ((50, True), (51, False)):
                room = usual_room(version)
                room.put_power(users={ALICE: 100, BOB: 50}, ban=ban)
                room.put_member(EVE, "ban", ALICE)
                self.assertEqual(self.allows(room, room.member(EVE, "leave", BOB)), allowed)

    def test_creators_cannot_kick_each_other(self) -> None:
        room = Room("12", {"additional_creators": [BOB]})
        room.put_member(ALICE, "join")
        room.put_member(BOB, "join")
        room.put_power(users={CHARLIE: 2**53 - 1})
        room.put_member(CHARLIE, "join")
        for membership in ("leave", "ban"):
            self.assertFalse(self.allows(room, room.member(BOB, membership, ALICE)))
            self.assertFalse(self.allows(room, room.member(ALICE, membership, BOB)))
            self.assertFalse(self.allows(room, room.member(ALICE, membership, CHARLIE)))
            self.assertTrue(self.allows(room, room.member(CHARLIE, membership, BOB)))


class BanTests(MembershipCase):
    def test_bans(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            room.put_power(users={ALICE: 100, BOB: 50, DAVE: 50}, ban=50)
            for sender, target, allowed in (
                (BOB, CHARLIE, True),
                (BOB, EVE, True),
                (BOB, DAVE, False),
                (BOB, BOB, False),
                (BOB, ALICE, False),
                (CHARLIE, EVE, False),
                (DAVE, CHARLIE, False),
            ):
                self.assertEqual(
                    self.allows(room, room.member(target, "ban", sender)), allowed, (version, sender)
                )


class KnockTests(MembershipCase):
    def test_knocks(self) -> None:
        for version in ALL_VERSIONS:
            for rule, since in (
                ("knock", 7),
                ("knock_restricted", 10),
                ("public", 99),
                ("invite", 99),
                ("restricted", 99),
            ):
                room = usual_room(version, rule)
                for membership in MEMBERSHIPS:
                    self.set_membership(room, EVE, membership)
                    allowed = int(version) >= since and membership not in ("ban", "invite", "join")
                    self.assertEqual(
                        self.allows(room, room.member(EVE, "knock")), allowed, (version, rule, membership)
                    )
                room.state.pop(("m.room.member", EVE), None)
                self.assertFalse(self.allows(room, room.member(EVE, "knock", ALICE)))
