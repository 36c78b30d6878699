"""Connections of sliding sync that their clients have begun anew. proposal: MSC4186 (connections)"""

from __future__ import annotations

from sqlalchemy import select

from homeserver.db.schema.sync import sliding_connections
from homeserver.db.statements import statement
from homeserver.db.tx import WriteTx
from homeserver.store.sliding import sweep_connections
from tests.api.test_sliding_sync import SlidingCase, one_list
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.sync import SyncApp

_STATES = statement(select(sliding_connections.c.state))


def _sizes(tx: WriteTx) -> list[int]:
    return [len(state) for (state,) in tx.all(_STATES)]


class _Case(DatabaseCase, SlidingCase):
    def setUp(self) -> None:
        self.app = SyncApp(self, database=self.new_database())
        self.alice = self.app.register("alice")
        self.bob = self.app.register("bob")


@on_each_database
class EndedTests(_Case):
    def test_who_still_waits_does_not_bring_it_back(self) -> None:
        self.room()
        waiting = self.poll(one_list(), self.ask(one_list())["pos"])
        pos = self.ask(one_list())["pos"]
        other = self.room("other")
        found = self.app.wait(waiting)
        self.assertEqual((400, "M_UNKNOWN_POS"), (found.status, found.json.get("errcode")))
        self.app.restart()
        self.assertEqual([other], list(self.ask(one_list(), pos)["rooms"]))

    def test_nor_one_that_was_forgotten(self) -> None:
        self.room()
        waiting = self.poll(one_list(), self.ask(one_list())["pos"])
        self.app.wait(self.app.app.core.committer.work(sweep_connections, 2**60, 100))
        self.room("other")
        found = self.app.wait(waiting)
        self.assertEqual((400, "M_UNKNOWN_POS"), (found.status, found.json.get("errcode")))
        self.assertEqual([], self.app.wait(self.app.app.core.committer.work(_sizes)))
