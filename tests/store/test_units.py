"""A unit of work that raises takes back what it did, and nothing else: alone in its transaction as among others."""

from __future__ import annotations

from random import Random
from typing import Any
from urllib.parse import quote

from twisted.python.failure import Failure

from homeserver.accounts import account_data
from homeserver.db.errors import Conflict, DatabaseUnavailable, TooLong
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind, load_cursors, load_position, store_cursors
from tests.support.app import SERVER_NAME, TestApp
from tests.support.databases import POSTGRESQL, DatabaseCase, on_each_database

# Text that does not become small where it is compressed.
_LONG = "".join(map(chr, Random(1).choices(range(0x100, 0x800), k=2_000)))


class _NoError(Exception):
    pass


def _note(tx: WriteTx, name: str, *, fails: bool = False) -> str:
    store_cursors(tx, [(name, 0)])
    tx.claim(Kind.PROFILE, -1)
    if fails:
        raise _NoError(name)
    return name


# As the server itself ends the one of two transactions that wait for each other.
_DEADLOCK = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'deadlock_detected'; END $$"


class _Unlucky:
    """A unit of work that meets others some times."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.left = times
        self.error = error

    def __call__(self, tx: WriteTx) -> str:
        done = _note(tx, "unit0")
        if self.left:
            self.left -= 1
            if self.error is not None:
                raise self.error
            tx.script(_DEADLOCK)
        return done


def _noted(tx: Tx) -> set[str]:
    return {name for name in load_cursors(tx) if name.startswith("unit")}


@on_each_database
class Units(DatabaseCase):
    def setUp(self) -> None:
        self.app = TestApp(self, self.new_database())
        self.committer = self.app.app.core.committer
        self.failures = 0
        self.committer.observe_failure = self.count_failure
        self.position = self.app.wait(self.app.database.read(load_position))

    def count_failure(self) -> None:
        self.failures += 1

    def run_together(self, *fails: bool) -> list[Any]:
        """What came of units in one transaction: a name, or what was raised."""
        began = self.committer.batches
        working = [self.committer.work(_note, f"unit{place}", fails=one) for place, one in enumerate(fails)]
        found: list[Any] = []
        for one in working:
            one.addBoth(found.append)
        self.app.wait(self.committer.drained())
        self.assertEqual(1 if len(fails) > 1 or not fails[0] else 0, self.committer.batches - began)
        return [getattr(one.value, "args", ()) if isinstance(one, Failure) else one for one in found]

    def check(self, *names: str) -> None:
        self.assertEqual(set(names), self.app.wait(self.app.database.read(_noted)))
        self.position += len(names)
        self.assertEqual(self.position, self.app.wait(self.app.database.read(load_position)))
        self.assertEqual(self.position, self.app.app.core.changes.position)
        self.assertEqual(0, self.failures, "a refusal is no failure of the database")

    def test_alone(self) -> None:
        self.assertEqual([("unit0",)], self.run_together(True))
        self.check()
        self.assertEqual(["unit0"], self.run_together(False))
        self.check("unit0")

    def test_among_others(self) -> None:
        self.assertEqual(["unit0", ("unit1",), "unit2"], self.run_together(False, True, False))
        self.check("unit0", "unit2")

    def test_what_no_index_holds_fails_alone(self) -> None:
        """However it came past who should have refused it."""
        if self.dialect != POSTGRESQL:
            return  # SQLite's indexes hold everything
        working = [self.committer.work(_note, name) for name in ("unit0", _LONG, "unit2")]
        self.assertEqual("unit0", self.app.wait(working[0]))
        self.assertRaises(TooLong, self.app.wait, working[1])
        self.assertEqual("unit2", self.app.wait(working[2]))
        self.assertEqual({"unit0", "unit2"}, self.app.wait(self.app.database.read(_noted)))

    def test_who_chose_it_is_told_so(self) -> None:
        if self.dialect != POSTGRESQL:
            return
        token = self.app.register("alice")
        self.patch(account_data, "MAX_TYPE_BYTES", 10_000)
        path = f"/_matrix/client/v3/user/@alice:{SERVER_NAME}/account_data/{quote(_LONG)}"
        status, json = self.app.call("PUT", path, {}, token)
        self.assertEqual((413, "M_TOO_LARGE"), (status, json["errcode"]))
        # The server wrote of it, as it should.
        (entry,) = [entry for entry in self.app.log.entries if entry[0] == "error"]
        self.app.log.entries.remove(entry)

    def test_a_transaction_that_gave_way_to_another_is_written_again(self) -> None:
        if self.dialect != POSTGRESQL:
            return  # SQLite has one writer at a time
        working = [self.committer.work(_Unlucky(1)), self.committer.work(_note, "unit1")]
        self.assertEqual(["unit0", "unit1"], [self.app.wait(one) for one in working])
        self.check("unit0", "unit1")

    def test_what_always_meets_others_is_said_not_to_be_stored(self) -> None:
        for unit in (_Unlucky(9), _Unlucky(9, Conflict("others"))):
            if self.dialect == POSTGRESQL or unit.error is not None:
                self.assertRaises(DatabaseUnavailable, self.app.wait, self.committer.work(unit))
