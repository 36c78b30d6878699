"""Which events are power events. # spec: rooms/v12#definitions"""

from twisted.trial.unittest import SynchronousTestCase

from federation.state.v2 import is_power_event
from tests.unit.federation.auth.room import ALICE, BOB, usual_room


class PowerEventTests(SynchronousTestCase):
    def test_by_type_and_membership(self) -> None:
        room = usual_room("12")
        for event_type, sender, membership, state_key, expected in (
            ("m.room.power_levels", ALICE, None, "", True),
            ("m.room.join_rules", ALICE, None, "", True),
            ("m.room.power_levels", ALICE, None, None, False),
            ("m.room.member", ALICE, "ban", BOB, True),
            ("m.room.member", ALICE, "leave", BOB, True),
            ("m.room.member", ALICE, "invite", BOB, False),
            ("m.room.member", ALICE, "join", BOB, False),
            ("m.room.member", BOB, "leave", BOB, False),
            ("m.room.member", BOB, "join", BOB, False),
            ("m.room.member", ALICE, ["ban"], BOB, False),
            ("m.room.member", ALICE, "ban", None, False),
            ("m.room.topic", ALICE, "ban", "", False),
            ("m.room.create", ALICE, "leave", "", False),
        ):
            event = room.event(event_type, sender, {"membership": membership}, state_key)
            self.assertEqual(is_power_event(event), expected, (event_type, sender, membership, state_key))
