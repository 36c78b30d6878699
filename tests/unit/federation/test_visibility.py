"""History visibility. # spec: client-server-api#room-history-visibility"""

from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from federation.visibility import may_see, may_see_event, visibility_of
from tests.unit.federation.auth.room import ALICE, BOB, usual_room

VISIBILITIES = ("world_readable", "shared", "invited", "joined")
MEMBERSHIPS = (None, "join", "invite", "leave", "ban", "knock")


class DecisionTests(SynchronousTestCase):
    def test_table(self) -> None:
        for visibility, membership, later in product(VISIBILITIES, MEMBERSHIPS, (False, True)):
            expected = (
                visibility == "world_readable"
                or membership == "join"
                or (visibility == "shared" and later)
                or (visibility == "invited" and membership == "invite")
            )
            self.assertEqual(
                may_see(visibility, membership, later), expected, (visibility, membership, later)
            )

    def test_unknown_values_mean_shared(self) -> None:
        content: object
        for content in (
            None,
            {},
            {"history_visibility": "x"},
            {"history_visibility": ["joined"]},
            [],
            "joined",
        ):
            self.assertEqual(visibility_of(content), "shared")
        for visibility in VISIBILITIES:
            self.assertEqual(visibility_of({"history_visibility": visibility}), visibility)


class TransitionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.room = usual_room("12")

    def test_a_change_of_visibility_is_seen_from_either_side(self) -> None:
        for before, after, membership, later in product(
            VISIBILITIES, VISIBILITIES, MEMBERSHIPS, (False, True)
        ):
            event = self.room.event("m.room.history_visibility", ALICE, {"history_visibility": after}, "")
            expected = may_see(before, membership, later) or may_see(after, membership, later)
            self.assertEqual(may_see_event(event, BOB, before, membership, later), expected)

    def test_other_state_does_not_change_the_visibility(self) -> None:
        for event_type, state_key in (
            ("m.room.topic", ""),
            ("m.room.history_visibility", "x"),
            ("m.room.message", None),
        ):
            event = self.room.event(event_type, ALICE, {"history_visibility": "world_readable"}, state_key)
            self.assertFalse(may_see_event(event, BOB, "joined", None, True))

    def test_own_membership_is_seen_from_either_side(self) -> None:
        for visibility, before, after in product(VISIBILITIES, MEMBERSHIPS, MEMBERSHIPS[1:]):
            event = self.room.event("m.room.member", BOB, {"membership": after}, BOB)
            expected = may_see(visibility, before, False) or may_see(visibility, after, False)
            self.assertEqual(may_see_event(event, BOB, visibility, before, False), expected)
            self.assertEqual(
                may_see_event(event, ALICE, visibility, before, False), may_see(visibility, before, False)
            )

    def test_joins_and_parts_are_always_seen_by_oneself(self) -> None:
        join = self.room.event("m.room.member", BOB, {"membership": "join"}, BOB)
        ban = self.room.event("m.room.member", ALICE, {"membership": "ban"}, BOB)
        self.assertTrue(may_see_event(join, BOB, "joined", None, False))
        self.assertTrue(may_see_event(ban, BOB, "joined", "join", False))
        self.assertFalse(may_see_event(ban, BOB, "joined", "leave", False))
