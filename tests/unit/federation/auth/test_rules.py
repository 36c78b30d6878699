"""State-independent and state-dependent rules apart from membership and power levels, in every version."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from federation.auth.power import parse_power_levels
from federation.auth.rules import check_state_dependent, check_state_independent
from federation.event import Event, parse_stored
from federation.ids import EventId
from federation.verdict import Accept, Reject
from tests.unit.federation.auth.room import (
    ALICE,
    ALL_VERSIONS,
    BOB,
    CHARLIE,
    DAVE,
    EVE,
    Room,
    usual_room,
    versions,
)


class CreateTests(SynchronousTestCase):
    def check(self, version: str, **changes: Any) -> bool:
        room = Room(version)
        event_json = {**room.create.json, **changes}
        event = parse_stored(EventId("$create"), event_json, room.rules)
        self.assertIsInstance(check_state_dependent(event, lambda event_type, state_key: None), Accept)
        return isinstance(check_state_independent(event, ()), Accept)

    def test_plain(self) -> None:
        for version in ALL_VERSIONS:
            self.assertTrue(self.check(version), version)

    def test_prev_events(self) -> None:
        for version in ALL_VERSIONS:
            reference = ["$x:a.test", {}] if int(version) <= 2 else "$x:a.test"
            self.assertFalse(self.check(version, prev_events=[reference]), version)

    def test_room_id(self) -> None:
        for version in versions(1, 11):
            self.assertFalse(self.check(version, room_id="!create:b.test"), version)
        self.assertFalse(self.check("12", room_id="!create"))

    def test_room_version(self) -> None:
        for version in ALL_VERSIONS:
            for named, allowed in ((version, True), ("1", True), ("nope", False), (1, False), (None, False)):
                content = {"creator": ALICE, "room_version": named}
                self.assertEqual(self.check(version, content=content), allowed, (version, named))

    def test_creator(self) -> None:
        for version in ALL_VERSIONS:
            self.assertEqual(self.check(version, content={}), int(version) >= 11, version)

    def test_additional_creators(self) -> None:
        for additional, allowed in (
            ([], True),
            ([BOB], True),
            ("x", False),
            ([3], False),
            (["bob"], False),
            (["@bob:b_c"], False),
            (["@bob:b..c"], True),
            (None, False),
        ):
            content = {"creator": ALICE, "additional_creators": additional}
            self.assertEqual(self.check("12", content=content), allowed, additional)
            self.assertTrue(self.check("11", content=content))


class AuthEventsTests(SynchronousTestCase):
    def check(self, room: Room, event: Event, **options: Any) -> bool:
        options.setdefault("create", room.create)
        options.setdefault("auth_events", room.auth_events(event))
        verdict = check_state_independent(event, options.pop("auth_events"), **options)
        self.assertIsInstance(verdict, (Accept, Reject))
        return isinstance(verdict, Accept)

    def test_selected_events_are_allowed(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            self.assertTrue(self.check(room, room.event("m.room.message", BOB, {})), version)
            self.assertTrue(self.check(room, room.member(BOB, "invite")), version)

    def test_two_of_one_kind(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            usual = room.event("m.room.message", BOB, {})
            twin = room.event("m.room.power_levels", ALICE, {}, "")
            event = room.event("m.room.message", BOB, {}, auth=(*usual.auth_event_ids, twin.event_id))
            self.assertFalse(self.check(room, event), version)
            event = room.event(
                "m.room.message", BOB, {}, auth=(*usual.auth_event_ids, usual.auth_event_ids[0])
            )
            self.assertFalse(self.check(room, event), version)
            deduplicated = [room.events[event_id] for event_id in sorted(set(event.auth_event_ids))]
            self.assertFalse(self.check(room, event, auth_events=deduplicated), version)

    def test_not_in_the_selection(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            usual = room.event("m.room.message", BOB, {})
            for key in (("m.room.join_rules", ""), ("m.room.member", CHARLIE)):
                event = room.event(
                    "m.room.message", BOB, {}, auth=(*usual.auth_event_ids, room.state[key].event_id)
                )
                self.assertFalse(self.check(room, event), (version, key))
            message = room.event("m.room.message", ALICE, {})
            event = room.event("m.room.message", BOB, {}, auth=(*usual.auth_event_ids, message.event_id))
            self.assertFalse(self.check(room, event), version)

    def test_create_event(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            others = [
                room.state[key].event_id for key in (("m.room.power_levels", ""), ("m.room.member", BOB))
            ]
            without = room.event("m.room.message", BOB, {}, auth=others)
            cited = room.event("m.room.message", BOB, {}, auth=["$create", *others])
            self.assertEqual(self.check(room, without), version == "12", version)
            self.assertEqual(self.check(room, cited), version != "12", version)

    def test_room_id_names_an_accepted_create_event(self) -> None:
        room, other = usual_room("12"), Room("12")
        event = room.event("m.room.message", BOB, {})
        self.assertFalse(self.check(room, event, create=None))
        self.assertFalse(self.check(room, event, rejected=["$create"]))
        self.assertFalse(self.check(room, event, create=room.state[("m.room.power_levels", "")]))
        foreign = other.event("m.room.create", ALICE, {}, "", event_id="$other", prev=())
        self.assertFalse(self.check(room, event, create=foreign))
        self.assertIsInstance(check_state_dependent(event, lambda *key: foreign), Reject)

    def test_rejected_missing_and_foreign_auth_events(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            event = room.event("m.room.message", BOB, {})
            for event_id in event.auth_event_ids:
                self.assertFalse(self.check(room, event, rejected={event_id}), version)
            self.assertFalse(self.check(room, event, auth_events=room.auth_events(event)[:-1]), version)
            foreign = parse_stored(
                room.state[("m.room.member", BOB)].event_id,
                {**room.state[("m.room.member", BOB)].json, "room_id": "!elsewhere:a.test"},
                room.rules,
            )
            auth_events = [*room.auth_events(event)[:-1], foreign]
            self.assertFalse(self.check(room, event, auth_events=auth_events), version)


class StateDependentTests(SynchronousTestCase):
    def allows(self, room: Room, event: Event) -> bool:
        verdict = check_state_dependent(event, room.lookup)
        power = parse_power_levels(room.lookup("m.room.power_levels", ""), room.create, room.rules)
        self.assertEqual(check_state_dependent(event, room.lookup, power), verdict)
        self.assertIsInstance(verdict, (Accept, Reject))
        return isinstance(verdict, Accept)

    def test_only_members_speak(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            self.assertTrue(self.allows(room, room.event("m.room.message", CHARLIE, {})))
            self.assertFalse(self.allows(room, room.event("m.room.message", EVE, {})))
            for membership in ("invite", "leave", "ban", "knock", None, ["join"]):
                room.put("m.room.member", ALICE, {"membership": membership}, CHARLIE)
                self.assertFalse(self.allows(room, room.event("m.room.message", CHARLIE, {})))

    def test_no_create_event(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            del room.state[("m.room.create", "")]
            event = room.event("m.room.message", BOB, {})
            self.assertIsInstance(check_state_dependent(event, room.lookup), Reject)

    def test_unfederated_rooms(self) -> None:
        for version in ALL_VERSIONS:
            for value, closed in ((False, True), (True, False), (0, False), ("false", False)):
                room = Room(version, {"m.federate": value})
                room.put_member(ALICE, "join")
                room.put("m.room.join_rules", ALICE, {"join_rule": "public"})
                self.assertTrue(self.allows(room, room.member(DAVE, "join")))
                self.assertEqual(self.allows(room, room.member(BOB, "join")), not closed)

    def test_required_power_level(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            for sender, allowed in ((ALICE, True), (BOB, True), (CHARLIE, False)):
                self.assertEqual(self.allows(room, room.event("m.room.topic", sender, {}, "")), allowed)
            room.put_power(
                users={ALICE: 100, BOB: 50}, events={"a": 51, "b": 0}, events_default=10, state_default=60
            )
            for event_type, state_key, allowed in (
                ("a", None, False),
                ("a", "", False),
                ("b", "", True),
                ("c", None, True),
                ("c", "", False),
            ):
                self.assertEqual(self.allows(room, room.event(event_type, BOB, {}, state_key)), allowed)
            self.assertFalse(self.allows(room, room.event("c", CHARLIE, {})))

    def test_state_keys_of_other_users(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            for state_key, allowed in (
                (BOB, True),
                (ALICE, False),
                ("@", False),
                ("x" + ALICE, True),
                ("_" + BOB, True),
            ):
                self.assertEqual(self.allows(room, room.event("some.state", BOB, {}, state_key)), allowed)

    def test_aliases(self) -> None:
        for version in ALL_VERSIONS:
            room, old = usual_room(version), int(version) <= 5
            for state_key in ("b.test", "a.test"):
                expected = state_key == "b.test" if old else True
                self.assertEqual(
                    self.allows(room, room.event("m.room.aliases", BOB, {}, state_key)), expected
                )
            # By the old rule neither power nor membership counts.
            self.assertEqual(self.allows(room, room.event("m.room.aliases", EVE, {}, "e.test")), old)
            self.assertEqual(self.allows(room, room.event("m.room.aliases", CHARLIE, {}, "c.test")), old)
            self.assertEqual(self.allows(room, room.event("m.room.aliases", BOB, {})), not old)

    def test_redactions(self) -> None:
        for version in ALL_VERSIONS:
            room, ruled = usual_room(version), int(version) <= 2
            for sender, event_id, redacts, allowed in (
                (BOB, "$r:b.test", "$x:a.test", True),
                (CHARLIE, "$r:c.test", "$x:c.test", True),
                (CHARLIE, "$r:c.test", "$x:a.test", False),
                (CHARLIE, "$r:c.test", None, False),
                (CHARLIE, "$r", "$x", False),
            ):
                event = room.event("m.room.redaction", sender, {}, event_id=event_id, redacts=redacts)
                self.assertEqual(self.allows(room, event), allowed or not ruled, (version, sender, redacts))
            room.put_power(users={ALICE: 100, BOB: 50}, events={"m.room.redaction": 60})
            event = room.event("m.room.redaction", BOB, {}, event_id="$r:b.test", redacts="$x:b.test")
            self.assertFalse(self.allows(room, event), version)

    def test_redaction_as_state(self) -> None:
        room = usual_room("1")
        room.put_power(users={ALICE: 100, BOB: 50}, redact=60)
        event = room.event("m.room.redaction", BOB, {}, "", redacts="$x:c.test")
        self.assertFalse(self.allows(room, event))

    def test_third_party_offers(self) -> None:
        for version in ALL_VERSIONS:
            room = usual_room(version)
            event = room.event("m.room.third_party_invite", CHARLIE, {}, "token")
            self.assertTrue(
                self.allows(room, event), "invite level 0 is enough, state_default does not count"
            )
            room.put_power(users={ALICE: 100, BOB: 50}, invite=51)
            self.assertFalse(self.allows(room, room.event("m.room.third_party_invite", BOB, {}, "token")))
            self.assertTrue(self.allows(room, room.event("m.room.third_party_invite", ALICE, {}, "token")))
            self.assertFalse(self.allows(room, room.event("m.room.third_party_invite", EVE, {}, "token")))
