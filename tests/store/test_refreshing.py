"""One refresh token, used by two processes at the same time."""

from __future__ import annotations

from threading import Thread

from homeserver.db.engine import open_engine
from homeserver.db.tx import Tx, WriteTx
from homeserver.store import devices, tokens
from homeserver.store.devices import Login
from homeserver.store.tokens import NewTokens, Used
from tests.store.test_accounts import ALWAYS, StoreCase, key
from tests.support.accounts import AccountsWorld, default_config
from tests.support.databases import POSTGRESQL, on_each_database
from tests.support.waiting import somebody_waits


@on_each_database
class TwoProcesses(StoreCase):
    def setUp(self) -> None:
        self.url = self.new_database()
        self.world = AccountsWorld(self.url, default_config())
        self.addCleanup(self.world.stop)
        self.user_nid = self.new_user("alice")
        login = Login(self.user_nid, "PHONE", self.world.nids.take(), None, 7)
        self.work(devices.log_in, login, NewTokens(key("access"), ALWAYS, key("refresh"), None))

    def refresh(self, tx: Tx, number: int) -> Used:
        new = NewTokens(key(f"access{number}"), ALWAYS, key(f"refresh{number}"), None)
        return tokens.rotate_tokens(WriteTx(tx), key("refresh"), b"%d" % number, new, 100 + number)

    def test_both_get_what_the_first_got(self) -> None:
        found: list[Used] = []

        def run(number: int) -> None:
            session = open_engine(self.url).writer()
            try:
                found.append(session.run(self.refresh, number))
            finally:
                session.close()

        threads = [Thread(target=run, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(4, len(found))
        self.assertEqual(1, len(set(found)))
        seed = int(found[0].seed)
        known = [number for number in range(4) if self.read(tokens.load_holder, key(f"access{number}"))]
        self.assertEqual([seed], known)

    def test_who_comes_while_another_refreshes_waits(self) -> None:
        if self.dialect != POSTGRESQL:
            return  # SQLite has one writer at a time
        first, second, third = (open_engine(self.url).writer() for _ in range(3))
        found: list[Used] = []
        thread = Thread(target=lambda: found.append(second.run(self.refresh, 2)))

        def outer(tx: Tx) -> Used:
            used = self.refresh(tx, 1)
            thread.start()
            while thread.is_alive() and not third.run(somebody_waits):
                pass
            return used

        try:
            used = first.run(outer)
        finally:
            thread.join()
            for session in (first, second, third):
                session.close()
        self.assertEqual([used], found)
        self.assertEqual(b"1", used.seed)
        self.assertIsNone(self.read(tokens.load_holder, key("access2")))
