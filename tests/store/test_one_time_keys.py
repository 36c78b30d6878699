"""A one-time key is given out once, whoever asks at the same time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any

from sqlalchemy import select

from homeserver.db.engine import open_engine
from homeserver.db.errors import Conflict, DatabaseError
from homeserver.db.schema.e2ee import one_time_keys
from homeserver.db.statements import statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.devices import load_device, rename_device
from homeserver.store.key_claims import Wanted, claim_keys
from homeserver.store.one_time_keys import NewKey, load_keys_left, put_one_time_keys
from tests.api.keys import KeysCase
from tests.api.rooms import ALICE, V3
from tests.support.databases import POSTGRESQL, on_each_database
from tests.support.waiting import somebody_waits

ALGORITHM = "signed_curve25519"
_NUMBERS = statement(select(one_time_keys.c.number).order_by(one_time_keys.c.number))


@on_each_database
class Claims(KeysCase):
    """Two processes on one database."""

    def address(self) -> str:
        return self.url

    def setUp(self) -> None:
        self.url = self.new_database()
        super().setUp()
        interner = self.app.app.core.interner
        device_id = self.app.ok("GET", f"{V3}/account/whoami", None, self.alice)["device_id"]
        nid = interner.known_user(ALICE)
        assert nid is not None
        self.user_nid, self.device_id = nid, device_id
        self.device_nid = self.app.wait(self.app.database.read(_device_nid, nid, device_id))

    def new_device(self, device_id: str) -> Any:
        self.device("alice", device_id)
        return self.app.wait(self.app.database.read(_device_nid, self.user_nid, device_id))

    def put(self, count: int, device_nid: int | None = None, *fallbacks: NewKey, text: str = '"x"') -> None:
        keys = [NewKey(ALGORITHM, f"k{number:03}", text) for number in range(count)]
        work = self.app.app.core.committer.work
        nid = self.device_nid if device_nid is None else device_nid
        self.app.wait(work(put_one_time_keys, self.user_nid, nid, keys, fallbacks))

    def take_from(self, device_id: str) -> Callable[[Tx], list[str]]:
        return lambda tx: self.take(tx, device_id)

    def take(self, tx: Tx, *device_ids: str) -> list[str]:
        wanted = [Wanted(self.user_nid, one, ALGORITHM) for one in device_ids or (self.device_id,)]
        return [one.name for one in claim_keys(WriteTx(tx), wanted) if one is not None]

    def test_threads(self) -> None:
        self.put(60)
        found: list[str] = []

        def run() -> None:
            session = open_engine(self.url).writer()
            try:
                for _ in range(20):
                    found.extend(session.run(self.take))
            finally:
                session.close()

        threads = [Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([f"{ALGORITHM}:k{number:03}" for number in range(60)], sorted(found))

    def beside(
        self,
        unit: Callable[[Tx], object],
        then: Callable[[Tx], object] = lambda _: None,
        *,
        fails: bool = False,
        claimed: Sequence[str] = (),
    ) -> list[str | Exception]:
        """What a claim of another process comes to that waits for a transaction to end, or to fail.

        What that one does ``then`` is done while the claim waits.
        """
        first, second, third = (open_engine(self.url).writer() for _ in range(3))
        found: list[str | Exception] = []

        def claim() -> None:
            try:
                found.extend(second.run(self.take, *claimed))
            except DatabaseError as error:
                found.append(error)

        thread = Thread(target=claim)

        def outer(tx: Tx) -> None:
            unit(tx)
            thread.start()
            while not third.run(somebody_waits):
                pass
            then(tx)
            if fails:
                raise ZeroDivisionError

        try:
            with contextlib.suppress(ZeroDivisionError):
                first.run(outer)
        finally:
            thread.join()
            for session in (first, second, third):
                session.close()
        return found

    def test_who_comes_while_another_takes_a_key_waits(self) -> None:
        if self.dialect != POSTGRESQL:
            return  # SQLite has one writer at a time
        self.put(3)
        self.assertEqual([f"{ALGORITHM}:k001"], self.beside(self.take))

        self.assertEqual([f"{ALGORITHM}:k002"], self.beside(self.take, fails=True))

    def test_keys_that_came_while_one_waited_are_there_the_next_time(self) -> None:
        if self.dialect != POSTGRESQL:
            return
        self.put(1)

        def renew(tx: Tx) -> None:
            self.take(tx)
            keys = [NewKey(ALGORITHM, "new", '"x"')]
            put_one_time_keys(WriteTx(tx), self.user_nid, self.device_nid, keys, [])
            load_keys_left(tx, self.device_nid)  # so that nothing still waits to be sent

        (error,) = self.beside(renew)
        self.assertIsInstance(error, Conflict)
        self.assertEqual([f"{ALGORITHM}:new"], self.app.wait(self.app.app.core.committer.work(self.take)))

    def test_rows_of_keys_that_were_given_out_go_with_the_next_upload(self) -> None:
        self.put(3)
        self.assertEqual(["k000"], self.taken(1))
        self.assertEqual([0, 1, 2], self.app.wait(self.app.database.read(_numbers)))
        self.put(1, text='"y"')  # k000 is given out: its name is free again
        self.assertEqual([1, 2, 3], self.app.wait(self.app.database.read(_numbers)))
        self.assertEqual(["k001", "k002", "k000"], self.taken(4))

    def test_a_key_that_was_given_out_is_known_when_its_upload_comes_again(self) -> None:
        self.put(3)
        self.assertEqual(["k000"], self.taken(1))
        for _ in range(2):
            self.put(3)
            self.assertEqual([0, 1, 2], self.app.wait(self.app.database.read(_numbers)))
        self.assertEqual(["k001"], self.taken(1))
        self.put(1)  # what it does not bring goes
        self.assertEqual([0, 2], self.app.wait(self.app.database.read(_numbers)))
        self.assertEqual(["k002"], self.taken(3))

    def taken(self, most: int) -> list[str]:
        """The keys that so many claims are given."""
        work = self.app.app.core.committer.work
        names = [name for _ in range(most) for name in self.app.wait(work(self.take))]
        return [name.removeprefix(f"{ALGORITHM}:") for name in names]

    def take_in_one_order(self, keys: int, *fallbacks: NewKey) -> list[str | Exception]:
        """What claims of two devices come to while another transaction takes first a key of the older, then of the newer:
        in whichever order the rows are in their tables, and the devices are named."""
        found: list[str | Exception] = []
        for turn in range(8):
            names = [f"{turn}A", f"{turn}B"]
            nids = [self.new_device(name) for name in names]
            for nid in nids[:: 1 if turn % 2 else -1]:
                self.put(keys, nid, *fallbacks)
            if turn % 4 < 2:
                self.app.wait(
                    self.app.app.core.committer.work(rename_device, self.user_nid, names[0], "moved")
                )
            found += self.beside(
                self.take_from(names[0]),
                self.take_from(names[1]),
                claimed=names if turn < 4 else names[::-1],
            )
        return found

    def test_keys_of_several_devices_are_taken_in_one_order(self) -> None:
        if self.dialect == POSTGRESQL:
            self.assertEqual([f"{ALGORITHM}:k001"] * 16, self.take_in_one_order(3))

    def test_fallback_keys_of_several_devices_are_used_in_one_order(self) -> None:
        if self.dialect == POSTGRESQL:
            fallback = NewKey(ALGORITHM, "fallback", '"x"')
            self.assertEqual([f"{ALGORITHM}:fallback"] * 16, self.take_in_one_order(0, fallback))

    def test_a_claim_that_is_rolled_back_took_nothing(self) -> None:
        self.put(1)
        session = open_engine(self.url).writer()
        self.addCleanup(session.close)

        def fail(tx: Tx) -> None:
            self.assertEqual(1, len(self.take(tx)))
            raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, session.run, fail)
        self.assertEqual([f"{ALGORITHM}:k000"], session.run(self.take))


def _numbers(tx: Tx) -> list[Any]:
    return tx.column(_NUMBERS)


def _device_nid(tx: Tx, user_nid: int, device_id: str) -> Any:
    device = load_device(tx, user_nid, device_id)
    assert device is not None
    return device.nid
