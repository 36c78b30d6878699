"""The seven receipt checks. # spec: server-server-api#checks-performed-on-receipt-of-a-pdu"""

from twisted.trial.unittest import SynchronousTestCase

from federation.checks import (
    AuthEvents,
    Check,
    Outcome,
    check_auth_events,
    check_authorisation,
    check_current_state,
    check_format,
    check_hash,
    check_policy,
    check_signatures,
    check_state_before,
    lookup_of,
)
from federation.event import Event
from federation.verdict import ACCEPT, Accept, Drop, Reject, SoftFail
from federation.versions import ROOM_VERSIONS
from tests.unit.federation.auth.room import ALICE, ALL_VERSIONS, BOB, CHARLIE, Room, usual_room


def auth_of(room: Room, event: Event) -> AuthEvents:
    return AuthEvents(room.auth_events(event), (), room.create)


class SingleCheckTests(SynchronousTestCase):
    def test_1_format_drops(self) -> None:
        for rules in ROOM_VERSIONS.values():
            self.assertIsInstance(check_format({"type": "m.room.message"}, rules), Drop)
            self.assertIsInstance(check_format({}, rules), Drop)

    def test_1_format_parses(self) -> None:
        event = usual_room("11").event("m.room.message", BOB, {"body": "hello"})
        event_json = {
            **event.json,
            "prev_events": ["$" + "a" * 43],
            "auth_events": [],
            "hashes": {"sha256": "x"},
            "signatures": {},
        }
        parsed = check_format(event_json, event.rules)
        assert isinstance(parsed, Event)
        self.assertEqual(parsed.content, {"body": "hello"})

    def test_2_signatures_drop(self) -> None:
        self.assertEqual(check_signatures({"a.test"}, {"a.test", "b.test"}), ACCEPT)
        self.assertEqual(
            check_signatures({"b.test", "a.test"}, {"c.test"}), Drop("not validly signed by a.test")
        )
        self.assertIsInstance(check_signatures({"a.test"}, ()), Drop)

    def test_3_hash_redacts(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            event = room.event("m.room.message", BOB, {"body": "forged"})
            self.assertIs(check_hash(event, True), event)
            redacted = check_hash(event, False)
            self.assertEqual(redacted.content, {})
            self.assertEqual((redacted.event_id, redacted.room_id), (event.event_id, event.room_id))
            self.assertEqual(event.content, {"body": "forged"})
            join = room.member(BOB, "join", displayname="x")
            self.assertEqual(check_hash(join, False).content, {"membership": "join"})
            self.assertEqual(check_hash(room.create, False).room_id, room.room_id)

    def test_4_auth_events_reject(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            event = room.event("m.room.message", BOB, {})
            self.assertEqual(check_auth_events(event, auth_of(room, event)), ACCEPT)
            self.assertIsInstance(check_auth_events(event, AuthEvents((), (), room.create)), Reject)
            member = room.state[("m.room.member", BOB)]
            rejected = AuthEvents(room.auth_events(event), (member.event_id,), room.create)
            self.assertIsInstance(check_auth_events(event, rejected), Reject)
            power = room.state[("m.room.power_levels", "")].event_id
            without = room.event(
                "m.room.message", BOB, {}, auth=[i for i in event.auth_event_ids if i != power]
            )
            self.assertEqual(check_auth_events(without, auth_of(room, without)), ACCEPT)
            topic = room.event("m.room.topic", BOB, {}, "", auth=without.auth_event_ids)
            self.assertIsInstance(check_auth_events(topic, auth_of(room, topic)), Reject)
            self.assertIsInstance(check_auth_events(room.create, AuthEvents((), (), None)), Accept)

    def test_5_and_6_differ_in_the_verdict(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            event = room.event("m.room.message", CHARLIE, {})
            self.assertEqual(check_state_before(event, room.lookup), ACCEPT)
            self.assertEqual(check_current_state(event, room.lookup), ACCEPT)
            room.put_member(CHARLIE, "ban", ALICE)
            self.assertIsInstance(check_state_before(event, room.lookup), Reject)
            self.assertIsInstance(check_current_state(event, room.lookup), SoftFail)

    def test_7_policy(self) -> None:
        self.assertEqual(check_policy(False, False), ACCEPT)
        self.assertEqual(check_policy(True, True), ACCEPT)
        self.assertIsInstance(check_policy(True, False), SoftFail)


class SequenceTests(SynchronousTestCase):
    """The example of the specification: X sets the topic on a branch that does not know of X's ban."""

    def setUp(self) -> None:
        self.room = usual_room("12")
        self.event = self.room.event("m.room.topic", BOB, {}, "")
        self.auth = auth_of(self.room, self.event)
        self.before = lookup_of(dict(self.room.state))

    def outcome(self, **options: bool) -> Outcome:
        return check_authorisation(self.event, self.auth, self.before, self.room.lookup, **options)

    def test_all_pass(self) -> None:
        self.assertEqual(self.outcome(), Outcome(Check.POLICY, ACCEPT))
        self.assertEqual(
            self.outcome(policy_required=True, policy_signed=True), Outcome(Check.POLICY, ACCEPT)
        )

    def test_ban_evasion_is_soft_failed(self) -> None:
        self.room.put_member(BOB, "ban", ALICE)
        outcome = self.outcome(policy_required=True)
        self.assertEqual(outcome.check, Check.CURRENT_STATE)
        self.assertIsInstance(outcome.verdict, SoftFail)
        old = check_authorisation(self.event, self.auth, self.before, None, policy_required=True)
        self.assertEqual(old, Outcome(Check.STATE_BEFORE, ACCEPT))

    def test_the_first_failure_decides(self) -> None:
        nothing = lookup_of({})
        outcome = check_authorisation(self.event, self.auth, nothing, nothing)
        self.assertEqual((outcome.check, type(outcome.verdict)), (Check.STATE_BEFORE, Reject))
        outcome = check_authorisation(self.event, AuthEvents((), (), None), nothing, nothing)
        self.assertEqual((outcome.check, type(outcome.verdict)), (Check.AUTH_EVENTS, Reject))
        outcome = self.outcome(policy_required=True)
        self.assertEqual((outcome.check, type(outcome.verdict)), (Check.POLICY, SoftFail))
