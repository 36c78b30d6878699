"""A crowd whose members live on several servers does everything at once, while servers are killed and cut off.

In the end the servers agree on every room that they share, every member was told what is so, nobody was told what came
after they had left, and nothing failed.

`CHAOS_CRASH_SEED` draws other acts, `CHAOS_CRASH_ACTS` how many of each member (40).
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from random import Random

from tests.crash.crowd import Shared, raise_what_failed
from tests.crash.load import CLIENT, Server
from tests.crash.settling import Settling
from tests.crash.strangers import Stranger
from tests.crash.test_kill import SEED
from tests.interop.authority import Authority
from tests.interop.gate import Gate
from tests.support.databases import SQLITE, DatabaseCase, no_schema, on_each_database

SERVERS = 3
MEMBERS = 3  # of each server
TROUBLES = 4
ACTS = int(os.environ.get("CHAOS_CRASH_ACTS", "40"))


@on_each_database
class CrowdOfServers(DatabaseCase):
    """See the module."""

    def test_everything_at_once(self) -> None:
        self.random = Random(SEED)
        self.servers: list[Server] = []
        self.gates: list[Gate] = []
        self.shared = Shared(passing=frozenset({502, 503, 504}))
        folder = Path(self.mktemp()).absolute()
        authority = Authority(folder / "authority")
        for number in range(SERVERS):
            self.add_server(folder / f"server{number}", authority, f"127.0.0.{60 + number}")
        names = [server.name for server in self.servers]
        self.members = [
            self.add(server, f"user{number}", names) for server in self.servers for number in range(MEMBERS)
        ]
        problems = asyncio.run(self.live())
        self.assertEqual(problems, [])
        self.assertEqual(self.shared.failures, [])
        for server in self.servers:
            self.assertEqual(server.process.stop(), 0, "a clean end")
            server.acknowledged = {
                event_id: text
                for event_id, text in self.shared.acknowledged.items()
                if text.partition(" ")[0].endswith(f":{server.name}")
            }
            self.assertEqual(server.judge(), [], server.name)
            self.assertEqual(server.complaints(), [], server.name)
        refused = {status for status in self.shared.statuses if status >= 400}
        self.assertLessEqual(refused, {400, 403, 404, 409, 429, *self.shared.passing}, self.shared.statuses)
        self.assertGreater(self.shared.statuses[200], len(self.members) * ACTS // 3)

    def add_server(self, folder: Path, authority: Authority, address: str) -> None:
        wire = authority.issue(address)
        database = "sqlite" if self.dialect == SQLITE else self.new_database(no_schema)
        server = Server(folder, database, wire)
        gate = Gate(wire.address, wire.port, wire.inner_port)
        self.addCleanup(gate.end)
        self.addCleanup(server.process.kill)
        server.process.start()
        self.servers.append(server)
        self.gates.append(gate)

    def add(self, server: Server, name: str, servers: list[str]) -> Stranger:
        token = server.register(name)
        me = server.ok("GET", f"{CLIENT}/account/whoami", None, token)
        self.shared.people.append(me["user_id"])
        self.shared.devices[me["user_id"]] = me["device_id"]
        random = Random(self.random.random())
        return Stranger(self.shared, server.process.port, me["user_id"], token, random, servers)

    # --- what happens ------------------------------------------------------------------------------------------------

    async def live(self) -> list[str]:
        """Everything happens, with troubles in between; what is wrong in the end."""
        for member in self.members:
            await member.upload(member.token, self.shared.devices[member.user_id])
        for member in self.members[::2]:
            await member.create()
        listening = [
            asyncio.create_task(one)
            for each in self.members
            for one in (each.listen(), each.listen_sliding())
        ]
        acting = [asyncio.create_task(each.act(ACTS)) for each in self.members]
        self.tasks = [*listening, *acting]
        for number in range(1, TROUBLES + 1):
            await self.progress(number * len(self.members) * ACTS // (TROUBLES + 1))
            await self.trouble()
        await asyncio.gather(*acting)
        settling = Settling(self.servers, self.members, self.shared)
        problems = await settling.settle()
        self.shared.stopping = True
        await asyncio.gather(*listening)
        return problems or await settling.find_differences()

    def done(self) -> int:
        return sum(each.done for each in self.members)

    async def progress(self, wanted: int) -> None:
        """Wait until so much is done, or nothing more is to be done before the trouble is over."""
        before, since_s = self.done(), time.monotonic()
        while self.done() < min(wanted, len(self.members) * ACTS):
            await asyncio.sleep(0.01)
            raise_what_failed(self.tasks)
            if self.done() > before:
                before, since_s = self.done(), time.monotonic()
            elif time.monotonic() - since_s > 2:
                return

    async def trouble(self) -> None:
        """A server is killed, or servers are cut off from others; and after a while all is well again."""
        number = self.random.randrange(SERVERS)
        if self.random.random() < 0.5:
            await asyncio.to_thread(self.servers[number].process.kill)
            await self.progress(self.done() + self.random.randrange(20))
            await asyncio.to_thread(self.servers[number].process.start)
            return
        cut = self.random.sample(self.gates, self.random.randint(1, SERVERS))
        for gate in cut:
            await asyncio.to_thread(gate.shut)
        await self.progress(self.done() + self.random.randrange(60))
        for gate in cut:
            await asyncio.to_thread(gate.open)
