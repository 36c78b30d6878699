"""A one-time key is given out once, whoever asks at the same time."""

from __future__ import annotations

from threading import Thread
from typing import Any

from homeserver.db.engine import open_engine
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.devices import load_device
from homeserver.store.one_time_keys import NewKey, Wanted, claim_keys, put_one_time_keys
from tests.api.keys import KeysCase
from tests.api.rooms import ALICE, V3
from tests.support.databases import POSTGRESQL, on_each_database

ALGORITHM = "signed_curve25519"


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

    def put(self, count: int) -> None:
        keys = [NewKey(ALGORITHM, f"k{number:03}", '"x"') for number in range(count)]
        work = self.app.app.core.committer.work
        self.app.wait(work(put_one_time_keys, self.user_nid, self.device_nid, keys, []))

    def take(self, tx: Tx) -> list[str]:
        found = claim_keys(WriteTx(tx), [Wanted(self.user_nid, self.device_id, ALGORITHM)])
        return [one.name for one in found if one is not None]

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

    def test_a_key_that_another_is_taking_is_passed_over(self) -> None:
        if self.dialect != POSTGRESQL:
            return  # SQLite has one writer at a time
        self.put(2)
        first, second = (open_engine(self.url).writer() for _ in range(2))
        self.addCleanup(first.close)
        self.addCleanup(second.close)
        inner: list[str] = []

        def outer(tx: Tx) -> list[str]:
            found = self.take(tx)
            inner.extend(second.run(self.take))
            inner.extend(second.run(self.take))
            return found

        self.assertEqual([f"{ALGORITHM}:k000"], first.run(outer))
        self.assertEqual([f"{ALGORITHM}:k001"], inner)

    def test_a_claim_that_is_rolled_back_took_nothing(self) -> None:
        self.put(1)
        session = open_engine(self.url).writer()
        self.addCleanup(session.close)

        def fail(tx: Tx) -> None:
            self.assertEqual(1, len(self.take(tx)))
            raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, session.run, fail)
        self.assertEqual([f"{ALGORITHM}:k000"], session.run(self.take))


def _device_nid(tx: Tx, user_nid: int, device_id: str) -> Any:
    device = load_device(tx, user_nid, device_id)
    assert device is not None
    return device.nid
