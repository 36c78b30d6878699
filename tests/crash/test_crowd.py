"""A crowd that does everything at once, while the server is killed: nothing fails, nothing is lost, and what each client
has been told in pieces is what a new one is told at once, by both kinds of sync.

`CHAOS_CRASH_SEED` draws other acts, `CHAOS_CRASH_ACTS` how many of each member (60).
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from random import Random

from tests.crash.crowd import Member, Shared, raise_what_failed
from tests.crash.load import CLIENT, PATIENCE_S, Server
from tests.crash.test_kill import SEED
from tests.crash.views import find_differences
from tests.support.databases import SQLITE, DatabaseCase, no_schema, on_each_database

MEMBERS = 10
ROOMS = 4
KILLS = 2
ACTS = int(os.environ.get("CHAOS_CRASH_ACTS", "60"))


@on_each_database
class Crowd(DatabaseCase):
    """See the module."""

    def test_everything_at_once(self) -> None:
        database = "sqlite" if self.dialect == SQLITE else self.new_database(no_schema)
        server = Server(Path(self.mktemp()).absolute(), database)
        self.addCleanup(server.process.kill)
        server.process.start()
        random = Random(SEED)
        shared = Shared()
        members = [self.add(server, shared, f"user{number}", random) for number in range(MEMBERS)]
        shared.rooms += [server.create_room(member.token) for member in members[:ROOMS]]
        found = asyncio.run(self.live(server, shared, members))
        self.assertEqual(found, [])
        self.assertEqual(shared.failures, [])
        self.assertEqual(server.process.stop(), 0, "a clean end")
        server.acknowledged = shared.acknowledged
        self.assertEqual(server.judge(), [])
        refused = {status for status in shared.statuses if status >= 400}
        self.assertLessEqual(refused, {400, 403, 404, 429}, shared.statuses)
        self.assertGreater(shared.statuses[200], MEMBERS * ACTS // 3)
        self.assertEqual(server.complaints(), [])

    def add(self, server: Server, shared: Shared, name: str, random: Random) -> Member:
        """A member with a device that has keys."""
        token = server.register(name)
        me = server.ok("GET", f"{CLIENT}/account/whoami", None, token)
        shared.people.append(me["user_id"])
        shared.devices[me["user_id"]] = me["device_id"]
        return Member(shared, server.process.port, me["user_id"], token, Random(random.random()))

    async def live(self, server: Server, shared: Shared, members: list[Member]) -> list[str]:
        """Everything happens, with kills in between; how the views differ in the end."""
        listening = [
            asyncio.create_task(one) for each in members for one in (each.listen(), each.listen_sliding())
        ]
        acting = [asyncio.create_task(each.act(ACTS)) for each in members]
        for number in range(1, KILLS + 1):
            while sum(each.done for each in members) < number * MEMBERS * ACTS // (KILLS + 1):
                await asyncio.sleep(0.01)
                raise_what_failed([*acting, *listening])
            await asyncio.to_thread(server.process.kill)
            await asyncio.to_thread(server.process.start)
        await asyncio.gather(*acting)
        shared.stopping = True
        await asyncio.gather(*listening)
        deadline_s = time.monotonic() + PATIENCE_S
        # What follows an answer (a new name in every room, say) takes its time.
        while found := [one for each in members for one in await find_differences(each)]:
            if time.monotonic() > deadline_s:
                return found
        return []
