"""Transactions of other servers. spec: server-server-api#transactions"""

from __future__ import annotations

from typing import Any

from tests.api.receiving import ReceiveCase
from tests.api.rooms import V3
from tests.support.databases import on_each_database
from tests.support.peer import FEDERATION


@on_each_database
class Transactions(ReceiveCase):
    def test_a_join_and_messages(self) -> None:
        joined = self.enter()
        said = [self.room.say(str(number)) for number in range(50)]
        self.assert_taken(self.peer.push(self.app, *said), *said)
        self.assertEqual([event.event_id for event in (joined, *said)], self.timeline()[-51:])
        self.assertEqual("join", self.state("m.room.member", self.peer.user())["membership"])
        self.assertEqual(0, self.staged())
