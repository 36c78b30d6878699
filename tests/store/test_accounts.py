"""The store of accounts, devices and tokens, on both databases."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from homeserver.db.errors import IntegrityViolation
from homeserver.store import devices, tokens, users
from homeserver.store.changes import Kind
from homeserver.store.devices import DevicesChanged, Login, TooManyDevicesError
from homeserver.store.tokens import REPEAT_MS, NewTokens, RefreshRefusedError
from homeserver.store.users import NewAccount, UserInUseError
from tests.support.accounts import WorldCase, now
from tests.support.databases import on_each_database

ALWAYS = 10**15


def key(name: str) -> bytes:
    return name.encode().ljust(32, b".")


class StoreCase(WorldCase):
    def setUp(self) -> None:
        self.world = self.make()

    def work(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        return now(self.world.worker.work(unit, *args, **kwargs))

    def read(self, unit: Any, *args: Any) -> Any:
        return now(self.world.database.read(unit, *args))

    def new_user(self, name: str) -> int:
        user_nid: int = now(self.world.interner.user(f"@{name}:home.example"))
        self.work(users.create_account, NewAccount(user_nid, None, 5))
        return user_nid

    def login_of(self, user_nid: int, device_id: str, display_name: str | None = None) -> Login:
        return Login(user_nid, device_id, self.world.nids.take(), display_name, 7)


@on_each_database
class Accounts(StoreCase):
    def test_one_transaction_makes_a_name_once(self) -> None:
        """Two people want one name in the same batch: the first has it, the second is told, the batch stands."""
        user_nid = now(self.world.interner.user("@alice:home.example"))
        results: list[Deferred[Any]] = []

        def together(tx: Any) -> None:
            # Units that come while a transaction is open go into the next one, together.
            for name in ("first", "second"):
                account = NewAccount(user_nid, name, 5, display_name=name)
                results.append(self.world.worker.work(users.create_account, account))
            results.append(self.world.worker.work(users.set_admin, user_nid, True))

        self.work(together)
        self.assertIsNone(self.successResultOf(results[0]))
        self.failureResultOf(results[1], UserInUseError)
        self.assertIs(True, self.successResultOf(results[2]))
        account = self.read(users.load_account, user_nid)
        self.assertEqual(("first", 1), (account.password_hash, account.admin))
        kinds = [change.kind for change in self.world.changes]
        self.assertEqual([Kind.ACCOUNT, Kind.PROFILE, Kind.ACCOUNT], kinds)

    def test_the_primary_key_decides_between_processes(self) -> None:
        """Another process wrote the account after this one had looked."""
        user_nid = self.new_user("alice")

        def blind(tx: Any) -> None:
            tx.insert(users._INSERT, [(user_nid, None, 5, 0, 0, None, None)])

        with self.assertRaises(IntegrityViolation):
            self.work(blind)

    def test_a_refused_login_takes_the_account_with_it(self) -> None:
        user_nid = now(self.world.interner.user("@alice:home.example"))
        self.patch(devices, "MAX_DEVICES_PER_USER", 0)
        unit = (users.create_account, NewAccount(user_nid, None, 5), self.login_of(user_nid, "D"))
        with self.assertRaises(TooManyDevicesError):
            self.work(*unit, NewTokens(key("a"), None))
        self.assertIsNone(self.read(users.load_account, user_nid))
        self.assertEqual([], self.world.changes)

    def test_pages(self) -> None:
        for name in ("c", "a", "b"):
            self.new_user(name)
        first = self.read(users.list_accounts, "", 2)
        self.assertEqual(["@a:home.example", "@b:home.example"], [account.user_id for account in first])
        rest = self.read(users.list_accounts, first[-1].user_id, 2)
        self.assertEqual(["@c:home.example"], [account.user_id for account in rest])


@on_each_database
class Devices(StoreCase):
    def test_number_is_bounded(self) -> None:
        self.patch(devices, "MAX_DEVICES_PER_USER", 1)
        user_nid = self.new_user("alice")
        self.work(devices.log_in, self.login_of(user_nid, "ONE"), NewTokens(key("a"), None))
        with self.assertRaises(TooManyDevicesError):
            self.work(devices.log_in, self.login_of(user_nid, "TWO"), NewTokens(key("b"), None))
        self.work(devices.log_in, self.login_of(user_nid, "ONE"), NewTokens(key("c"), None))
        self.assertIsNone(self.read(tokens.load_holder, key("a")))
        self.assertIsNotNone(self.read(tokens.load_holder, key("c")))

    def test_what_followers_are_told(self) -> None:
        user_nid = self.new_user("alice")
        login = self.login_of(user_nid, "ONE", "Phone")
        self.work(devices.log_in, login, NewTokens(key("a"), None))
        added = self.world.changes[-1]
        self.assertEqual((Kind.DEVICES, -user_nid, login.device_nid), added[1:4])
        token = (key("a"), self.read(tokens.load_holder, key("a"))[0])
        self.assertEqual(DevicesChanged(user_nid, changed=("ONE",), token=token), added.payload)
        self.work(devices.drop_devices, user_nid, ["ONE", "NONE"])
        removed = DevicesChanged(user_nid, removed=((login.device_nid, "ONE"),))
        self.assertEqual(removed, self.world.changes[-1].payload)
        before = len(self.world.changes)
        self.work(devices.drop_devices, user_nid, ["ONE"])
        self.assertEqual(before, len(self.world.changes))

    def test_dropping_spares_others(self) -> None:
        alice, bob = self.new_user("alice"), self.new_user("bob")
        for user_nid, name in ((alice, "a"), (bob, "b")):
            self.work(devices.log_in, self.login_of(user_nid, "SAME"), NewTokens(key(name), None))
        self.work(devices.drop_all_devices, alice)
        self.assertIsNone(self.read(tokens.load_holder, key("a")))
        self.assertEqual("SAME", self.read(tokens.load_holder, key("b"))[0].device_id)
        self.assertEqual([], self.read(devices.load_devices, alice))


@on_each_database
class LoginTokens(StoreCase):
    def test_old_ones_are_swept(self) -> None:
        user_nid = self.new_user("alice")
        self.work(tokens.store_login_token, key("old"), user_nid, 10, 0)
        self.work(tokens.store_login_token, key("new"), user_nid, 20, 10)
        self.assertIsNone(self.work(tokens.take_login_token, key("old"), 5))
        self.assertEqual(user_nid, self.work(tokens.take_login_token, key("new"), 19))
        self.assertIsNone(self.work(tokens.take_login_token, key("new"), 19))


class Model:
    """What the specification says of refreshing, told in pairs: the last that was used, and one that may follow.

    And what we say: a refresh token gives the same again within the time of a repetition.
    """

    def __init__(self) -> None:
        self.now_ms = 100
        self.current = 0
        self.next: int | None = None
        self.made = 0
        self.repeats: tuple[int, int, int] | None = None  # of which pair, which one, until when

    def valid(self, pair: int) -> bool:
        return pair == self.current or pair == self.next

    def use_access(self, pair: int) -> bool:
        if pair == self.next:
            self.current, self.next = pair, None
        return pair == self.current

    def refresh(self, pair: int) -> int | None:
        if self.repeats is not None and self.repeats[0] == pair and self.now_ms < self.repeats[2]:
            return self.repeats[1]
        if not self.valid(pair):
            return None
        self.made += 1
        self.current, self.next = pair, self.made
        self.repeats = (pair, self.made, self.now_ms + REPEAT_MS)
        return self.made


@on_each_database
class Refreshing(StoreCase):
    def test_any_order_of_uses(self) -> None:
        """Whatever a client does with the tokens that it ever had, the rule of the specification holds."""
        counter = iter(range(10_000))

        @settings(max_examples=60, deadline=None, database=None)
        @given(
            st.lists(
                st.tuples(st.booleans(), st.integers(0, 5), st.sampled_from((0, REPEAT_MS - 1, REPEAT_MS))),
                max_size=14,
            )
        )
        def check(steps: list[tuple[bool, int, int]]) -> None:
            run = f"{next(counter)}-"
            user_nid = self.new_user(f"user{run}")
            model = Model()
            login = self.login_of(user_nid, "D")
            self.work(devices.log_in, login, self.pair(run, 0))
            for is_refresh, back, passed_ms in steps:
                pair, wanted = max(0, model.made - back), model.made + 1
                model.now_ms += passed_ms
                if is_refresh:
                    told = self.refresh(run, pair, wanted, model.now_ms)
                    self.assertEqual(model.refresh(pair), told, steps)
                else:
                    self.assertEqual(model.use_access(pair), self.use_access(run, pair), steps)

        check()

    def pair(self, run: str, number: int) -> NewTokens:
        return NewTokens(key(f"{run}a{number}"), ALWAYS, key(f"{run}r{number}"), None)

    def refresh(self, run: str, pair: int, wanted: int, now_ms: int) -> int | None:
        """Which pair it gives: their numbers are the seeds here."""
        new = self.pair(run, wanted)
        try:
            used = self.work(tokens.rotate_tokens, key(f"{run}r{pair}"), b"%d" % wanted, new, now_ms)
        except RefreshRefusedError:
            return None
        self.assertEqual(ALWAYS, used.access_expires_ts_ms)
        return int(used.seed)

    def use_access(self, run: str, pair: int) -> bool:
        found = self.read(tokens.load_holder, key(f"{run}a{pair}"))
        if found is None:
            return False
        holder, ends_older = found
        if ends_older:
            unit = (key(f"{run}a{pair}"), holder.user_nid, holder.device_nid, holder.generation)
            self.work(tokens.drop_older_tokens, *unit)
        return True
