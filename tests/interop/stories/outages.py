"""One side is away for a while, or they cannot reach each other: afterwards both have everything and agree."""

from __future__ import annotations

from tests.interop.client import Client
from tests.interop.pair import Side
from tests.interop.stories.base import VERSIONS, Story

TOPIC = "m.room.topic"
MISSED = 60  # more than one transaction holds


class Outages(Story):
    """See the module."""

    def test_the_other_server_was_down(self) -> None:
        self._catch_up(self.there, self.alice, self.bob)

    def test_the_resident_server_was_down(self) -> None:
        self._catch_up(self.here, self.bob, self.alice)

    def _catch_up(self, side: Side, speaker: Client, listener: Client) -> None:
        room_id = self.meet()
        self.exchange(room_id, "Before")
        side.process.stop()
        listener.close()
        try:
            said = [speaker.send(room_id, f"missed {number}") for number in range(MISSED)]
        finally:
            side.process.start()
        if self.pair.other(side).is_synapse:
            # Synapse tries again within the hour, or at a sign of life. CHAOS tries again within a second by itself.
            listener.send(room_id, "A sign of life")
        listener.sees(room_id, said[-1])
        self.exchange(room_id, "After")
        self.agree(room_id)
        read = [
            event["event_id"]
            for event in reversed(listener.history(room_id))
            if event["content"].get("body", "").startswith("missed")
        ]
        self.assertEqual(read, said)


class Partitions(Story):
    """Both sides go on while they cannot reach each other."""

    versions = VERSIONS

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(self._heal)

    def _part(self) -> None:
        self.here.gate.shut()
        self.there.gate.shut()

    def _heal(self) -> None:
        self.here.gate.open()
        self.there.gate.open()

    def test_messages_and_state_of_both_sides(self) -> None:
        """What both changed is resolved to the same on both."""
        levels = {"users_default": 50}
        room_id = self.meet(power_level_content_override=levels)
        self.exchange(room_id, "Before")
        self._part()
        said = []
        for client in (self.alice, self.bob):
            for number in range(3):
                said.append(client.send(room_id, f"{number} of {client.user_id}"))
            client.put_state(room_id, TOPIC, {"topic": f"Of {client.user_id}"})
            client.put_state(room_id, "im.chaos.test", {"by": client.user_id}, client.user_id)
        self._heal()
        for client, other in self.both_ways():
            said.append(client.send(room_id, "After"))
            other.sees(room_id, said[-1])
        self.agree(room_id)
        state = self.alice.whole_state(room_id)
        self.assertIn(("im.chaos.test", self.alice.user_id), state)
        self.assertIn(("im.chaos.test", self.bob.user_id), state)
        events = [event["event_id"] for event in self.bob.history(room_id)]
        self.assertEqual([one for one in said if one not in events], [])

    def test_a_ban_against_what_the_banned_did_meanwhile(self) -> None:
        """The resident bans bob, who changes the topic at the same time: the ban stands on both sides."""
        room_id = self.meet(power_level_content_override={"users_default": 50})
        carol = self.register(self.there, "carol")
        carol.join(room_id, via=self.here.server_name)
        self.alice.sees_member(room_id, carol.user_id, "join")
        self._part()
        self.alice.ok("POST", f"/_matrix/client/v3/rooms/{room_id}/ban", {"user_id": self.bob.user_id})
        self.bob.put_state(room_id, TOPIC, {"topic": "Of the banned"})
        self._heal()
        for client, other in ((self.alice, carol), (carol, self.alice)):
            other.sees(room_id, client.send(room_id, "After"))
        self.agree(room_id, self.alice, carol, history=False)
        member = carol.whole_state(room_id)["m.room.member", self.bob.user_id]
        self.assertEqual(member["content"]["membership"], "ban")
