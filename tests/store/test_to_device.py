"""An inbox of thousands, read page by page."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import psycopg2

from homeserver.db.engine import open_engine
from homeserver.db.schema.e2ee import to_device
from homeserver.db.statements import POSTGRESQL, rows
from homeserver.store import to_device as module
from homeserver.store.devices import add_device, drop_devices, find_device
from homeserver.store.to_device import Page, ToDevice, Waiting, deliver, load_ends, load_page
from tests.store.test_accounts import StoreCase
from tests.support.databases import DatabaseCase, on_each_database

_INSERT = rows(to_device, "device_nid", "pos", "message", "place")


@on_each_database
class Inboxes(DatabaseCase):
    def setUp(self) -> None:
        self.url = self.new_database()
        self.session = open_engine(self.url).writer()
        self.addCleanup(self.session.close)
        self.addCleanup(self.empty)

    def put(self, messages: Iterable[str]) -> None:
        values = [(1, 2 * number, message, number) for number, message in enumerate(messages, 1)]
        self.run_unit(lambda tx: tx.insert(_INSERT, values))

    def empty(self) -> None:
        """There are no devices in this database, so nothing may wait in it at the end."""
        self.run_unit(lambda tx: tx.script("DELETE FROM to_device"))

    def run_unit(self, unit: Any, *args: Any) -> Any:
        return self.session.run(unit, *args)

    def page(self, since: int, upto: int, most: int) -> Page:
        found: Page = self.run_unit(load_page, 1, since, upto, most)
        return found

    def test_pages_join_without_a_gap(self) -> None:
        self.put(f"message {number}" for number in range(1, 3_001))
        found: list[Waiting] = []
        has_more = True
        while has_more:
            page = self.page(found[-1][0] if found else 0, 5_000, 700)
            found += page.messages
            has_more = page.has_more
        self.assertEqual([(2 * n, b"message %d" % n) for n in range(1, 2_501)], found)

    def test_a_page_ends_at_its_bytes_and_holds_one_message_at_least(self) -> None:
        self.put(f"message {number}" for number in range(1, 10))
        self.patch(module, "PAGE_BYTES", 30)
        self.assertEqual([2, 4, 6], [pos for pos, _ in self.page(0, 5_000, 700).messages])
        self.patch(module, "PAGE_BYTES", 3)
        self.assertEqual(([(2, b"message 1")], True), self.page(0, 5_000, 700))
        self.assertEqual(([(2, b"message 1")], False), self.page(0, 2, 700))

    def test_a_page_is_read_and_not_the_inbox(self) -> None:
        """By the index, and nothing is sorted; also where the database knows nothing of the table yet."""
        self.put(["x" * 1_000] * 10_000)
        text = module._WAITING.text(self.dialect)
        params = {"device_nid": 1, "since": 0, "upto": 20_000, "most": 404}
        arguments = text.arguments(params, self.dialect)
        if self.dialect == POSTGRESQL:
            with closing(psycopg2.connect(self.url)) as connection, connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN {text.sql}", arguments)
                plan = "\n".join(row[0] for row in cursor.fetchall())
        else:
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:"))) as file:
                steps = file.execute(f"EXPLAIN QUERY PLAN {text.sql}", arguments)
                plan = "\n".join(row[3] for row in steps)
        self.assertRegex(plan, "Index Scan using to_device_pkey|SEARCH to_device USING INDEX")
        self.assertNotRegex(plan, "Sort|TEMP B-TREE")


@on_each_database
class Ends(StoreCase):
    def test_a_message_does_not_outlive_its_device(self) -> None:
        """It comes first and the device's end second, in one transaction, where positions are taken last."""
        user_nid = self.new_user("alice")
        for name in ("GONE", "KEPT"):
            self.work(add_device, self.login_of(user_nid, name))
        gone, kept = (self.read(find_device, user_nid, name) for name in ("GONE", "KEPT"))

        def together(tx: Any) -> None:
            # Units that come while a transaction is open go into the next one, together.
            self.world.worker.work(deliver, [ToDevice(user_nid, "*", "{}")])
            self.world.worker.work(drop_devices, user_nid, ["GONE"])

        self.work(together)
        self.assertEqual((0, 0), self.read(load_ends, gone))
        first, last = self.read(load_ends, kept)
        self.assertEqual((first, True), (last, first > 0))
